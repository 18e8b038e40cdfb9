"""What is written to a `run` file: headers and a blank line, if there are any, then the input."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.base.yaml_document import near
from agentfs.model.spec import seconds
from agentfs.vfs.handles import as_text
from agentfs.workflow.model import Start

__all__ = ["IN_A_THREAD", "json_at_once", "json_value", "read_start"]

IN_A_THREAD = 64 * 1024
"""Bytes of JSON that are read in a thread: a megabyte of small values takes 30 ms."""


async def read_start(document: str, request: bytes) -> Start:
    """What it asks for, of a document. Raises EINVAL: no JSON, an unknown header, or a value that
    it cannot have."""
    text = as_text(request)
    found: dict[str, Any] = {}
    if text.lstrip()[:1].isalpha() and ":" in text.partition("\n")[0]:
        head, _, text = text.replace("\r\n", "\n").partition("\n\n")
        found = _headers(head)
    return Start(document, await json_value(text) if text.strip() else {}, **found)


async def json_value(text: str) -> Any:
    """The value of a JSON text. Raises EINVAL with the line and column of what is wrong."""
    if len(text) > IN_A_THREAD:
        return await trio.to_thread.run_sync(json_at_once, text)
    return json_at_once(text)


def json_at_once(text: str) -> Any:
    """The same, of a short text."""
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


def _headers(head: str) -> dict[str, Any]:
    """The fields of a `Start` that they name."""
    found: dict[str, Any] = {}
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
        field, read = _READ[key]
        if field in found:
            raise KernelError(errno.EINVAL, f"line {number}: {name.strip()} is there twice")
        try:
            found[field] = read(value.strip())
        except ValueError as bad:
            raise KernelError(errno.EINVAL, f"line {number}: {name.strip()}: {bad}") from None
    return found


def _key(value: str) -> str:
    if not value or len(value) > 256 or not value.isprintable():
        raise ValueError("1 to 256 printable characters were expected")
    return value


def _ref(value: str) -> tuple[str, str]:
    kind, slash, number = value.partition("/")
    if not kind or not slash or not number:
        raise ValueError("TYPE/ID was expected")
    return kind, number


def _limits(value: str) -> dict[str, float | None]:
    given: dict[str, Any] = {}
    if value.startswith("{"):
        given = json.loads(value)
    else:
        for word in value.replace(",", " ").split():
            name, equals, amount = word.partition("=")
            if not equals:
                raise ValueError(f"NAME=NUMBER was expected, not {word!r}")
            given[name] = amount
    return {name: _amount(name, amount) for name, amount in given.items()}


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


def _caps(value: str) -> tuple[str, ...]:
    if value.startswith("["):
        words = json.loads(value)
        if not all(isinstance(word, str) for word in words):
            raise ValueError("a list of names was expected")
    else:
        words = [] if value in ("", "none") else value.replace(",", " ").split()
    return tuple(words)


def _version(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise ValueError("a number was expected")
    return int(value)


def _sync(value: str) -> bool:
    if value not in ("yes", "no"):
        raise ValueError("yes or no was expected")
    return value == "yes"


_READ: dict[str, tuple[str, Callable[[str], Any]]] = {
    "key": ("key", _key),
    "ref": ("ref", _ref),
    "env": ("environment", str),
    "deadline": ("deadline", seconds),
    "limits": ("limits", _limits),
    "caps": ("caps", _caps),
    "version": ("version", _version),
    "sync": ("sync", _sync),
}
"""The headers in small letters: the field of a `Start`, and what reads the value."""
