"""Coming back: parents first, one notice each; consumers that hang, stall or die are noticed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.test_inotify import Watcher
from tests.tree import Tree, eventually, until

pytestmark = pytest.mark.mount

# Says that it starts, takes its time if it is the manager, says that it is ready, and reads mail.
AGENT = """
echo "start $AGENT_NAME" >>"$LOG"
[ "$AGENT_NAME" = manager ] && sleep 0.5
echo "ready $AGENT_NAME" >>"$LOG"
while msg=$(cat "$AGENTFS/agents/self/recv"); do
    case $msg in *"Type: restart-notice"*) kind=notice ;; *) kind=message ;; esac
    echo "$kind $AGENT_NAME ${msg##*
}" >>"$LOG"
done
"""

TREE = {
    "manager": "init",
    **{f"lead-{number}": "manager" for number in range(3)},
    **{f"worker-{number}": f"lead-{number % 3}" for number in range(16)},
}


def spawn_all(tree: Tree, log: Path) -> dict[str, int]:
    """Twenty agents; their pids by name."""
    pids = {"init": 1}
    for name, parent in TREE.items():
        pids[name] = tree.spawn(
            name,
            pids[parent],
            role="agent" if name.startswith("worker") else "lead",
            exec=["sh", "-c", AGENT],
            env={"LOG": str(log)},
        )
    del pids["init"]
    eventually(lambda: log.read_text().count("ready") == len(TREE))
    return pids


def lines(log: Path, kind: str) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith(f"{kind} ")]


def clean_restart(tree: Tree, pids: dict[str, int]) -> str:
    tree.unmount()
    tree.mount()
    return "the daemon was started again. "


def kill_9_of_everything(tree: Tree, pids: dict[str, int]) -> str:
    return kill_9_of_the_daemon(tree, pids, programs_too=True)


def kill_9_of_the_daemon(tree: Tree, pids: dict[str, int], *, programs_too: bool = False) -> str:
    """Without the tree the loops end by themselves, and with code 0; that must not be the end."""
    ospids = [int(tree.read(f"proc/{pid}/ospid")) for pid in pids.values()]
    descriptors = [os.pidfd_open(ospid) for ospid in ospids]
    tree.crash()
    for descriptor in descriptors:
        if programs_too:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        assert select.select([descriptor], [], [], 20)[0]
        os.close(descriptor)
    tree.mount()
    return "the daemon was started again, and its program had ended meanwhile"


@pytest.mark.parametrize(
    ("restart", "times"),
    [(clean_restart, 1), (kill_9_of_everything, 1), (kill_9_of_the_daemon, 2)],
)
def test_twenty_agents_start_parents_first_and_each_has_one_notice(
    tree: Tree, tmp_path: Path, restart: Callable[[Tree, dict[str, int]], str], times: int
) -> None:
    log = tmp_path / "log"
    pids = spawn_all(tree, log)
    for _ in range(times):  # the notice of the first time is still claimed at the second
        log.write_text("")
        reason = restart(tree, pids)
        eventually(lambda: len(lines(log, "notice")) == len(TREE), patience=25)
        happened = log.read_text().splitlines()
        for name, parent in TREE.items():
            assert happened.count(f"start {name}") == 1, name
            if parent != "init":
                assert happened.index(f"start {name}") > happened.index(f"ready {parent}"), name
        for name in TREE:
            (notice,) = [line for line in lines(log, "notice") if line.split()[1] == name]
            assert reason in notice
            assert os.listdir(tree / f"agents/{name}/inbox/new") == []


def test_a_program_that_went_on_while_the_daemon_was_away_has_no_notice(
    tree: Tree, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.touch()
    tree.spawn("alice", exec=["sh", "-c", AGENT], env={"LOG": str(log)})
    pid = tree.spawn("bob", exec=["sleep", "600"])
    eventually(lambda: lines(log, "ready"))
    tree.crash()
    tree.mount()
    assert os.listdir(tree / "agents/bob/inbox/new") == []
    assert "Restarts:\t0\n" in tree.read(f"proc/{pid}/status")
    assert lines(log, "notice") == []


def test_a_restart_by_policy_says_the_exit_code_and_the_attempt(tree: Tree, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    fails = f"[ -e once ] || {{ touch once; exit 9; }}; {AGENT}"
    tree.spawn("alice", exec=["sh", "-c", fails], env={"LOG": str(log)})
    eventually(lambda: lines(log, "notice"))
    assert lines(log, "notice") == [
        "notice alice Your program is started again: it ended with code 9; attempt 1 of 5."
        " This is restart 1."
    ]


def test_the_parent_of_one_that_is_given_up_has_it_by_mail(tree: Tree) -> None:
    tree.write("etc/agentfs.yaml", "processes: {restart_attempts: 2, restart_backoff: 0.05}\n")
    lead = tree.spawn("lead", role="lead")
    pid = tree.spawn("child", lead, exec=["sh", "-c", "exit 9"])
    until(tree / f"proc/{pid}/state", "dead")
    text = tree.read("agents/lead/recv")
    assert "\nType: escalation\n" in text
    assert "\nSeverity: error\n" in text
    assert text.endswith(
        f"\n\nchild, process {pid}: gave up after 2 restarts within 300 s,"
        " the last exit code was 9.\n"
    )


# -- consumers -----------------------------------------------------------------------------------

# Takes a message, beats, and then hangs in the middle of its work: no crash, no exit.
HANGS = """
tree=$AGENTFS
echo 1 > "$tree/proc/self/heartbeat"
msg=$(cat "$tree/agents/self/recv")
case $msg in *"Type: restart-notice"*) msg=$(cat "$tree/agents/self/recv") ;; esac
echo "$msg" | grep Delivery-Attempt || echo first
case $msg in *"Delivery-Attempt: 2"*) cat "$tree/agents/self/recv" ;; esac
sleep 600
"""


def test_a_loop_that_hangs_is_killed_and_its_message_comes_back_as_the_next_attempt(
    tree: Tree,
) -> None:
    tree.write("etc/agentfs.yaml", "processes: {restart_backoff: 0.05}\n")
    pid = tree.spawn("alice", exec=["sh", "-c", HANGS], heartbeat="0.3s")
    tree.write("agents/init/outbox/alice", "work\n")
    log = tree / "agents/alice/log"
    eventually(lambda: "Delivery-Attempt: 2\n" in log.read_text())
    assert log.read_text().startswith("first\nDelivery-Attempt: 2\n")
    assert "Restarts:\t0\n" not in tree.read(f"proc/{pid}/status")


RESUMES = """
while :; do
    msg=$(cat "$AGENTFS/agents/self/recv") || continue
    echo "${msg##*
}"
done
"""


def test_a_loop_whose_reads_are_cut_off_a_hundred_times_loses_nothing(tree: Tree) -> None:
    tree.write("etc/agentfs.yaml", "messages: {max_delivery_attempts: 1000}\n")
    pid = tree.spawn("alice", exec=["sh", "-c", RESUMES])
    shell = tree.read(f"proc/{pid}/ospid").strip()
    children = Path(f"/proc/{shell}/task/{shell}/children")
    cut: set[str] = set()
    for number in range(100):
        if number % 10 == 0:
            tree.write("agents/init/outbox/alice", f"message {number}\n")
        eventually(lambda: set(children.read_text().split()) - cut)
        for child in set(children.read_text().split()) - cut:
            cut.add(child)
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), (signal.SIGKILL, signal.SIGTERM)[number % 2])
    log = tree / "agents/alice/log"
    wanted = {f"message {number}" for number in range(0, 100, 10)}
    tree.write("agents/init/outbox/alice", "last\n")
    eventually(lambda: "last\n" in log.read_text())
    assert wanted - set(log.read_text().splitlines()) == set()


def events(tree: Tree, kind: str) -> list[dict[str, object]]:
    """The events of a kind that are kept."""
    descriptor = os.open(tree / "dev/events.all", os.O_RDONLY | os.O_NONBLOCK)
    try:
        text = b""
        while chunk := _read(descriptor):
            text += chunk
    finally:
        os.close(descriptor)
    found = [json.loads(line) for line in text.splitlines()]
    return [event for event in found if event["type"] == kind]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 20)
    except BlockingIOError:
        return b""


def test_an_agent_that_takes_no_mail_is_stalled_until_it_takes_some(
    tree: Tree, tmp_path: Path
) -> None:
    tree.write(
        "etc/agentfs.yaml", "processes: {maid_interval: 0.2s}\nmessages: {stall_after: 0.5s}\n"
    )
    tree.crash()
    tree.mount()  # the maid's first round is near now
    go = tmp_path / "go"
    os.mkfifo(go)
    pid = tree.spawn(
        "alice",
        exec=["sh", "-c", f'cat {go}; cat "$AGENTFS/agents/self/recv"; sleep 600'],
        restart="never",
    )
    status = tree / f"proc/{pid}/status"
    assert "Stalled:\tno\n" in status.read_text()
    watcher = Watcher(tree, status)
    tree.write("agents/init/outbox/alice", "work\n")
    eventually(lambda: "Stalled:\tyes\n" in status.read_text())
    watcher.until("MODIFY", f"proc/{pid}/status")
    (stall,) = events(tree, "agent_stalled")
    assert (stall["agent"], stall["pid"], stall["waiting"]) == ("alice", pid, 1)
    assert json.loads(tree.read(f"proc/{pid}/info"))["stalled"] is True
    go.write_text("go\n")
    eventually(lambda: "Stalled:\tno\n" in status.read_text())
    assert [event["agent"] for event in events(tree, "agent_resumed")] == ["alice"]
    tree.write("agents/init/outbox/alice", "more work\n")
    os.kill(int(tree.read(f"proc/{pid}/ospid")), signal.SIGKILL)
    eventually(lambda: events(tree, "consumer_ended"))
    (end,) = events(tree, "consumer_ended")
    assert (end["agent"], end["code"], end["waiting"]) == ("alice", 137, 2)
