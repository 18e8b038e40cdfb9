"""The gateway's end of its channel to the daemon: packets of JSON, with descriptors beside them.

The pair is SOCK_SEQPACKET: a packet is a whole object or nothing, and the end of one process is the
end of file of the other. A request carries a number, `n`, and its reply the same one.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import trio

__all__ = ["ChannelClosedError", "DaemonChannel", "Packet"]

Packet = dict[str, Any]

MOST = 1 << 16
"""Bytes of a packet. A longer one comes in a file in memory, whose descriptor goes with it."""

DESCRIPTORS = 4


class ChannelClosedError(Exception):
    """The daemon has ended, or has closed its end."""


class _Reply:
    """One that is awaited. `late` is called with it if nobody awaits it any more when it comes."""

    __slots__ = ("came", "late", "packet")

    def __init__(self, late: Callable[[Packet], None] | None) -> None:
        self.came: trio.Event | None = trio.Event()
        self.packet: Packet | None = None
        self.late = late


class DaemonChannel:
    """Takes the descriptor of an inherited socket, and owns it."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._last = 0
        self._replies: dict[int, _Reply] = {}
        self._closed = False

    async def packets(self, take: Callable[[Packet, list[int]], None]) -> None:
        """Hand every packet that is no reply to `take`, with its descriptors, until the end of
        file."""
        try:
            while True:
                try:
                    data, descriptors = self._receive()
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._socket)
                    continue
                except OSError:
                    return
                if not data:
                    return
                packet = json.loads(data)
                number = packet.get("n")
                if number is None:
                    take(_whole(packet, descriptors), descriptors)
                else:
                    self._reply(number, packet)
        finally:
            self._closed = True
            self._socket.close()
            for reply in self._replies.values():
                if reply.came is not None:
                    reply.came.set()

    def _receive(self) -> tuple[bytes, list[int]]:
        space = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)
        data, beside, _, _ = self._socket.recvmsg(MOST, space, socket.MSG_CMSG_CLOEXEC)
        return data, list(_descriptors(beside))

    def _reply(self, number: int, packet: Packet) -> None:
        reply = self._replies.pop(number, None)
        if reply is None:
            return
        reply.packet = packet
        if reply.came is not None:
            reply.came.set()
        elif reply.late is not None:
            reply.late(packet)

    async def ask(
        self,
        packet: Packet,
        descriptors: Sequence[int] = (),
        late: Callable[[Packet], None] | None = None,
    ) -> Packet:
        """Send a request and wait for its reply. If the wait is cancelled, `late` gets the reply
        when it comes. Raises ChannelClosedError."""
        self._last += 1
        number = self._last
        reply = self._replies[number] = _Reply(late)
        assert reply.came is not None
        try:
            await self._send(packet | {"n": number}, descriptors)
            await reply.came.wait()
        except trio.Cancelled:
            reply.came = None
            if reply.packet is not None and late is not None:
                late(reply.packet)
            raise
        if reply.packet is None:
            raise ChannelClosedError
        return reply.packet

    def tell(self, packet: Packet) -> None:
        """Send what has no reply. It is dropped where the daemon does not read: each of these is
        followed by another."""
        with suppress(OSError):
            self._socket.send(_encoded(packet))

    async def _send(self, packet: Packet, descriptors: Sequence[int]) -> None:
        data = _encoded(packet)
        beside = []
        if descriptors:
            beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        while True:
            if self._closed:
                raise ChannelClosedError
            try:
                self._socket.sendmsg([data], beside)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)
            except OSError:
                raise ChannelClosedError from None
            else:
                return


def _encoded(packet: Packet) -> bytes:
    return json.dumps(packet, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _descriptors(beside: list[tuple[int, int, bytes]]) -> Iterator[int]:
    for level, kind, data in beside:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            yield from numbers


def _whole(packet: Packet, descriptors: list[int]) -> Packet:
    """The packet itself, or the one in the file that came with it."""
    if packet != {"do": "configure"} or not descriptors:
        return packet
    with os.fdopen(descriptors.pop(0), "rb") as file:
        file.seek(0)
        said: Packet = json.load(file)
        return said | {"do": "configure"}
