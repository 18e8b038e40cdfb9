"""`on`: a provider says beside the entry, or the method, which events change it, and nowhere else.

    @value("state", on=(StateChanged, ProcessExited))
    def state(self) -> str: ...

    @on(TopicCreated)
    def created(self, event: TopicCreated) -> Iterator[Change]:
        yield Created(self.key, event.name, ...)

`index` finds the handlers of each kind of event once, when a tree is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from inspect import getattr_static
from typing import NamedTuple, TypeVar

from agentfs.store.event import Event
from agentfs.vfs.changes import Change

__all__ = ["Cause", "Handler", "When", "handlers", "kind_of", "on"]

_MARK = "_agentfs_on"
"""Where a decorated method keeps what it hears of."""


class When:
    """Those events of `kind` whose fields have these values."""

    __slots__ = ("_fields", "kind")

    def __init__(self, kind: type[Event], **fields: object) -> None:
        self.kind = kind
        self._fields = fields

    def matches(self, event: Event) -> bool:
        return isinstance(event, self.kind) and all(
            getattr(event, name) == value for name, value in self._fields.items()
        )


Cause = type[Event] | When
"""Which events change something."""


def kind_of(cause: Cause) -> type[Event]:
    """The kind of those events."""
    return cause.kind if isinstance(cause, When) else cause


class Handler(NamedTuple):
    """A method that says what events change, and of which of several directories it is called: of
    that which belongs to the thing that the field `whose` names, of `every` one that is kept, or
    (with neither) of those that the event is about. A `static` one is called once for an event, if
    there is any."""

    method: Callable[..., Iterable[Change]]
    causes: tuple[Cause, ...]
    whose: str
    every: bool
    static: bool


Method = TypeVar("Method", bound=Callable[..., Iterable[Change]])


def on(*causes: Cause, whose: str = "", every: bool = False) -> Callable[[Method], Method]:
    """The method `(event)` says what these events change; the rest as in `Handler`."""

    def decorate(method: Method) -> Method:
        setattr(method, _MARK, (causes, whose, every))
        return method

    return decorate


def handlers(kind: type) -> tuple[Handler, ...]:
    """The decorated methods of a class."""
    return _handlers(kind)


@cache
def _handlers(kind: type) -> tuple[Handler, ...]:
    return tuple(_look_for_handlers(kind))


def _look_for_handlers(kind: type) -> Iterator[Handler]:
    for name in sorted({name for each in kind.__mro__ for name in _decorated(each)}):
        method = getattr(kind, name)
        mark = getattr(method, _MARK, None)
        if mark is not None:  # else a class overrides it, and hears of nothing
            causes, whose, every = mark
            static = isinstance(getattr_static(kind, name), staticmethod)
            yield Handler(method, causes, whose, every, static)


@cache
def _decorated(kind: type) -> tuple[str, ...]:
    """The names of what a class itself decorates. Kept: the classes of all directories stand on the
    same few, and to look through all names of each took a fifth of the daemon's start."""
    return tuple(name for name, found in vars(kind).items() if hasattr(_function(found), _MARK))


def _function(found: object) -> object:
    return found.__func__ if isinstance(found, staticmethod | classmethod) else found
