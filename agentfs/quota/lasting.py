"""What was used stays used when the system is rolled back: the records of budgets, limits and
groups as they were, with the uses that have come since.

`then` is the store as it was, `now` the one that it takes the place of. Open calls are over, and
what they held is free: those that are settled by now were charged, and nobody else is at work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from agentfs.model.principal import INIT
from agentfs.quota import branches, budget_table, group_table, spending
from agentfs.quota import call as open_calls
from agentfs.quota.budget_table import BudgetEntry, Key
from agentfs.store.rows import Record, StoreRows

__all__ = ["lasting"]

Change = tuple[str, str, Record | None]
"""Kind, key and new record of what becomes another; None: it is dropped."""


def lasting(then: StoreRows, now: StoreRows) -> Iterator[Change]:
    """The records of `then` that are to be others."""
    for key, _ in then.records(open_calls.KIND):
        yield open_calls.KIND, key, None
    for key, _ in then.records(group_table.HOLDS):
        yield group_table.HOLDS, key, None
    yield from _budgets(_entries(then), _entries(now))
    yield from _groups(then, now)
    for kind in (spending.KIND, branches.KIND):
        yield from _by_process(kind, then, now)


def _entries(rows: StoreRows) -> dict[Key, BudgetEntry]:
    entries = (BudgetEntry.from_record(record) for _, record in rows.records(budget_table.KIND))
    return {entry.key: entry for entry in entries}


def _budgets(then: dict[Key, BudgetEntry], now: dict[Key, BudgetEntry]) -> Iterator[Change]:
    """An entry has used what it had used by now. The uses of one that there was not yet are those
    of the first above it that there was. One that is gone by now has handed on its uses: those of
    then count twice, because nobody knows them apart."""
    used = {key: entry.consumed for key, entry in then.items()}
    for key, entry in now.items():
        if key in then:
            used[key] = max(used[key], entry.consumed)
    more: defaultdict[Key, int] = defaultdict(int)
    for key, entry in now.items():
        above = key
        while above not in then and above in now and above[0] != INIT:
            above = now[above].grantor, above[1]
        if above != key:
            more[above] += entry.consumed
        elif key not in then:
            more[key] += 0
    for key, entry in then.items():
        kept = replace(entry, consumed=used[key] + more.pop(key, 0), held=0)
        yield budget_table.KIND, _name(key), kept.record()
    for key, consumed in more.items():  # process 1 has an entry once something was given of it
        kept = replace(now[key], consumed=consumed + now[key].consumed, granted=0, held=0)
        yield budget_table.KIND, _name(key), kept.record()


def _name(key: Key) -> str:
    return f"{key[0]}/{key[1].value}"


def _groups(then: StoreRows, now: StoreRows) -> Iterator[Change]:
    """A group has used what it had used by now, and at least what is used in those below it."""
    groups = dict(then.records(group_table.KIND))
    free_then, free_now = _without_holds(then), _without_holds(now)
    least: defaultdict[str, int] = defaultdict(int)
    for path in sorted(groups, reverse=True):
        tokens = max(free_then[path], free_now.get(path, 0), least[path])
        least[path.rpartition("/")[0]] += tokens
        yield group_table.KIND, path, groups[path] | {"tokens": tokens}


def _without_holds(rows: StoreRows) -> dict[str, int]:
    """The tokens of each group without what open calls hold."""
    tokens = {path: int(record["tokens"]) for path, record in rows.records(group_table.KIND)}
    for _, record in rows.records(group_table.HOLDS):
        for path, held in record["holds"]:
            while path:
                if path in tokens:
                    tokens[path] -= held
                path = path.rpartition("/")[0]
    return tokens


def _by_process(kind: str, then: StoreRows, now: StoreRows) -> Iterator[Change]:
    """The figures of a process that lived then, as they are now; they only grow."""
    newer = dict(now.records(kind))
    older: dict[str, Any] = dict(then.records(kind))
    for pid, record in newer.items():
        if then.lives(pid) and record != older.get(pid):
            yield kind, pid, record
