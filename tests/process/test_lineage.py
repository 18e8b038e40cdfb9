"""Which programs are behind a thread, how they ended, and whose loop goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from agentfs.machine.lineage import Lineage
from tests.tree import eventually


def nobody(ospid: int) -> bool:
    return False


@pytest.fixture
def shells() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts shells with a script, and ends them."""
    started: list[subprocess.Popen[bytes]] = []

    def start(script: str) -> subprocess.Popen[bytes]:
        shell = subprocess.Popen(
            ["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(shell)
        return shell

    yield start
    for shell in started:
        shell.kill()
        for pipe in (shell.stdin, shell.stdout):
            assert pipe is not None
            pipe.close()
        shell.wait()


def child(shell: subprocess.Popen[bytes]) -> int:
    """The program that the shell runs at the moment."""
    listed = f"/proc/{shell.pid}/task/{shell.pid}/children"

    found: list[str] = []

    def children() -> list[str]:
        with open(listed) as file:
            found[:] = file.read().split()
        return found

    eventually(children)
    return int(found[0])


def executed(pid: int, name: str) -> None:
    """Wait until a process is through execve(2), and runs that program."""

    def runs() -> bool:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().startswith(f"{name}\0")

    eventually(runs)


def sleeping(shell: subprocess.Popen[bytes]) -> int:
    """The `sleep` of a shell, once it is executed: a child that only forked has another name."""
    pid = child(shell)
    executed(pid, "sleep")
    return pid


def gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


def test_it_goes_from_the_thread_up_to_the_root(
    shells: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    shell = shells("sleep 1000; true")
    sleep = child(shell)
    line = Lineage(sleep, lambda ospid: ospid == shell.pid)
    assert [program.ospid for program in line._programs] == [sleep, shell.pid]
    whole = Lineage(sleep, nobody)
    assert [program.ospid for program in whole._programs][:3] == [sleep, shell.pid, os.getpid()]
    assert Lineage(0, nobody)._programs == []


def test_the_next_program_of_a_shell_continues_what_the_last_one_read(
    shells: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    first, second = shells("sleep 1000; sleep 1000; true"), shells("sleep 1000; true")
    read = Lineage(sleeping(first), nobody)
    other = Lineage(sleeping(second), nobody)
    assert not other.continues(read)  # it still lives
    read.watch()
    old = child(first)
    os.kill(old, signal.SIGTERM)
    eventually(lambda: child(first) != old and gone(old))
    following = Lineage(sleeping(first), nobody)
    assert following.continues(read)
    assert not other.continues(read)  # a program of another shell does not
    assert read.failure() == 128 + signal.SIGTERM


@pytest.mark.parametrize(("ending", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_how_a_program_ended_is_known_after_it_was_waited_for(
    shells: Callable[[str], subprocess.Popen[bytes]], ending: str, code: int
) -> None:
    shell = shells(f"bash -c 'read line; {ending}'; sleep 1000")
    program = child(shell)
    line = Lineage(program, nobody)
    line.watch()
    assert line.failure() == 0
    assert shell.stdin is not None
    shell.stdin.write(b"\n")
    shell.stdin.flush()
    eventually(lambda: gone(program))
    assert line.failure() == code


def test_a_failure_further_up_counts_only_where_nothing_below_lives(
    shells: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    shell = shells("(sleep 1000; exit 5); sleep 1000")
    line = Lineage(child(shell), nobody)
    line.watch()
    assert line.failure() == 0


def test_a_program_without_children_is_its_own_loop() -> None:
    mine, again = Lineage(os.getpid(), nobody), Lineage(os.getpid(), nobody)
    assert again.continues(mine)
    assert mine.failure() == 0


def test_a_line_goes_on_until_one_of_it_ends(
    shells: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    shell = shells("sleep 1000; true")
    sleep = sleeping(shell)
    line = Lineage(sleep, nobody)
    assert not line.goes_on(), "nobody holds on to its programs yet"
    line.watch()
    assert line.goes_on()
    shell.kill()
    shell.wait()
    assert not line.goes_on(), "the reader has another parent now"
    os.kill(sleep, signal.SIGKILL)


def test_a_line_does_not_go_on_when_its_reader_executes_another_program(
    shells: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    shell = shells("read go; exec sleep 1000")
    executed(shell.pid, "bash")
    line = Lineage(shell.pid, nobody)
    line.watch()
    assert line.goes_on()
    assert shell.stdin is not None
    shell.stdin.write(b"go\n")
    shell.stdin.flush()
    eventually(lambda: not line.goes_on())
    assert Lineage(shell.pid, nobody)._programs[0] == line._programs[0], "the same process still"


def test_descriptors_do_not_pile_up() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(50):
        Lineage(os.getpid(), nobody).watch()
    assert descriptors() <= before + 1
