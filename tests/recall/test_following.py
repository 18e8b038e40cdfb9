"""The index is like the files, however those change, and whatever becomes of it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest
import trio
from inotify_simple import Event, flags

from agentfs.kernel import Kernel
from agentfs.recall.settings import LARGEST
from tests.providers.world import OPERATOR
from tests.recall.conftest import Remembering


async def test_what_is_written_beside_the_tree_is_found_at_once(world: Remembering) -> None:
    memory = world.memory()
    (memory / "a.txt").write_text("apples\n")
    assert await world.paths("apples") == ["memory/a.txt"]
    (memory / "a.txt").write_text("pears\n")
    assert await world.paths("apples") == []
    assert await world.paths("pears") == ["memory/a.txt"]
    (memory / "a.txt").rename(memory / "b.txt")
    assert await world.paths("pears") == ["memory/b.txt"]
    new = memory / "new"  # as sed -i does
    new.write_text("plums\n")
    new.rename(memory / "b.txt")
    assert await world.paths("pears") == []
    assert await world.paths("plums") == ["memory/b.txt"]
    (memory / "b.txt").unlink()
    assert await world.paths("plums") == []


async def test_directories_that_come_move_and_go(world: Remembering) -> None:
    memory = world.memory()
    deep = memory / "one/two/three"
    deep.mkdir(parents=True)
    (deep / "x.md").write_text("quinces")
    assert await world.paths("quinces") == ["memory/one/two/three/x.md"]
    (memory / "one").rename(memory / "uno")
    assert await world.paths("quinces") == ["memory/uno/two/three/x.md"]
    (memory / "uno/two/three/y.md").write_text("quinces too")
    assert len(await world.paths("quinces")) == 2
    outside = memory.parent / "elsewhere"
    (memory / "uno").rename(outside)
    assert await world.paths("quinces") == []
    (outside / "two/z.md").write_text("quinces")
    assert await world.paths("quinces") == []
    outside.rename(memory / "back")
    assert len(await world.paths("quinces")) == 3
    shutil.rmtree(memory / "back")
    assert await world.paths("quinces") == []


async def eventually(what: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not what():  # noqa: ASYNC110  # it is another thread's work, and tells nobody
            await trio.sleep(0.02)


def indexed(world: Remembering, word: str) -> int:
    """In how many files the index has a word, without a query, which would look itself."""
    number = world.kernel.agents.get("alice").id
    try:
        with closing(sqlite3.connect(world.kernel.state_dir / "recall.db")) as database:
            found = database.execute(
                f"SELECT count(*) FROM words_{number} WHERE words_{number} MATCH ?", (word,)
            ).fetchone()
            return int(found[0])
    except sqlite3.OperationalError:
        return 0  # there is no such table yet


async def test_the_index_follows_by_itself(world: Remembering) -> None:
    await world.remember("pears")  # from now on
    (world.memory() / "a.txt").write_text("apples\n")
    await eventually(lambda: indexed(world, "apples"))
    await world.write("/agents/alice/memory/b.txt", "apples", world.as_agent("alice"), create=True)
    await eventually(lambda: indexed(world, "apples") == 2)
    (world.memory() / "a.txt").unlink()
    await eventually(lambda: indexed(world, "apples") == 1)


async def test_what_changed_while_nothing_ran_is_found(tmp_path: Path) -> None:
    state = tmp_path / "state"
    kernel = Kernel(state, "/nowhere")
    async with kernel.running():
        world = Remembering(kernel)
        await world.spawn("alice")
        memory = world.memory()
        for name in ("same", "changed", "gone"):
            (memory / name).write_text("apples")
        assert len(await world.paths("apples")) == 3
    (memory / "changed").write_text("pears")
    (memory / "gone").unlink()
    (memory / "new").write_text("apples")
    kernel = Kernel(state, "/nowhere")
    async with kernel.running():
        world = Remembering(kernel)
        found = [hit["path"] for hit in await world.recall("apples", caller=OPERATOR)]
        assert sorted(found) == ["memory/new", "memory/same"]
        found = [hit["path"] for hit in await world.recall("pears", caller=OPERATOR)]
        assert found == ["memory/changed"]


async def test_only_text_of_a_megabyte_at_most(world: Remembering) -> None:
    memory = world.memory()
    (memory / "binary").write_bytes(b"apples\0apples")
    (memory / "garbage").write_bytes(b"apples" + bytes(range(128, 256)))
    (memory / "large").write_bytes(b"apples " + b"x" * LARGEST)
    (memory / "latin").write_bytes("apples, K\xf6ln und noch viel mehr Text".encode("latin-1"))
    (memory / "just").write_bytes(b"apples " + b"y " * (LARGEST // 2 - 4))
    (memory / os.fsdecode(b"\xff name")).write_text("apples")
    found = await world.paths("apples")
    assert sorted(found) == ["memory/just", "memory/latin", os.fsdecode(b"memory/\xff name")]
    assert (memory.parent / sorted(found)[2]).exists()
    os.truncate(memory / "large", 7)
    assert "memory/large" in await world.paths("apples")


async def test_another_agents_files_never_show(world: Remembering) -> None:
    bobs, mine = world.memory("bob"), world.memory()
    (bobs / "secret").write_text("apples of bob")
    os.symlink(bobs / "secret", mine / "link")
    os.symlink(bobs, mine / "folder")
    os.link(bobs / "secret", mine / "hard")
    shared = world.kernel.state_dir / "shared"
    (shared / "all").write_text("apples for all")
    os.symlink(shared, mine / "shared")
    os.mkfifo(mine / "fifo")
    assert await world.recall("apples") == []
    (mine / "own").write_text("apples of alice")
    assert await world.paths("apples") == ["memory/own"]
    assert await world.paths("bob") == []


async def test_a_score_says_nothing_of_others(world: Remembering) -> None:
    for number in range(20):
        (world.memory() / f"{number}").write_text("pears" if number else "apples and pears")
    (before,) = await world.recall("apples")
    for number in range(50):
        (world.memory("bob") / f"{number}").write_text("apples")
    assert len(await world.paths("apples", "bob")) == 10
    (after,) = await world.recall("apples")
    assert after == before


async def test_the_first_query_waits_until_all_was_read(world: Remembering) -> None:
    for number in range(3000):
        (world.memory() / f"{number}.txt").write_text("apples")
    assert len(await world.recall("Limit: 1000\n\napples")) == 1000
    assert indexed(world, "apples") == 3000


async def test_own_hard_links_show_once(world: Remembering) -> None:
    mine = world.memory()
    (mine / "a").write_text("apples")
    assert await world.paths("apples") == ["memory/a"]
    os.link(mine / "a", mine / "b")
    assert set(await world.paths("apples")) & {"memory/a", "memory/b"}
    (mine / "a").unlink()
    assert await world.paths("apples") == ["memory/b"]


async def test_an_agent_made_anew_knows_nothing(world: Remembering) -> None:
    folder = world.directory("/agents")
    folder.mkdir("carol", 0o755, OPERATOR)
    await world.remember("apples", "carol", OPERATOR)
    assert len(await world.recall("apples", "carol", OPERATOR)) == 1
    handle = world.open("/agents/carol/recall", os.O_RDWR, OPERATOR)
    folder.rmdir("carol", OPERATOR)
    handle.release()
    folder.mkdir("carol", 0o755, OPERATOR)
    assert await world.recall("apples", "carol", OPERATOR) == []
    await world.remember("pears", "carol", OPERATOR)
    assert len(await world.recall("pears", "carol", OPERATOR)) == 1
    folder.rmdir("carol", OPERATOR)
    numbers = {world.kernel.agents.get(name).id for name in world.kernel.agents}

    def left() -> set[int]:
        with closing(sqlite3.connect(world.kernel.state_dir / "recall.db")) as database:
            return {row[0] for row in database.execute("SELECT agent FROM files")}

    await eventually(lambda: left() <= numbers)


async def test_an_index_that_is_damaged_or_gone_is_made_anew(world: Remembering) -> None:
    (world.memory() / "a").write_text("apples")
    assert await world.paths("apples") == ["memory/a"]
    index = world.kernel.state_dir / "recall.db"
    for name in ("recall.db", "recall.db-wal", "recall.db-shm"):
        (index.parent / name).unlink(missing_ok=True)
    assert await world.paths("apples") == ["memory/a"]
    with closing(sqlite3.connect(index)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = index.stat().st_size
    damaged = os.open(index, os.O_RDWR)
    for place in range(4096, size, 512):
        os.pwrite(damaged, b"damage" * 10, place)
    os.close(damaged)
    (world.memory() / "b").write_text("apples")
    assert sorted(await world.paths("apples")) == ["memory/a", "memory/b"]
    index.unlink()
    index.write_text("This is no database at all, " * 1000)
    assert sorted(await world.paths("apples")) == ["memory/a", "memory/b"]
    assert index.stat().st_mode & 0o777 == 0o600


async def test_a_full_disk_hurts_the_index_alone(world: Remembering) -> None:
    await world.remember("apples")
    assert len(await world.recall("apples")) == 1
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    index = "agentfs.recall.index.MemoryIndex.put"
    with patch(index, side_effect=full):
        path = await world.remember("pears")
        assert (await world.text(f"/agents/alice/{path}")).endswith("pears\n")
        assert await world.recall("pears") == []
        assert len(await world.recall("apples")) == 1
        assert "disk is full" in world.kernel.memories.complaint()
    assert len(await world.recall("pears")) == 1
    assert world.kernel.memories.complaint() == ""


async def test_the_index_takes_nothing_that_is_kept_for_the_store(world: Remembering) -> None:
    assert await world.recall("apples") == []
    with patch("agentfs.recall.index.KEPT", 1 << 60), patch("os.statvfs") as disk:
        disk.return_value.f_bavail, disk.return_value.f_frsize = 1000, 4096
        disk.return_value.f_blocks = 1_000_000
        (world.memory() / "a.txt").write_text("apples")
        assert await world.recall("apples") == []
        assert "the disk is full" in world.kernel.memories.complaint()
    assert await world.paths("apples") == ["memory/a.txt"]


async def test_without_watches_it_scans_again_and_again(tmp_path: Path) -> None:
    with (
        patch("agentfs.recall.follower.INotify", side_effect=OSError(24, "too many open files")),
        patch("agentfs.recall.follower.ROUND", 0.1),
    ):
        kernel = Kernel(tmp_path / "state", "/nowhere")
        async with kernel.running():
            world = Remembering(kernel)
            await world.spawn("alice")
            assert await world.recall("apples") == []
            (world.memory() / "a.txt").write_text("apples")
            await eventually(lambda: indexed(world, "apples"))
            (world.memory() / "a.txt").unlink()
            await eventually(lambda: not indexed(world, "apples"))


async def test_events_that_are_lost_are_made_up_for(world: Remembering) -> None:
    await world.recall("nothing")
    follow = world.kernel.memories._follower
    with follow.lock, patch.object(follow, "_drain"):
        (world.memory() / "a.txt").write_text("apples")
        assert follow._inotify is not None
        follow._inotify.read(timeout=0)  # and nobody knows
    assert await world.paths("apples") == []
    with patch.object(follow._inotify, "read", return_value=[Event(-1, flags.Q_OVERFLOW, 0, "")]):
        assert await world.paths("apples") == ["memory/a.txt"]


async def test_expired_notes_go(world: Remembering) -> None:
    path = await world.remember("Expires: 1h\n\napples")
    kept = await world.remember("Expires: 2h\n\napples")
    other = world.memory() / "mail.txt"
    other.write_text("Expires: 2001-01-01T00:00:00Z\n\napples")
    assert len(await world.paths("apples")) == 3
    memories, now = world.kernel.memories, world.kernel.clock.now()
    with patch.object(memories._clock, "now", lambda: now + 3601):
        assert path not in await world.paths("apples")

        def gone() -> bool:
            memories.tidy()  # as the maid does, who may come in between
            return not (world.memory().parent / path).exists()

        await eventually(gone)
    assert (world.memory().parent / kept).exists()
    assert other.exists()
    assert sorted(await world.paths("apples")) == sorted([kept, "memory/mail.txt"])


async def test_a_note_that_was_written_again_does_not_expire(world: Remembering) -> None:
    path = await world.remember("Expires: 1h\n\napples")
    file = world.memory().parent / path
    file.write_text(file.read_text().replace("Expires:", "Once:"))
    memories, now = world.kernel.memories, world.kernel.clock.now()
    assert len(await world.paths("apples")) == 1
    with patch.object(memories._clock, "now", lambda: now + 3601):
        for _ in range(3):
            memories.tidy()
            await trio.sleep(0.3)
    assert file.exists()


async def test_a_note_that_is_refused_in_the_end_is_not_there(world: Remembering) -> None:
    notes = world.memory() / "notes"

    def refuse() -> None:
        raise ValueError

    world.kernel.store.before_commit.append(refuse)
    with pytest.raises(ValueError):
        await world.remember("apples")
    world.kernel.store.before_commit.remove(refuse)
    assert os.listdir(notes) == []
