"""What the command line says of a state directory that a killed daemon left, its log not folded."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentfs.rights import acl
from agentfs.tools import doctor, state
from tests.storage import copy_store
from tests.world import UID, World

RULES = """\
rules:
  - {effect: deny, agent: bob, action: kill, path: /agents/bob}
  - {effect: deny, agent: ghost, action: kill, path: /agents/bob}
"""


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Path]:
    """bob, his process, two rules and the place of the mount are in the log alone."""
    world = World(tmp_path / "state")
    left = tmp_path / "left"
    left.mkdir()
    world.store.fold()
    world.process("bob")
    with world.store.transaction():
        world.store.set_meta("mountpoint", "/mnt/agents")
        world.store.set_meta(acl.FILE, RULES)
    copy_store(world.state, left)
    with closing(sqlite3.connect(left / "store.db")) as database:
        for table, column in (("agents", "name"), ("processes", "record"), ("meta", "value")):
            query = f"SELECT count(*) FROM {table} WHERE {column} LIKE ?"
            for word in ("%bob%", "/mnt/agents"):
                assert database.execute(query, (word,)).fetchone() == (0,), f"it is in {table}"
    yield left
    world.close()


def test_state_says_where_it_was_mounted_last(killed: Path) -> None:
    assert state._mountpoint(killed) == "/mnt/agents"


def test_doctor_knows_the_agents_and_the_rules(killed: Path) -> None:
    found = [finding.words for finding in doctor._names(killed)]
    assert found == ["/etc/acl.yaml: rule 2 speaks of ghost, and there is no such agent"]


def test_doctor_knows_whose_user_the_processes_run_as(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[int, str]] = []
    monkeypatch.setattr(doctor, "_starters", lambda uid, whose: said.append((uid, whose)) or ())
    assert list(doctor._same_user(killed)) == []
    assert said == [(UID, "bob run as the operator's user")]
