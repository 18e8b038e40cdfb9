"""Capabilities: what a set means, what a child gets, what each role has, and giving up."""

from __future__ import annotations

import errno
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.model.capability import (
    EVERYTHING,
    NEEDS,
    NOTHING,
    PLAIN,
    CapabilitySet,
    Ceiling,
    canonical,
)
from agentfs.model.process import Process, Role
from agentfs.model.spec import ProcessSpec, parse_spec
from agentfs.process.capabilities import MAX_DENIED, Child, ceiling_below
from agentfs.process.events import CapabilityDropped
from agentfs.rights.policy import Policy
from agentfs.rights.role_capabilities import MAX_KNOWN, RoleCapabilities
from agentfs.rights.roles import Roles
from tests.process.world import OPERATOR, System, as_agent, running

ROLES = [role for role in Role if role is not Role.KERNEL]
TOOLS = ["search", "web_get", "web_put", "db_get", "bash", "write_file"]
UNIVERSE = [*PLAIN, *(f"tool:{tool}" for tool in TOOLS)]


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with running(tmp_path / "state") as made:
        yield made


def caps(*allowed: str, deny: Iterable[str] = ()) -> CapabilitySet:
    return CapabilitySet.of(allowed, deny)


def said_by(lines: Iterable[str], name: str) -> bool:
    """Whether the lines of `effective` say that `name` is allowed, as a person reads them."""
    rows = list(lines)
    tool = name.partition(":")[2]
    if not tool:
        return name in rows
    if tool in NEEDS:
        return NEEDS[tool] in rows and not any(r[0] == "-" and hits(r[1:], name) for r in rows)
    if any(row.startswith("-") and hits(row[1:], name) for row in rows):
        return False
    more = [row[2:].split(" ") for row in rows if row.startswith("& ")]
    return any(hits(row, name) for row in rows) and all(
        any(hits(glob, name) for glob in each) for each in more
    )


def hits(glob: str, name: str) -> bool:
    return bool(re.fullmatch(".*".join(map(re.escape, glob.split("*"))), name))


# -- sets: hexDAG's list ---------------------------------------------------------------------------


def test_a_set_allows_what_is_in_it_and_nothing_else() -> None:
    found = caps("llm", "tool:web_*")
    allowed = [name for name in ("llm", "memory", "tool:web_get", "tool:db") if found.allows(name)]
    assert allowed == ["llm", "tool:web_get"]
    with pytest.raises(FrozenInstanceError):
        found.names = frozenset()  # type: ignore[misc]


def test_deny_beats_allow() -> None:
    found = caps("llm", "memory", "tool:*", deny=["llm", "tool:rm_*"])
    assert (found.allows("llm"), found.denies("llm")) == (False, True)
    assert (found.allows("memory"), found.denies("memory")) == (True, False)
    assert (found.allows("tool:search"), found.allows("tool:rm_all")) == (True, False)
    assert not caps("*", deny=["*"]).allows("llm")
    assert caps("*", deny=["*"]).lines == ()


def test_the_intersection_is_of_what_is_allowed_and_the_union_of_what_is_denied() -> None:
    found = caps("llm", "memory", deny=["secret"]) & caps("llm", "escalate", deny=["memory"])
    assert [name for name in PLAIN if found.allows(name)] == ["llm"]
    assert found.denied == {"secret", "memory"}


def test_an_empty_list_grants_nothing_and_a_star_everything() -> None:
    assert not any(NOTHING.allows(name) for name in UNIVERSE)
    assert NOTHING.lines == ()
    assert all(EVERYTHING.allows(name) for name in UNIVERSE)
    assert EVERYTHING.lines == (*PLAIN, "tool:*")
    assert caps("*", "llm") == EVERYTHING


def test_globs_are_compared_by_meaning() -> None:
    assert (caps("tool:*") & caps("tool:search")).lines == ("tool:search",)
    assert (caps("tool:web_*") & caps("tool:*_get")).lines == ("tool:web_*_get", "tool:web_get")
    assert (caps("tool:web_*") & caps("tool:db_*")).lines == ()
    assert (caps("tool:web_*", "tool:web_get")).lines == ("tool:web_*",)
    found = caps("tool:web_*", "tool:db_get", deny=["tool:web_p*", "tool:db_*", "tool:x"])
    assert found.lines == ("tool:web_*", "-tool:web_p*")


