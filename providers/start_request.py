"""What is written to a `run` file: headers and a blank line, if there are any, then the input."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.base.yaml_document import near
from agentfs.model.spec import seconds
from agentfs.vfs.handles import as_text

__all__ = ["StartRequest", "json_value", "read_start"]

IN_A_THREAD = 64 * 1024
"""Bytes of JSON that are read in a thread: a megabyte of small values takes 30 ms."""


@dataclass(slots=True)
class StartRequest:
    """Who starts a run says this. Durations in seconds; None is what the document says."""

    input: Any = None
    key: str = ""
    ref: tuple[str, str] = ("", "")
    environment: str = ""
    deadline: float | None = None
    limits: dict[str, float | None] | None = None
    caps: tuple[str, ...] | None = None
    version: int | None = None
    sync: bool = False


async def read_start(request: bytes) -> StartRequest:
    """Read it. Raises EINVAL: no JSON, an unknown header, or a value that it cannot have."""
    text = as_text(request)
    found = StartRequest()
    if text.lstrip()[:1].isalpha() and ":" in text.partition("\n")[0]:
        head, _, text = text.replace("\r\n", "\n").partition("\n\n")
        _headers(head, found)
    found.input = await json_value(text) if text.strip() else {}
    return found


async def json_value(text: str) -> Any:
    """The value of a JSON text. Raises EINVAL with the line and column of what is wrong."""
    if len(text) > IN_A_THREAD:
        return await trio.to_thread.run_sync(_json, text)
    return _json(text)


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as bad:
        raise KernelError(
            errno.EINVAL, f"not JSON in line {bad.lineno}, column {bad.colno}: {bad.msg}"
        ) from None
    except (ValueError, RecursionError) as bad:
        words = "too deep" if isinstance(bad, RecursionError) else str(bad)
        raise KernelError(errno.EINVAL, f"not JSON: {words}") from None


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


# -- headers ---------------------------------------------------------------------------------------


def _headers(head: str, found: StartRequest) -> None:
    seen: set[str] = set()
    for number, line in enumerate(head.splitlines(), start=1):
        name, colon, value = line.partition(":")
        key = name.strip().lower()
        if not colon:
            raise KernelError(
                errno.EINVAL, f"line {number}: `Name: value` was expected, not {line[:80]!r}"
            )
        if key not in _READ:
            known = ", ".join(each.capitalize() for each in _READ)
            raise KernelError(
                errno.EINVAL,
                f"line {number}: there is no header {name.strip()[:80]!r}{near(key, _READ)}; "
                f"there are {known}",
            )
        if key in seen:
            raise KernelError(errno.EINVAL, f"line {number}: {name.strip()} is there twice")
        seen.add(key)
        try:
            _READ[key](found, value.strip())
        except ValueError as bad:
            raise KernelError(errno.EINVAL, f"line {number}: {name.strip()}: {bad}") from None


def _key(found: StartRequest, value: str) -> None:
    if not value or len(value) > 256 or not value.isprintable():
        raise ValueError("1 to 256 printable characters were expected")
    found.key = value


def _ref(found: StartRequest, value: str) -> None:
    kind, slash, number = value.partition("/")
    if not kind or not slash or not number:
        raise ValueError("TYPE/ID was expected")
    found.ref = (kind, number)


def _environment(found: StartRequest, value: str) -> None:
    found.environment = value


def _deadline(found: StartRequest, value: str) -> None:
    found.deadline = seconds(value)


def _limits(found: StartRequest, value: str) -> None:
    given: dict[str, Any] = {}
    if value.startswith("{"):
        given = json.loads(value)
    else:
        for word in value.replace(",", " ").split():
            name, equals, amount = word.partition("=")
            if not equals:
                raise ValueError(f"NAME=NUMBER was expected, not {word!r}")
            given[name] = amount
    found.limits = {name: _amount(name, amount) for name, amount in given.items()}


def _amount(name: str, amount: Any) -> float | None:
    if amount in ("max", None):
        return None
    try:
        number = float(amount)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(amount, bool) or not 0 <= number < math.inf:
        raise ValueError(f"{name}: a number from 0 on, or max, was expected, not {amount!r}")
    return int(number) if number.is_integer() else number


def _caps(found: StartRequest, value: str) -> None:
    if value.startswith("["):
        words = json.loads(value)
        if not all(isinstance(word, str) for word in words):
            raise ValueError("a list of names was expected")
    else:
        words = [] if value in ("", "none") else value.replace(",", " ").split()
    found.caps = tuple(words)


def _version(found: StartRequest, value: str) -> None:
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise ValueError("a number was expected")
    found.version = int(value)


def _sync(found: StartRequest, value: str) -> None:
    if value not in ("yes", "no"):
        raise ValueError("yes or no was expected")
    found.sync = value == "yes"


_READ: dict[str, Callable[[StartRequest, str], None]] = {
    "key": _key,
    "ref": _ref,
    "env": _environment,
    "deadline": _deadline,
    "limits": _limits,
    "caps": _caps,
    "version": _version,
    "sync": _sync,
}
"""The headers in small letters."""
