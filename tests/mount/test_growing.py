"""A value that is read while it changes: each read gives the value of one moment."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from agentfs.mount.inodes import YOUNG_SECONDS
from tests.tree import Tree, until

pytestmark = pytest.mark.mount

READER = """
import json, os, sys
cut = 0
for _ in range(700):
    file = os.open(sys.argv[1], os.O_RDONLY)
    content = os.read(file, 65536)
    os.close(file)
    try:
        [json.loads(line) for line in content.splitlines()]
    except ValueError:
        cut += 1
print(cut)
"""


def test_no_read_is_cut_at_the_size_of_another_moment(tree: Tree) -> None:
    """Linux learns sizes in one thread and fills pages in another; 1 read in 100 was cut."""
    pid = tree.spawn("worker")
    command = [sys.executable, "-S", "-c", READER, str(tree / f"proc/{pid}/turns")]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    while any(reader.poll() is None for reader in readers):
        tree.write(f"proc/{pid}/turns", "begin")
        tree.write(f"proc/{pid}/turns", "end ok")
    assert [reader.communicate()[0] for reader in readers] == ["0\n"] * 3


def test_a_state_that_grows_between_two_reads_is_no_mix_of_both(tree: Tree) -> None:
    """`running` and then the end of `suspended`, as read(2) until the end of the file gives it."""
    pid = tree.spawn("worker")
    paths = tree / f"proc/{pid}/state", tree / "agents/worker/state"
    for path in paths:
        until(path, "idle")
    time.sleep(YOUNG_SECONDS * 1.1)  # what has just changed is read from a snapshot anyway
    files = [os.open(path, os.O_RDONLY) for path in paths]
    read = [os.read(file, 5) for file in files]
    tree.write(f"proc/{pid}/ctl", "STOP\n")
    read += [os.read(file, 100) for file in files]
    for file in files:
        os.close(file)
    assert read == [b"idle\n", b"idle\n", b"", b""]
    assert tree.read(f"proc/{pid}/state") == "sleeping\n"