def test_what_cannot_be_written_out_is_still_said_and_still_holds() -> None:
    one = caps(*(f"tool:*{a}*{b}*" for a in "abcdef" for b in "ghijkl"))
    two = caps(*(f"tool:*{a}*{b}*" for a in "mnopqr" for b in "stuvwx"))
    found = one & two
    assert any(line.startswith("& tool:") for line in found.lines)
    for name in ("tool:agms", "tool:msag", "tool:ag", "tool:ms", "tool:ffllrrxx"):
        both = one.allows(name) and two.allows(name)
        assert found.allows(name) == both == said_by(found.lines, name)


@pytest.mark.parametrize(
    "name",
    ["", "LLM", "llm ", "fly", "datastore", "datastore.*", "tool", "tool:", "tool:a b", "tool:[a]"]
    + ["tool:a?", "tool:" + "x" * 65, "tool:*a*b*c*d*", "-llm", "*llm"],
)
def test_names_that_there_are_not_are_einval(name: str) -> None:
    with pytest.raises(KernelError) as refused:
        canonical(name)
    assert refused.value.errno == errno.EINVAL
    for key in ("caps", "deny"):
        with pytest.raises(KernelError) as refused:
            parse_spec(f"{{name: bob, {key}: [{name!r}]}}")
        assert (refused.value.errno, key in refused.value.reason) == (errno.EINVAL, True)


def test_the_name_of_workflows_for_spawning_is_an_alias() -> None:
    assert canonical("spawner") == "spawn_children"
    assert parse_spec("{caps: [spawner, 'tool:a**']}").caps == ["spawn_children", "tool:a*"]


# -- roles: HiveKernel's list ----------------------------------------------------------------------


def may(role: Role, name: str, policy: Policy | None = None) -> bool:
    policy = policy or Policy()
    return policy.capabilities(Child("bob", role, None, (), None)).allows(name)


def test_hivekernel_kernel_has_all() -> None:
    assert all(may(Role.KERNEL, name) for name in UNIVERSE)


HIVEKERNEL = {
    "spawn_children": "daemon agent lead worker",
    "kill_processes": "daemon agent lead worker",  # worker: it may signal its own children
    "manage_tree": "daemon",
    "shell_exec": "daemon agent lead worker",  # programs here are shell scripts too
    "network_access": "daemon agent lead worker",
    "file_write": "agent architect lead worker",
    "file_read": "daemon agent architect lead worker task",
    "budget_allocate": "daemon agent lead",
    "escalate": "daemon agent architect lead worker task",
    "broadcast": "daemon",
    "llm": "daemon agent architect lead worker task",
    "memory": "daemon agent architect lead worker task",
    "datastore.read": "daemon agent architect lead worker task",
    "datastore.write": "daemon agent architect lead worker",
    "secret": "daemon agent architect lead worker",
    "tool:search": "daemon agent architect lead worker task",
}


@pytest.mark.parametrize("name", HIVEKERNEL)
def test_hivekernel_the_table_of_roles(name: str) -> None:
    assert [role.value for role in ROLES if may(role, name)] == HIVEKERNEL[name].split()


@pytest.mark.parametrize(
    ("role", "tool", "fine"),
    [
        (Role.TASK, "shell_exec", False),
        (Role.TASK, "bash", False),
        (Role.ARCHITECT, "terminal", False),
        (Role.WORKER, "file_write", True),
        (Role.DAEMON, "write_file", False),
        (Role.TASK, "web_search", True),
    ],
)
async def test_hivekernel_validate_tools(system: System, role: Role, tool: str, fine: bool) -> None:
    """By the capabilities that the child would have, whoever its parent is."""
    if fine:
        assert (await system.spawn("bob", role=role.value, tools=[tool])).name == "bob"
        return
    with pytest.raises(KernelError) as refused:
        await system.spawn("bob", role=role.value, tools=[tool])
    needed = NEEDS[tool]
    assert (refused.value.errno, refused.value.rule) == (errno.EACCES, f"capability {needed}")
    assert f"{needed} for the tool {tool}" in refused.value.reason
    assert system.agents.find("bob") is None


def test_hivekernel_grant_and_revoke_override_by_the_table_of_the_role() -> None:
    """A task gets file_write and a worker loses network_access: by roles.yaml, at once."""
    policy = Policy()
    task = Child("errand", Role.TASK, None, (), None)
    worker = Child("bob", Role.WORKER, None, (), None)
    assert not policy.capabilities(task).allows("file_write")
    assert policy.capabilities(worker).allows("network_access")
    policy.use_roles(
        Roles.parse("roles: {task: {capabilities: [file_write]}, worker: {capabilities: [llm]}}")
    )
    assert policy.capabilities(task).lines == ("file_write",)
    assert policy.capabilities(worker).lines == ("llm",)


