"""What each process has used of models and tools, against its limits.

Asked before a call and told after it, as a budget is; but a limit belongs to one process, and what
its children use does not count. `max_tokens_total` counts `Process.tokens`, which the calls keep.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agentfs.base.clock import Clock
from agentfs.base.windows import HOUR, MINUTE, Window
from agentfs.model.process import Process
from agentfs.process.ceilings import Ceilings
from agentfs.quota.alerts import Marks
from agentfs.quota.meter import MICROS, LimitError, Use
from agentfs.store.part import Part
from agentfs.store.store import Store

__all__ = ["KIND", "Spending", "Spent"]

KIND = "spent"
"""The kind of the records; the key is the pid."""


@dataclass(slots=True)
class Spent:
    """What one process has used, `cost` in millionths of a dollar, `largest` the tokens of its
    largest call. `hour` has the tokens of the last hour, and `minutes` the same by the minute: what
    is kept of it across a restart of the daemon, where they count up to a minute too long."""

    llm_calls: int = 0
    tool_calls: int = 0
    cost: int = 0
    largest: int = 0
    hour: Window = field(default_factory=lambda: Window(HOUR))
    minutes: Window = field(default_factory=lambda: Window(HOUR, MINUTE))
    held_tokens: int = 0
    held_llm_calls: int = 0
    held_tool_calls: int = 0
    held_cost: int = 0

    def record(self, clock: Clock) -> dict[str, Any]:
        wall = clock.now()
        return {
            "llm_calls": self.llm_calls,
            "tool_calls": self.tool_calls,
            "cost": self.cost,
            "largest": self.largest,
            "hour": [
                [round(wall - age, 3), tokens]
                for age, tokens in self.minutes.entries(clock.monotonic())
            ],
        }

    @classmethod
    def from_record(cls, record: dict[str, Any], clock: Clock) -> Spent:
        counts = {name: number for name, number in record.items() if name != "hour"}
        spent, wall, now = cls(**counts), clock.now(), clock.monotonic()
        for when, tokens in record["hour"]:
            moment = now - max(0.0, wall - when)
            spent.hour.add(moment, tokens)
            spent.minutes.add(moment, tokens)
        return spent


@dataclass(frozen=True, slots=True)
class _Check:
    """One limit at one call: `used` and what open calls hold is there already, `asked` is to come;
    `unit` is what one of either is in the limit's own unit."""

    name: str
    used: float
    asked: float
    unit: float = 1
    errno: int = errno.EDQUOT


