"""A network of a program's own: a name space with a loopback interface, and nothing else in it but
one listening socket, at the address of the gateway of models. The socket is ours; what connects to
it is the program, or descends from it.

Root makes the name space in a thread: 0.4 ms; the child enters it. Anybody else needs a user name
space, which only a process with one thread can enter: so the child makes both, and hands the
listener over. Its user and group are themselves there, all others are nobody.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from agentfs.machine.fork_server import (
    CLONE_NEWNET,
    CLONE_NEWUSER,
    HOST,
    PORT,
    check,
    hand_over,
    listen,
    make_network,
)

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

NEEDED = "root with CAP_SYS_ADMIN, or user name spaces that anybody may make"
"""What a machine needs for that."""

# Without the interpreter's lock: Linux takes 0.4 ms to make a network, and many where others are
# being removed at the time. The event loop goes on.
_libc = ctypes.CDLL(None, use_errno=True)
_in_child = ctypes.PyDLL(None, use_errno=True)  # with it: in a forked child nobody would take it

OWN = "/proc/thread-self/ns/net"
"""The network of the calling thread."""


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


@contextmanager
def inside() -> Iterator[tuple[socket.socket, int]]:
    """For a thread of root's: a new network. Gives the listener, which the caller closes, and a
    descriptor of the name space, for a child to enter. Raises OSError."""
    with _back_home():
        check(_libc.unshare(CLONE_NEWNET))
        space = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            listener = listen()
        except BaseException:
            os.close(space)
            raise
    try:
        yield listener, space
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(space)


@contextmanager
def _back_home() -> Iterator[None]:
    """The thread is in its name space again afterwards, whatever it does."""
    home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            check(_libc.setns(home, CLONE_NEWNET))
        finally:
            os.close(home)


class Handover:
    """The way of a listener from a child to us. `close` it after the fork, and the exec or its
    failure."""

    def __init__(self) -> None:
        self._ours, self._childs = socket.socketpair()
        self._ours.setblocking(False)

    @property
    def childs(self) -> int:
        """The socket through which the child gives the listener to us."""
        return self._childs.fileno()

    def take(self) -> socket.socket:
        """The listener, after the child's exec. Raises OSError if it gave none."""
        _, (listener,), _, _ = socket.recv_fds(self._ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
        return socket.socket(fileno=listener)

    def close(self) -> None:
        self._ours.close()
        self._childs.close()


def listen_again(pidfd: int) -> socket.socket:
    """For a thread: a new listener in the network of a program that an earlier daemon started; with
    that daemon the one before went. Raises OSError."""
    if made_by_us():
        with _back_home():
            check(_libc.setns(pidfd, CLONE_NEWNET))
            return listen()
    return _of_child(partial(_enter, pidfd))


def _enter(pidfd: int, line: int) -> None:
    """In the forked child: be in the network of that program, and hand a listener over."""
    check(_in_child.setns(pidfd, CLONE_NEWUSER | CLONE_NEWNET))
    with listen() as listener:
        hand_over(line, listener.fileno())


def _of_child(enter: Callable[[int], None]) -> socket.socket:
    """The listener of a child that is there for that alone. Raises OSError."""
    handover = Handover()
    try:
        child = lambda: enter(handover.childs)  # noqa: E731
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
        with suppress(OSError), inside() as (listener, _):
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
        _of_child(make_network).close()
    except OSError:
        return False
    return True
