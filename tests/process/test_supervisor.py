"""What follows from the end of a program: exits, restarts, adoption, heartbeats, the maid, and the
daemon's own end and return."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from agentfs.base.clock import ManualClock, TrioClock
from agentfs.model.process import Process, State
from agentfs.process.backoff import Restarts
from agentfs.process.events import (
    AgentFailed,
    ChildrenChanged,
    HeartbeatMissed,
    ProcessExited,
    ProcessReaped,
    ProcessReparented,
    ProcessRestarted,
    ProcessSpawned,
    SignalSent,
)
from agentfs.process.supervisor import UNKNOWN
from agentfs.sections import SECTIONS
from agentfs.store.events import HealthChecked
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.store import PROCESSES
from tests.process.world import (
    ENDED,
    OPERATOR,
    System,
    alive,
    as_agent,
    collect,
    eventually,
    fail_after_real,
    gone,
    running,
)
from tests.storage import refusing


class Task(Part):
    """A task of the maid."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work

    def tidy(self) -> None:
        self._work()


async def over(system: System, process: Process) -> None:
    await system.until(lambda: process.state in ENDED)


# -- exits -----------------------------------------------------------------------------------------


async def test_an_exit_tells_the_parent_and_everybody_who_listens(system: System) -> None:
    parent = await system.spawn("parent")
    child = await system.shell("child", "exit 3", parent=parent.pid, restart="never")
    await over(system, child)
    assert system.of(ProcessSpawned)[-1].pid == child.pid
    assert ProcessExited(child.pid, "child", 3) in system.heard
    assert SignalSent(parent.pid, "parent", f"CHLD {child.pid} 3") in system.heard
    assert system.ends == [(child.pid, 3)]
    kinds = [type(event) for event in system.heard]
    assert kinds.index(ProcessSpawned) < kinds.index(ProcessExited)


def causes(system: System) -> list[tuple[str, str]]:
    return [(event.agent, event.cause) for event in system.of(AgentFailed)]


async def test_a_failure_is_told_with_its_cause(system: System) -> None:
    for name, script in (
        ("good", "exit 0"),
        ("bad", "exit 3"),
        ("shot", "kill -KILL $$"),
        ("asked", "exec sleep 1000"),
        ("limited", "exec sleep 1000"),
        ("declared", "exec sleep 1000"),
    ):
        process = await system.shell(name, script, restart="never")
        if name == "asked":
            system.processes.signal(OPERATOR, process.pid, "TERM")
        elif name == "limited":
            with system.store.transaction():
                system.table.update(process, reason="limit: tokens")
                system.supervisor.signals.send(process, "TERM")
        elif name == "declared":
            system.processes.done(as_agent(process), process.pid, 4, "a secret")
        await over(system, process)
    assert causes(system) == [
        ("bad", "it ended with exit code 3"),
        ("shot", "it was ended by SIGKILL"),
        ("limited", "limit: tokens"),
        ("declared", "it ended with exit code 4"),
    ]


async def test_orphans_are_adopted_by_the_nearest_living_ancestor_at_once(system: System) -> None:
    pids = [1]
    processes = []
    for name in ("a", "b", "c", "d"):
        processes.append(await system.spawn(name, pids[-1]))
        pids.append(processes[-1].pid)
    a, b, c, d = processes
    system.processes.done(OPERATOR, c.pid, 0)
    assert d.ppid == b.pid
    assert c.ppid == b.pid
    system.processes.signal(OPERATOR, b.pid, "KILL")
    assert (d.ppid, c.ppid) == (a.pid, a.pid), "ended children are adopted too"
    assert ProcessReparented(d.pid, "d", b.pid, a.pid) in system.heard
    assert ChildrenChanged(a.pid, d.pid, added=True) in system.heard
    assert system.table.children(b.pid) == []
    system.processes.done(OPERATOR, a.pid, 0)
    assert d.ppid == 1


