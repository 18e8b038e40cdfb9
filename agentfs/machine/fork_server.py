"""The fork server: a small process that forks the programs, and is no parent of theirs. Run by its
path, with `python -I -S`; it has 6 MiB of its own, and nothing of the daemon's in it.

A fork copies the tables of a process's memory, and makes each page that it writes to next be copied
too: of the daemon, with its 70 MiB, that is 3 ms and 2,000 page faults for each program. A fork of
this one is 0.3 ms. Its children are the daemon's (CLONE_PARENT), as if that had forked them: so
nothing depends on this process once a child is there.

It reads orders from its channel: a byte, and descriptors. The first is a file in memory, in which
the daemon says what to start (`HEAD`, then JSON from `ORDER` on) and hears how far it came; the
second is held by the child until it executes the program, or ends. The server itself looks at
nothing of that: so no order can harm it. It ends with its channel.
"""

import ctypes
import errno
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

__all__ = [
    "ABANDONED",
    "CELL",
    "CLONE_NEWNET",
    "CLONE_NEWUSER",
    "EXECUTE",
    "FOLDER",
    "FORK",
    "GROUP",
    "HEAD",
    "HOST",
    "NETWORK",
    "ORDER",
    "PORT",
    "USER",
    "check",
    "hand_over",
    "listen",
    "main",
    "make_network",
]

HEAD = struct.Struct("=qqqq")
"""The child's pid, when it began in clock ticks since boot, the step that failed, its errno."""

ABANDONED = HEAD.size
"""Where the daemon says, in a byte, that nobody wants the child."""

ORDER = 4096
"""Where the order begins in the file."""

FORK, GROUP, USER, FOLDER, NETWORK, CELL, EXECUTE = range(1, 8)
"""The steps of a launch."""

MOST = 16
"""Descriptors that come with one order; see `main`."""

THIRD = 3
"""The descriptor that a program may have besides its standard ones. Here it is always taken."""

HOST, PORT = "127.0.0.1", 4100
"""Where the gateway of models is, in a network of a program's own."""

BACKLOG = 128
"""Connections that wait for the gateway while it starts."""

# linux/sched.h. The numbers of the calls are the same on every architecture, but for seccomp's.
CLONE_PARENT, CLONE_NEWUSER, CLONE_NEWNET = 0x8000, 0x10000000, 0x40000000
CLONE3, LANDLOCK_RESTRICT_SELF = 435, 446

# linux/sockios.h, linux/if.h
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40

# linux/seccomp.h
SET_MODE_FILTER, NEW_LISTENER = 1, 1 << 3

# linux/capability.h, linux/prctl.h
CAPABILITY_VERSION_3 = 0x20080522
PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 23, 24, 38

# PyDLL keeps the interpreter's lock: in a forked child there is nobody to hand it to.
_libc = ctypes.PyDLL(None, use_errno=True)


def main(channel: socket.socket) -> None:
    """Fork for each order, until the daemon has closed its end of the channel."""
    null = os.open(os.devnull, os.O_RDWR)
    while null < THIRD:  # no descriptor of an order may be a number that programs have
        null = os.dup(null)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    take_every_signal()
    gc.disable()  # it would write to all pages of a child
    while True:
        room = socket.CMSG_SPACE(MOST * 4)
        said, parts, _, _ = channel.recvmsg(1, room, socket.MSG_CMSG_CLOEXEC)
        if not said:
            return
        given = [number for _, _, part in parts for (number,) in struct.iter_unpack("=i", part)]
        try:
            if fork_beside() == 0:
                channel.close()
                begin(given)
        except OSError as failure:
            tell(given[0], 0, 0, FORK, failure.errno or errno.EIO)
        for descriptor in given:
            os.close(descriptor)


def take_every_signal() -> None:
    """Have every signal do what it does by default.

    Programs would inherit what the daemon ignores: HUP if it was started by nohup, INT and QUIT by
    a shell's `&`. A shell could not even trap those.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)


def fork_beside() -> int:
    """Fork a child of our parent's: 0 in the child. Raises OSError."""
    arguments = struct.pack("=8Q", CLONE_PARENT, *[0] * 7)
    size = ctypes.c_size_t(len(arguments))
    child = int(_libc.syscall(ctypes.c_long(CLONE3), arguments, size))
    if child >= 0:
        return child
    # Some containers refuse it. The daemon is the sub-reaper of whatever loses its parent.
    child = os.fork()
    if child == 0:
        try:
            other = os.fork()
        except OSError as failure:
            os._exit(failure.errno or errno.EAGAIN)
        if other:
            os._exit(0)
        return 0
    _, status = os.waitpid(child, 0)
    failed = os.waitstatus_to_exitcode(status)
    if failed > 0:
        raise OSError(failed, os.strerror(failed))
    return child


def tell(file: int, pid: int, start: int, step: int = 0, number: int = 0) -> None:
    """Write the head of an order's file."""
    os.pwrite(file, HEAD.pack(pid, start, step, number), 0)


def begin(given: Sequence[int]) -> None:
    """In the child: execute the program of an order. It says how far it came, and ends."""
    step, pid, start = GROUP, os.getpid(), 0
    try:
        os.setsid()  # before it is known: what ends it ends its group
        tell(given[0], pid, 0)
        if os.pread(given[0], 1, ABANDONED) != b"\0":
            return
        start = began()
        tell(given[0], pid, start)
        for step, enter in steps(json.loads(read_order(given[0])), given):  # noqa: B007
            enter()
    except Exception as failure:  # noqa: BLE001  # the daemon has to hear of any
        number = failure.errno if isinstance(failure, OSError) else None
        tell(given[0], pid, start, step, number or errno.EIO)
    finally:
        os._exit(127)


