"""The fork server: what forks the programs, dies unnoticed by none, and outlives nobody."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from agentfs.base.errors import KernelError
from agentfs.machine import fork_client, fork_server, programs
from agentfs.machine.fork_client import ForkServer
from agentfs.machine.proc import read_status
from tests.process.world import PATIENCE, System, eventually, gone

REFUSED = 9999
"""The number of no system call."""

WITHOUT_CLONE3 = f"""
import socket, sys
from agentfs.machine import fork_server
fork_server.CLONE3 = {REFUSED}
fork_server.main(socket.socket(fileno=int(sys.argv[1])))
"""

ROOT = str(Path(fork_server.__file__).parents[2])


def server_of(system: System) -> int:
    return system.programs._fork_server.ospid


async def ran(system: System, name: str, **spec: Any) -> None:
    """A program of this name starts, and ends well."""
    process = await system.spawn(name, exec=["true"], restart="never", **spec)
    await system.until(lambda: not process.state.alive)
    assert process.exit_code == 0


@pytest.mark.parametrize("clone3", [True, False], ids=["clone3", "double fork"])
async def test_programs_are_the_daemons_children_and_one_server_forks_them_all(
    system: System, clone3: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not clone3:
        monkeypatch.setenv("PYTHONPATH", ROOT)
        monkeypatch.setattr(fork_client, "COMMAND", (sys.executable, "-c", WITHOUT_CLONE3))
    first = await system.spawn("first", exec=["sleep", "1000"])
    server = server_of(system)
    second = await system.spawn("second", exec=["sleep", "1000"])
    for process in (first, second):
        status = read_status(process.ospid or 0)
        assert status is not None
        assert (status.ppid, status.session) == (os.getpid(), process.ospid)
    assert server_of(system) == server
    status = read_status(server)
    assert status is not None
    assert status.session == os.getsid(0), "it is a helper, and not what an agent left behind"
    await ran(system, "third")


async def test_a_program_has_its_three_descriptors_and_no_other(system: System) -> None:
    process = await system.spawn("bob", exec=["ls", "/proc/self/fd"], restart="never")
    await system.until(lambda: not process.state.alive)
    assert process.output.split() == ["0", "1", "2", "3"], "and ls its own"


async def test_words_come_as_they_are_in_any_encoding(system: System) -> None:
    script = 'printf \'%s|%s\' "$1" "$MINE" | od -An -tx1'
    words = ["/bin/sh", "-c", script, "x", "\udcff ä"]
    process = await system.spawn("bob", exec=words, env={"MINE": "😀"}, restart="never")
    await system.until(lambda: not process.state.alive)
    expected = b"\xff \xc3\xa4|" + "😀".encode()
    assert bytes.fromhex("".join(process.output.split())) == expected


async def test_an_argument_with_a_nul_is_refused(system: System) -> None:
    process = replace(await system.spawn("bob"), exec=("true", "a\0b"))
    with pytest.raises(KernelError, match="null byte") as caught:
        await system.programs.start(process, system.state_dir / "log", system.state_dir)
    assert caught.value.errno == errno.EINVAL


async def test_one_that_was_killed_is_reaped_and_the_next_program_starts_another(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    stays = await system.spawn("stays", exec=["sleep", "1000"])
    server = server_of(system)
    os.kill(server, signal.SIGKILL)
    await gone(server)
    system.programs.reap_orphans()
    assert not Path(f"/proc/{server}").exists(), "it was reaped"
    assert "fork server" in caplog.text
    assert system.programs.alive(stays), "nothing depends on it"
    await ran(system, "bob")
    assert server_of(system) not in (0, server)


async def test_one_that_is_killed_with_an_order_before_it_is_another_has_it(
    system: System,
) -> None:
    await ran(system, "first")
    server = server_of(system)
    os.kill(server, signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ran, system, "second")
        await eventually(lambda: system.programs.launching)
        os.kill(server, signal.SIGKILL)
    assert server_of(system) != server


async def test_one_that_stands_still_is_ended_with_the_time_of_the_launch(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ran(system, "first")
    server = server_of(system)
    os.kill(server, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(programs, "LAUNCH_SECONDS", 0.2)
        with pytest.raises(KernelError) as caught:
            await system.spawn("bob", exec=["true"])
    assert caught.value.errno == errno.ETIMEDOUT
    assert not Path(f"/proc/{server}").exists()
    await ran(system, "bob")
    await eventually(lambda: not system.programs._limiter.borrowed_tokens)


async def test_servers_that_always_die_are_said_so(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_client, "COMMAND", ("true",))
    with pytest.raises(KernelError, match="was killed 3 times, try again") as caught:
        await system.spawn("bob", exec=["true"])
    assert caught.value.errno == errno.EAGAIN
    assert system.table.by_name("bob") is None
    monkeypatch.undo()
    await ran(system, "bob")


def order(server: ForkServer, folder: Path, report: int) -> int:
    """Order a program that makes `folder`/made; the descriptor of the order's file."""
    words = {
        "home": 2, "folders": [], "entries": [], "nice": 0, "in_network": None,
        "make_network": None, "user": None, "cell": None, "limits": [], "stdio": [None] * 3,
        "third": None, "files": ["/bin/mkdir"], "words": ["mkdir", "made"], "environment": [],
    }  # fmt: skip
    file = os.memfd_create("order", os.MFD_CLOEXEC)
    os.pwrite(file, json.dumps(words).encode(), fork_server.ORDER)
    home = os.open(folder, os.O_PATH)
    server.order([file, report, home])
    os.close(report)
    os.close(home)
    return file


def child_of(file: int) -> int:
    return int(fork_server.HEAD.unpack(os.pread(file, fork_server.HEAD.size, 0))[0])


@pytest.mark.parametrize("hears", [True, False])
async def test_nothing_is_executed_for_a_daemon_that_has_ended(tmp_path: Path, hears: bool) -> None:
    """kill -9 of the daemon closes its end of the report."""
    server = ForkServer()
    ours, childs = os.pipe2(os.O_CLOEXEC)
    if not hears:
        os.close(ours)
    file = order(server, tmp_path, childs)
    await eventually(lambda: child_of(file))
    await trio.to_thread.run_sync(os.waitpid, child_of(file), 0)
    assert (tmp_path / "made").exists() is hears
    if hears:
        os.close(ours)
    os.close(file)
    server.end()


def test_it_ends_with_the_daemon_whatever_ends_that() -> None:
    code = (
        "import os\nfrom agentfs.machine.fork_client import ForkServer\n"
        "server = ForkServer()\nfile = os.memfd_create('x')\nserver.order([file, os.dup(file)])\n"
        "print(server.ospid, flush=True)\nos.read(0, 1)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as daemon:
        assert daemon.stdout is not None
        server = int(daemon.stdout.readline())
        pidfd = os.pidfd_open(server)
        daemon.kill()
    ended = threading.Event()
    threading.Thread(target=lambda: (wait_for(pidfd), ended.set()), daemon=True).start()
    assert ended.wait(PATIENCE)
    os.close(pidfd)


def wait_for(pidfd: int) -> None:
    select.select([pidfd], [], [])
