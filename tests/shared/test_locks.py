"""Locks: one has it, all others are told who, and its end frees it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.shared.events import LockReleased
from tests.tree import Tree, eventually
from tests.world import OPERATOR, World


class LockWorld(World):
    """A world with locks."""

    def _start(self) -> None:
        super()._start()
        self.locks = self.kernel.locks

    def take(self, who: str, name: str = "build") -> None:
        self.locks.take(self.principal(who), name)

    def refused(self, who: str, name: str = "build") -> KernelError:
        with pytest.raises(KernelError) as refusal:
            self.locks.take(self.principal(who), name)
        return refusal.value


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LockWorld]:
    world = LockWorld(tmp_path)
    yield world
    world.close()


def test_the_second_is_told_who_has_it(world: LockWorld) -> None:
    ann, _ = world.process("ann"), world.process("bob")
    world.take("ann")
    refusal = world.refused("bob")
    assert refusal.errno == errno.EEXIST
    assert f"ann (process {ann.pid}) has the lock build" in refusal.reason
    assert world.refused("ann").errno == errno.EEXIST, "nor does the holder take it twice"


def test_only_the_holder_and_the_operator_give_it_back(world: LockWorld) -> None:
    world.process("ann")
    world.process("bob")
    world.take("ann")
    for call in (world.locks.release, lambda who, name: world.locks.note(who, name, "mine")):
        with pytest.raises(KernelError) as refusal:
            call(world.principal("bob"), "build")
        assert refusal.value.errno == errno.EPERM
    world.locks.release(world.principal("ann"), "build")
    world.take("bob")
    world.locks.release(OPERATOR, "build")
    assert world.locks.names() == []
    with pytest.raises(KernelError) as refusal:
        world.locks.release(OPERATOR, "build")
    assert refusal.value.errno == errno.ENOENT


@pytest.mark.parametrize("restarted", [False, True])
def test_the_end_of_the_program_frees_all_that_it_had(world: LockWorld, restarted: bool) -> None:
    ann = world.process("ann")
    for name in ("a", "b"):
        world.take("ann", name)
    world.take("init", "c")
    world.end(ann, 1, restart=restarted)
    assert world.locks.names() == ["c"]
    freed = [event for event in world.seen if isinstance(event, LockReleased)]
    assert [event.name for event in freed] == ["a", "b"]
    assert all("ended" in event.reason for event in freed)


def test_a_lock_survives_kill_9_of_the_daemon_and_its_holder_has_it_still(
    world: LockWorld,
) -> None:
    world.process("bob")
    world.take("init")
    world.locks.note(OPERATOR, "build", "since breakfast")
    world.restart()
    lock = world.locks.find("build")
    assert lock is not None
    assert (lock.holder, lock.note) == ("init", "since breakfast")
    assert world.refused("bob").errno == errno.EEXIST


def test_what_is_no_name_and_more_than_there_may_be(world: LockWorld) -> None:
    world.process("ann")
    for name in ("", ".", "..", "a b", "x" * 65):
        assert world.refused("ann", name).errno == errno.EINVAL
    world.settings.replace("locks: {max_locks: 1}\n")
    world.take("ann")
    assert world.refused("init", "other").errno == errno.ENOSPC
    with pytest.raises(KernelError) as refusal:
        world.locks.note(world.principal("ann"), "build", "x" * 5000)
    assert refusal.value.errno == errno.EMSGSIZE


def test_a_refused_call_leaves_no_lock(world: LockWorld) -> None:
    with pytest.raises(RuntimeError), world.store.transaction():
        world.take("init")
        raise RuntimeError
    assert world.locks.names() == []
    world.take("init")


def test_faults_are_found(world: LockWorld) -> None:
    world.take("init")
    record = world.store.record("lock", "build")
    assert record is not None
    with world.store.transaction():
        world.store.put_record("lock", "build", record | {"pid": 0})
        world.store.put_record("lock", "odd", {"holder": "ann"})
    found = check(world.state / "store.db")
    assert len(found) == 2
    assert "build: nobody has it" in found[0]
    assert "lock odd" in found[1]
    with world.store.transaction():
        world.store.delete_record("lock", "odd")
        world.store.put_record("lock", "build", record)


# -- through the mount -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    tree = Tree(tmp_path_factory.mktemp("locks") / "tree")
    try:
        tree.mount()
        yield tree
    finally:
        tree.clean_up()


def _sh(tree: Tree, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script], cwd=tree / "dev/locks", capture_output=True, text=True
    )


def test_a_shell_takes_reads_and_gives_back(tree: Tree) -> None:
    assert _sh(tree, "set -C; echo nightly > build").returncode == 0
    again = _sh(tree, "set -C; echo me > build")
    assert again.returncode == 1
    assert "cannot overwrite existing file" in again.stderr
    text = tree.read("dev/locks/build")
    assert text.startswith("Holder:\tinit\nPid:\t1\nSince:\t")
    assert "Note:\tnightly\n" in text
    assert os.listdir(tree / "dev/locks") == ["build"]
    with pytest.raises(FileExistsError):
        os.open(tree / "dev/locks/build", os.O_CREAT | os.O_EXCL)
    assert _sh(tree, "rm build && ls").stdout == ""
    assert not (tree / "dev/locks/build").exists()


def test_the_end_of_a_program_frees_its_lock_also_while_there_is_no_daemon(tree: Tree) -> None:
    script = "set -C; : > $AGENTFS/dev/locks/mine; exec sleep 1000"
    pid = tree.spawn("ann", exec=["/bin/bash", "-c", script], restart="never")
    eventually((tree / "dev/locks/mine").exists)
    assert f"Holder:\tann\nPid:\t{pid}\n" in tree.read("dev/locks/mine")
    ospid = int(tree.read(f"proc/{pid}/ospid"))
    tree.crash()
    os.kill(ospid, 9)
    tree.mount()
    eventually(lambda: not (tree / "dev/locks/mine").exists())