async def test_the_role_of_an_ancestor_bounds_what_came_from_it(system: System) -> None:
    """A daemon has no file_write, so no child of one has: whatever its own role says. The table
    that holds is today's."""
    policy = system.policy
    daemon = await system.spawn("daemon", role="daemon")
    lead = await system.spawn("lead", daemon.pid, role="lead")
    worker = await system.spawn("worker", lead.pid, role="worker")
    assert not policy.capabilities(worker).allows("file_write")
    system.processes.command(OPERATOR, daemon.pid, "KILL")
    system.processes.reparent(OPERATOR, worker.pid, 1)
    assert not policy.capabilities(worker).allows("file_write")
    assert policy.capabilities(await system.spawn("other", role="worker")).allows("file_write")
    policy.use_roles(Roles.parse("roles: {daemon: {capabilities: ['*']}}"))
    assert policy.capabilities(worker).allows("file_write")
    policy.use_roles(Roles.parse("roles: {lead: {capabilities: [llm, file_write]}}"))
    assert policy.capabilities(worker).lines == ("llm",)


# -- spawning --------------------------------------------------------------------------------------


def child(parent: Any, role: Role = Role.AGENT, **spec: Any) -> Child:
    allowed = None if spec.get("caps") is None else tuple(map(canonical, spec["caps"]))
    denied = tuple(map(canonical, spec.get("deny", ())))
    return Child("bob", role, allowed, denied, None if parent is None else ceiling_below(parent))


names = st.sampled_from([*UNIVERSE, "tool:web_*", "tool:*_get", "tool:*", "tool:db*t", "*"])
a_child = st.tuples(
    st.sampled_from(ROLES),
    st.none() | st.lists(names, max_size=6),
    st.lists(names, max_size=2),
)


@settings(deadline=None)
@given(st.lists(a_child, min_size=1, max_size=5))
def test_a_child_has_parent_and_declared_without_every_deny_above_it(
    line: list[tuple[Role, list[str] | None, list[str]]],
) -> None:
    """Against a model that knows no globs, only names; the lines of `effective` mean the same."""
    policy = Policy()
    holder: Child | None = None
    expected = set(UNIVERSE)
    for role, allowed, denied in line:
        holder = child(holder, role, caps=allowed, deny=denied)
        granted = [g for g in allowed if g != "*"] if allowed is not None else []
        everything = allowed is None or "*" in allowed
        for name in UNIVERSE:
            tool = NEEDS.get(name.removeprefix("tool:"), name)  # bash is a matter of shell_exec
            fine = everything or any(hits(glob, tool) for glob in granted)
            no = any(glob == "*" or hits(glob, name) or hits(glob, tool) for glob in denied)
            if not fine or no or not policy.role_capabilities(role).allows(tool):
                expected.discard(name)
        found = policy.capabilities(holder)
        assert {name for name in UNIVERSE if found.allows(name)} == expected
        plain = [name for name in UNIVERSE if NEEDS.get(name[5:]) is None]
        assert {name for name in plain if said_by(found.lines, name)} == expected & set(plain)
        ceiling = ceiling_below(holder)
        assert ceiling is not None
        assert Ceiling.from_record(ceiling.record()) == ceiling


async def test_siblings_share_their_ceiling_and_so_do_those_that_are_read_again(
    system: System,
) -> None:
    parent = await system.spawn("parent", caps=["llm", "spawn_children"], deny=["memory"])
    heir, other = await system.spawn("heir", parent.pid), await system.spawn("other", parent.pid)
    assert heir.ceiling is not None
    assert heir.ceiling is other.ceiling
    again = [Process.from_record(process.record()).ceiling for process in (heir, other)]
    assert again[0] is again[1]
    assert again[0] == heir.ceiling
    system.policy.capabilities(heir)
    system.table.update(parent, denied=("memory", "llm"))
    assert (await system.spawn("third", parent.pid)).ceiling != heir.ceiling


async def test_left_out_inherits_and_an_empty_list_is_nothing(system: System) -> None:
    table = system.policy.capabilities
    parent = await system.spawn("parent", caps=["llm", "spawn_children"], deny=["memory"])
    heir = await system.spawn("heir", parent.pid)
    assert table(heir).lines == table(parent).lines == ("spawn_children", "llm")
    bare = await system.spawn("bare", parent.pid, caps=[])
    assert table(bare).lines == ()
    greedy = await system.spawn("greedy", parent.pid, caps=["*"])
    assert table(greedy).lines == table(parent).lines
    other = await system.spawn("other", parent.pid, caps=["memory", "llm", "secret"])
    assert table(other).lines == ("llm",)
    with pytest.raises(KernelError) as refused:
        system.policy.require_capability(other, "memory")
    assert refused.value.errno == errno.EPERM  # it was denied to its parent
    with pytest.raises(KernelError) as refused:
        system.policy.require_capability(other, "secret")
    assert refused.value.errno == errno.EACCES  # it was only not given
    assert "a process above it" in refused.value.reason


