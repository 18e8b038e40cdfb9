"""Whose the bytes of real files are, and what a look at the disk puts right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from agentfs.base.clock import TrioClock
from agentfs.model.principal import Kind, Principal
from agentfs.quota import survey
from agentfs.quota.disk_shares import ROUND, DiskShares
from agentfs.quota.file_bytes import LEAST, MARK, Bytes, Makers, taken
from agentfs.quota.pots import POTS
from agentfs.quota.settings import ShareSettings
from agentfs.quota.shares import Holder, Pot, Shares
from agentfs.quota.survey import Survey
from tests.process.world import OPERATOR, eventually, running

KIB = 1024
ALICE = Principal(Kind.AGENT, 2, "1", 0, 0)
BOB = Principal(Kind.AGENT, 3, "2", 0, 0)


class Place:
    """A directory that is counted; agents are called as their numbers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pot = Pot(POTS["shared"], lambda: 1 << 40, ShareSettings)
        self._holders: dict[str, Holder] = {}
        self.bytes = Bytes(str(root), self.pot, self.holder, lambda principal: principal.name)

    def holder(self, mark: str) -> Holder:
        return self._holders.setdefault(mark, Holder(mark, 0, agent=True))

    def held(self, *marks: str) -> list[int]:
        return [self.pot.held(self.holder(mark)) for mark in marks]

    def look(self) -> Survey:
        made = Survey(str(self.root), marks=self.bytes.marks)
        made.run()
        return made

    def correct(self) -> None:
        before, seen = self.bytes.now(), self.look()
        self.bytes.correct(seen.found.items(), before, whole=seen.whole)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    root = tmp_path / "root"
    root.mkdir()
    return Place(root)


def put(path: Path, kibibytes: int, maker: str = "1", others: dict[str, int] | None = None) -> int:
    """A file; the bytes it counts with."""
    path.write_bytes(os.urandom(kibibytes * KIB))
    Makers(maker, others).write(str(path))
    return taken(path.stat())


def test_a_part_is_kept_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert Makers.read(str(path), 4321).maker == "u4321"
    assert Makers.read(str(path), os.geteuid()).maker == "o", "the operator has put it there"
    Makers("7", {"8": 4096}).write(str(path))
    found = Makers.read(str(path), 0)
    assert (found.maker, found.others, found.changed) == ("7", {"8": 4096}, False)
    os.setxattr(path, MARK, b"nonsense 8:x")
    assert Makers.read(str(path), 4321).maker == "u4321"
    assert dict(Makers("1", {"2": 30, "3": 50}).split(60)) == {"2": 30, "3": 30, "1": 0}


def test_what_came_last_goes_first(place: Place) -> None:
    part = Makers("1")
    place.bytes.made(part, LEAST)
    place.bytes.changed(part, ALICE, 100)
    place.bytes.changed(part, BOB, 50)
    assert place.held("1", "2") == [LEAST + 100, 50]
    place.bytes.changed(part, ALICE, -70)
    assert place.held("1", "2") == [LEAST + 80, 0]
    place.bytes.changed(part, BOB, 10)
    place.bytes.removed(part, LEAST + 90, is_open=True)
    assert place.held("1", "2") == [LEAST + 80, 10], "as long as it is open"
    place.correct()
    assert place.held("1", "2") == [LEAST + 80, 10], "and a look does not see it"
    place.bytes.closed(part, LEAST + 90)
    assert place.held("1", "2") == [0, 0]


def test_a_look_finds_everything_once(place: Place, tmp_path: Path) -> None:
    (place.root / "a/b").mkdir(parents=True)
    total = put(place.root / "a/b/big", 100, "1", {"2": 40 * KIB})
    os.link(place.root / "a/b/big", place.root / "again")
    (place.root / "out").symlink_to(tmp_path)  # where nobody is to look
    put(tmp_path / "outside", 100)
    place.correct()
    uid = f"u{os.getuid()}"
    assert place.held("1", "2", "o", uid) == [total - 40 * KIB, 40 * KIB, 2 * LEAST, LEAST]


def test_a_look_puts_right_what_is_too_much_and_too_little(place: Place) -> None:
    put(place.root / "one", 8)
    place.bytes.made(Makers("2"), 1000)  # which is gone since
    place.correct()
    assert place.held("1", "2") == [8 * KIB, 0]


def test_what_changes_during_a_look_is_left_to_the_next(place: Place) -> None:
    put(place.root / "one", 8)
    place.correct()
    before, seen = place.bytes.now(), place.look()
    place.bytes.removed(Makers("1"), 8 * KIB, is_open=False)  # after it was seen
    place.bytes.correct(seen.found.items(), before, whole=True)
    assert place.held("1") == [0]
    before, seen = place.bytes.now(), place.look()
    place.bytes.made(Makers("1"), 4 * KIB)  # the half of what is there, seen or not
    place.bytes.correct(seen.found.items(), before, whole=True)
    assert place.held("1") == [8 * KIB]
    place.correct()
    assert place.held("1") == [8 * KIB]


def test_a_look_at_a_part_takes_nothing_away(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "DEEPEST", 1)
    (place.root / "a/b/c").mkdir(parents=True)
    put(place.root / "a/b/c/hidden", 8)
    put(place.root / "a/seen", 8, "2")
    place.bytes.made(Makers("1"), 9000)
    place.correct()
    assert not place.look().whole
    assert place.held("1", "2") == [9000, 8 * KIB]
    monkeypatch.undo()
    place.correct()
    assert place.held("1", "2") == [8 * KIB, 8 * KIB]


def test_a_folder_that_is_gone_says_nothing(place: Place) -> None:
    place.bytes.made(Makers("1"), 9000)
    place.root.rmdir()
    place.correct()
    assert place.held("1") == [9000]
    place.bytes.close()
    place.bytes.made(Makers("1"), 9000)
    assert place.held("1") == [0], "nothing counts any more"


async def test_everything_is_looked_at_each_minute(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """By the path on the disk, say, a program of another user writes into its own memory/."""
    (tmp_path / "state/shared").mkdir(parents=True)
    async with running(tmp_path / "state", clock=TrioClock()) as system:
        shares = Shares(system.ground, system.agents)
        disk = DiskShares(system.ground, shares, system.agents)
        system.ground.parts.add(shares, disk)
        system.agents.define(OPERATOR, "bob", os.getuid(), os.getgid())
        path = system.agents.memory_dir("bob") / "big"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.run)
            await eventually(lambda: disk.rounds == 1)
            path.write_bytes(bytes(64 * KIB))
            mock_clock.jump(ROUND + 1)
            await eventually(lambda: disk.rounds == 2)
            assert shares.pots["memory"].held(shares.agent("bob")) == taken(path.stat())
            system.agents.remove(OPERATOR, "bob")
            assert shares.pots["memory"].used == 0
            number = str(system.agents.last_id)
            put(tmp_path / "state/shared/left", 8, number)
            await disk.look(disk.shared)
            assert shares.pots["shared"].held(shares.nobody) == 8 * KIB
            system.agents.define(OPERATOR, "bob", os.getuid(), os.getgid())  # another one
            put(tmp_path / "state/shared/new", 8, str(system.agents.last_id))
            await disk.look(disk.shared)
            assert shares.pots["shared"].held(shares.nobody) == 8 * KIB
            assert shares.pots["shared"].held(shares.agent("bob")) == 8 * KIB
            nursery.cancel_scope.cancel()
