"""Tables of records: in memory and in the store at once, and undone in both."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

from agentfs.base.buckets import TokenBuckets
from agentfs.base.clock import ManualClock
from agentfs.base.errors import KernelError
from agentfs.base.windows import MINUTE, Window
from agentfs.store.records import (
    Index,
    Records,
    add_to,
    keep_fields,
    keep_item,
    keep_member,
    take_from,
)
from agentfs.store.store import AGENTS, PROCESSES, Store

Key = tuple[int, str]


@dataclass(slots=True, eq=False)
class Thing:
    """Owned by one, with so many uses."""

    number: int
    tier: str
    owner: str | None
    used: int = 0
    unkept: list[int] = field(default_factory=list)

    @property
    def key(self) -> Key:
        return self.number, self.tier

    def record(self) -> dict[str, Any]:
        return {"owner": self.owner, "used": self.used}

    @classmethod
    def read(cls, name: str, record: dict[str, Any]) -> tuple[Key, Thing]:
        number, _, tier = name.partition("/")
        return (int(number), tier), cls(int(number), tier, **record)


class Table:
    """A table with two indexes, of which it is known what they were told."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.heard: list[tuple[str, Key]] = []
        self.records: Records[Key, Thing] = Records(
            store, "thing", Thing.read, Thing.record, lambda key: f"{key[0]}/{key[1]}"
        )
        self.by_owner: Index[str, Key, Thing] = self.records.index(
            lambda thing: thing.owner, "owner"
        )
        self.records.follow(
            lambda key, _: self.heard.append(("entered", key)),
            lambda key, _: self.heard.append(("left", key)),
            ["owner"],
        )
        self.records.load()
        self.heard.clear()

    def put(self, number: int, owner: str | None, tier: str = "a") -> Thing:
        thing = Thing(number, tier, owner)
        self.records.put(thing.key, thing)
        return thing

    def seen(self) -> dict[str, Any]:
        """All that can be seen of it."""
        return {
            "records": {key: thing.record() for key, thing in self.records.items()},
            "by owner": {owner: sorted(things) for owner, things in self.by_owner.items()},
            "stored": dict(self.store.records("thing")),
        }

    def check(self) -> None:
        """Memory, store and index say the same."""
        stored = {Thing.read(*row)[0]: row[1] for row in self.store.records("thing")}
        assert {key: thing.record() for key, thing in self.records.items()} == stored
        owners = {thing.owner for thing in self.records.values()} - {None}
        assert self.by_owner == {
            owner: {key: each for key, each in self.records.items() if each.owner == owner}
            for owner in owners
        }


@pytest.fixture
def table(store: Store) -> Table:
    return Table(store)


def fail_commit(store: Store) -> Callable[[], None]:
    """Have the next commit fail; the result takes that back."""

    def refuse() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    store.before_commit.append(refuse)
    return lambda: store.before_commit.remove(refuse)


def test_what_is_put_changed_and_dropped_is_so_in_memory_store_and_index(table: Table) -> None:
    one, two, other = table.put(1, "alice"), table.put(2, "alice"), table.put(1, "bob", "b")
    table.check()
    assert len(table.records) == 3
    assert table.records[1, "a"] is one
    assert table.records.get((3, "a")) is None
    assert (2, "a") in table.records
    assert list(table.by_owner.of("alice").values()) == [one, two]
    assert table.by_owner.of("carol") == {}
    table.records.change(one.key, owner="bob", used=3)
    table.check()
    assert list(table.by_owner.of("bob").values()) == [other, one]
    assert table.records.drop(two.key) is two
    assert table.records.drop(two.key) is None
    table.check()
    assert "alice" not in table.by_owner
    again = Table(table.store)
    assert again.seen() == table.seen()


def test_put_replaces(table: Table) -> None:
    table.put(1, "alice")
    table.put(1, "bob")
    table.check()
    assert table.heard == [("entered", (1, "a")), ("left", (1, "a")), ("entered", (1, "a"))]


def test_a_follower_is_told_of_changes_of_its_fields_alone(table: Table) -> None:
    one = table.put(1, "alice")
    table.heard.clear()
    table.records.change(one.key, used=1)
    assert table.heard == []
    table.records.change(one.key, owner=None)
    assert table.heard == [("left", one.key), ("entered", one.key)]
    table.check()
    assert table.by_owner == {}


def test_what_is_not_there_cannot_be_changed(table: Table) -> None:
    with pytest.raises(KeyError):
        table.records.change((1, "a"), used=1)
    with pytest.raises(KeyError):
        table.records.save((1, "a"))
    assert not table.store.in_transaction


