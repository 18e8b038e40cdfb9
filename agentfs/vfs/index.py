"""Which handlers an event has: found once, from the declarations of all providers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

from agentfs.store.event import Event
from agentfs.vfs.changes import Change, Modified
from agentfs.vfs.on import Cause, Handler, When, handlers, kind_of
from agentfs.vfs.table import DirectoryOf, Rows, Table, key_in

__all__ = ["EventIndex"]

Told = Callable[[Any], Iterable[Change]]
Keys = Callable[[Any], Iterable[Hashable]]
Things = Callable[[Any], Iterable[Any]]


class EventIndex:
    """What each kind of event changes in the tree below `root`. Nobody is asked about an event that
    does not concern him."""

    def __init__(self, root: Table) -> None:
        self._told: dict[type[Event], list[Told]] = {}
        self._directory(root)

    def changes(self, event: Event) -> Iterator[Change]:
        """Which nodes an event changed."""
        for told in self._told.get(type(event), ()):
            yield from told(event)

    # -- from declarations to handlers -----------------------------------------------------------

    def _directory(self, directory: Table) -> None:
        """A directory of which there is one."""
        kind = type(directory)
        self._methods(kind, _always(directory))
        self._rows(kind, lambda event: (directory.key,))
        if kind.EACH is not None:
            self._each(directory, kind.EACH)
        for part in kind.ATTACHED:
            made = directory.attached(part)
            if isinstance(made, Table):
                self._directory(made)
            else:
                self._methods(part, _always(made))

    def _each(self, directory: Table, kind: type[Table]) -> None:
        """The entries of a directory that come and go; those in them are told first."""
        for part in kind.ATTACHED:
            self._part(directory, kind, part)
        self._rows(kind, directory.concerned)

    def _part(self, directory: Table, kind: type[Table], part: type[Rows | DirectoryOf]) -> None:
        """What is attached to each entry of a directory."""
        if part.KEPT:
            kept = directory.kept.of(part)

            def concerned(event: Any) -> Iterator[Any]:
                for key in directory.concerned(event):
                    if key in kept:
                        yield kept[key]

            def of(handler: Handler) -> Things:
                if handler.every:
                    return lambda event: tuple(kept.values())
                if handler.static:
                    return lambda event: (None,) if kept else ()
                if handler.whose:
                    return lambda event: filter(
                        None, (kept.get(directory.named(getattr(event, handler.whose))),)
                    )
                return concerned

            self._methods(part, of)
        else:

            def concerned(event: Any) -> Iterator[Any]:
                for key in directory.concerned(event):
                    yield directory.each(key).attached(part)

            self._methods(part, lambda handler: concerned)
        if not issubclass(part, Table):
            return  # its entries are those of what it is attached to
        if part.KEPT:
            self._rows(part, lambda event: [each.key for each in concerned(event)])
        else:
            name = part.name_in_tree()
            self._rows(
                part, lambda event: [key_in(key, name) for key in directory.concerned(event)]
            )
        if part.EACH is not None:

            def below(event: Any) -> Iterator[Hashable]:
                for each in concerned(event):
                    yield from each.concerned(event)

            self._rows(part.EACH, below)

    def _methods(self, kind: type, of: Callable[[Handler], Things]) -> None:
        for handler in handlers(kind):
            for cause in handler.causes:
                self._add(cause, _called(handler, of(handler)))

    def _rows(self, kind: type[Table], keys: Keys) -> None:
        found: dict[type[Event], list[tuple[str, Cause]]] = {}
        for name, entry in kind.TABLE.items():
            for cause in entry.on:
                found.setdefault(kind_of(cause), []).append((name, cause))
        for event, rows in found.items():
            self._add(event, _modified(rows, keys))

    def _add(self, cause: Cause, told: Told) -> None:
        if isinstance(cause, When):
            only = told

            def told(event: Any) -> Iterable[Change]:
                return only(event) if cause.matches(event) else ()

        self._told.setdefault(kind_of(cause), []).append(told)


def _always(thing: object) -> Callable[[Handler], Things]:
    return lambda handler: lambda event: (thing,)


def _called(handler: Handler, things: Things) -> Told:
    method, static = handler.method, handler.static

    def told(event: Any) -> Iterator[Change]:
        for thing in things(event):
            yield from method(event) if static else method(thing, event)

    return told


def _modified(rows: list[tuple[str, Cause]], keys: Keys) -> Told:
    """The entries of a table that an event changes, in each of the directories with these keys."""
    always = [name for name, cause in rows if not isinstance(cause, When)]
    sometimes = [(name, cause) for name, cause in rows if isinstance(cause, When)]

    def told(event: Any) -> list[Change]:
        names = always
        if sometimes:
            names = always + [name for name, cause in sometimes if cause.matches(event)]
        return (
            [Modified(key_in(key, name)) for key in keys(event) for name in names] if names else []
        )

    return told
