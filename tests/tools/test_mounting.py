"""`mount`, `umount` and `up` on real trees, and the other commands against a real kernel."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentfs.tools import mounting
from agentfs.tools.mounts import condition, mounts
from agentfs.tools.state import state
from tests.tree import AGENTFS, Tree, eventually, until

pytestmark = pytest.mark.mount

Trees = Callable[..., Tree]


def refusal(tree: Tree, *words: str, code: int = 1) -> str:
    done = tree.run(*words, check=False)
    assert done.returncode == code
    assert done.stderr.startswith("agentfs: ")
    return done.stderr.removeprefix("agentfs: ").rstrip()


def test_a_mount_is_there_when_the_command_returns_and_gone_when_umount_does(
    trees: Trees,
) -> None:
    tree = trees()
    tree.mount()
    assert str(tree.path) in mounts()
    assert condition(str(tree.path)) == "live"
    assert tree.read("proc/1/name") == "init\n"
    tree.unmount()
    assert str(tree.path) not in mounts()
    with open(tree.state / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody has it any more
    assert os.listdir(tree.path) == []


def test_a_second_mount_on_the_same_place_or_state_is_refused(trees: Trees) -> None:
    tree, other = trees("one"), trees("other")
    tree.mount()
    again = refusal(tree, "mount", str(tree.path), "--state", str(other.state))
    assert again == f"{tree.path}: a tree is mounted there already"
    shared = refusal(tree, "mount", str(other.path), "--state", str(tree.state))
    assert shared == f"{tree.state}: in use by another daemon, process {tree.daemon}"


def test_a_tree_is_mounted_on_an_empty_directory_that_exists(trees: Trees, tmp_path: Path) -> None:
    tree = trees()
    missing = tmp_path / "a b/none"
    words = refusal(tree, "mount", str(missing), "--state", str(tree.state))
    assert words == f"{missing}: there is no such directory: mkdir -p '{missing}'"
    assert not missing.parent.exists()
    (tree.path / "precious").write_text("x")
    words = refusal(tree, "mount", str(tree.path), "--state", str(tree.state))
    assert words.startswith(f"{tree.path}: it is not empty (precious), and the tree would")
    assert str(tree.path) not in mounts()
    file = tmp_path / "file"
    file.write_text("")
    words = refusal(tree, "mount", str(file), "--state", str(tree.state))
    assert words == f"{file}: Not a directory; a tree is mounted on a directory"
    for flag in (["--over"], ["-o", "nonempty"]):
        tree.run("mount", *flag, str(tree.path), "--state", str(tree.state))
        assert (tree / "proc/1/name").read_text() == "init\n"
        tree.unmount()
    assert os.listdir(tree.path) == ["precious"]
    (tree.path / "precious").unlink()


def test_state_directories_are_listed_and_removed(
    trees: Trees, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mounting, "state_base", lambda: str(tmp_path / "base"))
    tree = trees()
    assert Path(mounting.state_dir("/a-b/c")) == tmp_path / "base/a%2Db-c"
    tree.state.rmdir()
    tree.state = Path(mounting.state_dir(str(tree.path)))
    tree.state.mkdir(parents=True)
    tree.mount()
    runner = CliRunner()
    row = json.loads(runner.invoke(state, ["--json"]).stdout)
    assert row["path"] == str(tree.state)
    assert row["mountpoint"] == str(tree.path)
    assert row["pid"] == tree.daemon
    assert row["bytes"] > 4096
    assert f"in use by {tree.daemon}" in runner.invoke(state).stdout
    refused = runner.invoke(state, ["rm", "--yes", str(tree.state)])
    assert f"in use by daemon {tree.daemon}: agentfs umount" in str(refused.exception)
    tree.unmount()
    assert "not in use" in runner.invoke(state).stdout
    assert runner.invoke(state, ["rm", str(tree.path)], input="n\n").exit_code == 1
    assert (tree.state / "store.db").exists()
    asked = runner.invoke(state, ["rm", str(tree.path)], input="y\n")
    assert asked.exit_code == 0, asked.output
    assert not tree.state.exists()
    assert runner.invoke(state, ["--json"]).stdout == ""
    refused = runner.invoke(state, ["rm", "--yes", str(tmp_path)])
    assert str(refused.exception) == f"{tmp_path}: this is no state directory"
    assert tmp_path.exists()


def test_an_option_that_fuse_does_not_know_is_told_in_its_words(trees: Trees) -> None:
    tree = trees()
    words = refusal(tree, "mount", str(tree.path), "--state", str(tree.state), "-o", "nonsense=1")
    assert "unknown option(s): `-o nonsense=1'" in words
    assert str(tree.path) not in mounts()


def test_what_a_crashed_daemon_left_is_replaced(trees: Trees) -> None:
    tree = trees()
    tree.mount()
    tree.crash()
    assert condition(str(tree.path)) == "stale"
    assert "stale" not in tree.run("doctor").stdout
    assert f"agentfs umount {tree.path}" in tree.run("doctor").stdout
    assert f"is gone; type `agentfs mount {tree.path}`" in refusal(tree, "ps", code=3)
    tree.mount()
    assert condition(str(tree.path)) == "live"
    tree.crash()
    tree.run("umount", str(tree.path))
    assert str(tree.path) not in mounts()


def test_umount_names_who_uses_the_tree_unless_it_is_lazy(trees: Trees) -> None:
    tree = trees()
    tree.mount()
    tree.spawn("bob", exec='exec 3<"$AGENTFS/proc/self/status"; sleep 1000')  # no hindrance
    user = tree.start("sleep", "1000", cwd=tree.path)
    words = refusal(tree, "umount", str(tree.path))
    assert words == f"{tree.path}: in use by sleep ({user.pid}); end them, or use --lazy"
    tree.run("umount", "--lazy", str(tree.path))
    tree.daemon = None
    assert str(tree.path) not in mounts()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_foreground_it_stays_until_a_signal_and_unmounts(
    trees: Trees, number: signal.Signals
) -> None:
    tree = trees()
    words = ["mount", "-f", str(tree.path), "--state", str(tree.state)]
    program = tree.start(*AGENTFS, *words, stderr=subprocess.PIPE)
    eventually(lambda: str(tree.path) in mounts())
    until(tree / "proc/1/state", "running")
    assert tree.read("proc/1/ospid").strip() != str(program.pid)  # it is in front of the daemon
    program.send_signal(number)
    _, log = program.communicate(timeout=30)
    assert program.returncode == 0
    assert b"mounted at" in log
    assert str(tree.path) not in mounts()


def test_a_day_with_the_command_line(trees: Trees) -> None:
    tree = trees()
    tree.mount()
    spawned = tree.run("spawn", "-n", "bob", "--role", "worker", "--", "sleep", "1000")
    assert spawned.stdout == "2\n"
    below = tree.run("spawn", "-n", "eve", "--parent", "bob", "--", "sh", "-c", "echo hello")
    assert below.stdout == "3\n"
    assert "└─ bob (2) worker" in tree.run("tree").stdout
    until(tree / "proc/3/exit", "0")
    assert tree.run("log", "eve").stdout == "hello\n"
    tree.run("send", "bob", "good morning", "-p", "high")
    row = tree.run("ps").stdout.splitlines()[2].split()
    assert row[:5] == ["2", "1", "bob", "worker", "operational"]
    assert row[7] == "1"
    received = tree.run("recv", "bob").stdout
    assert received.endswith("\n\ngood morning\n")
    assert "Priority: high\n" in received
    assert "message_claimed" in tree.run("events", "--no-follow").stdout
    tree.run("kill", "bob", "-s", "kill")
    until(tree / "proc/2/state", "dead")


def test_a_refusal_is_told_in_the_kernels_words(trees: Trees) -> None:
    tree = trees()
    tree.mount()
    assert refusal(tree, "spawn", "-n", "x", "--role", "kernel").startswith(
        f"{tree.path}/proc/self/spawn: role kernel"
    )
    assert "expires" in refusal(tree, "send", "init", "x", "--expires", "soon").lower()
    assert refusal(tree, "send", "nobody", "x").endswith("No such file or directory")


MANIFEST = """
kind: System
metadata: {name: test}
spec:
  processes:
    first: {exec: "echo $GREETING; sleep 0.2; exit 3", restart: never}
    second: {exec: "exit 0"}
    below: {exec: "echo below; sleep 1000", parent: first}
