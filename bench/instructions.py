"""How many instructions a system call of the kernel takes, with the listeners of the tree and
without the mount; and how many the daemon with its mount takes for a message, and for one that
somebody waits for. Callgrind counts them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from agentfs.base.build import build
from bench.alternatives.crew import Couple, crew
from bench.alternatives.ways import mail
from bench.callgrind import Counted, is_there, valgrind
from bench.counts import at_rest
from bench.in_kernel import CALLS
from bench.setting import ROOT, SLOW_PATIENCE, Setting, Tree
from bench.slow_daemon import opening
from bench.table import Row
from bench.targets import KERNEL_BEFORE, MOUNT_BEFORE, WAKE_BEFORE, of_build

__all__ = ["measure", "of_the_daemon", "slow_tree"]

Count = Callable[[], int]
"""Gives the instructions of a program since it was called last."""

PROGRAM, DAEMON = "bench.in_kernel", str(ROOT / "bench/slow_daemon.py")
WARM_UP = 20
IDLE_SECONDS = 15
"""As often comes the rarest of the daemon's rounds."""
APART = 0.3
"""Seconds between two messages, in which the reader waits again, slow as it is."""


def measure(setting: Setting) -> Iterator[Row]:
    """The kernel alone, and the daemon."""
    if is_there():
        yield from _of_the_kernel(setting)
        slow = setting.folder / "slow"
        with slow_tree(slow, valgrind(slow)) as tree:
            yield from of_the_daemon(setting, tree, Counted(slow, tree.daemon).count)


def _of_the_kernel(setting: Setting) -> Iterator[Row]:
    """Each call so many times; what came before, and the imports, are not counted."""
    times = setting.size(50, 2)
    program = subprocess.Popen(
        [*valgrind(setting.folder), sys.executable, "-m", PROGRAM, str(setting.folder / "state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        program.stdout.readline()
        counted, found = Counted(setting.folder, program.pid), dict[str, float]()
        for count in (setting.size(WARM_UP, 1), times):
            for call in CALLS:
                with suppress(BrokenPipeError):
                    program.stdin.write(f"{call} {count}\n")
                    program.stdin.flush()
                if not program.stdout.readline():
                    raise SystemExit(f"{PROGRAM} ended while it did {call}")
                instructions = counted.count() / count
                if count == times:
                    found[call] = instructions / 1000
                    yield Row("instructions", call, found[call], "thousand")
        yield Row(
            "instructions",
            "a message: sent, and received by a read that acknowledges the one before",
            sum(found[call] for call in CALLS[-2:]),
            "thousand",
            "before the log",
            KERNEL_BEFORE,
            of_build(pure=0.85, compiled=0.62),
            note=f"the {build()} build",
        )
    finally:
        with suppress(BrokenPipeError):  # it has ended
            program.stdin.close()
        program.stdout.close()
        program.kill()
        program.wait()


@contextmanager
def slow_tree(folder: Path, before: list[str]) -> Iterator[Tree]:
    """A mounted tree, whose daemon is the program that the words `before` it start."""
    tree, path = Tree(folder), str(folder / "pidfds")
    tree.state.mkdir()
    words = [str(tree.path), "--state", str(tree.state), "--foreground"]
    with opening(path), (folder / "said").open("wb") as said:
        program = subprocess.Popen(
            [*before, sys.executable, "-P", DAEMON, path, *words],
            stdout=said,
            stderr=said,
            cwd=tree.checkout,
            env=tree.environment,
        )
        try:
            tree.wait_for_mount(program)
            yield tree
        finally:
            program.terminate()
            program.wait(SLOW_PATIENCE)


def of_the_daemon(setting: Setting, tree: Tree, count: Count) -> Iterator[Row]:
    """A message of an agent that its parent reads, and one that it waits for, in a tree that is
    counted."""
    with crew(setting.folder, tree, sys.executable) as hired:
        (couple,) = hired.couples([(mail("counted", tree), "counted")])
        yield Row(
            "instructions",
            "a message in the daemon with its mount",
            _thousands(setting, tree, count, lambda _: None, partial(_pass, couple)),
            "thousand",
            "before the log",
            MOUNT_BEFORE,
            of_build(pure=0.82, compiled=0.63),
            note=f"the {build()} build",
        )
        yield Row(
            "instructions",
            "a wake in the daemon with its mount",
            _thousands(setting, tree, count, partial(_wait, couple), partial(_wake, couple)),
            "thousand",
            "before the log",
            WAKE_BEFORE,
            0.6,
            note=f"the {build()} build",
        )


def _thousands(
    setting: Setting,
    tree: Tree,
    count: Count,
    before: Callable[[int], None],
    work: Callable[[int], None],
) -> float:
    """Thousands of instructions for each of the messages that `work` passes after `before`,
    without those that the daemon executes meanwhile anyway: slow as it is, its own rounds come
    often beside messages."""
    warm_up, times = setting.size(WARM_UP, 1), setting.size(50, 2)
    before(warm_up)
    work(warm_up)
    before(times)
    idle, seconds = _counted_for(tree, count, lambda: time.sleep(setting.size(IDLE_SECONDS, 1)))
    instructions, passed = _counted_for(tree, count, lambda: work(times))
    return (instructions - idle / seconds * passed) / times / 1000


def _counted_for(tree: Tree, count: Count, work: Callable[[], None]) -> tuple[int, float]:
    """The instructions of the daemon from one rest to the next, and the seconds between them."""
    at_rest(tree.daemon)
    count()
    started = time.monotonic()
    work()
    at_rest(tree.daemon)
    passed = time.monotonic() - started
    return count(), passed


def _pass(couple: Couple, count: int) -> None:
    """They are all sent before one is read."""
    couple.sender.tell("fill", count=count - 1)  # and the one that ends it
    couple.sender.hear()
    couple.receiver.tell("drain")
    couple.receiver.hear()


def _wait(couple: Couple, count: int) -> None:
    couple.receiver.tell("notice", count=count)


def _wake(couple: Couple, count: int) -> None:
    """Of a receiver that was told to wait for so many."""
    couple.sender.tell("pace", count=count, interval=APART)
    couple.sender.hear()
    couple.receiver.hear()
