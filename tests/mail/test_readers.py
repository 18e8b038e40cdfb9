"""Several loops that read for one principal: each acknowledges what it got, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from agentfs.machine.lineage import Lineage
from agentfs.mail.message import Message
from agentfs.mail.readers import Reader
from agentfs.model.process import Process, State
from tests.tree import eventually
from tests.world import World


@pytest.fixture
def bob(world: World) -> Process:
    return world.process("bob")


def claim(world: World, reader: Reader | None) -> Message:
    message = world.mail.receiving.claim_next(world.principal("bob"), "bob", reader)
    assert message is not None
    return message


def send(world: World, count: int) -> list[Message]:
    return [world.send("init", "bob", f"{number}") for number in range(count)]


def test_an_open_file_acknowledges_only_what_it_got(world: World, bob: Process) -> None:
    sent = send(world, 4)
    one, two = Reader("bob"), Reader("bob")
    assert claim(world, one) is sent[0]
    assert claim(world, two) is sent[1]
    assert claim(world, two) is sent[2]
    assert [m.folder for m in sent] == ["cur", "done", "cur", "new"]
    assert claim(world, one) is sent[3]
    assert [m.folder for m in sent] == ["done", "done", "cur", "cur"]


def test_what_a_closed_file_left_is_acknowledged_by_a_fresh_one_alone(
    world: World, bob: Process
) -> None:
    sent = send(world, 4)
    first, kept, fresh = Reader("bob"), Reader("bob"), Reader("bob")
    claim(world, kept)
    claim(world, first)
    world.mail.receiving.leave(first)
    claim(world, kept)
    assert [m.folder for m in sent] == ["done", "cur", "cur", "new"]
    claim(world, fresh)
    assert [m.folder for m in sent] == ["done", "done", "cur", "cur"]


def test_a_file_that_was_closed_and_is_used_on_by_an_heir_goes_on(
    world: World, bob: Process
) -> None:
    sent = send(world, 2)
    reader = Reader("bob")
    claim(world, reader)
    world.mail.receiving.leave(reader)
    world.mail.receiving.leave(reader)
    claim(world, reader)
    assert [m.folder for m in sent] == ["done", "cur"]
    assert world.mail.mailbox("bob").reading(reader) == [sent[1]]


def test_settling_is_about_what_the_file_itself_got(world: World, bob: Process) -> None:
    sent = send(world, 2)
    one, two = Reader("bob"), Reader("bob")
    claim(world, one)
    claim(world, two)
    world.mail.receiving.settle(world.principal("bob"), "bob", "done", reader=two)
    assert [m.folder for m in sent] == ["cur", "done"]


def test_idle_is_who_waits_and_holds_nothing_for_other_loops(world: World, bob: Process) -> None:
    send(world, 2)
    one, two = Reader("bob"), Reader("bob")
    claim(world, one)
    claim(world, two)
    world.mail.receiving.parked("bob", one)
    assert bob.state is State.RUNNING
    world.mail.receiving.settle(world.principal("bob"), "bob", "done", reader=two)
    world.mail.receiving.parked("bob", one)
    assert bob.state is State.IDLE


def test_a_clean_end_acknowledges_what_every_loop_had(world: World, bob: Process) -> None:
    sent = send(world, 2)
    for _ in range(2):
        claim(world, Reader("bob"))
    world.end(bob, 0)
    assert [m.folder for m in sent] == ["done", "done"]


def test_after_a_crash_of_the_daemon_every_loop_gets_one_again(world: World, bob: Process) -> None:
    send(world, 3)
    for _ in range(2):
        claim(world, Reader("bob"))
    world.restart()
    one, two = Reader("bob"), Reader("bob")
    again = [claim(world, one), claim(world, two), claim(world, one)]
    assert [(world.body(m), m.attempt) for m in again] == [("0", 2), ("1", 2), ("2", 1)]
    assert [m.folder for m in again] == ["done", "cur", "cur"]


# -- with real programs ----------------------------------------------------------------------------


@pytest.fixture
def program() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts programs that wait for a line and end with the code that it says."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        made = subprocess.Popen(["sh", "-c", "read code; exit $code"], stdin=subprocess.PIPE)
        started.append(made)
        return made

    yield start
    for each in started:
        each.kill()
        each.wait()
        assert each.stdin is not None
        each.stdin.close()


def reader(program: subprocess.Popen[bytes]) -> Reader:
    return Reader("bob", lambda: Lineage(program.pid, lambda ospid: ospid == os.getpid()))


def end(program: subprocess.Popen[bytes], code: int) -> None:
    if code < 0:
        program.send_signal(-code)
    else:
        assert program.stdin is not None
        program.stdin.write(b"%d\n" % code)
        program.stdin.flush()
    assert program.wait(10) == code
    eventually(lambda: not os.path.exists(f"/proc/{program.pid}"))


@pytest.mark.parametrize("code", [1, -signal.SIGKILL])
def test_a_loop_that_failed_after_it_closed_its_file_has_acknowledged_nothing(
    world: World, bob: Process, program: Callable[[], subprocess.Popen[bytes]], code: int
) -> None:
    sent = send(world, 1)
    worker = program()
    mine = reader(worker)
    claim(world, mine)
    world.mail.receiving.leave(mine)
    end(worker, code)
    again = claim(world, reader(program()))  # its first claim would have acknowledged it
    assert again is sent[0]
    assert again.attempt == 2


def test_the_maid_finds_what_a_failed_loop_left(
    world: World, bob: Process, program: Callable[[], subprocess.Popen[bytes]]
) -> None:
    sent = send(world, 1)
    worker = program()
    mine = reader(worker)
    claim(world, mine)
    world.mail.receiving.leave(mine)
    assert world.release_stale() == 0
    end(worker, 2)
    assert world.release_stale() == 1
    assert (sent[0].folder, sent[0].attempt) == ("new", 2)


def test_what_a_cat_got_is_acknowledged_by_the_next_of_its_loop_and_not_by_another(
    world: World, bob: Process, program: Callable[[], subprocess.Popen[bytes]]
) -> None:
    sent = send(world, 3)
    cat, elsewhere = program(), program()
    first = reader(cat)
    claim(world, first)
    world.mail.receiving.leave(first)
    other = reader(elsewhere)
    claim(world, other)
    assert sent[0].folder == "cur"  # the program that read it lives, and is not the other one
    end(cat, 0)
    claim(world, reader(program()))
    assert [m.folder for m in sent] == ["done", "cur", "cur"]
