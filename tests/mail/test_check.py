"""The consistency check of broadcasts, dead letters and their counts."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agentfs.check import check
from agentfs.mail.message import Draft
from agentfs.model.process import Role
from tests.world import World


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """alice's broadcast has number 1, with copies for bob (2, a dead letter), carol (3, done)
    and init (4); message 5 was put back."""
    world = World(tmp_path)
    world.settings.replace("messages: {max_delivery_attempts: 1}")
    for name in ("alice", "bob", "carol"):
        world.process(name, role=Role.DAEMON)
    draft = Draft.parse(b"to all", now=world.clock.now(), to="*")
    world.mail.send(world.principal("alice"), "alice", draft)
    for name, code in (("bob", 1), ("carol", 0)):
        world.recv(name)
        process = world.table.by_name(name)
        assert process is not None
        world.end(process, code, restart=True)
    back = world.send("alice", "bob")
    world.recv("bob")
    bob = world.table.by_name("bob")
    assert bob is not None
    world.end(bob, 1, restart=True)
    world.mail.delivery.revive(world.principal("bob"), "bob", back.id, "again")
    world.close()
    return tmp_path / "store.db"


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (
            "UPDATE messages SET record = json_remove(record, '$.tally') WHERE seq = 1",
            "message 000000000001 in new/ of *: it is to everybody, and its count is None",
        ),
        (
            "UPDATE messages SET record = json_set(record, '$.tally.lost', 1) WHERE seq = 1",
            "it is to everybody, and its count is",
        ),
        (
            "UPDATE messages SET record = '[' WHERE seq = 1",
            "message 000000000001 in new/ of *: it is to everybody, and its count is None",
        ),
        (
            "UPDATE messages SET filename = 'x' WHERE seq = 1",
            "a broadcast has no place but new/000000000001",
        ),
        (
            "DELETE FROM messages WHERE seq = 4",
            "broadcast 000000000001: 0 copies wait, and it counts 1",
        ),
        (
            "UPDATE messages SET record = json_set(record, '$.tally.done', 0) WHERE seq = 1",
            "broadcast 000000000001: 1 copies wait, and it counts 2",
        ),
        (
            "UPDATE messages SET state = 'done', filename = '' WHERE seq = 1",
            "broadcast 000000000001: it is done, and 1 copies wait",
        ),
        (
            "UPDATE messages SET record = json_remove(record, '$.unlisted') WHERE seq = 2",
            "a copy of a broadcast is unlisted, and gone once it is finished",
        ),
        (
            "UPDATE messages SET record = json_remove(record, '$.reason') WHERE seq = 2",
            "message 000000000002 in dead/ of bob: it is a dead letter without a reason",
        ),
        (
            "UPDATE messages SET record = json_set(record, '$.revived', 2) WHERE seq = 5",
            "it was put back after attempt 2, and this is number 2",
        ),
    ],
)
def test_each_fault_is_found_and_named(path: Path, harm: str, fault: str) -> None:
    assert check(path) == []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(harm).rowcount == 1
    assert fault in "\n".join(check(path))


def test_a_broadcast_that_nobody_keeps_any_more_is_no_fault(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM messages WHERE seq IN (1, 4)")
    assert check(path) == []
