"""Who descends from which program, as Linux tells it and as looks find it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
import trio

from agentfs.machine import kin as module
from agentfs.machine.forks import Forks, LostForksError
from agentfs.machine.kin import Kin
from agentfs.machine.proc import UNTOLD, parent_of
from tests.tree import eventually

Fork = tuple[int, int, int]


def _tells() -> bool:
    try:
        Forks().close()
    except OSError:
        return False
    return True


TOLD = pytest.mark.skipif(not _tells(), reason="Linux does not tell of forks in this container")


@contextmanager
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "1000"]) as program:
        try:
            yield program.pid
        finally:
            program.kill()


@pytest.fixture
def child() -> Iterator[int]:
    with sleeper() as ospid:
        yield ospid


@asynccontextmanager
async def followed(kin: Kin, look: Callable[[], object]) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(kin.follow, look)
        yield
        nursery.cancel_scope.cancel()


def forked_twice() -> tuple[int, int]:
    """The first of a line of two, and its orphan, which sleeps."""
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        second = os.fork()
        if second == 0:
            os.execv("/bin/sleep", ["sleep", "1000"])
        os.write(writer, b"%d\n" % second)
        os._exit(0)
    os.close(writer)
    with open(reader) as said:
        second = int(said.readline())
    os.waitpid(first, 0)
    return first, second


def wait_for(child: int) -> None:
    os.waitpid(child, 0)


def come_and_go(number: int) -> None:
    for _ in range(number):
        os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", "(true); true"], {}), 0)


@TOLD
async def test_who_forked_twice_is_known_by_the_first_of_its_line() -> None:
    kin, looks = Kin(), list[int]()
    async with followed(kin, lambda: looks.append(1)):
        assert kin.is_told
        first, second = forked_twice()
        try:
            assert kin.of(first) == [second]
            assert kin.root_of(second, parent_of(second)[1]) == first
            assert kin.root_of(second, 1) is None, "another one of its number"
        finally:
            os.kill(second, signal.SIGKILL)
        eventually(lambda: kin.of(first) == [])
    assert not kin.is_told
    assert looks == [1]


@TOLD
async def test_those_that_are_gone_are_forgotten() -> None:
    kin = Kin()
    async with followed(kin, lambda: None):
        come_and_go(300)
        kin.catch_up()
        assert len(kin) < 100


@TOLD
async def test_each_of_our_children_is_the_first_of_its_line(child: int) -> None:
    kin = Kin()
    async with followed(kin, lambda: None):
        kin.begin(child)
        come_and_go(1)
        assert kin.of(child) == [child]
        assert kin.of(os.getpid()) == []


@TOLD
async def test_forks_that_are_lost_are_looked_for(
    child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kin, again = Kin(), trio.Event()
    async with followed(kin, lambda: kin.is_told and kin.of(child) and again.set()):
        kin.begin(child)
        taken = Forks.take
        losing = [True]

        def take(forks: Forks, most: int) -> Iterator[Fork]:
            yield from taken(forks, most)
            if losing:
                losing.clear()
                raise LostForksError

        monkeypatch.setattr(Forks, "take", take)
        first, second = forked_twice()
        try:
            with trio.fail_after(30):
                await again.wait()
            assert kin.of(first) == [second], "it was heard of, and began when it was forked"
            assert kin.of(child) == [child], "what was known before still is"
        finally:
            os.kill(second, signal.SIGKILL)


def lose(monkeypatch: pytest.MonkeyPatch, *waiting: Fork) -> None:
    """Some forks are lost, after those that are `waiting` besides what Linux tells."""
    taken, turns = Forks.take, iter([True])

    def take(forks: Forks, most: int) -> Iterator[Fork]:
        if next(turns, False):
            raise LostForksError
        monkeypatch.setattr(Forks, "take", taken)
        yield from waiting
        yield from taken(forks, most)

    monkeypatch.setattr(Forks, "take", take)


@TOLD
async def test_if_forks_were_lost_who_got_the_number_of_one_that_is_gone_is_another(
    child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kin = Kin()
    async with followed(kin, lambda: None):
        with sleeper() as root:
            kin.begin(root)
            began = time.monotonic_ns()
            lose(monkeypatch, (root, child, began - 10**9))
            assert kin.of(root) == [root], "what was forked then is gone"
            lose(monkeypatch, (root, child, began))
            assert kin.of(root) == [root, child], "it lives"


@TOLD
async def test_if_forks_were_lost_the_children_of_another_are_not_those_of_who_had_its_number(
    child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kin = Kin()
    async with followed(kin, lambda: None):
        kin.catch_up()
        with monkeypatch.context() as then:
            then.setattr(module, "parent_of", lambda ospid: (1, 12345))
            kin.saw(1, [child])
            assert kin.of(1) == [child]
        lose(monkeypatch)
        kin.catch_up()
        with sleeper() as innocent:
            kin.catch_up()
            kin._heard(child, innocent, time.monotonic_ns())
            assert kin.of(1) == []


@TOLD
async def test_if_forks_were_lost_all_that_are_gone_are_forgotten(
    child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kin = Kin()
    async with followed(kin, lambda: None):
        kin.begin(child)
        kin.saw(child, range(10**8, 10**8 + 3000))  # there is no number that high
        kin._due = 0
        assert len(kin) > 3000
        lose(monkeypatch)
        for _ in range(10):
            kin.catch_up()
        assert len(kin) < 100
        assert kin.of(child) == [child]


@TOLD
async def test_more_than_are_looked_at_at_once_are_forgotten_later(child: int) -> None:
    kin = Kin()
    async with followed(kin, lambda: None):
        kin.begin(child)
        kin.saw(child, range(10**8, 10**8 + 3000))
        for _ in range(10):
            kin.catch_up()
        assert len(kin) < 100
        assert kin.of(child) == [child]


@TOLD
def test_a_flood_is_noticed_and_what_came_before_is_told_after() -> None:
    with closing(Forks()) as forks:
        forks._socket.setsockopt(1, 33 if os.geteuid() == 0 else 8, 20_000)  # SO_RCVBUF(FORCE)
        before = time.monotonic_ns()
        come_and_go(50)
        with pytest.raises(LostForksError):
            list(forks.take(1000))
        after = time.monotonic_ns()
        told = list(forks.take(1000))
        assert told
        assert all(before <= when <= after for _, _, when in told)
        assert len(told) < 100, "not all"


async def test_where_linux_does_not_tell_a_look_is_remembered(
    child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untold() -> None:
        raise OSError(0, "not here")

    monkeypatch.setattr(module, "Forks", untold)
    kin, looks = Kin(), list[int]()
    async with followed(kin, lambda: looks.append(1)):
        assert looks == [1]
        assert not kin.is_told
        kin.begin(os.getpid())
        kin.saw(os.getpid(), [child])
        assert set(kin.of(os.getpid())) == {os.getpid(), child}
        kin.begin(child)
        assert kin.of(child) == [child], "the number is another's now"


async def test_one_that_is_in_execve_is_known_all_the_same(
    child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.13 it has no mark for that moment."""
    kin = Kin()
    monkeypatch.setattr(module, "parent_of", lambda ospid: (1, UNTOLD))
    kin.saw(child, [child])
    assert kin.of(child) == [child]
    monkeypatch.undo()
    assert kin.of(child) == [child]
    assert kin.root_of(child, parent_of(child)[1]) == child
    monkeypatch.setattr(module, "parent_of", lambda ospid: (1, 12345))
    assert kin.of(child) == [], "another one of its number"


@TOLD
async def test_one_that_forked_and_ended_between_two_looks_is_not_missed() -> None:
    """It is gone when a look comes, and what it forked was not heard of yet."""
    kin = Kin()
    async with followed(kin, lambda: None):
        reader, writer = os.pipe()
        first = os.fork()
        if first == 0:
            os.read(reader, 1)
            if os.fork() == 0:
                os.execv("/bin/sleep", ["sleep", "1000"])
            os._exit(0)
        kin.catch_up()
        assert kin.of(first) == [first]
        os.write(writer, b".")
        wait_for(first)
        kin._due = 300
        kin._forget()
        (second,) = kin.of(first)
        os.kill(second, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


@TOLD
async def test_what_is_forked_after_the_end_is_killed(child: int) -> None:
    kin = Kin()
    async with followed(kin, lambda: None):
        first, second = forked_twice()
        os.kill(second, signal.SIGKILL)
        kin.catch_up()
        kin.end(first)
        kin._heard(second, child, time.monotonic_ns())
        kin.catch_up()
        eventually(lambda: b"State:\tZ" in Path(f"/proc/{child}/status").read_bytes())
