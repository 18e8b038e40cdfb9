"""The part of the consistency check that looks at budgets, open calls and what was warned of.

That every token is accounted for: what an entry says it has given away and set aside is what the
entries that have it from there, and the open calls that draw on it, say they have. So the sums over
the whole tree agree.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping

from agentfs.model.principal import INIT
from agentfs.model.process import Process, Tier
from agentfs.quota import alerts, budget_table
from agentfs.quota import call as open_calls
from agentfs.quota.budget_table import Entry, Key
from agentfs.quota.call import Call
from agentfs.store.rows import records

__all__ = ["budget_faults"]

UNREADABLE = (KeyError, TypeError, ValueError)


def budget_faults(
    connection: sqlite3.Connection, processes: Mapping[int, Process], last_call: int | None
) -> Iterator[str]:
    """Every fault of them, in words. `last_call` is the highest id that a call was given."""
    found: dict[Key, Entry] = {(INIT, tier): Entry(INIT, tier, 0) for tier in Tier}
    for key, record in records(connection, budget_table.KIND):
        try:
            entry = Entry(**(record | {"tier": Tier(record["tier"])}))
            entry.remaining + entry.pid + entry.grantor  # numbers, all of them
        except UNREADABLE as bad:
            yield f"budget {key}: its record cannot be read: {bad!r}"
            continue
        found[entry.key] = entry
        if key != f"{entry.pid}/{entry.tier.value}":
            yield f"budget {key}: its record is of {entry.pid}/{entry.tier.value}"
        yield from (f"budget {key}: {fault}" for fault in _entry(entry, processes))
    held: Counter[Key] = Counter()
    for key, record in records(connection, open_calls.KIND):
        try:
            call = Call.from_record(key, record)
        except UNREADABLE as bad:
            yield f"call {key}: its record cannot be read: {bad!r}"
            continue
        if last_call is not None and call.id > last_call:
            yield f"call {key}: the last one has id {last_call} only"
        if not _alive(processes, call.pid):
            yield f"call {key}: process {call.pid}, which made it, is no living process"
        if call.held.kind == "llm":
            held[call.held.source, call.held.tier] += call.held.tokens
    yield from _sums(found, held)
    for key, _ in records(connection, alerts.KIND):
        if not (key.isdecimal() and _alive(processes, int(key))):
            yield f"marks {key}: there is no such living process"


def _alive(processes: Mapping[int, Process], pid: int) -> bool:
    process = processes.get(pid)
    return process is not None and process.state.alive


def _entry(entry: Entry, processes: Mapping[int, Process]) -> Iterator[str]:
    if not _alive(processes, entry.pid):
        yield "its owner is no living process"
    if (entry.grantor == 0) != (entry.pid == INIT):
        yield f"it is granted by process {entry.grantor}"
    for name in ("allocated", "consumed", "granted", "held"):
        if getattr(entry, name) < 0:
            yield f"{name} is {getattr(entry, name)}"


def _sums(found: Mapping[Key, Entry], held: Mapping[Key, int]) -> Iterator[str]:
    granted: Counter[Key] = Counter()
    for entry in found.values():
        above = entry.grantor, entry.tier
        if entry.grantor:
            granted[above] += entry.allocated
            if above not in found:
                yield f"budget {_name(entry.key)}: its grantor {entry.grantor} has none"
            elif _circular(entry, found):
                yield f"budget {_name(entry.key)}: the line of its grantors is a circle"
    for key, tokens in held.items():
        if key not in found:
            yield f"budget {_name(key)}: open calls hold {tokens} of it, and there is none"
    for key, entry in found.items():
        for name, said, is_so in (
            ("granted", entry.granted, granted[key]),
            ("held by open calls", entry.held, held.get(key, 0)),
        ):
            if said != is_so:
                yield f"budget {_name(key)}: it says that {said} are {name}, and {is_so} are"


def _circular(entry: Entry, found: Mapping[Key, Entry]) -> bool:
    seen = {entry.pid}
    above = found.get((entry.grantor, entry.tier))
    while above is not None and above.pid not in seen:
        seen.add(above.pid)
        above = found.get((above.grantor, above.tier))
    return above is not None


def _name(key: Key) -> str:
    return f"{key[0]}/{key[1].value}"