STEPS: dict[str, Callable[[Table], object]] = {
    "put": lambda table: table.put(9, "carol"),
    "replace": lambda table: table.put(1, "carol"),
    "drop": lambda table: table.records.drop((1, "a")),
    "change": lambda table: table.records.change((1, "a"), owner="bob", used=7),
    "place": lambda table: table.records.place((9, "a"), Thing(9, "a", "alice")),
    "set": lambda table: table.records.set((2, "a"), owner=None),
    "many": lambda table: (
        table.records.change((1, "a"), used=1),
        table.records.drop((1, "a")),
        table.put(1, "bob"),
        table.records.change((1, "a"), owner="alice"),
        table.records.change((1, "a"), owner="carol", used=2),
        table.records.drop((2, "a")),
    ),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
@pytest.mark.parametrize("outer", [False, True], ids=["alone", "nested"])
def test_a_commit_that_fails_undoes_everything(table: Table, step: Any, outer: bool) -> None:
    table.put(1, "alice")
    table.put(2, "bob")
    before = table.seen()
    again = fail_commit(table.store)
    with pytest.raises(KernelError):
        if outer:
            with table.store.transaction(), table.store.transaction():
                step(table)
        else:
            step(table)
    assert table.seen() == before
    again()
    step(table)
    assert table.seen() != before


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
def test_who_raises_around_it_undoes_everything(table: Table, step: Any) -> None:
    table.put(1, "alice")
    table.put(2, "bob")
    before = table.seen()
    with pytest.raises(ZeroDivisionError), table.store.transaction():
        step(table)
        raise ZeroDivisionError
    assert table.seen() == before


def test_what_is_placed_or_set_is_stored_by_save(table: Table) -> None:
    thing = Thing(1, "a", "alice")
    table.records.place(thing.key, thing)
    assert dict(table.store.records("thing")) == {}
    table.records.set(thing.key, used=4)
    table.records.save(thing.key)
    table.check()
    thing.used = 5
    table.records.save(thing.key)
    table.check()


@pytest.mark.parametrize(
    "step",
    [
        lambda records: records.update({}),
        lambda records: records.pop((1, "a")),
        lambda records: records.clear(),
        lambda records: records.setdefault((1, "a"), None),
        lambda records: records.__setitem__((2, "a"), None),
        lambda records: records.__delitem__((1, "a")),
        lambda records: records.popitem(),
        lambda records: records.__ior__({}),
    ],
)
def test_nothing_changes_a_table_behind_its_back(table: Table, step: Any) -> None:
    table.put(1, "alice")
    before = table.seen()
    with pytest.raises(TypeError, match="put, drop and change"):
        step(table.records)
    assert table.seen() == before


def test_load_begins_anew(table: Table) -> None:
    table.put(1, "alice")
    table.records.place((2, "a"), Thing(2, "a", "bob"))
    table.records.load()
    table.check()
    assert list(table.records) == [(1, "a")]


def test_agents_and_processes_are_kinds_with_tables_of_their_own(store: Store) -> None:
    @dataclass
    class Named:
        name: str
        size: int = 0

    def read(key: str, record: dict[str, Any]) -> tuple[str, Named]:
        return key, Named(**record)

    for kind, key, other in ((AGENTS, "bob", "carol"), (PROCESSES, "12", "7")):
        made: Records[str, Named] = Records(store, kind, read, asdict)
        made.put(key, Named(key))
        made.put(other, Named(other))
        made.change(key, size=3)
        made.drop(other)
        assert list(store.records(kind)) == [(key, {"name": key, "size": 3})]
        made.load()
        assert list(made.values()) == [Named(key, 3)]
    (rows,) = store._db.execute("SELECT count(*) FROM records").fetchone()
    assert rows == 0


def test_values_beside_tables_are_put_back(store: Store) -> None:
    thing = Thing(1, "a", "alice")
    table, members = {"old": 1, "gone": 2}, {"old"}
    with pytest.raises(ZeroDivisionError), store.transaction():
        keep_fields(store, thing, "owner", "used")
        thing.owner, thing.used = "bob", 3
        for key in ("old", "gone", "new", "never"):
            keep_item(store, table, key)
        table["old"], table["new"] = 5, 6
        del table["gone"]
        for member in ("old", "new"):
            keep_member(store, members, member)
        members.remove("old")
        members.add("new")
        raise ZeroDivisionError
    assert (thing.owner, thing.used) == ("alice", 0)
    assert table == {"old": 1, "gone": 2}
    assert members == {"old"}


def test_what_a_transaction_counts_or_takes_goes_with_it(store: Store) -> None:
    clock = ManualClock()
    window, buckets = Window(MINUTE), TokenBuckets(clock)
    for fails in (True, False):
        with suppress(ZeroDivisionError), store.transaction():
            add_to(store, window, clock.monotonic(), 3)
            assert take_from(store, buckets, "alice", 2, 5, 60) == 0
            assert take_from(store, buckets, "alice", 4, 5, 60) == pytest.approx(1)
            assert 1 / (not fails) == 1
        assert window.sum(clock.monotonic()) == (0 if fails else 3)
        assert buckets.left("alice", 5, 60) == (5 if fails else 3)
