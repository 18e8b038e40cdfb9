"""/proc/PID/limits and /proc/PID/usage: what a process may use, and what it uses of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from agentfs.model.principal import INIT
from agentfs.process.events import ProcessChanged
from agentfs.providers.process import ProcessDirectory, ProcessRows
from agentfs.quota.accounting import dollars
from agentfs.quota.branches import Figures
from agentfs.quota.events import LimitChanged
from agentfs.quota.limits import shown
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import file, live
from agentfs.vfs.files import Basics, Owner, Value
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Node
from agentfs.vfs.on import Cause, When
from agentfs.vfs.table import Table

__all__ = ["BranchRows", "LimitsDirectory", "UsageDirectory"]

ERRORS = {
    "EINVAL": "neither a number nor max",
    "EPERM": "you are neither the process, its parent nor the operator; it raises its own limit;"
    " process 1",
    "ESRCH": "it has ended",
}


class _OfProcess(Table):
    """Both directories are made of this."""

    def __init__(self, process: ProcessDirectory) -> None:
        self.process = process
        self.key = process.key_of(self.name_in_tree())

    def owner(self) -> Owner:
        return self.process.owner()


def _limit(name: str, example: str, doc: str, *also: Cause) -> Callable[..., Any]:
    """The file of one limit, which `also` changes."""

    def node(directory: LimitsDirectory) -> Node:
        process = directory.process

        def render() -> bytes:
            return f"{shown(getattr(process.process.limits, name))}\n".encode()

        async def apply(data: bytes, caller: Caller) -> None:
            text = as_text(data).strip()
            process.kernel.limits.set(caller.principal, process.pid, name, text)

        basics = Basics(directory.key_of(name), 0o644, directory.owner, directory.guard)
        return Value(basics, render, apply)

    node.__doc__ = doc
    causes = (When(LimitChanged, limit=name), *also)
    return file(name, 0o644, kind="Value", on=causes, example=example, errors=ERRORS)(node)


class LimitsDirectory(_OfProcess):
    """/proc/PID/limits: the limits of the process itself. `max` is none; what holds is the least of
    these, its ancestors' and `limits` of /etc/agentfs.yaml, as `status` shows. The process may
    lower its own, its parent and the operator may raise them too."""

    PATH = "/proc/PID/limits"
    WHAT = "What it may use."

    max_children = _limit(
        "max_children",
        "10",
        "Living children; one more is EAGAIN. An ancestor's does not count.",
        When(ProcessChanged, pid=INIT),  # that of process 1 is in the configuration
    )
    max_concurrent_tasks = _limit(
        "max_concurrent_tasks",
        "5",
        "Messages claimed at once, from its inbox and from queues. At the limit `recv` waits until"
        " one is acknowledged, renaming one into `cur` is EAGAIN.",
    )
    timeout_seconds = _limit(
        "timeout_seconds",
        "300",
        "Seconds that it may have a claimed message. Then this goes back to `new` with its"
        " Delivery-Attempt raised, or to `dead`, and to acknowledge it is ENOENT.",
    )
    max_tokens_per_hour = _limit(
        "max_tokens_per_hour", "100000", "Tokens within 3600 s; more is EDQUOT."
    )
    max_tokens_total = _limit("max_tokens_total", "1000000", "Tokens in all; more is EDQUOT.")
    max_context_tokens = _limit(
        "max_context_tokens", "128000", "Tokens of one call of a model; more is EMSGSIZE."
    )
    max_llm_calls = _limit("max_llm_calls", "max", "Calls of models in all; more is EDQUOT.")
    max_tool_calls = _limit("max_tool_calls", "max", "Calls of tools in all; more is EDQUOT.")
    max_cost_usd = _limit("max_cost_usd", "2.5", "What calls may cost in all; more is EDQUOT.")
    messages_per_minute = _limit(
        "messages_per_minute",
        "60",
        "Messages sent within 60 s: to agents, queues and topics, a broadcast as one; more is"
        " EAGAIN.",
    )
    max_memory_mb = _limit(
        "max_memory_mb", "512", "MiB of memory that its programs may have together."
    )
    max_cpu_seconds = _limit(
        "max_cpu_seconds", "max", "Seconds of processor time of its programs together."
    )
    max_pids = _limit(
        "max_pids",
        "1024",
        "Processes and threads of the machine that its programs may have together: one more is"
        " EAGAIN, in their fork(2).",
    )
    calls_per_minute = _limit(
        "calls_per_minute",
        "1000",
        "Calls of all these kinds together within 60 s; more is EAGAIN.",
    )
    spawns_per_minute = _limit(
        "spawns_per_minute",
        "10",
        "Spawns within 60 s, failed ones too; more is EAGAIN.",
    )
    signals_per_minute = _limit(
        "signals_per_minute",
        "10",
        "Signals and restarts of processes within 60 s; more is EAGAIN.",
    )
    claims_per_minute = _limit(
        "claims_per_minute",
        "60",
        "Times that it took mail within 60 s; more is EAGAIN, also for `recv`.",
    )
    artifacts_per_minute = _limit(
        "artifacts_per_minute",
        "60",
        "Artifacts stored within 60 s; more is EAGAIN.",
    )
    llm_calls_per_minute = _limit(
        "llm_calls_per_minute",
        "20",
        "Calls of models begun within 60 s; more is EAGAIN.",
    )
    tool_calls_per_minute = _limit(
        "tool_calls_per_minute",
        "100",
        "Calls of tools begun within 60 s; more is EAGAIN.",
    )

    @live("status", example="max_children 2 10 own\nmax_llm_calls 17 100 alice\n…\n")
    def status(self) -> str:
        """A line for each: name, what is used, what holds (`max`: any number), and whose limit that
        is: `own`, the name of an ancestor, or a key of /etc/agentfs.yaml; `-` for none."""
        return self.process.kernel.limits.status(self.process.process)

    @live("shares", example="parked  10  1788  waiting reads and writes")
    def shares(self) -> str:
        """What all have together, a pot a line below a headline: how much of it this process holds
        (HELD), and how much more it may take now (ROOM), of what (UNIT). Shared with its agent's
        earlier processes. /sys/shares says who holds most."""
        shares = self.process.kernel.shares
        return shares.of(shares.agent(self.process.process.name))


def _usage(name: str, example: str, doc: str) -> Callable[..., Any]:
    """The file of what is used of one limit."""

    def used(directory: UsageDirectory) -> str:
        process = directory.process
        return shown(process.kernel.limits.used(process.process, name))

    used.__doc__ = doc
    return live(name, example=example)(used)


class UsageDirectory(_OfProcess):
    """/proc/PID/usage: what the process uses of its limits; what its children use is theirs. Calls
    that are open count with what was set aside for them."""

    PATH = "/proc/PID/usage"
    WHAT = "What it uses of that."

    max_children = _usage("max_children", "2", "Its living children.")
    max_concurrent_tasks = _usage("max_concurrent_tasks", "1", "The messages it has claimed.")
    timeout_seconds = _usage(
        "timeout_seconds", "12", "For how many seconds it has had the oldest of them."
    )
    max_tokens_per_hour = _usage(
        "max_tokens_per_hour", "4200", "The tokens it used within the last 3600 s."
    )
    max_tokens_total = _usage("max_tokens_total", "123456", "The tokens it used in all.")
    max_context_tokens = _usage("max_context_tokens", "9000", "The tokens of its largest call.")
    max_llm_calls = _usage("max_llm_calls", "17", "Its calls of models.")
    max_tool_calls = _usage("max_tool_calls", "40", "Its calls of tools.")
    max_cost_usd = _usage("max_cost_usd", "0.31725", "What they cost, in dollars.")
    messages_per_minute = _usage(
        "messages_per_minute",
        "3",
        "The messages it sent within the last 60 s; 0 while no limit holds for it: then they are"
        " not counted.",
    )
    max_memory_mb = _usage("max_memory_mb", "81.5", "MiB that its programs have.")
    max_cpu_seconds = _usage("max_cpu_seconds", "3.18", "Processor time of its programs.")
    max_pids = _usage(
        "max_pids", "12", "Processes and threads of the machine that its programs have."
    )
    calls_per_minute = _usage(
        "calls_per_minute", "3", "Within the last 60 s; 0 while nothing limits it."
    )
    spawns_per_minute = _usage(
        "spawns_per_minute", "3", "Within the last 60 s; 0 while nothing limits it."
    )
    signals_per_minute = _usage(
        "signals_per_minute", "3", "Within the last 60 s; 0 while nothing limits it."
    )
    claims_per_minute = _usage(
        "claims_per_minute", "3", "Within the last 60 s; 0 while nothing limits it."
    )
    artifacts_per_minute = _usage(
        "artifacts_per_minute", "3", "Within the last 60 s; 0 while nothing limits it."
    )
    llm_calls_per_minute = _usage(
        "llm_calls_per_minute", "3", "Within the last 60 s; 0 while nothing limits it."
    )
    tool_calls_per_minute = _usage(
        "tool_calls_per_minute",
        "3",
        "Within the last 60 s; 0 while nothing limits it.",
    )


class BranchRows(ProcessRows):
    """The figures of a process and all below it."""

    @live("branch", example="processes 4\ntokens 41200\nllm_calls 17\n…\n")
    async def branch(self) -> bytes:
        """What it and everything below it have used since its start, also what has ended and is
        gone: a line each for processes (that live), tokens, llm_calls, tool_calls and cost_usd."""
        branches, first = self._kernel.branches, self._process.process
        figures, living, todo = Figures(), 0, [first]
        while todo:
            process = todo.pop()
            living += process.state.alive
            # Whose end is told to its parent already has no figures of its own any more.
            if process.state.alive:
                figures += branches.of(process) if process is first else branches.beside(process)
            todo += self._kernel.table.children(process.pid)
            await trio.lowlevel.checkpoint()
        return (
            f"processes {living}\ntokens {figures.tokens}\nllm_calls {figures.llm_calls}\n"
            f"tool_calls {figures.tool_calls}\ncost_usd {dollars(figures.cost)}\n"
        ).encode()
