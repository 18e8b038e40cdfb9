"""A lease (F_SETLEASE) on a file of the daemon's disk: who opens the file is to wait up to 45 s for
who has it. The daemon does not: it serves everybody else meanwhile."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.conftest import Hatchery
from tests.hatchery import QuickTree
from tests.puppet import Puppet
from tests.tree import PATIENCE, Tree, eventually

pytestmark = pytest.mark.mount

AT_ONCE = 20
"""Seconds: a lease is broken by force after 45 (/proc/sys/fs/lease-break-time)."""

HOLDS = """
import errno, fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, lambda *_: os.write(1, b"wanted\\n"))
file = os.open(sys.argv[1], os.O_RDONLY)
for _ in range(1000):  # until nobody else has it open
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        break
    except BlockingIOError:
        time.sleep(0.01)
else:
    sys.exit("somebody has it open")
os.write(1, b"leased\\n")
sys.stdin.read()
"""


@contextmanager
def leased(path: Path) -> Iterator[IO[bytes]]:
    """Another process has a lease on this file of the disk, and does not give it up. It writes a
    line when somebody opens the file."""
    command = [sys.executable, "-c", HOLDS, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"leased\n"
            yield holder.stdout
        finally:
            holder.kill()


@pytest.fixture(scope="module")
def kept_tree(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    tree = QuickTree(tmp_path_factory.mktemp("leases") / "tree", hatchery=hatchery)
    try:
        tree.mount()
        yield tree
    finally:
        tree.clean_up()


@pytest.fixture(scope="module")
def alice(kept_tree: Tree) -> Iterator[Puppet]:
    with closing(Puppet(kept_tree, "alice")) as puppet:
        yield puppet


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A program that ends with code 3."""
    file = tmp_path / "script"
    file.write_text("#!/bin/sh\nexit 3\n")
    file.chmod(0o755)
    return file


def by_truncate(path: Path) -> None:
    os.truncate(path, 1)


def by_emptying(path: Path) -> None:
    """As `: > FILE` does."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))


def by_reading_and_emptying(path: Path) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))


def by_writing(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY))


def by_reading(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.read(file, 10)
    finally:
        os.close(file)


CALLS = (by_truncate, by_emptying, by_reading_and_emptying, by_writing, by_reading)


def is_eagain_at_once(call: Callable[[Path], None], path: Path, other: Puppet) -> None:
    """And another agent can send."""
    began = time.monotonic()
    with pytest.raises(BlockingIOError) as refused:
        call(path)
    other.send("init", "still here")
    assert refused.value.errno == errno.EAGAIN
    assert time.monotonic() - began < AT_ONCE


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("place", ["shared", "agents/alice/memory"])
def test_a_leased_file_is_eagain(
    kept_tree: Tree, alice: Puppet, place: str, call: Callable[[Path], None]
) -> None:
    name = f"{call.__name__}.txt"
    (kept_tree / place / name).write_text("content")
    (file,) = [found for found in kept_tree.state.rglob(name) if place in str(found)]
    with leased(file):
        is_eagain_at_once(call, kept_tree / place / name, alice)
        assert file.stat().st_size == len("content")
    call(kept_tree / place / name)


def test_a_leased_log_is_eagain(kept_tree: Tree, alice: Puppet) -> None:
    kept_tree.spawn("bob")
    log = kept_tree.state / "logs/bob.log"
    log.write_text("words\n")
    eventually(lambda: (kept_tree / "agents/bob/log").stat().st_size == len("words\n"))
    with leased(log):
        is_eagain_at_once(by_reading, kept_tree / "agents/bob/log", alice)
    assert kept_tree.read("agents/bob/log") == "words\n"


def test_a_leased_artifact_is_eagain(kept_tree: Tree, alice: Puppet) -> None:
    (kept_tree / "dev/shm/global/report").write_text("the only artifact")
    (file,) = [
        found
        for found in kept_tree.state.rglob("*")
        if found.is_file() and found.stat().st_size == 17 and found.read_bytes()[:8] == b"the only"
    ]
    with leased(file):
        is_eagain_at_once(by_reading, kept_tree / "dev/shm/global/report", alice)
    assert kept_tree.read("dev/shm/global/report") == "the only artifact"


def test_the_operator_does_not_wait_for_a_launch_that_hangs(kept_tree: Tree, script: Path) -> None:
    """Who is no child of the daemon's is no child of a launch."""
    carol = kept_tree.spawn("carol", exec=["sleep", "1000"], restart="never")
    with ThreadPoolExecutor() as threads:
        with leased(script) as told:
            spawned = threads.submit(kept_tree.spawn, "dave", exec=[str(script)], restart="never")
            assert told.readline() == b"wanted\n"
            kept_tree.write(f"proc/{carol}/ctl", "KILL\n")
            assert kept_tree.read(f"proc/{carol}/wait") == "137\n"
            assert not spawned.done()
        assert kept_tree.read(f"proc/{spawned.result()}/wait") == "3\n"


def test_a_launch_that_hangs_is_given_up(kept_tree: Tree, script: Path) -> None:
    carl = kept_tree.spawn("carl", exec=["sleep", "1000"], restart="never")
    with ThreadPoolExecutor() as threads, leased(script) as told:
        spawned = threads.submit(kept_tree.spawn, "erin", exec=[str(script)])
        assert told.readline() == b"wanted\n"
        kept_tree.write(f"proc/{carl}/ctl", "KILL\n")
        assert kept_tree.read(f"proc/{carl}/wait") == "137\n"
        with pytest.raises(TimeoutError) as refused:
            spawned.result(PATIENCE)
        assert refused.value.errno == errno.ETIMEDOUT
        # The child has been there: Linux is told.
        eventually(lambda: not (kept_tree / "agents/erin").exists())
    assert kept_tree.spawn("erin", exec=[str(script)], restart="never")
