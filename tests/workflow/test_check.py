"""The consistency check finds every fault of runs that is planted, and none in a sound store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agentfs.check import check
from tests.workflow.lab import Lab, data, node
from tests.world import OPERATOR


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an ended run, 2, whose output is a file, and an open one, 3, that waits."""
    lab = Lab(tmp_path_factory.mktemp("sound") / "state")
    lab.run(data("a", ["x" * 100] * 1000), data("b", 1))
    run = lab.run(node("w", "wait", spec_event_key="k"), node("z", needs="w"))
    lab.runs.signal(OPERATOR, run.id, "other", 1)
    lab.close()
    return lab.world.state / "store.db"


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ("UPDATE runs SET ended = 1 WHERE id = 3", "run 3: it is suspended, and has ended"),
        ("UPDATE runs SET state = 'running' WHERE id = 2", "run 2: it is running, and has ended"),
        ("UPDATE runs SET record = '[]' WHERE id = 2", "run 2: its record cannot be read"),
        ("UPDATE runs SET state = 'odd' WHERE id = 2", "run 2: its record cannot be read"),
        ("UPDATE runs SET plan_hash = 'x' WHERE id = 2", "run 2: there is no plan x of it"),
        ("UPDATE plans SET record = '{\"q\":1}'", "it cannot be read"),
        ("DELETE FROM runs WHERE id = 2", "node a of run 2: there is no such run"),
        ("DELETE FROM runs WHERE id = 3", "process 3: it is that of a run"),
        ("DELETE FROM processes WHERE pid = 3", "run 3: it is suspended, and has no living"),
        ("DELETE FROM run_nodes WHERE run = 3", "run 3: it is suspended, and none of its nodes"),
        ("UPDATE run_nodes SET state = 'running' WHERE path = 'a'", "node a of run 2: it is run"),
        ("UPDATE run_nodes SET record = '{\"q\":1}' WHERE path = 'a'", "its row cannot be read"),
        ("UPDATE run_nodes SET wait = 'q' WHERE path = 'a'", "node a of run 2: it is completed, a"),
        ("UPDATE run_nodes SET path = 'c' WHERE path = 'a'", "node c of run 2: the plan has no"),
        ("UPDATE run_nodes SET path = 'a/0/b' WHERE path = 'a'", "the plan has no such node"),
        (
            "UPDATE run_nodes SET output = replace(output, 'artifacts/a', 'artifacts/q')",
            "node a of run 2: its output q is gone",
        ),
        ("DELETE FROM run_events WHERE run = 2 AND seq = 2", "have the numbers 1 to 4"),
        ("DELETE FROM run_events WHERE run = 2", "run 2: it has ended, and has no events"),
        ("DELETE FROM run_events WHERE run = 2 AND seq = 4", "and 0 of its events say its end"),
        ("UPDATE run_events SET run = 9 WHERE run = 2", "events of run 9: there is no such run"),
        (
            "UPDATE records SET key = '2/k' WHERE kind = 'signal'",
            "signal 2/k: there is no open run",
        ),
        (
            "UPDATE records SET record = '{\"run\":3,\"values\":[]}' WHERE kind = 'signal'",
            "signal 3/other: it has no value",
        ),
        ("INSERT INTO records VALUES ('breaker', 'b', '{}')", "breaker b: its record does not say"),
    ],
)
def test_a_planted_fault_is_found(store: Path, tmp_path: Path, planted: str, words: str) -> None:
    assert check(store) == []
    copy = tmp_path / "store.db"
    with closing(sqlite3.connect(store)) as sound, closing(sqlite3.connect(copy)) as spoiled:
        sound.backup(spoiled)
        spoiled.execute(planted)
        spoiled.commit()
    (tmp_path / "runs").symlink_to(store.parent / "runs")
    found = check(copy)
    assert any(words in fault for fault in found), found
