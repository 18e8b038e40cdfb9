"""The consistency check finds every token that is not where it should be."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentfs.check import check
from tests.quota.budget_world import World


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A lead (2) with 5000 tactical tokens, 1000 of which its worker (3) has, with a call open."""
    world = World(tmp_path / "state")
    lead = world.child("lead", role="lead", tier="tactical", budget={"tactical": 5000})
    worker = world.child("worker", lead, budget={"tactical": 1000})
    world.use(worker, 900)
    world.llm(worker, 50)
    world.close()
    return tmp_path / "state"


def damage(state: Path, kind: str, key: str, fields: dict[str, Any]) -> list[str]:
    """Change fields of a record, or delete it, and check."""
    with closing(sqlite3.connect(state / "store.db")) as store, store:
        where = "WHERE kind = ? AND key = ?"
        if not fields:
            store.execute(f"DELETE FROM records {where}", (kind, key))
        else:
            query = f"SELECT record FROM records {where}"
            (text,) = store.execute(query, (kind, key)).fetchone()
            record = json.dumps(json.loads(text) | fields)
            store.execute(f"UPDATE records SET record = ? {where}", (record, kind, key))
    return check(state / "store.db")


@pytest.mark.parametrize(
    ("kind", "key", "fields", "fault"),
    [
        ("budget", "3/tactical", {"allocated": 2000}, "1000 are granted, and 2000 are"),
        ("budget", "2/tactical", {"granted": 0}, "0 are granted, and 1000 are"),
        ("budget", "3/tactical", {"held": 49}, "49 are held by open calls, and 50 are"),
        ("budget", "3/tactical", {"consumed": -1}, "consumed is -1"),
        ("budget", "3/tactical", {"allocated": "much"}, "its record cannot be read"),
        ("budget", "3/tactical", {"pid": 9}, "its record is of 9/tactical"),
        ("budget", "3/tactical", {"pid": 9}, "its owner is no living process"),
        ("budget", "3/tactical", {"grantor": 0}, "it is granted by process 0"),
        ("budget", "2/tactical", {"grantor": 3}, "the line of its grantors is a circle"),
        ("budget", "2/tactical", {}, "its grantor 2 has none"),
        ("budget", "2/tactical", {"tier": "highest"}, "its record cannot be read"),
        ("call", "2", {}, "50 are held by open calls, and 0 are"),
        ("call", "2", {"output": 51}, "50 are held by open calls, and 51 are"),
        ("call", "2", {"pid": 9}, "process 9, which made it, is no living process"),
        ("call", "2", {"source": 9}, "open calls hold 50 of it, and there is none"),
        ("call", "2", {"kind": 5, "x": 1}, "its record cannot be read"),
        ("call", "2", {"input": -50, "output": 100}, "call 2: it holds input -50"),
        ("call", "2", {"cost": -1}, "call 2: it holds cost -1"),
        ("call", "2", {"relay": {"provider": "x", "output": -1}}, "-1 tokens of it have come"),
        ("call", "2", {"relay": {"provider": "x", "more": 1}}, "its record cannot be read"),
        (
            "call",
            "2",
            {"relay": {"provider": "x"}, "parts": {"Groups": [1, 1]}},
            "meters hold other parts of it",
        ),
    ],
)
def test_each_fault_is_found(
    state: Path, kind: str, key: str, fields: dict[str, Any], fault: str
) -> None:
    assert check(state / "store.db") == []
    found = damage(state, kind, key, fields)
    assert any(fault in each for each in found), found


def test_marks_of_nobody_are_found(state: Path) -> None:
    with closing(sqlite3.connect(state / "store.db")) as store, store:
        store.execute("UPDATE records SET key = '9' WHERE kind = 'marks'")
    assert check(state / "store.db") == ["marks 9: there is no such living process"]
