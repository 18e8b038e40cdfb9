"""A store as the consistency check reads it: without the code that wrote it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agentfs.model.process import Agent, Process

__all__ = ["UNREADABLE", "Record", "StoreRows", "parse_record", "read_record"]

Record = dict[str, Any]

UNREADABLE = (TypeError, LookupError, ValueError, AttributeError, ArithmeticError)
"""Exceptions of reading a record that is not what it should be."""


class StoreRows:
    """One snapshot of the store at `path`. Of agents and processes `faults` says what cannot be
    read; every other record is looked at by the room that it is of."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path
        self.faults: list[str] = []
        self.meta: dict[str, str] = dict(connection.execute("SELECT key, value FROM meta"))
        self.agents: dict[str, Agent] = {}
        self.processes: dict[int, Process] = {}
        for name, text in self.read("SELECT name, record FROM agents"):
            self._keep(f"agent {name}", text, self.agents, name, lambda record: Agent(**record))
        for pid, text in self.read("SELECT pid, record FROM processes"):
            self._keep(f"process {pid}", text, self.processes, pid, Process.from_record)

    def _keep(
        self,
        what: str,
        text: str,
        found: dict[Any, Any],
        key: object,
        read: Callable[[Record], object],
    ) -> None:
        record = parse_record(text)
        if record is None:
            self.faults.append(f"{what}: the record is no JSON object")
        try:
            found[key] = read(record or {})
        except UNREADABLE as bad:
            self.faults.append(f"{what}: {bad!r}")

    def read(self, sql: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows that a SELECT finds."""
        return self._connection.execute(sql, values)

    def records(self, kind: str) -> Iterator[tuple[str, Record]]:
        """(key, record) of every record of a kind, by key."""
        query = "SELECT key, record FROM records WHERE kind = ? ORDER BY key"
        return ((key, read_record(text)) for key, text in self.read(query, (kind,)))

    def number(self, key: str) -> int | None:
        """A counter among the meta values; None if it is no number."""
        text = self.meta.get(key, "0")
        return int(text) if text.isascii() and text.isdigit() else None

    def lives(self, pid: int | str) -> bool:
        """Whether there is a living process of that number."""
        if isinstance(pid, str):
            pid = int(pid) if pid.isascii() and pid.isdigit() else 0
        process = self.processes.get(pid)
        return process is not None and process.state.alive


def parse_record(text: str) -> Record | None:
    """The record; None if it is no JSON object."""
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def read_record(text: str) -> Record:
    """The record; empty if it is none, so that what is missing from it is the fault."""
    return parse_record(text) or {}
