"""`agentfs run -- COMMAND`: any program on our terminal is an agent."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentfs.tools import tree as trees
from agentfs.tools.attached import attach
from tests.tree import AGENTFS, PATIENCE, Tree, eventually, until

pytestmark = pytest.mark.mount


def sh(tree: Tree, script: str, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    return tree.run("run", *options, "--", "sh", "-c", script, check=False, **more)  # type: ignore[arg-type]


@contextmanager
def on_terminal(tree: Tree, *command: str) -> Iterator[tuple[int, int]]:
    """`agentfs run` with a terminal of its own: its pid, and our end of it."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["AGENTFS"] = str(tree.path)
        os.execv(AGENTFS[0], [*AGENTFS, "run", *command])
    try:
        yield pid, terminal
    finally:
        os.close(terminal)


def shown(terminal: int, wanted: str) -> str:
    """What is on the terminal, as soon as `wanted` is."""
    text, deadline = "", time.monotonic() + PATIENCE
    while not re.search(wanted, text):
        assert time.monotonic() < deadline, text
        if select.select([terminal], [], [], 0.1)[0]:
            text += os.read(terminal, 4096).decode()
    return text


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_input_output_errors_and_exit_code_are_its_own(tree: Tree) -> None:
    done = sh(tree, "cat; echo oops >&2; exit 7", stdin="from here\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "from here\n", "oops\n")
    assert [name for name in os.listdir(tree / "agents") if name.startswith("run-")] == []


def test_it_is_an_agent_with_its_home_in_its_memory(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-the-person")
    monkeypatch.chdir(tmp_path)
    script = "readlink $AGENTFS/agents/self; echo $HOME; pwd; env; cat /proc/self/status"
    done = sh(tree, script, "--name", "coder", "--budget", "5000", "--env", "COLOUR=blue")
    name, home, here, *env = done.stdout.splitlines()
    assert (name, home, here) == ("coder", f"{tree.path}/agents/coder/memory", str(tmp_path))
    assert "COLOUR=blue" in env
    assert "sk-of-the-person" not in done.stdout
    assert "NoNewPrivs:\t1" in env  # it is confined: no network but the models
    assert tree.read("agents/coder/exit") == "0\n"  # it has a name, and is kept


def test_budget_and_cost_are_those_of_the_command_line(tree: Tree) -> None:
    script = "cat $AGENTFS/proc/self/budget/tactical/allocated; cat $AGENTFS/proc/self/info"
    done = sh(tree, script, "--budget", "5000", "--cost", "0.25")
    allocated, info = done.stdout.splitlines()
    assert (allocated, json.loads(info)["limits"]["max_cost_usd"]) == ("5000", 0.25)


def test_a_refused_start_says_why(tree: Tree) -> None:
    tree.spawn("taken")
    done = sh(tree, "true", "--name", "taken")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the name 'taken' is taken by process" in done.stderr
    done = tree.run("run", "--", "/no/such/program", check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "agentfs: there is no program /no/such/program in the PATH\n",
    )
    assert tree.run("run", "--", check=False).returncode == 2
    assert tree.run("run", "hello", "--", "true", check=False).returncode == 2


def test_an_interrupt_ends_it_and_its_agent(tree: Tree) -> None:
    command = [*AGENTFS, "run", "--name", "sleeper", "--", "sh", "-c", "echo up; sleep 1000"]
    with subprocess.Popen(
        command, env=os.environ | {"AGENTFS": str(tree.path)}, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(PATIENCE) == 130
    assert tree.read("agents/sleeper/pid") == ""


def test_a_terminal_is_its_own(tree: Tree) -> None:
    with on_terminal(tree, "--", "sh", "-c", "stty size; tty; read x; echo got $x") as (pid, ours):
        text = shown(ours, "/dev/pts/[0-9]+")
        os.write(ours, b"hello\n")
        text += shown(ours, "got hello")
        assert code_of(pid) == 0
    assert text.startswith("0 0")
    assert "hello" in text


def test_control_c_is_a_signal_for_it(tree: Tree) -> None:
    script = "trap 'echo caught; exit 42' INT; echo ready; while :; do sleep 0.1; done"
    with on_terminal(tree, "--", "sh", "-c", script) as (pid, ours):
        shown(ours, "ready")
        os.write(ours, b"\x03")
        shown(ours, "caught")
        assert code_of(pid) == 42


def test_it_sees_the_window_change(tree: Tree) -> None:
    script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.1; done"
    with on_terminal(tree, "--", "bash", "-c", script) as (pid, ours):
        shown(ours, "ready")
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        shown(ours, "33 77")
        assert code_of(pid) == 0


def test_the_terminal_is_as_it_was(tree: Tree) -> None:
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    command = [*AGENTFS, "run", "--", "sh", "-c", "echo done"]
    running = subprocess.Popen(
        command,
        env=os.environ | {"AGENTFS": str(tree.path)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    assert running.wait(PATIENCE) == 0
    assert termios.tcgetattr(theirs) == before
    shown(ours, "done")
    os.close(ours)
    os.close(theirs)


def test_nobody_else_is_given_our_terminal(tree: Tree) -> None:
    """The first who comes to the door is a stranger."""
    strangers = []

    def spawn(words: list[str]) -> int:
        stranger = socket.socket(socket.AF_UNIX)
        stranger.connect(words[words.index("agentfs.runner.door") + 1])
        strangers.append(stranger)
        return tree.spawn("guest", exec=words, restart="never")

    assert attach(trees.Tree(str(tree.path)), ["sh", "-c", "exit 5"], spawn) == 5
    data, given, _, _ = socket.recv_fds(strangers[0], 1, 3)
    assert (data, given) == (b"", [])
    strangers[0].close()


def test_the_agent_ends_with_its_terminal(tree: Tree) -> None:
    with on_terminal(tree, "--name", "left", "--", "sh", "-c", "echo up; sleep 1000") as (
        pid,
        ours,
    ):
        shown(ours, "up")
        os.kill(pid, signal.SIGKILL)
        code_of(pid)
    eventually(lambda: tree.read("agents/left/pid") == "", "its terminal is gone")
    until(tree / "agents/left/exit", "129")
