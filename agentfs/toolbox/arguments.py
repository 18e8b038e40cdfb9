"""The arguments of a call: JSON that fits a schema, or the place where it does not, in words.

Schemas come from whoever wrote the tool, and arguments from a model. Neither is trusted: what takes
longer than `SECONDS` is refused, regular expressions included, and no reference leads out of its
schema. jsonschema is what the MCP SDK checks with, too; as it is in Python, a signal ends it.
"""

from __future__ import annotations

import json
import signal
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match, relevance
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

__all__ = ["BadArgumentsError", "BadSchemaError", "Schemas", "read"]

SECONDS = 0.5
"""Of processor time, for reading arguments and checking them: a thousand times what 4 KB take."""

KEPT = 64
"""Schemas that are kept ready."""

FAULTS = 3
"""How many places are told at once, of the first `LOOKED_AT` that are found."""
LOOKED_AT = 50
LONGEST = 200
"""Characters of what is said of a place."""


class BadArgumentsError(Exception):
    """The arguments do not fit; where, and why."""


class BadSchemaError(Exception):
    """The schema itself cannot be used."""


class _Late(BaseException):
    """The time is over. No exception of Python's own, so that nothing on the way takes it for one
    of its own."""


def _late(number: int, frame: FrameType | None) -> None:
    raise _Late


@contextmanager
def _in_time() -> Iterator[None]:
    """Only in the main thread. Raises BadArgumentsError."""
    before = signal.signal(signal.SIGPROF, _late)
    try:
        try:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
    except _Late:
        raise BadArgumentsError(f"checking them takes longer than {SECONDS:g} s") from None
    except RecursionError:
        raise BadArgumentsError("they, or their schema, are nested too deeply") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _loads(text: bytes) -> Any:
    """What JSON says. Raises ValueError."""
    return json.loads(text.decode(), parse_constant=_no_constant)


def read(data: bytes) -> dict[str, Any]:
    """The arguments as written: one JSON object. Raises BadArgumentsError."""
    with _in_time():
        try:
            found = _loads(data)
        except json.JSONDecodeError as bad:
            place = f"line {bad.lineno}, column {bad.colno}"
            raise BadArgumentsError(f"not JSON at {place}: {bad.msg}") from None
        except ValueError as bad:  # not UTF-8, a number without end, NaN
            raise BadArgumentsError(f"not JSON: {str(bad)[:LONGEST]}") from None
    if not isinstance(found, dict):
        raise BadArgumentsError('a JSON object was expected, like {"name": "value"}')
    return found


class Schemas:
    """Checks arguments; the schemas last used are kept ready."""

    def __init__(self) -> None:
        self._ready: OrderedDict[bytes, Any] = OrderedDict()

    def check(self, schema: bytes, arguments: dict[str, Any]) -> None:
        """Raise BadArgumentsError with the places where they do not fit, BadSchemaError if the
        schema cannot be used."""
        with _in_time():
            validator = self._validator(schema)
            try:
                faults = list(islice(validator.iter_errors(arguments), LOOKED_AT))
            except Unresolvable as bad:
                raise BadSchemaError(f"a reference leads nowhere: {str(bad)[:LONGEST]}") from None
            except (RecursionError, ValidationError):
                raise
            except Exception as bad:  # noqa: BLE001  # a pattern that is none, a number that is a text
                words = f"{type(bad).__name__}: {bad}"
                raise BadSchemaError(words[:LONGEST]) from None
            if faults:
                faults.sort(key=relevance, reverse=True)
                raise BadArgumentsError("; ".join(map(_told, faults[:FAULTS])))

    def _validator(self, schema: bytes) -> Any:
        found = self._ready.get(schema)
        if found is not None:
            self._ready.move_to_end(schema)
            return found
        try:
            said = _loads(schema)
            kind = validator_for(said, default=Draft202012Validator)
            kind.check_schema(said)
        except SchemaError as bad:
            raise BadSchemaError(f"at {_place(bad)}: {bad.message[:LONGEST]}") from None
        except ValueError as bad:
            raise BadSchemaError(f"not JSON: {str(bad)[:LONGEST]}") from None
        # Without a registry of its own it would fetch what a reference names over the network.
        found = self._ready[schema] = kind(said, registry=Registry())
        if len(self._ready) > KEPT:
            self._ready.popitem(last=False)
        return found


def _told(fault: ValidationError) -> str:
    """A fault, of several alternatives that of the nearest."""
    nearest = best_match(fault.context or ())
    while nearest is not None:
        fault, nearest = nearest, best_match(nearest.context or ())
    words = fault.message
    if len(words) > LONGEST:
        words = f"{words[: LONGEST // 2]} … {words[-LONGEST // 2 :]}"
    return f"at {_place(fault)}: {words}"


def _place(fault: Any) -> str:
    """A JSON pointer (RFC 6901); the whole is `/`."""
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in fault.absolute_path)
    return ("/" + "/".join(steps))[: 2 * LONGEST]
