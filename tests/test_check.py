"""The consistency check: silent about what is sound, plain about what is not."""

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from agentfs.check import check
from agentfs.kernel import Kernel
from agentfs.store.migrations import LATEST
from agentfs.store.store import Store
from agentfs.tools.repair import trial
from tests.world import OPERATOR, World


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A system that has seen some use, put down cleanly."""
    world = World(tmp_path)
    lead = world.process("lead")
    world.process("worker", lead.pid)
    world.process("other", lead.pid)
    world.agent("ghost")
    for text in ("short", "long" * 5000):
        world.send("worker", "other", text)
        world.send("lead", "ghost", text)
    world.recv("other")
    with world.store.transaction():
        owned = {"owner": "lead", "uid": 1, "gid": 1, "mode": 0o666, "changed": 1}
        world.store.put_record("topic", "news", owned)
        for number in (3, 4, 5):
            record = {"time": 1.5, "from": "lead"}
            world.store.put_publication("news", number, record, b"hello")
    world.close()
    return tmp_path / "store.db"


@pytest.fixture
def database(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def test_a_sound_store_has_no_faults(path: Path) -> None:
    assert check(path) == []


def test_an_agent_may_be_removed_before_somebody_waits_for_its_ended_process(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    brief = world.process("brief")
    world.end(brief, 0)
    world.agents.remove(OPERATOR, "brief")
    world.close()
    assert check(tmp_path / "store.db") == []


def test_a_fresh_store_has_no_faults(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    assert check(store.path) == []
    store.close()


def test_the_check_works_beside_a_running_system_and_sees_what_is_committed(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    with world.store.transaction():
        world.store.set_meta("event_seq", "nonsense")
        assert check(world.store.path) == []
    assert check(world.store.path) == ["meta: event_seq is 'nonsense', no number"]
    with world.store.transaction():
        world.store.set_meta("event_seq", "7")
    world.close()


def test_the_check_writes_nothing(path: Path) -> None:
    before = path.read_bytes()
    check(path)
    assert path.read_bytes() == before


def test_what_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "a name with ? and % and #.db"
    assert check(path) == [f"there is no store at {path}"]
    path.write_bytes(b"x" * 10_000)
    [fault] = check(path)
    assert "cannot be read" in fault
    path.write_bytes(b"")
    assert check(path) == [f"the schema is number 0, this release has {LATEST}"]


def test_damage_is_found(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 6000] = os.urandom(6000)
    path.write_bytes(data)
    assert check(path) != []


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("PRAGMA user_version = 99", "the schema is number 99"),
        ("UPDATE meta SET value = 'x' WHERE key = 'event_seq'", "event_seq is 'x'"),
        ("UPDATE meta SET value = '1' WHERE key = 'last_pid'", "last_pid is 1, but there is"),
        ("INSERT INTO meta VALUES ('config', 'nonsense: 1')", "the configuration is wrong"),
        ("INSERT INTO meta VALUES ('roles.yaml', 'x: 1')", "/etc/roles.yaml is wrong"),
        ("INSERT INTO meta VALUES ('acl.yaml', 'x: 1')", "/etc/acl.yaml is wrong"),
        ("UPDATE agents SET record = '[' WHERE name = 'lead'", "agent lead: the record is no JSON"),
        ("UPDATE agents SET record = '{}' WHERE name = 'lead'", "agent lead: "),
        ("DELETE FROM agents WHERE name = 'lead'", "process 2: there is no agent lead"),
        ("DELETE FROM agents WHERE name = 'ghost'", "of ghost: there is no such agent"),
        ("DELETE FROM processes WHERE pid = 2", "process 3: its parent 2 does not exist"),
        ("DELETE FROM processes WHERE pid = 4", "which has claimed it, is no living process"),
        ("UPDATE processes SET record = '{}' WHERE pid = 2", "process 2: "),
        (
            "UPDATE processes SET record = json_set(record, '$.wings', 2) WHERE pid = 2",
            "process 2: AttributeError",
        ),
        ("UPDATE processes SET pid = 9 WHERE pid = 4", "process 9: its record says pid 4"),
        (
            """UPDATE processes SET record = replace(record, '"ppid":2', '"ppid":4')
            WHERE pid = 4""",
            "process 4: its line of parents is a circle",
        ),
        (
            """UPDATE processes SET record = replace(record, 'agent', 'kernel') WHERE pid = 2""",
            "process 2 has role kernel",
        ),
        (
            "UPDATE processes SET record = json_set(record, '$.state', 'zombie') WHERE pid = 2",
            "process 3 lives and its parent 2 does not",
        ),
        (
            """UPDATE processes SET record = replace(record, 'other', 'worker') WHERE pid = 4""",
            "2 living processes are named worker",
        ),
        ("UPDATE messages SET filename = 'x' WHERE mailbox = 'ghost'", "2 messages are new/x"),
        ("UPDATE messages SET record = '1' WHERE seq = 1", "the record is no JSON object"),
        ("UPDATE messages SET content = x'' WHERE seq = 1", "its content has another number"),
        (
            "UPDATE messages SET record = replace(record, 'worker', 'eve')",
            "its content is not from eve",
        ),
        (
            """UPDATE messages SET record = replace(record, '}', ',"attempt":0}')""",
            "its attempt is number 0",
        ),
        ("UPDATE messages SET state = 'new' WHERE state = 'cur'", "though it is not in cur/"),
        ("UPDATE messages SET seq = 9999 WHERE seq = 1", "the last event has number"),
        ("DELETE FROM messages WHERE mailbox = 'ghost'", "a content is left of message"),
        (
            """UPDATE messages SET content = 'x' WHERE seq IN (SELECT seq FROM long_contents)""",
            "its content is there twice",
        ),
        ("DELETE FROM records WHERE kind = 'topic'", "record 3 of topic news: there is no such"),
        (
            "UPDATE records SET record = replace(record, 'lead', 'eve') WHERE kind = 'topic'",
            "topic news: there is no agent eve, who owns it",
        ),
        (
            "DELETE FROM publications WHERE seq = 4",
            "record 5 of topic news: the one before it has number 3",
        ),
        (
            "UPDATE publications SET seq = 0 WHERE seq = 3",
            "record 0 of topic news: the one before it has number 0",
        ),
        (
            "UPDATE publications SET record = '{}' WHERE seq = 3",
            "record 3 of topic news: it does not say when and by whom",
        ),
    ],
)
def test_each_fault_is_found_and_named(
    path: Path, database: sqlite3.Connection, statement: str, fault: str
) -> None:
    database.execute(statement)
    assert [line for line in check(path) if fault in line], check(path)


def test_a_store_that_cannot_be_opened_is_said_to_be_so(path: Path) -> None:
    if os.geteuid() == 0:
        path.unlink()
        path.mkdir()
    else:
        path.chmod(stat.S_IWUSR)
    [fault] = check(path)
    assert "cannot be read" in fault


KINDS = (
    *("approval", "artifact", "ask", "branch", "budget", "call", "ended", "group", "group holds"),
    *("held", "marks", "queue", "reminder", "reminder-count", "spent", "topic"),
)
NUMBERS = ("event_seq", "last_agent", "last_approval", "last_call", "last_pid", "audit_dropped")
DOCUMENTS = ("config", "roles.yaml", "acl.yaml", "models.yaml")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of a system that was put down."""
    state = tmp_path_factory.mktemp("fresh")

    async def start() -> None:
        kernel = Kernel(state, "/nowhere")
        kernel.load()
        kernel.store.close()

    trio.run(start)
    return state