async def test_an_ended_process_is_reaped_after_the_zombie_timeout(
    timed: System, mock_clock: Any
) -> None:
    one = await timed.spawn("one")
    two = await timed.spawn("two")
    timed.processes.done(OPERATOR, one.pid, 0)
    timed.processes.signal(OPERATOR, two.pid, "KILL")
    await next_round(timed, mock_clock, 59.0)
    assert timed.table.find(one.pid) is one
    await next_round(timed, mock_clock, 15.0)
    assert timed.table.find(one.pid) is None
    assert timed.table.find(two.pid) is None
    assert {event.pid for event in timed.of(ProcessReaped)} == {one.pid, two.pid}
    assert timed.agents.get("one").pid is None
    assert timed.maid.report["Reaped"] == 2


async def next_round(system: System, mock_clock: Any, seconds: float) -> None:
    """Let time go by, and the maid do what is due."""
    await trio.testing.wait_all_tasks_blocked()
    rounds = system.maid.rounds
    mock_clock.jump(seconds)
    await system.until(lambda: system.maid.rounds > rounds)


# -- restarts --------------------------------------------------------------------------------------


async def settle(system: System, process: Process, restarts: int) -> None:
    """Wait until the program has been started that often again, and has ended again."""
    await system.until(
        lambda: (
            process.state in ENDED
            or (process.restarts == restarts and process.state is State.BLOCKED)
        )
    )


async def test_a_failing_program_is_restarted_after_1_2_4_8_16_seconds_and_then_given_up(
    timed: System, mock_clock: Any
) -> None:
    timed.supervisor.restarts.jitter = lambda: 0.0
    parent = await timed.spawn("parent")
    child = await timed.shell("child", "echo again; exit 9", parent=parent.pid)
    for number, delay in enumerate((1.0, 2.0, 4.0, 8.0, 16.0)):
        await settle(timed, child, number)
        assert child.exit_code is None, "it has not ended for good"
        assert child.ospid is None
        await jump(mock_clock, delay - 0.01)
        assert child.restarts == number
        mock_clock.jump(0.02)
    await over(timed, child)
    assert child.state is State.DEAD
    assert (child.restarts, child.exit_code) == (5, 9)
    assert child.output == "again\n"
    assert timed.agents.log_path("child").read_text() == "again\n" * 6
    assert [event.restarts for event in timed.of(ProcessRestarted)] == [1, 2, 3, 4, 5]
    notices = [event.text for event in timed.of(SignalSent) if event.pid == parent.pid]
    assert notices[0] == f"CHLD {child.pid} 9"
    assert notices[1].startswith(f"ESCALATE {child.pid} child gave up after 5 restarts")
    assert causes(timed)[:5] == [("child", "it ended with exit code 9")] * 5
    assert causes(timed)[5][1].startswith("gave up after 5 restarts within")
    assert causes(timed)[5][1].endswith("the last exit code was 9")
    assert timed.ends == [(child.pid, 9)] * 6
    assert timed.supervisor.sizes()["attempts"] == 0


async def jump(mock_clock: Any, seconds: float) -> None:
    """Let time go by, and everything happen that is due."""
    mock_clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


async def test_attempts_older_than_the_window_are_forgotten(timed: System, mock_clock: Any) -> None:
    timed.configure(restart_attempts=1, restart_window=100)
    timed.supervisor.restarts.jitter = lambda: 0.0
    child = await timed.shell("child", "echo up; read line < $FIFO; exit 9", env=fifo(timed))
    for number in range(3):
        await timed.said("child", "up\n" * (number + 1))
        mock_clock.jump(200)
        await release(timed)
        await settle(timed, child, number)
        mock_clock.jump(1.01)
        await timed.until(lambda number=number: child.restarts == number + 1)
    await timed.said("child", "up\n" * 4)
    await release(timed)
    await over(timed, child)
    assert child.state is State.DEAD


def fifo(system: System) -> dict[str, str]:
    """An environment with a FIFO that a program can wait for."""
    path = system.state_dir / "fifo"
    if not path.exists():
        os.mkfifo(path)
    return {"FIFO": str(path)}


async def release(system: System) -> None:
    """Let a program go on that waits for the FIFO."""
    await trio.to_thread.run_sync((system.state_dir / "fifo").write_text, "go\n")


