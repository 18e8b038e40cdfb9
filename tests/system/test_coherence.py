"""Caches: whoever reads sees the last write that returned."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

ROUNDS = 3_000

WRITER = """
import os, sys
path, rounds = sys.argv[1], int(sys.argv[2])
for number in range(rounds):
    text = f"# {number} " + "x" * (number * 37 % 5000) + "\\n"
    with open(path, "w") as file:
        file.write(text)
    print(number, flush=True)
    sys.stdin.readline()
"""


def test_a_kept_and_a_new_descriptor_see_the_last_write_that_returned(tree: Tree) -> None:
    path = tree / "etc/agentfs.yaml"
    kept = os.open(path, os.O_RDONLY)
    writer = tree.start(
        sys.executable,
        "-c",
        WRITER,
        str(path),
        str(ROUNDS),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    try:
        for number in range(ROUNDS):
            assert int(writer.stdout.readline()) == number
            text = f"# {number} " + "x" * (number * 37 % 5000) + "\n"
            shown = os.pread(kept, 65536, 0).decode()  # the defaults follow, as comments
            assert shown.startswith(text)
            assert os.fstat(kept).st_size == len(shown)
            with open(path) as new:
                assert new.read() == shown
            writer.stdin.write(b"\n")
            writer.stdin.flush()
    finally:
        os.close(kept)
    assert writer.wait(10) == 0


def test_status_is_never_stale(tree: Tree) -> None:
    """But for one window, which is Linux's: it takes new attributes, here with the announcer's
    call, and drops the pages a moment later. A read between the two gets what was, cut to the new
    size; the next one is right."""
    pid = tree.spawn("alice")
    kept = os.open(tree / f"proc/{pid}/state", os.O_RDONLY)
    status = os.open(tree / f"proc/{pid}/status", os.O_RDONLY)
    windows = 0
    try:
        for number in range(2000):
            state = ("running", "idle")[number % 2]
            before = os.pread(kept, 100, 0).decode()
            tree.write(f"proc/{pid}/ctl", f"{state}\n")
            shown = os.pread(kept, 100, 0).decode()
            if shown == before[: len(state) + 1] and windows == 0:
                windows += 1
                eventually(lambda: os.pread(kept, 100, 0).decode() == f"{state}\n")  # noqa: B023
                continue
            assert shown == f"{state}\n"
            assert f"State:\t{state}\n" in os.pread(status, 4096, 0).decode()
            assert tree.read(f"proc/{pid}/state") == f"{state}\n"
            assert (tree / f"proc/{pid}/state").stat().st_size == len(state) + 1
    finally:
        os.close(kept)
        os.close(status)
