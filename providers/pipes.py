"""/proc/PID/pipes: bytes between a process and its parent, through two FIFOs of Linux itself.

Linux opens a FIFO without asking us, and the mode cannot keep others out: parent and child may be
different users, and all may be one. So the gate is the look-up: entries are kept for no time, and
each open by path asks for the name first, which only the process and its present parent are given.

The gate is for paths. A program that has it open may hand the descriptor on, and keeps it when the
process gets another parent; and one that may trace another one (of the same user, as a rule) finds
its descriptors in Linux's /proc/OSPID/fd. Agents that do not trust each other need different users.
"""

from __future__ import annotations

import errno
import stat as st
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.process.events import ProcessExited, ProcessReparented
from agentfs.store.event import Event
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, HungUp
from agentfs.vfs.declare import fifo
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Fifo, Node, Stat
from agentfs.vfs.on import on
from agentfs.vfs.table import Table

if TYPE_CHECKING:
    from agentfs.providers.process import ProcessDirectory

__all__ = ["PipesDirectory"]


class Pipe(Fifo):
    """A FIFO that Linux has to ask for at every open. Its mode keeps nobody out: parent and child
    may be different users."""

    timeout = 0.0

    def __init__(self, key: Hashable, owner: Callable[[], Owner]) -> None:
        self.key = key
        self._owner = owner
        self._kept: Stat | None = None

    def stat(self) -> Stat:
        try:
            owner = self._owner()
        except KernelError:  # it is no more, but who has it open may go on asking
            if self._kept is None:
                raise
            return self._kept
        self._kept = Stat(st.S_IFIFO | 0o666, owner.uid, owner.gid, 0, owner.mtime)
        return self._kept


class PipesDirectory(Table):
    """/proc/PID/pipes: two FIFOs between the process and its parent, for these two only (EACCES),
    while it lives (ESTALE). Others see an empty directory."""

    PATH = "/proc/PID/pipes"
    WHAT = "Bytes to and from the parent, through two FIFOs; process 1 has none."
    gated = True

    def __init__(self, process: ProcessDirectory) -> None:
        self._process = process
        self.key = process.key_of("pipes")

    def owner(self) -> Owner:
        return self._process.owner()

    def _refusal(self, caller: Caller) -> KernelError | None:
        process = self._process.process
        if caller.principal.pid not in (process.pid, process.ppid):
            return KernelError(
                errno.EACCES,
                f"these pipes are for {process.name} and its parent, and you are"
                f" {caller.principal.name}",
                rule="pipes",
            )
        if not process.state.alive:
            return KernelError(errno.ESTALE, f"process {process.pid} has ended")
        return None

    def admit(self, name: str, caller: Caller) -> None:
        refusal = self._refusal(caller)
        if refusal is not None:
            raise refusal

    def listing(self, caller: Caller) -> Iterable[tuple[str, Node]]:
        return () if self._refusal(caller) is not None else self.entries()

    def _pipe(self, name: str) -> Pipe:
        return Pipe(self.key_of(name), self.owner)

    @on(ProcessExited, ProcessReparented)
    def _hung_up(self, event: Event) -> Iterator[Change]:
        """One of the two who may have the pipes open is another now."""
        for name in self.TABLE:
            yield HungUp(self.key_of(name))

    @fifo("up", 0o666)
    def up(self) -> Pipe:
        """From the process to its parent: it writes, the parent reads. 64 KiB wait in it; then a
        writer waits too (O_NONBLOCK: EAGAIN)."""
        return self._pipe("up")

    @fifo("down", 0o666)
    def down(self) -> Pipe:
        """From the parent to the process: the parent writes, the process reads."""
        return self._pipe("down")
