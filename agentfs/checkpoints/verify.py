"""Whether a checkpoint is still what it was when it was made."""

from __future__ import annotations

import json
import os
import sqlite3
import stat as st
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from agentfs.checkpoints import copies, inventory
from agentfs.checkpoints.inventory import CopiedFile
from agentfs.checkpoints.making import CHECKPOINTS, FILES, INFO, LISTED
from agentfs.store.layout import STORE

__all__ = ["facts_of", "faults", "places"]

NEEDED = frozenset({"name", "created", "by", "event", "pause", "files", "bytes", "store", "sums"})


def places(state: Path) -> Iterator[Path]:
    """Every checkpoint below a state directory, by name."""
    folder = state / CHECKPOINTS
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def facts_of(place: Path) -> dict[str, Any]:
    """The figures of a checkpoint. Raises OSError, ValueError."""
    facts = json.loads((place / INFO).read_text("utf-8", "replace"))
    if not isinstance(facts, dict) or not facts.keys() >= NEEDED:
        raise ValueError(f"{INFO} is not what a checkpoint has there")
    return facts


def faults(place: Path) -> Iterator[str]:
    """Every fault of a checkpoint, in words. Reads all of it."""
    try:
        facts = facts_of(place)
        for name, wanted in facts["sums"].items():
            if copies.sum_of(place / name) != wanted:
                yield f"{name} is damaged: it is not what was written"
                return
        listed = inventory.read(place / LISTED)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as bad:
        yield f"it cannot be read: {bad}"
        return
    for entry in listed.values():
        if not entry.same and (fault := _fault(entry, place / FILES / entry.path)):
            yield f"{entry.path}: {fault}"
    try:
        uri = f"{(place / STORE).absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as store:
            yield from (
                f"its store is damaged: {line}"
                for (line,) in store.execute("PRAGMA quick_check(3)")
                if line != "ok"
            )
    except sqlite3.Error as failure:
        yield f"its store cannot be read: {failure}"


def _fault(entry: CopiedFile, path: Path) -> str:
    try:
        found = os.lstat(path)
        if st.S_IFMT(found.st_mode) != st.S_IFMT(entry.mode):
            return "something else is in its place"
        if st.S_ISLNK(entry.mode) and os.readlink(path) != entry.target:
            return "it leads elsewhere"
        if entry.is_file and found.st_size != entry.size:
            return f"it has {found.st_size} bytes, not {entry.size}"
        if entry.is_file and copies.sum_of(path) != entry.sum:
            return "it is not what was copied"
    except OSError as failure:
        return os.strerror(failure.errno or 0)
    return ""
