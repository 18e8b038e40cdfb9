"""The forks of the machine, as Linux tells of them (its proc connector): which process made which,
in their order, before either goes on. For everybody since Linux 6.6, for root before; not inside a
container with processes or users of its own."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from ctypes import addressof, create_string_buffer

__all__ = ["Forks", "LostForksError"]

# linux/connector.h, linux/cn_proc.h, linux/netlink.h
NETLINK_CONNECTOR = 11
CN_IDX_PROC = CN_VAL_PROC = 1
PROC_CN_MCAST_LISTEN = 1
PROC_EVENT_NONE, PROC_EVENT_FORK = 0, 1
NLMSG_DONE = 3
HEAD = struct.Struct("=IHHIIIIIIHH")  # nlmsghdr, then cn_msg
WHAT = HEAD.size  # where the kind of an event stands
WHEN = struct.Struct("=Q")  # in ns of CLOCK_MONOTONIC
CHILD_PID, CHILD_TGID = WHAT + 24, WHAT + 28
PIDS = struct.Struct("=IIII")  # parent's pid and tgid, child's pid and tgid
SIZE = 256

SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
ROOM = 1024 * 1024
"""Bytes of events that may wait for us, of which Linux makes twice as many: 2,700 events, 0.8 kB
each; an ordinary user gets at most net.core.rmem_max."""


def _filter() -> bytes:
    """Lets the answer to our own call pass, and forks that make a process, not a thread."""
    load, jump_equal, jump_equal_x, to_x, done = 0x20, 0x15, 0x1D, 0x07, 0x06
    none, fork = (
        int.from_bytes(struct.pack("=I", what), "big")  # it takes numbers for those of a network
        for what in (PROC_EVENT_NONE, PROC_EVENT_FORK)
    )
    steps = [
        (load, 0, 0, WHAT),
        (jump_equal, 5, 0, none),
        (jump_equal, 0, 5, fork),
        (load, 0, 0, CHILD_PID),
        (to_x, 0, 0, 0),
        (load, 0, 0, CHILD_TGID),
        (jump_equal_x, 0, 1, 0),
        (done, 0, 0, 0xFFFFFFFF),
        (done, 0, 0, 0),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


class LostForksError(Exception):
    """There were more than there was room for: those that wait now came before the ones that are
    lost, and Linux keeps no more until all of them are taken."""


class Forks:
    """Forks from now on. Raises OSError where Linux does not tell. Close it."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, NETLINK_CONNECTOR
        )
        try:
            self._listen()
        except BaseException:
            self._socket.close()
            raise

    def _listen(self) -> None:
        steps = create_string_buffer(_filter())
        program = struct.pack("HL", len(steps) // 8, addressof(steps))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        self._socket.bind((0, CN_IDX_PROC))
        call = struct.pack("=I", PROC_CN_MCAST_LISTEN)
        size = HEAD.size + len(call)
        head = HEAD.pack(
            size, NLMSG_DONE, 0, 0, os.getpid(), CN_IDX_PROC, CN_VAL_PROC, 0, 0, len(call), 0
        )
        self._socket.send(head + call)
        try:
            self._socket.recv(SIZE)  # the answer is there already, where there is one
        except BlockingIOError:
            raise OSError(errno.EOPNOTSUPP, "Linux does not tell of forks here") from None

    def fileno(self) -> int:
        """What becomes readable when there are some."""
        return self._socket.fileno()

    def take(self, most: int) -> Iterator[tuple[int, int, int]]:
        """(parent, child, when) of those that wait, `most` at once; 3 µs each. `when`: after the
        child began, see `began_by`. Raises LostForksError."""
        for _ in range(most):
            try:
                event = self._socket.recv(SIZE)
            except BlockingIOError:
                return
            except OSError as failure:
                if failure.errno != errno.ENOBUFS:
                    raise
                raise LostForksError from None
            if len(event) >= CHILD_TGID + 4 and event[WHAT] == PROC_EVENT_FORK:
                _, parent, _, child = PIDS.unpack_from(event, WHAT + 16)
                (when,) = WHEN.unpack_from(event, WHAT + 8)
                yield parent, child, when

    def close(self) -> None:
        """Hear no more."""
        with suppress(OSError):
            self._socket.close()
