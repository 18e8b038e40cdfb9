"""The table of groups: the limits of each and what it has used, in memory and stored."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentfs.base.clock import change_time
from agentfs.base.errors import KernelError
from agentfs.quota.events import GroupCreated, GroupRemoved
from agentfs.quota.settings import GroupSettings
from agentfs.store.ground import Ground
from agentfs.store.records import Records

__all__ = ["FILES", "HOLDS", "KIND", "Group", "GroupHold", "GroupTable"]

KIND, HOLDS = "group", "group holds"
"""The kinds of record: by path, and by the pid of the process that holds."""

FILES = (
    "cgroup.procs",
    "tokens.max",
    "tokens.current",
    "tokens.events",
    "pids.max",
    "pids.current",
    "pids.events",
    "tokens.remaining",
    "tokens.percent",
    "pids.remaining",
    "pids.percent",
    "rate.max",
    "rate.current",
)
"""The files of a group: no group is called so."""

MAX_NAME = 255
"""Bytes, as NAME_MAX of Linux."""


class GroupHold(NamedTuple):
    """The tokens that an open call has set aside in the group at `path`, in which it began."""

    path: str
    tokens: int


@dataclass(slots=True, eq=False)
class Group:
    """One group. `tokens` counts what its processes and those of the groups below have used, and
    what their open calls hold; `*_hits` count refusals. Only the table changes its fields."""

    path: str
    changed: int  # ns, for st_mtime
    tokens_max: int | None = None
    pids_max: int | None = None
    tokens: int = 0
    tokens_hits: int = 0
    pids_hits: int = 0
    rates: dict[str, int] = field(default_factory=dict)  # calls a minute, by kind
    removed: bool = False

    @property
    def parent(self) -> str:
        """The path of the group that it is in; "" for none."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def record(self) -> dict[str, Any]:
        return {
            "changed": self.changed,
            "tokens_max": self.tokens_max,
            "pids_max": self.pids_max,
            "tokens": self.tokens,
            "tokens_hits": self.tokens_hits,
            "pids_hits": self.pids_hits,
            "rates": self.rates,
        }