async def test_a_delay_has_a_maximum_and_jitter_only_adds_to_it(tmp_path: Path) -> None:
    ground = Ground.open(tmp_path, SECTIONS, ManualClock())
    ground.settings.replace("processes: {restart_attempts: 20, restart_window: 1h}")
    restarts = Restarts(ground)
    process = cast("Process", SimpleNamespace(pid=7))
    delays = [restarts.next_delay(process) or 0 for _ in range(10)]
    for delay, least in zip(delays, (1, 2, 4, 8, 16, 32, 60, 60, 60, 60), strict=True):
        assert least <= delay <= least * 1.1
    restarts.jitter = lambda: 1.0
    assert restarts.next_delay(process) == pytest.approx(66.0)
    ground.store.close()


@pytest.mark.parametrize(
    ("spec", "code", "again"),
    [
        ({"restart": "always"}, 0, True),
        ({"restart": "always"}, 1, True),
        ({"restart": "on-failure"}, 0, False),
        ({"restart": "on-failure"}, 1, True),
        ({"restart": "never"}, 1, False),
        ({"role": "daemon"}, 0, True),
        ({"role": "agent"}, 1, True),
        ({"role": "lead"}, 0, False),
        ({"role": "worker"}, 1, True),
        ({"role": "architect"}, 1, False),
        ({"role": "task"}, 1, False),
    ],
)
async def test_the_restart_policy_decides_and_exit_code_0_is_no_failure(
    system: System, spec: dict[str, str], code: int, again: bool
) -> None:
    process = await system.shell("bob", f"exit {code}", **spec)
    await system.until(lambda: process.state in (State.BLOCKED, *ENDED))
    assert (process.state is State.BLOCKED) is again
    if not again:
        assert (process.state, process.exit_code) == (State.ZOMBIE, code)


async def test_a_restart_keeps_pid_and_name_and_has_another_program(
    timed: System, mock_clock: Any
) -> None:
    process = await timed.shell("bob", "echo up; exec sleep 1000")
    first, pid = process.ospid, process.pid
    assert first is not None
    child = await timed.spawn("child", process.pid)
    os.kill(first, signal.SIGKILL)
    await settle(timed, process, 0)
    assert timed.table.by_name("bob") is process, "the name stays taken"
    assert timed.ends == [(pid, 137)], "its claims came back"
    assert child.ppid == pid, "its children stay its own"
    mock_clock.jump(1.2)
    await timed.until(lambda: process.ospid is not None)
    assert process.state is State.RUNNING
    assert (process.pid, process.name, process.restarts) == (pid, "bob", 1)
    assert alive(process.ospid or 0)
    assert process.ospid != first


@pytest.mark.parametrize(
    ("command", "state", "code"), [("KILL", State.DEAD, 137), ("TERM", State.ZOMBIE, 143)]
)
async def test_kill_or_term_in_a_back_off_cancels_it(
    timed: System, mock_clock: Any, command: str, state: State, code: int
) -> None:
    process = await timed.shell("bob", "exit 1")
    await settle(timed, process, 0)
    timed.processes.command(OPERATOR, process.pid, command)
    assert (process.state, process.exit_code) == (state, code)
    await jump(mock_clock, 100)
    assert (process.state, process.restarts) == (state, 0)
    assert timed.of(ProcessRestarted) == []


async def test_stop_in_a_back_off_holds_it_until_cont(timed: System, mock_clock: Any) -> None:
    process = await timed.shell("bob", "[ -e up ] && exec sleep 1000; touch up; exit 1")
    await settle(timed, process, 0)
    timed.processes.command(OPERATOR, process.pid, "STOP")
    assert process.state is State.SLEEPING
    await jump(mock_clock, 100)
    assert process.ospid is None
    timed.processes.command(OPERATOR, process.pid, "CONT")
    await timed.until(lambda: process.state is State.RUNNING)
    assert alive(process.ospid or 0)


async def test_a_program_that_cannot_be_started_again_is_tried_and_given_up(
    timed: System, mock_clock: Any, tmp_path: Path
) -> None:
    timed.configure(restart_attempts=2)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    process = await timed.spawn("bob", exec=[str(program)])
    await settle(timed, process, 0)
    program.unlink()
    ends = len(timed.ends)
    mock_clock.jump(1.2)
    await timed.until(lambda: len(timed.ends) > ends)
    mock_clock.jump(2.4)
    await over(timed, process)
    assert (process.state, process.exit_code, process.restarts) == (State.DEAD, 127, 0)
    assert "No such file" in process.output


