"""The consistency check of asks and threads: each fault is found, and said in words."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agentfs.check import check
from tests.world import World


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """alice has an open question (1), an answered one (2, by 3) and an expired one (the last)."""
    world = World(tmp_path)
    for name in ("alice", "bob"):
        world.process(name)
    alice = world.principal("alice")
    for _ in range(2):
        world.asks.ask(alice, "alice", b"To: bob\nReply-By: 1h\n\nhow?")
    second = sorted(world.asks.of("alice"))[1]
    world.send("bob", "alice", f"In-Reply-To: {second}\n\nthus")
    world.asks.ask(alice, "alice", b"To: bob\nReply-By: 1m\n\nhow?")
    world.clock.advance(60)
    world.timers.run_due()
    states = [ask.state.value for _, ask in sorted(world.asks.of("alice").items())]
    assert states == ["open", "answered", "expired"]
    world.close()
    return tmp_path / "store.db"


def ids(connection: sqlite3.Connection) -> list[str]:
    query = "SELECT key FROM records WHERE kind = 'ask' ORDER BY key"
    return [key for (key,) in connection.execute(query)]


CHANGES = [
    ("ask", 0, {"asker": "nobody"}, "there is no agent nobody"),
    ("ask", 0, {"state": "strange"}, "its record cannot be read"),
    ("ask", 0, {"deadline": 1.0}, "its answer was due before it was asked"),
    ("ask", 0, {"questions": {}}, "nobody is asked"),
    ("ask", 0, {"questions": {"99": "bob"}}, "no message that waits for a reply"),
    ("ask", 0, {"state": "expired"}, "was closed at 0.0"),
    ("ask", 0, {"state": "cancelled", "closed": 1.0}, "it is cancelled"),
    ("ask", 1, {"answer": 0}, "it is answered, and its answer is message 000000000000"),
    ("ask", 2, {"state": "answered", "answer": 3}, ".answer: it is missing"),
    ("message", 0, {"awaited": False}, "no message that waits for a reply"),
    ("message", 1, {"awaited": True}, "no ask waits for a reply to it"),
    ("message", 0, {"lapsed": True}, "no ask waits for a reply to it"),
    ("message", 1, {"thread": [999]}, "it cannot follow the messages [999]"),
    ("message", 1, {"thread": [1, 1]}, "it cannot follow the messages [1, 1]"),
]


@pytest.mark.parametrize(("kind", "which", "change", "words"), CHANGES)
def test_a_fault_is_found(
    path: Path, kind: str, which: int, change: dict[str, object], words: str
) -> None:
    assert check(path) == []
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        key = ids(database)[which]
        if kind == "ask":
            query = "SELECT record FROM records WHERE kind = 'ask' AND key = ?"
            (text,) = database.execute(query, (key,)).fetchone()
            changed = json.dumps(json.loads(text) | change)
            database.execute(
                "UPDATE records SET record = ? WHERE kind = 'ask' AND key = ?", (changed, key)
            )
        else:
            query = "SELECT record FROM messages WHERE seq = ?"
            (text,) = database.execute(query, (int(key),)).fetchone()
            changed = json.dumps(json.loads(text) | change)
            database.execute("UPDATE messages SET record = ? WHERE seq = ?", (changed, int(key)))
    found = check(path)
    assert any(words in fault for fault in found), found


def test_texts_are_those_of_the_asks(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        key = ids(database)[0]
        database.execute(
            "UPDATE records SET key = '9.question' WHERE kind = 'ask-text' AND key = ?",
            (f"{key}.question",),
        )
    assert check(path) == [
        f"ask text {key}.question: it is missing",
        "ask text 9.question: it belongs to no ask",
    ]
