"""Parents first: when programs are started again, a child waits until its parent is ready."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from agentfs.base.clock import TrioClock
from agentfs.mail.events import MessageClaimed
from agentfs.model.process import Process, State
from agentfs.process.events import ProcessReady, ProcessRestarted
from tests.process.world import (
    ENDED,
    OPERATOR,
    System,
    alive,
    as_agent,
    collect,
    fail_after_real,
    running,
)

SLEEP = ["sleep", "1000"]


@asynccontextmanager
async def started_again(
    state: Path, tree: dict[str, str], **settings: object
) -> AsyncIterator[System]:
    """A system that was shut down and is started again. `tree` maps each name to its parent's; all
    have programs that know nothing of readiness."""
    async with running(state) as system:
        system.configure(**{"ready_timeout": "10s"} | settings)
        pids = {"init": 1}
        for name, parent in tree.items():
            pids[name] = (await system.spawn(name, pids[parent], exec=SLEEP)).pid
        with fail_after_real(20):
            await system.supervisor.shutdown(5)
    async with running(state, clock=TrioClock()) as system:
        yield system


def named(system: System, name: str) -> Process:
    process = system.table.by_name(name)
    assert process is not None
    return process


def works(system: System, name: str) -> bool:
    process = named(system, name)
    return process.state is State.RUNNING and process.ospid is not None


def held(system: System, name: str) -> bool:
    process = named(system, name)
    waits = system.supervisor.readiness.holds(process.pid)
    assert not waits or (process.state is State.BLOCKED and process.ospid is None)
    return waits


def order(system: System) -> list[str]:
    """What happened: `+name` was started again, `name how` became ready."""
    return [
        f"+{event.agent}" if isinstance(event, ProcessRestarted) else f"{event.agent} {event.how}"
        for event in system.heard
        if isinstance(event, ProcessRestarted | ProcessReady)
    ]


def opens_recv(system: System) -> None:
    lead = named(system, "lead")
    system.processes.receives(as_agent(lead), "lead")


def claims_a_message(system: System) -> None:
    system.events.emit(
        MessageClaimed("lead", "1", "1.init", "1.init:2,", named(system, "lead").pid)
    )


def says_ready(system: System) -> None:
    lead = named(system, "lead")
    system.processes.command(as_agent(lead), lead.pid, "ready")


@pytest.mark.parametrize(
    ("act", "how"),
    [(opens_recv, "recv"), (claims_a_message, "claim"), (says_ready, "ready")],
)
async def test_a_child_starts_when_its_parent_is_ready_and_not_before(
    tmp_path: Path, mock_clock: Any, act: Callable[[System], None], how: str
) -> None:
    tree = {"lead": "init", "worker": "lead"}
    async with started_again(tmp_path / "state", tree) as system:
        await system.until(lambda: works(system, "lead"))
        mock_clock.jump(9.9)
        await trio.testing.wait_all_tasks_blocked()
        assert held(system, "worker")
        act(system)
        act(system)
        await system.until(lambda: works(system, "worker"))
        assert order(system) == ["+lead", f"lead {how}", "+worker"]


async def test_a_parent_that_says_nothing_is_ready_after_the_timeout(
    tmp_path: Path, mock_clock: Any
) -> None:
    tree = {"lead": "init", "worker": "lead"}
    async with started_again(tmp_path / "state", tree, ready_timeout="30s") as system:
        await system.until(lambda: works(system, "lead"))
        mock_clock.jump(29.9)
        await trio.testing.wait_all_tasks_blocked()
        assert held(system, "worker")
        mock_clock.jump(0.2)
        await system.until(lambda: works(system, "worker"))
        assert order(system)[:2] == ["+lead", "lead timeout"]


async def test_the_time_of_each_generation_begins_with_its_own_start(
    tmp_path: Path, mock_clock: Any
) -> None:
    tree = {"top": "init", "middle": "top", "bottom": "middle"}
    async with started_again(tmp_path / "state", tree) as system:
        await system.until(lambda: works(system, "top"))
        mock_clock.jump(10.1)
        await system.until(lambda: works(system, "middle"))
        await trio.testing.wait_all_tasks_blocked()
        assert held(system, "bottom")
        mock_clock.jump(10.1)
        await system.until(lambda: works(system, "bottom"))


async def test_a_slow_parent_holds_up_only_what_is_below_it(
    tmp_path: Path, mock_clock: Any
) -> None:
    tree = {"slow": "init", "quick": "init"}
    tree |= {f"of-slow-{number}": "slow" for number in range(3)}
    tree |= {f"of-quick-{number}": "quick" for number in range(3)}
    async with started_again(tmp_path / "state", tree) as system:
        await system.until(lambda: works(system, "slow") and works(system, "quick"))
        quick = named(system, "quick")
        system.processes.receives(as_agent(quick), "quick")
        await system.until(lambda: all(works(system, f"of-quick-{n}") for n in range(3)))
        assert all(held(system, f"of-slow-{number}") for number in range(3))


async def test_only_the_process_itself_makes_itself_ready(tmp_path: Path, mock_clock: Any) -> None:
    tree = {"lead": "init", "other": "init", "worker": "lead"}
    async with started_again(tmp_path / "state", tree) as system:
        await system.until(lambda: works(system, "lead") and works(system, "other"))
        system.processes.receives(OPERATOR, "lead")  # somebody looks into its mail
        system.processes.receives(as_agent(named(system, "other")), "lead")
        with pytest.raises(Exception, match="only lead itself and the operator"):
            system.processes.command(
                as_agent(named(system, "other")), named(system, "lead").pid, "ready"
            )
        await trio.testing.wait_all_tasks_blocked()
        assert held(system, "worker")


async def test_parents_that_still_run_or_have_no_program_are_ready(
    tmp_path: Path, mock_clock: Any
) -> None:
    async with running(tmp_path / "state", keep=True) as system:
        person = await system.spawn("person")
        lead = await system.spawn("lead", exec=SLEEP)
        below = [
            await system.spawn("of-person", person.pid, exec=SLEEP),
            await system.spawn("of-lead", lead.pid, exec=SLEEP),
        ]
        ospids = [process.ospid or 0 for process in below]
    for ospid in ospids:
        os.kill(ospid, signal.SIGKILL)
        collect(ospid)
    async with running(tmp_path / "state", clock=TrioClock()) as system:
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(1.2)  # the back-off
        await system.until(lambda: works(system, "of-person") and works(system, "of-lead"))
        assert order(system) in (["+of-person", "+of-lead"], ["+of-lead", "+of-person"])
        reasons = {event.reason for event in system.of(ProcessRestarted)}
        assert reasons == {
            "the daemon was started again, and its program had ended meanwhile; attempt 1 of 5"
        }


async def test_children_of_one_that_is_given_up_start_below_its_parent(
    tmp_path: Path, mock_clock: Any
) -> None:
    async with running(tmp_path / "state") as system:
        lead = await system.shell("lead", "[ -e up ] && exit 7; touch up; exec sleep 1000")
        await system.spawn("worker", lead.pid, exec=SLEEP)
        with fail_after_real(20):
            await system.supervisor.shutdown(5)
    async with running(tmp_path / "state", clock=TrioClock()) as system:
        system.configure(restart_attempts=1)
        lead = named(system, "lead")
        await system.until(lambda: lead.state is State.BLOCKED and lead.restarts == 1)
        await trio.testing.wait_all_tasks_blocked()
        assert held(system, "worker")
        mock_clock.jump(1.2)
        await system.until(lambda: lead.state in ENDED)
        await system.until(lambda: works(system, "worker"))
        assert named(system, "worker").ppid == 1


async def test_a_stopped_parent_is_not_waited_for(tmp_path: Path, mock_clock: Any) -> None:
    tree = {"lead": "init", "worker": "lead"}
    async with started_again(tmp_path / "state", tree) as system:
        await system.until(lambda: works(system, "lead"))
        await trio.testing.wait_all_tasks_blocked()
        assert held(system, "worker")
        system.processes.command(OPERATOR, named(system, "lead").pid, "STOP")
        await system.until(lambda: works(system, "worker"))


async def test_a_child_that_gets_a_ready_parent_meanwhile_starts(
    tmp_path: Path, mock_clock: Any
) -> None:
    tree = {"lead": "init", "worker": "lead"}
    async with started_again(tmp_path / "state", tree) as system:
        await system.until(lambda: works(system, "lead"))
        await trio.testing.wait_all_tasks_blocked()
        assert held(system, "worker")
        system.processes.reparent(OPERATOR, named(system, "worker").pid, 1)
        await system.until(lambda: works(system, "worker"))


async def test_one_that_is_killed_while_it_waits_does_not_start(
    tmp_path: Path, mock_clock: Any
) -> None:
    tree = {"lead": "init", "worker": "lead"}
    async with started_again(tmp_path / "state", tree) as system:
        await system.until(lambda: works(system, "lead"))
        worker = named(system, "worker")
        system.processes.command(OPERATOR, worker.pid, "KILL")
        mock_clock.jump(10.1)
        await system.until(lambda: system.of(ProcessReady))
        await trio.testing.wait_all_tasks_blocked()
        assert (worker.state, worker.restarts) == (State.DEAD, 0)
        assert set(system.supervisor.readiness.sizes().values()) == {0}


async def test_the_maid_leaves_those_that_wait_alone(tmp_path: Path, mock_clock: Any) -> None:
    tree = {"lead": "init", "worker": "lead"}
    async with started_again(tmp_path / "state", tree) as system:
        await system.until(lambda: works(system, "lead"))
        await trio.testing.wait_all_tasks_blocked()
        system.maid.scan()
        assert system.maid.report["Ok"] is True
        opens_recv(system)
        await system.until(lambda: works(system, "worker"))
        assert named(system, "worker").restarts == 1


async def test_a_restart_in_between_waits_for_an_unready_parent_only(
    timed: System, mock_clock: Any
) -> None:
    timed.supervisor.restarts.jitter = lambda: 0.0
    lead = await timed.spawn("lead", exec=SLEEP)
    worker = await timed.spawn("worker", lead.pid, exec=SLEEP)
    assert alive(worker.ospid or 0), "nobody waits in a spawn"

    async def crash(*processes: Process) -> None:
        for process in processes:
            os.kill(process.ospid or 0, signal.SIGKILL)
        await timed.until(lambda: all(each.state is State.BLOCKED for each in processes))
        await trio.testing.wait_all_tasks_blocked()

    timed.processes.receives(as_agent(lead), "lead")
    await crash(worker)
    mock_clock.jump(1.01)
    await timed.until(lambda: works(timed, "worker"))

    await crash(lead, worker)
    mock_clock.jump(2.01)
    await timed.until(lambda: works(timed, "lead"))
    await trio.testing.wait_all_tasks_blocked()
    assert held(timed, "worker")
    timed.processes.receives(as_agent(lead), "lead")
    await timed.until(lambda: works(timed, "worker"))


async def test_a_shutdown_does_not_wait_for_those_that_wait(
    tmp_path: Path, mock_clock: Any
) -> None:
    tree = {"lead": "init", "worker": "lead"}
    async with started_again(tmp_path / "state", tree) as system:
        await system.until(lambda: works(system, "lead"))
        with fail_after_real(10):
            await system.supervisor.shutdown(5)
        assert named(system, "worker").state is State.BLOCKED
    async with running(tmp_path / "state", clock=TrioClock()) as system:
        await system.until(lambda: works(system, "lead"))
        opens_recv(system)
        await system.until(lambda: works(system, "worker"))