# -- heartbeats ------------------------------------------------------------------------------------


async def test_three_missed_heartbeats_kill_the_program_and_it_is_restarted(
    timed: System, mock_clock: Any
) -> None:
    process = await timed.shell("bob", "exec sleep 1000", heartbeat="10s")
    first = process.ospid or 0
    for _ in range(5):
        await jump(mock_clock, 29.0)
        timed.processes.heartbeat(as_agent(process), process.pid)
    assert alive(first)
    await jump(mock_clock, 29.0)
    assert alive(first)
    await jump(mock_clock, 1.1)
    await settle(timed, process, 0)
    assert timed.ends == [(process.pid, 137)]
    assert timed.of(HeartbeatMissed) == [HeartbeatMissed(process.pid, "bob", 30.1)]
    assert causes(timed) == [("bob", "it missed its heartbeats: none for 30.1 s")]
    told = [event.text for event in timed.of(SignalSent) if event.pid == 1]
    assert told == [f"HUNG {process.pid} bob it missed its heartbeats: none for 30.1 s"]
    mock_clock.jump(1.2)
    await timed.until(lambda: process.restarts == 1)
    (again,) = timed.of(ProcessRestarted)
    # The maid may come by between its end and the news of it.
    reasons = (
        "it missed its heartbeats: none for 30.1 s; attempt 1 of 5",
        "found without a program",
    )
    assert again.reason in reasons
    assert timed.supervisor.sizes()["heartbeats"] == 1


async def test_the_last_words_of_a_program_that_hung_say_so(timed: System, mock_clock: Any) -> None:
    process = await timed.shell(
        "bob", "echo hello; exec sleep 1000", heartbeat="1s", restart="never"
    )
    await timed.said("bob", "hello")
    await jump(mock_clock, 3)
    await timed.until(lambda: not process.state.alive)
    assert process.output == "hello\nit missed its heartbeats: none for 3 s\n"


async def test_while_the_loop_stands_nobody_misses_a_heartbeat(system: System) -> None:
    """As with a daemon that was stopped: `time.sleep` holds the loop up."""
    process = await system.spawn("bob", heartbeat=0.4)
    for _ in range(3):
        time.sleep(1.3)  # noqa: ASYNC251
        await trio.sleep(0.05)  # the looks that are due
        assert process.state.alive
    began = time.monotonic()
    await system.until(lambda: not process.state.alive)
    assert process.state is State.DEAD, "and one that hangs is found out all the same"
    assert time.monotonic() - began > 0.7


async def test_a_process_without_a_program_that_misses_its_heartbeats_is_dead(
    timed: System, mock_clock: Any
) -> None:
    process = await timed.spawn("bob", heartbeat=5)
    await jump(mock_clock, 15.1)
    assert (process.state, process.exit_code) == (State.DEAD, 137)


async def test_a_stopped_process_misses_no_heartbeat(timed: System, mock_clock: Any) -> None:
    process = await timed.spawn("bob", heartbeat=5)
    timed.processes.command(OPERATOR, process.pid, "STOP")
    await jump(mock_clock, 1000)
    timed.processes.command(OPERATOR, process.pid, "CONT")
    await jump(mock_clock, 14)
    assert process.state is State.RUNNING
    await jump(mock_clock, 30)
    assert process.state is State.DEAD


# -- the maid --------------------------------------------------------------------------------------


async def test_the_maid_reports_and_calls_what_others_hang_on_her(
    timed: System, mock_clock: Any
) -> None:
    called: list[str] = []
    timed.ground.parts.add(Task(lambda: called.append("mail")))
    await timed.spawn("bob")
    await next_round(timed, mock_clock, 15.0)
    maid = timed.maid
    assert called == ["mail"]
    assert timed.of(HealthChecked) == [HealthChecked(True)]
    assert list(maid.report)[:2] == ["Ok", "Checked"]
    assert maid.report["Ok"] is True
    assert maid.report["Checked"].startswith("20")
    assert maid.report["Processes"] == 2
    assert "Memory available" in maid.report

    def fail() -> None:
        raise RuntimeError("a fault of ours")

    timed.ground.parts.add(Task(fail))
    await next_round(timed, mock_clock, 15.0)
    assert maid.report["Ok"] is False
    assert "hook" in maid.report["Faults"]


