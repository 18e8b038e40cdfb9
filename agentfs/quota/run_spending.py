"""Limits on the use of models and tools by runs: each counts for its steps and its sub-runs, too.

A limit of an agent's process belongs to that process alone (see `spending`). A run is no program
that asks anything: its nodes, the programs of its steps, and the runs that it has started ask, and
of N calls that it may make they make N together.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from agentfs.catalog.entries import MICROS
from agentfs.model.process import Process, ProcessKind
from agentfs.process.ceilings import Ceilings
from agentfs.process.table import ProcessTable
from agentfs.quota.alerts import Alerts
from agentfs.quota.meter import LimitError, Room, Use
from agentfs.quota.open_calls import OpenCalls
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records, keep_fields

__all__ = ["KIND", "NAMES", "RunSpending", "RunSpent"]

KIND = "run_spent"
"""The kind of the records; the key is the pid of the run."""


@dataclass(slots=True)
class RunSpent:
    """The uses of a run and of all below it: `cost` in millionths of a dollar. By the names of the
    limits."""

    max_tokens_total: int = 0
    max_llm_calls: int = 0
    max_tool_calls: int = 0
    max_cost_usd: int = 0

    @classmethod
    def of(cls, use: Use) -> RunSpent:
        """The amounts that a use adds."""
        llm = use.kind == "llm"
        return cls(use.tokens if llm else 0, int(llm), int(not llm), use.cost)


NAMES = tuple(each.name for each in fields(RunSpent))

BOUNDS = ("max_tokens_total", "max_cost_usd")
"""Those that bound the size of one call, too."""

NOTHING = RunSpent()


class RunSpending(Part):
    """A `Meter`, and `Bounded`. Loads itself from the store: calls that were open when the daemon
    ended hold what they held."""

    stored_name = "RunSpending"

    def __init__(
        self,
        ground: Ground,
        table: ProcessTable,
        ceilings: Ceilings,
        alerts: Alerts,
        open_calls: OpenCalls,
    ) -> None:
        self._ceilings = ceilings
        self._store = ground.store
        self._table = table
        self._alerts = alerts
        self._spent = Records(ground.store, KIND, _read, asdict)
        self._spent.load()
        self._held: dict[int, RunSpent] = {}
        with ground.store.transaction():
            for call in open_calls:
                process = table.find(call.pid)
                if process is not None:
                    self._hold(process, RunSpent.of(call.held_by(self)), 1)

    def runs_of(self, process: Process) -> Iterator[Process]:
        """The runs that a use of `process` counts for: it, if it is one, and those above it."""
        found: Process | None = process
        while found is not None and found.light:
            if found.kind is ProcessKind.RUN:
                yield found
            found = self._table.find(found.ppid)

    def usage(self, process: Process, limit: str) -> float | None:
        """The amount that counts against one of the limits of a run, with what open calls hold."""
        if process.kind is not ProcessKind.RUN or limit not in NAMES:
            return None
        used = self._used(process.pid, limit)
        return used / MICROS if limit == "max_cost_usd" else used

    # -- as a meter --------------------------------------------------------------------------------

    def hold(self, process: Process, use: Use) -> None:
        """Raises EDQUOT."""
        asked = RunSpent.of(use)
        self._check(process, asked)
        self._hold(process, asked, 1)

    def grow(self, process: Process, held: Use, more: Use) -> None:
        """Raises EDQUOT, as `hold`; it is no further call."""
        asked = RunSpent(max_tokens_total=more.tokens, max_cost_usd=more.cost)
        self._check(process, asked)
        self._hold(process, asked, 1)

    def settle(self, process: Process, held: Use, actual: Use | None) -> None:
        self._hold(process, RunSpent.of(held), -1)
        if actual is None:
            return
        added = RunSpent.of(actual)
        for run in self.runs_of(process):
            spent = self._spent.get(run.pid) or RunSpent()
            sums = {name: getattr(spent, name) + getattr(added, name) for name in NAMES}
            self._spent.put(run.pid, RunSpent(**sums))
            for name, (limit, _) in self._ceilings.decisive(run, NAMES).items():
                if getattr(added, name):
                    used = self._used(run.pid, name)
                    self._alerts.used(run, name, used / _unit(name), limit)

    def room(self, process: Process, use: Use, held: int = 0) -> Room:
        """The most that one more call may use."""
        room = Room()
        for run in self.runs_of(process):
            for name, (limit, _) in self._ceilings.decisive(run, BOUNDS).items():
                left = max(0, round(limit * _unit(name)) - self._used(run.pid, name))
                room = room.least(Room(cost=left) if name == "max_cost_usd" else Room(left))
        return room

    def _check(self, process: Process, asked: RunSpent) -> None:
        for run in self.runs_of(process):
            for name, (limit, source) in self._ceilings.decisive(run, NAMES).items():
                more, used, unit = getattr(asked, name), self._used(run.pid, name), _unit(name)
                if more and used + more > limit * unit:
                    whose = run.name if source == "own" else f"{run.name}, by {source},"
                    raise LimitError(
                        errno.EDQUOT,
                        f"{name} of the run {whose} is {limit:g}: {used / unit:g} are used or"
                        f" set aside by all in it, {more / unit:g} more were asked for",
                        rule=name,
                        resource=name,
                        used=used / unit,
                        limit=limit,
                    )

    def _used(self, pid: int, name: str) -> int:
        spent: int = getattr(self._spent.get(pid, NOTHING), name)
        held: int = getattr(self._held.get(pid, NOTHING), name)
        return spent + held

    def _hold(self, process: Process, asked: RunSpent, sign: int) -> None:
        for run in self.runs_of(process):
            held = self._held.setdefault(run.pid, RunSpent())
            keep_fields(self._store, held, *NAMES)
            for name in NAMES:
                setattr(held, name, getattr(held, name) + sign * getattr(asked, name))

    def process_ended(self, process: Process) -> None:
        """Its uses count for the runs above it, and are forgotten here."""
        if process.kind is ProcessKind.RUN:
            self._spent.drop(process.pid)
            self._store.on_commit(lambda: self._held.pop(process.pid, None))


def _unit(name: str) -> int:
    return MICROS if name == "max_cost_usd" else 1


def _read(pid: str, record: dict[str, Any]) -> tuple[int, RunSpent]:
    return int(pid), RunSpent(**record)
