"""The system calls: who may make them, what they do to real programs, what they refuse."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from agentfs.base.errors import KernelError
from agentfs.machine.proc import is_stopped, read_stat
from agentfs.model.principal import Kind, Principal
from agentfs.model.process import Process, Restart, State
from agentfs.model.spec import ProcessSpec
from agentfs.process.events import AgentChanged, AgentDefined, AgentRemoved, SignalSent
from agentfs.store.part import Part
from tests.process.test_programs import needs_root
from tests.process.test_supervisor import jump, over
from tests.process.world import (
    OPERATOR,
    PYTHON,
    System,
    alive,
    as_agent,
    eventually,
    gone,
    program,
    running,
    zombie,
)

STRANGER = Principal(Kind.STRANGER, None, "a stranger", 0, 0)
SLEEP = ["sleep", "1000"]
ENDED = {"TERM": State.ZOMBIE, "KILL": State.DEAD}


def refuses(number: int, call: Any, *args: Any) -> KernelError:
    with pytest.raises(KernelError) as caught:
        call(*args)
    assert caught.value.errno == number, caught.value
    return caught.value


def commands(system: System, process: Process, *lines: str) -> None:
    for line in lines:
        system.processes.command(OPERATOR, process.pid, line)


def notices(system: System, process: Process) -> list[str]:
    return [event.text for event in system.of(SignalSent) if event.pid == process.pid]


def stopped(ospid: int) -> bool:
    """Whether it stands still, or waits in vfork(2) for its child that does: dash starts commands
    so, and Linux does not stop it before the child has executed something."""
    stat = read_stat(ospid)
    if stat is None or stat.state not in "TD":
        return False
    return stat.state == "T" or (is_stopped(ospid) and any(map(stopped, children(ospid))))


def children(ospid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{ospid}/task/{ospid}/children").read_text().split()]


# -- spawn -----------------------------------------------------------------------------------------


async def test_fifty_spawns_at_once_never_exceed_max_children(system: System) -> None:
    parent = await system.spawn("parent", limits={"max_children": 7})
    most = 0
    results: list[object] = []

    async def one(number: int) -> None:
        nonlocal most
        spec = ProcessSpec(name=f"child{number}", exec=SLEEP)
        try:
            await system.processes.spawn(as_agent(parent), parent.pid, spec)
            results.append("started")
        except KernelError as refusal:
            results.append(refusal.errno)
        most = max(most, len(system.table.live_children(parent.pid)))

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(one, number)
    assert sorted(map(str, results)) == sorted(["started"] * 7 + [str(errno.EAGAIN)] * 43)
    assert most == 7


async def test_of_two_spawns_of_one_name_at_once_one_is_refused(system: System) -> None:
    results: list[object] = []

    async def one() -> None:
        try:
            results.append((await system.spawn("bob", exec=SLEEP)).pid)
        except KernelError as refusal:
            results.append(refusal.errno)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(one)
    assert sorted(results) == [2, errno.EEXIST]  # type: ignore[type-var]


@pytest.mark.parametrize("name", ["KILL", "TERM"])
async def test_a_signal_to_a_program_that_is_being_started_reaches_it(
    system: System, name: str
) -> None:
    async with trio.open_nursery() as nursery:

        async def start() -> None:
            await system.spawn("bob", exec=SLEEP)

        nursery.start_soon(start)
        while system.table.by_name("bob") is None:
            await trio.lowlevel.checkpoint()
        process = system.table.by_name("bob")
        assert process is not None
        refuses(errno.EAGAIN, system.processes.signal, OPERATOR, process.pid, "STOP")
        system.processes.signal(OPERATOR, process.pid, name)
    await over(system, process)
    assert process.exit_code == (137 if name == "KILL" else 143)
    kinds = [type(event).__name__ for event in system.heard]
    assert kinds.index("ProcessSpawned") < kinds.index("ProcessExited")


async def test_a_spawn_for_which_the_disk_is_full_is_taken_back_as_soon_as_there_is_room(
    timed: System, mock_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = contextlib.ExitStack()
    start = timed.programs.start

    async def fill(*given: Any) -> Any:
        program = await start(*given)
        full.enter_context(no_room(timed))
        return program

    monkeypatch.setattr(timed.programs, "start", fill)
    with pytest.raises(KernelError) as caught:
        await timed.spawn("bob", exec=SLEEP)
    assert caught.value.errno == errno.ENOSPC
    await jump(mock_clock, 3.0)
    assert timed.table.by_name("bob") is not None
    full.close()
    await jump(mock_clock, 1.1)
    assert timed.table.by_name("bob") is None
    assert timed.agents.find("bob") is None
    await timed.all_reaped()
    monkeypatch.undo()
    assert (await timed.spawn("bob", exec=SLEEP)).state.alive


@contextlib.contextmanager
def no_room(system: System) -> Iterator[None]:
    """Nothing can be stored."""

    def refuse() -> None:
        raise KernelError(errno.ENOSPC, "no room")

    system.store.before_commit.append(refuse)
    try:
        yield
    finally:
        system.store.before_commit.remove(refuse)


@pytest.mark.parametrize(
    ("name", "state", "code"),
    [("STOP", State.SLEEPING, None), ("TERM", State.ZOMBIE, 7), ("KILL", State.DEAD, 137)],
)
async def test_a_signal_is_carried_out_without_room_and_recorded_when_there_is_some(
    timed: System, mock_clock: Any, name: str, state: State, code: int | None
) -> None:
    process = await timed.shell("bob", "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done")
    await timed.said("bob", "up")
    ospid = process.ospid or 0
    with no_room(timed):
        commands(timed, process, name)
        await (eventually(lambda: stopped(ospid)) if name == "STOP" else gone(ospid))
        await jump(mock_clock, 3.0)
        assert (process.state, notices(timed, process)) == (State.IDLE, [])
    await jump(mock_clock, 1.1)
    assert (process.state, process.exit_code) == (state, code)
    assert not timed.supervisor.signals.owed
    assert notices(timed, process) == [name]
    assert stopped(ospid) is (name == "STOP")


async def test_of_two_signals_without_room_the_last_one_is_recorded(
    timed: System, mock_clock: Any
) -> None:
    process = await timed.spawn("bob", exec=["sh", "-c", "trap '' TERM HUP; echo up; sleep 1000"])
    await timed.said("bob", "up")
    with no_room(timed):
        for name in ("STOP", "TERM", "CONT"):
            commands(timed, process, name)
        await jump(mock_clock, 20.0)  # beyond the grace period
        assert alive(process.ospid or 0)
        commands(timed, process, "HUP", "STOP")
        await eventually(lambda: stopped(process.ospid or 0))
    await jump(mock_clock, 1.1)
    assert (process.state, notices(timed, process)) == (State.SLEEPING, ["STOP"])


async def test_a_program_that_ignores_term_is_killed_without_room(
    timed: System, mock_clock: Any
) -> None:
    process = await timed.shell("bob", "trap '' TERM; echo up; while :; do sleep 0.01; done")
    await timed.said("bob", "up")
    with no_room(timed):
        commands(timed, process, "TERM")
        await jump(mock_clock, 11.0)
        await gone(process.ospid or 0)
    await jump(mock_clock, 1.1)
    assert process.exit_code == 137


@pytest.mark.parametrize("name", ["TERM", "KILL", "STOP"])
async def test_what_waits_to_be_started_again_is_told_not_to_without_room(
    timed: System, mock_clock: Any, name: str
) -> None:
    process = await timed.shell("bob", "[ -e up ] && exec sleep 1000; touch up; exit 1")
    await timed.until(lambda: process.state is State.BLOCKED)
    with no_room(timed):
        commands(timed, process, name)
        await jump(mock_clock, 100.0)
        with contextlib.suppress(KernelError):  # where she cannot say how she found things
            timed.maid.scan()
        assert process.ospid is None
    await jump(mock_clock, 1.1)
    assert process.ospid is None
    assert process.state is (State.SLEEPING if name == "STOP" else ENDED[name])


async def test_nothing_can_be_started_without_room(timed: System, mock_clock: Any) -> None:
    process = await timed.shell("bob", "[ -e up ] && exec sleep 1000; touch up; exit 1")
    await timed.until(lambda: process.state is State.BLOCKED)
    commands(timed, process, "STOP")
    with no_room(timed):
        refuses(errno.ENOSPC, timed.processes.command, OPERATOR, process.pid, "CONT")
    assert not timed.supervisor.signals.owed
    commands(timed, process, "CONT")
    await timed.until(lambda: process.state is State.RUNNING)


async def test_the_code_of_a_program_that_ends_without_room_is_recorded_later(
    timed: System, mock_clock: Any
) -> None:
    process = await timed.shell("bob", "trap 'exit 5' INT; echo up; while :; do sleep 0.01; done")
    await timed.said("bob", "up")
    timed.table.update(process, restart=Restart.NEVER)
    with no_room(timed):
        os.kill(process.ospid or 0, signal.SIGINT)
        await timed.all_reaped()
        await jump(mock_clock, 2.0)
        assert process.state.alive
    await jump(mock_clock, 1.1)
    assert (process.state, process.exit_code) == (State.ZOMBIE, 5)


async def test_a_spawn_that_is_cancelled_while_it_waits_leaves_nothing(system: System) -> None:
    system.programs._limiter.total_tokens = 1
    async with system.programs._limiter:  # as if other launches took all threads
        with trio.move_on_after(0.01) as scope:
            await system.spawn("bob", exec=SLEEP)
    assert scope.cancelled_caught
    assert system.table.by_name("bob") is None
    assert system.agents.find("bob") is None
    assert system.programs.launching == 0


async def test_strangers_and_users_have_no_system_call(system: System) -> None:
    bob = await system.spawn("bob")
    user = Principal(Kind.USER, None, "user 5", 5, 5)
    for who in (STRANGER, user):
        refuses(errno.EACCES, system.processes.signal, who, bob.pid, "KILL")
        refuses(errno.EACCES, system.processes.done, who, bob.pid, 0)
        refuses(errno.EACCES, system.processes.heartbeat, who, bob.pid)
        refuses(errno.EACCES, system.agents.define, who, "eve", 5, 5)
        with pytest.raises(KernelError):
            await system.processes.spawn(who, 1, ProcessSpec(name="eve"))
    ended = as_agent(bob)
    system.processes.done(ended, bob.pid, 0)
    refuses(errno.EACCES, system.agents.define, ended, "eve", 0, 0)


# -- signals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TERM", "KILL", "HUP"])
async def test_a_signal_reaches_the_whole_process_group(system: System, name: str) -> None:
    process = await system.shell("bob", "sleep 1000 & echo $!; wait", restart="never")
    await system.said("bob", "\n")
    child = int(system.agents.log_path("bob").read_text())
    shell = process.ospid or 0
    assert read_stat(child).ppid == shell  # type: ignore[union-attr]
    system.processes.signal(OPERATOR, process.pid, name)
    await over(system, process)
    await gone(shell)
    await gone(child)
    number = getattr(signal, f"SIG{name}")
    assert process.exit_code == 128 + number
    assert process.state is (State.DEAD if name == "KILL" else State.ZOMBIE)
    assert notices(system, process) == [name]


async def test_stop_and_cont_stop_the_group_and_move_the_state(system: System) -> None:
    process = await system.shell("bob", "sleep 1000 & echo $!; wait")
    await system.said("bob", "\n")
    child = int(system.agents.log_path("bob").read_text())
    commands(system, process, "STOP")
    assert process.state is State.SLEEPING
    for ospid in (process.ospid or 0, child):
        await eventually(lambda ospid=ospid: stopped(ospid))
    commands(system, process, "STOP")
    commands(system, process, "CONT")
    assert process.state is State.RUNNING
    for ospid in (process.ospid or 0, child):
        await eventually(lambda ospid=ospid: not stopped(ospid))
    commands(system, process, "CONT")
    assert process.state is State.RUNNING


VFORKS = """
import os, signal
print("up", flush=True)
started = os.posix_spawn("/bin/true", ["true"], {}, file_actions=[
    (os.POSIX_SPAWN_OPEN, 0, "fifo", os.O_RDONLY, 0)])
