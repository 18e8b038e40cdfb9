"""The consistency check finds what is wrong with capabilities."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentfs.check import check
from agentfs.process.capabilities import ceiling_below
from tests.world import World

ABOVE = {"roles": ["agent"], "names": ["llm"], "tools": [["a*"]], "denied": ["memory"]}


@pytest.mark.parametrize(
    ("pid", "damage", "fault"),
    [
        (1, {"denied": ["llm"]}, "process 1 has everything"),
        (3, {"denied": ["fly"]}, "there is no capability 'fly'"),
        (3, {"allowed": ["spawner"]}, "there is no capability 'spawner'"),
        (3, {"ceiling": ABOVE | {"roles": ["boss"]}}, "of role 'boss'"),
        (3, {"ceiling": ABOVE | {"roles": ["kernel"]}}, "of role 'kernel'"),
        (3, {"ceiling": ABOVE | {"names": ["fly"]}}, "'fly' from above"),
        (3, {"ceiling": ABOVE | {"tools": [["[a]"]]}}, "there is no capability 'tool:[a]'"),
        (3, {"ceiling": ABOVE | {"denied": ["x"]}}, "there is no capability 'x'"),
        (3, {"ceiling": {"names": []}}, "process 3: KeyError('roles')"),
        (3, {"ceiling": ABOVE}, ""),
    ],
)
def test_what_no_kernel_wrote_is_found(
    tmp_path: Path, pid: int, damage: dict[str, Any], fault: str
) -> None:
    world = World(tmp_path)
    alice = world.process("alice")
    bob = world.process("bob", alice.pid)
    world.table.update(alice, allowed=("llm", "tool:*"), denied=("memory",))
    world.table.update(bob, ceiling=ceiling_below(alice), denied=("secret",))
    world.close()
    with closing(sqlite3.connect(tmp_path / "store.db")) as store, store:
        query = "SELECT record FROM processes WHERE pid = ?"
        record = json.loads(store.execute(query, (pid,)).fetchone()[0]) | damage
        query = "UPDATE processes SET record = ? WHERE pid = ?"
        store.execute(query, (json.dumps(record), pid))
    faults = check(tmp_path / "store.db")
    assert (faults[0] if faults else "") == fault or (fault and fault in faults[0])
