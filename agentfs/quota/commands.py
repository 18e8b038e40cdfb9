"""What may be written to `call` and `budget/ctl` of a process: two tables of verbs."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.model.process import Tier
from agentfs.process.commands import Verb, number, parse
from agentfs.quota.calls import Calls

__all__ = ["BUDGET_VERBS", "CALL_VERBS", "run_budget_command", "serve_call"]

# What a model or a tool may be called.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")

T = TypeVar("T")

CallVerb = Callable[[Calls, Principal, int, list[str]], str]
BudgetVerb = Callable[[Calls, Principal, int, list[str]], object]


def _llm(calls: Calls, who: Principal, pid: int, given: list[str]) -> str:
    if len(given) == 1 and given[0].isdecimal():
        return _begun(calls.llm(who, pid, "", _tokens(given[0])))
    model = _name(given[0]) if given else ""
    return _begun(calls.llm(who, pid, model, _tokens(given[1]) if len(given) > 1 else None))


def _tool(calls: Calls, who: Principal, pid: int, given: list[str]) -> str:
    return _begun(calls.tool(who, pid, _name(given[0])))


def _begun(reply: int | str) -> str:
    return f"skipped {reply}" if isinstance(reply, str) else str(reply)


def _settle(calls: Calls, who: Principal, pid: int, given: list[str]) -> str:
    if len(given) == 2:
        raise ValueError("INPUT and OUTPUT were expected, or neither")
    tokens = (number(given[1]), number(given[2])) if len(given) == 3 else None
    calls.settle(who, pid, number(given[0]), tokens)
    return "settled"


def _cancel(calls: Calls, who: Principal, pid: int, given: list[str]) -> str:
    calls.cancel(who, pid, number(given[0]))
    return "cancelled"


CALL_VERBS: Mapping[str, Verb[CallVerb]] = {
    "llm": Verb("llm [MODEL] [MAX_TOKENS]", 0, 2, _llm),
    "tool": Verb("tool NAME", 1, 1, _tool),
    "settle": Verb("settle ID [INPUT OUTPUT]", 1, 3, _settle),
    "cancel": Verb("cancel ID", 1, 1, _cancel),
}
"""/proc/PID/call."""


def _allocate(calls: Calls, who: Principal, pid: int, given: list[str]) -> None:
    tier = _tier(given[2]) if len(given) > 2 else None
    calls.budgets.allocate(who, pid, number(given[0]), number(given[1]), tier)


def _release(calls: Calls, who: Principal, pid: int, given: list[str]) -> None:
    calls.budgets.release(who, pid, _tier(given[0]) if given else None)


def _refund(calls: Calls, who: Principal, pid: int, given: list[str]) -> None:
    tier = _tier(given[1]) if len(given) > 1 else None
    calls.budgets.refund(who, pid, _tokens(given[0]), tier)


def _report(calls: Calls, who: Principal, pid: int, given: list[str]) -> None:
    calls.report(who, pid, _tokens(given[0]), _name(given[1]) if len(given) > 1 else "")


BUDGET_VERBS: Mapping[str, Verb[BudgetVerb]] = {
    "allocate": Verb("allocate PID TOKENS [TIER]", 2, 3, _allocate),
    "release": Verb("release [TIER]", 0, 1, _release),
    "refund": Verb("refund TOKENS [TIER]", 1, 2, _refund),
    "report": Verb("report TOKENS [MODEL]", 1, 2, _report),
}
"""/proc/PID/budget/ctl."""


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(f"{text[:130]!r} is no name of a model or tool")
    return text


def _tokens(text: str) -> int:
    tokens = number(text)
    if not tokens:
        raise ValueError("a number of tokens from 1 was expected")
    return tokens


def _tier(text: str) -> Tier:
    try:
        return Tier(text)
    except ValueError:
        tiers = ", ".join(tier.value for tier in Tier)
        raise ValueError(f"one of {tiers} was expected, not {text!r}") from None


def serve_call(calls: Calls, who: Principal, pid: int, line: str) -> str:
    """The reply to a request on /proc/PID/call. Raises EINVAL, and what its verb raises."""
    return _run(CALL_VERBS, calls, who, pid, line) + "\n"


def run_budget_command(calls: Calls, who: Principal, pid: int, line: str) -> None:
    """One line of /proc/PID/budget/ctl. Raises EINVAL, and what its verb raises."""
    _run(BUDGET_VERBS, calls, who, pid, line)


def _run(
    verbs: Mapping[str, Verb[Callable[[Calls, Principal, int, list[str]], T]]],
    calls: Calls,
    who: Principal,
    pid: int,
    line: str,
) -> T:
    verb, given = parse(verbs, line)
    try:
        return verb.call(calls, who, pid, given)
    except ValueError as bad:
        raise KernelError(errno.EINVAL, f"usage: {verb.usage}: {bad}") from None
