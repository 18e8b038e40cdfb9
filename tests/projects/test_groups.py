"""Groups of agents: their members, how far they are, and the address of all of them."""

from __future__ import annotations

import errno
from pathlib import Path
from unittest.mock import patch

import pytest

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.model.process import Role
from agentfs.model.spec import parse_spec
from agentfs.projects.events import AgentGroupCreated, AgentGroupMemberCompleted, AgentGroupRemoved
from agentfs.projects.groups import AgentGroup, MemberState
from agentfs.store.part import Part
from agentfs.store.store import Store
from agentfs.tasks.model import TaskRequest, WorkerRequest
from tests.world import OPERATOR, World


@pytest.fixture
def team(world: World) -> AgentGroup:
    """alice's group of bob and carol; dave is in none."""
    for name in ("alice", "bob", "carol", "dave"):
        world.process(name)
    groups, alice = world.kernel.agent_groups, world.principal("alice")
    team = groups.create(alice, "team", 0o700)
    groups.set_members(alice, "team", ["bob", "carol"])
    return team


def states(group: AgentGroup) -> dict[str, str]:
    return {name: member.state.value for name, member in group.members.items()}


def refused(call: object, *args: object, **more: object) -> int:
    with pytest.raises(KernelError) as caught:
        call(*args, **more)  # type: ignore[operator]
    return caught.value.errno


def test_a_group_from_its_making_to_its_end(world: World, team: AgentGroup) -> None:
    groups, alice, bob = world.kernel.agent_groups, *map(world.principal, ("alice", "bob"))
    assert AgentGroupCreated("team", "alice") in world.seen
    assert (list(groups), list(team.members), team.finished) == (["team"], ["bob", "carol"], False)
    assert states(team) == {"bob": "running", "carol": "running"}
    groups.finish(bob, "team", "bob", failed=False, words="12 pages")
    assert AgentGroupMemberCompleted("team", "bob", "completed") in world.seen
    assert team.members["bob"].words == "12 pages"
    carol = world.table.by_name("carol")
    assert carol is not None
    world.end(carol, 137)
    assert AgentGroupMemberCompleted("team", "carol", "failed") in world.seen
    assert team.members["carol"].words == "it was ended by SIGKILL"
    assert team.finished
    groups.again(alice, "team", "carol")
    assert states(team) == {"bob": "completed", "carol": "pending"}
    groups.remove(alice, "team")
    assert AgentGroupRemoved("team", "alice") in world.seen
    assert (list(groups), team.removed) == ([], True)


def test_an_empty_group_is_not_finished(world: World, team: AgentGroup) -> None:
    world.kernel.agent_groups.set_members(OPERATOR, "team", [])
    assert not team.finished


def test_a_member_begins_with_its_process_and_what_it_has_done_stays_done(world: World) -> None:
    groups, tell = world.kernel.agent_groups, world.kernel.ground.parts.tell
    world.agent("bob")
    team = groups.create(OPERATOR, "team", 0o755)
    groups.set_members(OPERATOR, "team", ["bob"])
    assert states(team) == {"bob": "pending"}
    for code, state in ((0, "completed"), (3, "completed")):
        bob = world.process("bob")
        with world.store.transaction():
            tell(Part.spawned, bob, parse_spec("name: bob\n"))
        world.end(bob, 1, restart=True)
        assert states(team)["bob"] in ("running", "completed")
        world.end(bob, code)
        assert states(team) == {"bob": state}
        world.kernel.supervisor.reap(bob)


