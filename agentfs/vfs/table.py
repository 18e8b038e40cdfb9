"""Directories whose entries are declared in their class; the decorators are in `declare`."""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from agentfs.base.errors import KernelError
from agentfs.vfs.caller import Caller
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Directory, Node, Stat
from agentfs.vfs.on import Cause

__all__ = [
    "ATTRIBUTE",
    "AddedRows",
    "Attachable",
    "Attached",
    "DirectoryOf",
    "Entry",
    "Kept",
    "Table",
    "attach",
    "key_in",
]

ATTRIBUTE = "_agentfs_entry"
"""Where a decorated method keeps its entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a directory's table.

    `on`: the events that change it. `private`: only the agent that owns the directory, and the
    operator, open it. `errors` maps an errno name to when it is given. `known_as`: what its
    attribute `user.agentfs.kind` says, where that is more than the kind. `rows`: those who added
    it to the directory, if they say whether it exists and is listed.
    """

    kind: str
    name: str
    mode: int
    doc: str
    on: tuple[Cause, ...]
    private: bool
    example: str
    errors: tuple[tuple[str, str], ...]
    build: Callable[[Any, Hashable, Entry], Node]
    known_as: str = ""
    rows: type[AddedRows] | None = None

    @property
    def word(self) -> str:
        """The value of `user.agentfs.kind`."""
        return self.known_as or self.kind.lower()


def key_in(directory: Hashable, name: str) -> Hashable:
    """The key of an entry of the directory with that key: what `DirectoryOf.key_of` gives."""
    return (directory, name)


class Attachable:
    """A provider attaches this to a directory of another: entries, or a directory of its own. It is
    made with the directory that it is attached to.

    `KEPT`: where there is one for each of many things (an agent), it is made when somebody looks
    there first, and kept as long as that thing is there. Nobody is told of one that was never made.
    """

    KEPT: ClassVar[bool] = False


class DirectoryOf(Directory, Attachable):
    """Declared directories share a key, a mode, an owner and a guard.

    `PATH` is where it is; a part in capitals stands for many names. If it is attached, `WHAT`,
    `PRIVATE` and `ON` are those of its entry in the directory above.
    """

    PATH: ClassVar[str]
    WHAT: ClassVar[str] = ""
    PRIVATE: ClassVar[bool] = False
    ON: ClassVar[tuple[Cause, ...]] = ()
    mode: ClassVar[int] = 0o755
    _kept: Stat | None = None

    @classmethod
    def name_in_tree(cls) -> str:
        """The last part of its path."""
        return cls.PATH.rpartition("/")[2]

    def key_of(self, name: str) -> Hashable:
        """The key of an entry."""
        return (self.key, name)

    def owner(self) -> Owner:
        """The owner of the entries, and when they changed last."""
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


Attached = TypeVar("Attached", bound=Attachable)


