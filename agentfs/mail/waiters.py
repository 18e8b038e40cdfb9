"""The calls to make when mail comes, by the name of the mailbox."""

from __future__ import annotations

from collections.abc import Callable

from agentfs.base.wait_list import WaitList

__all__ = ["Waiters"]

Call = Callable[[], object]


class Waiters:
    """Calls for every message, and lines of calls that want one message each.
    `waiting(name)` says how many messages wait in a mailbox."""

    def __init__(self, waiting: Callable[[str], int]) -> None:
        self._count = waiting
        self._listeners: dict[str, list[Call]] = {}
        self._lines: dict[str, WaitList] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._listeners or name in self._lines

    def is_parked(self, name: str) -> bool:
        """Whether a call of the line of `name` is still to be made."""
        line = self._lines.get(name)
        return line is not None and len(line) > 0

    def listen(self, name: str, call: Call) -> Callable[[], None]:
        """Call `call()` whenever mail comes to wait for `name`, or its mailbox is removed, until
        the function that is returned is called."""
        self._listeners.setdefault(name, []).append(call)

        def unsubscribe() -> None:
            calls = self._listeners.get(name, [])
            if call in calls:
                calls.remove(call)
            if not calls:
                self._listeners.pop(name, None)

        return unsubscribe

    def line(self, name: str) -> WaitList:
        """Those who wait for mail of `name`, each for one message. One that joins them leaves them,
        and then calls `hand_on`."""
        return self._lines.setdefault(name, WaitList())

    def hand_on(self, name: str) -> None:
        """Make the next call of the line if more mail waits than those that were made can take."""
        line = self._lines.get(name)
        if line is None:
            return
        if line.idle:
            del self._lines[name]
            return
        line.call(self._count(name))

    def wake(self, name: str, *, everybody: bool = False) -> None:
        """Mail came, or the mailbox is gone (`everybody`)."""
        for call in tuple(self._listeners.get(name, ())):
            call()
        if everybody and name in self._lines:
            self._lines[name].call_everybody()
        self.hand_on(name)
