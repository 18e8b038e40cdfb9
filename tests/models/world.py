"""A running system with a gateway that says who calls (`whoami`)."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from agentfs.models import worker
from tests.process.world import PATIENCE, System, eventually, fail_after_real, running

ROOT = Path(__file__).parents[2]


class Wire:
    """The test's end of the gateways that are started: what each was told by the kernel, and what
    it is to say."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "control")
        self._listener = trio.socket.from_stdlib_socket(socket.socket(socket.AF_UNIX))
        self.told: list[dict[str, Any]] = []
        self.gateways = 0
        self._last = 0
        self._stream: trio.SocketStream | None = None
        self._changed = trio.Event()

    async def run(self) -> None:
        with self._listener:
            await self._listener.bind(self.path)
            self._listener.listen()
            await self._serve()

    async def _serve(self) -> None:
        while True:
            accepted, _ = await self._listener.accept()
            self._stream = trio.SocketStream(accepted)
            self.gateways += 1
            self._tell()
            rest = b""
            try:
                async for data in self._stream:
                    *lines, rest = (rest + data).split(b"\n")
                    self.told += map(json.loads, lines)
                    self._tell()
            except trio.BrokenResourceError:
                pass
            finally:
                accepted.close()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, holds: Callable[[], object]) -> None:
        with fail_after_real(PATIENCE):
            while not holds():
                await self._changed.wait()

    def of(self, what: str) -> list[dict[str, Any]]:
        """The packets `what` that the gateways got, so far."""
        return [packet for packet in self.told if packet.get("do") == what]

    async def do(self, **told: Any) -> None:
        """Have the present gateway do something."""
        assert self._stream is not None
        await self._stream.send_all(json.dumps(told).encode() + b"\n")

    async def ask(self, packet: dict[str, Any]) -> dict[str, Any]:
        """Have it ask the kernel, and return the answer."""
        self._last += 1
        number = self._last
        await self.do(send=packet | {"n": number})
        answers = lambda: [told for told in self.told if told.get("n") == number]  # noqa: E731
        await self.until(answers)
        return answers()[0]


@asynccontextmanager
async def served(
    folder: Path, patch: pytest.MonkeyPatch, *, groups: bool = True
) -> AsyncIterator[tuple[System, Wire]]:
    """A running system, and the other end of its gateways."""
    wire = Wire(folder)
    command = (sys.executable, "-P", "-m", "tests.models.whoami", wire.path)
    patch.setattr(worker, "COMMAND", command)
    patch.setenv("PYTHONPATH", str(ROOT))
    async with running(folder / "state", groups=groups) as system, trio.open_nursery() as nursery:
        nursery.start_soon(wire.run)
        nursery.start_soon(system.kernel.gateway.run)
        await eventually(lambda: system.kernel.gateway.socket_path)
        yield system, wire
        nursery.cancel_scope.cancel()
