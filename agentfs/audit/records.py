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

__all__ = ["actor", "canonical", "change", "record", "stamp"]

canonical: Callable[[Any], str] = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""Makes canonical JSON of any value. Surrogates, which stand for bytes that are no UTF-8, are
escaped."""


def record(seq: int, time: str, actor: str, changes: Iterable[Event]) -> str:
    """One record. `actor` is JSON already; `time` is the `stamp` of the wall-clock time."""
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
        shape = _shapes[kind] = _shape(kind)
    template, values = shape
    return template % tuple(
        [
            quoted(value)
            if type(value) is str
            else str(value)
            if type(value) is int
            else canonical(value)
            for value in values(event)
        ]
    )


def _shape(kind: type[Event]) -> tuple[str, Callable[[Event], tuple[Any, ...]]]:
    """The JSON of the events of one kind, with a place for each value, and what takes the values
    out of one, in that order."""
    told = sorted(each.name for each in fields(kind) if "untold" not in each.metadata)
    places = {name: f'"{name}":%s' for name in told}
    places["type"] = f'"type":{quoted(kind.type)}'
    template = f"{{{','.join(places[key] for key in sorted(places))}}}"
    if len(told) > 1:
        return template, attrgetter(*told)
    return template, lambda event: tuple(getattr(event, name) for name in told)


_shapes: dict[type[Event], tuple[str, Callable[[Event], tuple[Any, ...]]]] = {}