def read_order(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size - ORDER, ORDER)


def began() -> int:
    """While we are in execve nobody else can ask for that without waiting, and on a busy machine
    that is no moment."""
    with open("/proc/self/stat", "rb", buffering=0) as file:
        return int(file.read(1024).rpartition(b")")[2].split()[19])


def steps(
    order: dict[str, Any], given: Sequence[int]
) -> Iterator[tuple[int, Callable[[], object]]]:
    """(step, what it does) of a launch, in their order. `order` names descriptors by where they are
    in `given`."""
    yield GROUP, lambda: enter_groups(given, order["entries"], order["nice"])
    if order["in_network"] is not None:
        yield NETWORK, lambda: check(_libc.setns(given[order["in_network"]], CLONE_NEWNET))
    if order["user"] is not None:
        yield USER, lambda: become(*order["user"])
    yield FOLDER, lambda: enter_folder(given[order["home"]], order["folders"])
    if order["make_network"] is not None:
        yield NETWORK, lambda: make_network(given[order["make_network"]])
    if order["cell"] is not None:
        yield CELL, lambda: enter_cell(given, **order["cell"])
    yield CELL, lambda: lay_on(order["limits"])
    yield EXECUTE, lambda: execute(given, order)


def enter_groups(given: Sequence[int], entries: Sequence[int], nice: int) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    for entry in entries:
        os.write(given[entry], b"0")


def become(uid: int, gid: int, groups: Sequence[int]) -> None:
    os.setgroups(groups)
    os.setregid(gid, gid)
    os.setreuid(uid, uid)


def enter_folder(home: int, folders: Sequence[str]) -> None:
    os.fchdir(home)
    for folder in folders:
        os.chdir(text_of(folder))


def make_network(line: int) -> None:
    """Be in a network of our own, in a user name space, and hand its listener over."""
    uid, gid = os.geteuid(), os.getegid()
    check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNET))
    for name, text in (
        ("uid_map", f"{uid} {uid} 1"),
        ("setgroups", "deny"),  # or its group could not be itself
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "wb", buffering=0) as file:  # at once, as Linux wants it
            file.write(text.encode())
    with listen() as listener:
        hand_over(line, listener.fileno())


def listen() -> socket.socket:
    """The listener, in the name space of the calling thread, whose loopback is up then."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", IFF_UP | IFF_RUNNING)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)
    return socket.create_server((HOST, PORT), backlog=BACKLOG)


def hand_over(line: int, descriptor: int) -> None:
    """Send a descriptor through a socket."""
    with socket.socket(fileno=os.dup(line)) as ours:
        part = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", descriptor))
        ours.sendmsg([b"1"], [part])


def enter_cell(
    given: Sequence[int], *, kept: int, ruleset: int, calls: str, seccomp: int, asks: int | None
) -> None:
    """Be confined: there is no way back."""
    drop_privileges(kept)
    check(_libc.syscall(ctypes.c_long(LANDLOCK_RESTRICT_SELF), given[ruleset], 0))
    instructions = text_of(calls)
    place = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("@HP", len(instructions) // 8, ctypes.addressof(place))
    flags = 0 if asks is None else NEW_LISTENER
    number = ctypes.c_long(seccomp)
    listener = check(_libc.syscall(number, SET_MODE_FILTER, flags, program))
    if asks is not None:
        hand_over(given[asks], listener)
        os.close(listener)


def drop_privileges(keep: int) -> None:
    """No program that it executes gives it any, and of root's it has `keep`."""
    check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if os.geteuid() != 0:
        return
    for number in range(64):
        if not keep >> number & 1 and _libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            check(_libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0))
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    before = ctypes.create_string_buffer(24)
    check(_libc.capget(header, before))
    effective, permitted, _, *_ = struct.unpack("=6I", before.raw)
    kept = permitted & keep
    after = struct.pack("=6I", effective & kept, kept, 0, 0, 0, 0)
    check(_libc.capset(header, after))


def lay_on(limits: Sequence[tuple[int, int, int]]) -> None:
    for number, soft, hard in limits:
        resource.setrlimit(number, (soft, hard))


def execute(given: Sequence[int], order: dict[str, Any]) -> None:
    """Execute the first of the files that there is, as a shell looks through PATH."""
    for number, which in enumerate(order["stdio"]):
        if which is not None:  # else it is /dev/null, as ours is
            os.dup2(given[which], number)
    if order["third"] is not None:
        os.dup2(given[order["third"]], THIRD)
    if is_alone(given[1]):
        return
    words = list(map(text_of, order["words"]))
    environment = {text_of(name): text_of(text) for name, text in order["environment"]}
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    refused: OSError | None = None
    missing: OSError | None = None
    for file in order["files"]:
        try:
            os.execve(text_of(file), words, environment)  # noqa: S606  # no shell is needed
        except (FileNotFoundError, NotADirectoryError) as failure:
            missing = failure
        except OSError as failure:
            refused = refused or failure
    raise refused or missing or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def is_alone(report: int) -> bool:
    """Whether the daemon has ended meanwhile: nobody would know of the program."""
    poll = select.poll()
    poll.register(report, 0)
    return bool(poll.poll(0))


def text_of(text: str) -> bytes:
    """The bytes that a text stands for, each by one character: JSON has no others."""
    return text.encode("latin-1")


def check(result: int) -> int:
    """What a function of the C library gave; raises OSError for -1."""
    if result < 0:
        failure = ctypes.get_errno()
        raise OSError(failure, os.strerror(failure))
    return result


if __name__ == "__main__":
    with suppress(ConnectionError), socket.socket(fileno=int(sys.argv[1])) as line:
        main(line)
