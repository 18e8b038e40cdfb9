"""Faults of queues, topics, locks and artifacts in a store, and of the files beside it that have
the contents of artifacts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from agentfs.base.errors import KernelError
from agentfs.shared.artifact import Artifact, check_key, check_type
from agentfs.shared.artifact_table import FOLDER, KIND
from agentfs.shared.draft import UNFINISHED
from agentfs.shared.locks import KIND as LOCK
from agentfs.shared.locks import Lock
from agentfs.store.replay import reading
from agentfs.store.rows import UNREADABLE, Record, StoreRows, read_record

__all__ = ["content_faults", "faults"]


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of the records, in words."""
    yield from _queue_faults(rows)
    yield from _topic_faults(rows)
    yield from _artifact_faults(rows)
    yield from _lock_faults(rows)


def _queue_faults(rows: StoreRows) -> Iterator[str]:
    """Whether each queue has an owner, and each message in one its queue."""
    queues = set()
    for name, record in rows.records("queue"):
        queues.add(name)
        if record.get("owner") not in rows.agents:
            yield f"queue {name}: there is no agent {record.get('owner')}, who owns it"
        yield from _lacking(f"queue {name}", record, "changed", "limit")
        limit = record.get("limit")
        if limit is not None and not (isinstance(limit, int) and limit > 0):
            yield f"queue {name}: {limit} messages may wait in it"
    query = (
        "SELECT seq, substr(mailbox, 8) FROM messages"
        " WHERE mailbox LIKE 'queues/%' AND state IN ('new', 'cur', 'dead')"
    )
    for seq, name in rows.read(query):
        if name not in queues:
            yield f"message {seq:012d}: there is no queue {name}"


def _lock_faults(rows: StoreRows) -> Iterator[str]:
    """Whether each lock has a holder; that of a process which has ended is freed by the next
    start."""
    for name, record in rows.records(LOCK):
        try:
            lock = Lock(**record)
        except UNREADABLE as bad:
            yield f"lock {name}: {bad!r}"
            continue
        if not (isinstance(lock.pid, int) and lock.pid > 0 and lock.holder):
            yield f"lock {name}: nobody has it"


def _lacking(what: str, record: Record, *names: str) -> Iterator[str]:
    missing = [name for name in ("uid", "gid", "mode", *names) if name not in record]
    if missing:
        yield f"{what}: its record does not say {', '.join(missing)}"


def _topic_faults(rows: StoreRows) -> Iterator[str]:
    """Whether each topic has an owner, and what it keeps is in numbers without a gap."""
    topics = set()
    for name, record in rows.records("topic"):
        if record.get("owner") not in rows.agents:
            yield f"topic {name}: there is no agent {record.get('owner')}, who owns it"
        yield from _lacking(f"topic {name}", record, "changed")
        topics.add(name)
    last: dict[str, int] = {}
    query = "SELECT topic, seq, record FROM publications ORDER BY topic, seq"
    for name, seq, text in rows.read(query):
        what = f"record {seq} of topic {name}"
        record = read_record(text)
        if not (isinstance(record.get("time"), float) and record.get("from")):
            yield f"{what}: it does not say when and by whom it was published"
        if name not in topics:
            yield f"{what}: there is no such topic"
        if seq < 1 or last.get(name, seq - 1) != seq - 1:
            yield f"{what}: the one before it has number {last.get(name, 0)}"
        last[name] = seq


def _artifact_faults(rows: StoreRows) -> Iterator[str]:
    """Whether each artifact has an owner, and a key that it may have and nobody else."""
    taken: dict[tuple[object, str], str] = {}
    for key, record in rows.records(KIND):
        what = f"artifact {key}"
        artifact = _read(record)
        if artifact is None:
            yield f"{what}: its record cannot be read"
            continue
        if key != f"{artifact.serial:012d}":
            yield f"{what}: its record has number {artifact.serial}"
        if artifact.owner not in rows.agents:
            yield f"{what}: there is no agent {artifact.owner}, who owns it"
        try:
            check_key(artifact.key)
            if artifact.type:
                check_type(artifact.type)
        except KernelError as bad:
            yield f"{what}: {bad.reason}"
        other = taken.setdefault((artifact.space, artifact.key), key)
        if other != key:
            yield f"{what}: it is {artifact.key}, and so is artifact {other}"


def content_faults(store: Path) -> list[str]:
    """Where the contents beside the store at `store` are not what the records say.

    A running daemon may be between two steps, so what is found is looked at again.
    """
    found = _compare(store)
    return sorted(found & _compare(store)) if found else []


def _compare(store: Path) -> set[str]:
    with reading(store) as connection:
        found = list(StoreRows(connection, store).records(KIND))
    faults = set()
    named = set()
    folder = store.parent / FOLDER
    for key, record in found:
        artifact = _read(record)
        if artifact is None:
            continue
        named.add(key)
        try:
            size = os.stat(folder / key).st_size
        except FileNotFoundError:
            faults.add(f"artifact {key}: its content is gone")
            continue
        if size != artifact.size:
            faults.add(f"artifact {key}: its content has {size} bytes, not {artifact.size}")
    for name in os.listdir(folder) if folder.is_dir() else ():
        if name not in named and not name.endswith(UNFINISHED):
            faults.add(f"{FOLDER}/{name} is no artifact's content; the next start removes it")
    return faults


def _read(record: Record) -> Artifact | None:
    try:
        artifact = Artifact.from_record(record)
        numbers = (artifact.serial, artifact.uid, artifact.gid, artifact.size)
        return artifact if all(isinstance(n, int) and n >= 0 for n in numbers) else None
    except UNREADABLE:
        return None