class _Declaring:
    """A class whose decorated methods are entries."""

    TABLE: ClassVar[dict[str, Entry]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        table = dict(cls.TABLE)
        for attribute in vars(cls).values():
            entry = getattr(attribute, ATTRIBUTE, None)
            if isinstance(entry, Entry):
                table[entry.name] = entry
        cls.TABLE = table


class AddedRows(_Declaring, Attachable):
    """Entries that one provider adds to the directory `INTO` of another: they have its owner, and
    who may use it may use them."""

    INTO: ClassVar[str]

    def __init__(self, directory: Any) -> None:
        self.directory = directory
        self.key: Hashable = directory.key

    def owner(self) -> Owner:
        owner: Owner = self.directory.owner()
        return owner

    def guard(self, caller: Caller) -> None:
        self.directory.guard(caller)

    def private_guard(self, caller: Caller) -> None:
        self.directory.private_guard(caller)

    def exists(self, entry: Entry) -> bool:
        """Whether a declared entry is there at the moment."""
        return True

    def listed(self, entry: Entry) -> bool:
        """Whether a listing has it: see `Table.listed`."""
        return True


class Table(_Declaring, DirectoryOf):
    """A directory whose entries are declared in its class with the decorators of `declare`, and
    attached by other providers (`attach`).

    `EACH` are the directories in it that come and go: `concerned` says which of them an event is
    about. Subclasses with entries of their own beside the declared ones override `more` and `find`.
    """

    EACH: ClassVar[type[Table] | None] = None
    ATTACHED: ClassVar[tuple[type[AddedRows | DirectoryOf], ...]] = ()
    kept: Kept

    def node(self, entry: Entry) -> Node:
        """The node of a declared entry."""
        return entry.build(self, (self.key, entry.name), entry)

    def attached(self, kind: type[Attached]) -> Attached:
        """That which a provider attached to this directory."""
        return kind(self)  # type: ignore[call-arg]

    def concerned(self, event: Any) -> Sequence[Hashable]:
        """The keys of those of `EACH` that an event is about."""
        return ()

    def each(self, key: Any) -> Table:
        """The one of `EACH` with this key, whether or not it is there."""
        raise NotImplementedError

    def named(self, name: str) -> Hashable:
        """The key of the one of `EACH` with this name."""
        raise NotImplementedError

    def exists(self, entry: Entry) -> bool:
        """Whether a declared entry is there at the moment."""
        return entry.rows is None or self.attached(entry.rows).exists(entry)

    def listed(self, entry: Entry) -> bool:
        """Whether a listing has an entry that exists. A link that leads up, or out of the tree, is
        there for whoever names it, and no listing has it: so what follows links comes to an end."""
        return entry.rows is None or self.attached(entry.rows).listed(entry)

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


class Kept:
    """Parts that are kept of the things in a directory, by the key of the thing."""

    def __init__(self) -> None:
        self._of: dict[type, dict[Hashable, Any]] = {}

    def of(self, kind: type) -> Mapping[Hashable, Any]:
        """All of one kind."""
        return self._of.setdefault(kind, {})

    def made(self, thing: Table, kind: type[Attached]) -> Attached:
        """That of one thing, made if it is not there yet."""
        kept = self._of.setdefault(kind, {})
        found: Attached | None = kept.get(thing.key)
        if found is None:
            found = kept[thing.key] = kind(thing)  # type: ignore[call-arg]
        return found

    def forget(self, key: Hashable) -> None:
        """The thing with this key is no more."""
        for kept in self._of.values():
            kept.pop(key, None)


def attach(root: type[Table], *kinds: type[AddedRows | DirectoryOf]) -> None:
    """Put each into the directory that its path says, behind what is there already."""
    places: dict[str, type[Table]] = {"": root}
    for kind in kinds:
        if issubclass(kind, AddedRows):
            above = kind.INTO.rstrip("/")
            added = {entry.name: _entry_in(kind, entry) for entry in kind.TABLE.values()}
        else:
            above = kind.PATH.rpartition("/")[0]
            added = {kind.name_in_tree(): _entry_of(kind)}
            if issubclass(kind, Table):
                places[kind.PATH] = kind
                if kind.EACH is not None:
                    places[kind.EACH.PATH] = kind.EACH
        into = places[above]
        assert not into.TABLE.keys() & added.keys(), f"{kind.__name__} adds what is there"
        into.TABLE = into.TABLE | added
        into.ATTACHED += (kind,)


def _entry_of(kind: type[DirectoryOf]) -> Entry:
    """The entry of an attached directory."""
    return Entry(
        "Directory",
        kind.name_in_tree(),
        kind.mode,
        kind.WHAT,
        kind.ON,
        kind.PRIVATE,
        "",
        (),
        lambda table, key, entry: table.attached(kind),
    )


def _entry_in(kind: type[AddedRows], entry: Entry) -> Entry:
    """The entry that `kind` adds, built by it."""
    build = entry.build
    asked = kind.exists is not AddedRows.exists or kind.listed is not AddedRows.listed
    return replace(
        entry,
        rows=kind if asked else None,
        build=lambda table, key, entry: build(table.attached(kind), key, entry),
    )
