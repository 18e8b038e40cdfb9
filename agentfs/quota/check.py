"""Faults of budgets, open calls, groups, limits and the accounting in a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress

from agentfs.model.principal import INIT
from agentfs.model.process import Tier
from agentfs.quota import alerts, branches, budget_table, group_table, spending
from agentfs.quota import call as open_calls
from agentfs.quota.budget_table import BudgetEntry, Key
from agentfs.quota.call import Call
from agentfs.quota.uses import Sums
from agentfs.store.rows import UNREADABLE, Record, StoreRows

__all__ = ["NUMBERS", "faults"]

NUMBERS = ("last_call",)
"""Meta values that are numbers."""

GROUPS = "Groups"
"""The stored name of the meter of groups."""

GROUP_COUNTS = ("changed", "tokens", "tokens_hits", "pids_hits")
SPENT_COUNTS = ("llm_calls", "tool_calls", "cost", "largest")
VIEWS = ("agent", "user", "node", "tier", "total")
SUMS = Sums._fields

Numbers = tuple[int, ...]
Where = tuple[str, str, str]
ZEROS: Numbers = (0,) * len(SUMS)


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    yield from _budget_faults(rows)
    yield from _group_faults(rows)
    yield from _usage_faults(rows)
    yield from _limit_faults(rows)


# -- budgets and open calls ------------------------------------------------------------------------


def _budget_faults(rows: StoreRows) -> Iterator[str]:
    """Whether every token is accounted for: what an entry says it has given away and set aside is
    what the entries that have it from there, and the open calls that draw on it, say they have. So
    the sums over the whole tree agree."""
    last_call = rows.number("last_call")
    found: dict[Key, BudgetEntry] = {(INIT, tier): BudgetEntry(INIT, tier, 0) for tier in Tier}
    for key, record in rows.records(budget_table.KIND):
        try:
            entry = BudgetEntry.from_record(record)
            entry.remaining + entry.pid + entry.grantor  # numbers, all of them
        except UNREADABLE as bad:
            yield f"budget {key}: its record cannot be read: {bad!r}"
            continue
        found[entry.key] = entry
        if key != f"{entry.pid}/{entry.tier.value}":
            yield f"budget {key}: its record is of {entry.pid}/{entry.tier.value}"
        yield from (f"budget {key}: {fault}" for fault in _entry(entry, rows))
    held: Counter[Key] = Counter()
    for key, record in rows.records(open_calls.KIND):
        try:
            call = Call.from_record(key, record)
        except UNREADABLE as bad:
            yield f"call {key}: its record cannot be read: {bad!r}"
            continue
        if last_call is not None and call.id > last_call:
            yield f"call {key}: the last one has id {last_call} only"
        if not rows.lives(call.pid):
            yield f"call {key}: process {call.pid}, which made it, is no living process"
        yield from (f"call {key}: {fault}" for fault in _call(call))
        if call.held.kind == "llm":
            held[call.held.source, call.held.tier] += call.held.tokens
    yield from _sums(found, held)
    for key, record in rows.records(alerts.KIND):
        if not all(isinstance(record.get(name), list) for name in ("near", "over")):
            yield f"marks {key}: they are {record}"
        if not rows.lives(key):
            yield f"marks {key}: there is no such living process"


def _entry(entry: BudgetEntry, rows: StoreRows) -> Iterator[str]:
    if not rows.lives(entry.pid):
        yield "its owner is no living process"
    if (entry.grantor == 0) != (entry.pid == INIT):
        yield f"it is granted by process {entry.grantor}"
    for name in ("allocated", "consumed", "granted", "held"):
        if getattr(entry, name) < 0:
            yield f"{name} is {getattr(entry, name)}"


def _call(call: Call) -> Iterator[str]:
    for name in ("input", "output", "cost"):
        if not _is_count(getattr(call.held, name)):
            yield f"it holds {name} {getattr(call.held, name)!r}"
    if call.relay is not None:
        if call.parts:
            yield "the gateway makes it, and meters hold other parts of it"
        if not _is_count(call.relay.output):
            yield f"{call.relay.output!r} tokens of it have come"


def _sums(found: Mapping[Key, BudgetEntry], held: Mapping[Key, int]) -> Iterator[str]:
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


def _circular(entry: BudgetEntry, found: Mapping[Key, BudgetEntry]) -> bool:
    seen = {entry.pid}
    above = found.get((entry.grantor, entry.tier))
    while above is not None and above.pid not in seen:
        seen.add(above.pid)
        above = found.get((above.grantor, above.tier))
    return above is not None


def _name(key: Key) -> str:
    return f"{key[0]}/{key[1].value}"


# -- groups ----------------------------------------------------------------------------------------


def _group_faults(rows: StoreRows) -> Iterator[str]:
    """Whether groups are within groups, processes in groups that there are, and what a group has
    used at least what those below it have, and what open calls hold in it."""
    groups: dict[str, Record] = {}
    for path, record in rows.records(group_table.KIND):
        groups[path] = record
        for name in GROUP_COUNTS:
            if not _is_count(record.get(name)):
                yield f"group {path}: {name} is {record.get(name)}"
        for name in ("tokens_max", "pids_max"):
            if record.get(name) is not None and not _is_count(record.get(name)):
                yield f"group {path}: {name} is {record.get(name)}"
    for process in rows.processes.values():
        if process.state.alive and process.group and process.group not in groups:
            yield f"process {process.pid}: there is no group {process.group}"
    least: Counter[str] = Counter()
    open_ones = _held_of_groups(rows)
    for pid, record in rows.records(group_table.HOLDS):
        if not rows.lives(pid):
            yield f"process {pid}, which holds tokens of groups, is no living process"
        for path, tokens in record.get("holds", ()):
            least[path] += tokens
            open_ones[pid, tokens] -= 1
            if open_ones[pid, tokens] < 0:
                yield f"process {pid}: it holds {tokens} tokens of {path}, and has no such call"
            if path and path not in groups:
                yield f"process {pid}: it holds tokens of group {path}, which there is not"
    # Sorted in reverse, what is below a group comes before it: each hands on the most of the two.
    for path in sorted(groups, reverse=True):
        parent, used = path.rpartition("/")[0], groups[path].get("tokens")
        if parent and parent not in groups:
            yield f"group {path}: there is no group {parent}"
        if isinstance(used, int):
            least[parent] += used
            if used < least[path]:
                yield f"group {path}: it has used {used} tokens, and those in it {least[path]}"


def _held_of_groups(rows: StoreRows) -> Counter[tuple[str, int]]:
    """How many open calls of each process hold how many tokens of its groups, by (pid, tokens)."""
    found: Counter[tuple[str, int]] = Counter()
    for key, record in rows.records(open_calls.KIND):
        with suppress(*UNREADABLE):  # it is a fault already
            call = Call.from_record(key, record)
            part = call.parts.get(GROUPS)
            tokens = call.held.tokens if part is None else part[0]
            found[str(call.pid), tokens] += call.held.kind == "llm"
    return found


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


# -- limits ----------------------------------------------------------------------------------------


def _limit_faults(rows: StoreRows) -> Iterator[str]:
    """Whether limits are numbers, and what processes have used of them, too."""
    for pid, process in rows.processes.items():
        for name in process.limits.__slots__:
            limit = getattr(process.limits, name)
            whole = isinstance(limit, int) or (name == "max_cost_usd" and isinstance(limit, float))
            if limit is not None and not (whole and limit >= 0):
                yield f"process {pid}: {name} is {limit!r}"
    for key, record in rows.records(branches.KIND):
        what = f"what ended below process {key}"
        if not rows.lives(key):
            yield f"{what}: there is no such living process"
        for name, figure in record.items():
            if not isinstance(figure, int) or figure < 0:
                yield f"{what}: {name} is {figure!r}"
    for key, record in rows.records(spending.KIND):
        what = f"what process {key} has used"
        if not rows.lives(key):
            yield f"{what}: there is no such living process"
        for name in SPENT_COUNTS:
            if not isinstance(record.get(name), int) or record[name] < 0:
                yield f"{what}: {name} is {record.get(name)!r}"
        hour = record.get("hour", ())
        if [when for when, _ in hour] != sorted(when for when, _ in hour):
            yield f"{what}: its last hour is not in order"
        if any(tokens <= 0 for _, tokens in hour):
            yield f"{what}: its last hour has a use of no tokens"


# -- accounting ------------------------------------------------------------------------------------


def _usage_faults(rows: StoreRows) -> Iterator[str]:
    """Every sum that is not what the records and those that were swept add up to, and every two
    views that do not agree."""
    query = f"SELECT view, key, span, {', '.join(SUMS)} FROM usage"  # noqa: S608  # columns
    found: dict[Where, Numbers] = {
        (view, key, span): tuple(numbers) for view, key, span, *numbers in rows.read(query)
    }
    right = _recount(rows)
    for (view, key, span), numbers in found.items():
        if span == "swept":
            _add(right, (view, key, "total"), numbers)
            right[view, key, span] = numbers
            if min(numbers) < 0:
                yield f"usage of {view} {key}: {_figures(numbers)} were swept"
    for where in sorted(found.keys() | right.keys()):
        given, wanted = found.get(where, ZEROS), right.get(where, ZEROS)
        if given != wanted:
            yield (
                f"usage of {' '.join(where[:2])}, {where[2]}: {_figures(given)}, and the records"
                f" say {_figures(wanted)}"
            )
        elif where[2] not in ("total", "swept") and given == ZEROS:
            yield f"usage of {' '.join(where[:2])}, {where[2]}: there is no record of it"
    yield from _views_that_differ(found)


def _views_that_differ(found: dict[Where, Numbers]) -> Iterator[str]:
    sums: dict[Where, Numbers] = {}
    for (view, _, span), numbers in found.items():
        _add(sums, (view, "", span), numbers)
    for view in VIEWS[:-1]:
        for span in sorted({span for _, _, span in sums}):
            own, total = sums.get((view, "", span), ZEROS), sums.get(("total", "", span), ZEROS)
            if own != total:
                yield f"usage by {view}, {span}: {_figures(own)}, and in all {_figures(total)}"


def _recount(rows: StoreRows) -> dict[Where, Numbers]:
    """The sums of the records that are kept."""
    sums: dict[Where, Numbers] = {}
    query = (
        "SELECT agent, user, node, tier, '',"
        " strftime('%Y-%m-%dT%H', CAST(time AS INTEGER), 'unixepoch'), sum(input), sum(output),"
        " sum(kind = 'llm'), sum(kind = 'tool'), sum(cost), sum(unpriced), sum(cache_read),"
        " sum(cache_write), sum(estimated)"
        " FROM uses GROUP BY 1, 2, 3, 4, 6"
    )
    for row in rows.read(query):
        keys, hour, numbers = row[: len(VIEWS)], row[len(VIEWS)], row[len(VIEWS) + 1 :]
        for view, key in zip(VIEWS, keys, strict=True):
            for span in (hour, hour[:10], "total"):
                _add(sums, (view, key, span), numbers)
    return sums


def _add(sums: dict[Where, Numbers], where: Where, numbers: Numbers) -> None:
    sums[where] = tuple(a + b for a, b in zip(sums.get(where, ZEROS), numbers, strict=True))


def _figures(numbers: Numbers) -> str:
    return ", ".join(f"{count} {name}" for count, name in zip(numbers, SUMS, strict=True))
