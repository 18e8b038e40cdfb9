"""Who may write to whom: every row of the routing table, and its order."""

import errno

import pytest

from agentfs.base.errors import KernelError
from agentfs.mail.message import FLOORS, Priority, Relation
from agentfs.mail.routing import effective, overseer_of, relation
from agentfs.model.process import Role, State
from tests.world import OPERATOR, World


@pytest.fixture
def family(world: World) -> World:
    """init > boss > (left > (leaf, task), right > nephew), other; and a name without a process."""
    boss = world.process("boss", role=Role.LEAD)
    left, right = world.process("left", boss.pid), world.process("right", boss.pid)
    world.process("leaf", left.pid)
    world.process("task", left.pid, Role.TASK)
    world.process("nephew", right.pid)
    world.process("other")
    world.agent("nobody")
    return world


@pytest.mark.parametrize(
    ("sender", "receiver", "expected", "overseer"),
    [
        ("boss", "left", "parent", ""),
        ("left", "boss", "child", ""),
        ("left", "right", "sibling", "boss"),
        ("boss", "other", "sibling", "init"),
        ("boss", "leaf", "other", ""),
        ("leaf", "boss", "other", ""),
        ("left", "nephew", "other", ""),
        ("leaf", "nephew", "other", ""),
        ("leaf", "other", "other", ""),
        ("leaf", "init", "other", ""),
        ("boss", "init", "child", ""),
        ("init", "boss", "system", ""),
        ("init", "leaf", "system", ""),
        ("init", "task", "system", ""),
        ("init", "nobody", "system", ""),
        ("task", "left", "child", ""),
        ("left", "task", "parent", ""),
        ("leaf", "task", "sibling", "left"),
        ("boss", "boss", "other", ""),
        ("task", "task", "other", ""),
        ("init", "init", "other", ""),
        ("boss", "nobody", "other", ""),
        ("nobody", "boss", "other", ""),
        ("nobody", "nobody", "other", ""),
    ],
)
def test_the_routing_table(
    family: World, sender: str, receiver: str, expected: str, overseer: str
) -> None:
    source, target = map(family.table.by_name, (sender, receiver))
    found = relation(source, target)
    assert (found.value, overseer_of(family.table, source, found)) == (expected, overseer)


@pytest.mark.parametrize("receiver", ["boss", "leaf", "right", "nephew", "init", "nobody", "other"])
def test_a_task_writes_to_its_parent_only(family: World, receiver: str) -> None:
    with pytest.raises(KernelError, match="may only write to its parent left") as caught:
        family.mail.check(family.principal("task"), "task", receiver)
    assert (caught.value.errno, caught.value.rule) == (errno.EACCES, "roles.yaml: task send")


def test_a_task_whose_parent_is_gone_writes_to_nobody(family: World) -> None:
    left = family.table.by_name("left")
    assert left is not None
    with family.store.transaction():
        family.table.set_state(left, State.ZOMBIE)
    with pytest.raises(KernelError):
        family.mail.check(family.principal("task"), "task", "left")
    assert family.mail.peers("task") == ["task"]
    for name in ("leaf", "task"):  # what the supervisor does at the end of a parent
        child = family.table.by_name(name)
        assert child is not None
        family.table.move(child, left.ppid)


def test_the_peers_are_those_to_whom_there_is_a_route(family: World) -> None:
    for name in family.agents:
        principal = family.principal(name) if family.table.by_name(name) else OPERATOR
        allowed = []
        for peer in family.agents:
            try:
                family.mail.check(principal, name, peer)
            except KernelError as refusal:
                assert refusal.errno == errno.EACCES
            else:
                allowed.append(peer)
        assert family.mail.peers(name) == allowed
    assert family.mail.peers("task") == ["left", "task"]


def test_the_receiver_is_asked_for_before_role_and_route(family: World) -> None:
    with pytest.raises(KernelError) as caught:
        family.mail.check(family.principal("task"), "task", "nowhere")
    assert caught.value.errno == errno.ENOENT


def test_an_ended_process_is_no_relative(family: World) -> None:
    right = family.table.by_name("right")
    nephew = family.table.by_name("nephew")
    assert right is not None
    assert nephew is not None
    family.end(nephew, 0)
    family.end(right, 0)
    left = family.table.by_name("left")
    found = relation(left, family.table.by_name("right"))
    assert found is Relation.OTHER
    assert overseer_of(family.table, left, found) == ""


@pytest.mark.parametrize("explicit", list(Priority))
@pytest.mark.parametrize("found", list(Relation))
def test_the_relation_can_only_raise_the_priority_unless_it_was_said_not_to_be_urgent(
    explicit: Priority, found: Relation
) -> None:
    assert effective(explicit, found) == min(explicit, FLOORS[found])
    assert effective(explicit, found) <= explicit
    said = effective(explicit, found, on_purpose=True)
    assert said == (explicit if explicit >= Priority.NORMAL else min(explicit, FLOORS[found]))
