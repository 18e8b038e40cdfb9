"""Real programs: how they are started, what they are given, what they leave behind."""

from __future__ import annotations

import errno
import os
import pwd
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from agentfs.base.errors import KernelError
from agentfs.machine import proc, programs
from agentfs.machine.cgroups import ControlGroups
from agentfs.machine.fork_client import ForkServer
from agentfs.machine.launch import Launch, Terms
from agentfs.machine.logs import TAIL, rotate, tail
from agentfs.machine.proc import read_stat
from agentfs.machine.sidecar import Sidecar
from agentfs.model.process import Process, State
from tests.process.test_rules import refused
from tests.process.world import (
    OPERATOR,
    PYTHON,
    System,
    alive,
    eventually,
    gone,
    running,
    zombie,
)
from tests.system.test_leases import leased

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="only root starts programs as other users")


async def ended(system: System, pid: int) -> int | None:
    """Wait for the end of a process; its exit code."""
    await system.until(lambda: not system.table.get(pid).state.alive)
    return system.table.get(pid).exit_code


async def test_the_whole_life_of_a_program(system: System) -> None:
    process = await system.shell("bob", "echo hello; echo oh >&2; exit 7", restart="never")
    assert process.ospid is not None
    assert await ended(system, process.pid) == 7
    assert process.state is State.ZOMBIE
    assert process.output == "hello\noh\n"
    assert system.agents.log_path("bob").read_text() == "hello\noh\n"
    assert process.ospid is None
    await system.all_reaped()
    assert system.ends == [(process.pid, 7)]


