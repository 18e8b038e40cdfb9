"""Tapes: recorded answers of a provider. One JSON object a line, in the order in which they were
recorded:

    {"dialect": "chat", "path": "/v1/chat/completions", "digest": "5e88…", "request": {…},
     "status": 200, "headers": [["content-type", "text/event-stream"]],
     "chunks": [[0.12, "data: {…}\\n\\n"], [0.02, {"base64": "…"}]]}

A chunk is the seconds that passed before it, and what came: text, or base64 where the pieces are no
whole characters. `request` is what answers depend on; `digest` finds it. Keys are never in it: of
the headers only a few are kept, and texts are cleaned before.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentfs.dialects.body import parse_json
from agentfs.dialects.dialect import MAXIMA, Request

__all__ = ["Tape", "TapeRecord", "last_words", "read_tape"]

UNIMPORTANT = {
    *MAXIMA,
    "model",
    "stream_options",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "client_metadata",
}
"""Fields that differ from run to run, or with the budget, and on which no answer depends."""

PASSING = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # numbers of sessions, turns and messages
    r"|\d{4}-\d\d-\d\d"  # today
    r"|(?<=\"create_time\":)[0-9.]+"
    r"|[^\s\"'`\\]*/agents/[\w.-]+/memory"  # the home of an agent
)
"""What differs between two runs of the same program although it asks for the same. In the last
words of a conversation it counts."""

HEADERS = {"content-type", "retry-after"}
"""Of the provider's answer. Others have request numbers, organizations and cookies."""

SHOWN = 200  # characters of a prompt in an error
COMPARED = 2_000  # characters of a prompt that are compared


@dataclass(frozen=True, slots=True)
class TapeRecord:
    """A request, and its answer."""

    dialect: str
    path: str
    request: Mapping[str, Any]
    status: int
    headers: Sequence[tuple[str, str]]
    chunks: Sequence[tuple[float, bytes]]
    """Seconds before each, and its bytes."""

    @staticmethod
    def of(
        request: Request,
        status: int,
        headers: Iterable[tuple[str, str]],
        chunks: Sequence[tuple[float, bytes]],
    ) -> TapeRecord:
        """What is recorded of a call. The caller has cut the keys out of the chunks."""
        kept = [(name.lower(), value) for name, value in headers if name.lower() in HEADERS]
        asked = _important(request)
        return TapeRecord(request.dialect.name, request.dialect.path, asked, status, kept, chunks)

    @property
    def digest(self) -> str:
        return _digest(self.path, self.request)

    def line(self) -> bytes:
        """The record on the tape."""
        said = {
            "dialect": self.dialect,
            "path": self.path,
            "digest": self.digest,
            "request": self.request,
            "status": self.status,
            "headers": [list(header) for header in self.headers],
            "chunks": [[round(delay, 4), _written(data)] for delay, data in self.chunks],
        }
        return json.dumps(said).encode() + b"\n"


def read_tape(data: bytes) -> list[TapeRecord]:
    """All records. Raises ValueError with the number of a line that is none."""
    records = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            records.append(_read(parse_json(line)))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {number} of the tape is no record: {error}") from None
    return records


class Tape:
    """Answers by request. The same request gets its answers in their order, and then the last one
    again and again."""

    def __init__(self, records: Iterable[TapeRecord]) -> None:
        self._records: dict[str, list[TapeRecord]] = {}
        self._played: dict[str, int] = {}
        for record in records:
            self._records.setdefault(record.digest, []).append(record)

    def find(self, request: Request) -> TapeRecord | None:
        """The answer to a request, whose turn passes with it."""
        digest = _digest(request.dialect.path, _important(request))
        records = self._records.get(digest)
        if records is None:
            return None
        turn = self._played.get(digest, 0)
        self._played[digest] = turn + 1
        return records[min(turn, len(records) - 1)]

    def missing(self, request: Request) -> str:
        """Words for a request that is not on the tape: it, and the nearest that is."""
        asked = last_words(request.body.members)
        kind = " as a stream" if request.stream else ""
        words = f"the tape has no answer to {_shown(asked)}{kind}"
        paths = [
            record
            for records in self._records.values()
            for record in records[:1]
            if record.path == request.dialect.path
        ]
        if not paths:
            return f"{words}, and none at all for {request.dialect.path}"
        nearest = max(paths, key=lambda record: _likeness(asked, request.stream, record))
        found = last_words(nearest.request)
        if found == asked:
            return f"{words}; the same was asked with another {_difference(request, nearest)}"
        return f"{words}; the nearest that it has is {_shown(found)}"


def last_words(members: Mapping[str, Any]) -> str:
    """The text of the last message of a conversation, in any dialect."""
    turns = members.get("messages", members.get("input"))
    last = turns[-1] if isinstance(turns, list) and turns else turns
    content = last.get("content", last.get("output")) if isinstance(last, dict) else last
    if isinstance(content, list):
        texts = [block.get("text") for block in content if isinstance(block, dict)]
        content = " ".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _important(request: Request) -> dict[str, Any]:
    members = request.body.members
    return {name: value for name, value in members.items() if name not in UNIMPORTANT}


def _digest(path: str, request: Mapping[str, Any]) -> str:
    """Of a request, whatever the order of its names, and what is PASSING in it. A null is as
    nothing, and `stream` false as well."""
    said = {name: value for name, value in request.items() if value is not None}
    if said.get("stream") is False:
        del said["stream"]
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    parts = [path, PASSING.sub("…", text), last_words(request)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _likeness(asked: str, stream: bool, record: TapeRecord) -> float:
    found = last_words(record.request)[:COMPARED]
    same = difflib.SequenceMatcher(None, asked[:COMPARED], found, autojunk=False).quick_ratio()
    return same + 0.01 * (record.request.get("stream") is True) * stream


def _difference(request: Request, record: TapeRecord) -> str:
    """The fields in which a request differs from a record."""
    asked = _important(request)
    names = [
        name
        for name in sorted(asked.keys() | record.request.keys())
        if asked.get(name) != record.request.get(name)
    ]
    return ", ".join(names[:5]) or "form"


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return json.dumps(line[:SHOWN] + ("…" if len(line) > SHOWN else ""), ensure_ascii=False)


def _written(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _read(said: Mapping[str, Any]) -> TapeRecord:
    chunks = []
    for delay, data in said["chunks"]:
        if not 0 <= float(delay) < 3_600:
            raise ValueError(f"a pause of {delay} s")
        chunks.append((float(delay), _bytes(data)))
    if not isinstance(said["request"], dict) or not 100 <= int(said["status"]) <= 599:
        raise ValueError("its request or status is none")
    headers = [(str(name), str(value)) for name, value in said["headers"]]
    return TapeRecord(
        str(said["dialect"]),
        str(said["path"]),
        said["request"],
        int(said["status"]),
        headers,
        chunks,
    )


def _bytes(data: object) -> bytes:
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, dict):
        try:
            return base64.b64decode(data["base64"], validate=True)
        except binascii.Error as error:
            raise ValueError(str(error)) from None
    raise ValueError("a chunk is text, or base64")