class GroupTable:
    """All groups by path. Loads itself from the store; changes belong inside a transaction."""

    def __init__(self, ground: Ground) -> None:
        self._events = ground.events
        self._clock = ground.clock
        self.changed = int(ground.clock.now() * 1e9)
        self._groups = Records(
            ground.store, KIND, lambda path, record: (path, Group(path, **record)), Group.record
        )
        self._below = self._groups.index(lambda group: group.parent, "path")
        self._groups.follow(_entered, _left, ("path",))
        self._groups.load()
        self._holds = Records(ground.store, HOLDS, _read_holds, lambda holds: {"holds": holds})
        self._holds.load()

    # -- look-ups --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._groups)

    def sizes(self) -> dict[str, int]:
        """How many entries each index has, for tests."""
        return {
            "groups": len(self._groups),
            "parents": len(self._below),
            "holds": len(self._holds),
        }

    def __iter__(self) -> Iterator[Group]:
        return iter(tuple(self._groups.values()))

    def find(self, path: str) -> Group | None:
        return self._groups.get(path)

    def get(self, path: str) -> Group:
        """Raises ENOENT."""
        group = self._groups.get(path)
        if group is None:
            raise KernelError(errno.ENOENT, f"there is no group {path!r}")
        return group

    def children(self, path: str) -> list[Group]:
        """The groups right below `path`, "" for the top ones, by name."""
        below = self._below.of(path)
        return [below[each] for each in sorted(below)]

    def line(self, path: str) -> Iterator[Group]:
        """The group at `path` and those above it, from the innermost outwards; none for ""."""
        while path:
            group = self.get(path)
            yield group
            path = group.parent

    # -- making and removing ---------------------------------------------------------------------

    def create(self, parent: str, name: str, numbers: GroupSettings) -> Group:
        """Make an empty group below `parent`."""
        if parent:
            self.get(parent)
        _check_name(name)
        path = f"{parent}/{name}" if parent else name
        if path in self._groups:
            raise KernelError(errno.EEXIST, f"there is a group {path} already")
        if len(self._groups) >= numbers.max_groups:
            raise KernelError(
                errno.EAGAIN, f"there are {numbers.max_groups} groups", rule="groups.max_groups"
            )
        if path.count("/") >= numbers.max_depth:
            raise KernelError(
                errno.EAGAIN,
                f"groups are nested {numbers.max_depth} deep at most",
                rule="groups.max_depth",
            )
        group = Group(path, change_time(self._clock.now(), self.changed))
        self._groups.put(path, group)
        self._touch_parent(group)
        self._events.emit(GroupCreated(path))
        return group

    def remove(self, group: Group) -> None:
        """Remove a group that has none below it (EBUSY). The tokens that open calls hold in it
        count in its parent from now on, as with Linux."""
        if self._below.of(group.path):
            raise KernelError(errno.EBUSY, f"group {group.path} has groups below it")
        for pid, holds in tuple(self._holds.items()):
            if any(hold.path == group.path for hold in holds):
                moved = (
                    hold._replace(path=group.parent) if hold.path == group.path else hold
                    for hold in holds
                )
                self._holds.put(pid, tuple(moved))
        self._groups.drop(group.path)
        self._touch_parent(group)
        self._events.emit(GroupRemoved(group.path))

    # -- changes ---------------------------------------------------------------------------------

    def change(self, group: Group, **fields: Any) -> None:
        """Set fields of a group."""
        fields["changed"] = change_time(self._clock.now(), group.changed)
        self._groups.change(group.path, **fields)

    def charge(self, path: str, tokens: int) -> None:
        """Count tokens in the group at `path` and in all above it."""
        if tokens:
            for group in self.line(path):
                self.change(group, tokens=group.tokens + tokens)

    def hold(self, pid: int, hold: GroupHold) -> None:
        """Count what a call of `pid` sets aside."""
        self._holds.put(pid, (*self._holds.get(pid, ()), hold))
        if hold.path:
            self.charge(hold.path, hold.tokens)

    def held_in(self, pid: int, tokens: int) -> str | None:
        """The path of the group where a call of `pid` holds so many tokens; None if none does."""
        found = (hold.path for hold in self._holds.get(pid, ()) if hold.tokens == tokens)
        return next(found, None)

    def grow(self, pid: int, tokens: int, more: int) -> None:
        """A call of `pid` that holds so many `tokens` holds so many `more`."""
        path = self._take(pid, tokens)
        if path is not None:
            self._holds.put(pid, (*self._holds.get(pid, ()), GroupHold(path, tokens + more)))
            self.charge(path, more)

    def settle(self, pid: int, tokens: int, used: int) -> bool:
        """Count `used` instead of the `tokens` that a call of `pid` holds, in the group where it
        holds them. Returns whether there is such a hold."""
        path = self._take(pid, tokens)
        if path is None:
            return False
        self.charge(path, used - tokens)
        return True

    def _take(self, pid: int, tokens: int) -> str | None:
        """Take away a hold of so many tokens; returns where it was."""
        holds = self._holds.get(pid, ())
        for number, hold in enumerate(holds):
            if hold.tokens == tokens:
                left = holds[:number] + holds[number + 1 :]
                if left:
                    self._holds.put(pid, left)
                else:
                    self._holds.drop(pid)
                return hold.path
        return None

    def forget(self, pid: int) -> None:
        """Everything that the calls of `pid` hold counts as used."""
        self._holds.drop(pid)

    def _touch_parent(self, group: Group) -> None:
        parent = self._groups.get(group.parent)
        if parent is None:
            self.changed = change_time(self._clock.now(), self.changed)
        else:
            self.change(parent)


def _entered(path: str, group: Group) -> None:
    group.removed = False


def _left(path: str, group: Group) -> None:
    group.removed = True


def _read_holds(pid: str, record: dict[str, Any]) -> tuple[int, tuple[GroupHold, ...]]:
    return int(pid), tuple(GroupHold(*hold) for hold in record["holds"])


def _check_name(name: str) -> None:
    """Raise EEXIST for the name of a group's file, EINVAL for one that no group can have."""
    if name in FILES:
        raise KernelError(errno.EEXIST, f"{name} is a file of every group")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_NAME or "\n" in name or "/" in name or name in (".", ".."):
        raise KernelError(
            errno.EINVAL, f"a group cannot be called {name!r}: a file name without a line break"
        )
