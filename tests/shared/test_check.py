"""The consistency check finds what is wrong with queues."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agentfs.check import check
from tests.shared.test_queues import QueueWorld
from tests.world import OPERATOR


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda record: None, "there is no queue jobs"),
        (lambda record: record | {"owner": "nobody"}, "queue jobs: there is no agent nobody"),
        (lambda record: record | {"limit": 0}, "queue jobs: 0 messages may wait in it"),
    ],
)
def test_a_damaged_queue_is_found(
    tmp_path: Path, damage: Callable[[dict[str, object]], dict[str, object] | None], fault: str
) -> None:
    world = QueueWorld(tmp_path)
    world.queue()
    world.put("init")
    world.queues.set_limit(OPERATOR, "jobs", 5)
    world.close()
    with closing(sqlite3.connect(tmp_path / "store.db")) as store, store:
        where = "WHERE kind = 'queue' AND key = 'jobs'"
        (text,) = store.execute(f"SELECT record FROM records {where}").fetchone()
        damaged = damage(json.loads(text))
        if damaged is None:
            store.execute(f"DELETE FROM records {where}")
        else:
            store.execute(f"UPDATE records SET record = ? {where}", (json.dumps(damaged),))
    faults = check(tmp_path / "store.db")
    assert len(faults) == 1
    assert fault in faults[0]
