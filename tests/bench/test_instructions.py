"""The program that Callgrind counts, and what Callgrind says."""

from __future__ import annotations

import errno
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.callgrind import total
from bench.counts import cpu_seconds
from bench.in_kernel import CALLS
from bench.instructions import of_the_daemon, slow_tree
from bench.setting import ROOT, Setting
from bench.slow_daemon import opening


def test_the_program_makes_every_call_it_is_told_to(tmp_path: Path) -> None:
    told = "".join(f"{call} 2\n" for call in CALLS)
    done = subprocess.run(
        [sys.executable, "-m", "bench.in_kernel", str(tmp_path / "state")],
        input=told,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.split() == ["ready", *["done"] * len(CALLS)]


def test_the_total_of_a_dump_is_read() -> None:
    assert total("version: 1\nevents: Ir\nsummary: 7\ntotals: 3848472\n") == 3848472
    with pytest.raises(ValueError, match="no dump"):
        total("version: 1\n")


@pytest.mark.mount
def test_a_message_and_a_wake_are_counted_in_the_daemon(fuse: None, tmp_path: Path) -> None:
    """At full speed, its processor time in the place of instructions."""
    with slow_tree(tmp_path / "slow", []) as tree:

        def count() -> int:
            return round(cpu_seconds(tree.daemon) * 1e9)

        rows = list(of_the_daemon(Setting(quick=True, folder=tmp_path), tree, count))
    assert [row.what for row in rows] == [
        "a message in the daemon with its mount",
        "a wake in the daemon with its mount",
    ]
    assert all(math.isfinite(row.ours) for row in rows)
    assert not os.path.ismount(tmp_path / "slow/mnt")


def test_what_a_slow_daemon_asks_for_is_opened(tmp_path: Path) -> None:
    path = str(tmp_path / "pidfds")
    with opening(path):
        for pid, found in ((os.getpid(), True), (1 << 30, False)):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
                line.connect(path)
                line.send(str(pid).encode())
                said, descriptors, _, _ = socket.recv_fds(line, 64, 1)
            assert bool(descriptors) is found
            assert int(said) == (0 if found else errno.ESRCH)
            for descriptor in descriptors:
                os.close(descriptor)
