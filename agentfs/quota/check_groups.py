"""What must hold of the groups in a store."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping

from agentfs.model.process import Process
from agentfs.store.rows import Record, records

__all__ = ["group_faults"]

COUNTS = ("tokens", "tokens_hits", "pids_hits")


def group_faults(connection: sqlite3.Connection, processes: Mapping[int, Process]) -> Iterator[str]:
    """Whether groups are within groups, processes in groups that there are, and what a group has
    used at least what those below it have, and what open calls hold in it."""
    groups: dict[str, Record] = {}
    for path, record in records(connection, "group"):
        groups[path] = record
        for name in COUNTS:
            if not _is_count(record.get(name)):
                yield f"group {path}: {name} is {record.get(name)}"
        for name in ("tokens_max", "pids_max"):
            if record.get(name) is not None and not _is_count(record.get(name)):
                yield f"group {path}: {name} is {record.get(name)}"
    for process in processes.values():
        if process.state.alive and process.group and process.group not in groups:
            yield f"process {process.pid}: there is no group {process.group}"
    least: Counter[str] = Counter()
    for pid, record in records(connection, "group holds"):
        holder = processes.get(int(pid)) if pid.isdecimal() else None
        if holder is None or not holder.state.alive:
            yield f"process {pid}, which holds tokens of groups, is no living process"
        for path, tokens in record.get("holds", ()):
            least[path] += tokens
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


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0
