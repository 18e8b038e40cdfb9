"""The verbs of `ctl` files: two tables, and one parser with one kind of error for all of them."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.model.process import State
from agentfs.model.spec import seconds

if TYPE_CHECKING:
    from agentfs.process.calls import Processes

__all__ = [
    "AGENT_VERBS",
    "PROCESS_VERBS",
    "Verb",
    "number",
    "parse",
    "run_agent_command",
    "run_process_command",
]

Call = TypeVar("Call")


@dataclass(frozen=True, slots=True)
class Verb(Generic[Call]):
    """`least` and `most` arguments; the last one takes the rest of the line."""

    usage: str
    least: int
    most: int
    call: Call


ProcessCall = Callable[["Processes", Principal, int, list[str]], object]
AgentCall = Callable[["Processes", Principal, str], Awaitable[object]]


def _signal(name: str) -> ProcessCall:
    return lambda calls, who, pid, _: calls.signal(who, pid, name)


def _term(calls: Processes, who: Principal, pid: int, given: list[str]) -> None:
    calls.signal(who, pid, "TERM", seconds(given[0]) if given else None)


def _done(calls: Processes, who: Principal, pid: int, given: list[str]) -> None:
    calls.done(who, pid, number(given[0]), given[1] if len(given) > 1 else "")


PROCESS_VERBS: Mapping[str, Verb[ProcessCall]] = {
    "term": Verb("TERM [GRACE]", 0, 1, _term),
    "kill": Verb("KILL", 0, 0, _signal("KILL")),
    "stop": Verb("STOP", 0, 0, _signal("STOP")),
    "cont": Verb("CONT", 0, 0, _signal("CONT")),
    "hup": Verb("HUP", 0, 0, _signal("HUP")),
    "kill-branch": Verb(
        "kill-branch", 0, 0, lambda calls, who, pid, _: calls.kill_branch(who, pid)
    ),
    "reparent": Verb(
        "reparent PID", 1, 1, lambda calls, who, pid, to: calls.reparent(who, pid, number(to[0]))
    ),
    "idle": Verb("idle", 0, 0, lambda calls, who, pid, _: calls.declare(who, pid, State.IDLE)),
    "running": Verb(
        "running", 0, 0, lambda calls, who, pid, _: calls.declare(who, pid, State.RUNNING)
    ),
    "ready": Verb("ready", 0, 0, lambda calls, who, pid, _: calls.ready(who, pid)),
    "done": Verb("done CODE [TEXT]", 1, 2, _done),
}
"""/proc/PID/ctl."""


async def _stop(calls: Processes, who: Principal, name: str) -> None:
    calls.stop(who, name)


AGENT_VERBS: Mapping[str, Verb[AgentCall]] = {
    "start": Verb("start", 0, 0, lambda calls, who, name: calls.start(who, name)),
    "stop": Verb("stop", 0, 0, _stop),
    "restart": Verb("restart", 0, 0, lambda calls, who, name: calls.restart(who, name)),
}
"""/agents/NAME/ctl."""


def number(text: str) -> int:
    """A plain decimal number. Raises ValueError."""
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise ValueError(f"{text!r} is no number")
    return int(text)


def parse(verbs: Mapping[str, Verb[Call]], line: str) -> tuple[Verb[Call], list[str]]:
    """The verb, in any case, and its arguments. Raises EINVAL."""
    name, _, rest = line.strip().partition(" ")
    verb = verbs.get(name.lower())
    if verb is None:
        known = ", ".join(each.usage for each in verbs.values())
        raise KernelError(errno.EINVAL, f"there is no command {name!r}; there are: {known}")
    given = rest.split(None, verb.most - 1) if verb.most else rest.split()
    if not verb.least <= len(given) <= verb.most:
        raise KernelError(errno.EINVAL, f"usage: {verb.usage}")
    return verb, given


def run_process_command(calls: Processes, who: Principal, pid: int, line: str) -> None:
    verb, given = parse(PROCESS_VERBS, line)
    try:
        verb.call(calls, who, pid, given)
    except ValueError as bad:
        raise KernelError(errno.EINVAL, f"usage: {verb.usage}: {bad}") from None


async def run_agent_command(calls: Processes, who: Principal, name: str, line: str) -> None:
    verb, _ = parse(AGENT_VERBS, line)
    await verb.call(calls, who, name)