async def test_a_program_is_told_who_it_is_and_little_else(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("LC_TIME", "C")
    process = await system.spawn("bob", exec=["env"], env={"MINE": "1", "AGENT_PID": "999"})
    assert await ended(system, process.pid) == 0
    given = dict(line.split("=", 1) for line in process.output.splitlines())
    assert given["AGENTFS"] == "/nowhere"
    assert given["AGENT_NAME"] == "bob"
    assert given["AGENT_PID"] == str(process.pid), "a spec cannot forge it"
    assert given["MINE"] == "1"
    assert given["LC_TIME"] == "C"
    assert "PATH" in given
    assert "SECRET_TOKEN" not in given


async def test_a_program_leads_a_session_and_group_of_its_own_in_its_memory(system: System) -> None:
    process = await system.shell("bob", "pwd; cat; exec sleep 1000")
    await system.said("bob", "\n")
    stat = read_stat(process.ospid or 0)
    while stat is not None and stat.start < 0:  # it is in execve, where nobody says that
        await trio.sleep(0.01)
        stat = read_stat(process.ospid or 0)
    assert stat is not None
    assert (stat.session, stat.group) == (process.ospid, process.ospid)
    memory = system.agents.memory_dir("bob")
    assert system.agents.log_path("bob").read_text() == f"{memory}\n", "and stdin is empty"
    assert memory.stat().st_mode & 0o777 == 0o700
    assert process.os_start == stat.start


async def test_a_program_that_is_long_in_execve_can_be_told_to_stop_and_is_found_again(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine it may be preempted there, and nobody else knows when it began."""
    with monkeypatch.context() as patch:
        patch.setattr(proc, "is_in_execve", lambda ospid: True)
        process = await system.spawn("bob", exec=["sleep", "1000"])
        program = system.programs.find(process.ospid)
        assert program is not None
        assert system.programs.alive(process)
    stat = read_stat(program.ospid)
    assert stat is not None
    assert (process.os_start, program.os_start) == (stat.start, stat.start)
    assert system.programs.alive(process)
    system.processes.signal(OPERATOR, process.pid, "STOP")
    await eventually(lambda: system.programs.stopped(program))
    later = programs.Programs("/nowhere", "later", system.grants)
    later.groups._base = ""
    with monkeypatch.context() as patch:
        patch.setattr(proc, "is_in_execve", lambda ospid: True)
        adopted = later.adopt(process)
    assert adopted is not None
    os.close(adopted.pidfd)


async def test_what_is_in_execve_cannot_be_attached_yet(
    system: System, monkeypatch: pytest.MonkeyPatch, descriptors: Any
) -> None:
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(proc, "is_in_execve", lambda ospid: True)
        with pytest.raises(KernelError) as caught:
            system.programs.attach(5, os.getppid())
    assert caught.value.errno == errno.EAGAIN
    assert descriptors() == before


async def test_cwd_is_relative_to_the_memory_or_absolute(system: System, tmp_path: Path) -> None:
    one = await system.shell("one", "pwd", cwd=str(tmp_path))
    await ended(system, one.pid)
    assert one.output == f"{tmp_path}\n"
    agent = system.agents.define(OPERATOR, "two", 0, 0)
    (system.agents.memory_dir(agent.name) / "in").mkdir()
    two = await system.shell("two", "pwd", cwd="in")
    await ended(system, two.pid)
    assert two.output.endswith("/two/memory/in\n")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"exec": ["no-such-program-anywhere"]}, errno.ENOENT),
        ({"exec": ["/etc/passwd"]}, errno.EACCES),
        ({"exec": ["/etc"]}, errno.EACCES),
        ({"exec": ["./none"]}, errno.ENOENT),
        ({"exec": ["/bin/true/x"]}, errno.ENOTDIR),
        ({"exec": ["true"], "cwd": "/no/such/folder"}, errno.ENOENT),
        ({"exec": ["true"], "cwd": "/etc/passwd"}, errno.ENOTDIR),
        ({"exec": ["true", "x" * 3_000_000]}, errno.E2BIG),
    ],
)
async def test_a_program_that_cannot_be_started_leaves_no_trace(
    system: System, spec: dict[str, Any], expected: int, descriptors: Any
) -> None:
    await refused(system, name="bob", **spec)  # the first launch starts the fork server
    before = descriptors()
    refusal = await refused(system, name="bob", **spec)
    assert refusal.errno == expected
    assert system.agents.find("bob") is None
    assert descriptors() == before
    await system.spawn("bob")  # the name is free


async def test_a_failed_start_of_an_old_agent_leaves_it_as_it_was(system: System) -> None:
    system.agents.define(OPERATOR, "bob", os.geteuid(), os.getegid())
    system.agents.redefine(OPERATOR, "bob", "exec: [sleep, '1']\n")
    (system.agents.memory_dir("bob") / "note").write_text("mine")
    await refused(system, name="bob", exec=["no-such-program-anywhere"])
    assert system.agents.get("bob").spec == "exec: [sleep, '1']\n"
    assert (system.agents.memory_dir("bob") / "note").read_text() == "mine"


@pytest.mark.parametrize("groups", [True, False])
async def test_true_exit_codes_and_128_plus_signal(tmp_path: Path, groups: bool) -> None:
    async with running(tmp_path / "state", groups=groups) as system:
        for number, (script, code) in enumerate(
            {
                "exit 0": 0,
                "exit 1": 1,
                "exit 255": 255,
                "kill -KILL $$": 137,
                "kill -TERM $$": 143,
                "kill -ABRT $$": 134,
            }.items()
        ):
            process = await system.shell(f"p{number}", script, restart="never")
            assert await ended(system, process.pid) == code


@pytest.mark.parametrize("groups", [True, False])
async def test_what_an_ended_program_leaves_running_is_killed(tmp_path: Path, groups: bool) -> None:
    """In the background, in a group of its own, in a session of its own after two forks."""
    script = (
        "sleep 1000 & echo $!; "
        "setsid sh -c 'echo $$; sleep 1000 & echo $!; wait' & "
        "(setsid sh -c 'sleep 1000 & echo $!' &) ; "
        "while [ $(wc -l < $LOG) -lt 4 ]; do sleep 0.01; done"
    )
    async with running(tmp_path / "state", groups=groups) as system:
        log = system.agents.log_path("bob")
        process = await system.shell("bob", script, env={"LOG": str(log)}, restart="never")
        assert await ended(system, process.pid) == 0
        ospids = [int(line) for line in log.read_text().split()]
        assert len(ospids) == 4
        for ospid in ospids:
            await gone(ospid)


async def test_a_program_that_writes_a_lot_never_blocks(system: System) -> None:
    process = await system.shell("bob", "yes | head -c 50000000; echo; echo done")
    assert await ended(system, process.pid) == 0
    assert system.agents.log_path("bob").stat().st_size == 50_000_006
    assert len(process.output) <= TAIL
    assert process.output.endswith("y\n\ndone\n")
    assert process.output.startswith("y\n")


async def test_the_output_of_one_run_is_not_that_of_the_run_before(system: System) -> None:
    one = await system.shell("bob", "echo first")
    await ended(system, one.pid)
    two = await system.shell("bob", "echo second")
    await ended(system, two.pid)
    assert (one.output, two.output) == ("first\n", "second\n")
    assert system.agents.log_path("bob").read_text() == "first\nsecond\n"


def test_a_log_is_rotated_and_the_program_goes_on_appending(tmp_path: Path) -> None:
    path = tmp_path / "bob.log"
    with open(path, "ab", buffering=0) as program:
        program.write(b"x" * 5000)
        assert not rotate(path, 5000)
        program.write(b"y")
        assert rotate(path, 5000)
        program.write(b"after\n")
    assert path.read_bytes() == b"after\n"
    assert (tmp_path / "bob.log.1").read_bytes() == b"x" * 5000 + b"y"
    assert tail(path, offset=4000) == "after\n", "an offset from before the rotation"
    assert tail(tmp_path / "none") == ""
    assert not rotate(tmp_path / "none", 1)


async def test_the_maid_rotates_the_log_of_a_program_that_runs(system: System) -> None:
    system.configure(log_size=4096)
    await system.shell("bob", "yes | head -c 10000; echo full; exec sleep 1000")
    await system.said("bob", "full")
    await system.maid.clean_disk()
    log = system.agents.log_path("bob")
    assert log.read_bytes() == b""
    assert log.with_name("bob.log.1").stat().st_size == 10_005


@needs_root
async def test_a_program_runs_as_the_user_of_its_spec(system: System) -> None:
    nobody = pwd.getpwnam("nobody")
    script = "id -u; id -g; id -G; echo $HOME; touch mine; pwd"
    process = await system.shell("bob", script, user="nobody")
    assert await ended(system, process.pid) == 0
    lines = process.output.splitlines()
    assert lines[:2] == [str(nobody.pw_uid), str(nobody.pw_gid)]
    assert "0" not in lines[2].split(), "none of root's groups"
    assert lines[3] == nobody.pw_dir
    memory = system.agents.memory_dir("bob")
    assert (memory / "mine").stat().st_uid == nobody.pw_uid
    assert memory.stat().st_uid == nobody.pw_uid
    child = await system.shell(
        "child", "sleep 1000", parent=(await system.spawn("p", user="nobody")).pid
    )
    assert child.uid == nobody.pw_uid, "inherited"
    assert os.stat(f"/proc/{child.ospid}").st_uid == nobody.pw_uid


async def test_the_control_group_tells_the_process_also_of_a_double_fork(system: System) -> None:
    if not system.programs.groups.available:
        pytest.skip("this machine gives us no control groups")
    process = await system.shell("bob", "(setsid sh -c 'sleep 1000 & echo $!' &); exec sleep 1000")
    await system.said("bob", "\n")
    grandchild = int(system.agents.log_path("bob").read_text())
    assert system.programs.pid_of_thread(grandchild) == process.pid
    assert system.programs.pid_of_thread(process.ospid or 0) == process.pid
    assert system.programs.pid_of_thread(os.getpid()) is None
    text = Path(f"/proc/{grandchild}/cgroup").read_text()
    assert system.programs.pid_of_cgroup(text) == process.pid
    assert system.programs.mode == "cgroup"


def test_the_text_of_a_control_group_is_read_strictly() -> None:
    groups = ControlGroups("me")
    try:
        for text, pid in {
            "0::/agentfs-me/p7\n": 7,
            "1:cpu:/agentfs-me/p8\n0::/user/agentfs-me/p7/inner\n": 7,
            "1:cpu:/agentfs-me/p8\n": None,
            "0::/agentfs-me2/p7": None,
            "0::/agentfs-me/p7x": None,
            "0::/agentfs-me/": None,
            "0::/": None,
            "": None,
        }.items():
            assert groups.pid_of(text) == pid, text
    finally:
        if groups.available:
            groups.close()


async def test_a_child_is_known_before_it_executes_anything(system: System) -> None:
    """Its folder or its program may lie on our own mount, whose daemon has to know who asks."""
    seen: list[int | None] = []

    async def look() -> None:
        while not seen:
            for launch in tuple(system.programs._launches):
                if launch.ospid:
                    seen.append(system.programs.launch_of(launch.ospid))
            await trio.lowlevel.checkpoint()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            process = await system.spawn("bob", exec=["sleep", "1000"])
    assert seen == [process.pid]
    assert system.programs.launching == 0
    assert system.programs.launch_of(process.ospid or 0) is None


async def test_a_launch_that_hangs_ends_in_time_and_leaves_nothing(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its child is in execve until the deadline."""
    monkeypatch.setattr(programs, "LAUNCH_SECONDS", 1.5)
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)
    children: set[int] = set()
    with leased(script):
        async with trio.open_nursery() as nursery:

            async def look() -> None:
                while True:
                    children.update(launch.ospid for launch in system.programs._launches)
                    await trio.sleep(0.01)

            nursery.start_soon(look)
            with pytest.raises(KernelError, match="exec did not start within") as caught:
                await system.spawn("bob", exec=[str(script)])
            nursery.cancel_scope.cancel()
        assert caught.value.errno == errno.ETIMEDOUT
        assert system.programs.launching == 0
        await eventually(lambda: not system.programs._limiter.borrowed_tokens)
        for child in children - {0}:
            assert not Path(f"/proc/{child}").exists(), "it was reaped"
        assert system.table.by_name("bob") is None
    process = await system.spawn("bob", exec=[str(script)], restart="never")
    assert await ended(system, process.pid) == 3


async def test_what_a_launch_starts_after_it_was_abandoned_is_ended(
    system: System, tmp_path: Path
) -> None:
    process = replace(await system.spawn("bob"), exec=("sleep", "1000"))
    launch = Launch(process, str(tmp_path), tmp_path / "log", Terms(), ForkServer())
    launch.abandon()
    with pytest.raises(KernelError) as caught:
        launch.run(None)
    assert caught.value.errno == errno.ECANCELED
    assert not Path(f"/proc/{launch.ospid}").exists()


async def test_orphans_of_programs_are_reaped_and_nobody_elses_children(system: System) -> None:
    helper = zombie("true")  # a child of the daemon's own, in its session
    process = await system.shell("bob", "(setsid sh -c 'echo $$; exit 3' &); exec sleep 1000")
    await system.said("bob", "\n")
    orphan = int(system.agents.log_path("bob").read_text())

    def reaped() -> bool:
        system.programs.reap_orphans(all_of_them=True)
        return read_stat(orphan) is None

    await eventually(reaped)
    assert helper.wait() == 0, "its status was not stolen"
    assert alive(process.ospid or 0)


async def test_what_a_child_does_as_the_daemon_lets_go_is_no_error(tmp_path: Path) -> None:
    """CPython reports "Signal 17 ignored due to race condition" when another thread took a signal
    in the instant the default comes back; so it is a function of ours that comes back."""
    async with running(tmp_path / "state"):
        await trio.testing.wait_all_tasks_blocked()
    left = signal.getsignal(signal.SIGCHLD)
    assert callable(left)
    assert left is not signal.SIG_DFL


async def test_a_stop_and_a_continue_from_outside_are_seen(system: System) -> None:
    process = await system.shell("bob", "exec sleep 1000")
    assert process.ospid is not None
    os.kill(process.ospid, signal.SIGSTOP)
    await system.until(lambda: process.state is State.SLEEPING)
    os.kill(process.ospid, signal.SIGCONT)
    await system.until(lambda: process.state is State.RUNNING)


async def test_who_stops_itself_as_soon_as_it_is_started_is_seen_to(system: System) -> None:
    """Linux tells of it once, and that may be before the launch has said whose program it is."""
    for number in range(20):
        process = await system.shell(f"bob{number}", "kill -STOP $$")
        await system.until(lambda process=process: process.state is State.SLEEPING)  # type: ignore[misc]


async def test_a_python_program_is_started_as_well_as_a_shell(system: System) -> None:
    process = await system.spawn("bob", exec=[PYTHON, "-c", "import os; print(os.getcwd())"])
    assert await ended(system, process.pid) == 0
    assert process.output == f"{system.agents.memory_dir('bob')}\n"


async def test_the_watch_cannot_be_had_and_nothing_runs(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of descriptors between the exec and the pidfd."""

    def full(ospid: int) -> int:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(os, "pidfd_open", full)
    with pytest.raises(KernelError) as caught:
        await system.spawn("bob", exec=["sleep", "1000"])
    assert caught.value.errno == errno.EMFILE
    assert system.table.by_name("bob") is None


async def test_a_program_that_ends_leaves_the_group_to_one_that_is_being_started(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one that ended had removed it, and a tool could not be started (ENODEV)."""
    if not system.programs.groups.available:
        pytest.skip("without control groups")
    process = await system.spawn("bob")
    places = system.agents.log_path("bob"), system.agents.memory_dir("bob")
    system.agents.prepare("bob")
    first = await system.programs.start_beside(process, Sidecar(exec=("sleep", "1000")), *places)
    opened, go = threading.Event(), threading.Event()
    open_group = system.programs.measures.open_group

    def slow(process: Process) -> list[int]:
        entries = open_group(process)
        opened.set()
        assert go.wait(60)
        return entries

    monkeypatch.setattr(system.programs.measures, "open_group", slow)
    codes: list[int | None] = []

    async def second() -> None:
        sidecar = Sidecar(exec=("true",))
        program = await system.programs.start_beside(process, sidecar, *places)
        codes.append(await system.programs.wait(program))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(second)
        assert await trio.to_thread.run_sync(opened.wait, 60)
        system.programs.kill(first)
        await system.programs.wait(first)
        go.set()
    assert codes == [0]
    await eventually(lambda: system.programs.groups.pids() == [])
