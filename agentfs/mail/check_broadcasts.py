"""The part of the consistency check that looks at broadcasts: their copies and their counts."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import TypeGuard

from agentfs.mail.archive import FINISHED
from agentfs.mail.tally import EVERYBODY, OUTCOMES, still_waiting
from agentfs.store.rows import read_record

__all__ = ["broadcast_faults"]


def broadcast_faults(connection: sqlite3.Connection) -> Iterator[str]:
    """Every fault of them, in words."""
    copies: Counter[int] = Counter()
    logical: dict[int, tuple[str, dict[str, int]]] = {}
    query = (
        "SELECT seq, mailbox, state, filename, record FROM messages"
        " WHERE record LIKE '%\"broadcast\":%' OR mailbox = ? ORDER BY seq"
    )
    for seq, mailbox, state, filename, text in connection.execute(query, (EVERYBODY,)):
        what = f"message {seq:012d} in {state}/ of {mailbox}"
        record = read_record(text)
        if mailbox == EVERYBODY:
            tally = record.get("tally")
            if not _is_tally(tally):
                yield f"{what}: it is to everybody, and its count is {tally}"
                continue
            logical[seq] = state, tally
            if state not in FINISHED and (state, filename) != ("new", f"{seq:012d}"):
                yield f"{what}: a broadcast has no place but new/{seq:012d}"
        elif record.get("broadcast"):
            if state in FINISHED or not record.get("unlisted"):
                yield f"{what}: a copy of a broadcast is unlisted, and gone once it is finished"
            copies[record["broadcast"]] += state in ("new", "cur")
    # A broadcast may be gone before its copies are: one that was given up can be put back later.
    for seq, (state, tally) in logical.items():
        what, waiting = f"broadcast {seq:012d}", still_waiting(tally)
        if waiting != copies[seq]:
            yield f"{what}: {copies[seq]} copies wait, and it counts {waiting}"
        if (state in FINISHED) != (not waiting):
            yield f"{what}: it is {state}, and {waiting} copies wait"


def _is_tally(tally: object) -> TypeGuard[dict[str, int]]:
    return (
        isinstance(tally, dict)
        and "recipients" in tally
        and tally.keys() <= {"recipients", *OUTCOMES}
        and all(isinstance(count, int) and count >= 0 for count in tally.values())
    )
