"""Exchanges: a request is written, and its answer read, on one open file."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from agentfs.base.errors import KernelError
from agentfs.quota.pots import POTS
from agentfs.quota.settings import ShareSettings
from agentfs.quota.shares import Holder, Pot
from agentfs.vfs.exchange import ROOM, ExchangeHandle, PendingReply
from tests.mount.conftest import Asked, Mounted, SmallTree

pytestmark = pytest.mark.mount


async def until(what: Callable[[], object]) -> None:
    """Wait until `what()` is true: other programs do it."""
    with trio.fail_after(30):
        while not what():  # noqa: ASYNC110
            await trio.sleep(0.002)


async def reply(small: Mounted, number: int = 0, of: int = 0) -> PendingReply:
    """The reply to request `number` of open file `of`, once there is one that somebody wants."""
    await until(lambda: len(small.tree.asked) > of and len(small.tree.asked[of].replies) > number)
    found = small.tree.asked[of].replies[number]
    with trio.fail_after(30):
        await found.wanted()
    return found


async def answer(small: Mounted, *pieces: bytes, number: int = 0, of: int = 0) -> None:
    made = await reply(small, number, of)
    for piece in pieces:
        await made.put(piece)
    made.end()


def start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@asynccontextmanager
async def program(small: Mounted, *words: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """One that has the exchange open as descriptor 3; its output is a pipe."""
    started = start(f"exec 3<>'{small.path / 'oracle'}'; exec \"$@\"", "sh", *words)
    try:
        yield started
    finally:
        started.kill()
        for pipe in (started.stdout, started.stderr):
            assert pipe is not None
            pipe.close()
        await small.do(started.wait)


async def output(small: Mounted, started: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    return await small.do(started.communicate)


class Opened:
    """An open exchange. All calls are made in threads: this thread serves them."""

    def __init__(self, small: Mounted, descriptor: int) -> None:
        self._small = small
        self.descriptor = descriptor

    async def write(self, data: bytes) -> None:
        assert await self._small.do(os.write, self.descriptor, data) == len(data)

    async def read(self, size: int = 100) -> bytes:
        return await self._small.do(os.read, self.descriptor, size)


@asynccontextmanager
async def opened(small: Mounted, flags: int = 0) -> AsyncIterator[Opened]:
    descriptor = await small.do(os.open, small.path / "oracle", os.O_RDWR | flags)
    try:
        yield Opened(small, descriptor)
    finally:
        with trio.CancelScope(shield=True):
            await small.do(os.close, descriptor)


async def test_a_conversation_in_a_shell(small: Mounted) -> None:
    script = "printf 'a ' >&3; echo b >&3; cat <&3; echo; echo c >&3; cat <&3; cat <&3; echo end"
    async with program(small, "sh", "-c", script) as shell:
        await answer(small, b"one ", b"two")
        await answer(small, b"three", number=1)
        assert await output(small, shell) == (b"one two\nthreeend\n", b"")
    assert small.tree.asked[0].requests == [b"a b\n", b"c\n"]
    await until(lambda: small.tree.asked[0].closed)
    assert small.tree.asked[0].cancelled == 0


SHELLS = {
    "dd": "echo q >&3; dd bs=2 status=none <&3",
    "head": "echo q >&3; head -n 1 <&3",
    "head and more": "echo q >&3; head -c 1 <&3; head -c 1 <&3; cat <&3",
    "buffered": r"""exec 3>&-; python3 -c '
f = open("ORACLE", "r+b"); f.write(b"q\n"); f.flush(); print(f.read().decode().strip())'""",
    "read": 'echo q >&3; read -r line <&3; echo "$line"',
    "substitution": 'echo q >&3; echo "$(cat <&3)"',
    "a child writes": "(echo q >&3); cat <&3",
    "one opens it for both": "exec 3>&-; { echo q >&0; cat; } 0<>ORACLE",
    "bash": "bash -c 'echo q >&3; mapfile -t lines <&3; echo ${lines[0]}'",
    "perl": r"""perl -e 'open(my $f, "+<&=3"); syswrite($f, "q\n"); print while <$f>'""",
    "perl opens": r"""exec 3>&-; perl -e '
open(my $f, "+<", "ORACLE") or die; syswrite($f, "q\n"); print while <$f>'""",
    "python": r"""python3 -c 'import os
f = open(3, "r+b", buffering=0); f.write(b"q\n"); print(f.read().decode().strip())'""",
    "python opens": r"""exec 3>&-; python3 -c '
f = open("ORACLE", "r+b", buffering=0); f.write(b"q\n"); print(f.read().decode().strip())'""",
    "node": r"""node -e 'const fs = require("fs"); fs.writeSync(3, "q\n");
        fs.createReadStream(null, {fd: 3}).pipe(process.stdout)'""",
}


@pytest.mark.parametrize("name", SHELLS)
async def test_programs_as_they_are(small: Mounted, name: str) -> None:
    script = SHELLS[name].replace("ORACLE", str(small.path / "oracle"))
    async with program(small, "sh", "-c", script) as shell:
        await until(lambda: any(asked.requests for asked in small.tree.asked))
        of = next(n for n, asked in enumerate(small.tree.asked) if asked.requests)
        await answer(small, b"yes", b"\n", of=of)
        out, err = await output(small, shell)
    assert (out.strip(), err) == (b"yes", b"")
    assert small.tree.asked[of].requests == [b"q\n"]