async def test_the_maid_notices_a_program_whose_end_was_missed(system: System) -> None:
    process = await system.spawn("bob")
    system.table.update(process, ospid=2**22 - 1, os_start=1)  # as if its watch had failed
    child = await system.spawn("child", process.pid)
    system.table.update(child, ppid=999)  # as if its adoption had
    system.maid.scan()
    assert (process.state, process.exit_code) == (State.ZOMBIE, UNKNOWN)
    assert child.ppid == 1
    assert system.maid.report["Ok"] is False


async def test_an_end_that_cannot_be_stored_is_taken_up_by_the_maid(system: System) -> None:
    process = await system.shell("bob", "exec sleep 1000", restart="never")
    with refusing(system.store, "INSERT ON processes"):
        os.kill(process.ospid or 0, signal.SIGKILL)
        await system.all_reaped()
    assert process.state.alive
    system.maid.scan()
    assert process.state is State.ZOMBIE


async def test_the_maid_starts_again_what_was_to_be_and_was_forgotten(
    timed: System, mock_clock: Any
) -> None:
    process = await timed.shell("bob", "[ -e up ] && exec sleep 1000; touch up; exit 1")
    await settle(timed, process, 0)
    timed.supervisor.restarts.cancel(process.pid)  # as if its start had met a fault of ours
    timed.maid.scan()
    await timed.until(lambda: process.state is State.RUNNING)


async def test_a_program_whose_memory_was_removed_gets_an_empty_one(
    timed: System, mock_clock: Any
) -> None:
    process = await timed.shell("bob", "exec sleep 1000")
    shutil.rmtree(timed.agents.memory_dir("bob").parent)
    os.kill(process.ospid or 0, signal.SIGKILL)
    await settle(timed, process, 0)
    mock_clock.jump(1.2)
    await timed.until(lambda: process.state is State.RUNNING)
    assert timed.agents.memory_dir("bob").stat().st_mode & 0o777 == 0o700


# -- the daemon's end and return -------------------------------------------------------------------


async def test_programs_that_still_run_are_adopted_after_a_crash(tmp_path: Path) -> None:
    async with running(tmp_path / "state", keep=True) as system:
        parent = await system.spawn("parent")
        process = await system.shell(
            "bob", "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done", parent.pid
        )
        await system.said("bob", "up")
        before = [p.record() | {"changed": 0, "started": 0} for p in system.table]
        ospid = process.ospid or 0

    async with running(tmp_path / "state") as system:
        after = [p.record() | {"changed": 0, "started": 0} for p in system.table]
        assert after == before
        process = system.table.get(3)
        assert alive(ospid)
        assert system.programs.find(ospid) is not None
        system.processes.signal(OPERATOR, process.pid, "TERM")
        await over(system, process)
        assert (process.state, process.exit_code) == (State.ZOMBIE, 5)
        assert (await system.spawn("next")).pid == 4


async def test_the_exit_code_of_an_adopted_program_that_is_not_our_child(tmp_path: Path) -> None:
    """A daemon in a process of its own starts it and is killed; another one learns its code."""
    state = tmp_path / "state"
    ospid = await trio.to_thread.run_sync(crashed_daemon, state, "read line < fifo; exit 6")
    async with running(state) as system:
        process = system.table.by_name("bob")
        assert process is not None
        assert process.ospid == ospid
        process.restart = type(process.restart).NEVER
        fifo_path = system.agents.memory_dir("bob") / "fifo"
        await trio.to_thread.run_sync(fifo_path.write_text, "go\n")
        await over(system, process)
        assert process.exit_code == 6


