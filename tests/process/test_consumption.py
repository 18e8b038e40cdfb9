"""Memory and processor time of programs: limits of each, limits of their sum, what they used."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.machine.cgroups import ControlGroups
from agentfs.machine.rlimits import CPU_BELT, Bounds, below, limits_for, usage_of
from agentfs.model.process import State
from agentfs.process.consumption import Consumption
from agentfs.process.events import ResourceExceeded
from tests.process.world import (
    PYTHON,
    System,
    as_agent,
    eventually,
    running,
)
from tests.process.world import program as sleeper

MIB = 1024 * 1024

USE = "import time; all(iter(lambda: time.process_time() < 0.2, False))"
"""Uses processor time, however long it takes to get it."""

HOLD = "import time; kept = bytearray({0} << 20); print('holds', flush=True); time.sleep(1000)"
"""Holds so many MiB that were written to."""

SPIN = "while :; do :; done"


@pytest.fixture
def consumption(system: System) -> Consumption:
    return system.kernel.consumption


@pytest.fixture(params=["cgroup", "ancestry"])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """With control groups, if there are any, and without."""
    async with running(tmp_path / "either", groups=request.param == "cgroup") as made:
        if request.param == "cgroup" and not made.programs.groups.available:
            pytest.skip("no control groups here")
        yield made


async def test_a_program_gets_no_more_memory_than_its_limit(system: System) -> None:
    script = "import sys\ntry: kept = bytearray(64 << 20)\nexcept MemoryError: print('refused')"
    process = await system.spawn(
        "bob", exec=[PYTHON, "-c", script], limits={"max_memory_mb": 48}, restart="never"
    )
    await system.until(lambda: not process.state.alive)
    assert process.output == "refused\n"


async def test_its_children_have_the_same_limits_each(system: System) -> None:
    process = await system.shell(
        "bob", "sh -c 'ulimit -d; ulimit -t'", limits={"max_memory_mb": 48, "max_cpu_seconds": 7}
    )
    await system.until(lambda: not process.state.alive)
    assert process.output.split() == [str(48 * 1024), str(7 + CPU_BELT)]


async def test_programs_that_together_hold_too_much_memory_are_killed(
    system: System, consumption: Consumption
) -> None:
    system.programs.groups.has_memory = False  # which would not let it come that far
    script = f'for n in 1 2 3; do {PYTHON} -c "{HOLD.format(30)}" & done; wait'
    process = await system.shell("bob", script, limits={"max_memory_mb": 64}, restart="always")
    await eventually(lambda: system.programs.measures.usage(process).memory_mb > 64)
    members = system.programs.measures.members(process)
    assert len(members) >= 3
    await system.until(lambda: not process.state.alive)
    assert process.state is State.DEAD, "for good, whatever its policy"
    assert process.output.splitlines()[-1].startswith("limit: max_memory_mb, ")
    exceeded = system.of(ResourceExceeded)
    assert [(event.pid, event.resource, event.limit) for event in exceeded] == [
        (process.pid, "max_memory_mb", 64.0)
    ]
    assert exceeded[0].used > 64
    await system.all_reaped()
    await eventually(lambda: not any(os.path.exists(f"/proc/{ospid}") for ospid in members))
    assert len(consumption) == 0


async def test_programs_that_together_use_up_their_processor_time_are_ended(
    system: System, consumption: Consumption
) -> None:
    process = await system.shell(
        "bob", f"({SPIN}) & ({SPIN}) & wait", limits={"max_cpu_seconds": 1}, restart="always"
    )
    await system.until(lambda: not process.state.alive)
    assert process.state is State.ZOMBIE
    assert process.stopping
    (exceeded,) = system.of(ResourceExceeded)
    assert (exceeded.resource, exceeded.limit) == ("max_cpu_seconds", 1.0)
    assert 1 <= exceeded.used < 3, (
        "a quarter of a second late for each processor, and a busy machine"
    )
    assert "limit: max_cpu_seconds" in process.output
    assert len(consumption) == 0


async def test_a_limit_of_none_is_exceeded_by_the_first_look(
    system: System, consumption: Consumption
) -> None:
    process = await system.shell("bob", SPIN, limits={"max_cpu_seconds": 0})
    await system.until(lambda: not process.state.alive)
    assert len(system.of(ResourceExceeded)) == 1


async def test_what_has_no_limit_is_not_looked_at(system: System, consumption: Consumption) -> None:
    free = await system.shell("bob", SPIN)
    consumption.tidy()
    assert len(consumption) == 0
    system.grants.bounds = lambda process: Bounds(cpu_seconds=1000)
    consumption.tidy()
    assert len(consumption) == 1
    system.grants.bounds = lambda process: Bounds()
    system.programs.measures.apply_limits(free, Bounds())
    assert len(consumption) == 0
    assert free.state.alive


async def test_a_limit_that_is_lowered_holds_for_programs_at_work(
    either: System,
) -> None:
    process = await either.shell("bob", "sleep 1000 & setsid sleep 1001 & echo ready; wait")
    await either.said("bob", "ready")
    await eventually(lambda: len(either.programs.measures.members(process)) == 3)
    either.programs.measures.apply_limits(process, Bounds(32, 50))
    for ospid in either.programs.measures.members(process):
        data = resource.prlimit(ospid, resource.RLIMIT_DATA)[0]
        assert data == 32 * MIB or either.programs.groups.has_memory
        assert resource.prlimit(ospid, resource.RLIMIT_CPU) == (50 + CPU_BELT, 50 + CPU_BELT)
    raised = either.programs.measures.apply_limits(process, Bounds())
    for ospid in either.programs.measures.members(process):
        for number, soft, hard in limits_for(None, None):
            assert (resource.prlimit(ospid, number) == (soft, hard)) is raised


async def test_usage_is_that_of_all_its_programs(either: System) -> None:
    children = f'{PYTHON} -c "{HOLD.format(20)}" & {PYTHON} -c "{HOLD.format(20)}" & wait'
    process = await either.shell("bob", f"{PYTHON} -c '{USE}'; {children}")
    await eventually(lambda: either.agents.log_path("bob").read_text().count("holds") == 2)
    used = either.programs.measures.usage(process)
    assert 40 < used.memory_mb < 80
    assert 0.1 < used.cpu_seconds < 5, "that of a child that has ended included"
    idle = await either.spawn("idle")
    assert either.programs.measures.usage(idle) == usage_of([])


async def test_an_attached_program_is_measured_and_limited_but_not_confined(
    either: System,
) -> None:
    with sleeper("sleep", "1000") as program:
        try:
            process = await either.spawn("bob")
            either.processes.attach(as_agent(process), process.pid, program.pid)
            assert either.programs.measures.members(process) == below(program.pid) == [program.pid]
            assert 0 <= either.programs.measures.usage(process).memory_mb < 10
            either.programs.measures.apply_limits(process, Bounds(32))
            assert resource.prlimit(program.pid, resource.RLIMIT_DATA)[0] == 32 * MIB
            assert process.confined == ()
        finally:
            program.kill()
    await either.until(lambda: not process.state.alive)


def test_the_group_limits_memory_where_it_has_the_controller(tmp_path: Path) -> None:
    """The file that is written: most machines of developers and containers have no such group."""
    groups = ControlGroups("test")
    groups._base = str(tmp_path)
    (tmp_path / "p7").mkdir()
    (tmp_path / "p7/memory.max").write_text("max\n")
    groups.limit_memory(7, 64)
    assert (tmp_path / "p7/memory.max").read_text().strip() == str(64 * MIB)
    (tmp_path / "p7/memory.max").write_text("")
    groups.limit_memory(7, None)
    assert (tmp_path / "p7/memory.max").read_text() == "max"
