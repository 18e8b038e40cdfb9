"""A JSON body whose members can be replaced without a change of any other byte: the forms of
numbers, the order of names and unknown fields stay what the client wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

__all__ = ["MAX_BODY", "BadRequest", "Body", "parse_json"]

MAX_BODY = 32 * 1024 * 1024
"""Bytes of a request (Anthropic's own limit)."""

MAX_MEMBERS = 1_000
"""Names on the top level of a request; the providers' own requests have up to 40."""

DEEP = "the JSON is nested too deeply"


class BadRequest(ValueError):  # noqa: N818 -- the name of HTTP's 400
    """The request is refused as it is; the words say what to change."""


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_scan = json.JSONDecoder(parse_constant=_constant).scan_once  # type: ignore[attr-defined]
_space = re.compile(r"[ \t\r\n]*").match


def parse_json(data: bytes) -> Any:
    """JSON, whatever it is. Raises ValueError with words for anything else."""
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_constant)
    except RecursionError:
        raise ValueError(DEEP) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8, at byte {error.start}") from None


class Body:
    """The object that a request is: its members, and where each stands in the text."""

    def __init__(self, body: bytes) -> None:
        """Raises BadRequest."""
        if len(body) > MAX_BODY:
            raise BadRequest(f"the request has {len(body)} bytes; {MAX_BODY} are possible")
        try:
            self._text = body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadRequest(f"the request is not UTF-8, at byte {error.start}") from None
        self.members: dict[str, Any] = {}
        self._spans: dict[str, tuple[int, int]] = {}
        self._open = 0  # behind the first {
        try:
            self._read()
        except RecursionError:
            raise BadRequest(DEEP) from None
        except StopIteration as stop:
            raise BadRequest(f"the request is no JSON, at character {stop.value}") from None
        except json.JSONDecodeError as error:
            raise BadRequest(f"the request is no JSON: {error}") from None
        except ValueError as error:
            raise BadRequest(f"the request is no JSON: {str(error)[:200]}") from None

    def _read(self) -> None:
        text = self._text
        at = self._next(0)
        if text[at : at + 1] != "{":
            raise BadRequest("a request is a JSON object: { … }")
        self._open = at + 1
        at = self._next(at + 1)
        if text[at : at + 1] == "}":
            at += 1
        else:
            at = self._members(at)
        if (at := self._next(at)) != len(text):
            raise json.JSONDecodeError("more text behind the object", text, at)

    def _members(self, at: int) -> int:
        """Read names and values up to the closing brace; return the place behind it."""
        text = self._text
        folded: set[str] = set()
        while True:
            if text[at : at + 1] != '"':
                raise json.JSONDecodeError("a name in quotes is missing", text, at)
            name, at = _scan(text, at)
            # Servers differ in which of two values counts, and some do not mind the case.
            if name.casefold() in folded:
                raise BadRequest(f'"{name[:80]}" is there twice')
            folded.add(name.casefold())
            if len(folded) > MAX_MEMBERS:
                raise BadRequest(f"the request has more than {MAX_MEMBERS} fields")
            at = self._next(at)
            if text[at : at + 1] != ":":
                raise json.JSONDecodeError("a colon is missing", text, at)
            start = self._next(at + 1)
            self.members[name], at = _scan(text, start)
            self._spans[name] = start, at
            at = self._next(at)
            if text[at : at + 1] == "}":
                return at + 1
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError("a comma or } is missing", text, at)
            at = self._next(at + 1)

    def _next(self, at: int) -> int:
        found = _space(self._text, at)
        assert found is not None
        return found.end()

    def refuse_other_case(self, names: Collection[str]) -> None:
        """Raises BadRequest if one of these names is written in capitals, or partly: some servers
        would take it, and it was not counted."""
        known = {name.casefold(): name for name in names}
        for name in self.members:
            meant = known.get(name.casefold())
            if meant is not None and meant != name:
                raise BadRequest(f'"{name[:80]}" has to be written "{meant}"')

    def replaced(self, values: Mapping[str, Any]) -> bytes:
        """The request with other values for some of its names; new ones come first."""
        places = [
            (*self._spans[name], value) for name, value in values.items() if name in self._spans
        ]
        new = [(name, value) for name, value in values.items() if name not in self._spans]
        pieces = [self._text[: self._open]]
        for name, value in new:
            pieces.append(f"{json.dumps(name)}: {json.dumps(value)}")
            pieces.append(", " if self.members or (name, value) != new[-1] else "")
        at = self._open
        for start, end, value in sorted(places, key=lambda place: place[0]):
            pieces += [self._text[at:start], json.dumps(value)]
            at = end
        pieces.append(self._text[at:])
        return "".join(pieces).encode()
