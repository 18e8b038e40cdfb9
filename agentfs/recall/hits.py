"""What a query found, as it is told: the place in the file, and a piece of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agentfs.recall import files
from agentfs.recall.index import IndexRow
from agentfs.recall.note import heading
from agentfs.recall.query import MemoryQuery
from agentfs.recall.vectors import best_first, joined
from agentfs.recall.words import words

__all__ = ["Hit", "answers", "texts", "together"]

SNIPPET = 240
"""Characters of a line that are shown at most."""

LONG = 8
"""Letters from which on a longer word says no more."""

LITERAL = 0.5
"""What it adds to the score of a file that a line has the query as it was written."""

USUAL = 10.0
"""A rank, as FTS5 says it, of a word that few files have."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A place that was found: the `file`, from the memory, and its line. `score` is that of
    `_score`, or of `together`."""

    file: bytes
    line: int
    snippet: str
    score: float
    type: str
    tags: tuple[str, ...]

    def json(self) -> str:
        """One line."""
        told = {
            "path": os.path.join("memory", os.fsdecode(self.file)),
            "line": self.line,
            "snippet": self.snippet,
            "score": round(self.score, 4),
            "type": self.type,
            "tags": list(self.tags),
        }
        line = json.dumps(told, ensure_ascii=False)
        return line if line.isprintable() else json.dumps(told)  # a name that is no UTF-8


def answers(
    root: str, query: MemoryQuery, rows: Iterable[IndexRow]
) -> tuple[list[Hit], list[IndexRow]]:
    """What is told of each file that was found, the best first; and the files that are not any more
    what the index has. Raises OSError if the memory cannot be read."""
    hits: list[Hit] = []
    stale: list[IndexRow] = []
    with files.home(root) as here:
        for row in rows:
            found = files.read(here, row.path)
            if found is None or not found.stamp.fits(row.stamp):
                stale.append(row)
            elif found.text is not None:
                hits.append(_hit(query, row, found.text))
    hits.sort(key=lambda hit: -hit.score)  # those alike stay in their order
    return hits, stale


def texts(root: str, rows: Iterable[IndexRow]) -> list[tuple[IndexRow, str]]:
    """What the files that the index has say, without headers; those that have changed are left
    out. Raises OSError."""
    found = []
    with files.home(root) as here:
        for row in rows:
            file = files.read(here, row.path)
            if file is not None and file.stamp.fits(row.stamp):
                text = file.text or ""
                found.append((row, text.split("\n", heading(text).lines)[-1]))
    return found


def together(by_words: Sequence[Hit], by_meaning: Sequence[Hit]) -> list[Hit]:
    """Both answers as one, by the places that the files have in them."""
    hits = {hit.file: hit for hit in (*by_meaning, *by_words)}
    scores = joined([hit.file for hit in by_words], [hit.file for hit in by_meaning])
    return [replace(hits[file], score=score) for file, score in best_first(scores)]


def _hit(query: MemoryQuery, row: IndexRow, text: str) -> Hit:
    lines = text.split("\n")
    first = heading(text).lines
    number, literal = _best(query, lines[first:])
    line = lines[first + number].strip()
    return Hit(
        row.path,
        first + number + 1,
        _cut(line, query),
        _score(query, row, text, literal=literal),
        row.type,
        row.tags,
    )


def _score(query: MemoryQuery, row: IndexRow, text: str, *, literal: bool) -> float:
    """From 0 to 2.5: the part of the words that the file has, how telling they are (0 to 1), and
    whether they stand there as they were asked for."""
    if not query.phrases:
        return 0.0
    folded = text.casefold()
    here = sum(all(word.casefold() in folded for word in piece) for piece in query.phrases)
    rank = max(row.rank, 0.0)
    return here / len(query.phrases) + rank / (rank + USUAL) + (LITERAL if literal else 0.0)


def _best(query: MemoryQuery, lines: Sequence[str]) -> tuple[int, bool]:
    """The line that has most of what is asked for, the first of several, and whether it has the
    query as it was written. Without words the first line that is not blank."""
    wanted = {word.casefold() for piece in query.phrases for word in piece}
    whole = query.text.casefold()
    best, most = 0, (False, -1)
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        folded = line.casefold()
        here = [word for word in wanted if word in folded]
        weight = sum(min(len(word), LONG) for word in here)
        if here and weight * 2 >= most[1]:  # it costs more to look whether they are words of it
            exact = wanted.intersection(words(folded))
            weight += sum(min(len(word), LONG) for word in exact)
        found = (bool(whole) and whole in folded, weight)
        if found > most:
            best, most = number, found
    return best, most[0]


def _cut(line: str, query: MemoryQuery) -> str:
    """A line, or the part of it around the first word that was asked for."""
    if len(line) <= SNIPPET:
        return line
    folded = line.casefold()
    places = [folded.find(word.casefold()) for piece in query.phrases for word in piece]
    first = min((place for place in places if place >= 0), default=0)
    begin = max(0, min(first - SNIPPET // 4, len(line) - SNIPPET))
    end = begin + SNIPPET
    return ("…" if begin else "") + line[begin:end].strip() + ("…" if end < len(line) else "")
