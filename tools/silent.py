"""A daemon that does not answer: which process it is and what it does, told by the machine alone;
and commands that do not wait for it for ever. Standard library only.

Linux gives up no call whose request a daemon has read: a program that waits for a stopped daemon is
ended by no Ctrl-C, and not by kill -9. So what asks a tree is done in a child, and the process that
the shell waits for asks nothing.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress

from agentfs.tools.exits import INTERRUPTED, NO_TREE, ToolError
from agentfs.tools.mounts import condition, device, mounts

__all__ = ["SilentError", "daemon_of", "in_child", "silence", "state_of"]

FIRST_LOOK = 1.0
"""Seconds that a command takes before its daemon is asked whether it answers: most take less."""

LOOK = 5.0
"""Seconds between two such looks; each costs a fork and one call."""

STATES = {
    "T": "stopped; kill -CONT {pid} lets it go on",
    "t": "a debugger has stopped it",
    "D": "it waits for the machine, most often for a disk",
    "R": "it is busy",
    "S": "it waits for something",
}
"""The letters of /proc/PID/status, in words."""


class SilentError(ToolError):
    """Its daemon does not answer."""

    code = NO_TREE


def silence(path: str) -> str:
    """A sentence: which daemon does not answer for the tree at `path`, and why."""
    mountpoint = _mount_of(path)
    pid = 0 if mountpoint is None else daemon_of(mountpoint)
    if not pid:
        return f"the daemon of {mountpoint or path} does not answer"
    how = STATES.get(state_of(pid), "it is ending").format(pid=pid)
    return f"the daemon of {mountpoint}, pid {pid}, does not answer ({how})"


def state_of(pid: int) -> str:
    """Its state, as `ps` has it: R, S, D, T, t, Z; empty if it is gone."""
    return _field(pid, "State")[:1]


def _parent_of(pid: int) -> int:
    return int(_field(pid, "PPid") or 0)


def _field(pid: int, name: str) -> str:
    """A line of /proc/PID/status; empty if the process is gone."""
    with suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        match = re.search(rf"^{name}:\t(.*)", file.read(), re.MULTILINE)
        return match[1] if match else ""
    return ""


def daemon_of(mountpoint: str) -> int:
    """The process that serves the tree at `mountpoint`, without asking it; 0 if it is not found."""
    number = device(mountpoint).partition(":")[2]
    named: list[int] = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        words = _words(pid)
        if not any(b"agentfs" in word for word in words):
            continue
        if number and number in _connections(pid):
            return pid
        if os.fsencode(mountpoint) in words and b"agentfs.tools.daemon" in words:
            named.append(pid)  # what older kernels do not tell, and what is another user's
    below = [pid for pid in named if _parent_of(pid) in named]  # its reaper is called the same
    return next(iter(below or named), 0)


def _words(pid: int) -> list[bytes]:
    """Its command line."""
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().split(b"\0")
    return []


def _connections(pid: int) -> Iterator[str]:
    """The minor device numbers of the trees that it serves; Linux 6.18 tells them."""
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fdinfo"):
            with suppress(OSError), open(f"/proc/{pid}/fdinfo/{name}", encoding="ascii") as file:
                yield from re.findall(r"^fuse_connection:\t(\d+)$", file.read(), re.MULTILINE)


def _mount_of(path: str) -> str | None:
    """The mounted tree that `path` is in, or is a link to. Nothing in the tree is looked at."""
    known = mounts()
    for _ in range(8):  # links to links
        path = os.path.abspath(path)
        inside = [each for each in known if path == each or path.startswith(f"{each}/")]
        if inside:
            return max(inside, key=len)
        try:
            path = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:
            break
    return None


# -- commands ------------------------------------------------------------------------------------


def in_child(root: str, *, waits: bool) -> None:
    """Go on in a child. This process stays, asks nothing of the tree, and ends as the child does,
    by SystemExit.

    If the daemon does not answer it ends with SilentError; but a command that waits by its nature
    goes on waiting, and it is said once. Ctrl-C ends it whatever the daemon does. Without a tree
    that is mounted at `root`, or room for another process, nothing is done.
    """
    if _mount_of(root) is None:
        return
    alive, held = os.pipe()  # only this process holds `held`
    try:
        child = os.fork()
    except OSError:
        os.close(alive)
        os.close(held)
        return
    if child == 0:
        os.close(held)
        _end_with_the_other_side(alive)
        return
    os.close(alive)
    ended = os.pidfd_open(child)
    try:
        _watch(root, ended, waits=waits)
    except KeyboardInterrupt:
        _interrupted(root, child, ended)
    except SilentError:
        os.kill(child, signal.SIGKILL)
        raise
    _end_as(os.waitpid(child, 0)[1])


def _end_with_the_other_side(pipe: int) -> None:
    """Have this process killed when `pipe` is hung up: nobody shall take a message for a command
    that was killed. As PR_SET_PDEATHSIG, for which ctypes would take longer than the command."""
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:
        os._exit(INTERRUPTED)  # it was gone before


def _watch(root: str, ended: int, *, waits: bool) -> None:
    """Return when the child has ended. Raises SilentError."""
    said = False
    seconds = FIRST_LOOK
    while not select.select([ended], [], [], seconds)[0]:
        seconds = LOOK
        if condition(root) != "hung":
            said = False
            continue
        if not waits:
            raise SilentError(silence(root))
        if not said:
            said = True
            print(f"agentfs: {silence(root)}; waiting for it", file=sys.stderr, flush=True)


def _interrupted(root: str, child: int, ended: int) -> None:
    """Ctrl-C: the terminal has told the child, too, and it ends by itself if the daemon lets it."""
    if select.select([ended], [], [], FIRST_LOOK / 2)[0]:
        return
    os.kill(child, signal.SIGINT)  # only this process was told
    if not select.select([ended], [], [], FIRST_LOOK / 2)[0]:
        os.kill(child, signal.SIGKILL)
        raise KeyboardInterrupt


def _end_as(status: int) -> None:
    """End with the exit code of a child, or by its signal."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    raise SystemExit(code)
