"""/proc: the processes by pid, and figures of the whole system. One process: process.py."""

from __future__ import annotations

import errno
import json
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.model.process import State
from agentfs.process.events import ProcessReaped, ProcessSpawned
from agentfs.providers.caps import RoleChanges
from agentfs.providers.children import pid_of
from agentfs.providers.loadavg import LoadAverage
from agentfs.providers.maildir import MAIL
from agentfs.providers.process import ProcessDirectory
from agentfs.providers.streams import SignalLines
from agentfs.providers.system_table import SystemTable
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.declare import link, live
from agentfs.vfs.node import Node
from agentfs.vfs.on import on
from agentfs.vfs.table import Kept

__all__ = ["ProcDirectory"]


class ProcDirectory(SystemTable):
    """/proc: a directory for each process, and figures of the whole system."""

    PATH = "/proc"
    WHAT = "The processes by pid, and figures of the whole system."
    EACH = ProcessDirectory
    key = ("proc",)

    def __init__(self, above: SystemTable) -> None:
        super().__init__(above)
        self.signals = SignalLines(self.kernel)
        self._load = LoadAverage(self.kernel)
        self.roles = RoleChanges(self.kernel)
        self.kept = Kept()
        self.kernel.events.listen(self._heard, ProcessReaped)

    def _heard(self, record: Record) -> None:
        assert isinstance(record.event, ProcessReaped)
        self.kept.forget(ProcessDirectory.at(record.event.pid))

    def private_guard(self, caller: Caller) -> None:
        if not caller.principal.is_operator:
            raise KernelError(
                errno.EACCES,
                f"only the operator may see this, and you are {caller.principal.name}",
                rule="operator",
            )

    @link("self", example="7")
    def self_link(self, caller: Caller) -> str:
        """The caller's own process; 1 for the operator. ENOENT for who is no agent."""
        if caller.principal.pid is None:
            raise KernelError(errno.ENOENT, f"{caller.principal.name} has no process here")
        return str(caller.principal.pid)

    @live("uptime", example="123.45")
    def uptime(self) -> str:
        """Seconds since the daemon started."""
        return f"{max(0.0, self.kernel.clock.now() - self.kernel.started):.2f}"

    @live("version", example="agentfs 0.1.0")
    def version(self) -> str:
        """The name and the release of the kernel."""
        return f"agentfs {self.kernel.version}"

    @live("loadavg", example="1.25 0.80 0.31 2/14 29")
    def loadavg(self) -> str:
        """How many processes were running on average over 1, 5 and 15 minutes; running/all
        processes; the newest pid."""
        processes = list(self.kernel.table)
        running = sum(process.state is State.RUNNING for process in processes)
        newest = max((process.pid for process in processes), default=0)
        averages = " ".join(f"{average:.2f}" for average in self._load.read())
        return f"{averages} {running}/{len(processes)} {newest}"

    @live("stat", example="processes 14\nidle 10\n…\n")
    def stat_(self) -> str:
        """One `name number` a line: processes (in the table), then those in each state, agents,
        calls (of the system since the start), events and commits (ever; since the start), btime
        (start of the daemon, seconds since 1970)."""
        kernel = self.kernel
        states = [process.state for process in kernel.table]
        lines = [("processes", len(states))]
        lines += [(state.value, states.count(state)) for state in State]
        lines += [
            ("agents", len(kernel.agents)),
            ("calls", kernel.gate.calls),
            ("events", kernel.events.last),
            ("commits", kernel.store.commits),
            ("btime", int(kernel.started)),
        ]
        return "".join(f"{name} {number}\n" for name, number in lines)

    @live(
        "ended",
        0o400,
        private=True,
        example='{"pid": 7, "agent": "bob", "code": 2, "why": "code 2: cannot open d.sh", …}',
    )
    def ended(self) -> str:
        """The processes that ended within a week, the newest 1000, one JSON object a line: pid,
        ppid, agent, role, tier, restarts, started, ended, code, why (with the last line that it
        wrote). For the operator."""
        ends = [json.dumps(end, ensure_ascii=False) for end in self.kernel.history]
        return "".join(f"{end}\n" for end in ends)

    @live("mounts", example="agentfs /run/agents fuse.agentfs rw 0 0")
    def mounts(self) -> str:
        """Where the tree is mounted, in the format of Linux's /proc/mounts."""
        place = "".join(
            f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in self.kernel.mountpoint
        )
        return f"agentfs {place} fuse.agentfs rw 0 0"

    def find(self, name: str) -> Node | None:
        found = self.kernel.table.find(pid_of(name))
        return None if found is None else ProcessDirectory(self, found.pid)

    def more(self) -> Iterator[tuple[str, Node]]:
        for process in self.kernel.table:
            yield str(process.pid), ProcessDirectory(self, process.pid)

    def each(self, key: Any) -> ProcessDirectory:
        return ProcessDirectory(self, key[1])  # what `at` gives

    def concerned(self, event: Any) -> Sequence[Hashable]:
        if isinstance(event, MAIL):
            pid = self.kernel.table.pid_of(event.agent)
        elif isinstance(event, ConfigChanged):
            return [ProcessDirectory.at(process.pid) for process in self.kernel.table]
        elif hasattr(event, "pid"):
            pid = event.pid
        else:
            pid = self.kernel.table.pid_of(getattr(event, event.whose))
        return () if pid is None else (ProcessDirectory.at(pid),)

    @on(ProcessSpawned)
    def _spawned(self, event: ProcessSpawned) -> Iterator[Change]:
        spawned = ProcessDirectory(self, event.pid)
        spawned.remember()
        yield Created(self.key, str(event.pid), spawned)

    @on(ProcessReaped)
    def _reaped(self, event: ProcessReaped) -> Iterator[Change]:
        key = ProcessDirectory.at(event.pid)
        yield Removed(self.key, str(event.pid), key, is_directory=True)
