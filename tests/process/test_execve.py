"""A process that is held up in execve(2) holds nobody else up.

It closes its close-on-exec files under a lock that most of its files in /proc wait for. So a file
system that does not answer, ours or a hostile one, would hold whoever asks for them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from agentfs.machine.proc import UNTOLD, is_in_execve, parent_of, read_stat, thread_group
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

DEAF = """
import errno, os, stat, sys, pyfuse3, trio

class Deaf(pyfuse3.Operations):
    async def getattr(self, inode, ctx=None):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_nlink = inode, 1
        entry.st_mode = stat.S_IFDIR | 0o755 if inode == 1 else stat.S_IFREG | 0o666
        return entry

    async def lookup(self, parent, name, ctx=None):
        if name != b"file":
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(2)

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=2)

    async def flush(self, handle):
        await trio.sleep_forever()

pyfuse3.init(Deaf(), sys.argv[1], {*pyfuse3.default_options, "allow_other"})
trio.run(pyfuse3.main)
"""
"""A file system that never answers a close."""

HANGS = (
    "import os, sys; os.open(sys.argv[1], os.O_WRONLY); os.execv('/bin/sleep', ['sleep', '600'])"
)
"""Executes something with a file of such a file system to close, and waits for ever."""


@pytest.fixture
def deaf(fuse: None, tmp_path: Path) -> Iterator[Path]:
    """A file whose close is never answered."""
    if os.geteuid() != 0:
        pytest.skip("other users may be let into a mount by root only")
    folder = tmp_path / "deaf"
    folder.mkdir()
    server = subprocess.Popen([sys.executable, "-c", DEAF, str(folder)])
    try:
        eventually((folder / "file").exists)
        yield folder / "file"
    finally:
        server.kill()  # which answers all that wait
        server.wait()
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


@pytest.fixture
def hung(deaf: Path) -> Iterator[int]:
    """The pid of a program that is held up in execve."""
    program = subprocess.Popen([sys.executable, "-c", HANGS, str(deaf)])
    try:
        eventually(lambda: hangs(program.pid))
        yield program.pid
    finally:
        program.kill()
        # It ends when the file system does: nobody can wait for it here.
        program.returncode = -signal.SIGKILL


T = TypeVar("T")


def in_time(what: Callable[[], T], seconds: float = 20.0) -> T:
    """What `what()` gives, in a thread that is left alone if it hangs."""
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(what()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it hangs"
    return found[0]


def test_what_is_told_of_it_waits_for_nothing(hung: int) -> None:
    stat = in_time(lambda: read_stat(hung))
    assert stat is not None
    assert (stat.ppid, stat.start, stat.ended) == (os.getpid(), UNTOLD, False)
    parent, mark = in_time(lambda: parent_of(hung))
    assert parent == os.getpid()
    assert mark != parent_of(os.getpid())[1]
    assert in_time(lambda: thread_group(hung)) == hung
    assert not is_in_execve(os.getpid())
    assert not is_in_execve(2), "a thread of Linux's has no command line, and no memory"


def test_the_system_goes_on_with_an_agent_that_hangs_so(deaf: Path, tree: Tree) -> None:
    script = f'{sys.executable} -c "{HANGS}" {deaf} & cat $AGENTFS/agents/self/pid; wait'
    pid = tree.spawn("bob", exec=["sh", "-c", script], restart="never")
    log = tree / "agents/bob/log"
    eventually(lambda: log.read_text().strip() == str(pid))
    victim = eventually_hung(tree, pid)
    tree.write("agents/init/outbox/bob", "hello\n")
    assert "State:" in tree.read(f"proc/{pid}/status")
    assert "hello" in tree.read("agents/bob/recv")
    tree.spawn("alice", exec=["sleep", "600"])
    tree.write(f"proc/{pid}/ctl", "KILL\n")
    assert tree.read(f"proc/{pid}/wait") == "137\n"
    assert is_in_execve(victim) or not os.path.exists(f"/proc/{victim}")


def hangs(pid: int) -> bool:
    """Whether it is in execve, and stays there: everybody is for a moment."""
    for _ in range(20):
        if not is_in_execve(pid):
            return False
        time.sleep(0.01)
    return True


def eventually_hung(tree: Tree, pid: int) -> int:
    """The program of process `pid` that hangs."""
    shell = int(tree.read(f"proc/{pid}/ospid"))
    found: list[int] = []

    def look() -> bool:
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        found[:] = [child for child in map(int, children) if hangs(child)]
        return bool(found)

    eventually(look)
    return found[0]


def test_so_it_is_with_one_that_was_killed_in_it(hung: int) -> None:
    os.kill(hung, signal.SIGKILL)
    assert in_time(lambda: read_stat(hung)) is not None


LATE = """
import os, sys
from agentfs.machine import orphans, proc, rlimits
for module in (orphans, proc, rlimits):
    module.is_in_execve = lambda ospid: False
hung = int(sys.argv[1])
stat = proc.read_stat(hung)
print(stat.ppid, stat.start, proc.code_of_zombie(hung, 1), proc.began_by(hung, 0))
print(rlimits.usage_of([hung]).cpu_seconds, orphans._says_it_is(hung, "/"))
"""
"""Looks at a process that enters execve right after it was asked whether it is there."""


def test_it_may_enter_execve_right_before_the_look(hung: int) -> None:
    look = subprocess.Popen([sys.executable, "-c", LATE, str(hung)], stdout=subprocess.PIPE)
    try:
        said, _ = look.communicate(timeout=60)
    finally:
        look.kill()
    assert said.decode() == f"{os.getpid()} {UNTOLD} None True\n0.0 None\n"
