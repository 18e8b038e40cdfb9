"""A shell says what became of the message that it got, instead of asking for the next."""

from __future__ import annotations

import errno
import os

import pytest

from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

LOOP = """
recv=$AGENTFS/agents/self/recv
while msg=$(cat "$recv"); do
    case $msg in
    *poison) echo 'failed not to be stomached' > "$recv" ;;
    *later) [ -e "$AGENTFS/shared/now" ] && echo "done later" || echo back > "$recv" ;;
    *) echo "done ${msg##* }"; echo done > "$recv" ;;
    esac
done
exit 1
"""


def test_a_shell_gives_up_puts_back_and_acknowledges(tree: Tree) -> None:
    pid = tree.spawn("alice", exec=["sh", "-c", LOOP])
    for text in ("this is poison", "this is good"):
        tree.write("agents/init/outbox/alice", text)
    eventually(lambda: "done good" in tree.read("agents/alice/log"))
    eventually(lambda: list((tree / "agents/alice/dead").iterdir()))
    (dead,) = (tree / "agents/alice/dead").iterdir()
    assert "not to be stomached" in dead.read_text()
    assert "Delivery-Attempt: 5" in dead.read_text()
    eventually(lambda: not list((tree / "agents/alice/inbox/cur").iterdir()))
    tree.write("agents/init/outbox/alice", "not yet: later")
    (tree / "shared/now").touch()
    eventually(lambda: "done later" in tree.read("agents/alice/log"))
    assert f"Pid:\t{pid}\n" in tree.read(f"proc/{pid}/status")
    assert "Restarts:\t0\n" in tree.read(f"proc/{pid}/status")


def test_settling_nothing_and_other_words_are_refused(tree: Tree) -> None:
    for words, number in (("done", errno.ENOENT), ("failed", errno.ENOENT)):
        with pytest.raises(OSError, match="No such file"):
            tree.write("agents/init/recv", words)
        assert errno.errorcode[number] in tree.read("proc/self/error")
    tree.write("agents/init/outbox/init", "to myself")
    recv = os.open(tree / "agents/init/recv", os.O_RDWR)
    try:
        assert os.read(recv, 4096).endswith(b"to myself")
        with pytest.raises(OSError, match="Invalid argument"):
            os.write(recv, b"perhaps")
        assert "done, back or failed" in tree.read("proc/self/error")
        assert os.write(recv, b"done\n") == 5
    finally:
        os.close(recv)
    assert list((tree / "agents/init/inbox/cur").iterdir()) == []
