"""A network of a program's own: a name space with a loopback interface, and nothing else in it but
one listening socket, at the address of the gateway of models. The socket is ours; what connects to
it is the program, or descends from it.

Root makes the name space in the thread that forks: 0.4 ms. Anybody else needs a user name space,
which only a process with one thread can enter: so the child makes both, and hands the listener
over. Its user and group are themselves there, all others are nobody.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

__all__ = [
    "HOST",
    "NEEDED",
    "PORT",
    "Handover",
    "inside",
    "listen_again",
    "made_by_children",
    "made_by_us",
    "variables",
]

HOST, PORT = "127.0.0.1", 4100
"""Where the gateway of models is, in each of these networks."""

NEEDED = "root with CAP_SYS_ADMIN, or user name spaces that anybody may make"
"""What a machine needs for that."""

# linux/sched.h, linux/sockios.h, linux/if.h
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40

BACKLOG = 128
"""Connections that wait for the gateway while it starts."""

# Without the interpreter's lock: Linux takes 0.4 ms to make a network, and many where others are
# being removed at the time. The event loop goes on.
_libc = ctypes.CDLL(None, use_errno=True)
_in_child = ctypes.PyDLL(None, use_errno=True)  # see `agentfs.machine.landlock`


def variables(port: int) -> dict[str, str]:
    """What programs on the SDKs of models find the gateway by, at this port of the loopback. The
    keys are there because the SDKs want one: the gateway looks at no key."""
    root = f"http://{HOST}:{port}"
    return {
        "OPENAI_BASE_URL": f"{root}/v1",
        "OPENAI_API_BASE": f"{root}/v1",
        "OPENAI_API_KEY": "agentfs",
        "ANTHROPIC_BASE_URL": root,
        "ANTHROPIC_AUTH_TOKEN": "agentfs",
    }


def _check(result: int) -> None:
    if result < 0:
        failure = ctypes.get_errno()
        raise OSError(failure, os.strerror(failure))


def _listen() -> socket.socket:
    """The listener, in the name space of the calling thread, whose loopback is up then."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", IFF_UP | IFF_RUNNING)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)
    return socket.create_server((HOST, PORT), backlog=BACKLOG)


@contextmanager
def inside() -> Iterator[socket.socket]:
    """For a thread of root's: what it forks in here has a network of its own. Gives the listener,
    which the caller closes. Raises OSError."""
    with _back_home():
        _check(_libc.unshare(CLONE_NEWNET))
        listener = _listen()
        try:
            yield listener
        except BaseException:
            listener.close()
            raise


@contextmanager
def _back_home() -> Iterator[None]:
    """The thread is in its name space again afterwards, whatever it does."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            _check(_libc.setns(home, CLONE_NEWNET))
        finally:
            os.close(home)


class Handover:
    """The way of a listener from a child to us. `close` it after the fork, and the exec or its
    failure."""

    def __init__(self) -> None:
        self._ours, self._childs = socket.socketpair()
        self._ours.setblocking(False)

    def enter(self) -> None:
        """In the forked child: be in a network of its own. Raises OSError."""
        uid, gid = os.geteuid(), os.getegid()
        _check(_in_child.unshare(CLONE_NEWUSER | CLONE_NEWNET))
        for name, text in (
            ("uid_map", f"{uid} {uid} 1"),
            ("setgroups", "deny"),  # or its group could not be itself
            ("gid_map", f"{gid} {gid} 1"),
        ):
            _write(f"/proc/self/{name}", text)
        self._give()

    def enter_that_of(self, pidfd: int) -> None:
        """In the forked child: be in the network of that program. Raises OSError."""
        _check(_in_child.setns(pidfd, CLONE_NEWUSER | CLONE_NEWNET))
        self._give()

    def _give(self) -> None:
        with _listen() as listener:
            socket.send_fds(self._childs, [b"1"], [listener.fileno()])

    def take(self) -> socket.socket:
        """The listener, after the child's exec. Raises OSError if it gave none."""
        _, (listener,), _, _ = socket.recv_fds(self._ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
        return socket.socket(fileno=listener)

    def close(self) -> None:
        self._ours.close()
        self._childs.close()


def _write(path: str, text: str) -> None:
    """At once, as Linux wants it for these files."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def listen_again(pidfd: int) -> socket.socket:
    """For a thread: a new listener in the network of a program that an earlier daemon started; with
    that daemon the one before went. Raises OSError."""
    if made_by_us():
        with _back_home():
            _check(_libc.setns(pidfd, CLONE_NEWNET))
            return _listen()
    return _of_child(lambda handover: handover.enter_that_of(pidfd))


def _of_child(enter: Callable[[Handover], None]) -> socket.socket:
    """The listener of a child that is there for that alone. Raises OSError."""
    handover = Handover()
    try:
        child = lambda: enter(handover)  # noqa: E731
        subprocess.run(("true",), preexec_fn=child, check=True, stdin=subprocess.DEVNULL)
        return handover.take()
    except subprocess.SubprocessError as failure:
        raise OSError(errno.EPERM, "no user name space can be made") from failure
    finally:
        handover.close()


@functools.cache
def made_by_us() -> bool:
    """Whether a thread of ours may make networks, as one of root's mostly may. Tried once."""
    made = []

    def attempt() -> None:
        with suppress(OSError), inside() as listener:
            listener.close()
            made.append(True)

    thread = threading.Thread(target=attempt, name="a network")
    thread.start()
    thread.join()
    return bool(made)


@functools.cache
def made_by_children() -> bool:
    """Whether a child of ours may, in a user name space. Tried once: some ms, for a thread."""
    try:
        _of_child(Handover.enter).close()
    except OSError:
        return False
    return True