def crashed_daemon(state: Path, script: str) -> int:
    """Run a daemon elsewhere until its program says that it is up, then kill it with -9; return
    the OS pid of the program, which goes on."""
    code = f"""
import sys, trio
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tests.process import world
async def main():
    async with world.running(Path({str(state)!r}), keep=True) as system:
        bob = await system.shell("bob", "mkfifo fifo; echo up; " + {script!r})
        await system.said("bob", "up")
        print(bob.ospid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    daemon = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    with daemon.stdout:
        ospid = int(daemon.stdout.readline())
    daemon.kill()
    daemon.wait()
    return ospid


async def test_a_program_that_ended_while_the_daemon_was_down_is_a_failure(tmp_path: Path) -> None:
    async with running(tmp_path / "state", keep=True) as system:
        again = await system.shell(
            "again", "[ -e up ] && exec sleep 1000; touch up; exec sleep 1001"
        )
        never = await system.shell("never", "exec sleep 1000", restart="never")
        ospids = [again.ospid or 0, never.ospid or 0]
        kept = await system.spawn("kept")
        system.processes.command(OPERATOR, kept.pid, "STOP")
    for ospid in ospids:
        os.kill(ospid, signal.SIGKILL)
        collect(ospid)

    async with running(tmp_path / "state") as system:
        names = {name: system.table.get(system.agents.get(name).pid or 0) for name in system.agents}
        assert names["kept"].state is State.SLEEPING
        assert names["never"].state is State.ZOMBIE
        assert names["never"].exit_code == UNKNOWN
        assert system.ends == [(again.pid, UNKNOWN), (never.pid, UNKNOWN)]
        await system.until(lambda: names["again"].restarts == 1)
        assert alive(names["again"].ospid or 0)


async def test_another_program_with_the_same_pid_is_not_adopted(tmp_path: Path) -> None:
    async with running(tmp_path / "state", keep=True) as system:
        process = await system.shell("bob", "exec sleep 1000", restart="never")
        ospid = process.ospid or 0
        system.table.update(process, os_start=process.os_start - 1)
    async with running(tmp_path / "state") as system:
        assert system.table.get(process.pid).state is State.ZOMBIE
        await gone(ospid) if system.programs.groups.available else os.kill(ospid, signal.SIGKILL)
        collect(ospid)


async def test_after_another_boot_of_the_machine_nothing_is_adopted(tmp_path: Path) -> None:
    async with running(tmp_path / "state", keep=True) as system:
        process = await system.shell("bob", "exec sleep 1000", restart="never")
        ospid = process.ospid or 0
        with system.store.transaction():
            system.store.set_meta("boot_id", "another")
    async with running(tmp_path / "state") as system:
        assert system.table.get(process.pid).state is State.ZOMBIE
    os.kill(ospid, signal.SIGKILL)
    collect(ospid)


async def test_a_grace_period_goes_on_after_a_crash(tmp_path: Path, mock_clock: Any) -> None:
    async with running(tmp_path / "state", clock=TrioClock(), keep=True) as system:
        process = await system.shell("bob", "trap '' TERM; echo up; while :; do sleep 0.01; done")
        await system.said("bob", "up")
        system.processes.command(OPERATOR, process.pid, "term 5s")
    async with running(tmp_path / "state", clock=TrioClock()) as system:
        process = system.table.get(process.pid)
        assert process.state is State.BLOCKED
        await jump(mock_clock, 10.1)
        assert process.state is State.DEAD


async def test_a_back_off_is_resumed_and_a_start_that_was_cut_off_leaves_nothing(
    tmp_path: Path,
) -> None:
    async with running(tmp_path / "state", keep=True) as system:
        system.configure(restart_backoff=1000, restart_backoff_max=1000)
        waiting = await system.shell("waiting", "[ -e up ] && exec sleep 1000; touch up; exit 1")
        await settle(system, waiting, 0)
        # as the store has it while a program is being started
        cut = await system.spawn("cut")
        with system.store.transaction():
            system.table.update(cut, exec=("sleep", "1000"))
    async with running(tmp_path / "state") as system:
        assert system.table.find(cut.pid) is None
        waiting = system.table.get(waiting.pid)
        await system.until(lambda: waiting.state is State.RUNNING)
        assert alive(waiting.ospid or 0)


async def test_a_shutdown_ends_programs_bottom_up_and_the_next_boot_starts_them_again(
    tmp_path: Path,
) -> None:
    order = tmp_path / "order"
    script = (
        "trap 'echo $AGENT_NAME >> $ORDER; sleep 0.05; exit 0' TERM; echo up; "
        "while :; do sleep 0.01; done"
    )
    async with running(tmp_path / "state") as system:
        system.settings.replace("processes: {ready_timeout: 50ms}\n")  # these never say so
        parent, ospids, names = 1, [], ("top", "middle", "bottom")
        for name in names:
            process = await system.shell(name, script, parent, env={"ORDER": str(order)})
            await system.said(name, "up")
            parent = process.pid
            ospids.append(process.ospid or 0)
        once = await system.shell("once", "exec sleep 1000", restart="never")
        done = await system.shell("done", "exit 0")
        await over(system, done)
        with fail_after_real(10):
            await system.supervisor.shutdown(5)
        assert order.read_text().split() == ["bottom", "middle", "top"]
        assert not any(alive(ospid) for ospid in ospids)
        assert len(system.programs) == 0
        assert once.state is State.ZOMBIE
    async with running(tmp_path / "state") as system:
        for name in names:
            process = system.table.by_name(name)
            assert process is not None
            await system.until(lambda process=process: process.state is State.RUNNING)
            assert alive(process.ospid or 0)
        assert not system.table.get(once.pid).state.alive
        assert not system.table.get(done.pid).state.alive
        assert system.table.get(done.pid).exit_code == 0


async def test_a_shutdown_kills_what_does_not_end_in_the_grace_period(tmp_path: Path) -> None:
    async with running(tmp_path / "state") as system:
        process = await system.shell("bob", "trap '' TERM; echo up; while :; do sleep 0.01; done")
        await system.said("bob", "up")
        ospid = process.ospid or 0
        with fail_after_real(10):
            await system.supervisor.shutdown(0.05)
        assert not alive(ospid)
        assert process.state is State.BLOCKED, "to be started again"


# -- nothing leaks ---------------------------------------------------------------------------------


async def test_after_1000_spawns_and_exits_everything_is_back_at_its_start_size(
    system: System, descriptors: Callable[[], int]
) -> None:
    parent = await system.spawn("parent", limits={"max_children": None})
    warm = await system.shell("warm", "exit 0")  # opens what stays open: threads, epoll
    await over(system, warm)
    system.processes.collect(OPERATOR, warm.pid)
    await system.all_reaped()
    system.maid.scan()

    async def no_timers() -> None:
        """But for those that count each start of a program for a minute; news waits a moment."""
        started = system.kernel.shares.pots["launches"]
        await eventually(lambda: len(system.timers) == started.used)

    def sizes() -> dict[str, int]:
        gc.collect()  # what earlier tests left open until then would be counted only the first time
        return {
            **system.supervisor.sizes(),
            "descriptors": descriptors(),
            "groups": len(system.programs.groups.pids()) if system.programs.groups.available else 0,
            "stored": len(list(system.store.records(PROCESSES))),
        }

    await no_timers()
    before = sizes()
    for number in range(1000):
        process = await system.spawn(f"agent{number % 50}", parent.pid, heartbeat=30)
        system.processes.done(as_agent(process), process.pid, 0, "bye")
        assert system.processes.collect(as_agent(parent), process.pid) == 0
    await no_timers()
    assert sizes() == before

    async def one(number: int) -> None:
        script = ("exit 0", "exit 1", "kill -9 $$", "sleep 1000")[number % 4]
        process = await system.shell(f"agent{number}", script, parent.pid, restart="never")
        if number % 4 == 3:
            system.processes.command(OPERATOR, process.pid, "KILL")
        await over(system, process)
        expected = (0, 1, 137, 137)[number % 4]
        assert system.processes.collect(as_agent(parent), process.pid) == expected

    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(one, number)
    await system.all_reaped()

    def tidy() -> bool:
        system.programs.tidy()
        return system.programs.groups.stale == 0

    await eventually(tidy)
    await no_timers()
    assert sizes() == before
