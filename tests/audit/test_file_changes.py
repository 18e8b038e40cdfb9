"""Records of what is done in /shared: gathered, bounded, and written a second later."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentfs.audit.file_changes import MOST_DIRECTORIES, MOST_PATHS, FileChanges
from tests.audit.world import ALICE, BOB, System


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with closing(System(tmp_path / "state")) as made:
        yield made
    assert made.verdict().startswith("ok ")


@pytest.fixture
def changes(system: System) -> FileChanges:
    return system.kernel.file_changes


def told(system: System) -> list[tuple[str, dict[str, Any]]]:
    """(actor, change) of the records on files."""
    return [
        (record["actor"]["name"], change)  # type: ignore[index]
        for record in system.records()
        for change in record["changes"]  # type: ignore[attr-defined]
        if change["type"] == "files_changed"
    ]


def wait(system: System, seconds: float) -> None:
    system.clock.advance(seconds)
    system.timers.run_due()


def test_what_one_actor_does_within_a_second_is_one_record(
    system: System, changes: FileChanges
) -> None:
    commits = system.store.commits
    for number in range(3):
        changes.add(ALICE, "created", f"/shared/{number}")
        changes.add(ALICE, "written", f"/shared/{number}")
        changes.add(ALICE, "written", f"/shared/{number}")
    changes.add(BOB, "renamed", "/shared/0", "/shared/\udc80")
    wait(system, 0.9)
    assert told(system) == []
    wait(system, 0.2)
    wait(system, 0.01)
    assert system.store.commits == commits + 2
    (alice, first), (bob, second) = told(system)
    assert (alice, bob) == ("alice", "bob")
    assert first["files"] == [
        {"path": f"/shared/{number}", "did": ["created", "written"]} for number in range(3)
    ]
    assert (first["pid"], first["more"]) == (2, [])
    assert second["files"] == [{"path": "/shared/0", "did": ["renamed"], "to": "/shared/\udc80"}]
    wait(system, 100)
    assert len(told(system)) == 2, "nothing was done, and nothing is written"
    assert len(system.timers) == 0


def test_who_goes_on_has_one_record_a_second(system: System, changes: FileChanges) -> None:
    for number in range(100):
        changes.add(ALICE, "written", f"/shared/{number}")
        wait(system, 0.1)
    changes.flush()
    assert 9 <= len(told(system)) <= 11
    assert sum(len(change["files"]) for _, change in told(system)) == 100


def test_a_record_is_bounded_and_counts_what_it_does_not_name(
    system: System, changes: FileChanges
) -> None:
    for number in range(10_000):
        changes.add(ALICE, "created", f"/shared/{number % 100}/{'n' * 50}{number}")
        changes.add(ALICE, "mode 0644", f"/shared/{number % 100}/{'n' * 50}{number}")
    wait(system, 1.1)
    ((_, change),) = told(system)
    assert len(change["files"]) == MOST_PATHS
    assert len(change["more"]) == MOST_DIRECTORIES + 1
    assert change["more"][-1]["below"] == "/shared"
    for what in ("created", "mode"):
        counted = sum(more["did"][what] for more in change["more"])
        assert counted + MOST_PATHS == 10_000
    assert len(json.dumps(change)) < 20_000


def test_what_cannot_be_written_is_written_later(system: System, changes: FileChanges) -> None:
    def fail() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    system.store.before_commit.append(fail)
    changes.add(ALICE, "removed", "/shared/a")
    wait(system, 1.1)
    changes.add(ALICE, "removed", "/shared/b")
    wait(system, 1.1)
    system.store.before_commit.remove(fail)
    assert told(system) == []
    wait(system, 1.1)
    ((_, change),) = told(system)
    assert [file["path"] for file in change["files"]] == ["/shared/a", "/shared/b"]


def test_at_the_end_everything_is_written(system: System, changes: FileChanges) -> None:
    changes.add(ALICE, "created", "/shared/a")
    changes.add(BOB, "created", "/shared/b")
    changes.flush()
    assert [name for name, _ in told(system)] == ["alice", "bob"]