class Spending(Part):
    """A `Meter`, and `Bounded`. Loads itself from the store; `take_up` what is open."""

    def __init__(self, ceilings: Ceilings, marks: Marks, store: Store, clock: Clock) -> None:
        self._ceilings = ceilings
        self._marks = marks
        self._store = store
        self._clock = clock
        self._spent = {
            int(key): Spent.from_record(record, clock) for key, record in store.records(KIND)
        }

    def __len__(self) -> int:
        return len(self._spent)

    def of(self, pid: int) -> Spent:
        """What process `pid` has used; to look at."""
        return self._spent.get(pid) or Spent()

    def tokens_of_the_hour(self, pid: int) -> int:
        """The tokens of the last 3600 s, with those that open calls hold."""
        spent = self.of(pid)
        return spent.hour.sum(self._clock.monotonic()) + spent.held_tokens

    def hold_again(self, held: Iterable[tuple[int, Use]]) -> None:
        """Calls that were open when the daemon ended hold what they held: (pid, use) of each."""
        for pid, use in held:
            self._add_held(self._account(pid), use, 1)

    # -- as a meter --------------------------------------------------------------------------------

    def hold(self, process: Process, use: Use) -> None:
        """Raises EDQUOT, and EMSGSIZE for more tokens than one call may have."""
        for check in self._checks(process, use):
            self._require(process, check)
        self._change_held(process, use, 1)

    def settle(self, process: Process, held: Use, actual: Use | None) -> None:
        self._change_held(process, held, -1)
        if actual is None:
            return
        self._count(process, actual)
        for check in self._checks(process, actual):
            if check.name == "max_context_tokens":
                continue
            # The calls count the tokens of the process after their meters.
            used = check.used + (actual.tokens if check.name == "max_tokens_total" else 0)
            limit = self._ceilings.effective(process, check.name)
            self._marks.used(process, check.name, used / check.unit, limit)

    def room(self, process: Process, use: Use) -> int | None:
        """The most tokens that one more call may use; None: any number."""
        rooms = []
        for check in self._checks(process, use):
            limit = self._ceilings.effective(process, check.name)
            if limit is not None and check.name in _IN_TOKENS:
                rooms.append(int(limit - check.used))
            elif limit is not None and check.name == "max_cost_usd" and use.cost:
                rooms.append(int((round(limit * MICROS) - check.used) // use.cost))
        return max(0, min(rooms)) if rooms else None

    def _checks(self, process: Process, use: Use) -> Iterator[_Check]:
        """The limits that a use is up against, in the order in which they are asked."""
        spent = self.of(process.pid)
        if use.kind == "llm":
            tokens = max(1, use.tokens)
            held = spent.held_tokens
            yield _Check("max_context_tokens", 0, use.tokens, errno=errno.EMSGSIZE)
            yield _Check("max_tokens_total", process.tokens + held, tokens)
            yield _Check("max_tokens_per_hour", self.tokens_of_the_hour(process.pid), tokens)
            yield _Check("max_llm_calls", spent.llm_calls + spent.held_llm_calls, 1)
        else:
            yield _Check("max_tool_calls", spent.tool_calls + spent.held_tool_calls, 1)
        yield _Check("max_cost_usd", spent.cost + spent.held_cost, use.cost, MICROS)

    def _require(self, process: Process, check: _Check) -> None:
        found = self._ceilings.decisive(process, check.name)
        if found is None:
            return
        limit, source = found
        if check.used + check.asked <= round(limit * check.unit):
            return
        used, asked = check.used / check.unit, check.asked / check.unit
        of_whom = f"{process.name}'s" if source == "own" else f"that of {source}"
        raise LimitError(
            check.errno,
            f"{check.name}, {of_whom}, is {limit:g}: {used:g} are used or set aside, {asked:g} more"
            " were asked for",
            rule=check.name,
            resource=check.name,
            used=used,
            limit=limit,
        )

    # -- counting ----------------------------------------------------------------------------------

    def _account(self, pid: int) -> Spent:
        spent = self._spent.get(pid)
        if spent is None:
            spent = self._spent[pid] = Spent()
            if self._store.in_transaction:
                self._store.on_rollback(lambda: self._spent.pop(pid, None))
        return spent

    def _change_held(self, process: Process, use: Use, sign: int) -> None:
        spent = self._account(process.pid)
        self._store.on_rollback(lambda: self._add_held(spent, use, -sign))
        self._add_held(spent, use, sign)

    @staticmethod
    def _add_held(spent: Spent, use: Use, sign: int) -> None:
        spent.held_cost += sign * use.cost
        if use.kind == "llm":
            spent.held_tokens += sign * use.tokens
            spent.held_llm_calls += sign
        else:
            spent.held_tool_calls += sign

    def _count(self, process: Process, use: Use) -> None:
        spent, now = self._account(process.pid), self._clock.monotonic()
        largest = spent.largest

        def undo() -> None:
            self._add(spent, use, -1)
            spent.largest = largest
            if use.tokens:
                spent.hour.take_back(use.tokens)
                spent.minutes.take_back(use.tokens)

        self._store.on_rollback(undo)
        self._add(spent, use, 1)
        spent.largest = max(largest, use.tokens)
        if use.tokens:
            spent.hour.add(now, use.tokens)
            spent.minutes.add(now, use.tokens)
        self._store.put_record(KIND, str(process.pid), spent.record(self._clock))

    @staticmethod
    def _add(spent: Spent, use: Use, sign: int) -> None:
        spent.cost += sign * use.cost
        if use.kind == "llm":
            spent.llm_calls += sign
        else:
            spent.tool_calls += sign

    def process_ended(self, process: Process) -> None:
        """It has ended for good: what it used is known to the accounting alone. For
        `Ends.on_finish`, after the calls have charged what was open."""
        spent = self._spent.pop(process.pid, None)
        if spent is None:
            return

        def undo() -> None:
            self._spent[process.pid] = spent

        self._store.on_rollback(undo)
        self._store.delete_record(KIND, str(process.pid))


_IN_TOKENS = frozenset({"max_context_tokens", "max_tokens_total", "max_tokens_per_hour"})
