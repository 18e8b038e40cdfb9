"""What a program begins with: nothing of the daemon's own, and nothing of whoever started that."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hatchery import Hatchery
from tests.tree import AGENTFS, Tree, eventually, until

pytestmark = pytest.mark.mount

SAY = """
import json, os, resource, signal
ignored = [int(s) for s in signal.valid_signals() if signal.getsignal(s) is signal.SIG_IGN]
with open("/proc/self/status") as status:
    lines = dict(line.rstrip("\\n").split(":\\t", 1) for line in status)
print(json.dumps({
    "ignored": lines["SigIgn"],
    "blocked": lines["SigBlk"],
    "limits": {str(n): resource.getrlimit(n) for n in range(16)},
    "nice": os.nice(0),
    "umask": lines["Umask"],
    "descriptors": sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1],
    "environment": sorted(os.environ),
    "oom": open("/proc/self/oom_score_adj").read().strip(),
}))
"""


class NohupTree(Tree):
    """One whose daemon was started as `nohup agentfs mount -f` by a shell with limits of its own,
    in the background of a script: HUP, INT and QUIT are ignored, PIPE too."""

    files = (200, 4000)

    def mount(self) -> None:
        soft, hard = self.files

        def prepare() -> None:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGALRM})
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            os.umask(0o077)

        words = [*AGENTFS, "mount", "-f", str(self.path), "--state", str(self.state)]
        log = self.state.parent / "daemon.log"
        with open(log, "wb") as file:
            program = self.start(
                *words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                preexec_fn=prepare,
                restore_signals=False,
                env=os.environ | {"STRAY": "1"},
            )
        ospid = self.path / "proc/1/ospid"
        eventually(ospid.exists, "it was not mounted")
        self.daemon = program.pid


@pytest.fixture(scope="module")
def nohup(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    tree = NohupTree(tmp_path_factory.mktemp("nohup") / "tree")
    try:
        tree.mount()
        yield tree
    finally:
        tree.clean_up()


@pytest.fixture(scope="module")
def said(nohup: Tree) -> dict[str, object]:
    """What a program finds."""
    pid = nohup.spawn("say", exec=[sys.executable, "-S", "-c", SAY], restart="never")
    assert nohup.read(f"proc/{pid}/wait").strip() == "0", nohup.read("agents/say/log")
    found = json.loads(nohup.read("agents/say/log"))
    assert isinstance(found, dict)
    return found


def test_no_signal_is_ignored_or_blocked(said: dict[str, object]) -> None:
    # Python itself ignores PIPE and XFSZ.
    python = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert int(str(said["ignored"]), 16) & ~python == 0
    assert int(str(said["blocked"]), 16) == 0


def test_the_limits_are_those_that_the_daemon_was_started_with(said: dict[str, object]) -> None:
    limits = said["limits"]
    assert isinstance(limits, dict)
    expected = {str(number): list(resource.getrlimit(number)) for number in range(16)}
    assert limits == expected | {str(resource.RLIMIT_NOFILE): list(NohupTree.files)}


def test_nothing_else_is_handed_down(said: dict[str, object]) -> None:
    assert said["descriptors"] == [0, 1, 2]
    assert said["umask"] == "0022"
    assert said["nice"] == os.nice(0)
    assert said["oom"] == Path("/proc/self/oom_score_adj").read_text().strip()
    environment = said["environment"]
    assert isinstance(environment, list)
    assert "STRAY" not in environment
    assert {"AGENTFS", "AGENT_NAME", "AGENT_PID", "PATH"} <= set(environment)


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "PIPE"])
def test_a_shell_can_trap_what_nohup_ignored(nohup: Tree, name: str) -> None:
    script = f"trap 'echo caught; exit 3' {name}; echo up; while :; do sleep 0.05; done"
    pid = nohup.spawn(f"trap-{name}", exec=script, restart="never")
    until(nohup / f"agents/trap-{name}/log", "up")
    if name == "HUP":
        nohup.write(f"proc/{pid}/ctl", "HUP\n")
    else:
        os.kill(int(nohup.read(f"proc/{pid}/ospid")), getattr(signal, f"SIG{name}"))
    assert nohup.read(f"proc/{pid}/wait").strip() == "3"


def test_hup_through_ctl_ends_who_does_not_catch_it(nohup: Tree) -> None:
    pid = nohup.spawn("plain", exec="exec sleep 1000", restart="never")
    nohup.write(f"proc/{pid}/ctl", "HUP\n")
    assert nohup.read(f"proc/{pid}/wait").strip() == str(128 + signal.SIGHUP)


def longer_than(file: Path, size: int) -> None:
    eventually(lambda: file.stat().st_size > size, f"{file} does not grow")


def test_a_pause_of_the_daemon_kills_no_healthy_agent(tree: Tree) -> None:
    beat = 'while echo 1 > "$AGENTFS/proc/self/heartbeat"; do echo beat; sleep 0.05; done'
    pid = tree.spawn("steady", exec=beat, heartbeat="600ms")
    hung = tree.spawn("hung", exec="sleep 1000", heartbeat="300ms", restart="never")
    until(tree / f"proc/{hung}/state", "zombie")
    assert "it missed its heartbeats" in json.loads(tree.read(f"proc/{hung}/info"))["output"]
    assert tree.daemon is not None
    log = tree / "agents/steady/log"
    for _ in range(2):
        os.kill(tree.daemon, signal.SIGSTOP)
        subprocess.run(["sleep", "2"], check=True)  # three intervals in which nothing is taken
        os.kill(tree.daemon, signal.SIGCONT)
        longer_than(log, log.stat().st_size + 100)
    assert "Restarts:\t0\n" in tree.read(f"proc/{pid}/status")
    events = tree.run("events", "--no-follow").stdout
    assert events.count('"heartbeat_missed"') == 1, "that of the one that hung"


def test_the_parent_hears_of_a_missed_heartbeat(tree: Tree) -> None:
    pid = tree.spawn("hung", exec="sleep 1000", heartbeat="100ms", restart="never")
    with open(tree / "proc/1/signals") as signals:
        line = next(line for line in signals if line.startswith("HUNG "))
    assert line.startswith(f"HUNG {pid} hung it missed its heartbeats: none for ")
