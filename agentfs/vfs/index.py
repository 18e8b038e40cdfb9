"""The changes that each kind of event means: found once, from the declarations of all providers.

Nobody is asked about an event that does not concern him, and what an event is about is found out
once for all that is attached to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

from agentfs.store.event import Event
from agentfs.vfs.changes import Change, Known, Modified
from agentfs.vfs.on import Cause, Handler, When, handlers, kind_of
from agentfs.vfs.table import AddedRows, DirectoryOf, Table

__all__ = ["EventIndex"]

Told = Callable[[Any, Known], Iterable[Change]]
"""Says what an event changes."""

Step = Callable[..., Iterable[Change]]
"""The same, given the event, who knows what, and the keys of the things that it is about."""

Steps = defaultdict[type[Event], list[Step]]
"""The steps for each kind of event, in order."""

Declared = list[tuple[str, When]]
"""Entries by name, each with the events of a kind that change it."""


class EventIndex:
    """The changes that each kind of event means in the tree below `root`."""

    def __init__(self, root: Table) -> None:
        self._told: defaultdict[type[Event], list[Told]] = defaultdict(list)
        self._directory(root)

    def changes(self, event: Event, known: Known = bool) -> list[Change]:
        """Which nodes an event changed; of those whose content is another now, the `known` ones."""
        found: list[Change] = []
        for told in self._told.get(type(event), ()):
            if changes := told(event, known):
                found += changes
        return found

    def _directory(self, directory: Table) -> None:
        """A directory of which there is one, and what is below it."""
        self._methods(directory)
        for event, rows in _declared(type(directory)).items():
            self._told[event].append(partial(rows, keys=(directory.key,)))
        if directory.EACH is not None:
            self._each(directory, directory.EACH)
        for kind in directory.ATTACHED:
            attached = directory.attached(kind)
            if isinstance(attached, Table):
                self._directory(attached)
            else:
                self._methods(attached)

    def _methods(self, thing: object) -> None:
        for handler in handlers(type(thing)):
            for cause in handler.causes:
                self._told[kind_of(cause)].append(_only(cause, partial(_of_one, handler, thing)))

    def _each(self, directory: Table, kind: type[Table]) -> None:
        """The things in a directory. All that is attached to a thing is told before it."""
        steps: Steps = defaultdict(list)
        for attached in kind.ATTACHED:
            self._attached(directory, attached, steps)
        for handler in handlers(kind):
            _add(steps, handler, directory.each)
        for event, rows in _declared(kind).items():
            steps[event].append(rows)
        for event, each in steps.items():
            self._told[event].append(partial(_about, directory.concerned, each))

    def _attached(
        self, directory: Table, kind: type[AddedRows | DirectoryOf], steps: Steps
    ) -> None:
        """A provider attached this to each thing in a directory."""
        if kind.KEPT:
            kept = directory.kept.of(kind)
            find: Callable[[Hashable], Any] = kept.get
        else:
            kept = {}

            def find(key: Hashable) -> Any:
                return directory.each(key).attached(kind)

        for handler in handlers(kind):
            if handler.static or handler.every or handler.whose:
                assert kind.KEPT, f"{kind.__name__} keeps none of which this could be called"
                for cause in handler.causes:
                    told = _of_kept(handler, kept, directory.named)
                    self._told[kind_of(cause)].append(_only(cause, told))
            else:
                _add(steps, handler, find)
        if issubclass(kind, Table):
            for event, rows in _declared(kind).items():
                steps[event].append(partial(_rows_of, rows, find))
            for event, rows in _declared(kind.EACH).items():
                steps[event].append(partial(_rows_below, rows, find))


def _declared(kind: type[Table] | None) -> dict[type[Event], Step]:
    """The entries of a directory that events change, by the kind of event."""
    always: defaultdict[type[Event], list[str]] = defaultdict(list)
    sometimes: defaultdict[type[Event], Declared] = defaultdict(list)
    for name, entry in () if kind is None else kind.TABLE.items():
        for cause in entry.on:
            if isinstance(cause, When):
                sometimes[cause.kind].append((name, cause))
            else:
                always[cause].append(name)
    events = dict.fromkeys((*always, *sometimes))
    return {event: partial(_rows, tuple(always[event]), sometimes[event]) for event in events}


def _only(cause: Cause, told: Told) -> Told:
    """`told`, of the events that `cause` says."""
    if isinstance(cause, When):
        matches = cause.matches
        return lambda event, known: told(event, known) if matches(event) else ()
    return told


def _add(steps: Steps, handler: Handler, find: Callable[[Hashable], Any]) -> None:
    """A handler that is called of the things that an event is about; `find` gives one by its key,
    or None."""
    for cause in handler.causes:
        matches = cause.matches if isinstance(cause, When) else None
        steps[kind_of(cause)].append(partial(_call, handler.method, find, matches))


# -- what is called when an event comes ------------------------------------------------------------


def _of_one(handler: Handler, thing: object, event: Event, known: Known) -> Iterable[Change]:
    """A method of a directory of which there is one."""
    return handler.method(thing, event)


def _about(
    concerned: Callable[[Any], Sequence[Hashable]], steps: list[Step], event: Event, known: Known
) -> Iterable[Change]:
    """All steps, of the things that `event` is about."""
    keys = concerned(event)
    if not keys:
        return ()
    if len(steps) == 1:
        return steps[0](event, known, keys)
    found: list[Change] = []
    for step in steps:
        found += step(event, known, keys)
    return found


def _call(
    method: Callable[..., Iterable[Change]],
    find: Callable[[Hashable], Any],
    matches: Callable[[Event], bool] | None,
    event: Event,
    known: Known,
    keys: Sequence[Hashable],
) -> Iterable[Change]:
    """A method, of each of these things that is found."""
    found: list[Change] = []
    if matches is None or matches(event):
        for key in keys:
            thing = find(key)
            if thing is not None:
                found += method(thing, event)
    return found


def _of_kept(handler: Handler, kept: Any, named: Callable[[str], Hashable]) -> Told:
    """A handler that says itself of which of the kept things it is called."""
    method, whose = handler.method, handler.whose

    def once(event: Any, known: Known) -> Iterable[Change]:
        return method(event) if kept else ()

    def every(event: Any, known: Known) -> Iterable[Change]:
        return [change for thing in tuple(kept.values()) for change in method(thing, event)]

    def one(event: Any, known: Known) -> Iterable[Change]:
        thing = kept.get(named(getattr(event, whose))) if kept else None
        return () if thing is None else method(thing, event)

    return once if handler.static else every if handler.every else one


def _rows(
    always: tuple[str, ...],
    sometimes: Declared,
    event: Event,
    known: Known,
    keys: Iterable[Hashable],
) -> list[Change]:
    """Those of the entries that `event` changes, in the directories with these keys."""
    names = always
    if sometimes:
        names = (*always, *(name for name, cause in sometimes if cause.matches(event)))
    changes: list[Change] = []
    for key in keys:
        for modified in _modified(key, names):
            if known(modified.key):
                changes.append(modified)
    return changes


@lru_cache(1024)
def _modified(key: Hashable, names: tuple[str, ...]) -> tuple[Modified, ...]:
    """That these entries of a directory changed. Kept: each message changes the same of its
    receiver."""
    return tuple(Modified((key, name)) for name in names)  # as `key_in` says


def _rows_of(
    rows: Step,
    find: Callable[[Hashable], Any],
    event: Event,
    known: Known,
    keys: Sequence[Hashable],
) -> Iterable[Change]:
    """The same of what is attached to the things with these keys."""
    return rows(event, known, [found.key for key in keys if (found := find(key)) is not None])


def _rows_below(
    rows: Step,
    find: Callable[[Hashable], Any],
    event: Event,
    known: Known,
    keys: Sequence[Hashable],
) -> list[Change]:
    """The same of what is in that."""
    changes: list[Change] = []
    for key in keys:
        attached = find(key)
        if attached is not None:
            changes += rows(event, known, attached.concerned(event))
    return changes
