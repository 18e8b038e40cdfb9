"""The table of groups: what each may have and has used, in memory and written through."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentfs.base.clock import Clock, change_time
from agentfs.base.errors import KernelError
from agentfs.quota.events import GroupCreated, GroupRemoved
from agentfs.quota.settings import GroupSettings
from agentfs.store.event_log import EventLog
from agentfs.store.store import Store

__all__ = ["FILES", "HOLDS", "KIND", "Group", "GroupTable", "Hold"]

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


class Hold(NamedTuple):
    """What an open call has set aside in the group at `path`, where it was made."""

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

    def __init__(self, store: Store, events: EventLog, clock: Clock) -> None:
        self._store = store
        self._events = events
        self._clock = clock
        self._by_path: dict[str, Group] = {}
        self._children: dict[str, dict[str, Group]] = {}
        self._holds: dict[int, tuple[Hold, ...]] = {}
        self.changed = int(clock.now() * 1e9)
        for path, record in store.records(KIND):
            self._put(Group(path, **record))
        for pid, record in store.records(HOLDS):
            self._holds[int(pid)] = tuple(Hold(*hold) for hold in record["holds"])

    # -- look-ups --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._by_path)

    def sizes(self) -> dict[str, int]:
        """How many entries each index has, for tests."""
        return {
            "groups": len(self._by_path),
            "parents": len(self._children),
            "holds": len(self._holds),
        }

    def __iter__(self) -> Iterator[Group]:
        return iter(tuple(self._by_path.values()))

    def find(self, path: str) -> Group | None:
        return self._by_path.get(path)

    def get(self, path: str) -> Group:
        """Raises ENOENT."""
        group = self._by_path.get(path)
        if group is None:
            raise KernelError(errno.ENOENT, f"there is no group {path!r}")
        return group

    def children(self, path: str) -> list[Group]:
        """The groups right below `path`, "" for the top ones, by name."""
        return [group for _, group in sorted(self._children.get(path, {}).items())]

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
        if path in self._by_path:
            raise KernelError(errno.EEXIST, f"there is a group {path} already")
        if len(self._by_path) >= numbers.max_groups:
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
        self._store.on_rollback(lambda: self._drop(group))
        self._put(group)
        self._save(group)
        self._touch_parent(group)
        self._events.emit(GroupCreated(path))
        return group

    def remove(self, group: Group) -> None:
        """Remove a group that has none below it (EBUSY). What calls still hold that were made in
        it is the parent's matter from now on, as with Linux."""
        if self._children.get(group.path):
            raise KernelError(errno.EBUSY, f"group {group.path} has groups below it")
        for pid, holds in tuple(self._holds.items()):
            if any(hold.path == group.path for hold in holds):
                moved = [
                    hold._replace(path=group.parent) if hold.path == group.path else hold
                    for hold in holds
                ]
                self._set_holds(pid, moved)
        self._store.on_rollback(lambda: self._put(group))
        self._drop(group)
        self._store.delete_record(KIND, group.path)
        self._touch_parent(group)
        self._events.emit(GroupRemoved(group.path))

    # -- changes ---------------------------------------------------------------------------------

    def change(self, group: Group, **fields: Any) -> None:
        """Set fields of a group."""
        before = {name: getattr(group, name) for name in fields}
        self._store.on_rollback(lambda: _set(group, before))
        _set(group, fields)
        group.changed = change_time(self._clock.now(), group.changed)
        self._save(group)

    def charge(self, path: str, tokens: int) -> None:
        """Count tokens in the group at `path` and in all above it."""
        if tokens:
            for group in self.line(path):
                self.change(group, tokens=group.tokens + tokens)

    def hold(self, pid: int, hold: Hold) -> None:
        """Count what a call of `pid` sets aside."""
        self._set_holds(pid, [*self._holds.get(pid, ()), hold])
        self.charge(hold.path, hold.tokens)

    def settle(self, pid: int, tokens: int, used: int) -> bool:
        """Count `used` instead of the `tokens` that a call of `pid` holds, where it holds them;
        whether there is such a hold."""
        holds = list(self._holds.get(pid, ()))
        for number, hold in enumerate(holds):
            if hold.tokens == tokens:
                del holds[number]
                self._set_holds(pid, holds)
                self.charge(hold.path, used - tokens)
                return True
        return False

    def forget(self, pid: int) -> None:
        """Let everything that the calls of `pid` hold count as used."""
        if pid in self._holds:
            self._set_holds(pid, ())

    def _set_holds(self, pid: int, holds: Iterable[Hold]) -> None:
        before, now = self._holds.get(pid, ()), tuple(holds)
        self._store.on_rollback(lambda: self._keep_holds(pid, before))
        self._keep_holds(pid, now)
        if now:
            self._store.put_record(HOLDS, str(pid), {"holds": now})
        else:
            self._store.delete_record(HOLDS, str(pid))

    def _keep_holds(self, pid: int, holds: tuple[Hold, ...]) -> None:
        if holds:
            self._holds[pid] = holds
        else:
            self._holds.pop(pid, None)

    # -- indexes ---------------------------------------------------------------------------------

    def _put(self, group: Group) -> None:
        group.removed = False
        self._by_path[group.path] = group
        self._children.setdefault(group.parent, {})[group.name] = group

    def _drop(self, group: Group) -> None:
        group.removed = True
        self._by_path.pop(group.path, None)
        siblings = self._children.get(group.parent, {})
        siblings.pop(group.name, None)
        if not siblings:
            self._children.pop(group.parent, None)

    def _save(self, group: Group) -> None:
        self._store.put_record(KIND, group.path, group.record())

    def _touch_parent(self, group: Group) -> None:
        parent = self._by_path.get(group.parent)
        if parent is None:
            self.changed = change_time(self._clock.now(), self.changed)
        else:
            self.change(parent)


def _set(group: Group, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        setattr(group, name, value)


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
