"""Light entries of the table: runs, and the programs of their steps."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.clock import SystemClock
from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.machine.step_program import StepProgram
from agentfs.mail.message import Draft
from agentfs.model.capability import CapabilitySet, Ceiling
from agentfs.model.principal import Kind
from agentfs.model.process import Limits, Process, ProcessKind, Role, State, Tier
from agentfs.process.events import ProcessExited, ProcessReaped
from agentfs.process.step_files import artifacts_of, step_files
from agentfs.rights.roles import Action
from agentfs.store.part import Part
from tests.process.world import (
    OPERATOR,
    System,
    as_agent,
    collect,
    eventually,
    gone,
    running,
)
from tests.world import World


class Heard(Part):
    """What parts are told of runs and steps."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int | None, bool]] = []
        self.signals: list[tuple[int, str]] = []

    def step_ended(self, process: Process, code: int | None, *, lost: bool) -> None:
        self.steps.append((process.pid, code, lost))

    def run_signalled(self, process: Process, name: str, grace: float | None) -> None:
        self.signals.append((process.pid, name))


def hearing(system: Any) -> Heard:
    heard: Heard = system.kernel.ground.parts.add(Heard())
    return heard


async def step(
    system: System, run: Process, script: str, *, path: str = "fetch", given: bytes = b""
) -> Process:
    """A step that runs a shell script."""
    files = step_files(system.state_dir, run.pid, path, 1)
    files.make(given, os.getuid(), os.getgid())
    program = StepProgram(
        exec=("/bin/sh", "-c", script),
        input=files.input,
        output=files.output,
        code=files.code,
        home=artifacts_of(system.state_dir, run.pid),
        in_tree="artifacts",
        env={"NODE": path},
    )
    return await system.kernel.light.start_step(run, path, 1, program)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A system whose runs have entries alone: they end before the store is checked."""
    made = World(tmp_path)
    yield made
    for process in made.table:
        if process.kind is ProcessKind.RUN:
            made.kernel.light.end_run(process, 0)
    made.close()


# -- runs ----------------------------------------------------------------------------------------


def test_a_run_is_an_entry_that_counts_as_no_child_and_acts_in_its_starters_name(
    world: World,
) -> None:
    alice = world.process("alice", max_children=1)
    run = world.kernel.light.begin_run(alice, "review")
    assert (run.name, run.kind, run.ppid) == (f"review@{run.pid}", ProcessKind.RUN, alice.pid)
    assert (run.agent, world.table.agent_of(run)) == ("alice", alice)
    assert world.table.count_live_children(alice.pid) == 0
    assert world.table.descendants(alice.pid) == [run]
    sub = world.kernel.light.begin_run(run, "sub")
    assert (sub.agent, world.table.agent_of(sub)) == ("alice", alice)
    assert Process.from_record(run.record()) == run
    world.kernel.light.end_run(sub, 0)
    assert world.table.find(sub.pid) is None
    world.kernel.light.end_run(sub, 0)  # again: nothing


def test_the_end_of_a_run_is_told_once_and_leaves_nothing(world: World) -> None:
    alice = world.process("alice")
    before = world.kernel.supervisor.sizes()
    run = world.kernel.light.begin_run(alice, "review")
    world.kernel.light.set_state(run, State.IDLE)
    world.kernel.light.end_run(run, 3)
    ends = [each for each in world.seen if isinstance(each, ProcessExited | ProcessReaped)]
    assert ends == [
        ProcessExited(run.pid, run.name, 3),
        ProcessReaped(run.pid, run.name, alice.pid),
    ]
    assert world.kernel.supervisor.sizes() == before
    assert not list(world.kernel.history)


def test_a_run_may_what_its_starter_may_and_a_request_cannot_widen_that(world: World) -> None:
    alice = world.process("alice")
    world.kernel.capabilities.drop(OPERATOR, alice.pid, "network_access")
    wide = world.kernel.light.begin_run(alice, "wide", caps=["*"])
    none = world.kernel.light.begin_run(alice, "none", caps=[])
    denied = world.kernel.light.begin_run(alice, "denied", deny=["llm"])
    of = world.kernel.capabilities.of
    assert of(wide).allows("llm")
    assert not of(wide).allows("network_access")
    assert not of(none).allows("llm")
    assert not of(denied).allows("llm")
    below = world.kernel.light.begin_run(none, "below", caps=["*"])
    assert not of(below).allows("llm")
    with pytest.raises(KernelError) as refused:
        world.kernel.light.begin_run(alice, "odd", caps=["fly"])
    assert refused.value.errno == errno.EINVAL


def test_a_ceiling_bounds_what_the_operator_starts(world: World) -> None:
    init = world.table.get(1)
    ceiling = Ceiling(("task",), CapabilitySet.of(["llm", "network_access"]))
    run = world.kernel.light.begin_run(init, "nightly", ceiling=ceiling)
    of = world.kernel.capabilities.of
    assert of(run).allows("llm")  # which the role has and the grant names
    assert not of(run).allows("network_access")  # which a task has not
    assert not of(run).allows("tool:x")  # which the grant does not name


def test_a_run_outlives_its_starter_and_keeps_what_bounded_it(world: World) -> None:
    alice = world.process("alice", max_llm_calls=5, max_tool_calls=9)
    world.kernel.capabilities.drop(OPERATOR, alice.pid, "network_access")
    run = world.kernel.light.begin_run(alice, "review", limits=Limits.none_but(max_tool_calls=3))
    world.end(alice, 0)
    assert (run.ppid, run.state) == (1, State.RUNNING)
    ceilings = world.kernel.ceilings
    assert ceilings.effective(run, "max_llm_calls") == 5
    assert ceilings.effective(run, "max_tool_calls") == 3
    assert not world.kernel.capabilities.of(run).allows("network_access")
    assert run.agent == "alice"
    assert Process.from_record(run.record()) == run


def test_signals_of_a_run_are_for_those_who_run_it_but_kill_ends_the_branch(world: World) -> None:
    heard = hearing(world)
    alice = world.process("alice")
    run = world.kernel.light.begin_run(alice, "review")
    sub = world.kernel.light.begin_run(run, "sub")
    for name in ("TERM", "STOP", "CONT"):
        world.kernel.processes.signal(as_agent(alice), run.pid, name)
    assert heard.signals == [(run.pid, "TERM"), (run.pid, "STOP"), (run.pid, "CONT")]
    assert run.state is State.RUNNING
    killed = world.kernel.processes.kill_branch(as_agent(alice), run.pid)
    assert killed == [sub.pid, run.pid]
    assert world.table.find(run.pid) is world.table.find(sub.pid) is None


def test_runs_are_nobodys_to_move_and_have_no_mail(world: World) -> None:
    alice = world.process("alice")
    bob = world.process("bob")
    run = world.kernel.light.begin_run(alice, "review")
    calls = world.kernel.processes
    for call in (
        lambda: calls.reparent(OPERATOR, run.pid, bob.pid),
        lambda: calls.reparent(OPERATOR, bob.pid, run.pid),
        lambda: calls.attach(OPERATOR, run.pid, 1),
        lambda: calls.done(OPERATOR, run.pid, 0),
        lambda: world.kernel.escalations.escalate(OPERATOR, run.pid, "info", "x"),
    ):
        with pytest.raises(KernelError) as refused:
            call()
        assert refused.value.errno == errno.EPERM
    caller = as_agent(run)
    with pytest.raises(KernelError) as refused:
        world.mail.send(caller, run.name, Draft("bob", b"x", []))
    assert refused.value.errno == errno.EPERM
    assert "message" in refused.value.reason


def test_a_queue_that_a_step_makes_is_its_agents(world: World) -> None:
    alice = world.process("alice")
    run = world.kernel.light.begin_run(alice, "review")
    caller = as_agent(run)
    world.kernel.queues.create(caller, "work", 0o600)
    assert world.kernel.queues.get("work").ownership.owner == "alice"
    assert not caller.acts_for("alice")  # whose mail is not for it


def test_uses_count_for_the_run_for_all_above_it_and_for_its_agent(world: World) -> None:
    alice = world.process("alice", max_tool_calls=4)
    calls, light = world.kernel.calls, world.kernel.light
    run = light.begin_run(alice, "review", limits=Limits.none_but(max_tool_calls=3))
    sub = light.begin_run(run, "sub", limits=Limits.none_but())

    def use(process: Process) -> None:
        number = calls.tool(as_agent(process), process.pid, "search")
        assert isinstance(number, int)
        calls.settle(as_agent(process), process.pid, number)

    use(sub)
    use(sub)
    light.end_run(sub, 0)
    use(run)
    with pytest.raises(KernelError) as refused:
        use(run)
    assert refused.value.errno == errno.EDQUOT
    another = light.begin_run(run, "another", limits=Limits.none_but())
    with pytest.raises(KernelError):
        use(another)
    light.end_run(run, 1)
    use(alice)
    with pytest.raises(KernelError):
        use(alice)
    assert world.kernel.accounting.sums("agent", "alice").tool_calls == 4
    none = light.begin_run(alice, "none", limits=Limits.none_but(max_tool_calls=0))
    with pytest.raises(KernelError):
        use(none)


def test_calls_of_runs_within_the_minute_are_their_agents_too(world: World) -> None:
    alice = world.process("alice")
    world.kernel.limits.set(OPERATOR, alice.pid, "tool_calls_per_minute", "2")
    calls, light = world.kernel.calls, world.kernel.light
    for _ in range(2):
        run = light.begin_run(alice, "review", limits=Limits.none_but())
        calls.tool(as_agent(run), run.pid, "search")
    with pytest.raises(KernelError) as refused:
        calls.tool(as_agent(run), run.pid, "search")
    assert refused.value.errno == errno.EAGAIN
    assert "alice may make 2 tool calls a minute" in refused.value.reason


def test_the_budget_of_a_run_comes_from_its_starter_and_goes_back(world: World) -> None:
    init, light, budgets = world.table.get(1), world.kernel.light, world.kernel.budgets
    before = budgets.find(1, Tier.TACTICAL)
    assert before is not None
    left = before.remaining
    run = light.begin_run(init, "review", budget={"tactical": 1000})
    entry = budgets.find(run.pid, Tier.TACTICAL)
    assert entry is not None
    assert (entry.remaining, before.remaining) == (1000, left - 1000)
    light.end_run(run, 0)
    assert before.remaining == left
    with pytest.raises(KernelError) as refused:
        light.begin_run(init, "greedy", budget={"tactical": 10**15})
    assert refused.value.errno == errno.EDQUOT
    assert not world.table.live_children(1)


# -- steps ---------------------------------------------------------------------------------------


async def test_a_step_reads_its_input_and_leaves_output_log_and_code(system: System) -> None:
    heard = hearing(system)
    run = system.kernel.light.begin_run(system.table.get(1), "sum")
    made = await step(system, run, 'wc -c; echo "$NODE" >&2; exit 3', given=b"12345")
    files = system.kernel.light.files(made)
    assert made.name == f"sum@{run.pid}:fetch"
    assert made.limits == Limits.none_but(max_children=10)
    assert made.metadata == {"run": str(run.pid), "node": "fetch", "attempt": "1"}
    await system.until(lambda: heard.steps)
    assert heard.steps == [(made.pid, 3, False)]
    assert files.output.read_text().split() == ["5"]
    assert files.log.read_text() == "fetch\n"
    assert files.exit_code() == 3
    assert system.table.find(made.pid) is None
    system.kernel.light.forget_log(made)
    assert not system.agents.log_path(made.name).exists()
    system.kernel.light.end_run(run, 0)


async def test_a_program_does_not_have_the_descriptor_of_its_code(system: System) -> None:
    heard = hearing(system)
    run = system.kernel.light.begin_run(system.table.get(1), "fds")
    made = await step(system, run, "ls -l /proc/self/fd | grep -c /code; true")
    await system.until(lambda: heard.steps)
    assert system.kernel.light.files(made).output.read_text() == "0\n"


async def test_one_that_cannot_start_leaves_no_entry_and_tells_no_end(system: System) -> None:
    heard = hearing(system)
    run = system.kernel.light.begin_run(system.table.get(1), "odd", caps=["llm"])
    files = step_files(system.state_dir, run.pid, "a", 1)
    files.make(b"", os.getuid(), os.getgid())
    program = StepProgram(
        exec=("/nowhere/at/all",),
        output=files.output,
        code=files.code,
        home=artifacts_of(system.state_dir, run.pid),
        in_tree="artifacts",
    )
    with pytest.raises(KernelError) as refused:
        await system.kernel.light.start_step(run, "a", 1, program)
    assert refused.value.errno == errno.ENOENT
    assert not system.table.children(run.pid)
    assert not heard.steps
    assert not list((system.state_dir / "logs").glob("odd@*"))


async def test_a_cancelled_step_has_its_grace_and_takes_all_that_it_started_with_it(
    system: System,
) -> None:
    heard = hearing(system)
    run = system.kernel.light.begin_run(system.table.get(1), "stubborn")
    script = "trap 'echo bye; exit 5' TERM; setsid sleep 1000 & echo $!; wait"
    made = await step(system, run, script)
    files = system.kernel.light.files(made)
    await eventually(lambda: files.output.read_text().endswith("\n"))
    left = int(files.output.read_text())
    system.kernel.light.cancel_branch(run)
    await system.until(lambda: heard.steps)
    assert heard.steps == [(made.pid, 5, False)]
    assert files.output.read_text().endswith("bye\n")
    await gone(left)


async def test_one_that_ignores_term_is_killed_after_the_grace(system: System) -> None:
    heard = hearing(system)
    run = system.kernel.light.begin_run(system.table.get(1), "deaf")
    made = await step(system, run, "trap '' TERM; setsid sleep 1000 & echo $!; sleep 1000")
    files = system.kernel.light.files(made)
    await eventually(lambda: files.output.read_text().endswith("\n"))
    system.kernel.light.cancel_step(made, grace=0.1)
    await system.until(lambda: heard.steps)
    assert heard.steps == [(made.pid, 137, False)]
    await gone(int(files.output.read_text()))


async def test_kill_of_a_run_ends_its_steps(system: System) -> None:
    heard = hearing(system)
    run = system.kernel.light.begin_run(system.table.get(1), "gone")
    made = await step(system, run, "exec sleep 1000")
    assert made.ospid is not None
    system.kernel.processes.kill_branch(OPERATOR, run.pid)
    assert heard.steps == [(made.pid, 137, False)]
    await gone(made.ospid)
    assert not system.table.children(1)


async def test_a_step_is_the_caller_that_its_own_program_is(system: System) -> None:
    run = system.kernel.light.begin_run(system.table.get(1), "who")
    made = await step(system, run, "exec sleep 1000")
    assert made.ospid is not None
    found = system.kernel.identity.resolve(made.ospid, os.getuid(), os.getgid())
    assert (found.kind, found.pid, found.name) == (Kind.AGENT, made.pid, made.name)
    assert found.agent == "init"
    system.kernel.processes.kill_branch(OPERATOR, run.pid)


@pytest.mark.parametrize("groups", [True, False])
async def test_the_end_of_a_step_without_a_daemon_is_known_by_its_files(
    tmp_path: Path, groups: bool
) -> None:
    state = tmp_path / "state"
    async with running(state, groups=groups, keep=True) as system:
        run = system.kernel.light.begin_run(system.table.get(1), "over")
        go = tmp_path / "go"
        ends = await step(system, run, f"until [ -e {go} ]; do sleep 0.01; done; exit 4", path="a")
        still = await step(system, run, "exec sleep 1000", path="b")
        lost = await step(system, run, "exec sleep 1000", path="c")
    assert ends.ospid
    assert still.ospid
    assert lost.ospid
    go.touch()
    collect(ends.ospid)  # nobody knows how it ended, by now, but its file
    os.killpg(lost.ospid, signal.SIGKILL)
    collect(lost.ospid)
    system = System(state, SystemClock(), groups=groups)
    heard = hearing(system)
    try:
        system.kernel.load()
        system.supervisor.boot()
        assert sorted(heard.steps) == [(ends.pid, 4, False), (lost.pid, None, True)]
        assert [each.pid for each in system.table.children(run.pid)] == [still.pid]
    finally:
        os.killpg(still.ospid, signal.SIGKILL)
        collect(still.ospid)
        system.programs.close()
        system.store.close()


async def test_a_step_of_which_only_the_entry_is_there_has_perhaps_begun(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with running(state, keep=True) as system:
        run = system.kernel.light.begin_run(system.table.get(1), "half")
        made = await step(system, run, "exec sleep 1000")
        assert made.ospid
        os.killpg(made.ospid, signal.SIGKILL)
        collect(made.ospid)
        system.table.update(made, ospid=None, os_start=0)
    async with running(state) as system:
        assert not system.table.children(run.pid)
        assert system.table.find(run.pid)


def test_the_check_finds_what_cannot_be(world: World) -> None:
    alice = world.process("alice")
    run = world.kernel.light.begin_run(alice, "review")
    path = world.state / "store.db"
    record = run.record()
    for change, words in (
        ({"behalf": ""}, "acts in nobody's name"),
        ({"name": "alice"}, "has the name of agent alice"),
        ({"kind": "step"}, f"its parent {alice.pid} is no run"),
        ({"state": "zombie"}, "has ended, and is still there"),
        ({"ospid": 7}, "is a run, and has a program"),
    ):
        with world.store.transaction():
            world.store.put_record("processes", str(run.pid), {**record, **change})
        assert any(words in fault for fault in check(path)), words
    with world.store.transaction():
        world.store.put_record("processes", str(run.pid), record)


async def test_why_says_what_a_run_and_a_step_are_for(system: System) -> None:
    run = system.kernel.light.begin_run(system.table.get(1), "who")
    why = system.kernel.why.of
    assert why(run).startswith("run ")
    assert why(run).endswith(f"/proc/runs/{run.pid}/nodes says for what")
    made = await step(system, run, "exec sleep 1000")
    assert why(run).endswith("programs of fetch")
    assert why(made).endswith(f"node fetch of run {run.pid}, attempt 1")
    system.kernel.processes.kill_branch(OPERATOR, run.pid)


async def test_what_a_step_has_spawned_ends_with_a_run_that_is_cancelled(system: System) -> None:
    light = system.kernel.light
    kept, ended = (light.begin_run(system.table.get(1), name) for name in ("kept", "ended"))
    alice = await system.shell("alice", "exec sleep 1000")
    bob = await system.shell("bob", "exec sleep 1000")
    system.table.move(alice, kept.pid)
    system.table.move(bob, ended.pid)
    light.end_run(kept, 0)
    light.end_run(ended, 143, cancel=True)
    assert (alice.ppid, alice.stopping) == (1, False)
    assert bob.stopping
    await system.until(lambda: not bob.state.alive)


def test_rules_about_an_agent_and_a_role_hold_for_what_acts_in_its_name(world: World) -> None:
    world.kernel.acl.replace(
        "rules:\n- {effect: deny, agent: alice, action: kill, path: /agents/bob}\n"
        "- {effect: deny, role: lead, action: spawn, path: /agents/carl}\n"
    )
    alice = world.process("alice", role=Role.LEAD)
    bob = world.process("bob")
    run = world.kernel.light.begin_run(alice, "review")
    assert run.role is Role.LEAD
    policy = world.kernel.policy
    for action, path in ((Action.KILL, "/agents/bob"), (Action.SPAWN, "/agents/carl")):
        for actor in (alice, run):
            assert not policy.decide(actor, action, path, bob).allowed
    assert world.kernel.light.begin_run(world.table.get(1), "x").role is Role.WORKER
