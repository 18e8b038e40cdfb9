"""/proc/PID: a process, one agent at work."""

from __future__ import annotations

import errno

import trio

from agentfs.base.errors import KernelError
from agentfs.mail.settings import MessageSettings
from agentfs.model.spec import parse_spec
from agentfs.process.events import ChildrenChanged
from agentfs.providers.budget import BudgetDirectory
from agentfs.providers.caps import CapsDirectory
from agentfs.providers.children import ChildrenDirectory
from agentfs.providers.limits import LimitsDirectory, UsageDirectory
from agentfs.providers.pipes import PipesDirectory
from agentfs.providers.process_program import ProcessProgram
from agentfs.providers.streams import SignalStream, WaitStream
from agentfs.quota.accounting import dollars
from agentfs.quota.branches import Figures
from agentfs.quota.commands import serve_call
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import (
    control,
    directory,
    live,
    message,
    stream,
    transaction,
)
from agentfs.vfs.handles import MAX_CONTROL, as_text
from agentfs.vfs.node import Directory, StreamHandle
from agentfs.vfs.table import Entry

__all__ = ["ProcessDirectory"]


class ProcessDirectory(ProcessProgram):
    """/proc/PID: a process, one agent at work."""

    PATH = "/proc/PID"

    def listed(self, entry: Entry) -> bool:
        return entry.name != "parent" and (entry.name != "cwd" or self.works_here())

    @directory("children", on=(ChildrenChanged,))
    def children(self) -> Directory:
        """A link to each of its children, named by pid."""
        return ChildrenDirectory(self)

    @directory("caps")
    def caps(self) -> Directory:
        """What it may, and what it gave up."""
        return CapsDirectory(self)

    @directory("pipes")
    def pipes(self) -> Directory:
        """Bytes to and from the parent, through two FIFOs; process 1 has none."""
        return PipesDirectory(self)

    @control(
        "ctl",
        0o200,
        example="term 10s",
        errors={
            "EINVAL": "unknown command, or wrong arguments",
            "ESRCH": "reparent: no such process",
            "EACCES": "the role may not do that to this process",
            "EPERM": "process 1, another user's process, a higher tier, an illegal transition",
            "EAGAIN": "reparent: the child limit",
            "ELOOP": "reparent: to itself or to one below it",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: TERM, KILL, STOP, CONT, HUP, `term 10s` (with a grace period), kill-branch,
        `reparent PID`, idle, running, ready (its children may start), `done CODE TEXT`."""
        self.process  # noqa: B018  # ESTALE
        self.kernel.processes.command(caller.principal, self.pid, command)

    @transaction(
        "spawn",
        0o600,
        example="{name: bob, role: worker, exec: [python3, bob.py]}",
        errors={
            "EINVAL": "not a valid spec",
            "EACCES": "you are neither this process nor the operator; or its role may not spawn",
            "EPERM": "the tier is above its parent's; another user; the role kernel",
            "EAGAIN": "the child limit",
            "EEXIST": "the name is taken",
            "ETIMEDOUT": "its program did not start within 10 s",
        },
    )
    async def spawn(self, request: bytes, caller: Caller) -> str:
        """Write a spec (YAML or JSON): a child of this process starts. Read its pid back."""
        self.process  # noqa: B018  # ESTALE
        spec = parse_spec(as_text(request))
        child = await self.kernel.processes.spawn(caller.principal, self.pid, spec)
        return f"{child.pid}\n"

    @transaction(
        "escalate",
        0o600,
        limit="message_limit",
        example="error the build fails on main",
        errors={
            "EINVAL": "no severity, or no text",
            "ESRCH": "it has ended, or is process 1",
            "EACCES": "you are neither this process nor the operator; or its role may not",
            "EAGAIN": "it waits for messages.max_open_asks answers already",
            "ENOSPC": "every inbox above it is full",
        },
    )
    async def escalate(self, request: bytes, caller: Caller) -> str:
        """Write `SEVERITY TEXT` (info, warning, error or critical): the parent gets it as a message
        of `Type: escalation`, and without a reply in time the next one up, to process 1. Read its
        id back: it is one of the agent's `asks`."""
        self.process  # noqa: B018  # ESTALE
        severity, _, text = as_text(request).lstrip().partition(" ")
        escalate = self.kernel.escalations.escalate
        ask = escalate(caller.principal, self.pid, severity.strip(), text)
        return f"{ask.key}\n"

    def message_limit(self) -> int:
        return self.kernel.settings.of(MessageSettings).max_size

    @directory("limits")
    def limits(self) -> Directory:
        """What it may use."""
        return LimitsDirectory(self)

    @directory("usage")
    def usage(self) -> Directory:
        """What it uses of that."""
        return UsageDirectory(self)

    @live("branch", example="processes 4\ntokens 41200\nllm_calls 17\n…\n")
    async def branch(self) -> bytes:
        """What it and everything below it have used since its start, also what has ended and is
        gone: a line each for processes (that live), tokens, llm_calls, tool_calls and cost_usd."""
        figures, living, todo = Figures(), 0, [self.process]
        while todo:
            process = todo.pop()
            living += process.state.alive
            # Whose end is told to its parent already has no figures of its own any more.
            figures += self.kernel.branches.of(process) if process.state.alive else Figures()
            todo += self.kernel.table.children(process.pid)
            await trio.lowlevel.checkpoint()
        return (
            f"processes {living}\ntokens {figures.tokens}\nllm_calls {figures.llm_calls}\n"
            f"tool_calls {figures.tool_calls}\ncost_usd {dollars(figures.cost)}\n"
        ).encode()

    @directory("budget")
    def budget(self) -> Directory:
        """The tokens that it may use of models of each tier."""
        return BudgetDirectory(self)

    @transaction(
        "call",
        0o600,
        private=True,
        example="llm sonnet 4000",
        errors={
            "EINVAL": "malformed; tokens of a tool",
            "ESRCH": "it has ended",
            "ENOENT": "settle, cancel: no such call is open",
            "EACCES": "the capability llm, or tool:NAME",
            "EPERM": "a model above its tier; a capability that is denied",
            "EAGAIN": "budgets.max_open_calls are open; a rate",
            "EMSGSIZE": "more than max_context_tokens; settle: more than one call can use",
            "EDQUOT": "the budget, a limit, or the group has not so much left",
        },
    )
    async def call(self, request: bytes, caller: Caller) -> str:
        """Before a call of a model, write `llm [MODEL] [MAX_TOKENS]` (its own model by default;
        without a maximum as much is set aside as the model takes in one call, or as is left), of a
        tool `tool NAME`; read an id back, or `skipped RULE` where `on_limit: skip` applies. After
        it, `settle ID [INPUT OUTPUT]` (tokens; without them what was set aside is charged), or
        `cancel ID` if it was not made. What is open when the program ends is charged."""
        process = self.process
        return serve_call(self.kernel.calls, caller.principal, process.pid, as_text(request))

    @stream("wait", 0o400, example="0", errors={"ESTALE": "it is gone and no code was kept"})
    def wait(self, caller: Caller) -> StreamHandle:
        """Blocks until it ends, then gives the exit code. A reader that is the parent reaps it."""
        self.process  # noqa: B018  # ESTALE
        return WaitStream(self.kernel, self.pid, caller.principal)

    @message(
        "heartbeat",
        0o200,
        limit="heartbeat_limit",
        example="1",
        errors={"EACCES": "you are neither this process nor the operator"},
    )
    async def heartbeat(self, content: bytes, caller: Caller) -> None:
        """Write anything: it is alive."""
        self.process  # noqa: B018  # ESTALE
        self.kernel.processes.heartbeat(caller.principal, self.pid)

    def heartbeat_limit(self) -> int:
        return MAX_CONTROL

    @control(
        "attach",
        0o200,
        example="41217",
        errors={
            "EINVAL": "not a number",
            "ESRCH": "there is no such program",
            "EBUSY": "it has a program already",
            "EACCES": "you are neither this process nor the operator",
        },
    )
    async def attach(self, command: str, caller: Caller) -> None:
        """Write the machine's pid of a program that was started elsewhere: it becomes this
        process's program."""
        self.process  # noqa: B018  # ESTALE
        if not (command.isascii() and command.isdigit() and 0 < int(command[:10]) < 2**31):
            raise KernelError(errno.EINVAL, f"a pid of the machine was expected, not {command!r}")
        self.kernel.processes.attach(caller.principal, self.pid, int(command))

    @stream("signals", 0o400, private=True, example="TERM\nCHLD 7 0\n")
    def signals(self, caller: Caller) -> StreamHandle:
        """Signals and notices sent to this process since its start, one a line (at most the newest
        100, a line `LOST N` says how many are missing): TERM, KILL, STOP, CONT, HUP (also for a
        new parent, and then the program gets no signal), of children `CHLD PID CODE`,
        `HUNG PID NAME WHY` (it missed its heartbeats and is killed), `ESCALATE PID NAME WHY` (it
        was given up). Ends when the process is reaped."""
        self.process  # noqa: B018  # ESTALE
        return SignalStream(self.proc.signals, self.pid)

    @live("error", 0o400, private=True, example="/agents/bob/recv: EACCES: …")
    def error(self) -> str:
        """Why the last refused call of this process was refused, in words; empty if none was. An
        older one says its age: `(12 s ago)`. What Linux itself refuses by the mode bits is not
        here."""
        self.process  # noqa: B018  # ESTALE
        return self.kernel.refusals.text(self.pid)
