"""Signs between a process, its program and its parent in `/proc/PID`: of life, signals, its end,
and why a call of it was refused."""

from __future__ import annotations

import errno

from agentfs.base.errors import KernelError
from agentfs.providers.process import ProcessRows
from agentfs.providers.streams import SignalStream, WaitStream
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import control, live, message, stream
from agentfs.vfs.handles import MAX_CONTROL
from agentfs.vfs.node import StreamHandle

__all__ = ["SignRows"]


class SignRows(ProcessRows):
    """How a process shows that it lives, and hears what it is told."""

    @stream("wait", 0o400, example="0", errors={"ESTALE": "it is gone and no code was kept"})
    def wait(self, caller: Caller) -> StreamHandle:
        """Blocks until it ends, then gives the exit code. A reader that is the parent reaps it."""
        self._process.process  # noqa: B018  # ESTALE
        return WaitStream(self._kernel, self._pid, caller.principal)

    @message(
        "heartbeat",
        0o200,
        limit="heartbeat_limit",
        example="1",
        errors={"EACCES": "you are neither this process nor the operator"},
    )
    async def heartbeat(self, content: bytes, caller: Caller) -> None:
        """Write anything: it is alive."""
        self._process.process  # noqa: B018  # ESTALE
        self._kernel.processes.heartbeat(caller.principal, self._pid)

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
        self._process.process  # noqa: B018  # ESTALE
        if not (command.isascii() and command.isdigit() and 0 < int(command[:10]) < 2**31):
            raise KernelError(errno.EINVAL, f"a pid of the machine was expected, not {command!r}")
        self._kernel.processes.attach(caller.principal, self._pid, int(command))

    @stream("signals", 0o400, private=True, example="TERM\nCHLD 7 0\n")
    def signals(self, caller: Caller) -> StreamHandle:
        """Signals and notices sent to this process since its start, one a line (at most the newest
        100, a line `LOST N` says how many are missing): TERM, KILL, STOP, CONT, HUP (also for a
        new parent, and then the program gets no signal), of children `CHLD PID CODE`,
        `HUNG PID NAME WHY` (it missed its heartbeats and is killed), `ESCALATE PID NAME WHY` (it
        was given up). Ends when the process is reaped."""
        self._process.process  # noqa: B018  # ESTALE
        return SignalStream(self._process.proc.signals, self._pid)

    @live("error", 0o400, private=True, example="/agents/bob/recv: EACCES: …")
    def error(self) -> str:
        """Why the last refused call of this process was refused, in words, and for a document with
        a line for each fault; empty if none was. An older one says its age: `(12 s ago)`. A refusal
        by Linux itself, by the mode bits, is not here."""
        self._process.process  # noqa: B018  # ESTALE
        return self._kernel.refusals.text(self._pid)
