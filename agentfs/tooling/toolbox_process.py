"""The daemon's end of the toolbox of a process (`agentfs.toolbox`): requests, and their answers.

Each request is a packet with the descriptors it is about; see `agentfs.toolbox.__main__`. A toolbox
speaks for programs of an agent: it is read with care, and decides nothing but what that agent is
told.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import trio

import agentfs
from agentfs.base.errors import KernelError
from agentfs.machine.sidecar import Sidecar
from agentfs.model.process import Process
from agentfs.tooling.sidecars import Running, Sidecars

__all__ = ["COMMAND", "READS", "ToolboxProcess", "in_memory"]

COMMAND = (sys.executable, "-I", "-m", "agentfs.toolbox")
"""`-I`: neither the folder it starts in nor its environment says where modules are."""

READS = (sys.prefix, sys.base_prefix, str(Path(agentfs.__path__[0]).parent))
"""What Python and this package are in."""

PACKET = 64 * 1024
MOST_WORDS = 2000

MOST_UNASKED = 100
"""Packets that one may send within a second without having been asked; then it is ended."""

ERRNOS = {
    name: getattr(errno, name)
    for name in ("EINVAL", "ENOENT", "EREMOTEIO", "ESHUTDOWN", "ETIMEDOUT")
}
"""Those that a toolbox may give. ESHUTDOWN is for us: the server is gone, and was not asked."""

Heard = Callable[[dict[str, Any]], object]


@contextmanager
def in_memory(content: bytes) -> Iterator[int]:
    """A descriptor of a file in memory that has this content, at its beginning."""
    descriptor = os.memfd_create("agentfs", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


class ToolboxProcess:
    """The toolbox at work for one process. `heard` is called with what it says by itself."""

    def __init__(self, sidecars: Sidecars, running: Running, ours: socket.socket, heard: Heard):
        self._sidecars = sidecars
        self.running = running
        self._socket = trio.socket.from_stdlib_socket(ours)
        self._heard = heard
        self._asked = 0
        self._answers: dict[int, dict[str, Any] | None] = {}
        self._arrived: dict[int, trio.Event] = {}
        self._sending = trio.Lock()
        sidecars.work(self._listen)

    @classmethod
    async def start(cls, sidecars: Sidecars, process: Process, heard: Heard) -> ToolboxProcess:
        """Start one for `process`. Raises what a launch raises."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                stdio = (theirs.fileno(), None, None)
                wanted = Sidecar(exec=COMMAND, reads=READS, stdio=stdio)
                running = await sidecars.start(process, wanted)
            return cls(sidecars, running, ours, heard)
        except BaseException:
            ours.close()
            raise

    @property
    def is_alive(self) -> bool:
        return not self.running.ended.is_set()

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._arrived)

    def close(self) -> None:
        """End it."""
        self._sidecars.kill(self.running)

    async def _listen(self) -> None:
        since, unasked = trio.current_time(), 0
        try:
            while packet := await self._socket.recv(PACKET):
                said = json.loads(packet)
                if "n" in said and said["n"] in self._arrived:
                    self._answers[said["n"]] = said
                    self._arrived[said["n"]].set()
                    continue
                if trio.current_time() - since >= 1.0:
                    since, unasked = trio.current_time(), 0
                unasked += 1
                if unasked > MOST_UNASKED:
                    break
                if "do" in said:
                    self._heard(said)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # it is no toolbox any more, whatever it is
        finally:
            self._socket.close()
            self.close()
            for arrived in self._arrived.values():
                arrived.set()

    async def ask(self, request: dict[str, Any], *descriptors: int) -> None:
        """Make a request and wait for its answer. Raises what that says, EREMOTEIO if the toolbox
        has ended. If it is cancelled, the toolbox is told that nobody waits."""
        self._asked += 1
        number = self._asked
        arrived = self._arrived[number] = trio.Event()
        try:
            await self._send(request | {"n": number}, descriptors)
            await arrived.wait()
            answer = self._answers.pop(number, None)
        except trio.Cancelled:
            with suppress(KernelError), trio.CancelScope(shield=True), trio.move_on_after(1):
                await self._send({"do": "cancel", "of": number}, ())
            raise
        finally:
            del self._arrived[number]
            self._answers.pop(number, None)
        if answer is None:
            raise _ended()
        if "errno" in answer:
            number = ERRNOS.get(str(answer["errno"]), errno.EREMOTEIO)
            raise KernelError(number, str(answer.get("words", ""))[:MOST_WORDS])

    async def _send(self, request: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        notes = []
        if descriptors:
            numbers = b"".join(each.to_bytes(4, sys.byteorder) for each in descriptors)
            notes = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
        async with self._sending:
            try:
                await self._socket.sendmsg([json.dumps(request).encode()], notes)
            except (OSError, trio.ClosedResourceError):
                raise _ended() from None


def _ended() -> KernelError:
    return KernelError(errno.EREMOTEIO, "what works for tools beside your program has ended")
