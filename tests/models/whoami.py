"""A gateway that tells everybody who connects who they are, as the kernel says, and does what a
test sends it: it speaks the channel, and no HTTP.

    python -m tests.models.whoami CONTROL FD PARENT UID GID

At its doors: `who` is asked at once, the answer is written as a line of JSON, and the connection is
closed. On the unix socket CONTROL (`-`: to nobody) it forwards each packet of the kernel as a line
(`fds`: how many descriptors came with it), and takes lines: {"send": packet}, {"exit": code},
{"print": text}, {"fork": true}, {"flood": how many requests at once}.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any

from agentfs.gateway.peers import peer_of
from agentfs.gateway.seclusion import seclude

CMSG = socket.CMSG_SPACE(64)


class WhoAmI:
    def __init__(self, control: str, channel: int) -> None:
        self._channel = socket.socket(fileno=channel)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._channel, selectors.EVENT_READ, self._packet)
        self._control: socket.socket | None = None
        if control != "-":
            self._control = socket.socket(socket.AF_UNIX)
            self._control.connect(control)
            self._rest = b""
            self._selector.register(self._control, selectors.EVENT_READ, self._told)
        self._asked: dict[int, socket.socket] = {}
        self._doors: list[socket.socket] = []
        self._held: list[socket.socket] = []
        self._last = 1_000_000
        self._send({"do": "ready"})

    def _send(self, packet: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        beside = []
        if descriptors:
            beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        self._channel.sendmsg([json.dumps(packet).encode()], beside)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _packet(self) -> None:
        data, beside, _, _ = self._channel.recvmsg(1 << 16, CMSG)
        if not data:
            sys.exit(0)
        descriptors = array.array("i")
        for _, _, more in beside:
            descriptors.frombytes(more)
        packet = json.loads(data)
        if packet.get("n", 0) in self._asked:
            connection = self._asked.pop(packet["n"])
            connection.setblocking(True)
            with contextlib.suppress(OSError):
                connection.sendall(data + b"\n")
            connection.close()
        if packet == {"do": "configure"} and descriptors:
            with open(descriptors[0], "rb") as file:
                file.seek(0)
                packet |= {"size": len(file.read())}
        elif packet.get("do") == "serve":
            door = socket.socket(fileno=descriptors[0])
            self._doors.append(door)
            self._selector.register(door, selectors.EVENT_READ, lambda: self._accept(door))
        elif packet.get("do") == "connection":
            given = socket.socket(fileno=descriptors[0])
            with contextlib.suppress(OSError):
                given.sendall(data + b"\n")
            self._held.append(given)
        self._tell(packet | {"fds": len(descriptors)})

    def _tell(self, told: dict[str, Any]) -> None:
        if self._control is not None:
            self._control.sendall(json.dumps(told).encode() + b"\n")

    def _accept(self, door: socket.socket) -> None:
        try:
            connection, _ = door.accept()
        except BlockingIOError:
            return
        peer = peer_of(connection)
        if peer is None:
            connection.close()
            return
        self._last += 1
        self._asked[self._last] = connection
        packet = {"do": "who", "n": self._last, **peer.packet}
        if peer.pidfd < 0:
            self._send(packet)
        else:
            self._send(packet, (peer.pidfd,))
            os.close(peer.pidfd)

    def _told(self) -> None:
        data = self._control.recv(65536)
        if not data:
            sys.exit(0)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._do(json.loads(line))

    def _do(self, told: dict[str, Any]) -> None:
        if "send" in told:
            self._send(told["send"])
        if "print" in told:
            print(told["print"], file=sys.stderr, flush=True)
        if "fork" in told:
            child = os.fork()
            if child == 0:
                signal.pause()
            self._tell({"do": "forked", "child": child})
        for number in range(told.get("flood", 0)):
            self._send({"do": "models", "n": number + 10_000, "pid": 1})
        if "exit" in told:
            os._exit(told["exit"])


def main() -> None:
    control, channel, parent, uid, gid = sys.argv[1:]
    gateway = WhoAmI(control, int(channel))
    seclude(int(parent), int(uid), int(gid))
    gateway.run()


if __name__ == "__main__":
    main()
