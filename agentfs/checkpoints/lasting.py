"""What never goes back: the store of a checkpoint gets it from the store in whose place it comes.

The audit, the accounting, what was used of budgets and limits, and every counter: pids, numbers of
agents, calls and approvals, of events, and with those of messages. So no number means two things.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentfs.audit.audit_table import HEAD
from agentfs.quota import lasting as quota
from agentfs.store.migrations import migrate
from agentfs.store.opening import LAST_EVENT
from agentfs.store.rows import StoreRows

__all__ = ["KIND", "ROLLED_BACK", "carry"]

KIND = "checkpoint"
"""The records of what is known of checkpoints."""

ROLLED_BACK = "rolled_back"
"""The meta value that says to which checkpoint, in JSON, until it was told."""

TABLES = ("audit", "checkpoints", "uses", "usage", "turn_days", "tool_days")
"""Tables that stay: the audit with its signatures, and the books."""

METAS = (HEAD, "instance", "home", "mountpoint")
"""Meta values that stay. Of those that are numbers, which are counters, the higher one stays."""


def carry(present: Path, checkpoint: Path, plan: dict[str, Any]) -> None:
    """Complete the copied store at `checkpoint` with what stays of the one at `present`, in one
    transaction. Does nothing if that is done. Raises sqlite3.Error and what is wrong in a store."""
    with closing(sqlite3.connect(checkpoint, isolation_level=None)) as target:
        migrate(target)
        query = "SELECT 1 FROM meta WHERE key = ? AND value != ''"
        if target.execute(query, (ROLLED_BACK,)).fetchone():
            return
        target.execute("ATTACH ? AS present", (f"{present.absolute().as_uri()}?mode=ro",))
        target.execute("BEGIN IMMEDIATE")
        for table in TABLES:
            target.execute(f"DELETE FROM main.{table}")  # noqa: S608  # names of ours
            target.execute(f"INSERT INTO main.{table} SELECT * FROM present.{table}")  # noqa: S608
        _carry_records(target, present, checkpoint)
        _carry_metas(target, plan)
        target.execute("COMMIT")


def _carry_metas(target: sqlite3.Connection, plan: dict[str, Any]) -> None:
    then: dict[str, str] = dict(target.execute("SELECT key, value FROM main.meta"))
    now: dict[str, str] = dict(target.execute("SELECT key, value FROM present.meta"))
    kept = {key: now[key] for key in METAS if key in now}
    for key, value in now.items():
        if key not in METAS and _is_number(value) and _is_number(then.get(key, "0")):
            kept[key] = str(max(int(value), int(then.get(key, "0"))))
    kept["boot_id"] = ""  # no program that ran then runs now, as after a start of the machine
    kept[ROLLED_BACK] = json.dumps(plan | {"last": int(now.get(LAST_EVENT, "0"))})
    target.executemany("INSERT OR REPLACE INTO main.meta VALUES (?, ?)", kept.items())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _carry_records(target: sqlite3.Connection, present: Path, checkpoint: Path) -> None:
    with (
        closing(sqlite3.connect(f"{present.absolute().as_uri()}?mode=ro", uri=True)) as later,
        closing(sqlite3.connect(f"{checkpoint.absolute().as_uri()}?mode=ro", uri=True)) as earlier,
    ):
        now, then = StoreRows(later, present), StoreRows(earlier, checkpoint)
        changes = list(quota.lasting(then, now))
        processes = [
            replace(process, tokens=max(process.tokens, now.processes[pid].tokens))
            for pid, process in then.processes.items()
            if pid in now.processes
        ]
    for kind, key, record in changes:
        if record is None:
            target.execute("DELETE FROM main.records WHERE kind = ? AND key = ?", (kind, key))
        else:
            row = kind, key, json.dumps(record)
            target.execute("INSERT OR REPLACE INTO main.records VALUES (?, ?, ?)", row)
    for process in processes:
        text = json.dumps(process.record())
        target.execute("UPDATE main.processes SET record = ? WHERE pid = ?", (text, process.pid))
    target.execute("DELETE FROM main.records WHERE kind = ?", (KIND,))
    target.execute("INSERT INTO main.records SELECT * FROM present.records WHERE kind = ?", (KIND,))
