"""The books: one row for each use of a model or a tool, and their sums, always in step.

The sum of a span of time (`2026-11-21`, `2026-11-21T09`) is that of the rows that are kept; `total`
is that of all rows that there ever were, `swept` that of the rows that are not kept any more. A row
and the sums that it is in change in one transaction, so that every view agrees at every moment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from agentfs.store.store import Store

__all__ = ["DAY", "HOUR", "NOBODY", "TOTAL", "VIEWS", "Sums", "UseRow", "Uses"]

VIEWS = ("agent", "user", "node", "tier")
"""The views by which uses are summed."""

TOTAL = "total"
"""The view of everything together, whose one key is empty, and the span of all time."""

SWEPT = "swept"
NOBODY = ""
"""The key of agents that are no more and whose rows are all swept."""

RECENT, LOOKED_AT = 100, 10_000
"""Rows that are shown as the newest of an account, and the newest of all among which they are
looked for: 3 ms."""

HOUR, DAY = len("2026-11-21T09"), len("2026-11-21")
"""The two kinds of span, by the length of their names."""


class UseRow(NamedTuple):
    """One use. `time` in seconds since 1970, `cost` in millionths of a dollar."""

    time: float
    hour: str
    pid: int
    agent: str
    user: str
    node: str
    tier: str
    kind: str
    name: str
    input: int
    output: int
    cost: int
    unpriced: bool
    cache_read: int
    cache_write: int
    estimated: bool
    provider: str


class Sums(NamedTuple):
    """Sums of uses: tokens, calls of models and of tools, millionths of a dollar; how many of the
    calls were of a model that had no price; tokens that were read from what a provider kept, and
    into that; and of how many calls nobody said what they used."""

    input: int = 0
    output: int = 0
    calls: int = 0
    tool_calls: int = 0
    cost: int = 0
    unpriced: int = 0
    cache_read: int = 0
    cache_write: int = 0
    estimated: int = 0

    @property
    def tokens(self) -> int:
        """All that models read and wrote."""
        return self.input + self.output + self.cache_read + self.cache_write

    @classmethod
    def of(cls, kind: str, *figures: int) -> Sums:
        """The sums of one use alone: `figures` are those of `FIGURES`."""
        read, written, *rest = map(int, figures)
        model = int(kind == "llm")
        return cls._make((read, written, model, 1 - model, *rest))


FIGURES = tuple(name for name in Sums._fields if name not in ("calls", "tool_calls"))
"""The columns of a use that are summed."""


_COLUMNS = ", ".join(Sums._fields)
_ADDED = "ON CONFLICT (view, key, span) DO UPDATE SET " + ", ".join(
    f"{name} = {name} + excluded.{name}" for name in Sums._fields
)
_ADD = f"""
    INSERT INTO usage (view, key, span, {_COLUMNS})
    VALUES (?, ?, ?{", ?" * len(Sums._fields)}) {_ADDED}
"""  # noqa: S608  # the names of columns
# All sums that one use is in.
_ADD_ALL = f"""
    INSERT INTO usage (view, key, span, {_COLUMNS})
    SELECT views.column1, views.column2, spans.column1,
           {", ".join(f"?{number}" for number in range(7, 7 + len(Sums._fields)))}
    FROM (VALUES ('agent', ?1), ('user', ?2), ('node', ?3), ('tier', ?4), ('total', ?5)) AS views,
         (VALUES ('total'), (substr(?6, 1, 10)), (?6)) AS spans
    WHERE true
    {_ADDED}
"""  # noqa: S608  # the names of columns
_INSERT = f"""
    INSERT INTO uses ({", ".join(UseRow._fields)}) VALUES (?{", ?" * (len(UseRow._fields) - 1)})
"""  # noqa: S608  # the names of columns
_SELECT = f"""
    SELECT {_COLUMNS} FROM usage WHERE view = ? AND key = ? AND span = ?
"""  # noqa: S608  # the names of columns
_SPANS = f"""
    SELECT span, {_COLUMNS} FROM usage WHERE view = ? AND key = ? AND length(span) = ? ORDER BY span
