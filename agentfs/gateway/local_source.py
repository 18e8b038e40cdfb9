"""A model that runs on this machine: a process of ours, from its first use to our own end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import trio

from agentfs.gateway.http_source import HttpSource
from agentfs.gateway.played import TapeSource, find_tape
from agentfs.gateway.source import Deadline, FailedError, Incoming, Outgoing

__all__ = ["LocalSource"]

NOT_THERE = (1, 2)
"""Its exit code where it is not installed, or nobody knows it."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until one that has died is started again: doubled each time."""

STEADY_SECONDS = 60.0
"""One that ran for so long has not failed at its start."""

END_SECONDS = 5.0


class LocalSource:
    """`log` is told of ends. Where the model is not installed, a tape of the same name answers."""

    def __init__(
        self, name: str, model: str, tapes: str, nursery: trio.Nursery, log: Callable[[str], None]
    ) -> None:
        self._name, self._model, self._tapes = name, model, tapes
        self._nursery, self._log = nursery, log
        self._server: HttpSource | None = None
        self._starting: trio.Event | None = None
        self._scope: trio.CancelScope | None = None
        self._trouble: FailedError | None = None
        self._pause = FIRST_PAUSE
        self._again_at = 0.0
        self._tape = TapeSource(tapes, model)

    async def send(self, request: Outgoing, deadline: Deadline) -> Incoming:
        try:
            server = await self._running(deadline)
        except FailedError as trouble:
            if trouble.errno != "ENOENT" or find_tape(self._tapes, self._model) is None:
                raise
            return await self._tape.send(request, deadline)
        return await server.send(request, deadline)

    async def _running(self, deadline: Deadline) -> HttpSource:
        """The server, started if need be. Raises FailedError."""
        if self._server is not None:
            return self._server
        if self._starting is None:
            if self._trouble is not None and trio.current_time() < self._again_at:
                raise self._trouble.again_said()
            self._starting = trio.Event()
            self._nursery.start_soon(self._run, self._starting)
        deadline.first_byte()
        await self._starting.wait()
        if self._server is None:
            trouble = self._trouble or FailedError(f"{self._model} has ended")
            raise trouble.again_said()
        return self._server

    async def _run(self, ready: trio.Event) -> None:
        """Start it, and watch it until it ends."""
        began = trio.current_time()
        try:
            process = await self._process()
        except OSError as failure:
            self._trouble = FailedError(f"{self._model} cannot be started: {failure.strerror}")
            self._starting = None
            ready.set()
            return
        said = bytearray()
        try:
            with trio.CancelScope() as self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hear, process, said)
                    nursery.start_soon(self._await_port, process, ready)
                    await process.wait()
        finally:
            self._server = None
            if process.returncode is None:
                with trio.move_on_after(END_SECONDS, shield=True):
                    assert process.stdin is not None
                    await process.stdin.aclose()
                    await process.wait()
                if process.returncode is None:
                    process.kill()
            self._ended(process.returncode, bytes(said), trio.current_time() - began)
            self._starting = None
            ready.set()

    async def _process(self) -> trio.Process:
        return await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", "agentfs.localmodel", self._model],
            stdin=subprocess.PIPE,  # it ends with its standard input
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def _await_port(self, process: trio.Process, ready: trio.Event) -> None:
        assert process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            more = bytes(await process.stdout.receive_some())
            if not more:
                return
            line += more
        try:
            said = json.loads(line)
            url, key = f"http://127.0.0.1:{int(said['port'])}", str(said["key"])
        except (ValueError, KeyError, TypeError):
            self._log(f"{self._model} has not said where it is")
            process.terminate()
            return
        self._server = HttpSource(self._name, url, key, self._nursery, bearer=True)
        self._trouble = None
        self._starting = None
        ready.set()

    async def _hear(self, process: trio.Process, said: bytearray) -> None:
        """Keep the end of what it says: if it dies, that is why."""
        assert process.stderr is not None
        async for piece in process.stderr:
            said += piece
            del said[:-2_000]

    def _ended(self, code: int | None, said: bytes, seconds: float) -> None:
        words = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        if code in NOT_THERE:
            words = f"{self._model} cannot run here: {words}"
            self._trouble = FailedError(words, "ENOENT", again=False)
        else:
            words = f"{self._model} has ended with {code}" + (f": {words}" if words else "")
            self._trouble = FailedError(words)
            self._log(words)
        self._pause = FIRST_PAUSE if seconds > STEADY_SECONDS else self._pause * 2
        self._pause = min(self._pause, LONGEST_PAUSE)
        self._again_at = trio.current_time() + (0 if seconds > STEADY_SECONDS else self._pause)

    async def aclose(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
