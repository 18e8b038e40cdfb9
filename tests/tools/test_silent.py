"""Commands beside a daemon that does not answer: none waits for it for ever."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.tools import silent
from agentfs.tools.mounts import condition, mounts
from agentfs.tools.silent import daemon_of, silence, state_of
from tests.tree import AGENTFS, PATIENCE, Tree, eventually

ASKING = (
    "ps",
    "status",
    "tree",
    "can bob send /agents/amy/inbox",
    "kill bob",
    "send bob hello",
    "spawn -n new -- true",
    "log bob",
    "inbox",
    "inbox bob",
    "events --no-follow",
    "approve",
    "audit",
)


@pytest.fixture(scope="module")
def tree(fuse: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    made = Tree(tmp_path_factory.mktemp("silent") / "tree")
    made.may_hold = True  # it is stopped
    try:
        made.mount()
        made.spawn("bob", exec="sleep 1000")
        (made / "agents/amy").mkdir()
        yield made
    finally:
        made.clean_up()


@contextlib.contextmanager
def stopped(tree: Tree) -> Iterator[None]:
    """With its daemon stopped."""
    assert tree.daemon is not None
    os.kill(tree.daemon, signal.SIGSTOP)
    try:
        eventually(lambda: state_of(tree.daemon or 0) == "T")
        yield
    finally:
        os.kill(tree.daemon, signal.SIGCONT)


def begin(tree: Tree, *words: str) -> subprocess.Popen[str]:
    """A command on the tree, in a process group of its own as a shell gives it."""
    return subprocess.Popen(
        [*AGENTFS, *words],
        env=os.environ | {"AGENTFS": str(tree.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextlib.contextmanager
def receiving(tree: Tree) -> Iterator[subprocess.Popen[str]]:
    """`agentfs recv` of amy's mail, and it waits."""
    parked = figure(tree, "parked")
    command = begin(tree, "recv", "amy")
    try:
        eventually(lambda: figure(tree, "parked") > parked)
        yield command
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
        command.communicate()


def figure(tree: Tree, name: str) -> int:
    found = re.search(rf"^agentfs_(?:mount_)?{name} (\d+)", tree.read("sys/metrics"), re.MULTILINE)
    assert found
    return int(found[1])


def waiting(tree: Tree) -> int:
    """Messages of amy that nobody has claimed."""
    return len(os.listdir(tree / "agents/amy/inbox/new"))


def test_every_command_says_that_the_daemon_does_not_answer(tree: Tree) -> None:
    with stopped(tree):
        commands = {words: begin(tree, *words.split()) for words in ASKING}
        wanted = (
            f"agentfs: the daemon of {tree.path}, pid {tree.daemon}, does not answer"
            f" (stopped; kill -CONT {tree.daemon} lets it go on)\n"
        )
        for words, command in commands.items():
            said = command.communicate(timeout=PATIENCE)
            assert (words, command.returncode, *said) == (words, 3, "", wanted)
    assert tree.run("ps").stdout.count("bob") == 1, "nothing was done later"
    assert not os.listdir(tree / "agents/bob/inbox/new")
    assert "new" not in os.listdir(tree / "agents")


def test_ctrl_c_ends_a_command_whose_request_the_daemon_has(tree: Tree) -> None:
    with receiving(tree) as command:
        with stopped(tree):
            os.killpg(command.pid, signal.SIGINT)
            assert command.wait(PATIENCE) == 130
        tree.run("send", "amy", "for nobody yet")
        assert waiting(tree) == 1
    tree.run("recv", "amy")


def test_a_command_that_waits_goes_on_after_a_pause_of_the_daemon(tree: Tree) -> None:
    with receiving(tree) as command:
        assert command.stderr is not None
        with stopped(tree):
            assert select.select([command.stderr], [], [], PATIENCE)[0]
            line = command.stderr.readline()
        assert f"pid {tree.daemon}, does not answer (stopped" in line
        assert line.endswith("; waiting for it\n")
        tree.run("send", "amy", "late, and not lost")
        said, _ = command.communicate(timeout=PATIENCE)
        assert (command.returncode, "late, and not lost" in said) == (0, True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_command_that_was_ended_takes_no_message(tree: Tree, number: signal.Signals) -> None:
    """Only the process that was started is told, and not its child."""
    with receiving(tree) as command:
        parked = figure(tree, "parked")
        command.send_signal(number)
        assert command.wait(PATIENCE) == (130 if number == signal.SIGINT else -number)
        eventually(lambda: figure(tree, "parked") < parked, "its read is still there")
        tree.run("send", "amy", "for nobody yet")
        assert waiting(tree) == 1
    tree.run("recv", "amy")


def test_the_end_of_a_command_is_that_of_its_child(tree: Tree) -> None:
    assert tree.run("kill", "nobody", check=False).returncode == 1
    assert tree.run("can", "bob", "manage_tree", "/", check=False).returncode == 1
    assert tree.run("kill", "--no-such-option", check=False).returncode == 2


def test_a_tree_is_found_through_links_and_from_within(tree: Tree, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tree.path)
    (tmp_path / "second").symlink_to("link")
    with stopped(tree):
        for path in (link, tmp_path / "second", tree.path / "agents/bob", tree.path):
            assert f"pid {tree.daemon}, " in silence(str(path))


def test_mount_leaves_it_alone_doctor_says_it_and_umount_ends_it(
    fuse: None, tmp_path: Path
) -> None:
    tree = Tree(tmp_path / "tree")
    tree.may_hold = True  # it is stopped
    try:
        tree.mount()
        daemon = tree.daemon
        assert daemon is not None
        program = int(tree.read(f"proc/{tree.spawn('bob', exec='sleep 1000')}/ospid"))
        os.kill(daemon, signal.SIGSTOP)
        for again in ("mount", "up"):
            manifest = tmp_path / "manifest.yaml"
            manifest.write_text(
                "kind: System\nmetadata: {name: test}\nspec:\n  processes:\n"
                "    amy: {exec: 'true'}\n"
            )
            words = [str(manifest)] if again == "up" else []
            done = tree.run(again, *words, str(tree.path), check=False)
            assert done.returncode == 3, done
            assert f"pid {daemon}, does not answer (stopped" in done.stderr
        assert f"pid {daemon}, does not answer (stopped" in tree.run("doctor", check=False).stdout
        tree.run("umount", str(tree.path))
        assert str(tree.path) not in mounts()
        assert state_of(daemon) in ("", "Z")
        assert state_of(program) in ("", "Z"), "its programs end with it"
    finally:
        if state_of(daemon or 0) == "T":
            os.kill(daemon or 0, signal.SIGCONT)
        tree.clean_up()


def test_where_linux_does_not_tell_the_daemon_is_known_by_its_command_line(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert daemon_of(str(tree.path)) == tree.daemon
    monkeypatch.setattr(silent, "_connections", lambda pid: iter(()))
    assert daemon_of(str(tree.path)) == tree.daemon


def test_the_daemon_is_found_without_being_asked(
    fuse: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path / "tree")
    foreground = [*AGENTFS, "mount", "-f", str(tree.path), "--state", str(tree.state)]
    daemon = subprocess.Popen(foreground, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: str(tree.path) in mounts())
        assert condition(str(tree.path)) == "live"
        assert daemon_of(str(tree.path)) == int(tree.read("proc/1/ospid"))
        assert daemon_of(str(tmp_path)) == 0
        monkeypatch.setattr(silent, "_connections", lambda pid: iter(()))
        assert daemon_of(str(tree.path)) == 0, "its command line does not say it"
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE)
        tree.clean_up()