"""  # noqa: S608  # the names of columns
_OLDEST = f"""
    SELECT seq, hour, agent, user, node, tier, kind, {", ".join(FIGURES)}
    FROM uses WHERE time < ? ORDER BY time LIMIT ?
"""  # noqa: S608  # the names of columns
_RECENT = f"""
    SELECT {", ".join(UseRow._fields)} FROM uses
    WHERE seq > (SELECT ifnull(max(seq), 0) FROM uses) - {LOOKED_AT}
"""  # noqa: S608  # the names of columns
_DROP_EMPTY = """
    DELETE FROM usage WHERE view = ? AND key = ? AND span = ? AND calls = 0 AND tool_calls = 0
"""


class Uses:
    """The tables `uses` and `usage`. Writes belong inside a transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def keys(self) -> Iterator[tuple[str, str]]:
        """Every (view, key) that there are sums of, by name."""
        query = "SELECT view, key FROM usage WHERE span = 'total' ORDER BY view, key"
        yield from self._store.read(query)

    def sums(self, view: str, key: str, span: str = TOTAL) -> Sums:
        """The sums of one span; zeros if there is none."""
        row = self._store.read(_SELECT, (view, key, span)).fetchone()
        return Sums() if row is None else Sums(*row)

    def spans(self, view: str, key: str, length: int) -> Iterator[tuple[str, Sums]]:
        """The hours or the days that there are sums of, the oldest first."""
        for span, *row in self._store.read(_SPANS, (view, key, length)):
            yield span, Sums(*row)

    def recent(self, view: str, key: str) -> list[UseRow]:
        """The newest rows of a view's key, at most `RECENT`, the newest last."""
        where, values = ("1", ()) if view == TOTAL else (f"{view} = ?", (key,))
        query = f"{_RECENT} AND {where} ORDER BY seq DESC LIMIT {RECENT}"
        rows = self._store.read(query, values).fetchall()
        return [UseRow(*row) for row in reversed(rows)]

    def add(self, row: UseRow) -> None:
        """Write one use, and add it to all its sums."""
        self._store.write(_INSERT, row)
        sums = Sums.of(row.kind, *(getattr(row, name) for name in FIGURES))
        keys = (row.agent, row.user, row.node, row.tier, "")
        self._store.write(_ADD_ALL, (*keys, row.hour, *sums))

    def sweep(self, before: float, most: int) -> tuple[int, set[tuple[str, str]]]:
        """Delete the oldest rows from before `before`, at most `most`: their number, and each
        (view, key) that they were of."""
        rows = self._store.read(_OLDEST, (before, most)).fetchall()
        if not rows:
            return 0, set()
        gone: dict[tuple[str, str, str], list[Sums]] = {}
        for _, hour, agent, user, node, tier, kind, *figures in rows:
            one, keys = Sums.of(kind, *figures), (agent, user, node, tier)
            for view, key in zip((*VIEWS, TOTAL), (*keys, ""), strict=True):
                for span in (hour, hour[:DAY], SWEPT):
                    gone.setdefault((view, key, span), []).append(one)
        for where, uses in gone.items():
            sums = map(sum, zip(*uses, strict=True))
            if where[2] == SWEPT:
                self._store.write(_ADD, (*where, *sums))
            else:
                self._store.write(_ADD, (*where, *(-count for count in sums)))
                self._store.write(_DROP_EMPTY, where)
        query = "DELETE FROM uses WHERE seq IN (SELECT value FROM json_each(?))"
        self._store.write(query, (json.dumps([row[0] for row in rows]),))
        return len(rows), {(view, key) for view, key, _ in gone}

    def is_swept(self, view: str, key: str) -> bool:
        """Whether no row of it is kept."""
        return self.sums(view, key) == self.sums(view, key, SWEPT)

    def fold(self, view: str, key: str) -> None:
        """Add the sums of a key that has no row left to those of `NOBODY`, and drop the key."""
        for span in (TOTAL, SWEPT):
            sums = self.sums(view, key, span)
            self._store.write(_ADD, (view, NOBODY, span, *sums))
        self._store.write("DELETE FROM usage WHERE view = ? AND key = ?", (view, key))
