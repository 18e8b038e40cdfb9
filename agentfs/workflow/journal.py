"""The journal: the rows of runs, of their nodes and of their events in the store, and the plans.

Nothing here knows what a row means. Changes belong inside a transaction of the store.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from agentfs.manifests.plan import Plan
from agentfs.store.records import keep_item
from agentfs.store.store import Store
from agentfs.workflow.model import NodeRow, Run

__all__ = ["RowChange", "RunJournal", "decode", "encode"]

PLANS = 256
"""Plans that are kept in memory; others are read when they are wanted."""

TOGETHER = 100
"""Rows in one statement: SQLite compiles a statement for each number of rows."""

OPEN = "('queued', 'running', 'suspended')"
"""The states of a run that are not final, as SQL."""


_plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_escaped = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

decode: Callable[[str], Any] = json.loads


def encode(value: Any) -> str:
    """A JSON value as text. Raises ValueError for numbers that JSON does not have, TypeError for
    what is no JSON value."""
    text = _plain(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            return _escaped(value)
    return text


class RowChange(NamedTuple):
    """A row that has changed. Input and output are JSON; None leaves what is there."""

    row: NodeRow
    input: str | None = None
    output: str | None = None


class RunJournal:
    """The tables `runs`, `run_nodes`, `run_events` and `plans`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._plans: OrderedDict[str, Plan] = OrderedDict()

    # -- plans -----------------------------------------------------------------------------------

    def keep_plan(self, plan: Plan, digest: str) -> None:
        """Have the plan of a run in the store."""
        if digest in self._plans:
            return
        keep_item(self._store, self._plans, digest)
        self._remember(digest, plan)
        self._store.write(
            "INSERT OR IGNORE INTO plans VALUES (?, ?)", (digest, encode(plan.record()))
        )

    def plan(self, digest: str) -> Plan:
        """A plan that was kept. Raises KeyError."""
        found = self._plans.get(digest)
        if found is None:
            query = "SELECT record FROM plans WHERE hash = ?"
            row = self._store.read(query, (digest,)).fetchone()
            if row is None:
                raise KeyError(digest)
            found = Plan.from_record(json.loads(row[0]))
            self._remember(digest, found)
        return found

    def _remember(self, digest: str, plan: Plan) -> None:
        self._plans[digest] = plan
        if len(self._plans) > PLANS:
            self._plans.popitem(last=False)

    def drop_plans(self, most: int) -> int:
        """Delete plans that no run has, at most so many; how many went."""
        query = (
            "SELECT hash FROM plans WHERE NOT EXISTS"
            " (SELECT 1 FROM runs WHERE plan_hash = plans.hash) LIMIT ?"
        )
        unused = [digest for (digest,) in self._store.read(query, (most,))]
        for digest in unused:
            keep_item(self._store, self._plans, digest)
            self._plans.pop(digest, None)
            self._store.write("DELETE FROM plans WHERE hash = ?", (digest,))
        return len(unused)

    # -- runs ------------------------------------------------------------------------------------

    def open_runs(self) -> Iterator[Run]:
        """Every run that has not ended, the oldest first."""
        query = f"SELECT id, state, record FROM runs WHERE state IN {OPEN} ORDER BY id"  # noqa: S608
        for number, state, record in self._store.read(query):
            yield Run.from_row(number, state, json.loads(record))

    def run(self, number: int) -> Run | None:
        """A run, ended or not."""
        query = "SELECT id, state, record FROM runs WHERE id = ?"
        row = self._store.read(query, (number,)).fetchone()
        return None if row is None else Run.from_row(row[0], row[1], json.loads(row[2]))

    def by_key(self, pipeline: str, key: str) -> Run | None:
        """The run of a request that may be repeated."""
        query = "SELECT id, state, record FROM runs WHERE pipeline = ? AND key = ? AND key != ''"
        row = self._store.read(query, (pipeline, key)).fetchone()
        return None if row is None else Run.from_row(row[0], row[1], json.loads(row[2]))

    def add_run(self, run: Run, input_text: str) -> None:
        self._store.write(
            "INSERT INTO runs VALUES (?, ?, ?, ?, ?, NULL, NULL, ?, ?, ?, ?, NULL)",
            (
                run.id,
                run.state.value,
                run.pipeline,
                run.ref,
                run.key,
                run.parent,
                run.plan_hash,
                encode(run.record()),
                input_text,
            ),
        )

    def save_run(self, run: Run, output: str | None = None, forget: float | None = None) -> None:
        """Write a run. `forget`: when it is to be forgotten, if its pipeline says so."""
        self._store.write(
            "UPDATE runs SET state = ?, ended = ?, forget = ?, plan_hash = ?, record = ?,"
            " output = coalesce(?, output) WHERE id = ?",
            (
                run.state.value,
                run.ended or None,
                forget,
                run.plan_hash,
                encode(run.record()),
                output,
                run.id,
            ),
        )

    def run_value(self, number: int, which: str) -> str:
        """`input` or `output` of a run, as JSON; empty if there is none."""
        row = self._store.read(f"SELECT {which} FROM runs WHERE id = ?", (number,)).fetchone()  # noqa: S608
        return "" if row is None or row[0] is None else str(row[0])

    def children(self, number: int, node: str) -> list[Run]:
        """The sub-runs that a node of a run has started, the oldest first."""
        query = "SELECT id, state, record FROM runs WHERE parent = ? AND parent != 0 ORDER BY id"
        found = (
            Run.from_row(child, state, json.loads(record))
            for child, state, record in self._store.read(query, (number,))
        )
        return [run for run in found if run.parent_node == node]

    def child_numbers(self, number: int) -> list[int]:
        """All sub-runs of a run, in order."""
        query = "SELECT id FROM runs WHERE parent = ? AND parent != 0 ORDER BY id"
        return [child for (child,) in self._store.read(query, (number,))]

    def page(self, after: int, most: int, state: str, pipeline: str, ref: str) -> list[int]:
        """Runs with a number above `after`, in order; those of a state, pipeline or ref, if one is
        named."""
        wheres, values = _wheres(state, pipeline, ref)
        query = f"SELECT id FROM runs WHERE {' AND '.join(['id > ?', *wheres])} ORDER BY id LIMIT ?"  # noqa: S608
        return [number for (number,) in self._store.read(query, (after, *values, most))]

    def query(self, state: str, pipeline: str, ref: str, since: float, most: int) -> list[Run]:
        """Runs that were made since a time, the newest first."""
        wheres, values = _wheres(state, pipeline, ref)
        where = " AND ".join(["id > 0", *wheres])
        query = f"SELECT id, state, record FROM runs WHERE {where} ORDER BY id DESC"  # noqa: S608
        found: list[Run] = []
        for number, name, record in self._store.read(query, tuple(values)):
            run = Run.from_row(number, name, json.loads(record))
            if run.created < since or len(found) >= most:
                break
            found.append(run)
        return found

    def distinct(self, which: str, after: str, most: int) -> list[str]:
        """The next so many of every `pipeline`, or every `ref`, that there are runs of, sorted."""
        column = {"pipeline": "pipeline", "ref": "ref"}[which]
        query = (
            f"SELECT DISTINCT {column} FROM runs WHERE {column} != '' AND {column} > ?"  # noqa: S608
            f" ORDER BY {column} LIMIT ?"
        )
        return [name for (name,) in self._store.read(query, (after, most))]

    def forgettable(self, now: float, general: float, most: int) -> list[Run]:
        """Runs that are to be forgotten by now: `general` seconds after their end, or when their
        own pipeline says."""
        query = (
            "SELECT id, state, record FROM ("
            "SELECT id, state, record FROM runs WHERE ended IS NOT NULL AND ended < ?"
            " UNION SELECT id, state, record FROM runs WHERE forget IS NOT NULL AND forget < ?"
            ") LIMIT ?"
        )
        found = self._store.read(query, (now - general, now, most))
        return [Run.from_row(number, name, json.loads(record)) for number, name, record in found]

    def delete_run(self, number: int) -> None:
        """Forget a run of which nothing else is left."""
        self._store.write("DELETE FROM runs WHERE id = ?", (number,))

    # -- nodes -----------------------------------------------------------------------------------

    def rows(self, run: int, but: str = "") -> list[NodeRow]:
        """The rows of a run, by path, without those of state `but`."""
        query = (
            "SELECT path, state, attempt, wait, record FROM run_nodes"
            " WHERE run = ? AND state != ? ORDER BY path"
        )
        return [_row(run, *found) for found in self._store.read(query, (run, but))]

    def rows_in(self, run: int, prefix: str, but: str = "") -> list[NodeRow]:
        """The rows right below a prefix, as `loop/3/`, without those of state `but`. Other rows are
        passed over without being read: a run may have 100,000."""
        query = (
            "SELECT path, state, attempt, wait, record FROM run_nodes WHERE run = ?"
            " AND path > ? AND path < ? AND instr(substr(path, ?), '/') = 0 AND state != ?"
        )
        values = (run, prefix, _end(prefix), len(prefix) + 1, but)
        return [_row(run, *found) for found in self._store.read(query, values)]

    def iteration_numbers(self, run: int, loop: str) -> list[int]:
        """The numbers of the iterations of a loop, in order."""
        query = (
            "SELECT CAST(substr(path, ?) AS INTEGER) FROM run_nodes WHERE run = ?"
            " AND path > ? AND path < ? AND instr(substr(path, ?), '/') = 0 ORDER BY 1"
        )
        prefix = f"{loop}/"
        values = (len(prefix) + 1, run, prefix, _end(prefix), len(prefix) + 1)
        return [number for (number,) in self._store.read(query, values)]

    def last_iteration(self, run: int, loop: str) -> int:
        """The number of the newest iteration of a loop; -1 if it has none."""
        query = (
            "SELECT max(CAST(substr(path, ?) AS INTEGER)) FROM run_nodes"
            " WHERE run = ? AND path > ? AND path < ?"
        )
        prefix = f"{loop}/"
        values = (len(prefix) + 1, run, prefix, _end(prefix))
        (found,) = self._store.read(query, values).fetchone()
        return -1 if found is None else int(found)

    def row(self, run: int, path: str) -> NodeRow | None:
        query = (
            "SELECT path, state, attempt, wait, record FROM run_nodes WHERE run = ? AND path = ?"
        )
        found = self._store.read(query, (run, path)).fetchone()
        return None if found is None else _row(run, *found)

    def value(self, run: int, path: str, which: str) -> str:
        """`input` or `output` of a node, as JSON; empty if there is none."""
        query = f"SELECT {which} FROM run_nodes WHERE run = ? AND path = ?"  # noqa: S608
        row = self._store.read(query, (run, path)).fetchone()
        return "" if row is None or row[0] is None else str(row[0])

    def put_rows(self, changes: Sequence[RowChange]) -> None:
        for first in range(0, len(changes), TOGETHER):
            part = changes[first : first + TOGETHER]
            values: list[Any] = []
            for row, input_text, output in part:
                values += (
                    row.run,
                    row.path,
                    row.state.value,
                    row.attempt,
                    row.wait,
                    encode(row.record()),
                    input_text,
                    output,
                )
            more = ", (?, ?, ?, ?, ?, ?, ?, ?)" * (len(part) - 1)
            self._store.write(
                f"INSERT INTO run_nodes VALUES (?, ?, ?, ?, ?, ?, ?, ?){more}"  # noqa: S608
                " ON CONFLICT (run, path) DO UPDATE SET state = excluded.state,"
                " attempt = excluded.attempt, wait = excluded.wait, record = excluded.record,"
                " input = coalesce(excluded.input, input),"
                " output = coalesce(excluded.output, output)",
                tuple(values),
            )

    def iterations(self, run: int, loop: str) -> list[tuple[str, str]]:
        """(state, output) of each iteration of a loop, in order."""
        query = (
            "SELECT state, coalesce(output, '') FROM run_nodes WHERE run = ? AND path > ?"
            " AND path < ? AND instr(substr(path, ?), '/') = 0"
            " ORDER BY CAST(substr(path, ?) AS INTEGER)"
        )
        prefix, after = f"{loop}/", len(loop) + 2
        return [*self._store.read(query, (run, prefix, _end(prefix), after, after))]

    def copy_completed(self, source: int, target: int) -> None:
        """Have the completed rows of one run in another, and its artifacts named as that one's."""
        old, new = f"/proc/runs/{source}/artifacts/", f"/proc/runs/{target}/artifacts/"
        moved = "CASE WHEN instr({0}, '$artifact') THEN replace({0}, ?, ?) ELSE {0} END"
        columns = f"?, path, state, attempt, wait, record, {moved.format('input')}"
        self._store.write(
            f"INSERT INTO run_nodes SELECT {columns}, {moved.format('output')}"  # noqa: S608
            " FROM run_nodes WHERE run = ? AND state = 'completed'",
            (target, old, new, old, new, source),
        )

    def delete_row(self, run: int, path: str) -> None:
        self._store.write("DELETE FROM run_nodes WHERE run = ? AND path = ?", (run, path))

    def delete_some(self, table: str, run: int, most: int) -> bool:
        """Delete at most so many rows of a run in `run_nodes` or `run_events`; whether there may
        be more."""
        key = {"run_nodes": "path", "run_events": "seq"}[table]
        query = f"SELECT {key} FROM {table} WHERE run = ? LIMIT ?"  # noqa: S608
        found = [name for (name,) in self._store.read(query, (run, most))]
        if found:
            self._store.write(
                f"DELETE FROM {table} WHERE run = ? AND {key} IN (SELECT value FROM json_each(?))",  # noqa: S608
                (run, json.dumps(found)),
            )
        return len(found) == most

    def awaited(self, run: int) -> list[str]:
        """The keys of the signals that nodes of a run wait for."""
        query = "SELECT wait FROM run_nodes WHERE run = ? AND wait != ''"
        return [key for (key,) in self._store.read(query, (run,))]

    def delete_below(self, run: int, path: str) -> None:
        """Forget what happened inside a node."""
        query = "DELETE FROM run_nodes WHERE run = ? AND path > ? AND path < ?"
        self._store.write(query, (run, f"{path}/", _end(f"{path}/")))

    def waiting(
        self, key: str, after: tuple[int, str] = (0, ""), most: int = -1
    ) -> list[tuple[int, str, int]]:
        """(run, path, attempt) of the nodes that wait for a signal, in order, behind one; -1: all
        of them."""
        query = (
            "SELECT run, path, attempt FROM run_nodes WHERE wait = ? AND wait != ''"
            " AND (run, path) > (?, ?) ORDER BY run, path LIMIT ?"
        )
        return [*self._store.read(query, (key, *after, most))]

    def awaited_keys(self) -> Iterator[str]:
        """The keys of signals that somebody waits for, in order, read on as they are taken."""
        last = ""
        query = (
            "SELECT DISTINCT wait FROM run_nodes WHERE wait > ? AND wait != ''"
            " ORDER BY wait LIMIT ?"
        )
        while found := [key for (key,) in self._store.read(query, (last, TOGETHER))]:
            yield from found
            last = found[-1]

    def waiting_in(self, run: int, key: str) -> tuple[str, int] | None:
        """(path, attempt) of the first node of a run that waits for a signal."""
        query = "SELECT path, attempt FROM run_nodes WHERE run = ? AND wait = ? LIMIT 1"
        found: tuple[str, int] | None = self._store.read(query, (run, key)).fetchone()
        return found

    def dues(self) -> Iterator[tuple[int, float]]:
        """(run, time) at which something of an open node falls due."""
        query = (
            "SELECT run, json_extract(record, '$.deadline'), json_extract(record, '$.due')"
            " FROM run_nodes WHERE state IN ('running', 'waiting', 'backoff')"
        )
        for run, deadline, due in self._store.read(query):
            times = [time for time in (deadline, due) if time]
            if times:
                yield run, min(times)

    def due_in(self, run: int) -> float:
        """When something of a run's open nodes falls due; infinite if nothing does."""
        query = (
            "SELECT json_extract(record, '$.deadline'), json_extract(record, '$.due')"
            " FROM run_nodes WHERE run = ? AND state IN ('running', 'waiting', 'backoff')"
        )
        times = [time for row in self._store.read(query, (run,)) for time in row if time]
        return min(times, default=float("inf"))

    def unfinished(self) -> set[int]:
        """The runs that have a node which is at work, or is between two attempts."""
        query = "SELECT DISTINCT run FROM run_nodes WHERE state IN ('running', 'backoff')"
        return {run for (run,) in self._store.read(query)}

    def groups(self) -> Iterator[tuple[int, str, str]]:
        """(run, path, group) of each node that counts against a concurrency key now."""
        query = (
            "SELECT run, path, json_extract(record, '$.group') FROM run_nodes"
            " WHERE state IN ('running', 'waiting') AND json_extract(record, '$.group') IS NOT NULL"
        )
        yield from self._store.read(query)

    # -- events ----------------------------------------------------------------------------------

    def last_event(self, run: int) -> int:
        """The number of the newest event of a run; 0 if it has none."""
        query = "SELECT max(seq) FROM run_events WHERE run = ?"
        (found,) = self._store.read(query, (run,)).fetchone()
        return int(found or 0)

    def add_events(self, run: int, first: int, lines: Iterable[str]) -> None:
        """Append lines, the first of which has number `first`."""
        values = [each for seq, line in enumerate(lines, first) for each in (run, seq, line)]
        step = 3 * TOGETHER
        for begin in range(0, len(values), step):
            part = tuple(values[begin : begin + step])
            more = ", (?, ?, ?)" * (len(part) // 3 - 1)
            self._store.write(f"INSERT INTO run_events VALUES (?, ?, ?){more}", part)  # noqa: S608

    def events(self, run: int, after: int, most: int) -> list[tuple[int, str]]:
        """(number, line) of the events after one number."""
        query = "SELECT seq, line FROM run_events WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?"
        return [*self._store.read(query, (run, after, most))]

    def events_size(self, run: int) -> int:
        """The bytes of all events of a run: a millisecond for ten thousand."""
        query = "SELECT sum(length(CAST(line AS BLOB))) FROM run_events WHERE run = ?"
        (found,) = self._store.read(query, (run,)).fetchone()
        return int(found or 0)


def _end(prefix: str) -> str:
    """The least path behind all those that begin with `prefix`."""
    return f"{prefix[:-1]}0" if prefix else "\U0010ffff"  # '0' follows '/'


def _wheres(state: str, pipeline: str, ref: str) -> tuple[list[str], list[str]]:
    given = {"state": state, "pipeline": pipeline, "ref": ref}
    named = {name: value for name, value in given.items() if value}
    return [f"{name} = ?" for name in named], [*named.values()]


def _row(run: int, path: str, state: str, attempt: int, wait: str, record: str) -> NodeRow:
    row = NodeRow.from_row(run, path, state, attempt, json.loads(record))
    row.wait = wait
    return row