async def test_bytes_are_read_before_the_last_is_made(small: Mounted) -> None:
    async with opened(small) as file, trio.open_nursery() as nursery:
        await file.write(b"q")
        assert small.tree.asked[0].requests == []  # nobody has read yet
        nursery.start_soon(answer, small, b"first")
        assert await file.read() == b"first"
        assert await file.read() == b""
        assert await file.read() == b""


@pytest.mark.parametrize("came", [b"", b"some"])
async def test_a_failure_comes_after_what_came_and_every_read_tells_it(
    small: Mounted, came: bytes
) -> None:
    async def fail() -> None:
        made = await reply(small)
        await made.put(came)
        made.end(KernelError(errno.EREMOTEIO, "the provider hung up"))

    async with opened(small) as file, trio.open_nursery() as nursery:
        await file.write(b"q")
        nursery.start_soon(fail)
        if came:
            assert await file.read() == came
        for _ in range(3):
            with pytest.raises(OSError) as failed:
                await file.read()
            assert failed.value.errno == errno.EREMOTEIO
        await file.write(b"again")
        nursery.start_soon(lambda: answer(small, b"well", number=1))
        assert await file.read() == b"well"
    assert small.tree.asked[0].requests == [b"q", b"again"]
    assert small.tree.refusals[-1][1].reason == "the provider hung up"


async def test_it_is_opened_for_both(small: Mounted) -> None:
    path = small.path / "oracle"
    for script in (f"echo hi > {path}", f"echo hi >> {path}", f"cat {path}", f"cat < {path}"):
        words = ["sh", "-c", script]
        done = await small.do(lambda words=words: subprocess.run(words, capture_output=True))
        assert done.returncode
        assert b"ermission denied" in done.stderr
        assert "exec 3<>FILE" in small.tree.refusals[-1][1].reason
    assert small.tree.asked == []


async def test_a_read_without_a_request_says_what_to_do(small: Mounted) -> None:
    async with program(small, "sh", "-c", "cat <&3") as cat:
        out, err = await output(small, cat)
        assert (out, cat.returncode) == (b"", 1)
        assert b"No data available" in err
    assert "exec 3<>FILE" in small.tree.refusals[-1][1].reason


async def test_what_is_too_long_is_not_asked_in_part(small: Mounted) -> None:
    async with opened(small) as file, trio.open_nursery() as nursery:
        await file.write(b"x" * 600)
        for call in (file.write(b"y" * 600), file.write(b"y"), file.read(), file.read()):
            with pytest.raises(OSError) as failed:
                await call
            assert failed.value.errno == errno.EMSGSIZE
        assert small.tree.asked[0].requests == []
        await file.write(b"short")
        nursery.start_soon(answer, small, b"yes")
        assert await file.read() == b"yes"
    assert small.tree.asked[0].requests == [b"short"]


# -- readiness -------------------------------------------------------------------------------------


async def test_without_blocking(small: Mounted) -> None:
    async with opened(small, os.O_NONBLOCK) as file:
        with select.epoll() as poller:
            await small.do(poller.register, file.descriptor, select.EPOLLIN)
            ready = [(file.descriptor, select.EPOLLIN)]
            assert await small.do(poller.poll, 0.2) == []  # nothing was asked
            await file.write(b"q")
            with pytest.raises(BlockingIOError):
                await file.read()
            made = await reply(small)
            assert await small.do(poller.poll, 0.2) == []
            await made.put(b"one")
            assert await small.do(poller.poll, 30) == ready
            assert await file.read() == b"one"
            with pytest.raises(BlockingIOError):
                await file.read()
            assert await small.do(poller.poll, 0.2) == []
            made.end()
            assert await small.do(poller.poll, 30) == ready
            assert await file.read() == b""
            assert await small.do(poller.poll, 0.2) == []
    assert small.tree.asked[0].requests == [b"q"]


def _poll(descriptor: int, how: str) -> bool:
    if how == "select":
        return bool(select.select([descriptor], [], [], 30)[0])
    poller = select.poll() if how == "poll" else select.epoll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(30_000 if how == "poll" else 30))


@pytest.mark.parametrize("how", ["poll", "select", "epoll"])
async def test_who_polls_asks_by_that(small: Mounted, how: str) -> None:
    async with opened(small) as file, trio.open_nursery() as nursery:
        await file.write(b"q")
        nursery.start_soon(answer, small, b"yes")
        assert await small.do(_poll, file.descriptor, how)
        assert await file.read() == b"yes"


async def test_a_poll_between_two_pieces_does_not_cut_a_request_in_two(small: Mounted) -> None:
    async with opened(small) as file, trio.open_nursery() as nursery:
        for piece in (b"one ", b"two ", b"three"):
            assert (await small.do(select.select, [], [file.descriptor], [], 30))[1]
            await file.write(piece)
        nursery.start_soon(file.read)
        asked = small.tree.asked[0]
        await until(lambda: asked.requests[-1:] == [b"one two three"])
        await answer(small, b"yes", number=len(asked.replies) - 1)
    assert asked.cancelled == len(asked.replies) - 1


