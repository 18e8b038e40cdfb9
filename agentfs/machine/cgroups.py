"""Control groups: one for the programs of each process, which none but root's can leave.

    <the daemon's own group>/agentfs-<instance>/p<PID>

Needs a cgroup v2 hierarchy in which the daemon may make groups: as root, or in a delegated subtree.
Without one `available` is False and nothing else here may be called. Where the pids controller is
still in a hierarchy of the old kind beside it, there is a second group there, for it alone.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress

from agentfs.machine.proc import read_file

__all__ = ["ControlGroups"]

log = logging.getLogger(__name__)

MOST_PIDS = 4_194_303
"""PID_MAX_LIMIT of Linux less one: pids.max takes no more, which is as good as none."""

ESCAPE = re.compile(r"\\([0-7]{3})")  # how /proc/self/mountinfo writes spaces in paths


class ControlGroups:
    """The groups of one instance of AgentFS."""

    def __init__(self, instance_id: str) -> None:
        self._stale: set[int] = set()
        # The process of each group by the group's id; None: those of an earlier daemon are unread.
        self._ids: dict[int, int] | None = None
        self._base = ""  # the directory of our groups; "" if we cannot have any
        self._origin = ""  # the directory of the group the daemon is in
        self.has_memory = False  # whether they can limit memory
        self._pids = ""  # the directory of the groups that count processes; "" if none can
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
            self.has_memory = _enable("memory", origin, base)
            self._pids = base if _enable("pids", origin, base) else _beside(instance_id)
            return

    @property
    def available(self) -> bool:
        return bool(self._base)

    @property
    def has_pids(self) -> bool:
        """Whether they can limit how many processes there are."""
        return bool(self._base and self._pids)

    @property
    def stale(self) -> int:
        """How many groups are still to be removed."""
        return len(self._stale)

    def path(self, pid: int) -> str:
        return f"{self._base}/p{pid}"

    def pids(self) -> list[int]:
        """The processes that have a group, whether or not anything runs in it."""
        return [int(name[1:]) for name in os.listdir(self._base) if re.fullmatch(r"p\d+", name)]

    def _paths(self, pid: int) -> list[str]:
        """Every group of a process, that which says who it is first."""
        bases = dict.fromkeys((self._base, self._pids or self._base))
        return [f"{base}/p{pid}" for base in bases]

    def open(self, pid: int) -> list[int]:
        """Make the groups of a process and open their cgroup.procs for writing; raises OSError.

        A child that writes `0` to the descriptors enters the groups with the opener's permission
        (Linux 5.16), even when it has become another user.
        """
        self._stale.discard(pid)
        opened: list[int] = []
        try:
            for path in self._paths(pid):
                opened.append(_open_group(path))
            if self._ids is not None:
                self._ids[self._id(pid)] = pid
        except OSError:
            _close(opened)
            raise
        return opened

    def pid_of(self, text: str) -> int | None:
        """The process whose group /proc/TID/cgroup names; None if it is not one of ours.

        Wherever it lies: a daemon that was started again can be in another group than before.
        """
        group = _unified(text)
        match = None if group is None else self._ours.search(group)
        return None if match is None else int(match[1])

    def pid_of_id(self, group: int) -> int | None:
        """The process whose group has this id, which Linux gives to sockets and pidfds: the inode
        number of its directory. None if it is not one of ours, or was made in one of ours."""
        if self._ids is None:
            self._ids = {self._id(pid): pid for pid in self.pids()}
        return self._ids.get(group)

    def _id(self, pid: int) -> int:
        return os.stat(self.path(pid)).st_ino

    def members(self, pid: int) -> list[int]:
        """The OS pids in the group of a process, empty if there is none."""
        try:
            with open(f"{self.path(pid)}/cgroup.procs", "rb") as file:
                return [int(line) for line in file]
        except OSError:
            return []

    def threads(self, pid: int) -> list[int]:
        """The threads in the group of a process, empty if there is none."""
        with suppress(OSError):
            return [*map(int, read_file(f"{self.path(pid)}/cgroup.threads").split())]
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
        """Limit what all in the group have together. Only where `has_memory`. Raises OSError."""
        text = b"max" if mebibytes is None else b"%d" % (mebibytes * 1024 * 1024)
        _write(f"{self.path(pid)}/memory.max", text)

    def limit_pids(self, pid: int, most: int | None) -> None:
        """Limit how many processes and threads the group has. Only where `has_pids`. Raises
        OSError."""
        text = b"max" if most is None else b"%d" % min(most, MOST_PIDS)
        _write(f"{self._pids}/p{pid}/pids.max", text)

    def tasks(self, pid: int) -> int:
        """How many processes and threads there are in the group."""
        with suppress(OSError):
            return int(read_file(f"{self._pids}/p{pid}/pids.current"))
        with suppress(OSError):  # no controller, or it was started when there was none
            return read_file(f"{self.path(pid)}/cgroup.threads").count(b"\n")
        return 0

    def refused_forks(self, pid: int) -> int:
        """How many forks in the group were refused, since it was made. Only where `has_pids`."""
        with suppress(OSError):
            said = read_file(f"{self._pids}/p{pid}/pids.events").split()
            return int(said[said.index(b"max") + 1])
        return 0

    def freeze(self, pid: int, *, frozen: bool) -> None:
        """Have everything in the group stand still, or go on. Raises OSError."""
        _write(f"{self.path(pid)}/cgroup.freeze", b"1" if frozen else b"0")

    def is_frozen(self, pid: int) -> bool:
        """Whether everything in the group stands still."""
        with suppress(OSError):
            return b"frozen 1" in read_file(f"{self.path(pid)}/cgroup.events")
        return False

    def kill(self, pid: int) -> None:
        """SIGKILL everything in the group, forks under way included, if there is one."""
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
        self._move(pid, ospid, 1)
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
            self._move(pid, ospid, 2)

    def house(self, name: str, ospid: int) -> None:
        """Have a helper of the daemon in a group of its own, which is no process's. Raises
        OSError."""
        with suppress(FileExistsError):
            os.mkdir(f"{self._base}/{name}")
        _write(f"{self._base}/{name}/cgroup.procs", b"%d" % ospid)

    def _helpers(self) -> list[str]:
        """Their groups: those of an earlier daemon's, too."""
        with os.scandir(self._base) as entries:
            return [one.name for one in entries if one.is_dir() and one.name[:1] != "p"]

    def clear(self, name: str) -> None:
        """SIGKILL everything in the group of a helper, and remove it as soon as it is empty."""
        with suppress(OSError):
            _write(f"{self._base}/{name}/cgroup.kill", b"1")
        with suppress(OSError):
            os.rmdir(f"{self._base}/{name}")

    def _move(self, pid: int, ospid: int, groups: int) -> None:
        opened = self.open(pid)
        try:
            for descriptor in opened[:groups]:
                os.write(descriptor, b"%d" % ospid)
        finally:
            _close(opened)

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
            if self._ids is not None:
                with suppress(FileNotFoundError):
                    self._ids.pop(self._id(pid), None)
            for path in self._paths(pid):
                with suppress(FileNotFoundError):
                    _remove_tree(path)
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
            for name in self._helpers():
                self.clear(name)
            for base in dict.fromkeys((self._base, self._pids or self._base)):
                os.rmdir(base)


