"""Limits on the use of models and tools: what each process has used.

It is asked before a call and told after it, as a budget is; but a limit belongs to one process, and
the uses of its children do not count. Those of the steps and sub-runs of a run count for the run,
and a run's for the agent that started it. `max_tokens_total` bounds `Process.tokens`, which the
calls keep.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentfs.base.clock import Clock
from agentfs.base.windows import HOUR, MINUTE, Window
from agentfs.catalog.entries import MICROS
from agentfs.model.process import Process
from agentfs.process.ceilings import Ceilings
from agentfs.quota.alerts import Alerts
from agentfs.quota.meter import LimitError, Room, Use
from agentfs.quota.open_calls import OpenCalls
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records, add_to, keep_fields

__all__ = ["KIND", "Spending", "Spent"]

KIND = "spent"
"""The kind of the records; the key is the pid."""

TOKENS_OF_A_CALL, TOKENS, TOKENS_OF_THE_HOUR = (
    "max_context_tokens",
    "max_tokens_total",
    "max_tokens_per_hour",
)
LLM_CALLS, TOOL_CALLS, COST = "max_llm_calls", "max_tool_calls", "max_cost_usd"

ASKED = {
    "llm": (TOKENS_OF_A_CALL, TOKENS, TOKENS_OF_THE_HOUR, LLM_CALLS, COST),
    "tool": (TOOL_CALLS, COST),
}
"""The limits that a use is up against, by its kind, in the order in which they are asked."""

GROWING = (TOKENS_OF_A_CALL, TOKENS, TOKENS_OF_THE_HOUR, COST)
"""Those that a call is up against which is open already."""

HELD = ("held_tokens", "held_llm_calls", "held_tool_calls", "held_cost")

IN_TOKENS = frozenset({TOKENS_OF_A_CALL, TOKENS, TOKENS_OF_THE_HOUR})


@dataclass(slots=True)
class Spent:
    """The uses of one process: `cost` in millionths of a dollar, `largest` the tokens of its
    largest call. `hour` has the tokens of the last hour. `minutes` has them by the minute, as they
    are stored: after a restart of the daemon they count up to a minute too long."""

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


NOTHING = Spent()
"""For every process that has used nothing; nobody changes it."""


class Spending(Part):
    """A `Meter`, and `Bounded`. Loads itself from the store: calls that were open when the daemon
    ended hold what they held."""

    stored_name = "Spending"

    def __init__(
        self, ground: Ground, ceilings: Ceilings, alerts: Alerts, open_calls: OpenCalls
    ) -> None:
        clock = ground.clock
        self._store = ground.store
        self._clock = clock
        self._ceilings = ceilings
        self._alerts = alerts
        self._spent = Records(
            ground.store,
            KIND,
            lambda pid, record: (int(pid), Spent.from_record(record, clock)),
            lambda spent: spent.record(clock),
        )
        self._spent.load()
        with ground.store.transaction():
            for call in open_calls:
                for pid in ceilings.accounts_of(call.pid):
                    held = call.held_by(self)
                    self._change_held(pid, held, 1, held.tokens)

    def __len__(self) -> int:
        return len(self._spent)

    def of(self, pid: int) -> Spent:
        """The uses of process `pid`; to look at."""
        return self._spent.get(pid) or NOTHING

    def usage(self, process: Process, limit: str) -> float | None:
        """The amount that counts against one of the limits here, with what open calls hold; of
        `max_context_tokens` the largest call so far."""
        spent = self.of(process.pid)
        if limit == TOKENS_OF_A_CALL:
            return spent.largest
        if limit == COST:
            return (spent.cost + spent.held_cost) / MICROS
        return self._used(process, spent, limit)

    # -- as a meter --------------------------------------------------------------------------------

    def hold(self, process: Process, use: Use) -> None:
        """Raises EDQUOT, and EMSGSIZE for more tokens than one call may have."""
        accounts, asked = self._ceilings.accounts(process), _asked(use)
        for each in accounts:
            self._check(each, ASKED[use.kind], asked)
        for each in accounts:
            self._change_held(each.pid, use, 1, asked[TOKENS_OF_A_CALL])

    def grow(self, process: Process, held: Use, more: Use) -> None:
        """Raises EDQUOT and EMSGSIZE, as `hold`; it is no further call."""
        asked = _asked(more) | {TOKENS_OF_A_CALL: held.tokens + more.tokens}
        accounts = self._ceilings.accounts(process)
        for each in accounts:
            self._check(each, GROWING, asked)
        for each in accounts:
            spent = self._account(each.pid)
            keep_fields(self._store, spent, *HELD)
            spent.held_tokens += more.tokens
            spent.held_cost += more.cost

    def _check(self, process: Process, names: Sequence[str], asked: Mapping[str, int]) -> None:
        ceilings = self._ceilings.decisive(process, names)
        if not ceilings:
            return
        spent = self._spent.get(process.pid) or NOTHING
        for name in names:
            if name in ceilings:
                limit, source = ceilings[name]
                used, more = self._used(process, spent, name) or 0, asked[name]
                if used + more > (round(limit * MICROS) if name == COST else limit):
                    raise _refusal(process, name, used, more, limit, source)

    def settle(self, process: Process, held: Use, actual: Use | None) -> None:
        for each in self._ceilings.accounts(process):
            self._settle(each, held, actual)

    def _settle(self, process: Process, held: Use, actual: Use | None) -> None:
        self._change_held(process.pid, held, -1, held.tokens)
        if actual is None:
            return
        self._count(process.pid, actual)
        names = ASKED[actual.kind]
        ceilings = self._ceilings.decisive(process, names)
        if not ceilings and process.pid not in self._alerts:
            return
        spent = self.of(process.pid)
        for name in names:
            if name == TOKENS_OF_A_CALL:
                continue
            used = self._used(process, spent, name) or 0
            if name == TOKENS:  # the calls count the tokens of the process after their meters
                used += actual.tokens
            limit = ceilings[name][0] if name in ceilings else None
            self._alerts.used(process, name, used / (MICROS if name == COST else 1), limit)

    def room(self, process: Process, use: Use, held: int = 0) -> Room:
        """The most that one more call may use, or one that has so many tokens set aside."""
        room = Room()
        for each in self._ceilings.accounts(process):
            room = room.least(self._room(each, use, held))
        return room

    def _room(self, process: Process, use: Use, held: int) -> Room:
        room, spent = Room(), self.of(process.pid)
        for name, (limit, _) in self._ceilings.decisive(process, ASKED[use.kind]).items():
            used = self._used(process, spent, name) or 0
            if name == TOKENS_OF_A_CALL:
                used = held
            if name in IN_TOKENS:
                room = room.least(Room(tokens=max(0, int(limit - used))))
            elif name == COST:
                room = room.least(Room(cost=max(0, round(limit * MICROS) - used)))
        return room

    def _used(self, process: Process, spent: Spent, name: str) -> int | None:
        """The amount that counts against a limit already, with what open calls hold: tokens, calls,
        or millionths of a dollar. None: the limit is not counted here."""
        match name:
            case "max_context_tokens":
                return 0
            case "max_tokens_total":
                return process.tokens + spent.held_tokens
            case "max_tokens_per_hour":
                return spent.hour.sum(self._clock.monotonic()) + spent.held_tokens
            case "max_llm_calls":
                return spent.llm_calls + spent.held_llm_calls
            case "max_tool_calls":
                return spent.tool_calls + spent.held_tool_calls
            case "max_cost_usd":
                return spent.cost + spent.held_cost
        return None

    # -- counting ----------------------------------------------------------------------------------

    def _account(self, pid: int) -> Spent:
        spent = self._spent.get(pid)
        if spent is None:
            spent = Spent()
            self._spent.place(pid, spent)
        return spent

    def _change_held(self, pid: int, use: Use, sign: int, tokens: int) -> None:
        """The records of open calls say what they hold; it is in no record here. `tokens` are those
        of the use."""
        spent = self._account(pid)
        keep_fields(self._store, spent, *HELD)
        spent.held_cost += sign * use.cost
        if use.kind == "llm":
            spent.held_tokens += sign * tokens
            spent.held_llm_calls += sign
        else:
            spent.held_tool_calls += sign

    def _count(self, pid: int, use: Use) -> None:
        spent, now, tokens = self._account(pid), self._clock.monotonic(), use.tokens
        if tokens:
            add_to(self._store, spent.hour, now, tokens)
            add_to(self._store, spent.minutes, now, tokens)
        cost, largest = spent.cost + use.cost, max(spent.largest, tokens)
        if use.kind == "llm":
            self._spent.change(pid, cost=cost, largest=largest, llm_calls=spent.llm_calls + 1)
        else:
            self._spent.change(pid, cost=cost, largest=largest, tool_calls=spent.tool_calls + 1)

    def process_ended(self, process: Process) -> None:
        """Its uses are forgotten here; its open calls have been charged."""
        self._spent.drop(process.pid)


def _asked(use: Use) -> dict[str, int]:
    """The amounts that a use adds to what counts against each limit."""
    tokens = use.tokens
    return {
        TOKENS_OF_A_CALL: tokens,
        TOKENS: max(1, tokens),
        TOKENS_OF_THE_HOUR: max(1, tokens),
        LLM_CALLS: 1,
        TOOL_CALLS: 1,
        COST: use.cost,
    }


def _refusal(
    process: Process, name: str, used: int, asked: int, limit: float, source: str
) -> LimitError:
    of_whom = f"{process.name}'s" if source == "own" else f"that of {source}"
    unit = MICROS if name == COST else 1
    return LimitError(
        errno.EMSGSIZE if name == TOKENS_OF_A_CALL else errno.EDQUOT,
        f"{name}, {of_whom}, is {limit:g}: {used / unit:g} are used or set aside,"
        f" {asked / unit:g} more were asked for",
        rule=name,
        resource=name,
        used=used / unit,
        limit=limit,
    )
