"""Warnings about budgets and limits: a process is warned once, and told once that it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from agentfs.model.process import Process
from agentfs.process.events import ResourceExceeded
from agentfs.quota.events import ResourceRefused, ResourceWarning
from agentfs.store.event import Event
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records

__all__ = ["KIND", "WARN", "Alerted", "Alerts"]

KIND = "marks"
"""The kind of their records; the key is the pid."""

WARN = 0.8
"""The part of a budget or limit from which on there is a warning."""


@dataclass(frozen=True, slots=True)
class Alerted:
    """How many warnings a process had, and how many of its uses were refused. `near` are the
    resources of which it was warned, `over` those that it was told are exceeded, until it is below
    `WARN`."""

    warned: int = 0
    refused: int = 0
    near: tuple[str, ...] = ()
    over: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        return {slot: getattr(self, slot) for slot in self.__slots__}


NEVER = Alerted()


class Alerts(Part):
    """Durable, so that `once` holds across a restart of the daemon; gone with the process."""

    def __init__(self, ground: Ground) -> None:
        self._events = ground.events
        self._told = Records(ground.store, KIND, _read, Alerted.record)
        self._told.load()

    def __len__(self) -> int:
        return len(self._told)

    def __iter__(self) -> Iterator[int]:
        """The pids of which something is known."""
        return iter(tuple(self._told))

    def __contains__(self, pid: int) -> bool:
        return pid in self._told

    def of(self, pid: int) -> Alerted:
        """The warnings of process `pid`."""
        return self._told.get(pid) or NEVER

    def used(self, process: Process, resource: str, used: float, limit: float | None) -> None:
        """`process` has used so much of `resource`: warn it, the first time that it is 80 %."""
        told = self._told.get(process.pid) or NEVER
        if limit is None or used < WARN * limit:
            if resource in told.near or resource in told.over:
                near = tuple(each for each in told.near if each != resource)
                over = tuple(each for each in told.over if each != resource)
                self._told.put(process.pid, replace(told, near=near, over=over))
        elif resource not in told.near:
            near = (*told.near, resource)
            self._told.put(process.pid, replace(told, warned=told.warned + 1, near=near))
            self._emit(ResourceWarning, process, resource, used, limit)

    def exceeded(self, process: Process, resource: str, used: float, limit: float) -> None:
        """`process` has used, or asked for, more of `resource` than there is: say so once."""
        told = self.of(process.pid)
        if resource not in told.over:
            self._told.put(process.pid, replace(told, over=(*told.over, resource)))
            self._emit(ResourceExceeded, process, resource, used, limit)

    def refused(self, process: Process, resource: str) -> None:
        """A use was refused to `process` because of `resource`: count it."""
        told = self.of(process.pid)
        self._told.put(process.pid, replace(told, refused=told.refused + 1))
        self._events.emit(ResourceRefused(process.pid, process.name, resource))

    def process_ended(self, process: Process) -> None:
        """Its warnings are forgotten."""
        self._told.drop(process.pid)

    def _emit(
        self,
        kind: Callable[[int, str, str, float, float], Event],
        process: Process,
        resource: str,
        used: float,
        limit: float,
    ) -> None:
        self._events.emit(kind(process.pid, process.name, resource, used, limit))


def _read(pid: str, record: dict[str, Any]) -> tuple[int, Alerted]:
    lists = {name: tuple(record[name]) for name in ("near", "over")}
    return int(pid), Alerted(**(record | lists))
