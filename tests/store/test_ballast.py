"""A full disk: what the operator does is stored all the same."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.store.ballast import BALLAST
from agentfs.store.reserve import RESERVE, SIZE
from agentfs.store.store import Store
from tests.tree import small_disk

OPERATOR = Principal(Kind.OPERATOR, INIT, "init", 0, 0)
AGENT = Principal(Kind.AGENT, 2, "bob", 0, 0)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a small disk has to be mounted, and only root can do that")
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, "24m"):
        yield disk


@pytest.fixture
def store(disk: Path) -> Iterator[Store]:
    store = Store(disk / "store.db")
    (disk / RESERVE).write_bytes(bytes(SIZE))
    store.keep_ballast()
    try:
        yield store
    finally:
        store.close()


def fill(disk: Path, leave: int = 0) -> Path:
    """To the last block, or but for `leave` bytes."""
    file = disk / "ballast"
    with contextlib.suppress(OSError), file.open("ab", 0) as more:
        while more.write(bytes(4096)):
            pass
    assert os.statvfs(disk).f_bfree == 0
    os.truncate(file, file.stat().st_size - leave)
    return file


def put(store: Store, who: Principal | None, size: int = 3000) -> None:
    with store.transaction():
        store.acting = who
        seq = store.last_message() + 1
        store.put_message(seq, "bob", "new", f"{seq}.alice", {}, b"x" * size)


def refused(store: Store, who: Principal | None, size: int = 3000) -> bool:
    try:
        put(store, who, size)
    except KernelError as refusal:
        assert refusal.errno == errno.ENOSPC
        return True
    return False


async def test_a_full_disk_refuses_agents_and_has_room_for_the_operator(
    disk: Path, store: Store
) -> None:
    for _ in range(100):
        put(store, AGENT)
    assert not store.is_full
    file = fill(disk)
    while not refused(store, AGENT):  # what was set aside beyond the ballast
        pass
    assert store.is_full
    for _ in range(5):
        for _ in range(100):
            put(store, OPERATOR)
        await store.checkpoint()
        fill(disk)  # somebody takes whatever becomes free, but for what is the log's
    kept = store.last_message()
    assert refused(store, AGENT)
    file.unlink()
    put(store, AGENT)
    assert not store.is_full
    assert store.last_message() == kept + 1


def test_the_kernels_own_work_leaves_room_for_the_operator(disk: Path, store: Store) -> None:
    fill(disk)
    for kind in (AGENT, None):
        put(store, kind)
        while not refused(store, kind):
            pass
        assert refused(store, AGENT)
    for _ in range(50):
        put(store, OPERATOR)


@pytest.mark.parametrize("size", [3000, 100_000, 3_000_000])
def test_no_transaction_of_an_agent_takes_from_the_ballast(
    disk: Path, store: Store, size: int
) -> None:
    """However long, and though there is some room left."""
    fill(disk, leave=1_500_000)
    while not refused(store, AGENT, size):
        pass
    with store.transaction(), contextlib.suppress(KernelError):
        store.acting = AGENT
    before = store.last_message()
    with pytest.raises(KernelError), store.transaction():  # a broadcast: long by its number
        store.acting = AGENT
        for seq in range(before + 1, before + 2000):
            store.put_message(seq, "bob", "new", f"{seq}.alice", {}, b"x" * 3000)
    assert store.last_message() == before
    fill(disk)
    put(store, OPERATOR, BALLAST - 600_000)


async def test_a_log_that_is_begun_anew_has_its_room(
    disk: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentfs.store.store.MOST_PAGES", 50)
    for _ in range(100):
        put(store, AGENT)
    await store.checkpoint()
    fill(disk)
    for _ in range(100):
        put(store, OPERATOR)


def test_where_no_room_can_be_set_aside_it_is_as_without(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentfs.store.ballast._allocate", lambda *_: errno.EOPNOTSUPP)
    store = Store(disk / "store.db")
    store.keep_ballast()
    for _ in range(100):
        put(store, AGENT)
    fill(disk)
    assert not store.is_full
    assert refused(store, OPERATOR)
    store.close()
