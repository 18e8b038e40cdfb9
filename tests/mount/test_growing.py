"""A value that is read while it changes: each read gives the value of one moment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.tree import Tree

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
