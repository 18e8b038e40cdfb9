"""Directories whose entries are declared in their class; the decorators are in `declare`."""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from agentfs.base.errors import KernelError
from agentfs.store.event import Event
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Modified
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Directory, Node, Stat

__all__ = ["ATTRIBUTE", "DirectoryOf", "Entry", "Table", "modified"]

ATTRIBUTE = "_agentfs_entry"
"""Where a decorated method keeps its entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a directory's table.

    `on`: the events that change it. `private`: only the agent that owns the directory, and the
    operator, open it. `errors` maps an errno name to when it is given. `known_as`: what its
    attribute `user.agentfs.kind` says, where that is more than the kind.
    """

    kind: str
    name: str
    mode: int
    doc: str
    on: tuple[type[Event], ...]
    private: bool
    example: str
    errors: tuple[tuple[str, str], ...]
    build: Callable[[Any, Hashable, Entry], Node]
    known_as: str = ""

    @property
    def word(self) -> str:
        """What `user.agentfs.kind` says."""
        return self.known_as or self.kind.lower()


class DirectoryOf(Directory):
    """What declared directories share: a key, a mode, an owner and a guard."""

    mode: ClassVar[int] = 0o755
    _kept: Stat | None = None

    def owner(self) -> Owner:
        """Who owns the entries, and when they changed last."""
        raise NotImplementedError

    def guard(self, caller: Caller) -> None:
        """Ask whether `caller` may use what is in here, beyond the modes."""

    def private_guard(self, caller: Caller) -> None:
        """Ask whether `caller` may use the private entries."""
        self.guard(caller)

    def enter(self, caller: Caller) -> None:
        self.guard(caller)

    def remember(self) -> None:
        """Keep the attributes: its coming is announced even if it is gone by then."""
        with suppress(KernelError):
            self._kept = self.stat()

    def stat(self) -> Stat:
        try:
            owner = self.owner()
        except KernelError:
            if self._kept is None:
                raise
            return replace(self._kept)
        time = owner.mtime
        # One link is what file systems say that do not count sub-directories: with 2, `find` may
        # believe that there are none.
        return Stat(0o040000 | self.mode, owner.uid, owner.gid, 0, time, 1, time, time)

    def missing(self, name: str) -> KernelError:
        """The error for a name that is not there."""
        return KernelError(errno.ENOENT, f"there is no {name!r} here")


class Table(DirectoryOf):
    """A directory whose entries are declared in its class with the decorators of this module.

    Subclasses with entries of their own beside the declared ones override `more` and `find`.
    """

    TABLE: ClassVar[dict[str, Entry]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        table = dict(cls.TABLE)
        for attribute in vars(cls).values():
            entry = getattr(attribute, ATTRIBUTE, None)
            if isinstance(entry, Entry):
                table[entry.name] = entry
        cls.TABLE = table

    def node(self, entry: Entry) -> Node:
        """The node of a declared entry."""
        return entry.build(self, (self.key, entry.name), entry)

    def exists(self, entry: Entry) -> bool:
        """Whether a declared entry is there at the moment."""
        return True

    def listed(self, entry: Entry) -> bool:
        """Whether a listing has an entry that exists. A link that leads up, or out of the tree, is
        there for whoever names it, and no listing has it: so what follows links comes to an end."""
        return True

    def lookup(self, name: str) -> Node:
        entry = self.TABLE.get(name)
        if entry is not None and self.exists(entry):
            return self.node(entry)
        found = self.find(name)
        if found is None:
            raise self.missing(name)
        return found

    def entries(self) -> Iterator[tuple[str, Node]]:
        for name, entry in self.TABLE.items():
            if self.exists(entry) and self.listed(entry):
                try:
                    node = self.node(entry)
                except KernelError as silent:
                    if silent.errno != errno.ETIMEDOUT:
                        raise
                    continue  # it is on a disk that does not answer
                yield name, node
        yield from self.more()

    def find(self, name: str) -> Node | None:
        """An entry that is not declared; None if there is none."""
        return None

    def more(self) -> Iterable[tuple[str, Node]]:
        """The entries that are not declared."""
        return ()


def modified(table: type[Table], key: Hashable, event: Event) -> Iterator[Modified]:
    """The declared entries of the `table` at `key` that `event` changes."""
    for name in _changed_by(table, type(event)):
        yield Modified((key, name))


_changed: dict[tuple[type[Table], type[Event]], tuple[str, ...]] = {}


def _changed_by(table: type[Table], event: type[Event]) -> tuple[str, ...]:
    names = _changed.get((table, event))
    if names is None:
        names = tuple(name for name, entry in table.TABLE.items() if event in entry.on)
        _changed[table, event] = names
    return names
