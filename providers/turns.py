"""/proc/PID/turns and /sys/stats/agents: pieces of work, one by one and by the day."""

from __future__ import annotations

import errno
import json
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.process.events import AgentDefined, AgentRemoved
from agentfs.providers.process import ProcessRows
from agentfs.providers.system_table import SystemTable
from agentfs.turns.commands import run_turn_command
from agentfs.turns.events import TurnBegun, TurnEnded
from agentfs.turns.turns import DayFigures, WorkTurn
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.declare import value
from agentfs.vfs.files import Basics, Live, Owner, fields
from agentfs.vfs.node import Node
from agentfs.vfs.on import on

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["AgentStatsDirectory", "TurnRows"]


class TurnRows(ProcessRows):
    """The turns of a process."""

    @value(
        "turns",
        0o644,
        write="command",
        check="may_read_turns",
        on=(TurnBegun, TurnEnded),
        example='{"turn": 3, "state": "ok", "began": "2026-11-21T09:00:00.123Z", …}',
        errors={
            "EINVAL": "no such command",
            "EACCES": "read: as for its log; write: you are neither this process nor the operator",
            "EBUSY": "begin: it is in a turn",
            "ENOENT": "begin: it has not claimed that message; end: it is in no turn",
            "ESRCH": "it has ended",
        },
    )
    def turns(self) -> str:
        """The turns of its agent that this process began, the newest `turns.kept`, one JSON object
        a line: turn (its number), state (running, ok, failed), began and ended (RFC 3339; null:
        not yet), seconds (null: not yet), messages (their ids), reason (of a failure); what its
        agent used in it: input and output (tokens), calls, tool_calls (of a turn under way since
        its beginning: see `/sys/accounting`). Write `begin [MESSAGE-ID…]` before a piece of work,
        for messages that were claimed, and `end ok` or `end failed REASON` after it. A turn that is
        under way when the program ends has failed."""
        process = self._process.process
        lines = [json.dumps(self._line(turn)) for turn in self._kernel.turns.of(process)]
        return "".join(f"{line}\n" for line in lines)

    def _line(self, turn: WorkTurn) -> dict[str, object]:
        over = turn.ended is not None
        line: dict[str, object] = {
            "turn": turn.number,
            "state": ("ok" if turn.ok else "failed") if over else "running",
            "began": rfc3339(turn.began),
            "ended": rfc3339(turn.ended) if turn.ended is not None else None,
            "seconds": round(turn.ended - turn.began, 3) if turn.ended is not None else None,
            "messages": turn.messages,
            "reason": turn.reason,
        }
        names = ("input", "output", "calls", "tool_calls")
        return line | {name: getattr(turn, name) if over else None for name in names}

    def may_read_turns(self, caller: Caller) -> None:
        """As for the log; its own process writes them."""
        rules = self._kernel.rules
        rules.read_process(caller.principal, self._process.process, "log")

    async def command(self, text: str, caller: Caller) -> None:
        pid = self._process.process.pid
        for line in text.splitlines():
            run_turn_command(self._kernel.turns, caller.principal, pid, line)


class _AgentStats(Live):
    """/sys/stats/agents/NAME: the days of an agent."""

    def __init__(self, kernel: Kernel, key: Hashable, owner: Owner, name: str) -> None:
        self._kernel = kernel
        self._name = name
        super().__init__(Basics(key, 0o444, lambda: owner, self._may_read), self._rendered_now)

    def _may_read(self, caller: Caller) -> None:
        self._kernel.accounting.require_reader(caller.principal, "agent", self._name)

    def _rendered_now(self) -> bytes:
        if self._kernel.agents.find(self._name) is None:
            raise KernelError(errno.ESTALE, f"the agent {self._name} was removed")
        today, *before = self._kernel.turns.days(self._name)
        text = fields(
            ("Day", today.turns.day),
            ("Turns", today.turns.turns),
            ("Failed", today.turns.failed),
            ("Mean seconds", round(today.turns.mean, 3)),
            ("Input", today.used.input),
            ("Output", today.used.output),
            ("Calls", today.used.calls),
            ("Tool calls", today.used.tool_calls),
            ("Tools", _tools(today)),
        )
        return f"{text}{''.join(map(_line_of, before))}".encode()


def _tools(day: DayFigures) -> str:
    return ", ".join(f"{name} {calls}" for name, calls in day.tools)


def _line_of(day: DayFigures) -> str:
    turns, used = day.turns, day.used
    return (
        f"{turns.day}:\tturns {turns.turns}, failed {turns.failed}, mean seconds"
        f" {round(turns.mean, 3)}, input {used.input}, output {used.output}, calls {used.calls},"
        f" tool calls {used.tool_calls}, tools {_tools(day) or 'none'}\n"
    )


class AgentStatsDirectory(SystemTable):
    """/sys/stats/agents: a file NAME (0444) for each agent. `Key:\\tvalue` lines of today (UTC):
    Day, Turns (that ended), Failed (of these), Mean seconds (of a turn), Input and Output (tokens
    of models, in and out of turns), Calls (of models), Tool calls, Tools (the five that it called
    most, and how often). Then a line for each earlier day that is kept (`turns.retention`, tokens
    and calls for `accounting.retention`), the newest first. An agent reads its own, the
    operator all."""

    PATH = "/sys/stats/agents"
    WHAT = "The turns of each agent, by the day."
    key = ("stats", "agents")

    def find(self, name: str) -> Node | None:
        return None if self.kernel.agents.find(name) is None else self._node(name)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.agents:
            yield name, self._node(name)

    def _node(self, name: str) -> Node:
        return _AgentStats(self.kernel, self.key_of(name), self.owner(), name)

    @on(AgentDefined)
    def _defined(self, event: AgentDefined) -> Iterator[Change]:
        yield Created(self.key, event.agent, self._node(event.agent))

    @on(AgentRemoved)
    def _removed(self, event: AgentRemoved) -> Iterator[Change]:
        yield Removed(self.key, event.agent, self.key_of(event.agent), is_directory=False)
