"""Server-sent events, of which a stream is made, as WHATWG's HTML standard has them."""

from __future__ import annotations

import re

__all__ = ["MAX_EVENT", "Events", "data_of", "event_of"]

MAX_EVENT = 8 * 1024 * 1024
"""Bytes. The longest that providers send is the last one of a response, with all of it again."""

_END = re.compile(rb"(?:\r\n|\n|\r(?=[^\n])){2}")
"""An empty line. A CR at the end waits for the next byte, which may be its LF."""

_LINE = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


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


def data_of(event: bytes) -> bytes | None:
    """The data of an event; None for one that has none, such as a comment."""
    # Nearly all are one line "data: {…}" and an empty one.
    if event.startswith(b"data: ") and event.endswith(b"\n\n"):
        data = event[6:-2]
        if b"\n" not in data and b"\r" not in data:
            return data
    pieces = _values(event, b"data")
    return b"\n".join(pieces) if pieces else None


def event_of(event: bytes) -> str:
    """The name of an event, or ""."""
    names = _values(event, b"event")
    return names[-1].decode("utf-8", "replace") if names else ""


def _values(event: bytes, field: bytes) -> list[bytes]:
    values = []
    for line in _LINE.split(event.removeprefix(_BOM)):
        name, _, value = line.partition(b":")
        if name == field:
            values.append(value.removeprefix(b" "))
    return values
