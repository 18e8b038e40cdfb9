"""A crowd that reads everything, and a fuzzer that writes anything: the daemon does not mind."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
import threading
import time
from pathlib import Path

import pytest

from tests.tree import Tree

pytestmark = pytest.mark.mount

CRAWL_SECONDS = float(os.environ.get("AGENTFS_CRAWL_SECONDS", "8"))
FUZZ_WRITES = int(os.environ.get("AGENTFS_FUZZ_WRITES", "10000"))
AGENTS = 200

# What a well-behaved tree may answer; EIO is a fault of ours.
EXPECTED = {
    errno.ENOENT, errno.EAGAIN, errno.EACCES, errno.ESRCH, errno.ESTALE, errno.EINVAL, errno.EPERM,
    errno.ENOTDIR, errno.ELOOP,
}  # fmt: skip


def _read_everything(
    root: Path, stop: threading.Event, errors: list[OSError], count: list[int]
) -> None:
    while not stop.is_set():
        for folder, folders, files in os.walk(root, onerror=errors.append):
            random.shuffle(folders)
            for name in files:
                if stop.is_set():
                    return
                path = os.path.join(folder, name)
                try:
                    if not stat.S_ISREG(os.lstat(path).st_mode):
                        continue
                    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                    try:
                        while os.read(descriptor, 65536):
                            pass
                    finally:
                        os.close(descriptor)
                except OSError as failure:
                    errors.append(failure)
                count[0] += 1


def test_a_crowd_reads_everything_while_agents_come_and_go(tree: Tree) -> None:
    tree.write("etc/agentfs.yaml", f"processes: {{max_children_of_init: {AGENTS * 2}}}\n")
    for number in range(AGENTS):
        tree.spawn(f"agent-{number}")
    stop = threading.Event()
    errors: list[OSError] = []
    counts = [[0] for _ in range(8)]
    crowd = [
        threading.Thread(target=_read_everything, args=(tree.path, stop, errors, count))
        for count in counts
    ]
    for thread in crowd:
        thread.start()
    chance = random.Random(7)
    ends = time.monotonic() + CRAWL_SECONDS
    came_and_went = 0
    try:
        while time.monotonic() < ends:
            name = f"passing-{came_and_went}"
            pid = tree.spawn(name)
            tree.write(f"agents/init/outbox/agent-{chance.randrange(AGENTS)}", f"hello {name}")
            tree.write(f"proc/{pid}/ctl", "done 0 bye\n")
            tree.read(f"proc/{pid}/wait")
            (tree / f"agents/{name}").rmdir()
            came_and_went += 1
    finally:
        stop.set()
        for thread in crowd:
            thread.join()
    unexpected = {(failure.errno, failure.filename) for failure in errors
                  if failure.errno not in EXPECTED}  # fmt: skip
    assert unexpected == set()
    assert sum(count[0] for count in counts) > 1000
    assert came_and_went > 10
    assert tree.holds() == []
    assert "Traceback" not in tree.log()
    assert tree.read("proc/1/state") == "running\n"


def _writable(tree: Tree) -> list[Path]:
    found = []
    for folder, _, files in os.walk(tree.path):
        if "/shared" in folder or "/memory" in folder:
            continue
        for name in files:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and mode & 0o222:
                found.append(path)
    return found


def _noise(chance: random.Random) -> bytes:
    kind = chance.randrange(6)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 200))
    if kind == 1:
        return bytes(chance.randrange(256) for _ in range(3)) * chance.randrange(1, 3000)
    if kind == 2:
        return b"%d" % chance.randrange(-(2**70), 2**70)
    if kind == 3:
        verbs = [
            b"TERM",
            b"term",
            b"done",
            b"reparent",
            b"idle",
            b"STOP",
            b"CONT",
            b"start",
            b"kill-branch",
        ]
        return chance.choice(verbs) + b" " + chance.randbytes(chance.randrange(0, 9)) + b"\n"
    if kind == 4:
        return b"To: " + chance.randbytes(4) + b"\nExpires: " + chance.randbytes(6) + b"\n\nx"
    return b"name: " + chance.randbytes(5) + b"\nexec: [" + chance.randbytes(3) + b"]\n"


def test_ten_thousand_random_writes_do_no_harm(tree: Tree) -> None:
    for number in range(5):
        tree.spawn(f"agent-{number}")
    chance = random.Random(20261121)
    paths = _writable(tree)
    assert len(paths) > 40
    config = tree.read("etc/agentfs.yaml")
    faults: list[tuple[str, bytes]] = []
    written = 0
    while written < FUZZ_WRITES:
        path = chance.choice(paths)
        noise = _noise(chance)
        written += 1
        try:
            descriptor = os.open(path, os.O_WRONLY | chance.choice((0, os.O_TRUNC, os.O_APPEND)))
        except OSError as failure:
            if failure.errno == errno.EIO:
                faults.append((str(path), noise))
            if failure.errno == errno.ENOENT:
                paths = [known for known in paths if known.exists()]
            continue
        try:
            os.write(descriptor, noise)
        except OSError as failure:
            if failure.errno == errno.EIO:
                faults.append((str(path), noise))
        finally:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    assert faults == []
    assert tree.holds() == []
    assert tree.read("proc/1/state") == "running\n"
    assert "Traceback" not in tree.log()
    # What was accepted is what the format allows: the configuration parses and is complete.
    now = tree.read("etc/agentfs.yaml")
    if now != config:
        tree.write("etc/agentfs.yaml", now)
    report = tree.doctor()
    assert report.returncode == 0, report.stdout + report.stderr
