"""Faults of the reminders in a store, and of their figures."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.mail.message import number_of
from agentfs.reminders import counts, reminder_table
from agentfs.reminders.schedule import parse
from agentfs.store.opening import LAST_EVENT
from agentfs.store.rows import UNREADABLE, StoreRows

__all__ = ["faults"]


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    last = rows.number(LAST_EVENT)
    for key, record in rows.records(reminder_table.KIND):
        if not number_of(key):
            yield f"reminder {key}: its key is no number"
        elif last is not None and number_of(key) > last:
            yield f"reminder {key}: the last event has number {last} only"
        yield from (f"reminder {key}: {fault}" for fault in _reminder(record, rows.agents))
    for key, record in rows.records(counts.KIND):
        yield from (f"figures {key} of reminders: {fault}" for fault in _row(record, rows.agents))


def _reminder(record: dict[str, Any], agents: Container[str]) -> Iterator[str]:
    try:
        if record["agent"] not in agents:
            yield f"there is no agent {record['agent']}"
        for moment in ("set", "next"):
            rfc3339(record[moment])
        if not record["set"] <= record["next"]:
            yield "it is for a time before it was set"
        if record["fired"] < 0 or (record["fired"] and record["kind"] != "cron"):
            yield f"it has fired {record['fired']} times"
        if (record["message"] is None) != (record["fired"] == 0):
            yield f"its last message is {record['message']}, having fired {record['fired']} times"
        quote = '"' if record["kind"] == "cron" else ""
        line = f"{record['kind']} {quote}{record['expression']}{quote} {record['text']}"
        parse(line)[0].after(record["next"])
    except KernelError as bad:
        yield bad.reason
    except (*UNREADABLE, OSError) as bad:
        yield f"its record cannot be read: {bad!r}"


def _row(record: dict[str, Any], agents: Container[str]) -> Iterator[str]:
    try:
        if record["agent"] not in agents:
            yield f"there is no agent {record['agent']}"
        if not 0 <= record["successes"] <= record["attempts"] or record["minute"] < 0:
            yield f"{record['successes']} of {record['attempts']} succeeded"
    except UNREADABLE as bad:
        yield f"the record cannot be read: {bad!r}"
