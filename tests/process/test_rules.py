"""Spawn validation: each rule with its errno, and their order. Nothing is started here."""

from __future__ import annotations

import errno
import os
import pwd
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.process import Limits, Role, State, Tier
from agentfs.model.spec import ProcessSpec
from agentfs.process import rules
from agentfs.process.ceilings import Ceilings
from agentfs.rights.policy import Policy
from agentfs.store.store import AGENTS, PROCESSES
from tests.process.world import OPERATOR, System, as_agent

OTHER = "daemon" if pwd.getpwuid(os.geteuid()).pw_name == "nobody" else "nobody"
"""A user that is not ours."""


def everything(system: System) -> list[Any]:
    """All that a spawn could leave behind."""
    return [
        [p.record() | {"changed": 0} for p in system.table],
        [system.agents.get(name).record() | {"changed": 0} for name in system.agents],
        [record | {"changed": 0} for _, record in system.store.records(PROCESSES)],
        [record | {"changed": 0} for _, record in system.store.records(AGENTS)],
        sorted(os.listdir(system.state_dir / "agents")),
        sorted(os.listdir(system.state_dir / "logs")),
        system.programs.groups.pids() if system.programs.groups.available else [],
        system.supervisor.sizes(),
    ]


async def refused(
    system: System, *, who: Any = OPERATOR, parent: int = 1, **spec: Any
) -> KernelError:
    """The refusal of a spawn, after a look that it left no trace."""
    before, events = everything(system), len(system.heard)
    with pytest.raises(KernelError) as caught:
        await system.processes.spawn(who, parent, ProcessSpec(**spec))
    assert everything(system) == before
    assert len(system.heard) == events
    return caught.value


async def test_a_child_has_the_defaults_of_the_design(system: System) -> None:
    lead = await system.spawn("lead", role="lead", tier="tactical")
    child = await system.spawn("child", lead.pid)
    init = system.table.get(1)
    assert (lead.pid, lead.ppid, child.pid, child.ppid) == (2, 1, 3, 2)
    assert (child.role, child.tier, child.model) == (Role.AGENT, Tier.OPERATIONAL, "mini")
    assert (child.user, child.uid, child.node) == (init.user, init.uid, init.node)
    assert child.limits == Limits(10, 5, 300, 100_000, 1_000_000, 128_000)
    assert child.state is State.IDLE
    assert (await system.spawn("task", role="task")).tier is Tier.OPERATIONAL


@pytest.mark.parametrize(("role", "number"), [("architect", errno.EACCES), ("task", errno.EPERM)])
async def test_some_roles_cannot_spawn(system: System, role: str, number: int) -> None:
    parent = await system.spawn("parent", role=role)
    for who in (as_agent(parent), OPERATOR):
        refusal = await refused(system, who=who, parent=parent.pid, name="child")
        assert (refusal.errno, refusal.rule) == (number, f"roles.yaml: {role} spawn")


async def test_nobody_can_have_role_kernel(system: System) -> None:
    assert (await refused(system, name="root", role="kernel")).errno == errno.EPERM


async def test_a_process_can_only_spawn_children_of_its_own(system: System) -> None:
    one, two = await system.spawn("one"), await system.spawn("two")
    refusal = await refused(system, who=as_agent(one), parent=two.pid, name="child")
    assert refusal.errno == errno.EACCES


async def test_there_has_to_be_a_parent_that_is_alive(system: System) -> None:
    assert (await refused(system, parent=99, name="child")).errno == errno.ESRCH
    for name, end in (("zombie", "done 0"), ("dead", "KILL")):
        parent = await system.spawn(name)
        system.processes.command(OPERATOR, parent.pid, end)
        refusal = await refused(system, parent=parent.pid, name="child")
        assert (refusal.errno, name in refusal.reason) == (errno.ESRCH, True)


async def test_a_childs_tier_is_never_above_its_parents(system: System) -> None:
    parent = await system.spawn("parent", tier="tactical")
    refusal = await refused(system, parent=parent.pid, name="child", tier="strategic")
    assert refusal.errno == errno.EPERM
    assert "cognitive tier" in refusal.reason
    refusal = await refused(system, name="task", role="task", tier="strategic")
    assert refusal.errno == errno.EPERM


async def test_only_living_children_count_towards_max_children(system: System) -> None:
    parent = await system.spawn("parent", limits={"max_children": 2})
    one = await system.spawn("one", parent.pid)
    await system.spawn("two", parent.pid)
    refusal = await refused(system, parent=parent.pid, name="three")
    assert (refusal.errno, refusal.rule) == (errno.EAGAIN, "max_children")
    system.processes.done(as_agent(one), one.pid, 0)
    await system.spawn("three", parent.pid)
    none = await system.spawn("none", limits={"max_children": 0})
    assert (await refused(system, parent=none.pid, name="child")).errno == errno.EAGAIN


async def test_the_children_of_process_1_are_limited_by_the_configuration(system: System) -> None:
    system.configure(max_children_of_init=1)
    await system.spawn("one")
    assert (await refused(system, name="two")).errno == errno.EAGAIN
    system.configure(max_children_of_init=2)
    await system.spawn("two")


@pytest.mark.parametrize(
    "name", ["", "self", ".", "..", "a b", "a/b", "ä", "x" * 65, "new\nline", "init\n"]
)
async def test_a_name_that_cannot_be_one_is_einval(system: System, name: str) -> None:
    assert (await refused(system, name=name)).errno == errno.EINVAL


