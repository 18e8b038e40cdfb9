"""Calls that wait in the tree, by the process that made them: for mail, an answer, room, an end."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

from agentfs.store.ground import Ground

__all__ = ["Wait", "Waits"]


class Wait(NamedTuple):
    """One call that waits since `since`, wall clock. `kind` is a word, `detail` says on what."""

    kind: str
    since: float
    detail: str


class Waits:
    """Those of the moment. `changed(pid)` is called with each that begins or ends."""

    def __init__(self, ground: Ground, changed: Callable[[int], object]) -> None:
        self._clock = ground.clock
        self._changed = changed
        self._numbers = itertools.count()
        self._by_pid: dict[int, dict[int, Wait]] = {}

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests."""
        return {"waiting": len(self._by_pid)}

    def begin(self, pid: int | None, kind: str, detail: str = "") -> Callable[[], None]:
        """A call of process `pid` waits from now on; the result ends that, once."""
        if pid is None:
            return lambda: None
        number = next(self._numbers)
        self._by_pid.setdefault(pid, {})[number] = Wait(kind, self._clock.now(), detail)
        self._changed(pid)

        def end() -> None:
            mine = self._by_pid.get(pid)
            if mine is None or mine.pop(number, None) is None:
                return
            if not mine:
                del self._by_pid[pid]
            self._changed(pid)

        return end

    def of(self, pid: int) -> list[Wait]:
        """What process `pid` waits for, the longest wait first."""
        return list(self._by_pid.get(pid, {}).values())
