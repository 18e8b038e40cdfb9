"""A program that is in execve(2) while another reads its file holds nobody up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

HANDS_ON = """
import os, sys
tree = os.environ["AGENTFS"]
if len(sys.argv) == 1:
    recv = os.open(tree + "/agents/self/recv", os.O_RDONLY)
    os.set_inheritable(recv, True)
    if os.fork() == 0:
        while True:
            if not os.read(recv, 1 << 20):  # the end of a message: the next one
                os.lseek(recv, 0, os.SEEK_SET)
    sys.argv.append(str(recv))
for _ in range(200):
    os.open(tree + "/README", os.O_RDONLY)
os.execv(sys.executable, [sys.executable, __file__, sys.argv[1]])
"""
"""Opens its mailbox and executes itself for ever, with many files to close; its child reads."""

SENDS = """
import os, sys
for number in range(200):
    with open(sys.argv[1] + "/agents/init/outbox/bob", "w") as letter:
        letter.write("hello")
"""


def test_who_executes_something_while_its_child_reads_holds_up_nobody(
    tree: Tree, tmp_path: Path
) -> None:
    """The daemon looks who reads, among others at the opener: that must not wait for the end of its
    execve, which waits for the daemon."""
    script = tmp_path / "hands_on.py"
    script.write_text(HANDS_ON)
    tree.spawn("bob", exec=[sys.executable, str(script)], restart="never")
    sender = tree.start(sys.executable, "-c", SENDS, str(tree.path))
    try:
        assert sender.wait(60) == 0
    except subprocess.TimeoutExpired:
        tree.crash()
        pytest.fail("the daemon stands still")
    eventually(lambda: not list((tree / "agents/bob/inbox/new").iterdir()))