async def test_a_name_that_a_living_process_has_is_eexist(system: System) -> None:
    await system.spawn("bob")
    for name in ("bob", "init"):
        assert (await refused(system, name=name)).errno == errno.EEXIST


async def test_an_agent_is_put_to_work_again_by_its_creator_and_the_operator_only(
    system: System,
) -> None:
    creator, other = await system.spawn("creator"), await system.spawn("other")

    async def work(principal: Any, parent: int) -> None:
        spec = ProcessSpec(name="bob")
        bob = await system.processes.spawn(principal, parent, spec)
        system.processes.done(OPERATOR, bob.pid, 0)

    await work(as_agent(creator), creator.pid)
    assert system.agents.get("bob").creator == "creator"
    await work(as_agent(creator), creator.pid)
    await work(OPERATOR, 1)
    refusal = await refused(system, who=as_agent(other), parent=other.pid, name="bob")
    assert refusal.errno == errno.EEXIST
    assert "creator defined that agent" in refusal.reason


async def test_an_agent_the_kernel_makes_is_made_by_nobody_else(system: System) -> None:
    parent = await system.spawn("parent")
    who = as_agent(parent)
    for name in ("guardian", "Guardian", "m1nd", "tool-grep"):
        refusal = await refused(system, who=who, parent=parent.pid, name=name)
        assert refusal.errno == errno.EACCES, name
        assert "the kernel makes an agent" in refusal.reason
        with pytest.raises(KernelError, match="the kernel makes"):
            system.agents.define(who, name, parent.uid, parent.gid)
    await system.spawn("guardian")


async def test_only_process_1_may_assign_another_user(system: System) -> None:
    parent = await system.spawn("parent")
    who = as_agent(parent)
    refusal = await refused(system, who=who, parent=parent.pid, name="child", user=OTHER)
    assert (refusal.errno, refusal.rule) == (errno.EPERM, "user")
    same = ProcessSpec(name="child", user=parent.user)
    assert (await system.processes.spawn(who, parent.pid, same)).uid == parent.uid
    assert (await refused(system, name="child2", user="no-such-user")).errno == errno.EINVAL
    assert (await refused(system, name="child2", user="nul\0")).errno == errno.EINVAL


async def test_another_user_needs_a_daemon_that_is_root(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert (await refused(system, name="child", user=OTHER)).errno == errno.EPERM


@pytest.mark.parametrize(
    "spec",
    [
        {"exec": [""]},
        {"exec": ["true", "nul\0"]},
        {"exec": ["\ud800"]},
        {"exec": ["true"], "env": {"A=B": "c"}},
        {"exec": ["true"], "env": {"": "c"}},
        {"exec": ["true"], "env": {"A": "c\0"}},
        {"exec": ["true"], "cwd": "/\0"},
    ],
)
async def test_what_no_machine_could_start_is_einval(system: System, spec: dict[str, Any]) -> None:
    assert (await refused(system, name="child", **spec)).errno == errno.EINVAL


class Denying:
    """A policy that says no to capabilities, too."""

    def __init__(self, *denied: str) -> None:
        self.denied, self._policy = denied, Policy()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def require_capability(self, actor: Any, capability: str) -> None:
        if capability in self.denied:
            raise KernelError(errno.EACCES, capability, rule=capability)


async def test_the_first_rule_that_says_no_decides(system: System) -> None:
    """A request that every rule refuses, mended rule by rule: the refusals come in the order of
    `RULES`."""
    await system.spawn("taken")
    parent = await system.spawn("parent", role="task", tier="tactical", limits={"max_children": 0})
    system.processes.done(OPERATOR, parent.pid, 0)
    actor = await system.spawn("actor")
    wrong: dict[str, Any] = {
        "name": "taken",
        "role": "kernel",
        "tier": "strategic",
        "user": OTHER,
        "tools": ["shell"],
        "exec": [""],
        "budget": {"tactical": 1},
    }
    denied = ["spawn_children", "tool:shell"]
    groups = system.kernel.groups
    groups.create(OPERATOR, "", "full")
    groups.set_limit(OPERATOR, "full", "pids", 0)
    system.table.update(parent, group="full")

    def asked() -> str:
        policy = Denying(*denied)
        spec = ProcessSpec(**wrong)
        ceilings = Ceilings(system.table, system.settings)
        asked = rules.SpawnRequest(
            actor,
            parent,
            spec,
            system.table,
            system.agents,
            policy,
            ceilings,
            system.ground.parts,
        )
        try:
            rules.check(asked)
        except KernelError as refusal:
            return refusal.rule or refusal.code
        return "granted"

    def mend(**fields: Any) -> None:
        system.table.update(parent, **fields)

    steps = [
        ("roles.yaml: task spawn", lambda: mend(role=Role.LEAD)),
        ("role", lambda: wrong.update(role="task")),
        ("spawn_children", lambda: denied.remove("spawn_children")),
        ("user", lambda: wrong.pop("user")),
        ("tool:shell", lambda: denied.remove("tool:shell")),
        ("group full: pids.max", lambda: mend(group="")),
        ("ESRCH", lambda: mend(state=State.IDLE)),
        ("tier", lambda: mend(tier=Tier.STRATEGIC)),
        ("max_children", lambda: mend(limits=Limits(max_children=5))),
        ("roles.yaml: task tiers", lambda: wrong.update(tier="tactical")),
        ("name", lambda: wrong.update(name="free")),
        ("program", lambda: wrong.pop("exec")),
        ("budget", lambda: wrong.pop("budget")),
        ("granted", lambda: None),
    ]
    for expected, step in steps:
        assert asked() == expected
        step()