async def test_a_write_in_the_midst_of_an_answer_gives_up_its_rest(small: Mounted) -> None:
    async def begin() -> None:
        await (await reply(small)).put(b"first line\nand more")

    async with opened(small) as file, trio.open_nursery() as nursery:
        await file.write(b"q")
        nursery.start_soon(begin)
        assert await file.read(11) == b"first line\n"
        await file.write(b"next")
        assert small.tree.asked[0].cancelled == 1
        nursery.start_soon(lambda: answer(small, b"yes", number=1))
        assert await file.read() == b"yes"
    assert small.tree.asked[0].requests == [b"q", b"next"]


async def test_what_is_refused_for_a_while_is_asked_again(small: Mounted) -> None:
    small.tree.refusal = KernelError(errno.EAGAIN, "in a second", rule="rate")
    async with opened(small, os.O_NONBLOCK) as file, trio.open_nursery() as nursery:
        await file.write(b"q")
        with pytest.raises(BlockingIOError):
            await file.read()
        small.tree.refusal = None
        nursery.start_soon(answer, small, b"yes")
        assert await small.do(_poll, file.descriptor, "poll")
        assert await file.read() == b"yes"
    assert small.tree.asked[0].requests == [b"q", b"q"]


# -- signals, ends, and slow readers ---------------------------------------------------------------

INTERRUPTED = """
import os, signal
signals = 0
def count(*_):
    global signals
    signals += 1
signal.signal(signal.SIGALRM, count)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
os.write(3, b"q")
content = b""
while piece := os.read(3, 7):
    content += piece
signal.setitimer(signal.ITIMER_REAL, 0)
print(signals > 3, content.decode())
"""


async def test_signals_lose_no_byte(small: Mounted) -> None:
    async with program(small, sys.executable, "-c", INTERRUPTED) as interrupted:
        made = await reply(small)
        for number in range(40):
            await made.put(b"%d " % number)
            await trio.sleep(0.005)
        made.end()
        out, err = await output(small, interrupted)
    assert out.decode().split() == ["True", *map(str, range(40))], err
    assert small.tree.asked[0].requests == [b"q"]


async def test_a_reader_that_is_killed_cancels(small: Mounted) -> None:
    async with program(small, "sh", "-c", "echo q >&3; exec cat <&3") as cat:
        await reply(small)
        await until(lambda: small.tree.asked[0].waiting == 1)
        cat.send_signal(signal.SIGKILL)
        await until(lambda: small.tree.asked[0].closed)
    assert small.tree.asked[0].cancelled == 1
    assert small.tree.asked[0].waiting == 0


async def test_it_is_closed_with_the_last_descriptor(small: Mounted) -> None:
    async with opened(small) as file:
        other = Opened(small, os.dup(file.descriptor))
        await file.write(b"q")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.read)
        await (await reply(small)).put(b"some")
    assert small.tree.asked[0].cancelled == 0
    await small.do(os.close, other.descriptor)
    await until(lambda: small.tree.asked[0].closed)
    assert small.tree.asked[0].cancelled == 1


async def test_two_readers_of_one_open_file_share_its_bytes(small: Mounted) -> None:
    script = "echo q >&3; cat <&3 & cat <&3; wait"
    async with program(small, "sh", "-c", script) as shell:
        made = await reply(small)
        for number in range(100):
            await made.put(b"%d\n" % number)
        made.end()
        out, err = await output(small, shell)
    assert sorted(map(int, out.split())) == list(range(100)), err


async def test_a_slow_reader_holds_up_whoever_makes_the_answer(small: Mounted) -> None:
    given = 0

    async def make() -> None:
        nonlocal given
        made = await reply(small)
        while given < 20 * ROOM:
            given += 1000
            await made.put(b"x" * 1000)
        made.end()

    async with opened(small) as file, trio.open_nursery() as nursery:
        await file.write(b"q")
        nursery.start_soon(make)
        got = len(await file.read(10))
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert given <= ROOM + 2000
        while piece := await file.read(100_000):
            got += len(piece)
            assert len(piece) <= ROOM + 1000
    assert got == given


async def test_nobody_interrupts_a_reader_that_waits() -> None:
    """Linux lets no write(2) in while a read(2) of the same open file waits; io_uring might."""
    pot = Pot(POTS["unsent"], lambda: 1 << 20, ShareSettings)
    handle = ExchangeHandle(Asked(SmallTree()), pot.take(Holder("me", 0, operator=True), 0))
    handle.try_write(b"q")
    assert pot.used == 1
    assert handle.try_read(10) is None
    handle.parked()
    with pytest.raises(KernelError) as refused:
        handle.try_write(b"more")
    assert refused.value.errno == errno.EBUSY
    handle.unparked()
    assert handle.try_write(b"more") == 4
    handle.release()
    assert pot.used == 0
