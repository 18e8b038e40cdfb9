"""Which process stands in a read of a file: the opener, another thread of it, an heir."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.mount import reading as module
from agentfs.mount.reading import reading
from tests.tree import eventually


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """A file whose reads wait, until the test is over."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    yield path
    os.close(writer)


def shell(script: str, fifo: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["bash", "-c", script, "bash", str(fifo)], stdout=subprocess.DEVNULL)


def inode(fifo: Path) -> int:
    return fifo.stat().st_ino


def end(program: subprocess.Popen[bytes], fifo: Path) -> None:
    """Let what waits read to the end."""
    program.kill()
    descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    os.write(descriptor, b"\n" * 100)
    os.close(descriptor)
    program.wait()


@pytest.mark.parametrize("looks", [True, False])
def test_the_opener_or_the_heir_that_reads_for_it(
    fifo: Path, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    if not looks:  # as Yama has it

        def refuse(tid: int, inode: int) -> bool:
            raise PermissionError

        monkeypatch.setattr(module, "_is_reading", refuse)
    own = shell('exec 3<> "$1"; read -r x <&3', fifo)
    heir = shell('exec 3<> "$1"; head -n 1 <&3; true', fifo)
    try:
        eventually(lambda: Path(f"/proc/{own.pid}/wchan").read_text() != "0")
        eventually(lambda: reading(own.pid, inode(fifo)) == own.pid)
        eventually(lambda: isinstance(reading(heir.pid, inode(fifo)), tuple))
        found = reading(heir.pid, inode(fifo))
        children = Path(f"/proc/{heir.pid}/task/{heir.pid}/children").read_text().split()
        assert isinstance(found, tuple)
        assert [str(part) for part in found if str(part) in children] == children
    finally:
        end(own, fifo)
        end(heir, fifo)


def test_another_thread_of_the_opener_is_the_opener(fifo: Path) -> None:
    descriptor = os.open(fifo, os.O_RDWR)
    thread = threading.Thread(target=os.read, args=(descriptor, 1))
    thread.start()
    try:
        eventually(lambda: reading(os.getpid(), inode(fifo)) == os.getpid())
        assert reading(os.getpid(), inode(fifo) + 1) is None
    finally:
        os.write(descriptor, b"x")
        thread.join()
        os.close(descriptor)
