"""Looks that may hang, taken from within the event loop.

Most looks into /proc take some µs and are taken right where they are needed. A few wait for a lock
that a program in execve(2) holds until we have answered it (see `proc`). Such a look is taken by a
thread beside the loop, and the loop waits a moment for what it says. If it says nothing in time,
the thread is left to itself and ends when its look does.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["PATIENCE_SECONDS", "promptly"]

PATIENCE_SECONDS = 0.2
"""How long the loop waits. The longest of the looks takes 0.1 s, with 1,000 descendants."""

MOST = 64
"""Threads that hang. With so many no look is taken any more, until one of them has ended."""

T = TypeVar("T")


class _Looker:
    """A thread that takes one look after another."""

    def __init__(self) -> None:
        self._looks: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._said: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="looker", daemon=True)
        self._thread.start()

    @property
    def is_there(self) -> bool:
        return self._thread.is_alive()

    def look(self, look: Callable[[], object]) -> object:
        """What `look()` gives. Raises queue.Empty if it takes too long; it is the last one then."""
        self._looks.put(look)
        for _ in range(2):  # one may pass while the machine is paused, and we are with it
            with suppress(queue.Empty):
                return self._said.get(timeout=PATIENCE_SECONDS / 2)
        self._looks.put(None)
        raise queue.Empty

    def _run(self) -> None:
        while (look := self._looks.get()) is not None:
            try:
                said = look()
            except OSError:
                said = None
            self._said.put(said)


_idle: list[_Looker] = []
_hanging: list[_Looker] = []


def promptly(look: Callable[[], T]) -> T | None:
    """What `look()` gives; None if it takes too long, or raises OSError. 40 µs more than the look
    itself. A thread other than that of the event loop takes the look by itself, and may hang."""
    if threading.current_thread() is not threading.main_thread():
        with suppress(OSError):
            return look()
        return None
    _hanging[:] = [looker for looker in _hanging if looker.is_there]
    if len(_hanging) >= MOST:
        return None
    looker = _idle.pop() if _idle else _Looker()
    try:
        said = looker.look(look)
    except queue.Empty:
        _hanging.append(looker)
        return None
    _idle.append(looker)
    return said  # type: ignore[return-value]