def test_who_is_no_owner_changes_nothing_and_a_member_speaks_for_itself(
    world: World, team: AgentGroup
) -> None:
    groups = world.kernel.agent_groups
    bob, dave = map(world.principal, ("bob", "dave"))
    assert refused(groups.set_members, bob, "team", ["bob", "dave"]) == errno.EPERM
    assert refused(groups.remove, bob, "team") == errno.EPERM
    assert refused(groups.finish, bob, "team", "carol", failed=True) == errno.EPERM
    assert refused(groups.leave, dave, "team", "carol") == errno.EPERM
    assert refused(groups.finish, OPERATOR, "team", "dave", failed=False) == errno.ENOENT
    assert refused(groups.finish, OPERATOR, "team", "bob", failed=False, words="a\nb") == (
        errno.EINVAL
    )
    assert refused(groups.set_members, OPERATOR, "team", ["nobody"]) == errno.ENOENT
    assert refused(groups.may_read, dave, team) == errno.EACCES
    groups.may_read(bob, team)
    groups.leave(bob, "team", "bob")
    assert list(team.members) == ["carol"]
    assert refused(groups.may_read, bob, team) == errno.EACCES


def test_the_numbers_of_groups_and_members_are_bounded(world: World, team: AgentGroup) -> None:
    world.settings.replace("projects: {max_groups: 1, max_members: 2}")
    groups = world.kernel.agent_groups
    assert refused(groups.create, OPERATOR, "more", 0o755) == errno.ENOSPC
    assert refused(groups.set_members, OPERATOR, "team", ["bob", "carol", "dave"]) == errno.ENOSPC
    for wrong in ("", "a b", ".", "x" * 65):
        assert refused(groups.create, OPERATOR, wrong, 0o755) == errno.EINVAL


def test_a_message_to_a_group_comes_to_each_member_or_to_none(
    world: World, team: AgentGroup
) -> None:
    sent = world.send("alice", "@team", "begin")
    assert (world.waiting("bob"), world.waiting("carol")) == (["begin"], ["begin"])
    assert world.waiting("dave") == world.waiting("alice") == []
    (copy,) = world.mail.mailbox("bob").new.values()
    assert world.header(copy, "To") == "@team"
    assert b"Recipients: 2" in world.mail.sent.content(sent)
    world.send("bob", "@team", "I am ready")
    assert world.waiting("carol") == ["begin", "I am ready"]
    assert world.waiting("bob") == ["begin"], "nobody gets its own"
    world.settings.replace("messages: {max_waiting: 2}")
    with pytest.raises(KernelError) as caught:
        world.send("alice", "@team", "and go")
    assert caught.value.errno == errno.ENOSPC
    assert world.waiting("bob") == ["begin"], "one full inbox refuses it for all"


def test_only_who_belongs_to_a_group_or_may_by_its_mode_writes_to_it(
    world: World, team: AgentGroup
) -> None:
    groups = world.kernel.agent_groups
    for to, expected in (("@team", errno.EACCES), ("@none", errno.ENOENT)):
        with pytest.raises(KernelError) as caught:
            world.send("dave", to, "hello")
        assert caught.value.errno == expected
        assert refused(world.mail.check, world.principal("dave"), "dave", to) == expected
    groups.chmod(OPERATOR, "team", 0o733)
    world.send("dave", "@team", "hello")
    assert world.waiting("bob") == ["hello"]


def test_a_group_gives_nobody_a_way_to_an_inbox_that_it_may_not_write_to(
    world: World, team: AgentGroup
) -> None:
    task = world.process("errand", world.principal("dave").pid or 0, Role.TASK)
    world.kernel.agent_groups.set_members(OPERATOR, "team", ["bob", "errand"])
    assert task.name in team.members
    with pytest.raises(KernelError) as caught:
        world.send("errand", "@team", "hello")
    assert caught.value.errno == errno.EACCES
    assert caught.value.reason == "errand is a task and may only write to its parent dave"
    assert world.waiting("bob") == []


def test_a_message_to_a_group_counts_as_one_for_each_member(world: World, team: AgentGroup) -> None:
    alice = world.principal("alice")
    world.kernel.limits.set(OPERATOR, alice.pid or 0, "messages_per_minute", "3")
    world.send("alice", "@team", "one and two")
    with pytest.raises(KernelError) as caught:
        world.send("alice", "@team", "three and four")
    assert caught.value.errno == errno.EAGAIN