@pytest.mark.parametrize(
    "damage",
    [("INSERT INTO records VALUES (?, ?, ?)", (kind, "1", "{}")) for kind in KINDS]
    + [("INSERT INTO records VALUES (?, ?, ?)", (kind, "1", '{"owner": "init"}')) for kind in KINDS]
    + [("INSERT INTO records VALUES (?, ?, ?)", (kind, "x", '{"x": 1}')) for kind in KINDS]
    + [("INSERT INTO agents VALUES (?, ?)", ("x", '{"x": 1}'))]
    + [("INSERT INTO processes VALUES (?, ?)", (9, '{"pid": 9}'))]
    + [("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, "x")) for key in NUMBERS]
    + [("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, "x: [")) for key in DOCUMENTS],
    ids=lambda damage: "-".join(map(str, damage[1])),
)
def test_a_store_with_which_no_daemon_starts_is_not_sound(
    fresh: Path, tmp_path: Path, damage: tuple[str, tuple[object, ...]]
) -> None:
    state = tmp_path / "state"
    shutil.copytree(fresh, state)
    assert check(state / "store.db") == []
    with closing(sqlite3.connect(state / "store.db", isolation_level=None)) as database:
        database.execute(*damage)
    refused = trial(state / "store.db", state / "audit.key")
    assert not refused or check(state / "store.db")
