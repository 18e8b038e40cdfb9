"""Faults of the turns in a store, and of their figures."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from agentfs.base.clock import rfc3339
from agentfs.store.rows import UNREADABLE, StoreRows
from agentfs.turns import turns
from agentfs.turns.turns import WorkTurn

__all__ = ["faults"]


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    working: set[int] = set()
    for key, record in rows.records(turns.KIND):
        yield from (f"turn {key}: {fault}" for fault in _turn(key, record, rows.agents))
        if record.get("ended") is None:
            pid = record.get("pid", 0)
            if not rows.lives(pid):
                yield f"turn {key}: it is under way, and process {pid} is not alive"
            if pid in working:
                yield f"turn {key}: process {pid} is in another one, too"
            working.add(pid)
    for agent, day, count, failed, seconds in rows.read("SELECT * FROM turn_days"):
        if agent not in rows.agents:
            yield f"turns of {day}: there is no agent {agent}"
        if not 0 <= failed <= count or seconds < 0:
            yield f"turns of {agent} on {day}: {failed} of {count} failed, in {seconds} s"
    for agent, day, tool, calls in rows.read("SELECT * FROM tool_days"):
        if agent not in rows.agents or calls < 1:
            yield f"tools of {day}: {agent} called {tool} {calls} times"


def _turn(key: str, record: dict[str, Any], agents: Container[str]) -> Iterator[str]:
    try:
        turn = WorkTurn(**record)
        if key != f"{turn.agent}/{turn.number:012d}":
            yield f"it is turn {turn.number} of {turn.agent}"
        if turn.agent not in agents:
            yield f"there is no agent {turn.agent}"
        rfc3339(turn.began)
        if turn.ended is not None and turn.ended < turn.began:
            yield "it ended before it began"
        if min(turn.input, turn.output, turn.calls, turn.tool_calls) < 0:
            yield "it used less than nothing"
    except (*UNREADABLE, OSError) as bad:
        yield f"its record cannot be read: {bad!r}"
