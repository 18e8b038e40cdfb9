"""Tools that are programs: arguments on the input, the result on the output, and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from agentfs.base.errors import KernelError
from agentfs.machine.sidecar import Sidecar
from agentfs.model.process import Process
from agentfs.process.failure import ended_how
from agentfs.tooling.document import Definition
from agentfs.tooling.sidecars import Running, Sidecars
from agentfs.tooling.toolbox_process import READS, in_memory

__all__ = ["Commands", "Sink", "command_of", "reads_of"]

CHUNK = 64 * 1024
TAIL = 4096
"""Bytes of what a program says of its failure that are looked at: the last."""

LINGER_SECONDS = 1.0
"""How long the output of a program that has ended is waited for: what it left behind may hold it
open for ever."""

FUNCTION = (sys.executable, "-I", "-m", "agentfs.toolbox.function")

Sink = Callable[[bytes], Awaitable[object]]


class _Flow:
    """What comes out of a program through so many pipes."""

    def __init__(self, pipes: int) -> None:
        self._open = pipes
        self._closed = trio.Event()
        self.count = 0
        self.delivering = False  # somebody else has to take what came

    def close_one(self) -> None:
        self._open -= 1
        if not self._open:
            self._closed.set()

    async def run_dry(self) -> None:
        """Wait until all are closed, or nothing has come for `LINGER_SECONDS`."""
        while not self._closed.is_set():
            before = self.count
            with trio.move_on_after(LINGER_SECONDS):
                await self._closed.wait()
            if self.count == before and not self.delivering:
                return


class Commands:
    """Runs them beside the programs of processes."""

    def __init__(self, sidecars: Sidecars) -> None:
        self._sidecars = sidecars

    async def run(
        self,
        process: Process,
        sidecar: Sidecar,
        arguments: bytes,
        sink: Sink,
        started: Callable[[], object] = lambda: None,
    ) -> None:
        """Run one to its end; what it writes goes to `sink`. `started` is called once it executes.

        Raises what its launch raises; EREMOTEIO with its own words if it fails. Cancelled, it is
        told to end.
        """
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        said, errors = os.pipe2(os.O_CLOEXEC)
        async with trio.lowlevel.FdStream(ours) as output, trio.lowlevel.FdStream(said) as words:
            try:
                with in_memory(arguments) as given:
                    stdio = (given, theirs, errors)
                    wanted = Sidecar(
                        exec=sidecar.exec, env=sidecar.env, reads=sidecar.reads, stdio=stdio
                    )
                    running = await self._sidecars.start(process, wanted)
            finally:
                os.close(theirs)
                os.close(errors)
            started()
            try:
                tail = await self._follow(running, output, words, sink)
            finally:
                self._sidecars.stop(running)
        if running.code != 0:
            raise KernelError(errno.EREMOTEIO, _why(running.code, tail))

    async def _follow(
        self,
        running: Running,
        output: trio.lowlevel.FdStream,
        words: trio.lowlevel.FdStream,
        sink: Sink,
    ) -> bytes:
        """Until it has ended and all that it wrote is read; the last of its errors."""
        tail = bytearray()
        flow = _Flow(2)

        async def read_errors() -> None:
            with suppress(trio.BrokenResourceError):
                async for chunk in words:
                    tail.extend(chunk)
                    del tail[:-TAIL]
                    flow.count += 1
            flow.close_one()

        async def read_output() -> None:
            with suppress(trio.BrokenResourceError):
                while chunk := await output.receive_some(CHUNK):
                    flow.delivering = True
                    await sink(chunk)
                    flow.delivering = False
                    flow.count += 1
            flow.close_one()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_errors)
            nursery.start_soon(read_output)
            await running.ended.wait()
            await flow.run_dry()
            nursery.cancel_scope.cancel()
        return bytes(tail)

    async def schema(self, process: Process, sidecar: Sidecar, seconds: float) -> bytes:
        """What a program says of itself, when asked with `--schema`. Raises as `run`, ETIMEDOUT,
        and EMSGSIZE for more than 256 KiB."""
        found = bytearray()

        async def keep(chunk: bytes) -> None:
            found.extend(chunk)
            if len(found) > 4 * CHUNK:
                scope.cancel()

        with trio.CancelScope() as scope, trio.move_on_after(seconds) as clock:
            await self.run(process, sidecar, b"", keep)
        if clock.cancelled_caught:
            raise KernelError(errno.ETIMEDOUT, f"it did not say its schema within {seconds:g} s")
        if len(found) > 4 * CHUNK:
            raise KernelError(errno.EMSGSIZE, "its schema has more than 256 KiB")
        return bytes(found)


def command_of(tool: Definition, *, schema: bool = False) -> tuple[str, ...]:
    """What is executed for a call of a tool, or to ask for its schema."""
    if tool.kind == "python":
        return (*FUNCTION, *(("--schema",) if schema else ()), *tool.command)
    return (*tool.command, *(("--schema",) if schema else ()))


def reads_of(tool: Definition) -> tuple[str, ...]:
    """What its program may read of the machine, besides that which every program of its process
    may."""
    return (*READS, *tool.reads) if tool.kind == "python" else tool.reads


def _why(code: int | None, tail: bytes) -> str:
    """The last line that it wrote to its errors, and how it ended."""
    lines = [line.strip() for line in tail.decode(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1][:500]} ({ended_how(code)})" if lines else ended_how(code)