"""


def test_up_follows_a_manifest_to_its_end_and_gives_its_exit_code(
    trees: Trees, tmp_path: Path
) -> None:
    tree = trees()
    manifest = tmp_path / "system.yaml"
    manifest.write_text(MANIFEST)
    done = tree.run(
        "up", str(manifest), str(tree.path), "--state", str(tree.state), "-e", "GREETING=good day",
        check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "first  | good day\n" in done.stdout
    assert "below  | below\n" in done.stdout
    assert "first exited with code 3\n" in done.stderr
    assert "second exited with code 0\n" in done.stderr
    assert "below exited with code 143\n" in done.stderr
    assert str(tree.path) not in mounts()


def test_up_in_a_tree_that_is_mounted_leaves_it_mounted(trees: Trees, tmp_path: Path) -> None:
    tree = trees()
    tree.mount()
    manifest = tmp_path / "system.yaml"
    manifest.write_text(MANIFEST)
    assert tree.run("up", "--detach", str(manifest)).stdout == f"{tree.path}\n"
    pid = tree.read("agents/below/pid").strip()
    assert tree.read(f"proc/{pid}/state").strip() != "dead"
    assert "cannot be started" in refusal(tree, "up", str(manifest))
    assert tree.read(f"proc/{pid}/state").strip() != "dead"
    assert "a tree is mounted there already" in refusal(
        tree, "up", str(manifest), str(tree.path), "--state", str(tree.state)
    )


def test_an_interrupt_ends_all_that_up_started(trees: Trees, tmp_path: Path) -> None:
    tree = trees()
    manifest = tmp_path / "system.yaml"
    manifest.write_text(MANIFEST.replace("sleep 0.2", "sleep 1000"))
    words = ["up", str(manifest), str(tree.path), "--state", str(tree.state)]
    program = tree.start(*AGENTFS, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None
    while b"below" not in program.stdout.readline():
        pass
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=30)
    assert program.returncode == 130
    assert b"first exited with code 143" in errors
    assert str(tree.path) not in mounts()


def test_the_demo_shows_that_nothing_is_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentfs.tools.demo"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Delivery-Attempt: 2" in done.stdout
    assert "The totals agree" in done.stdout
    assert "of smollm2" in done.stdout or "smollm2 itself" in done.stdout
    assert "What does the party cost? The party costs 200 euros. (costs)" in done.stdout
    assert "its call was never made" in done.stdout


def test_the_demo_fails_where_there_is_no_folder() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentfs.tools.demo", "--quick", "/nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "demo: /nowhere: a folder of text files was expected\n"
