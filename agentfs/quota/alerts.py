"""What a process was told about its budgets and limits: warned once, told once that it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from agentfs.model.process import Process
from agentfs.process.events import ResourceExceeded
from agentfs.quota.events import ResourceRefused, ResourceWarning
from agentfs.store.event import Event
from agentfs.store.event_log import EventLog
from agentfs.store.records import Records
from agentfs.store.store import Store

__all__ = ["KIND", "WARN", "Counts", "Marks"]

KIND = "marks"
"""The kind of their records; the key is the pid."""

WARN = 0.8
"""The part of a budget or limit from which on there is a warning (design/kernel.md)."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many warnings a process had, how many of its uses were refused, and of which resources
    it has been warned and told that they are exceeded, and not been below `WARN` since."""

    warned: int = 0
    refused: int = 0
    near: tuple[str, ...] = ()
    over: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        return {slot: getattr(self, slot) for slot in self.__slots__}


class Marks:
    """Durable, so that `once` holds across a restart of the daemon; gone with the process."""

    def __init__(self, store: Store, events: EventLog) -> None:
        self._events = events
        self._counts = Records(store, KIND, _read, Counts.record)
        self._counts.load()

    def __len__(self) -> int:
        return len(self._counts)

    def __iter__(self) -> Iterator[int]:
        """The pids of which something is known."""
        return iter(tuple(self._counts))

    def of(self, pid: int) -> Counts:
        """What process `pid` has been told."""
        return self._counts.get(pid) or Counts()

    def used(self, process: Process, resource: str, used: float, limit: float | None) -> None:
        """`process` has used so much of `resource`: warn it, the first time that it is 80 %."""
        counts = self.of(process.pid)
        if limit is None or used < WARN * limit:
            if resource in counts.near or resource in counts.over:
                near = tuple(each for each in counts.near if each != resource)
                over = tuple(each for each in counts.over if each != resource)
                self._counts.put(process.pid, replace(counts, near=near, over=over))
        elif resource not in counts.near:
            near = (*counts.near, resource)
            self._counts.put(process.pid, replace(counts, warned=counts.warned + 1, near=near))
            self._emit(ResourceWarning, process, resource, used, limit)

    def exceeded(self, process: Process, resource: str, used: float, limit: float) -> None:
        """`process` has used, or asked for, more of `resource` than there is: say so once."""
        counts = self.of(process.pid)
        if resource not in counts.over:
            self._counts.put(process.pid, replace(counts, over=(*counts.over, resource)))
            self._emit(ResourceExceeded, process, resource, used, limit)

    def refused(self, process: Process, resource: str) -> None:
        """A use was refused to `process` because of `resource`: count it."""
        counts = self.of(process.pid)
        self._counts.put(process.pid, replace(counts, refused=counts.refused + 1))
        self._events.emit(ResourceRefused(process.pid, process.name, resource))

    def forget(self, process: Process) -> None:
        """It has ended for good."""
        self._counts.drop(process.pid)

    def _emit(
        self,
        kind: Callable[[int, str, str, float, float], Event],
        process: Process,
        resource: str,
        used: float,
        limit: float,
    ) -> None:
        self._events.emit(kind(process.pid, process.name, resource, used, limit))


def _read(pid: str, record: dict[str, Any]) -> tuple[int, Counts]:
    lists = {name: tuple(record[name]) for name in ("near", "over")}
    return int(pid), Counts(**(record | lists))