async def test_without_spawn_children_there_are_no_children(system: System) -> None:
    for deny, code in (([], errno.EACCES), (["spawner"], errno.EPERM)):
        parent = await system.spawn(f"parent{code}", caps=["llm"], deny=deny)
        with pytest.raises(KernelError) as refused:
            await system.processes.spawn(as_agent(parent), parent.pid, ProcessSpec(name="child"))
        assert (refused.value.errno, refused.value.rule) == (code, "capability spawn_children")
    assert system.agents.find("child") is None


async def test_the_tools_of_a_spec_are_checked_against_what_the_child_would_have(
    system: System,
) -> None:
    parent = await system.spawn("parent", caps=["spawn_children", "tool:web_*"])
    await system.spawn("bob", parent.pid, tools=["web_get"])
    for spec in ({"tools": ["db_get"]}, {"tools": ["web_get"], "caps": ["tool:db_*"]}):
        with pytest.raises(KernelError) as refused:
            await system.spawn("carol", parent.pid, **spec)
        assert refused.value.errno == errno.EACCES
    with pytest.raises(KernelError) as refused:
        await system.spawn("carol", parent.pid, tools=["web_get"], deny=["tool:*_get"])
    assert refused.value.errno == errno.EPERM


async def test_killing_others_and_moving_them_needs_the_capability(system: System) -> None:
    parent = await system.spawn("parent", role="daemon", deny=["kill_processes", "manage_tree"])
    bob = await system.spawn("bob", parent.pid)
    calls = system.processes
    attempts = [
        lambda: calls.signal(as_agent(parent), bob.pid, "TERM"),
        lambda: calls.kill_branch(as_agent(parent), bob.pid),
        lambda: calls.reparent(as_agent(parent), bob.pid, 1),
    ]
    for attempt, name in zip(attempts, ["kill_processes"] * 2 + ["manage_tree"], strict=True):
        with pytest.raises(KernelError) as refused:
            attempt()
        assert (refused.value.errno, refused.value.rule) == (errno.EPERM, f"capability {name}")
    assert (bob.state.alive, bob.ppid) == (True, parent.pid)
    calls.signal(as_agent(parent), parent.pid, "KILL")  # itself: always


# -- giving up -------------------------------------------------------------------------------------


async def test_what_is_dropped_is_gone_at_once_for_good_and_for_new_children(
    tmp_path: Path,
) -> None:
    async with running(tmp_path / "state", keep=True) as system:
        drop = system.kernel.capabilities.drop
        alice = await system.spawn("alice", caps=["spawner", "llm", "tool:*", "memory"])
        before = await system.spawn("before", alice.pid)
        drop(as_agent(alice), alice.pid, "llm")
        drop(as_agent(alice), alice.pid, "tool:web_*")
        drop(as_agent(alice), alice.pid, "llm")  # a second time, and one it never had: nothing
        drop(OPERATOR, alice.pid, "secret")
        assert [event.capability for event in system.of(CapabilityDropped)] == [
            "llm",
            "tool:web_*",
            "secret",
        ]
        after = await system.spawn("after", alice.pid, caps=["*"])
        for process in (alice, after):
            assert lines(system, process) == ("spawn_children", "memory", "tool:*", "-tool:web_*")
        assert lines(system, before) == ("spawn_children", "llm", "memory", "tool:*")
        for name in ("llm", "tool:web_get", "secret"):
            with pytest.raises(KernelError) as refused:
                system.policy.require_capability(alice, name)
            assert refused.value.errno == errno.EPERM
        everyone = {p.name: lines(system, p) for p in system.table}
    assert check(tmp_path / "state/store.db") == []
    async with running(tmp_path / "state") as system:  # after kill -9
        assert {p.name: lines(system, p) for p in system.table} == everyone


def lines(system: System, process: Process) -> tuple[str, ...]:
    return system.policy.capabilities(process).lines


