"""The kernel's end of the channel to the gateway: packets of JSON, with descriptors beside them.

Nothing that is sent here is ever logged, or kept after it was sent: it may have keys in it.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import trio

__all__ = ["MOST", "ChannelError", "GatewayLine", "Packet"]

Packet = dict[str, Any]

MOST = 1 << 16
"""Bytes of a packet; a longer one goes in a file in memory, whose descriptor is sent."""

DESCRIPTORS = 4
"""That may come with a packet."""

AT_ONCE = 32
"""Packets that are dealt with before others have their turn. `begin` takes 0.3 ms."""

WAITING_MOST = 65_536
WAITING_SECONDS = 30.0
"""The gateway that leaves so many packets, or the first of them for so long, hangs."""


class ChannelError(Exception):
    """What the gateway sends is no packet, or it does not read what it is sent."""


class GatewayLine:
    """Owns the socket, and the descriptors that are given away with it."""

    def __init__(self, ours: socket.socket) -> None:
        ours.setblocking(False)
        self._socket = ours
        self._waiting: deque[tuple[bytes, tuple[socket.socket | int, ...], bool]] = deque()
        self._more = trio.Event()
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many packets wait until the gateway reads."""
        return len(self._waiting)

    def send(
        self, packet: Packet, things: Sequence[socket.socket | int] = (), *, give: bool = False
    ) -> None:
        """Send it, with the descriptors of `things`, at once or when there is room. `give`: they
        are closed here then."""
        data = json.dumps(packet, separators=(",", ":")).encode()
        if len(data) > MOST:
            file = os.memfd_create(str(packet["do"]))
            with open(os.dup(file), "wb") as written:
                written.write(data)
            data = json.dumps({"do": packet["do"]}).encode()
            things, give = (file,), True
        self._waiting.append((data, tuple(things), give))
        if len(self._waiting) == 1:
            with suppress(OSError):  # the task meets it as well, and acts
                self._flush()
        if self._waiting:
            self._more.set()

    def _flush(self) -> None:
        """Send what there is room for. Raises OSError."""
        while self._waiting and not self._closed:
            data, things, give = self._waiting[0]
            beside = []
            if things:
                numbers = array.array(
                    "i", [one if isinstance(one, int) else one.fileno() for one in things]
                )
                beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
            try:
                self._socket.sendmsg([data], beside)
            except BlockingIOError:
                return
            self._waiting.popleft()
            if give:
                _close(things)

    async def run(self, take: Callable[[Packet, list[int]], object]) -> None:
        """Send what is to be sent, and hand what comes to `take`, with its descriptors, which are
        its own from then on. Returns when the gateway has closed its end. Raises OSError, and
        ChannelError."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_all)
            await self._receive_all(take)
            nursery.cancel_scope.cancel()

    async def _send_all(self) -> None:
        while True:
            if len(self._waiting) > WAITING_MOST:
                raise ChannelError("it does not read what it is sent")
            self._flush()
            if self._waiting:
                with trio.move_on_after(WAITING_SECONDS) as waited:
                    await trio.lowlevel.wait_writable(self._socket)
                if waited.cancelled_caught:
                    raise ChannelError(f"it has read nothing for {WAITING_SECONDS:g} s")
            else:
                self._more = trio.Event()
                await self._more.wait()

    async def _receive_all(self, take: Callable[[Packet, list[int]], object]) -> None:
        space = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            for _ in range(AT_ONCE):
                try:
                    data, beside, flags, _ = self._socket.recvmsg(
                        MOST, space, socket.MSG_CMSG_CLOEXEC
                    )
                except BlockingIOError:
                    break
                descriptors = _descriptors(beside)
                if not data:
                    return
                try:
                    packet = json.loads(data)
                    whole = not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
                    if not whole or not isinstance(packet, dict):
                        raise ValueError
                except ValueError:
                    _close(descriptors)
                    raise ChannelError("it has sent what is no packet") from None
                take(packet, descriptors)

    def close(self) -> None:
        """Close it, and what was to be given away."""
        self._closed = True
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        while self._waiting:
            _, things, give = self._waiting.popleft()
            if give:
                _close(things)


def _close(things: Sequence[socket.socket | int]) -> None:
    for one in things:
        if isinstance(one, int):
            os.close(one)
        else:
            one.close()


def _descriptors(beside: list[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in beside:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            found += numbers
    return found
