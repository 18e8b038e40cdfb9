"""The part of the consistency check that holds the records of artifacts against their files."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Container, Iterator
from contextlib import closing
from pathlib import Path

from agentfs.base.errors import KernelError
from agentfs.shared.artifact import Artifact, check_key, check_type
from agentfs.shared.artifact_table import FOLDER, KIND
from agentfs.shared.draft import UNFINISHED
from agentfs.store.rows import Record, records

__all__ = ["artifact_faults", "content_faults"]


def artifact_faults(connection: sqlite3.Connection, agents: Container[str]) -> Iterator[str]:
    """Every fault of the records, in words."""
    taken: dict[tuple[object, str], str] = {}
    for key, record in records(connection, KIND):
        what = f"artifact {key}"
        artifact = _read(record)
        if artifact is None:
            yield f"{what}: its record cannot be read"
            continue
        if key != f"{artifact.serial:012d}":
            yield f"{what}: its record has number {artifact.serial}"
        if artifact.owner not in agents:
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
    with closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        rows = list(records(connection, KIND))
    faults = set()
    named = set()
    folder = store.parent / FOLDER
    for key, record in rows:
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
    except (ValueError, TypeError, KeyError):
        return None