def _enable(controller: str, origin: str, base: str) -> bool:
    """Have the groups below `base` count with a controller; whether they do. The group the daemon
    is in may only hand it on if it is the root or nothing else runs in it."""
    word = f"+{controller}".encode()
    try:
        with suppress(OSError):
            _write(f"{origin}/cgroup.subtree_control", word)
        _write(f"{base}/cgroup.subtree_control", word)
    except OSError:
        return False
    return True


def _beside(instance_id: str) -> str:
    """The directory of our groups in the pids hierarchy of cgroup v1; "" if there is none that we
    may make groups in."""
    try:
        with open("/proc/self/cgroup") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
        own = next(path for _, names, path in lines if "pids" in names.split(","))
        mounted, root = next(_hierarchies("cgroup", "pids"))
        if ".." in own or not (own + "/").startswith(root.rstrip("/") + "/"):
            return ""
        base = f"{mounted}{own[len(root.rstrip('/')) :].rstrip('/')}/agentfs-{instance_id}"
        os.makedirs(base, exist_ok=True)
        with open(f"{base}/cgroup.procs", "ab"):
            return base
    except (OSError, StopIteration):
        return ""


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


def _hierarchies(kind: str = "cgroup2", option: str = "") -> Iterator[tuple[str, str]]:
    """(mount point, the group that is mounted there) of every mount of this kind that we see: of
    cgroup v2, or of v1 with a controller."""
    try:
        with open("/proc/self/mountinfo") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        ours, _, theirs = line.partition(" - ")
        found, _, options = theirs.split(" ", 2)
        if found == kind and (not option or option in options.split(",")):
            root, mounted = ours.split(" ")[3:5]
            yield _unescape(mounted), _unescape(root)


def _unescape(path: str) -> str:
    return ESCAPE.sub(lambda match: chr(int(match[1], 8)), path)


def _open_group(path: str) -> int:
    with suppress(FileExistsError):
        os.mkdir(path)
    return os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


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
