"""Control groups: one for the programs of each process, which none but root's can leave.

    <the daemon's own group>/agentfs-<instance>/p<PID>

Needs a cgroup v2 hierarchy in which the daemon may make groups: as root, or in a delegated subtree.
Without one `available` is False and nothing else here may be called.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress

__all__ = ["ControlGroups"]

log = logging.getLogger(__name__)

ESCAPE = re.compile(r"\\([0-7]{3})")  # how /proc/self/mountinfo writes spaces in paths


class ControlGroups:
    """The groups of one instance of AgentFS."""

    def __init__(self, instance_id: str) -> None:
        self._stale: set[int] = set()
        self._base = ""  # the directory of our groups; "" if we cannot have any
        self._origin = ""  # the directory of the group the daemon is in
        self.has_memory = False  # whether they can limit memory
        self._own = own = _own_path()
        self._ours = re.compile(rf"/agentfs-{re.escape(instance_id)}/p(\d+)(?:/|$)")
        for mounted, root in _hierarchies():
            if own is None or ".." in own or not (own + "/").startswith(root.rstrip("/") + "/"):
                continue
            origin = mounted + own[len(root.rstrip("/")) :].rstrip("/")
            base = f"{origin}/agentfs-{instance_id}"
            try:
                os.makedirs(base, exist_ok=True)
                with open(f"{origin}/cgroup.procs", "ab"):
                    pass  # moving needs write access to the common ancestor's, cgroups(7)
                with open(f"{base}/cgroup.procs", "ab"):
                    pass
            except OSError as failure:
                log.info("no control groups under %s: %s", origin, failure.strerror)
                continue
            self._base, self._origin = base, origin
            self.has_memory = _enable_memory(origin, base)
            return

    @property
    def available(self) -> bool:
        return bool(self._base)

    @property
    def stale(self) -> int:
        """How many groups are still to be removed."""
        return len(self._stale)

    def path(self, pid: int) -> str:
        return f"{self._base}/p{pid}"

    def pids(self) -> list[int]:
        """The processes that have a group, whether or not anything runs in it."""
        return [int(name[1:]) for name in os.listdir(self._base) if re.fullmatch(r"p\d+", name)]

    def open(self, pid: int) -> int:
        """Make the group of a process and open its cgroup.procs for writing; raises OSError.

        Who writes `0` to the descriptor enters the group with the opener's permission (Linux
        5.16), so a child can after it has become another user.
        """
        self._stale.discard(pid)
        with suppress(FileExistsError):
            os.mkdir(self.path(pid))
        return os.open(f"{self.path(pid)}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def pid_of(self, text: str) -> int | None:
        """The process whose group /proc/TID/cgroup names; None if it is not one of ours.

        Wherever it lies: a daemon that was started again can be in another group than before.
        """
        group = _unified(text)
        match = None if group is None else self._ours.search(group)
        return None if match is None else int(match[1])

    def members(self, pid: int) -> list[int]:
        """The OS pids in the group of a process, empty if there is none."""
        try:
            with open(f"{self.path(pid)}/cgroup.procs", "rb") as file:
                return [int(line) for line in file]
        except OSError:
            return []

    def cpu_seconds(self, pid: int) -> float | None:
        """The processor time that everything in the group has used, what has ended included; None
        if there is none."""
        try:
            with open(f"{self.path(pid)}/cpu.stat") as file:
                return int(file.readline().split()[1]) / 1e6  # usage_usec
        except OSError:
            return None

    def limit_memory(self, pid: int, mebibytes: int | None) -> None:
        """What all in the group may have together. Only where `has_memory`. Raises OSError."""
        text = b"max" if mebibytes is None else b"%d" % (mebibytes * 1024 * 1024)
        _write(f"{self.path(pid)}/memory.max", text)

    def freeze(self, pid: int, *, frozen: bool) -> None:
        """Have everything in the group stand still, or go on. Raises OSError."""
        _write(f"{self.path(pid)}/cgroup.freeze", b"1" if frozen else b"0")

    def kill(self, pid: int) -> None:
        """SIGKILL everything in the group, forks under way included. No group is no fault."""
        with suppress(FileNotFoundError):
            try:
                _write(f"{self.path(pid)}/cgroup.kill", b"1")
            except PermissionError:  # before Linux 5.14 there is no such file, nor may we make it
                for member in self.members(pid):
                    with suppress(ProcessLookupError):
                        os.kill(member, 9)

    def take(self, pid: int, ospid: int) -> str:
        """Move a running program into the group of a process; return the directory of the group
        that it was in. Raises OSError."""
        with open(f"/proc/{ospid}/cgroup") as file:
            before = _unified(file.read())
        self._move(pid, [ospid])
        own = (self._own or "").rstrip("/")
        if before is None or not (before + "/").startswith(own + "/"):
            return self._origin
        return self._origin + before[len(own) :].rstrip("/")

    def gather(self, pid: int, ospid: int) -> None:
        """Have a program that an earlier daemon started, and what it started, in the group of
        its process. Raises OSError."""
        with open(f"/proc/{ospid}/cgroup") as file:
            group = _unified(file.read())
        if group is None or self._own is None:
            return
        own = self._own.rstrip("/")
        place = self._origin + group[len(own) :] if group.startswith(own + "/") else ""
        if place != self.path(pid):
            self._move(pid, [ospid])

    def _move(self, pid: int, ospids: list[int]) -> None:
        descriptor = self.open(pid)
        try:
            for ospid in ospids:
                os.write(descriptor, b"%d" % ospid)
        finally:
            os.close(descriptor)

    def give_back(self, pid: int, origin: str) -> None:
        """Move what runs in the group of a process to where it came from, or else to ours."""
        for member in self.members(pid):
            for place in (origin, self._origin):
                try:
                    _write(f"{place}/cgroup.procs", b"%d" % member)
                    break
                except OSError as failure:
                    log.debug("%d cannot be moved to %s: %s", member, place, failure)

    def remove(self, pid: int) -> bool:
        """Remove the group of a process; if something still dies in it, `tidy` tries again."""
        try:
            _remove_tree(self.path(pid))
        except FileNotFoundError:
            pass
        except OSError:
            self._stale.add(pid)
            return False
        self._stale.discard(pid)
        return True

    def tidy(self) -> None:
        """Remove the groups that could not be removed before."""
        for pid in tuple(self._stale):
            self.remove(pid)

    def close(self) -> None:
        """Remove the groups, those that something runs in excepted."""
        with suppress(OSError):
            for pid in self.pids():
                self.remove(pid)
            os.rmdir(self._base)


def _enable_memory(origin: str, base: str) -> bool:
    """Have the groups below `base` count memory; whether they do. The group the daemon is in may
    only hand the controller on if it is the root or nothing else runs in it."""
    try:
        with suppress(OSError):
            _write(f"{origin}/cgroup.subtree_control", b"+memory")
        _write(f"{base}/cgroup.subtree_control", b"+memory")
    except OSError:
        return False
    return True


def _own_path() -> str | None:
    """The daemon's own group, as cgroup v2 names it."""
    try:
        with open("/proc/self/cgroup") as file:
            return _unified(file.read())
    except OSError:
        return None


def _unified(text: str) -> str | None:
    """The cgroup v2 line of a /proc/PID/cgroup."""
    return next((line[3:] for line in text.splitlines() if line.startswith("0::")), None)


def _hierarchies() -> Iterator[tuple[str, str]]:
    """(mount point, the group that is mounted there) of every cgroup v2 mount we see."""
    try:
        with open("/proc/self/mountinfo") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        ours, _, theirs = line.partition(" - ")
        if theirs.split(" ", 1)[0] == "cgroup2":
            root, mounted = ours.split(" ")[3:5]
            yield _unescape(mounted), _unescape(root)


def _unescape(path: str) -> str:
    return ESCAPE.sub(lambda match: chr(int(match[1], 8)), path)


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _remove_tree(path: str) -> None:
    """Programs may have made groups of their own in theirs."""
    with os.scandir(path) as entries:
        inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for group in inner:
        _remove_tree(group)
    os.rmdir(path)