async def test_who_may_drop(system: System) -> None:
    drop = system.kernel.capabilities.drop
    alice, bob = await system.spawn("alice"), await system.spawn("bob")
    for who, pid, name, code in (
        (as_agent(bob), alice.pid, "llm", errno.EACCES),
        (OPERATOR, 1, "llm", errno.EPERM),
        (OPERATOR, 99, "llm", errno.ESRCH),
        (as_agent(alice), alice.pid, "fly", errno.EINVAL),
    ):
        with pytest.raises(KernelError) as refused:
            drop(who, pid, name)
        assert refused.value.errno == code
    for number in range(MAX_DENIED):
        drop(as_agent(alice), alice.pid, f"tool:t{number}")
    with pytest.raises(KernelError) as refused:
        drop(as_agent(alice), alice.pid, "llm")
    assert refused.value.errno == errno.ENOSPC
    drop(as_agent(bob), bob.pid, "*")
    assert lines(system, bob) == ()
    system.processes.command(OPERATOR, bob.pid, "KILL")
    with pytest.raises(KernelError) as refused:
        drop(OPERATOR, bob.pid, "llm")
    assert refused.value.errno == errno.ESRCH


def test_a_refusal_says_what_took_it_away() -> None:
    policy = Policy()
    worker = Child("bob", Role.WORKER, ("llm",), ("tool:rm",), None)
    for name, words in (
        ("broadcast", "bob may not use the capability broadcast: role worker does not have it"),
        ("memory", "the `caps` of its spec do not name it"),
        ("tool:rm", "is denied the capability tool:rm"),
        ("tool:bash", "the capability shell_exec for the tool bash"),
    ):
        with pytest.raises(KernelError) as refused:
            policy.require_capability(worker, name)
        assert words in refused.value.reason
    with pytest.raises(KernelError) as refused:
        policy.require_capability(worker, "tool:a b")
    assert refused.value.errno == errno.EINVAL


def test_what_is_kept_of_sets_is_bounded() -> None:
    tables = RoleCapabilities({role: ["*"] for role in Role})
    for number in range(MAX_KNOWN + 10):
        worker = Child("bob", Role.WORKER, None, (f"tool:t{number}",), None)
        assert not tables.effective(worker).allows(f"tool:t{number}")
        assert len(tables._known) <= MAX_KNOWN


def test_a_process_of_an_older_store_has_what_its_role_has(tmp_path: Path) -> None:
    record = {
        "pid": 2, "ppid": 1, "name": "bob", "role": "worker", "tier": "tactical", "model": "m",
        "uid": 0, "gid": 0, "user": "root", "node": "here", "restart": "never", "started": 0.0,
        "state": "idle", "exec": [], "limits": {},
    }  # fmt: skip
    process = Process.from_record(record)
    policy = Policy()
    assert policy.capabilities(process) == policy.role_capabilities(Role.WORKER)
    assert Process.from_record(process.record()) == process


def test_reading_the_machine_is_had_unless_it_is_denied_by_name() -> None:
    """By a spec, by a role, by whoever is above, or with everything else."""
    for allowed in ([], ["llm"], ["*"], ["host_read"]):
        found = caps(*allowed)
        assert found.allows("host_read")
        assert found == caps(*(name for name in allowed if name != "host_read"))
        assert "host_read" not in " ".join(found.lines)
    for denied in (["host_read"], ["*"]):
        assert not caps("*", deny=denied).allows("host_read")
        assert caps("*", deny=denied).denies("host_read")
    assert caps("llm", deny=["host_read"]).lines == ("llm", "-host_read")
    both = caps("*") & caps("*", deny=["host_read"])
    assert not both.allows("host_read")
    assert Ceiling.from_record(Ceiling(("worker",), both).record()).grant == both
    assert EVERYTHING.allows("host_read")


async def test_a_role_takes_it_away_with_a_minus_and_from_all_below_it(system: System) -> None:
    boss = await system.spawn("boss", role="lead")
    kid = await system.spawn("kid", boss.pid)
    policy = system.policy
    assert all(policy.capabilities(each).allows("host_read") for each in (boss, kid))
    policy.use_roles(Roles.parse("roles: {lead: {capabilities: ['*', -host_read]}}"))
    assert not any(policy.capabilities(each).allows("host_read") for each in (boss, kid))
    with pytest.raises(KernelError) as refused:
        policy.require_capability(kid, "host_read")
    assert refused.value.errno == errno.EPERM
    for bad in ("-llm", "-", "-nothing", "--host_read"):
        with pytest.raises(KernelError, match="only host_read is taken away so"):
            Roles.parse(f"roles: {{lead: {{capabilities: ['{bad}']}}}}")
    text = "roles: {lead: {capabilities: [-host_read]}}"
    assert Roles.parse(Roles.parse(text).text).entries == Roles.parse(text).entries
