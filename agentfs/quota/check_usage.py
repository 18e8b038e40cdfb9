"""What must hold of the books in a store: sums are those of the records, whatever the view."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

__all__ = ["usage_faults"]

VIEWS = ("agent", "user", "node", "tier", "total")
SUMS = ("input", "output", "calls", "tool_calls", "cost", "unpriced")

Numbers = tuple[int, ...]
Where = tuple[str, str, str]
ZEROS: Numbers = (0,) * len(SUMS)


def usage_faults(connection: sqlite3.Connection) -> Iterator[str]:
    """Every sum that is not what the records and those that were swept add up to, and every two
    views that do not agree."""
    query = "SELECT view, key, span, input, output, calls, tool_calls, cost, unpriced FROM usage"
    found: dict[Where, Numbers] = {
        (view, key, span): tuple(numbers) for view, key, span, *numbers in connection.execute(query)
    }
    right = _recount(connection)
    for (view, key, span), numbers in found.items():
        if span == "swept":
            _add(right, (view, key, "total"), numbers)
            right[view, key, span] = numbers
            if min(numbers) < 0:
                yield f"usage of {view} {key}: {_words(numbers)} were swept"
    for where in sorted(found.keys() | right.keys()):
        given, wanted = found.get(where, ZEROS), right.get(where, ZEROS)
        if given != wanted:
            yield (
                f"usage of {' '.join(where[:2])}, {where[2]}: {_words(given)}, and the records say"
                f" {_words(wanted)}"
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
                yield f"usage by {view}, {span}: {_words(own)}, and in all {_words(total)}"


def _recount(connection: sqlite3.Connection) -> dict[Where, Numbers]:
    """The sums of the records that are kept."""
    sums: dict[Where, Numbers] = {}
    query = (
        "SELECT agent, user, node, tier, '',"
        " strftime('%Y-%m-%dT%H', CAST(time AS INTEGER), 'unixepoch'), sum(input), sum(output),"
        " sum(kind = 'llm'), sum(kind = 'tool'), sum(cost), sum(unpriced)"
        " FROM uses GROUP BY 1, 2, 3, 4, 6"
    )
    for *keys, hour, read, written, calls, tools, cost, unpriced in connection.execute(query):
        numbers = (read, written, calls, tools, cost, unpriced)
        for view, key in zip(VIEWS, keys, strict=True):
            for span in (hour, hour[:10], "total"):
                _add(sums, (view, key, span), numbers)
    return sums


def _add(sums: dict[Where, Numbers], where: Where, numbers: Numbers) -> None:
    sums[where] = tuple(a + b for a, b in zip(sums.get(where, ZEROS), numbers, strict=True))


def _words(numbers: Numbers) -> str:
    return ", ".join(f"{count} {name}" for count, name in zip(numbers, SUMS, strict=True))