def test_groups_and_how_far_they_are_survive_a_kill(world: World, team: AgentGroup) -> None:
    groups = world.kernel.agent_groups
    groups.finish(OPERATOR, "team", "bob", failed=True, words="no paper")
    record = team.record()
    world.restart()
    team = world.kernel.agent_groups.get("team")
    assert team.record() == record
    assert team.members["bob"].state is MemberState.FAILED


def test_an_agent_that_is_removed_leaves_its_groups(world: World, team: AgentGroup) -> None:
    for name in ("bob", "alice"):
        process = world.table.by_name(name)
        assert process is not None
        world.end(process, 0)
        world.kernel.supervisor.reap(process)
        world.agents.remove(OPERATOR, name)
    assert list(team.members) == ["carol"]
    assert team.ownership.owner == "init"


def test_a_member_has_done_its_part_with_the_tasks_of_the_group(
    world: World, team: AgentGroup
) -> None:
    tasks, workers = world.kernel.tasks, world.kernel.workers
    for name in ("bob", "carol"):
        workers.register(
            OPERATOR, WorkerRequest(name=name, agent=name, capabilities={"only": name})
        )

    def submit(who: str) -> int:
        world.clock.advance(1.0)
        request = TaskRequest(description="x", requirements={"only": who}, group="team")
        return tasks.submit(OPERATOR, request).id

    first, second, third = submit("bob"), submit("bob"), submit("carol")
    assert world.recv("bob")
    tasks.complete(world.principal("bob"), first, 1)
    assert states(team) == {"bob": "running", "carol": "running"}, "it was given another one"
    assert world.recv("bob")
    tasks.complete(world.principal("bob"), second, 2)
    assert world.recv("carol")
    tasks.fail(world.principal("carol"), third, "no paper")
    assert states(team) == {"bob": "completed", "carol": "failed"}
    assert team.members["carol"].words == f"task {third} is failed: no paper"
    world.clock.advance(1.0)
    world.kernel.agent_groups.again(OPERATOR, "team", "carol")
    world.restart()
    team = world.kernel.agent_groups.get("team")
    assert states(team) == {"bob": "completed", "carol": "running"}, "it began anew after that"


def test_a_task_that_ended_just_before_the_daemon_did_counts_all_the_same(
    world: World, team: AgentGroup
) -> None:
    tasks = world.kernel.tasks
    world.kernel.workers.register(OPERATOR, WorkerRequest(name="bob", agent="bob"))
    number = tasks.submit(OPERATOR, TaskRequest(description="x", group="team")).id
    assert world.recv("bob")
    with patch.object(world.kernel.agent_groups, "ended"):  # the death comes before it is heard of
        tasks.complete(world.principal("bob"), number, 1)
    assert states(team)["bob"] == "running"
    world.restart()
    assert states(world.kernel.agent_groups.get("team"))["bob"] == "completed"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"owner": "nobody"}, "there is no agent nobody, who owns it"),
        ({"members": {"ghost": ["pending", "", 0.0]}}, "there is no agent ghost, who is in it"),
        ({"members": {"bob": ["asleep", "", 0.0]}}, "its record cannot be read"),
    ],
)
def test_a_spoiled_record_is_found(
    world: World, team: AgentGroup, tmp_path: Path, wrong: dict[str, object], words: str
) -> None:
    record = team.record()
    world.store.close()
    with_fault = Store(tmp_path / "store.db")
    with with_fault.transaction():
        with_fault.put_record("agent_group", "team", record | wrong)
    with_fault.close()
    (fault,) = check(tmp_path / "store.db")
    assert fault.startswith("group team: ")
    assert words in fault
    mended = Store(tmp_path / "store.db")
    with mended.transaction():
        mended.put_record("agent_group", "team", record)
    mended.close()
    world._start()
