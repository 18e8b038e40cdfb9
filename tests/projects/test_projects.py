"""Projects: members, the active one of each agent, the shared memory, and who may what."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.projects.events import ProjectActivated, ProjectCreated, ProjectLeft, ProjectRemoved
from agentfs.projects.spec import DEFAULT, ProjectSpec, read_spec
from agentfs.store.store import Store
from tests.projects.world import Nursery
from tests.world import OPERATOR


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Nursery]:
    world = Nursery(tmp_path)
    yield world
    world.close()


def refused(call: Any, *args: object, **more: object) -> int:
    with pytest.raises(KernelError) as caught:
        call(*args, **more)
    assert caught.value.errno is not None
    return caught.value.errno


def test_a_project_from_its_making_to_its_end(world: Nursery) -> None:
    projects, project = world.kernel.projects, world.project
    assert ProjectCreated("bees", "alice") in world.seen
    assert (list(projects), project.members, project.spec) == (["bees"], ("bob",), DEFAULT)
    assert read_spec(DEFAULT) == ProjectSpec(), "what it explains is what holds without it"
    assert [*projects.of("bob")] == [*projects.of("alice")] == ["bees"]
    assert [*projects.of("dave")] == []
    memory = projects.memory_dir("bees")
    assert memory.is_dir()
    (memory / "plan.md").write_text("the plan\n")
    assert refused(projects.remove, world.alice, "bees") == errno.ENOTEMPTY
    assert refused(projects.remove, world.principal("bob"), "bees", force=True) == errno.EPERM
    projects.remove(world.alice, "bees", force=True)
    assert ProjectRemoved("bees", "alice") in world.seen
    assert (list(projects), project.removed, memory.exists()) == ([], True, False)
    projects.create(world.principal("dave"), "bees", 0o755)
    assert list(memory.iterdir()) == [], "the next one of its name has nothing of it"


def test_each_agent_works_on_one_project_that_it_is_a_member_of(world: Nursery) -> None:
    projects, bob = world.kernel.projects, world.principal("bob")
    projects.create(bob, "ants", 0o755)
    projects.activate(bob, "bob", "ants")
    projects.activate(bob, "bob", "bees")
    assert projects.active("bob") == "bees"
    assert ProjectActivated("bees", "bob") in world.seen
    assert refused(projects.activate, world.alice, "bob", "bees") == errno.EACCES
    assert refused(projects.activate, world.principal("dave"), "dave", "bees") == errno.EACCES
    assert refused(projects.activate, bob, "bob", "none") == errno.ENOENT
    world.restart()
    projects, bob = world.kernel.projects, world.principal("bob")
    assert projects.active("bob") == "bees"
    projects.leave(bob, "bees", "bob")
    assert projects.active("bob") == ""
    assert ProjectLeft("bees", "bob") in world.seen
    projects.activate(bob, "bob", "ants")
    projects.remove(bob, "ants")
    assert projects.active("bob") == ""


def test_members_are_the_owners_choice(world: Nursery) -> None:
    projects, bob = world.kernel.projects, world.principal("bob")
    assert refused(projects.set_members, bob, "bees", ["dave"]) == errno.EPERM
    assert refused(projects.write, bob, "bees", "") == errno.EPERM
    assert refused(projects.set_members, world.alice, "bees", ["nobody"]) == errno.ENOENT
    assert refused(projects.leave, bob, "bees", "alice") == errno.EPERM
    assert refused(projects.leave, world.alice, "bees", "alice") == errno.EPERM
    assert refused(projects.leave, world.alice, "bees", "dave") == errno.ENOENT
    projects.set_members(world.alice, "bees", ["alice", "bob", "bob"])
    assert world.project.members == ("bob",)
    world.settings.replace("projects: {max_members: 1, max_projects: 1}")
    assert refused(projects.set_members, world.alice, "bees", ["bob", "dave"]) == errno.ENOSPC
    assert refused(projects.create, bob, "ants", 0o755) == errno.ENOSPC


def test_the_names_of_projects(world: Nursery) -> None:
    for wrong in ("", ".", "..", ".removed-x", "a/b", "x" * 65, "ü"):
        assert refused(world.kernel.projects.create, OPERATOR, wrong, 0o755) == errno.EINVAL
    assert refused(world.kernel.projects.create, OPERATOR, "bees", 0o755) == errno.EEXIST


def test_what_a_death_left_of_an_older_one_is_no_part_of_a_new_one(world: Nursery) -> None:
    left = world.kernel.projects.memory_dir("ants")
    left.mkdir(parents=True)
    (left / "old.md").write_text("old\n")
    world.kernel.projects.create(OPERATOR, "ants", 0o755)
    assert list(left.iterdir()) == []
    (aside,) = left.parent.parent.glob(".left-ants-*")
    assert (aside / "memory/old.md").read_text() == "old\n", "and nobody has thrown it away"


def test_an_agent_that_is_removed_is_a_member_of_nothing(world: Nursery) -> None:
    projects, bob = world.kernel.projects, world.principal("bob")
    projects.activate(bob, "bob", "bees")
    for name in ("bob", "alice"):
        process = world.table.by_name(name)
        assert process is not None
        world.end(process, 0)
        world.kernel.supervisor.reap(process)
        world.agents.remove(OPERATOR, name)
    assert (world.project.members, world.project.ownership.owner) == ((), "init")
    assert projects.active("bob") == ""


@pytest.mark.parametrize(
    ("kind", "key", "wrong", "words"),
    [
        ("project", "bees", {"owner": "nobody"}, "there is no agent nobody, who owns it"),
        ("project", "bees", {"spec": "x: 1"}, "project bees: its record cannot be read"),
        ("active_project", "dave", {"project": "bees"}, "agent dave: it is no member"),
        ("seed", "1", {"project": "ants"}, "seed 1: there is no project ants"),
        ("seed", "1", {"due": None, "run": 0}, "seed 1: it is running, and nothing of it"),
        ("seed", "1", {"state": "passed", "due": 1.0}, "seed 1: it has ended, and something"),
        ("seed_result", "7", {"value": 1}, "seed 7: there is a result and no seed"),
    ],
)
def test_a_spoiled_record_is_found(
    world: Nursery, tmp_path: Path, kind: str, key: str, wrong: dict[str, Any], words: str
) -> None:
    world.specify("execute")
    world.plant()
    record = world.store.record(kind, key)
    world.store.close()
    store = Store(tmp_path / "store.db")
    with store.transaction():
        store.put_record(kind, key, (record or {}) | wrong)
    store.close()
    faults = check(tmp_path / "store.db")
    assert any(words in fault for fault in faults), faults
    store = Store(tmp_path / "store.db")
    with store.transaction():
        if record is None:
            store.delete_record(kind, key)
        else:
            store.put_record(kind, key, record)
    store.close()
    world._start()
