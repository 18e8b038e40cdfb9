"""Faults of the messages in a store, and of broadcasts: their copies and their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeGuard

from agentfs.mail.archive import FINISHED
from agentfs.mail.held import KIND, Held
from agentfs.mail.tally import EVERYBODY, OUTCOMES, still_waiting
from agentfs.store.rows import UNREADABLE, Record, StoreRows, parse_record, read_record

__all__ = ["faults"]


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    yield from _message_faults(rows)
    yield from _broadcast_faults(rows)
    for key, record in rows.records(KIND):
        try:
            Held.from_record(record)
            int(key)
        except UNREADABLE as bad:
            yield f"message {key}, which is still being written: {bad!r}"


def _message_faults(rows: StoreRows) -> Iterator[str]:
    last = rows.number("event_seq")  # see `Store.last_message`
    taken: Counter[tuple[str, str, str]] = Counter()
    query = (
        "SELECT seq, mailbox, state, filename, record,"
        " substr(coalesce(long_contents.content, messages.content), 1, 400),"
        " long_contents.seq IS NOT NULL AND length(messages.content)"
        " FROM messages LEFT JOIN long_contents USING (seq) ORDER BY seq"
    )
    for seq, mailbox, state, filename, text, start, twice in rows.read(query):
        what = f"message {seq:012d} in {state}/ of {mailbox}"
        if state not in FINISHED:
            taken[mailbox, state, filename] += 1
        elif filename:
            yield f"{what}: it has a file name, {filename}"
        known = mailbox in rows.agents or mailbox == EVERYBODY or "/" in mailbox
        if not known and state not in FINISHED:
            yield f"{what}: there is no such agent"
        if last is not None and seq > last:
            yield f"{what}: the last event has number {last} only"
        if twice:
            yield f"{what}: its content is there twice"
        record = parse_record(text)
        if record is None:
            yield f"{what}: the record is no JSON object"
        elif record:
            yield from (
                f"{what}: {fault}"
                for fault in _record_faults(rows, seq, mailbox, state, record, start or b"")
            )
    yield from (
        f"{count} messages are {state}/{file} of {mailbox}"
        for (mailbox, state, file), count in taken.items()
        if count > 1
    )
    query = "SELECT seq FROM long_contents WHERE seq NOT IN (SELECT seq FROM messages)"
    yield from (f"a content is left of message {seq:012d}" for (seq,) in rows.read(query))


def _record_faults(
    rows: StoreRows, seq: int, mailbox: str, state: str, record: Record, start: bytes
) -> Iterator[str]:
    sender, pid = record.get("sender"), record.get("claimed_by")
    if not start.startswith(f"Message-ID: <{seq:012d}@".encode()):
        yield "its content has another number"
    if f"\nFrom: {sender}\n".encode() not in start:
        yield f"its content is not from {sender}"
    attempt = record.get("attempt", 1)
    if not isinstance(attempt, int) or attempt < 1:
        yield f"its attempt is number {attempt}"
    elif record.get("revived", 0) >= attempt:
        yield f"it was put back after attempt {record['revived']}, and this is number {attempt}"
    if state == "dead" and not record.get("reason"):
        yield "it is a dead letter without a reason"
    if pid is None:
        return
    process = rows.processes.get(pid)
    if state != "cur":
        yield f"process {pid} has claimed it, though it is not in cur/"
    elif process is None or not process.state.alive:
        yield f"process {pid}, which has claimed it, is no living process"
    elif "/" not in mailbox and process.name != mailbox:
        yield f"process {pid}, which has claimed it, is none of {mailbox}"


def _broadcast_faults(rows: StoreRows) -> Iterator[str]:
    """Whether the copies of a broadcast are as many as it counts."""
    copies: Counter[int] = Counter()
    logical: dict[int, tuple[str, dict[str, int]]] = {}
    query = (
        "SELECT seq, mailbox, state, filename, record FROM messages"
        " WHERE record LIKE '%\"broadcast\":%' OR mailbox = ? ORDER BY seq"
    )
    for seq, mailbox, state, filename, text in rows.read(query, (EVERYBODY,)):
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
