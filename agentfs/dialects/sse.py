"""Server-sent events, of which a stream is made, as WHATWG's HTML standard has them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["MAX_EVENT", "Events", "event", "read_event"]

MAX_EVENT = 8 * 1024 * 1024
"""Bytes. The longest that providers send is the last one of a response, with all of it again."""

_END = re.compile(rb"(?:\r\n|\n|\r(?=[^\n])){2}")
"""An empty line. A CR at the end waits for the next byte, which may be its LF."""

_LINE = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


def event(value: Mapping[str, Any], name: str = "") -> bytes:
    """An event with JSON."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


class Events:
    """Cuts bytes into whole events, however they arrive. Each keeps its bytes, up to its empty
    line."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0  # no event ends before this
        self.too_long = False
        """An event had more than MAX_EVENT bytes: neither it nor anything behind it is given."""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are whole now."""
        if self.too_long:
            return []
        rest = self._rest
        rest += data
        whole: list[bytes] = []
        start = 0
        at = self._searched
        while (found := _END.search(rest, at)) and found.end() - start <= MAX_EVENT:
            at = found.end()
            whole.append(bytes(rest[start:at]))
            start = at
        self.too_long = len(rest) - start > MAX_EVENT if found is None else True
        if self.too_long:
            rest.clear()
        elif start:
            del rest[:start]
        # The last three bytes may be the beginning of an end.
        self._searched = max(0, len(rest) - 3)
        return whole

    def rest(self) -> bytes:
        """What came behind the last whole event; it is given once."""
        rest = bytes(self._rest)
        self._rest.clear()
        self._searched = 0
        return rest


_COMMON = re.compile(rb"(?:event: ([^\r\n]*)\n)?data: ([^\r\n]*)\n\n")
"""What nearly all events are."""


def read_event(raw: bytes) -> tuple[str, bytes | None]:
    """The name of an event, or "", and its data; None if it has none, as a comment."""
    if found := _COMMON.fullmatch(raw):
        return (found[1] or b"").decode("utf-8", "replace"), found[2]
    name, data = "", []
    for line in _LINE.split(raw.removeprefix(_BOM)):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
        elif field == b"error":  # llama.cpp before 2025
            return "error", value
    return name, b"\n".join(data) if data else None
