"""/proc/PID: a process, one agent at work."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import trio

from agentfs.clock import rfc3339
from agentfs.errors import KernelError
from agentfs.events import (
    AgentResumed,
    AgentStalled,
    ChildrenChanged,
    ProcessChanged,
    ProcessExited,
    ProcessReparented,
    ProcessRestarted,
    StateChanged,
)
from agentfs.process.model import Process
from agentfs.process.spec import parse_spec
from agentfs.providers.children import ChildrenDirectory
from agentfs.providers.mail import MAIL
from agentfs.providers.pipes import PipesDirectory
from agentfs.providers.streams import SignalStream, WaitStream
from agentfs.security.principal import INIT
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import control, directory, link, live, message, stream, transaction, value
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.handles import MAX_CONTROL, as_text
from agentfs.vfs.node import Directory, StreamHandle
from agentfs.vfs.table import Entry, Table

if TYPE_CHECKING:
    from agentfs.providers.proc import ProcDirectory

__all__ = ["ProcessDirectory"]

# What shows in `status` and `info`.
SHOWN = (
    StateChanged,
    ProcessChanged,
    ProcessExited,
    ProcessRestarted,
    ProcessReparented,
    ChildrenChanged,
    AgentStalled,
    AgentResumed,
    *MAIL,
)


class ProcessDirectory(Table):
    """/proc/PID: a process, one agent at work."""

    PATH = "/proc/PID"

    def __init__(self, proc: ProcDirectory, pid: int) -> None:
        self.proc = proc
        self.kernel = proc.kernel
        self.pid = pid
        self.key = ("proc", pid)

    @property
    def process(self) -> Process:
        """The process itself, asked for at every operation. ESTALE once it is gone."""
        found = self.kernel.table.find(self.pid)
        if found is None:
            raise KernelError(errno.ESTALE, f"process {self.pid} is no more")
        return found

    def owner(self) -> Owner:
        process = self.process
        return Owner(process.uid, process.gid, process.changed or int(process.started * 1e9))

    def private_guard(self, caller: Caller) -> None:
        name = self.process.name
        if not caller.principal.acts_for(name):
            raise KernelError(
                errno.EACCES,
                f"this is private to {name}, and you are {caller.principal.name}",
                rule="private",
            )

    def exists(self, entry: Entry) -> bool:
        return entry.name not in ("parent", "pipes") or self.process.ppid > 0

    def _ospid(self) -> int | None:
        return os.getpid() if self.pid == INIT else self.process.ospid

    def _messages(self) -> int:
        if self.kernel.agents.find(self.process.name) is None:
            return 0
        return self.kernel.mail.mailbox(self.process.name).waiting

    @value("status", on=SHOWN, example="Name:\talice\nState:\tidle\nRole:\tworker\n…\n")
    def status(self) -> str:
        """One `Key:\\tvalue` a line: Name, State, Role, Tier, Model, Pid, PPid, User, Node, OSPid
        (empty without a program), Started (RFC 3339), Restarts, Children (ended ones that were not
        collected included), Messages (that wait), Stalled (yes: mail waits, and it has taken and
        finished none for `messages.stall_after`), Tokens (used)."""
        process, ospid = self.process, self._ospid()
        return fields(
            ("Name", process.name),
            ("State", process.state.value),
            ("Role", process.role.value),
            ("Tier", process.tier.value),
            ("Model", process.model),
            ("Pid", process.pid),
            ("PPid", process.ppid),
            ("User", process.user),
            ("Node", process.node),
            ("OSPid", "" if ospid is None else ospid),
            ("Started", rfc3339(process.started)),
            ("Restarts", process.restarts),
            ("Children", len(self.kernel.table.children(self.pid))),
            ("Messages", self._messages()),
            ("Stalled", self.kernel.stalls.is_stalled(self.pid)),
            ("Tokens", process.tokens),
        )

    @value("info", on=SHOWN, example='{"name": "alice", "state": "idle", "role": "worker", …}')
    def info(self) -> str:
        """The same and everything else as one JSON object. Times RFC 3339, heartbeat in seconds;
        null is no value, and for a limit none."""
        process = self.process
        limits = process.limits
        return json.dumps(
            {
                "name": process.name,
                "state": process.state.value,
                "role": process.role.value,
                "tier": process.tier.value,
                "model": process.model,
                "pid": process.pid,
                "ppid": process.ppid,
                "user": process.user,
                "uid": process.uid,
                "gid": process.gid,
                "node": process.node,
                "ospid": self._ospid(),
                "attached": process.attached,
                "started": rfc3339(process.started),
                "ended": rfc3339(process.ended) if process.ended else None,
                "exit": process.exit_code,
                "output": process.output,
                "restart": process.restart.value,
                "restarts": process.restarts,
                "heartbeat": process.heartbeat or None,
                "exec": list(process.exec),
                "cwd": process.cwd,
                "children": [child.pid for child in self.kernel.table.children(self.pid)],
                "messages": self._messages(),
                "stalled": self.kernel.stalls.is_stalled(self.pid),
                "tokens": process.tokens,
                "limits": {slot: getattr(limits, slot) for slot in limits.__slots__},
            },
            ensure_ascii=False,
        )

    @value("state", on=(StateChanged, ProcessExited, ProcessRestarted), example="idle")
    def state(self) -> str:
        """What it does: idle, running, blocked, sleeping, zombie or dead."""
        return self.process.state.value

    @value("role", example="worker")
    def role(self) -> str:
        """What it is for: kernel, daemon, agent, architect, lead, worker or task."""
        return self.process.role.value

    @value("tier", example="tactical")
    def tier(self) -> str:
        """How much thinking it may buy: strategic, tactical or operational."""
        return self.process.tier.value

    @value("name", example="alice")
    def name(self) -> str:
        """The agent that it works for."""
        return self.process.name

    @value("ppid", on=(ProcessReparented,), example="1")
    def ppid(self) -> int:
        """The pid of its parent; 0 for process 1."""
        return self.process.ppid

    @value("exit", on=(ProcessExited, StateChanged, ProcessRestarted), example="0")
    def exit(self) -> str:
        """The exit code, or 128 + the signal that ended it; empty while it runs."""
        process = self.process
        return "" if process.state.alive or process.exit_code is None else str(process.exit_code)

    @link("agent", example="../../agents/alice")
    def agent(self, caller: Caller) -> str:
        """Its agent."""
        return f"../../agents/{self.process.name}"

    @link("parent", on=(ProcessReparented,), example="../1")
    def parent(self, caller: Caller) -> str:
        """Its parent; process 1 has none."""
        return f"../{self.process.ppid}"

    @directory("children", on=(ChildrenChanged,))
    def children(self) -> Directory:
        """A link to each of its children, named by pid."""
        return ChildrenDirectory(self)

    @directory("pipes")
    def pipes(self) -> Directory:
        """Bytes to and from the parent, through two FIFOs; process 1 has none."""
        return PipesDirectory(self)

    @live("cmdline", example="python3\\0alice.py\\0")
    async def cmdline(self) -> bytes:
        """The command line of its program: arguments, each ended by a NUL, as in Linux's /proc;
        empty without a program."""
        given = "".join(f"{argument}\0" for argument in self.process.exec)
        return await self._from_linux("cmdline", given.encode(errors="surrogateescape"))

    @live("environ", 0o400, private=True, example="AGENT_NAME=alice\\0AGENT_PID=7\\0…")
    async def environ(self) -> bytes:
        """The environment its program was started with: `NAME=text`, each ended by a NUL; empty
        without a program."""
        given = "".join(f"{key}={text}\0" for key, text in self.process.env.items())
        return await self._from_linux("environ", given.encode(errors="surrogateescape"))

    async def _from_linux(self, name: str, otherwise: bytes) -> bytes:
        """A file of the program in the machine's /proc. Read in a thread: it waits for the
        program's memory, which may itself be waiting for this daemon."""
        ospid = self._ospid()
        if ospid is None or not self.process.state.alive:
            return b""
        try:
            return await trio.to_thread.run_sync(_read, f"/proc/{ospid}/{name}")
        except OSError:  # it just ended, or is another user's
            return otherwise

    @link("cwd", example="/home/me/project")
    def cwd(self, caller: Caller) -> str:
        """Where its program works, as the machine says it; its memory without a program."""
        process, ospid = self.process, self._ospid()
        if ospid is not None and process.state.alive:
            try:
                return os.readlink(f"/proc/{ospid}/cwd")
            except OSError:  # it just ended, or is another user's
                if process.cwd:
                    return process.cwd
        return f"../../agents/{process.name}/memory"

    @value("ospid", on=(ProcessChanged, ProcessExited, ProcessRestarted), example="41217")
    def ospid(self) -> str:
        """The pid of its program for the machine; empty without one."""
        ospid = self._ospid()
        return "" if ospid is None else str(ospid)

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
        return self.kernel.settings.now.messages.max_size

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
        100, a line `LOST N` says how many are missing): TERM, KILL, STOP, CONT, HUP,
        `CHLD PID CODE`. Ends when the process is reaped."""
        self.process  # noqa: B018  # ESTALE
        return SignalStream(self.proc.signals, self.pid)

    @live("error", 0o400, private=True, example="/agents/bob/recv: EACCES: …")
    def error(self) -> str:
        """Why the last refused call of this process was refused, in words; empty if none was."""
        self.process  # noqa: B018  # ESTALE
        return self.kernel.refusals.text(self.pid)


def _read(path: str) -> bytes:
    with open(path, "rb") as source:
        return source.read()