os.waitpid(started, 0)
print("went on", flush=True)
signal.pause()
"""
"""Waits in vfork(2) for a child, and that for somebody who opens the FIFO."""


async def test_a_program_that_waits_in_vfork_stays_asleep_when_it_is_told_to_stop(
    system: System,
) -> None:
    """Linux says of it that it went on, and never that it was stopped again."""
    process = await system.shell("bob", f"mkfifo fifo; exec {PYTHON} -c '{VFORKS}'")
    ospid = process.ospid or 0
    await system.said("bob", "up")
    await eventually(lambda: [read_stat(child).state for child in children(ospid)] == ["S"])  # type: ignore[union-attr]
    await eventually(lambda: read_stat(ospid).state == "D")  # type: ignore[union-attr]
    program = system.programs.find(ospid)
    assert program is not None
    assert not system.programs.stopped(program)
    commands(system, process, "STOP")
    await eventually(lambda: stopped(ospid))
    assert read_stat(ospid).state == "D"  # type: ignore[union-attr]
    assert system.programs.stopped(program)
    system.supervisor._saw(program, stopped=False)  # a CONT before, of which we hear only now
    assert process.state is State.SLEEPING
    commands(system, process, "CONT")
    assert not system.programs.stopped(program)
    (system.agents.memory_dir("bob") / "fifo").write_bytes(b"")
    await system.said("bob", "went on")
    assert process.state is State.RUNNING


async def test_term_gives_a_grace_period_and_then_kills(timed: System, mock_clock: Any) -> None:
    process = await timed.shell("bob", "trap '' TERM; echo up; while :; do sleep 0.01; done")
    await timed.said("bob", "up")
    ospid = process.ospid or 0
    commands(timed, process, "TERM")
    assert process.state is State.BLOCKED
    await jump(mock_clock, 9.9)
    assert alive(ospid)
    await jump(mock_clock, 0.2)
    assert (process.state, process.exit_code) == (State.DEAD, 137)
    await gone(ospid)
    assert notices(timed, process) == ["TERM", "KILL"]


async def test_term_with_a_grace_period_of_its_own_and_a_second_term_begins_a_new_one(
    timed: System, mock_clock: Any
) -> None:
    process = await timed.shell("bob", "trap '' TERM; echo up; while :; do sleep 0.01; done")
    await timed.said("bob", "up")
    commands(timed, process, "term 1h")
    await jump(mock_clock, 3000)
    assert process.state is State.BLOCKED
    commands(timed, process, "term 2s")
    await jump(mock_clock, 2.1)
    assert process.state is State.DEAD


async def test_one_that_recovers_with_cont_in_the_grace_period_is_left_alone(
    timed: System, mock_clock: Any
) -> None:
    process = await timed.shell("bob", "trap '' TERM; echo up; while :; do sleep 0.01; done")
    await timed.said("bob", "up")
    commands(timed, process, "TERM", "CONT")
    assert process.state is State.RUNNING
    assert not process.stopping
    await jump(mock_clock, 100)
    assert process.state is State.RUNNING
    assert alive(process.ospid or 0)


async def test_a_stopped_program_can_act_on_term(system: System) -> None:
    process = await system.shell("bob", "trap 'exit 4' TERM; echo up; while :; do sleep 0.01; done")
    await system.said("bob", "up")
    commands(system, process, "STOP", "TERM")
    await over(system, process)
    assert (process.state, process.exit_code) == (State.ZOMBIE, 4)


async def test_an_end_that_was_asked_for_is_no_failure(system: System) -> None:
    process = await system.shell("bob", "exec sleep 1000", restart="always")
    commands(system, process, "TERM")
    await over(system, process)
    assert (process.state, process.exit_code, process.restarts) == (State.ZOMBIE, 143, 0)


async def test_mail_does_not_undo_a_grace_period(timed: System, mock_clock: Any) -> None:
    """It claims messages to the last: that makes no process run that was told to end."""
    process = await timed.spawn("bob")
    commands(timed, process, "TERM")
    timed.table.follow(process.pid, State.RUNNING)
    assert process.state is State.BLOCKED
    refuses(errno.EPERM, timed.processes.declare, as_agent(process), process.pid, State.IDLE)
    await jump(mock_clock, 10.1)
    assert process.state is State.DEAD


async def test_a_process_that_has_ended_takes_no_signal(system: System) -> None:
    zombie, dead = await system.spawn("zombie"), await system.spawn("dead")
    commands(system, zombie, "done 0")
    commands(system, dead, "KILL")
    for process in (zombie, dead):
        for line in ("TERM", "KILL", "STOP", "CONT", "HUP"):
            refuses(errno.EPERM, system.processes.command, OPERATOR, process.pid, line)
        for line in ("idle", "running", "done 0", "kill-branch"):
            refuses(errno.ESRCH, system.processes.command, OPERATOR, process.pid, line)


async def test_process_1_takes_no_signal_and_does_not_end(system: System) -> None:
    for line in ("TERM", "KILL", "STOP", "HUP", "kill-branch", "done 0", "reparent 2"):
        number = errno.ESRCH if "2" in line else errno.EPERM
        refuses(number, system.processes.command, OPERATOR, 1, line)


async def test_the_role_says_whom_one_may_kill(system: System) -> None:
    lead = await system.spawn("lead", role="lead")
    agent = await system.spawn("agent", lead.pid)
    child = await system.spawn("child", agent.pid)
    other = await system.spawn("other", lead.pid)
    task = await system.spawn("task", agent.pid, role="task")
    kill = system.processes.signal
    refuses(errno.EACCES, kill, as_agent(agent), other.pid, "HUP")
    refuses(errno.EACCES, kill, as_agent(task), child.pid, "HUP")
    refuses(errno.EPERM, kill, as_agent(agent), 1, "HUP")
    refuses(errno.ESRCH, kill, as_agent(agent), 99, "HUP")
    refuses(errno.EINVAL, kill, as_agent(agent), child.pid, "USR1")
    kill(as_agent(agent), child.pid, "HUP")
    kill(as_agent(task), task.pid, "HUP")
    kill(as_agent(lead), other.pid, "HUP")


# -- the tree --------------------------------------------------------------------------------------


async def test_kill_branch_ends_everything_below_bottom_up(system: System) -> None:
    root = await system.spawn("root", exec=SLEEP)
    left = await system.spawn("left", root.pid, exec=SLEEP)
    right = await system.spawn("right", root.pid, exec=SLEEP)
    leaf = await system.spawn("leaf", left.pid, exec=SLEEP)
    outside = await system.spawn("outside", exec=SLEEP)
    branch = (root, left, right, leaf)
    ospids = [process.ospid or 0 for process in branch]
    killed = system.processes.kill_branch(OPERATOR, root.pid)
    assert killed == [leaf.pid, right.pid, left.pid, root.pid]
    assert [pid for pid, _ in system.ends] == killed
    assert all(process.state is State.DEAD for process in branch)
    for ospid in ospids:
        await gone(ospid)
    assert alive(outside.ospid or 0)


async def test_reparent_moves_a_process_and_tells_it(system: System) -> None:
    one, two = await system.spawn("one"), await system.spawn("two")
    process = await system.shell("bob", "exec sleep 1000", one.pid)
    commands(system, process, f"reparent {two.pid}")
    assert process.ppid == two.pid
    assert system.table.children(one.pid) == []
    assert notices(system, process) == ["HUP"]
    commands(system, process, f"reparent {two.pid}")
    assert notices(system, process) == ["HUP"], "nothing changed, nothing to tell"
    # The program got no signal, which would have ended it: of two Linux delivers the one with the
    # lower number first.
    os.kill(process.ospid or 0, signal.SIGTERM)
    await system.until(lambda: system.ends)
    assert system.ends == [(process.pid, 128 + signal.SIGTERM)]


async def test_reparent_refuses_cycles_tiers_limits_and_the_dead(system: System) -> None:
    root = await system.spawn("root", tier="tactical")
    child = await system.spawn("child", root.pid, tier="tactical")
    leaf = await system.spawn("leaf", child.pid)
    low = await system.spawn("low", tier="operational")
    full = await system.spawn("full", tier="tactical", limits={"max_children": 0})
    task = await system.spawn("task", role="task")
    dead = await system.spawn("dead")
    commands(system, dead, "KILL")
    move = system.processes.reparent
    for target in (root, child, leaf):
        refuses(errno.ELOOP, move, OPERATOR, root.pid, target.pid)
    assert "cognitive tier" in refuses(errno.EPERM, move, OPERATOR, child.pid, low.pid).reason
    refuses(errno.EAGAIN, move, OPERATOR, child.pid, full.pid)
    refuses(errno.EPERM, move, OPERATOR, low.pid, task.pid)
    refuses(errno.ESRCH, move, OPERATOR, child.pid, dead.pid)
    refuses(errno.ESRCH, move, OPERATOR, dead.pid, root.pid)
    refuses(errno.ESRCH, move, OPERATOR, child.pid, 99)
    refuses(errno.EPERM, move, OPERATOR, 1, root.pid)
    refuses(errno.EACCES, move, as_agent(root), child.pid, low.pid)
    assert (child.ppid, leaf.ppid) == (root.pid, child.pid)


# -- what a process says of itself -----------------------------------------------------------------


async def test_declare_is_for_oneself_and_within_the_matrix(system: System) -> None:
    process, other = await system.spawn("bob"), await system.spawn("other")
    declare = system.processes.declare
    declare(as_agent(process), process.pid, State.RUNNING)
    assert process.state is State.RUNNING
    refuses(errno.EPERM, declare, as_agent(process), process.pid, State.RUNNING)
    refuses(errno.EACCES, declare, as_agent(other), process.pid, State.IDLE)
    commands(system, process, "idle")
    assert process.state is State.IDLE
    for state in (State.BLOCKED, State.SLEEPING, State.ZOMBIE, State.DEAD):
        refuses(errno.EPERM, declare, OPERATOR, process.pid, state)
    stopped = await system.spawn("stopped", exec=SLEEP)
    commands(system, stopped, "STOP")
    refuses(errno.EPERM, declare, OPERATOR, stopped.pid, State.RUNNING)


async def test_done_ends_a_process_with_its_code_and_last_words(system: System) -> None:
    process = await system.spawn("bob")
    system.processes.command(as_agent(process), process.pid, "done 3 that was  all")
    assert (process.state, process.exit_code) == (State.ZOMBIE, 3)
    assert process.output == "that was  all"
    for code in (-1, 256):
        refuses(errno.EINVAL, system.processes.done, OPERATOR, process.pid, code)


async def test_done_is_final_and_a_program_that_goes_on_is_ended(
    timed: System, mock_clock: Any
) -> None:
    process = await timed.shell(
        "bob", "trap '' TERM; echo up; while :; do sleep 0.01; done", restart="always"
    )
    await timed.said("bob", "up")
    ospid = process.ospid or 0
    commands(timed, process, "done 0")
    assert (process.state, process.ospid) == (State.ZOMBIE, None)
    assert alive(ospid)
    await jump(mock_clock, 10.1)
    await timed.all_reaped()
    assert not alive(ospid)
    assert process.restarts == 0
    assert timed.supervisor.sizes()["endings"] == 0
    assert timed.ends == [(process.pid, 0)], "its end is told once"


async def test_attach_makes_a_running_program_that_of_a_process(system: System) -> None:
    process = await system.spawn("bob")
    reader = program("sh", "-c", "read line; exit 4", stdin=subprocess.PIPE)
    system.processes.attach(OPERATOR, process.pid, reader.pid)
    assert system.table.by_ospid(reader.pid) is process
    assert process.attached
    other = await system.spawn("other")
    refuses(errno.EBUSY, system.processes.attach, OPERATOR, other.pid, reader.pid)
    refuses(errno.EBUSY, system.processes.attach, OPERATOR, process.pid, os.getpid())
    commands(system, process, "STOP")
    assert process.state is State.SLEEPING
    commands(system, process, "CONT")
    assert reader.stdin is not None
    reader.stdin.close()
    await over(system, process)
    assert (process.state, process.exit_code) == (State.ZOMBIE, 4)
    reader.wait()


async def test_a_killed_attached_program_dies_and_one_that_is_done_with_goes_on(
    system: System,
) -> None:
    here = Path(f"/proc/{os.getpid()}/cgroup").read_text()
    for name, line, survives in (("killed", "KILL", False), ("let-go", "done 0", True)):
        process = await system.spawn(name)
        sleeper = program(*SLEEP)
        try:
            system.processes.attach(OPERATOR, process.pid, sleeper.pid)
            assert not system.programs.groups.available or (
                system.programs.pid_of_thread(sleeper.pid) == process.pid
            )
            commands(system, process, line)
            await system.all_reaped()
            assert alive(sleeper.pid) is survives
            if survives:
                assert Path(f"/proc/{sleeper.pid}/cgroup").read_text() == here
        finally:
            sleeper.kill()
            sleeper.wait()


async def test_attach_refuses_what_is_not_ones_own(system: System) -> None:
    process = await system.spawn("bob")
    attach = system.processes.attach
    for ospid in (0, -1, 2**22 - 1):
        refuses(errno.ESRCH, attach, OPERATOR, process.pid, ospid)
    refuses(errno.EPERM, attach, OPERATOR, process.pid, os.getpid())
    refuses(errno.EPERM, attach, OPERATOR, process.pid, 1)
    with_program = await system.spawn("busy", exec=SLEEP)
    refuses(errno.EBUSY, attach, OPERATOR, with_program.pid, os.getppid())
    refuses(errno.EBUSY, attach, OPERATOR, process.pid, with_program.ospid)
    ended = zombie("true")
    refuses(errno.ESRCH, attach, OPERATOR, process.pid, ended.pid)
    ended.wait()
    assert (process.ospid, process.attached) == (None, False)


async def test_what_an_agents_program_started_cannot_be_attached_to_another(system: System) -> None:
    owner, thief = (
        await system.shell("owner", "sleep 1000 & echo $!; wait"),
        await system.spawn("thief"),
    )
    await system.said("owner", "\n")
    child = int(system.agents.log_path("owner").read_text())
    refuses(errno.EBUSY, system.processes.attach, OPERATOR, thief.pid, child)
    system.programs.groups._base = ""
    refuses(errno.EBUSY, system.processes.attach, OPERATOR, thief.pid, child)
    os.kill(child, signal.SIGKILL)
    del owner


@needs_root
async def test_somebody_elses_program_cannot_be_attached(system: System) -> None:
    process = await system.spawn("bob")
    nobody = pwd.getpwnam("nobody").pw_uid
    sleeper = program(*SLEEP, user=nobody)
    try:
        refuses(errno.EPERM, system.processes.attach, OPERATOR, process.pid, sleeper.pid)
        theirs = await system.spawn("theirs", user="nobody")
        owner = Principal(Kind.OPERATOR, 1, "init", 4711, 4711)
        refuses(errno.EPERM, system.processes.attach, owner, theirs.pid, sleeper.pid)
        system.processes.attach(OPERATOR, theirs.pid, sleeper.pid)
    finally:
        sleeper.kill()
        sleeper.wait()
    await over(system, theirs)


# -- the end ---------------------------------------------------------------------------------------


async def test_collect_gives_the_code_to_all_and_the_process_to_its_parent(system: System) -> None:
    parent, other = await system.spawn("parent"), await system.spawn("other")
    child = await system.spawn("child", parent.pid)
    collect = system.processes.collect
    assert collect(as_agent(parent), child.pid) is None
    commands(system, child, "done 9")
    assert collect(as_agent(other), child.pid) == 9
    assert collect(OPERATOR, child.pid) == 9
    assert collect(STRANGER, child.pid) == 9
    assert system.table.find(child.pid) is child
    assert collect(as_agent(parent), child.pid) == 9
    assert system.table.find(child.pid) is None
    assert system.agents.get("child").pid is None
    refuses(errno.ESRCH, collect, as_agent(parent), child.pid)


# -- control files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "TERM now",
        "term 10s 5",
        "term -1",
        "KILL 9",
        "explode",
        "reparent",
        "reparent one",
        "reparent 1 2",
        "reparent -1",
        "reparent ²",
        "reparent 99999999999999999999999999",
        "done",
        "done x",
        "done 256",
        "idle 1",
        "\0",
    ],
)
async def test_a_malformed_command_is_einval_and_changes_nothing(system: System, line: str) -> None:
    process = await system.spawn("bob")
    before = process.record()
    refusal = refuses(errno.EINVAL, system.processes.command, OPERATOR, process.pid, line)
    assert "usage: " in refusal.reason or "there are: TERM" in refusal.reason or "256" in line
    assert process.record() == before


async def test_commands_are_taken_in_any_case_and_with_spaces(system: System) -> None:
    process = await system.spawn("bob")
    commands(system, process, " stop ", "Cont")
    assert process.state is State.RUNNING


# -- agents ----------------------------------------------------------------------------------------


async def test_the_whole_life_of_an_agent(system: System) -> None:
    removed: list[str] = []

    class Removals(Part):
        def agent_removed(self, name: str) -> None:
            removed.append(name)

    system.ground.parts.add(Removals())
    uid, gid = os.geteuid(), os.getegid()
    agent = system.agents.define(OPERATOR, "bob", uid, gid)
    assert (agent.name, agent.creator, agent.pid) == ("bob", "init", None)
    refuses(errno.EEXIST, system.agents.define, OPERATOR, "bob", uid, gid)
    refuses(errno.EEXIST, system.agents.define, OPERATOR, "init", uid, gid)
    for name in ("self", ".", "..", "a/b", "", "x" * 65):
        refuses(errno.EINVAL, system.agents.define, OPERATOR, name, uid, gid)
    refuses(errno.ENOENT, system.agents.get, "eve")
    assert list(system.agents) == ["bob", "init"]

    with pytest.raises(KernelError) as caught:
        await system.processes.start(OPERATOR, "bob")
    assert caught.value.errno == errno.EINVAL
    for text in ("exec: 5", "name: eve", "- no map", "unknown: 1", ""):
        refuses(errno.EINVAL, system.agents.redefine, OPERATOR, "bob", text)
    refuses(errno.EPERM, system.agents.redefine, OPERATOR, "bob", "role: kernel")
    system.agents.redefine(OPERATOR, "bob", "exec: [sleep, '1000']  # a comment stays\n")

    await system.processes.agent_command(OPERATOR, "bob", "start")
    process = system.table.by_name("bob")
    assert process is not None
    assert (process.ppid, agent.pid) == (1, process.pid)
    refuses(errno.EBUSY, system.agents.remove, OPERATOR, "bob")
    with pytest.raises(KernelError) as caught:
        await system.processes.agent_command(OPERATOR, "bob", "start")
    assert caught.value.errno == errno.EEXIST
    await system.processes.agent_command(OPERATOR, "bob", "stop")
    await over(system, process)
    refuses(errno.ESRCH, system.processes.stop, OPERATOR, "bob")
    with pytest.raises(KernelError) as caught:
        await system.processes.agent_command(OPERATOR, "bob", "dance")
    assert caught.value.errno == errno.EINVAL

    (system.agents.memory_dir("bob") / "note").write_text("mine")
    system.agents.remove(OPERATOR, "bob")
    assert removed == ["bob"]
    assert not system.agents.memory_dir("bob").exists()
    assert not system.agents.log_path("bob").exists()
    assert system.agents.find("bob") is None
    refuses(errno.EPERM, system.agents.remove, OPERATOR, "init")
    system.agents.empty_trash()
    assert os.listdir(system.state_dir / "trash") == []
    system.agents.define(OPERATOR, "bob", uid, gid)
    assert os.listdir(system.agents.memory_dir("bob")) == []
    changes = [e for e in system.heard if isinstance(e, AgentDefined | AgentRemoved | AgentChanged)]
    assert changes[0] == AgentDefined("bob")
    assert changes[-2:] == [AgentRemoved("bob"), AgentDefined("bob")]


async def test_an_agent_cannot_redefine_itself_nor_what_others_defined(system: System) -> None:
    creator, other = await system.spawn("creator"), await system.spawn("other")
    child = await system.processes.spawn(as_agent(creator), creator.pid, ProcessSpec(name="child"))
    redefine, remove = system.agents.redefine, system.agents.remove
    refuses(errno.EPERM, redefine, as_agent(child), "child", "role: lead")
    refuses(errno.EACCES, redefine, as_agent(other), "child", "role: lead")
    redefine(as_agent(creator), "child", "role: lead")
    redefine(OPERATOR, "child", "role: worker")
    commands(system, child, "done 0")
    refuses(errno.EACCES, remove, as_agent(other), "child")
    remove(as_agent(creator), "child")
    task = await system.spawn("task", role="task")
    refuses(errno.EPERM, system.agents.define, as_agent(task), "eve", 0, 0)


async def test_restart_keeps_the_pid_and_takes_what_the_definition_says_now(
    timed: System, mock_clock: Any
) -> None:
    process = await timed.shell("bob", "trap '' TERM; echo old; while :; do sleep 0.01; done")
    await timed.said("bob", "old")
    first = process.ospid
    timed.agents.redefine(OPERATOR, "bob", "exec: echo new; exec sleep 1000\nrole: lead\n")
    await timed.processes.restart(OPERATOR, "bob")
    assert process.state is State.BLOCKED
    await jump(mock_clock, 10.1)  # it does not heed TERM
    await timed.all_reaped()
    await jump(mock_clock, 0.01)
    await timed.until(lambda: process.ospid is not None)
    assert process.ospid != first
    await timed.said("bob", "new")
    assert (process.state, process.restarts, process.role.value) == (State.RUNNING, 1, "agent")


async def test_restart_of_one_that_does_not_run_starts_it_and_in_a_back_off_at_once(
    timed: System,
) -> None:
    timed.agents.define(OPERATOR, "bob", os.geteuid(), os.getegid())
    timed.agents.redefine(OPERATOR, "bob", "exec: '[ -e up ] && exec sleep 1000; touch up; exit 1'")
    await timed.processes.restart(OPERATOR, "bob")
    process = timed.table.by_name("bob")
    assert process is not None
    await timed.until(lambda: process.state is State.BLOCKED)
    await timed.processes.restart(OPERATOR, "bob")
    await timed.until(lambda: process.state is State.RUNNING)
    assert process.restarts == 1
    await timed.spawn("none")
    with pytest.raises(KernelError) as caught:
        await timed.processes.restart(OPERATOR, "none")
    assert caught.value.errno == errno.EINVAL


async def test_agents_are_as_they_were_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path / "state") as system:
        system.agents.define(OPERATOR, "bob", os.geteuid(), os.getegid())
        system.agents.redefine(OPERATOR, "bob", "role: lead\n")
        before = [system.agents.get(name).record() for name in system.agents]
    async with running(tmp_path / "state") as system:
        assert [system.agents.get(name).record() for name in system.agents] == before
