"""Seccomp: filters of system calls, made by libseccomp before the fork; the child loads them.

libseccomp writes the filter (through `pyseccomp`, which is a thin binding without a compiled part);
what the forked child does is one system call, and nothing of the library's.

Starting programs is refused with the help of a listener: the filter asks its listener about
every execve. The thread that starts the program lets exactly one pass, its own, and then stops
listening; from then on the kernel answers ENOSYS, to the program and to all that descends from it.
There is no list of allowed files that `ld.so PROGRAM`, a memfd or a hard link could get around.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import select
import socket
import struct
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress

try:
    import pyseccomp
except (ImportError, RuntimeError):  # the latter: there is no libseccomp on this machine
    pyseccomp = None

__all__ = ["OneExec", "available", "can_listen", "number", "program"]

# linux/seccomp.h
GET_ACTION_AVAIL = 2
USER_NOTIF = 0x7FC00000
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
CONTINUE = 1

METADATA = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2:452"),
    *("chown", "fchown", "lchown", "fchownat"),
    *("utime", "utimes", "futimesat", "utimensat"),
    *("setxattr", "lsetxattr", "fsetxattr", "setxattrat:463"),
    *("removexattr", "lremovexattr", "fremovexattr", "removexattrat:466"),
    "file_setattr:469",
)
"""What changes a file without opening it for writing, which Landlock does not see. The numbers,
the same on every architecture, are for those that an older libseccomp has no name for."""

NEIGHBOURS = (
    *("shmget", "shmat", "shmctl", "semget", "semop", "semtimedop", "semctl"),
    *("msgget", "msgsnd", "msgrcv", "msgctl", "ipc", "mq_open", "mq_unlink"),
    *("keyctl", "add_key", "request_key"),
    *("setns", "open_by_handle_at", "io_uring_setup", "userfaultfd", "bpf", "perf_event_open"),
)
"""What no confined program has: what all programs of a user share and no file mode or ruleset
guards (memory, queues, keys, name spaces); what does calls past any filter; what shows others."""

OF_OTHERS = (
    *("prlimit64:0", "setpriority:1", "ioprio_set:1"),
    *("sched_setscheduler:0", "sched_setparam:0", "sched_setattr:0"),
)
"""What a confined program does to itself alone: the call, and which argument says to whom (0: to
itself). `sched_setaffinity` is not among them: threads are pinned by their numbers."""

OF_ALL = ("setpriority:2", "ioprio_set:3")
"""The value of the first argument that means all programs of a user."""

CLONE_NEWUSER = 0x10000000
"""In a user name space of its own a program has every privilege, over a part of the kernel."""

MSG_FASTOPEN = 0x20000000
FAST_OPEN = ("sendto:3", "sendmsg:2", "sendmmsg:3")
"""What connects a TCP socket without being a connect, which Landlock sees; where its flags are."""
TCP_FASTOPEN, TCP_FASTOPEN_CONNECT = 23, 30

SOCK_TYPE_MASK = 0xF
"""The kind of a socket, without the flags that are given with it."""

FILE_IOCTLS = (0x58, 0x66, 0x76, 0x94)
"""The types (X, f, v, btrfs) of the ioctls that change flags, versions and subvolumes through a
descriptor that was opened for reading."""

_libc = ctypes.CDLL(None, use_errno=True)


def _number(call: str) -> int:
    """Negative for a call that this architecture does not have."""
    name, _, number = call.partition(":")
    return int(number) if number else int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name))


def _seccomp(operation: int, flags: int, argument: object) -> int:
    number = ctypes.c_long(_number("seccomp"))
    result = int(_libc.syscall(number, ctypes.c_uint(operation), ctypes.c_uint(flags), argument))
    if result < 0:
        failure = ctypes.get_errno()
        raise OSError(failure, os.strerror(failure))
    return result


@functools.cache
def available() -> bool:
    """Whether filters can be made and loaded here."""
    return pyseccomp is not None and _has_action(pyseccomp.ERRNO(0))


@functools.cache
def can_listen() -> bool:
    """Whether a filter can ask about a call and let it pass: Linux 5.5."""
    version = tuple(int(part) for part in os.uname().release.split(".")[:2] if part.isdigit())
    return available() and version >= (5, 5) and _has_action(USER_NOTIF)


def _has_action(action: int) -> bool:
    try:
        _seccomp(GET_ACTION_AVAIL, 0, ctypes.byref(ctypes.c_uint32(action & 0xFFFF0000)))
    except OSError:
        return False
    return True


@functools.cache
def program(*, network: bool, models: bool = False, write: bool, execute: bool) -> bytes:
    """The filter for programs that may do what is True. `models`: the network is one of its own.

    Calls of another architecture (32-bit programs, x32 numbers) end the program: what they ask for
    cannot be looked at in the same way.
    """
    refuse = pyseccomp.ERRNO(errno.EPERM)
    made = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    made.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    _keep_to_itself(made, refuse)
    if models:
        _local_and_tcp(made, refuse)
    elif not network:
        _local_only(made, refuse)
    if not write:
        for number in filter(lambda number: number >= 0, map(_number, METADATA)):
            made.add_rule(refuse, number)
        for kind in FILE_IOCTLS:
            made.add_rule(refuse, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFF00, kind << 8))
    if not execute:
        made.add_rule(pyseccomp.NOTIFY, "execve")
        made.add_rule(pyseccomp.NOTIFY, "execveat")
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def _local_only(made: pyseccomp.SyscallFilter, refuse: int) -> None:
    """No sockets but local ones."""
    for call, which in _parsed(FAST_OPEN):
        flag = pyseccomp.Arg(which, pyseccomp.MASKED_EQ, MSG_FASTOPEN, MSG_FASTOPEN)
        made.add_rule(refuse, call, flag)
    for option in (TCP_FASTOPEN, TCP_FASTOPEN_CONNECT):
        made.add_rule(refuse, "setsockopt", _int(1, socket.IPPROTO_TCP), _int(2, option))
    other = pyseccomp.Arg(0, pyseccomp.NE, socket.AF_UNIX)
    made.add_rule(refuse, "socket", other)
    made.add_rule(refuse, "socketpair", other)
    _without_socketcall(made, refuse)


def _local_and_tcp(made: pyseccomp.SyscallFilter, refuse: int) -> None:
    """No sockets but local ones, and TCP. A rule has one condition an argument: what is not in a
    list takes a rule for each number, and one for all beyond."""
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    for condition in _none_of(0, families):
        made.add_rule(refuse, "socket", condition)
    kinds = set(range(SOCK_TYPE_MASK + 1)) - {socket.SOCK_STREAM}
    others = [pyseccomp.Arg(1, pyseccomp.MASKED_EQ, SOCK_TYPE_MASK, kind) for kind in kinds]
    for family in families[1:]:
        for condition in (*others, *_none_of(2, (0, socket.IPPROTO_TCP))):
            made.add_rule(refuse, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family), condition)
    made.add_rule(refuse, "socketpair", pyseccomp.Arg(0, pyseccomp.NE, socket.AF_UNIX))
    _without_socketcall(made, refuse)


def _none_of(which: int, values: Collection[int]) -> Iterator[pyseccomp.Arg]:
    """That an argument is none of these."""
    for other in set(range(max(values))).difference(values):
        yield pyseccomp.Arg(which, pyseccomp.EQ, other)
    yield pyseccomp.Arg(which, pyseccomp.GT, max(values))


def _without_socketcall(made: pyseccomp.SyscallFilter, refuse: int) -> None:
    """What it asks for lies in memory, where a filter cannot look."""
    if _number("socketcall") >= 0:
        made.add_rule(refuse, "socketcall")


def _keep_to_itself(made: pyseccomp.SyscallFilter, refuse: int) -> None:
    """What every confined program is refused: what reaches its neighbours."""
    for call in filter(lambda call: _number(call) >= 0, NEIGHBOURS):
        made.add_rule(refuse, call)
    for call, which in _parsed(OF_OTHERS):
        made.add_rule(refuse, call, pyseccomp.Arg(which, pyseccomp.NE, 0))
    for call, everybody in _parsed(OF_ALL):
        made.add_rule(refuse, call, _int(0, everybody))
    for call in ("unshare", "clone"):
        flag = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER)
        made.add_rule(refuse, call, flag)
    made.add_rule(pyseccomp.ERRNO(errno.ENOSYS), _number("clone3:435"))


def _int(which: int, value: int) -> pyseccomp.Arg:
    """An argument is this value; Linux looks at 32 bits of it, whatever the others are."""
    return pyseccomp.Arg(which, pyseccomp.MASKED_EQ, 0xFFFFFFFF, value)


def _parsed(table: Iterable[str]) -> Iterator[tuple[str, int]]:
    """(call, number) of each entry."""
    for call, _, number in (entry.partition(":") for entry in table):
        yield call, int(number)


def number() -> int:
    """The number of seccomp(2) on this architecture, for who loads the filter."""
    return _number("seccomp")


class OneExec:
    """Lets the next execve of a forked child pass, and no other after it.

    A thread of the parent's answers, as the one that forks waits for that very execve. `close` ends
    it, however far the child came.
    """

    def __init__(self) -> None:
        self._ours, self._childs = socket.socketpair()
        self._thread = threading.Thread(target=self._answer, name="one exec", daemon=True)
        self._thread.start()

    @property
    def childs(self) -> int:
        """The socket through which the child gives the listener to us; it keeps none."""
        return self._childs.fileno()

    def _answer(self) -> None:
        with self._ours:
            flags = socket.MSG_CMSG_CLOEXEC
            _, listeners, _, _ = socket.recv_fds(self._ours, 1, 1, flags)
            for listener in listeners:
                try:
                    self._let_one_pass(listener)
                finally:
                    os.close(listener)

    def _let_one_pass(self, listener: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self._ours, select.POLLIN)  # `close`: the child has died
        if (listener, select.POLLIN) not in poll.poll():
            return
        with suppress(OSError):  # it was killed while it asked
            asked = bytearray(80)
            fcntl.ioctl(listener, NOTIF_RECV, asked)
            (id_,) = struct.unpack_from("=Q", asked)
            fcntl.ioctl(listener, NOTIF_SEND, struct.pack("=QqiI", id_, 0, 0, CONTINUE))

    def close(self) -> None:
        """After the fork, and the exec or its failure."""
        with suppress(OSError):
            self._childs.send(b"0")
        self._childs.close()
        self._thread.join()
