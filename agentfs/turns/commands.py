"""What may be written to `turns` of a process: a table of verbs."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.process.commands import Verb, parse
from agentfs.turns.turns import TurnLog

__all__ = ["TURN_VERBS", "run_turn_command"]

TurnVerb = Callable[[TurnLog, Principal, int, list[str]], object]


def _begin(turns: TurnLog, who: Principal, pid: int, given: list[str]) -> None:
    turns.begin(who, pid, given[0].split() if given else ())


def _end(turns: TurnLog, who: Principal, pid: int, given: list[str]) -> None:
    if given[0] not in ("ok", "failed"):
        raise ValueError(f"ok or failed was expected, not {given[0]!r}")
    turns.end(who, pid, ok=given[0] == "ok", reason=given[1] if len(given) > 1 else "")


TURN_VERBS: Mapping[str, Verb[TurnVerb]] = {
    "begin": Verb("begin [MESSAGE-ID…]", 0, 1, _begin),
    "end": Verb("end ok|failed [REASON]", 1, 2, _end),
}


def run_turn_command(turns: TurnLog, who: Principal, pid: int, line: str) -> None:
    """Raises EINVAL for a command that there is not, and what the system call raises."""
    verb, given = parse(TURN_VERBS, line)
    try:
        verb.call(turns, who, pid, given)
    except ValueError as bad:
        raise KernelError(errno.EINVAL, f"usage: {verb.usage}: {bad}") from None
