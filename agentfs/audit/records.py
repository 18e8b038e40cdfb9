"""Audit records as canonical JSON: keys sorted, no blanks, ASCII only.

They are written out piece by piece, because every change of the system goes through here and a
general encoder takes three times as long. A test compares the result with the standard library's.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted
from operator import attrgetter
from typing import Any

from agentfs.model.principal import Principal
from agentfs.store.event import Event

__all__ = ["actor", "canonical", "change", "record", "stamp", "written"]

canonical: Callable[[Any], str] = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""Makes canonical JSON of any value. Surrogates, which stand for bytes that are no UTF-8, are
escaped."""


def record(seq: int, seconds: float, actor: str, changes: Iterable[Event]) -> str:
    """One record. `actor` is JSON already; `seconds` is the wall-clock time."""
    return written(seq, stamp(seconds), actor, changes)


def written(seq: int, time: str, actor: str, changes: Iterable[Event]) -> str:
    """The same with a `time` that is a stamp already."""
    told = ",".join(map(change, changes))
    return f'{{"actor":{actor},"changes":[{told}],"seq":{seq},"time":"{time}"}}'


@functools.lru_cache(maxsize=1024)
def actor(principal: Principal | None) -> str:
    """The one who acts, as JSON; None is the kernel itself."""
    if principal is None:
        who = {"kind": "kernel", "name": "kernel", "pid": None}
        return canonical(who | {"uid": os.geteuid(), "gid": os.getegid()})
    return canonical(
        {
            "kind": principal.kind.value,
            "name": principal.name,
            "pid": principal.pid,
            "uid": principal.uid,
            "gid": principal.gid,
        }
    )


def stamp(seconds: float) -> str:
    """A wall-clock time to the microsecond (RFC 3339). It always has 27 characters."""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1e6):06d}Z"


@functools.lru_cache(maxsize=4)
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def change(event: Event) -> str:
    """An event as JSON: its type and its fields, without those that are private (`untold`)."""
    kind = type(event)
    shape = _shapes.get(kind)
    if shape is None:
        shape = _shapes[kind] = _Shape(kind)
    return shape.fill(event)


class _Shape:
    """The JSON of the events of one kind, with a place for each value."""

    def __init__(self, kind: type[Event]) -> None:
        told = {each.name: each.type for each in fields(kind) if "untold" not in each.metadata}
        self._names = sorted(told)
        places = {name: f'"{name}":%s' for name in told}
        places["type"] = f'"type":{quoted(kind.type)}'
        self._template = f"{{{','.join(places[key] for key in sorted(places))}}}"
        self._values: Callable[[Event], tuple[Any, ...]]
        if len(self._names) > 1:
            self._values = attrgetter(*self._names)
        else:
            self._values = lambda event: tuple(getattr(event, name) for name in self._names)

    def fill(self, event: Event) -> str:
        return self._template % tuple(
            [
                quoted(value)
                if type(value) is str
                else str(value)
                if type(value) is int
                else canonical(value)
                for value in self._values(event)
            ]
        )


_shapes: dict[type[Event], _Shape] = {}
