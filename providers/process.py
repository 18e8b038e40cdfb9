"""/proc/PID: a process, one agent at work. Here is what it is and does; others add the rest."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.machine.confine import described
from agentfs.model.principal import INIT
from agentfs.model.process import Process, ProcessKind
from agentfs.process.events import (
    AgentResumed,
    AgentStalled,
    CapabilityDropped,
    ChildrenChanged,
    ProcessChanged,
    ProcessExited,
    ProcessReparented,
    ProcessRestarted,
    ShownStateChanged,
    StateChanged,
    WhyChanged,
)
from agentfs.process.step_files import ATTEMPT, NODE, run_of
from agentfs.providers.caps import ROLES
from agentfs.providers.maildir import MAIL
from agentfs.quota.events import LimitChanged
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import (
    link,
    value,
)
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.table import AddedRows, Attached, Entry, Table

if TYPE_CHECKING:
    from agentfs.providers.proc import ProcDirectory

__all__ = ["ProcessDirectory", "ProcessRows"]

# These show in `status` and `info`.
SHOWN = (
    StateChanged,
    ShownStateChanged,
    ProcessChanged,
    ProcessExited,
    ProcessRestarted,
    ProcessReparented,
    ChildrenChanged,
    AgentStalled,
    AgentResumed,
    *MAIL,
)


CONFINED = (*SHOWN, CapabilityDropped, ROLES)
"""The same for `status`, which says whether what a program may do by now is what it was started
with."""


class ProcessDirectory(Table):
    """/proc/PID: a process, one agent at work."""

    PATH = "/proc/PID"

    def __init__(self, proc: ProcDirectory, pid: int) -> None:
        self.proc = proc
        self.kernel = proc.kernel
        self.pid = pid
        self.key = self.at(pid)

    @staticmethod
    def at(pid: int) -> tuple[str, int]:
        """The key of the directory of a process."""
        return ("proc", pid)

    def attached(self, kind: type[Attached]) -> Attached:
        return self.proc.kept.made(self, kind) if kind.KEPT else kind(self)  # type: ignore[call-arg]

    @property
    def process(self) -> Process:
        """The process itself, asked for at every operation. ESTALE once it is gone."""
        found = self.kernel.table.find(self.pid)
        if found is None:
            raise KernelError(errno.ESTALE, f"process {self.pid} is no more")
        return found

    def owner(self) -> Owner:
        process = self.process
        changed = process.changed or int(process.started * 1e9)
        # Other tables of the roles move it too, by a nanosecond: see `CONFINED`.
        return Owner(process.uid, process.gid, changed + self.proc.roles.times)

    def private_guard(self, caller: Caller) -> None:
        process = self.process
        name = process.name if caller.principal.name == process.name else process.agent
        if not caller.principal.acts_for(name):
            raise KernelError(
                errno.EACCES,
                f"this is private to {name}, and you are {caller.principal.name}",
                rule="private",
            )

    def exists(self, entry: Entry) -> bool:
        if entry.name in ("parent", "pipes"):
            return self.process.ppid > 0
        if entry.name in ("agent", "run"):
            return self.process.light is (entry.name == "run")
        return super().exists(entry)

    def listed(self, entry: Entry) -> bool:
        return entry.name != "parent" and super().listed(entry)

    def os_pid(self) -> int | None:
        """The pid of its program for the machine."""
        return os.getpid() if self.pid == INIT else self.process.ospid

    def _confined(self) -> str:
        process = self.process
        if self.os_pid() is None:
            return ""
        return described(self.kernel.grants.confinement(process), process.confined)

    def _children(self) -> list[Process]:
        """Its children, without runs: those count as nobody's."""
        found = self.kernel.table.children(self.pid)
        return [child for child in found if child.kind is not ProcessKind.RUN]

    def _messages(self) -> int:
        if self.kernel.agents.find(self.process.name) is None:
            return 0
        return self.kernel.mail.mailbox(self.process.name).waiting

    @value("status", on=CONFINED, example="Name:\talice\nState:\tidle\nRole:\tworker\n…\n")
    def status(self) -> str:
        """One `Key:\\tvalue` a line: Name, State, Role, Tier, Model, Pid, PPid, User, Groups (those
        of its definition), Node, OSPid (empty without a program), Started (RFC 3339), Restarts,
        Children (ended ones that were not collected included, runs not), Messages (that wait),
        Stalled (yes: mail waits, and it has taken and finished none for `messages.stall_after`),
        Tokens (used), Confined (what the machine keeps its program from, of `network`, or `models`:
        all of the network but these, `write`, `exec` and `read`; after `advisory:` what it is to be
        kept from but is not; `no`; empty without a program). A run and a step of a pipeline have
        Kind (run, step) and Agent (in whose name), a step has Step (its node) and Attempt."""
        process, ospid = self.process, self.os_pid()
        return fields(
            ("Name", process.name),
            ("State", self.kernel.why.state(process)),
            ("Role", process.role.value),
            ("Tier", process.tier.value),
            ("Model", process.model),
            ("Pid", process.pid),
            ("PPid", process.ppid),
            ("User", process.user),
            ("Groups", " ".join(process.groups)),
            ("Node", process.node),
            ("OSPid", "" if ospid is None else ospid),
            ("Started", rfc3339(process.started)),
            ("Restarts", process.restarts),
            ("Children", len(self._children())),
            ("Messages", self._messages()),
            ("Stalled", self.kernel.stalls.is_stalled(self.pid)),
            ("Tokens", process.tokens),
            ("Confined", self._confined()),
            *self._of_pipeline(),
        )

    def _of_pipeline(self) -> list[tuple[str, object]]:
        """More of a run, and of a step."""
        process = self.process
        if not process.light:
            return []
        told: list[tuple[str, object]] = [("Kind", process.kind.value), ("Agent", process.agent)]
        if process.kind is ProcessKind.STEP:
            told += ("Step", process.metadata[NODE]), ("Attempt", process.metadata[ATTEMPT])
        return told

    def _prompt(self) -> str:
        agent = self.kernel.agents.find(self.process.name)
        return "" if agent is None else agent.prompt

    def may_read_info(self, caller: Caller) -> None:
        """`read process` of the rules."""
        self.kernel.rules.read_process(caller.principal, self.process, "info")

    @value(
        "info",
        check="may_read_info",
        on=(*SHOWN, LimitChanged),
        example='{"name": "alice", "state": "idle", "role": "worker", …}',
        errors={"EACCES": "your role may not read it", "EPERM": "it is another user's"},
    )
    def info(self) -> str:
        """The same and everything else as one JSON object. Times RFC 3339, heartbeat in seconds;
        null is no value, and for a limit none."""
        process = self.process
        limits = process.limits
        return json.dumps(
            {
                "name": process.name,
                "state": self.kernel.why.state(process),
                "role": process.role.value,
                "tier": process.tier.value,
                "model": process.model,
                "pid": process.pid,
                "ppid": process.ppid,
                "user": process.user,
                "uid": process.uid,
                "gid": process.gid,
                "node": process.node,
                "group": process.group,
                "groups": list(process.groups),
                "metadata": process.metadata,
                "prompt": self._prompt(),
                "ospid": self.os_pid(),
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
                "children": [child.pid for child in self._children()],
                "messages": self._messages(),
                "stalled": self.kernel.stalls.is_stalled(self.pid),
                "tokens": process.tokens,
                "limits": {slot: getattr(limits, slot) for slot in limits.__slots__},
            },
            ensure_ascii=False,
        )

    @value(
        "state",
        on=(StateChanged, ProcessExited, ProcessRestarted, ShownStateChanged),
        polled=True,
        example="idle",
    )
    def state(self) -> str:
        """What it does: idle, running, blocked, sleeping, zombie or dead; instead of the first two
        `waiting`, where somebody else has to do something (see `why`), or `hung`."""
        return self.kernel.why.state(self.process)

    @value(
        "why",
        check="may_read_info",
        on=(WhyChanged, StateChanged, ProcessExited, ProcessRestarted),
        example="approval 2026-11-21T09:00:00.123Z 000002 by operator until 2026-11-21T09:10:00.0…",
        errors={"EACCES": "your role may not read it", "EPERM": "it is another user's"},
    )
    def why(self) -> str:
        """What it waits for or what holds it up, in one line: a word, since when, and the rest.
        `approval` (which, by whom, until when), `model` and `tool` (which is to answer), `ask`
        (which, to whom), `queue` (which is full), `budget`, `limit` or `full` (what was refused,
        and how often since), `working` (on which message, from whom, which attempt), `hung` (after
        its task was taken from it), `silent` (although mail waits), `mail`, `topic`, `overheard`,
        `end` (of which process), `stopped` (by whom), `restart` (which attempt of how many, when,
        the last exit code and line of output), `ending`, `ended` (exit code, last line), `program`
        (it runs, and waits for nothing here; of a step: of which node), `run` (of a run: the nodes
        whose programs are at work) or `none` (it has no program). A change is announced
        within 200 ms."""
        return self.kernel.why.of(self.process)

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
        """The agent that it works for; of a run `PIPELINE@PID`, of a step that and `:NODE`."""
        return self.process.name

    @value("cgroup", on=(ProcessChanged,), example="0::/team/a")
    def cgroup(self) -> str:
        """Its group of /sys/cgroup, in Linux's format: `0::` and the path, `/` for none."""
        return f"0::/{self.process.group}"

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
        """Its agent; a run and a step have none."""
        return f"../../agents/{self.process.name}"

    @link("run", example="../runs/12")
    def run(self, caller: Caller) -> str:
        """The run that it is, or is a step of; other processes have none."""
        process = self.process
        return f"../runs/{run_of(process)}"

    @link("parent", on=(ProcessReparented,), example="../1")
    def parent(self, caller: Caller) -> str:
        """Its parent; process 1 has none. Found and not listed, so that what follows links (`zip
        -r`, `find -L`) comes to an end."""
        return f"../{self.process.ppid}"


class ProcessRows(AddedRows):
    """Entries that another provider adds to each process."""

    INTO = "/proc/PID"

    def __init__(self, directory: ProcessDirectory) -> None:
        super().__init__(directory)
        self._process = directory
        self._kernel = directory.kernel
        self._pid = directory.pid
