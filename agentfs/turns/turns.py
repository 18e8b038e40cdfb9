"""Turns: pieces of work that a process begins and ends, as a rule for a message that woke it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from agentfs.base.errors import KernelError
from agentfs.mail.mail import Mail
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.process.rules import own_alive
from agentfs.process.table import ProcessTable
from agentfs.quota.accounting import Accounting
from agentfs.quota.uses import Sums
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records
from agentfs.turns.days import Day, Days
from agentfs.turns.events import TurnBegun, TurnDaysSwept, TurnEnded
from agentfs.turns.settings import TurnSettings

__all__ = ["KIND", "TOP", "DayFigures", "TurnLog", "WorkTurn", "day_of"]

log = logging.getLogger(__name__)

KIND = "turn"
"""The records in the store; key `AGENT/NUMBER`."""

TOP = 5
"""Tools of a day that are shown: those that were called most."""

MOST_REASON = 500
"""Characters of a reason that are kept."""

BATCH = 100
"""Rows of one transaction: 2 ms."""

Key = tuple[str, int]
"""Agent and number."""


@dataclass(slots=True)
class WorkTurn:
    """`began` and `ended` are wall clock, seconds; `ended` None: it is under way. `messages` are
    the ids of those that it is about. The figures are those of the agent at its beginning, and
    from its end on what it used itself."""

    agent: str
    number: int
    pid: int
    began: float
    messages: list[str] = field(default_factory=list)
    ended: float | None = None
    ok: bool = False
    reason: str = ""
    input: int = 0
    output: int = 0
    calls: int = 0
    tool_calls: int = 0


class DayFigures(NamedTuple):
    """A day of an agent: its turns, what it used of models in and out of turns, and the tools that
    it called most."""

    turns: Day
    used: Sums
    tools: Sequence[tuple[str, int]]


class TurnLog(Part):
    """All turns that are kept, and the figures of each day. A process has one turn at a time."""

    def __init__(
        self, ground: Ground, gate: Gate, table: ProcessTable, mail: Mail, books: Accounting
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._table = table
        self._mail = mail
        self._books = books
        self._days = Days(ground.store)
        self._turns = Records(ground.store, KIND, _read, asdict, _name)
        self._by_agent = self._turns.index(lambda turn: turn.agent, "agent")
        self._open = self._turns.index(
            lambda turn: turn.pid if turn.ended is None else None, "pid", "ended"
        )
        self._swept = ""  # no row is older than this day

    def load(self) -> None:
        self._turns.load()

    # -- what is read ------------------------------------------------------------------------------

    def of(self, process: Process) -> list[WorkTurn]:
        """Those of a process that are kept, the oldest first."""
        mine = self._by_agent.of(process.name)
        return [mine[key] for key in sorted(mine) if mine[key].pid == process.pid]

    def used(self, turn: WorkTurn) -> Sums:
        """What the agent has used since it began, or did until it ended."""
        at = Sums(turn.input, turn.output, turn.calls, turn.tool_calls)
        if turn.ended is not None:
            return at
        now = self._books.sums("agent", turn.agent)
        return Sums(*(max(0, new - old) for new, old in zip(now, at, strict=True)))

    def today(self) -> str:
        """The day, in UTC."""
        return day_of(self._clock.now())

    def days(self, agent: str) -> list[DayFigures]:
        """Today, and each day that is kept and on which it did something, the newest first."""
        turns = {day.day: day for day in self._days.of(agent)}
        used = dict(self._books.days("agent", agent))
        tools = self._days.tools(agent)
        oldest, today = self._oldest(), self.today()
        found = sorted({today, *turns, *used, *tools}, reverse=True)
        return [
            DayFigures(turns.get(day, Day(day)), used.get(day, Sums()), tools.get(day, [])[:TOP])
            for day in found
            if day >= oldest
        ]

    # -- system calls ------------------------------------------------------------------------------

    def begin(self, principal: Principal, pid: int, ids: Sequence[str] = ()) -> int:
        """A turn begins, for these messages, which the process has claimed; its number. ESRCH and
        EACCES for anybody but the process and the operator, EBUSY while one is under way, ENOENT
        for a message that the process does not have."""
        with self._gate.enter(principal):
            process = own_alive(self._table, principal, pid)
            for turn in self._open.of(pid).values():
                raise KernelError(
                    errno.EBUSY,
                    f"{process.name} is in its turn {turn.number}: end that first",
                )
            held = {message.id for message in self._mail.boxes.claimed.of(pid)}
            for name in ids:
                if name not in held:
                    raise KernelError(
                        errno.ENOENT, f"{process.name} has claimed no message {name[:64]!r}"
                    )
            number = max((key[1] for key in self._by_agent.of(process.name)), default=0) + 1
            used = self._books.sums("agent", process.name)
            self._turns.put(
                (process.name, number),
                WorkTurn(
                    process.name,
                    number,
                    pid,
                    self._clock.now(),
                    list(dict.fromkeys(ids)),
                    input=used.input,
                    output=used.output,
                    calls=used.calls,
                    tool_calls=used.tool_calls,
                ),
            )
            self._trim(process.name)
            self._events.emit(TurnBegun(pid, process.name, number, len(ids)))
            return number

    def end(self, principal: Principal, pid: int, *, ok: bool, reason: str = "") -> None:
        """The turn under way has ended. As `begin`; ENOENT if there is none."""
        with self._gate.enter(principal):
            process = own_alive(self._table, principal, pid)
            if not self._end(pid, ok=ok, reason=reason):
                raise KernelError(errno.ENOENT, f"{process.name} is in no turn")

    def _end(self, pid: int, *, ok: bool, reason: str) -> bool:
        """Whether there was one. Inside a transaction."""
        now = self._clock.now()
        for key, turn in tuple(self._open.of(pid).items()):
            used = self.used(turn)
            seconds = max(0.0, now - turn.began)
            self._turns.change(
                key,
                ended=max(now, turn.began),
                ok=ok,
                reason=reason[:MOST_REASON],
                input=used.input,
                output=used.output,
                calls=used.calls,
                tool_calls=used.tool_calls,
            )
            self._days.count(turn.agent, day_of(now), seconds, failed=not ok)
            self._events.emit(TurnEnded(pid, turn.agent, turn.number, ok, round(seconds, 3)))
            return True
        return False

    # -- what happens ------------------------------------------------------------------------------

    def use_recorded(self, process: Process, kind: str, name: str) -> None:
        if kind == "tool":
            self._days.call(process.agent, self.today(), name)

    def program_ended(self, process: Process, code: int) -> None:
        """Nobody is left to end its turn."""
        self._end(process.pid, ok=False, reason=f"its program ended with code {code}")

    def process_ended(self, process: Process) -> None:
        """The same of one that had no program."""
        self._end(process.pid, ok=False, reason="its process ended")

    def agent_removed(self, name: str) -> None:
        """Its turns and figures go with it."""
        with self._store.transaction():
            for key in tuple(self._by_agent.of(name)):
                self._turns.drop(key)
            self._days.forget(name)

    def tidy(self) -> None:
        """Drop a batch of days that are kept no longer, and of turns that are as old. The newest
        turn of an agent stays: the next one has the number after it."""
        oldest = self._oldest()
        if self._swept >= oldest:
            return
        with self._store.transaction():
            count = self._days.sweep(oldest, BATCH)
            old = self._older(oldest, BATCH)
            for key in old:
                self._turns.drop(key)
            if count:
                self._events.emit(TurnDaysSwept(count))
        if count < BATCH and len(old) < BATCH:
            self._swept = oldest

    def _older(self, day: str, most: int) -> list[Key]:
        """Turns that ended before that day, without the newest of each agent."""
        found: list[Key] = []
        for turns in self._by_agent.values():
            newest = max(turns)
            found += (
                key
                for key, turn in turns.items()
                if key != newest and turn.ended is not None and day_of(turn.ended) < day
            )
            if len(found) >= most:
                break
        return found[:most]

    def _oldest(self) -> str:
        """The first day that is kept."""
        return day_of(self._clock.now() - self._settings.of(TurnSettings).retention)

    def _trim(self, agent: str) -> None:
        """Drop what is more than is kept of one agent: the oldest, and nothing that is open."""
        mine = self._by_agent.of(agent)
        for key in sorted(mine)[: -self._settings.of(TurnSettings).kept]:
            if mine[key].ended is not None:
                self._turns.drop(key)


def day_of(when: float) -> str:
    """Its day in UTC: 2026-11-21."""
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d")


def _read(name: str, record: dict[str, Any]) -> tuple[Key, WorkTurn]:
    turn = WorkTurn(**record)
    return (turn.agent, turn.number), turn


def _name(key: Key) -> str:
    agent, number = key
    return f"{agent}/{number:012d}"
