"""Who is at the other end of a connection, as Linux says it: never what the other end says.

A TCP connection that comes over loopback has both ends in this machine. Linux tells of the other
end by its addresses (sock_diag(7)): the control group that it was made in, the user, and the inode
number of the socket, by which the daemon finds the processes that have it open. A unix socket gives
a pidfd of the process that connected, which tells of it even when that has ended (SO_PEERPIDFD,
Linux 6.5; of one that was waited for, 6.16).

The answer is about the moment of the call, so it is asked for when the connection is accepted, and
once. A connection that was reset while it waited to be accepted can still be read: what its client
sent is there, and the client's addresses may be another's by now (tried). So our end has to be
connected still after the other one was looked at.

Standard library only.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

__all__ = ["Peer", "peer_of"]

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
INET_DIAG_CGROUP_ID = 21
NO_COOKIE = 0xFFFF_FFFF

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
REQUEST = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, extensions, states
PORTS = struct.Struct("!HH")  # inet_diag_sockid: source, destination
ADDRESSES = struct.Struct("=16s16s")
REST = struct.Struct("=III")  # interface, cookie
ANSWER = struct.Struct("=BBBB48xIIIII")  # inet_diag_msg: …, state, …, uid, inode
ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
ANSWER_SIZE = 72

# net/tcp_states.h: a client may have sent its end (shutdown) and wait for the answer.
ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT = 1, 4, 5, 8
THEIRS = frozenset({ESTABLISHED, FIN_WAIT1, FIN_WAIT2})
OURS = frozenset({ESTABLISHED, CLOSE_WAIT})

SO_PEERPIDFD = 77  # asm-generic/socket.h
CREDENTIALS = struct.Struct("=iII")  # ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of the other end. `packet` is what the daemon is asked with (`who`), and
    `pidfd` goes with it; it belongs to who asked, and is -1 if there is none.

    Of TCP: {"tcp": {"cgroup": id or null, "uid": …, "inode": …}}, where the id of a control group
    is the inode number of its directory. Of a unix socket: {"unix": {"pid": …, "uid": …}}.
    """

    packet: dict[str, Any]
    pidfd: int = -1


def peer_of(connection: socket.socket) -> Peer | None:
    """The other end of an accepted connection, TCP or unix. None if nobody can tell any more: it is
    closed, or was never in this machine. Waits for nothing: 15 µs."""
    try:
        if connection.family == socket.AF_UNIX:
            return _of_unix(connection)
        return _of_tcp(connection)
    except OSError:
        return None


def _of_unix(connection: socket.socket) -> Peer:
    size = CREDENTIALS.size
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = CREDENTIALS.unpack(said)
    pidfd = -1
    with suppress(OSError):  # an older Linux, or it was waited for
        pidfd = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        os.set_inheritable(pidfd, False)
    return Peer({"unix": {"pid": pid, "uid": uid}}, pidfd)


def _of_tcp(connection: socket.socket) -> Peer | None:
    theirs, ours = connection.getpeername(), connection.getsockname()
    if connection.family != socket.AF_INET:
        return None
    said = _diagnosed(theirs, ours) or _listed(theirs, ours)
    if said is None:
        return None
    state, uid, inode, cgroup = said
    if state not in THEIRS or not inode or _state(connection) not in OURS:
        return None
    return Peer({"tcp": {"cgroup": cgroup, "uid": uid, "inode": inode}})


def _state(connection: socket.socket) -> int:
    """The state of our end: the first byte of struct tcp_info."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def _diagnosed(
    theirs: tuple[str, int], ours: tuple[str, int]
) -> tuple[int, int, int, int | None] | None:
    """(state, uid, inode, control group) of the socket at `theirs` that is connected to `ours`, if
    anybody says. The group is not known before Linux 5.7. A socket that nobody has open has inode
    0."""
    request = REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0xFFFF_FFFF)
    request += PORTS.pack(theirs[1], ours[1])
    request += ADDRESSES.pack(socket.inet_aton(theirs[0]), socket.inet_aton(ours[0]))
    request += REST.pack(0, NO_COOKIE, NO_COOKIE)
    head = HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0)
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    try:
        with socket.socket(socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG) as diag:
            diag.send(head + request)  # answered before it returns
            answer = diag.recv(8192, socket.MSG_DONTWAIT)
    except OSError:  # a sandbox that has no such sockets
        return None
    length, answered, *_ = HEADER.unpack_from(answer)
    if answered != SOCK_DIAG_BY_FAMILY:
        return None  # an error: there is no such socket, or nobody here who tells of it
    _, state, _, _, _, _, _, uid, inode = ANSWER.unpack_from(answer, HEADER.size)
    group = dict(_attributes(answer[HEADER.size + ANSWER_SIZE : length])).get(INET_DIAG_CGROUP_ID)
    return state, uid, inode, None if group is None else int.from_bytes(group, sys.byteorder)


def _listed(
    theirs: tuple[str, int], ours: tuple[str, int]
) -> tuple[int, int, int, int | None] | None:
    """The same from /proc/net/tcp, where nothing is said of groups: 1 µs a connection of the
    machine."""
    ends = [f"{_as_listed(host)}:{port:04X}".encode() for host, port in (theirs, ours)]
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError), open(path, "rb") as file:
            for line in file:
                fields = line.split()
                if [end[-len(ends[0]) :] for end in fields[1:3]] == ends:
                    return int(fields[3], 16), int(fields[7]), int(fields[9]), None
    return None


def _as_listed(host: str) -> str:
    """An address as /proc/net/tcp has it: a number as this machine stores it. In `tcp6` it is the
    end of a longer one."""
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}"


def _attributes(said: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + ATTRIBUTE.size <= len(said):
        length, kind = ATTRIBUTE.unpack_from(said, at)
        yield kind, said[at + ATTRIBUTE.size : at + length]
        at += max(ATTRIBUTE.size, (length + 3) & ~3)
