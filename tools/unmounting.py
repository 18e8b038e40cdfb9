"""Unmounting: the daemon is told to end, and waited for. Standard library only."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator

from agentfs.tools.mounts import condition, mounts, resolved
from agentfs.tools.silent import daemon_of, silence, state_of
from agentfs.tools.tree import ToolError

__all__ = ["live_daemon", "take_away", "umount_tree"]

PATIENCE = 60.0
"""Seconds that a daemon may take to end its programs (their grace is 10) and to unmount."""

POLL = 0.2

PATIENCE_HUNG = 15.0
"""Seconds that one which does not answer may take to end after all."""


def take_away(path: str) -> None:
    """Take a mount away whose daemon is gone."""
    words = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
    try:
        done = subprocess.run([*words, "--", path], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise ToolError(f"{words[0]}: not installed; `agentfs doctor` says how to get it") from None
    if done.returncode:
        raise ToolError(done.stderr.strip() or f"{path}: {words[0]} failed")


def umount_tree(directory: str, *, lazy: bool) -> None:
    """End the system at `directory` and return when its daemon, and with it the mount, is gone.

    The daemon ends the programs first, while their tree is still there. Refuses while programs
    that are no agents' use the tree, unless `lazy`. Raises ToolError.
    """
    path = resolved(directory)
    if path not in mounts():
        raise ToolError(f"{directory}: no tree of AgentFS is mounted there")
    how = condition(path)
    if how == "stale":
        take_away(path)
        return
    if how == "hung":
        _umount_hung(directory, path)
        return
    pid, daemon = live_daemon(path)
    try:
        users = [] if lazy else _users(path, pid)
        if users:
            raise ToolError(f"{directory}: in use by {', '.join(users)}; end them, or use --lazy")
        _end(directory, pid)
        deadline = time.monotonic() + PATIENCE
        while not select.select([daemon], [], [], POLL)[0] and not _is_through(pid):
            if time.monotonic() > deadline:
                raise ToolError(
                    f"{directory}: the daemon {pid} has not ended within {PATIENCE:.0f} s"
                )
    finally:
        os.close(daemon)


def live_daemon(path: str) -> tuple[int, int]:
    """The pid of the daemon of a tree that answers, and a pidfd of it. Raises ToolError."""
    try:
        with open(os.path.join(path, "proc/1/ospid"), encoding="ascii") as file:
            pid = int(file.read())
        return pid, os.pidfd_open(pid)
    except (OSError, ValueError) as failed:
        raise ToolError(f"{path}: its daemon cannot be found: {failed}") from None


def _umount_hung(directory: str, path: str) -> None:
    """End a daemon that does not answer: one that was stopped goes on and ends as ever, as systemd
    does it. One that ends by nothing loses its mount, so that nobody waits for it any more."""
    pid = daemon_of(path)
    if not pid:
        words = silence(path)
        take_away(path)
        raise ToolError(f"{words}, and cannot be found; the tree is not mounted any more")
    try:
        daemon = os.pidfd_open(pid)
    except ProcessLookupError:
        take_away(path)
        return
    try:
        stopped = state_of(pid) == "T"
        _end(directory, pid)
        if stopped:
            os.kill(pid, signal.SIGCONT)
        if select.select([daemon], [], [], PATIENCE if stopped else PATIENCE_HUNG)[0]:
            return
    finally:
        os.close(daemon)
    words = silence(path)
    take_away(path)
    raise ToolError(
        f"{words} and does not end; the tree is not mounted any more. kill -9 {pid} ends the daemon"
    )


def _is_through(pid: int) -> bool:
    """Whether a process is through with its work, though some of its threads still wait for a disk
    that hangs: Linux ends those when that answers."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            return any(line.startswith("State:\tZ") for line in file)
    except OSError:
        return True


def _end(directory: str, pid: int) -> None:
    try:
        os.kill(pid, 15)
    except ProcessLookupError:
        pass  # it is ending already
    except PermissionError:
        raise ToolError(
            f"{directory}: only root and the user who mounted it can unmount it"
        ) from None


def _programs(path: str) -> set[int]:
    """The operating-system pids of the agents at work in the tree."""
    found = set()
    for name in os.listdir(os.path.join(path, "proc")):
        if not name.isdigit():
            continue
        try:
            with open(os.path.join(path, "proc", name, "ospid"), encoding="ascii") as file:
                found.add(int(file.read() or 0))
        except (OSError, ValueError):
            continue  # it ended meanwhile
    return found - {0}


def _users(path: str, daemon: int) -> list[str]:
    """`name (pid)` of each program that uses the tree and is no agent's.

    Only what this user may see: other users' programs hide their descriptors.
    """
    using = [
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit() and int(name) != os.getpid() and _uses(name, path)
    ]
    lineages = {pid: set(_ancestry(pid)) for pid in using}
    found = [pid for pid, lineage in lineages.items() if daemon not in lineage]
    if found:  # programs that an earlier daemon started do not descend from this one
        ours = _programs(path)
        found = [pid for pid in found if ours.isdisjoint(lineages[pid])]
    return [f"{name} ({pid})" for pid in found if (name := _name(pid))]


def _name(pid: int) -> str:
    """The name of a program; empty if it has ended meanwhile."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _uses(pid: str, path: str) -> bool:
    links = [f"/proc/{pid}/cwd", f"/proc/{pid}/root"]
    try:
        links += [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False  # not ours to look into, or gone
    for link in links:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target == path or target.startswith(path + "/"):
            return True
    return False


def _ancestry(pid: int) -> Iterator[int]:
    """`pid`, its parent, and so on to init."""
    while pid > 0:
        yield pid
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            return
