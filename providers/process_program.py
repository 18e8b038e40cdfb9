"""The program of a process in `/proc/PID`, in Linux's own formats."""

from __future__ import annotations

import os
from functools import partial

import trio

from agentfs.machine.proc import is_in_execve
from agentfs.machine.promptly import promptly
from agentfs.process.events import ProcessChanged, ProcessExited, ProcessRestarted
from agentfs.process.step_files import run_of
from agentfs.providers.process import ProcessRows
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import (
    file,
    link,
    live,
    value,
)
from agentfs.vfs.files import Basics, Live
from agentfs.vfs.node import Node
from agentfs.vfs.table import Entry

__all__ = ["ProgramRows"]


class ProgramRows(ProcessRows):
    """The files of Linux's /proc that a process has here, too."""

    def listed(self, entry: Entry) -> bool:
        return entry.name != "cwd" or self._works_here()

    @live("cmdline", example="python3\\0alice.py\\0")
    async def cmdline(self) -> bytes:
        """The command line of its program: arguments, each ended by a NUL, as in Linux's /proc;
        empty without a program. Of a step that of its node, without the shell that waits for it."""
        process = self._process.process
        given = "".join(f"{argument}\0" for argument in process.exec)
        if process.light:
            return given.encode(errors="surrogateescape")
        return await self._from_linux("cmdline", given.encode(errors="surrogateescape"))

    @file(
        "environ",
        0o400,
        kind="Live",
        private=True,
        example="AGENT_NAME=alice\\0AGENT_PID=7\\0…",
        errors={"EACCES": "it is another's, or you do not have the capability `secret`"},
    )
    def environ(self) -> Node:
        """The environment its program was started with: `NAME=text`, each ended by a NUL; empty
        without a program."""
        key = self._process.key_of("environ")
        return Live(Basics(key, 0o400, self.owner, self._secret_guard), late=self._environ)

    def _secret_guard(self, caller: Caller) -> None:
        self.private_guard(caller)
        self._kernel.capabilities.require(caller.principal, "secret")

    async def _environ(self) -> bytes:
        given = "".join(f"{key}={text}\0" for key, text in self._process.process.env.items())
        return await self._from_linux("environ", given.encode(errors="surrogateescape"))

    async def _from_linux(self, name: str, otherwise: bytes) -> bytes:
        """A file of the program in the machine's /proc. Read in a thread: it waits for the
        program's memory, which may itself be waiting for this daemon."""
        ospid = self._process.os_pid()
        if ospid is None or not self._process.process.state.alive or is_in_execve(ospid):
            return b""
        try:
            return await trio.to_thread.run_sync(_read, f"/proc/{ospid}/{name}")
        except OSError:  # it just ended, or is another user's
            return otherwise

    @link("cwd", example="/home/me/project")
    def cwd(self, caller: Caller) -> str:
        """Where its program works, as the machine says it; its memory without a program. Listed
        where that is in the tree, and always found."""
        return self._place()

    def _works_here(self) -> bool:
        """Whether its program works in the tree, below the root."""
        place = self._place()
        return place.startswith(("../", f"{self._kernel.mountpoint.rstrip('/')}/"))

    def _place(self) -> str:
        process, ospid = self._process.process, self._process.os_pid()
        if ospid is not None and process.state.alive:
            if not is_in_execve(ospid):
                place = promptly(partial(os.readlink, f"/proc/{ospid}/cwd"))
                if place is not None:  # it did not just end, and is not another user's
                    return place
            if process.cwd:
                return process.cwd
        if process.light:
            return f"../runs/{run_of(process)}/artifacts"
        return f"../../agents/{process.name}/memory"

    @value("ospid", on=(ProcessChanged, ProcessExited, ProcessRestarted), example="41217")
    def ospid(self) -> str:
        """The pid of its program for the machine; empty without one."""
        ospid = self._process.os_pid()
        return "" if ospid is None else str(ospid)


def _read(path: str) -> bytes:
    with open(path, "rb") as source:
        return source.read()
