"""From mount to unmount and back: what ends, what stays, what starts again."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount


def tool(*arguments: str) -> list[str]:
    """The machine's own command for unmounting."""
    return ["umount", *arguments] if os.geteuid() == 0 else ["fusermount3", "-u", *arguments]


def runs(ospid: int) -> bool:
    try:
        with open(f"/proc/{ospid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_umount_from_outside_ends_the_daemon_and_every_program(tree: Tree) -> None:
    pid = tree.spawn("alice", exec=["sleep", "600"])
    ospid = int(tree.read(f"proc/{pid}/ospid"))
    busy = subprocess.run(tool(str(tree.path)), check=False, capture_output=True, text=True)
    assert busy.returncode, "as long as somebody's working directory is in there"
    assert "busy" in busy.stderr
    assert runs(ospid)
    assert tree.daemon is not None
    lazily = "-l" if os.geteuid() == 0 else "-z"
    with tree._watching(tree.daemon) as ended:
        subprocess.run(tool(lazily, str(tree.path)), check=True)
        assert ended()
    tree.daemon = None
    assert not runs(ospid)
    assert os.listdir(tree.path) == []


def test_a_clean_restart_keeps_everything_and_starts_programs_again(tree: Tree) -> None:
    tree.write("etc/agentfs.yaml", "processes: {ready_timeout: 0.2s}\n")
    lead = tree.spawn("lead", exec=["sleep", "600"], role="lead")
    worker = tree.spawn("worker", parent=lead, exec=["sleep", "600"], role="worker")
    task = tree.spawn("task", exec=["sleep", "600"], role="task", tier="tactical")
    tree.write("agents/init/outbox/worker", "still here\n")
    (tree / "agents/worker/memory/note").write_text("mine\n")
    (tree / "shared/file").write_text("ours\n")
    tree.unmount()
    tree.mount()
    for pid in (lead, worker):
        eventually(lambda pid=pid: tree.read(f"proc/{pid}/ospid"))
        assert runs(int(tree.read(f"proc/{pid}/ospid")))
    assert tree.read(f"proc/{worker}/ppid") == f"{lead}\n"
    assert tree.read(f"proc/{task}/exit") == "143\n"  # its role is never started again
    assert tree.read("agents/worker/memory/note") == "mine\n"
    assert tree.read("shared/file") == "ours\n"
    assert tree.read("agents/worker/recv").endswith("\n\nstill here\n")


def test_a_program_that_is_started_again_finds_the_tree(tree: Tree) -> None:
    script = 'readlink "$AGENTFS/proc/self" || echo too early; sleep 600'
    pid = tree.spawn("alice", exec=["sh", "-c", script])
    eventually(lambda: tree.read("agents/alice/log") == f"{pid}\n")
    tree.unmount()
    tree.mount()
    eventually(lambda: tree.read("agents/alice/log").count("\n") == 2)
    assert tree.read("agents/alice/log") == f"{pid}\n" * 2


def test_pids_are_never_used_twice_across_restarts(tree: Tree) -> None:
    pid = tree.spawn("alice")
    tree.write(f"proc/{pid}/ctl", "done 0 bye\n")
    assert tree.read(f"proc/{pid}/wait") == "0\n"
    tree.crash()
    tree.mount()
    assert tree.spawn("alice") > pid


def test_a_refusal_is_explained_to_the_caller_in_the_log_and_as_an_event(tree: Tree) -> None:
    before = tree.read("etc/agentfs.yaml")
    with pytest.raises(OSError, match="Invalid argument"):
        tree.write("etc/agentfs.yaml", "messages: {max_wating: 5}\n")
    assert tree.read("etc/agentfs.yaml") == before
    reason = tree.read("proc/self/error")
    assert reason.startswith("/etc/agentfs.yaml: EINVAL: ")
    assert "max_wating" in reason
    assert "max_wating" in tree.log()
    descriptor = os.open(tree / "dev/events.all", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert b'"call_refused"' in os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)


def test_a_program_that_ignores_term_does_not_hold_up_the_end_for_long(tree: Tree) -> None:
    tree.write("etc/agentfs.yaml", "processes: {grace_period: 0.5}\n")
    pid = tree.spawn("deaf", exec=["sh", "-c", "trap '' TERM; echo on; while :; do sleep 1; done"])
    eventually(lambda: tree.read("agents/deaf/log") == "on\n")
    ospid = int(tree.read(f"proc/{pid}/ospid"))
    before = time.monotonic()
    tree.unmount()
    assert time.monotonic() - before < 10
    assert not runs(ospid)


def test_two_daemons_cannot_share_one_state_directory(tree: Tree) -> None:
    other = tree.path.parent / "other"
    other.mkdir()
    done = tree.run("mount", str(other), "--state", str(tree.state), check=False)
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert tree.read("proc/1/name") == "init\n"
