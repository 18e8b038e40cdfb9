"""A program that is to stand still for a moment: everything that it started does, and goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from agentfs.machine.proc import read_stat
from agentfs.machine.programs import Program
from agentfs.model.process import State
from tests.process.world import OPERATOR, System, eventually, running

# A child in another session, one whose parent has ended, one that has stopped itself.
FAMILY = """
setsid sh -c 'echo $$; exec sleep 1000' &
(setsid sh -c 'echo $$; exec sleep 1000' &)
setsid sh -c 'echo $$; kill -STOP $$; exec sleep 1000' &
exec sleep 1000
"""


def states(ospids: list[int]) -> str:
    found = [read_stat(ospid) for ospid in ospids]
    return "".join("-" if stat is None else stat.state for stat in found)


async def family(system: System) -> tuple[Program, list[int]]:
    """The program, and OS pids: its own, those that run, the one that is stopped."""
    process = await system.shell("bob", FAMILY)
    path = system.agents.log_path("bob")
    await eventually(lambda: path.read_text().count("\n") == 3)
    ospids = [int(line) for line in path.read_text().split()]
    await eventually(lambda: sorted(states(ospids)) == ["S", "S", "T"])
    program = system.programs.find(process.ospid)
    assert program is not None
    return program, [program.ospid, *sorted(ospids, key=lambda each: states([each]))]


async def test_without_control_groups_all_that_a_program_started_stands_still(
    tmp_path: Path,
) -> None:
    async with running(tmp_path / "state", groups=False) as system:
        program, ospids = await family(system)
        assert system.programs.hold(program)
        await eventually(lambda: states(ospids) == "TTTT")
        assert system.table.get(program.pid).state is not State.SLEEPING, "that is no state"
        system.programs.release(program)
        await eventually(lambda: states(ospids) == "SSST")

        assert system.programs.hold(program)
        assert system.programs.hold(program), "again, for what it has forked meanwhile"
        system.processes.signal(OPERATOR, program.pid, "STOP")
        system.programs.release(program, stay=True)
        await eventually(lambda: states(ospids) == "TSST")
        for ospid in ospids:
            os.kill(ospid, signal.SIGKILL)


async def test_what_an_earlier_daemon_held_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path / "state", groups=False, keep=True) as system:
        program, ospids = await family(system)
        system.programs.hold(program)
        await eventually(lambda: states(ospids) == "TTTT")
    async with running(tmp_path / "state", groups=False) as system:
        system.programs.release_adopted()
        await eventually(lambda: "T" not in states(ospids[:3]))
        for ospid in ospids:
            os.kill(ospid, signal.SIGKILL)


async def test_with_control_groups_one_that_has_stopped_itself_is_held_as_well(
    system: System,
) -> None:
    program, ospids = await family(system)
    os.kill(program.ospid, signal.SIGSTOP)
    await eventually(lambda: system.table.get(program.pid).state is State.SLEEPING)
    assert system.programs.hold(program)
    if system.programs.groups.available:
        events = Path(system.programs.groups.path(program.pid), "cgroup.events")
        await eventually(lambda: "frozen 1" in events.read_text())
    system.programs.release(program, stay=True)
    await eventually(lambda: states(ospids) == "TSST")
