"""Artifacts: who sees, replaces and removes them, what becomes of them, and crashes at any line."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import agentfs.shared.artifact_table
import agentfs.shared.artifacts
import agentfs.shared.draft
import agentfs.store.store
from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.model.principal import Kind, Principal
from agentfs.model.process import Role
from agentfs.shared.artifact import Artifact, Space
from agentfs.shared.settings import ArtifactSettings
from tests.providers.world import refused
from tests.world import GID, OPERATOR, UID, World

GLOBAL: Space = ("global", "")
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs a file system of its own")


def private(name: str) -> Space:
    return "private", name


def subtree(name: str) -> Space:
    return "subtree", name


def user(uid: int = UID) -> Space:
    return "user", str(uid)


class Shared(World):
    """The same with shared memory."""

    def _start(self) -> None:
        super()._start()
        self.disk = self.kernel.disk
        self.artifacts = self.kernel.artifacts

    def store_(
        self, who: Principal | str, space: Space, key: str, content: bytes, *, append: bool = False
    ) -> Artifact:
        principal = self.principal(who) if isinstance(who, str) else who
        begin = self.artifacts.table.find(space, key) if append else None
        draft = self.artifacts.draft(principal, space, key, begin)
        try:
            draft.changed = True
            self.artifacts.allot(draft)
            draft.write(draft.size, content)
            made = self.artifacts.commit(draft)
            assert made is not None
            return made
        finally:
            self.artifacts.finish(draft)

    def read(self, who: Principal | str, space: Space, key: str) -> bytes:
        principal = self.principal(who) if isinstance(who, str) else who
        artifact = self.artifacts.table.find(space, key)
        if artifact is None:
            raise KernelError(errno.ENOENT, key)
        descriptor = self.artifacts.open(principal, artifact)
        with open(descriptor, "rb") as file:
            return file.read()

    def files(self) -> list[str]:
        return sorted(os.listdir(self.artifacts.table.folder))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Shared]:
    """init over lead over (alice over kid) and bob; one user."""
    made = Shared(tmp_path / "state")
    lead = made.process("lead", role=Role.LEAD)
    alice = made.process("alice", lead.pid)
    made.process("bob", lead.pid)
    made.process("kid", alice.pid)
    yield made
    made.close()


# -- HiveKernel's list, 8.2 ------------------------------------------------------------------------


def test_shared_memory_global(world: Shared) -> None:
    world.store_("alice", GLOBAL, "plan", b"all")
    stranger = Principal(Kind.STRANGER, None, "a stranger", UID, GID)
    for who in ("lead", "alice", "bob", "kid", OPERATOR, stranger):
        assert world.read(who, GLOBAL, "plan") == b"all"


def test_shared_memory_private(world: Shared) -> None:
    world.store_("alice", private("alice"), "diary", b"mine")
    assert world.read("alice", private("alice"), "diary") == b"mine"
    for who in ("lead", "bob", "kid", OPERATOR):
        with refused("ENOENT"):
            world.read(who, private("alice"), "diary")


def test_shared_memory_user_visibility(world: Shared) -> None:
    world.store_("alice", user(), "ours", b"us")
    assert world.read("bob", user(), "ours") == b"us"
    other = Principal(Kind.AGENT, world.principal("bob").pid, "bob", UID + 1, GID)
    with refused("ENOENT"):
        world.read(other, user(), "ours")


def test_shared_memory_subtree_visibility(world: Shared) -> None:
    world.store_("alice", subtree("alice"), "task", b"below")
    assert world.read("alice", subtree("alice"), "task") == b"below"
    assert world.read("kid", subtree("alice"), "task") == b"below"
    for who in ("bob", "lead", OPERATOR):  # sibling, parent, process 1
        with refused("ENOENT"):
            world.read(who, subtree("alice"), "task")


def test_shared_memory_list(world: Shared) -> None:
    for key in ("report-1", "report-2", "other"):
        world.store_("alice", GLOBAL, key, b"")
    assert [key for key in world.artifacts.table.space(GLOBAL) if key.startswith("report")] == [
        "report-1",
        "report-2",
    ]


def test_shared_memory_delete(world: Shared) -> None:
    world.store_("alice", GLOBAL, "plan", b"1")
    with refused("EACCES"):
        world.artifacts.remove(world.principal("bob"), GLOBAL, "plan")
    world.artifacts.remove(world.principal("alice"), GLOBAL, "plan")
    with refused("ENOENT"):
        world.read("alice", GLOBAL, "plan")
    with refused("ENOENT"):
        world.artifacts.remove(world.principal("alice"), GLOBAL, "plan")
    assert world.files() == []


def test_shared_memory_kernel_can_delete(world: Shared) -> None:
    world.store_("alice", GLOBAL, "plan", b"1")
    world.artifacts.remove(OPERATOR, GLOBAL, "plan")
    assert world.artifacts.table.find(GLOBAL, "plan") is None


def test_shared_memory_requires_key(world: Shared) -> None:
    for key in ("", ".", "..", "a/b", "a\nb", "\udcff"):
        with pytest.raises(KernelError) as caught:
            world.store_("alice", GLOBAL, key, b"1")
        assert caught.value.code == "EINVAL"
        assert "key" in caught.value.reason
    with refused("ENAMETOOLONG"):
        world.store_("alice", GLOBAL, "ä" * 128, b"1")
    world.store_("alice", GLOBAL, "ä" * 127 + "b", b"1")


# -- its faults, 3.7 and S7 ------------------------------------------------------------------------


def test_fault_any_writer_may_replace_any_key(world: Shared) -> None:
    for space in (GLOBAL, user()):
        world.store_("alice", space, "plan", b"alice's")
        for who in ("bob", "kid", "lead"):
            with refused("EACCES"):
                world.store_(who, space, "plan", b"stolen")
            with refused("EACCES"):
                world.artifacts.rename(world.principal(who), space, "plan", "x")
            with refused("EACCES"):
                world.artifacts.set_type(world.principal(who), space, "plan", "text/x")
        assert world.read("alice", space, "plan") == b"alice's"
    for space in (private("alice"), subtree("alice")):
        with refused("EACCES"):
            world.store_("bob", space, "plan", b"planted")
    world.store_(OPERATOR, GLOBAL, "plan", b"init's")
    assert world.read("alice", GLOBAL, "plan") == b"init's"
    assert world.artifacts.table.space(GLOBAL)["plan"].owner == "alice"


def test_fault_existence_leaks(world: Shared) -> None:
    world.store_("alice", private("alice"), "secret", b"1")
    world.store_("alice", subtree("alice"), "secret", b"2")

    def told(space: Space, key: str) -> tuple[str, str]:
        with pytest.raises(KernelError) as caught:
            world.artifacts.remove(world.principal("bob"), space, key)
        return caught.value.code, caught.value.reason

    for space in (private("alice"), subtree("alice")):
        assert told(space, "secret") == told(space, "nothing")
    # The same key of one's own is another artifact, and nothing collides.
    for number, (who, space) in enumerate(
        [("bob", private("bob")), ("bob", subtree("bob")), ("bob", user()), ("bob", GLOBAL)]
    ):
        world.store_(who, space, "secret", b"%d" % number)
    assert world.read("alice", private("alice"), "secret") == b"1"
    assert world.artifacts.table.in_view("lead", "secret") is None
    # What everybody reads in the event log names no key but global ones.
    lines = [record.line() for record in world.events.since(1)]
    stored = [line for line in lines if b'"artifact_stored"' in line]
    assert len(stored) == 6
    assert [b"secret" in line for line in stored] == [False] * 5 + [True]


def test_fault_old_versions_remain_readable_for_ever(world: Shared) -> None:
    old = world.store_("alice", GLOBAL, "plan", b"old")
    new = world.store_("alice", GLOBAL, "plan", b"new")
    assert world.files() == [f"{new.serial:012d}"]
    with refused("ENOENT"):
        world.artifacts.open(world.principal("alice"), old)
    world.artifacts.remove(world.principal("alice"), GLOBAL, "plan")
    assert world.files() == []


def test_fault_a_wrong_visibility_is_stored(world: Shared) -> None:
    with pytest.raises(ValueError, match="9"):
        world.artifacts.draft(world.principal("alice"), ("9", "alice"), "plan")


def test_a_task_reads_and_does_not_write(world: Shared) -> None:
    world.process("errand", world.principal("alice").pid or 0, Role.TASK)
    world.store_("alice", subtree("alice"), "task", b"do")
    assert world.read("errand", subtree("alice"), "task") == b"do"
    with refused("EACCES"):
        world.store_("errand", private("errand"), "mine", b"")
    stranger = Principal(Kind.STRANGER, None, "a stranger", UID, GID)
    with refused("EACCES"):
        world.store_(stranger, GLOBAL, "mine", b"")


# -- versions --------------------------------------------------------------------------------------


def test_a_reader_has_the_old_one_whole(world: Shared) -> None:
    old = world.store_("alice", GLOBAL, "plan", b"a" * 10_000)
    with open(world.artifacts.open(world.principal("bob"), old), "rb") as reader:
        world.store_("alice", GLOBAL, "plan", b"b" * 20_000)
        world.artifacts.remove(world.principal("alice"), GLOBAL, "plan")
        assert reader.read() == b"a" * 10_000


def test_nothing_is_seen_before_it_is_committed(world: Shared) -> None:
    alice = world.principal("alice")
    world.store_("alice", GLOBAL, "plan", b"old")
    draft = world.artifacts.draft(alice, GLOBAL, "plan", world.artifacts.table.find(GLOBAL, "plan"))
    world.artifacts.allot(draft)
    draft.write(3, b" and new")
    assert world.read("bob", GLOBAL, "plan") == b"old"
    world.artifacts.commit(draft)
    assert world.read("bob", GLOBAL, "plan") == b"old and new"
    world.artifacts.allot(draft)
    draft.write(0, b"OLD")  # after a commit it is the next version
    assert world.read("bob", GLOBAL, "plan") == b"old and new"
    draft.truncate(3)
    world.artifacts.finish(draft)
    assert world.read("bob", GLOBAL, "plan") == b"old and new"
    assert len(world.files()) == 1


def test_of_two_writers_the_last_to_finish_wins_whole(world: Shared) -> None:
    alice = world.principal("alice")
    drafts = [world.artifacts.draft(alice, GLOBAL, "plan") for _ in range(2)]
    for letter, draft in zip(b"ab", drafts, strict=True):
        world.artifacts.allot(draft)
        draft.write(0, bytes([letter]) * 1000)
    for draft in reversed(drafts):
        world.artifacts.commit(draft)
        world.artifacts.finish(draft)
    assert world.read("bob", GLOBAL, "plan") == b"a" * 1000
    assert len(world.files()) == 1


def test_what_is_removed_while_it_is_written_does_not_come_back(world: Shared) -> None:
    alice = world.principal("alice")
    draft = world.artifacts.draft(alice, GLOBAL, "plan")
    world.artifacts.allot(draft)
    draft.write(0, b"x")
    world.artifacts.remove(alice, GLOBAL, "plan")
    assert world.artifacts.commit(draft) is None
    world.artifacts.finish(draft)
    assert world.artifacts.table.find(GLOBAL, "plan") is None
    assert world.files() == []


def test_renaming_replaces_at_once_and_writers_follow(world: Shared) -> None:
    alice = world.principal("alice")
    world.store_("alice", GLOBAL, "plan", b"old")
    draft = world.artifacts.draft(alice, GLOBAL, "tmp")
    world.artifacts.allot(draft)
    draft.write(0, b"new")
    with refused("EEXIST"):
        world.artifacts.rename(alice, GLOBAL, "tmp", "plan", 1)
    with refused("EINVAL"):
        world.artifacts.rename(alice, GLOBAL, "tmp", "plan", 2)
    world.store_("alice", GLOBAL, "tmp", b"other")
    world.artifacts.rename(alice, GLOBAL, "tmp", "plan")
    assert world.read("bob", GLOBAL, "plan") == b"other"
    world.artifacts.commit(draft)
    world.artifacts.finish(draft)
    assert world.read("bob", GLOBAL, "plan") == b"new"
    assert list(world.artifacts.table.space(GLOBAL)) == ["plan"]
    assert len(world.files()) == 1


def test_the_content_type_is_guessed_until_it_is_set(world: Shared) -> None:
    alice = world.principal("alice")

    def type_of(key: str) -> str:
        return world.artifacts.table.space(GLOBAL)[key].content_type

    for key in ("a.json", "b.html", "c", "d.tar.gz"):
        world.store_("alice", GLOBAL, key, b"")
    assert [type_of(key) for key in ("a.json", "b.html", "c", "d.tar.gz")] == [
        "application/json",
        "text/html",
        "application/octet-stream",
        "application/octet-stream",
    ]
    world.artifacts.set_type(alice, GLOBAL, "c", "text/plain; charset=utf-8")
    world.store_("alice", GLOBAL, "c", b"replaced")
    world.restart()
    assert type_of("c") == "text/plain; charset=utf-8"
    world.artifacts.rename(alice, GLOBAL, "c", "c.json")
    assert type_of("c.json") == "text/plain; charset=utf-8"
    world.artifacts.set_type(alice, GLOBAL, "c.json", "")
    assert type_of("c.json") == "application/json"
    for wrong in ("text", "a/b/c", "text/plain\n", "x" * 300 + "/y"):
        with refused("EINVAL"):
            world.artifacts.set_type(alice, GLOBAL, "a.json", wrong)


# -- the view of a subtree -------------------------------------------------------------------------


def test_of_equal_keys_the_nearest_is_seen(world: Shared) -> None:
    for who in ("lead", "alice"):
        world.store_(who, subtree(who), "plan", who.encode())
    world.store_("lead", subtree("lead"), "more", b"")
    found = {
        name: {key: artifact.owner for key, artifact in world.artifacts.table.view(name).items()}
        for name in ("kid", "alice", "bob", "lead", "init")
    }
    assert found == {
        "kid": {"plan": "alice", "more": "lead"},
        "alice": {"plan": "alice", "more": "lead"},
        "bob": {"plan": "lead", "more": "lead"},
        "lead": {"plan": "lead", "more": "lead"},
        "init": {},
    }
    seen = world.artifacts.table.in_view("kid", "plan")
    assert seen is not None
    assert seen.owner == "alice"


def test_who_leaves_a_subtree_sees_it_no_more(world: Shared) -> None:
    world.store_("alice", subtree("alice"), "plan", b"1")
    kid = world.table.by_name("kid")
    assert kid is not None
    world.table.move(kid, 1)
    with refused("ENOENT"):
        world.read("kid", subtree("alice"), "plan")
    assert world.artifacts.table.view("kid") == {}


# -- life ------------------------------------------------------------------------------------------


def everything(world: Shared) -> dict[tuple[Space, str], tuple[str, bytes]]:
    return {
        (a.space, a.key): (a.owner, world.artifacts.table.path(a.serial).read_bytes())
        for a in world.artifacts.table
    }


def test_artifacts_outlive_the_process_of_their_storer(world: Shared) -> None:
    for space in (private("alice"), user(), GLOBAL, subtree("alice")):
        world.store_("alice", space, "k", space[0].encode())
    alice = world.table.by_name("alice")
    assert alice is not None
    world.end(alice, 0)
    assert everything(world) == {
        (private("alice"), "k"): ("alice", b"private"),
        (user(), "k"): ("alice", b"user"),
        (GLOBAL, "k"): ("alice", b"global"),
        (subtree("lead"), "k"): ("lead", b"subtree"),  # or its children could read it no more
    }
    assert world.read("kid", subtree("lead"), "k") == b"subtree"
    world.restart()
    assert world.read("bob", user(), "k") == b"user"
    assert world.read("lead", subtree("lead"), "k") == b"subtree"


def test_the_parent_has_the_artifacts_of_a_removed_agent(world: Shared) -> None:
    for space in (private("alice"), user(), GLOBAL):
        world.store_("alice", space, "k", b"alice's")
    world.store_("lead", private("lead"), "k", b"lead's")
    world.store_("lead", private("lead"), "k.alice", b"lead's too")
    alice = world.table.by_name("alice")
    assert alice is not None
    world.agents.set_pid("alice", alice.pid)
    world.end(alice, 0)
    world.agents.remove(OPERATOR, "alice")
    world.table.remove(alice.pid)
    assert everything(world) == {
        (private("lead"), "k"): ("lead", b"lead's"),
        (private("lead"), "k.alice"): ("lead", b"lead's too"),
        (private("lead"), "k.alice.2"): ("lead", b"alice's"),
        (user(), "k"): ("lead", b"alice's"),
        (GLOBAL, "k"): ("lead", b"alice's"),
    }
    world.restart()
    world.artifacts.remove(world.principal("lead"), GLOBAL, "k")


def test_without_a_parent_it_is_who_defined_the_agent_and_else_init(world: Shared) -> None:
    for name, creator in (("one", "lead"), ("two", "gone")):
        world.agents.ensure(name, UID, GID, creator, "")
        process = world.process(name)
        world.store_(name, GLOBAL, name, b"")
        world.end(process, 0)
        world.table.remove(process.pid)
        world.agents.set_pid(name, None)
        world.agents.remove(OPERATOR, name)
    assert {key: a.owner for key, a in world.artifacts.table.space(GLOBAL).items()} == {
        "one": "lead",
        "two": "init",
    }


# -- limits ----------------------------------------------------------------------------------------


def test_more_than_the_largest_size_is_refused_and_leaves_the_old(world: Shared) -> None:
    world.settings.replace("artifacts: {max_size: 1000}")
    world.store_("alice", GLOBAL, "plan", b"x" * 1000)
    for act in (
        lambda draft: draft.write(500, b"y" * 501),
        lambda draft: draft.truncate(1001),
    ):
        draft = world.artifacts.draft(world.principal("alice"), GLOBAL, "plan")
        world.artifacts.allot(draft)
        draft.write(0, b"y")
        with refused("EFBIG"):
            act(draft)
        with refused("EFBIG"):
            world.artifacts.commit(draft)
        world.artifacts.finish(draft)
    assert world.read("bob", GLOBAL, "plan") == b"x" * 1000
    assert len(world.files()) == 1


def test_64_mib_are_accepted_without_a_word_in_the_configuration(world: Shared) -> None:
    assert world.settings.of(ArtifactSettings).max_size >= 64 * 1024 * 1024


def test_one_artifact_too_many_is_refused(world: Shared) -> None:
    world.settings.replace("artifacts: {max_artifacts: 2}")
    world.store_("alice", GLOBAL, "1", b"")
    world.store_("alice", private("alice"), "2", b"")
    with refused("ENOSPC"):
        world.store_("alice", GLOBAL, "3", b"")
    world.store_("alice", GLOBAL, "1", b"again")
    world.store_("bob", GLOBAL, "3", b"")
    world.artifacts.remove(world.principal("alice"), GLOBAL, "1")
    world.store_("alice", GLOBAL, "4", b"")


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "shm", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@ROOT_ONLY
def test_a_full_disk_is_enospc_and_leaves_the_old(world: Shared) -> None:
    with small_disk(world.artifacts.table.folder):
        world.store_("alice", GLOBAL, "plan", b"x" * 600_000)
        for append in (False, True):
            with refused("ENOSPC"):
                world.store_("alice", GLOBAL, "plan", b"y" * 600_000, append=append)
            assert world.read("bob", GLOBAL, "plan") == b"x" * 600_000
            assert len(world.files()) == 1
        world.artifacts.remove(world.principal("alice"), GLOBAL, "plan")
        world.store_("alice", GLOBAL, "plan", b"y" * 600_000)
        world.artifacts.remove(world.principal("alice"), GLOBAL, "plan")


# -- crashes ---------------------------------------------------------------------------------------

TRACED = {
    module.__file__
    for module in (
        agentfs.shared.artifacts,
        agentfs.shared.draft,
        agentfs.shared.artifact_table,
        agentfs.store.store,
    )
}


def crashes(state: Path, folder: Path, act: Callable[[], object]) -> list[Path]:
    """What a kill -9 would leave before each line that `act` runs; what is the same, once."""
    left: list[Path] = []
    last: list[dict[str, bytes]] = [{}]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in TRACED:
            return None
        now = {
            str(path): path.read_bytes()
            for path in state.rglob("*")
            if path.is_file() and not path.name.endswith("-shm")
        }
        if event == "line" and now != last[0]:
            last[0] = now
            left.append(folder / f"crash-{len(left)}")
            shutil.copytree(state, left[-1])
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    assert len(left) > 2
    return left


def test_a_crash_at_any_line_leaves_the_old_or_the_new(world: Shared, tmp_path: Path) -> None:
    alice = world.principal("alice")
    world.store_("alice", GLOBAL, "plan", b"old")
    world.store_("alice", GLOBAL, "other", b"other")

    def replaced() -> None:
        world.store_("alice", GLOBAL, "plan", b"new!")

    def renamed() -> None:
        world.artifacts.rename(alice, GLOBAL, "other", "plan")

    def removed() -> None:
        world.artifacts.remove(alice, GLOBAL, "plan")

    old = {"plan": b"old", "other": b"other"}
    for number, (act, before, after) in enumerate(
        [
            (replaced, old, old | {"plan": b"new!"}),
            (renamed, old | {"plan": b"new!"}, {"plan": b"other"}),
            (removed, {"plan": b"other"}, {}),
        ]
    ):
        folder = tmp_path / str(number)
        outcomes = []
        for left in crashes(world.state, folder, act):
            again = Shared(left)
            found = {
                key: again.artifacts.table.path(a.serial).read_bytes()
                for key, a in again.artifacts.table.space(GLOBAL).items()
            }
            assert found in (before, after)
            assert len(again.files()) == len(found)
            outcomes.append(found)
            again.close()  # checks the store, and the files
            shutil.rmtree(left)
        assert outcomes[0] == before
        assert outcomes[-1] == after
        assert outcomes == sorted(outcomes, key=lambda found: found == after)


def test_what_was_not_closed_leaves_nothing(world: Shared) -> None:
    draft = world.artifacts.draft(world.principal("alice"), GLOBAL, "plan")
    world.artifacts.allot(draft)
    draft.write(0, b"half")
    assert world.files() == ["000000000001.new"]
    world.restart()
    assert world.files() == []
    assert len(world.artifacts.table) == 0
    draft.discard()


def test_a_refused_store_leaves_memory_as_it_was(world: Shared) -> None:
    world.store_("alice", GLOBAL, "plan", b"old")
    before = everything(world)

    def fail() -> None:
        raise KernelError(errno.ENOSPC, "the test's")

    world.store.before_commit.append(fail)
    alice = world.principal("alice")
    for act in (
        lambda: world.store_("alice", GLOBAL, "plan", b"new"),
        lambda: world.artifacts.remove(alice, GLOBAL, "plan"),
        lambda: world.artifacts.rename(alice, GLOBAL, "plan", "b"),
        lambda: world.artifacts.set_type(alice, GLOBAL, "plan", "a/b"),
    ):
        with refused("ENOSPC"):
            act()
        assert everything(world) == before
    world.store.before_commit.remove(fail)
    world.store_("alice", GLOBAL, "plan", b"new")


def test_the_check_finds_what_is_wrong_with_contents(world: Shared) -> None:
    made = world.store_("alice", GLOBAL, "plan", b"old")
    database, path = world.state / "store.db", world.artifacts.table.path(made.serial)
    assert check(database) == []
    path.write_bytes(b"longer")
    assert "has 6 bytes, not 3" in " ".join(check(database))
    path.unlink()
    assert "its content is gone" in " ".join(check(database))
    path.write_bytes(b"old")
    (world.artifacts.table.folder / "000000000099").write_bytes(b"")
    assert "is no artifact's content" in " ".join(check(database))
    (world.artifacts.table.folder / "000000000099").unlink()
    record = made.record()
    for change in (
        {"owner": "nobody"},
        {"key": "a/b"},
        {"serial": 7},
        {"type": "x"},
        {"size": -1},
        {"visibility": "9"},
    ):
        with world.store.transaction():
            world.store.put_record("artifact", f"{made.serial:012d}", record | change)
        assert check(database) != [], change
    with world.store.transaction():
        world.store.put_record("artifact", f"{made.serial:012d}", record)
