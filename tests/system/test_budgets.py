"""Budgets and calls on a real mount: real callers at once, real refusals, real ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys

import pytest

from agentfs.check import check
from tests.puppet import Puppet
from tests.system.test_inotify import WRITTEN, Watcher, written
from tests.tree import Tree, eventually, until

pytestmark = pytest.mark.mount

# Each asks for 100 tokens of what the whole tree may use, all in the same moment, and says by its
# exit code whether it got them.
CALLERS = """
import os, sys
tree = os.environ["AGENTFS"]
gate, ready = os.pipe(), os.pipe()
children = []
for number in range(50):
    child = os.fork()
    if child == 0:
        os.close(gate[1])
        file = os.open(tree + "/proc/self/call", os.O_RDWR)
        os.write(ready[1], b"1")
        os.read(gate[0], 1)
        try:
            os.write(file, b"llm sonnet 100")
        except OSError as refusal:
            os._exit(refusal.errno)
        os._exit(0)
    children.append(child)
got = 0
while got < 50:
    got += len(os.read(ready[0], 50))
os.close(gate[1])
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
with open(tree + "/agents/self/memory/codes", "w") as file:
    file.write(" ".join(map(str, sorted(codes))))
signal = __import__("signal")
signal.pause()
"""


def figures(tree: Tree, pid: int, tier: str = "tactical") -> dict[str, str]:
    folder = tree / f"proc/{pid}/budget/{tier}"
    return {name: (folder / name).read_text().strip() for name in sorted(os.listdir(folder))}


def test_of_50_callers_at_once_exactly_7_get_what_is_there_for_7(tree: Tree) -> None:
    pid = tree.spawn(
        "crowd", tier="tactical", exec=[sys.executable, "-c", CALLERS], budget={"tactical": 799}
    )
    codes = tree / "agents/crowd/memory/codes"
    eventually(lambda: codes.exists() and len(codes.read_text().split()) == 50)
    assert codes.read_text().split() == ["0"] * 7 + [str(errno.EDQUOT)] * 43
    assert figures(tree, pid) == {
        "allocated": "799", "consumed": "0", "remaining": "99", "reserved": "700",
        "source": str(pid),
    }  # fmt: skip
    assert (tree / f"proc/{pid}/budget/events").read_text() == "warned 0\nrefused 43\n"
    tree.write(f"proc/{pid}/ctl", "KILL")
    until(tree / f"proc/{pid}/state", "dead")
    assert figures(tree, 1)["consumed"] == "700"  # nobody will ever say what they took
    assert figures(tree, 1)["reserved"] == "0"


def test_a_lead_its_worker_and_what_they_may_use(tree: Tree) -> None:
    lead = Puppet(tree, "lead", role="lead", tier="tactical", budget={"tactical": 5000})
    worker = Puppet(tree, "worker", lead.pid, role="worker", tier="tactical")
    at = tree / f"proc/{worker.pid}/budget/tactical"
    assert figures(tree, worker.pid) == {
        "allocated": "", "consumed": "", "reserved": "", "remaining": "5000",
        "source": str(lead.pid),
    }  # fmt: skip
    call = worker.ask("proc/self/call", "llm sonnet 400").strip()
    assert (at / "remaining").read_text() == "4600\n"  # of its source, and never stale
    assert worker.ask("proc/self/call", f"settle {call} 100 50") == "settled\n"
    assert (at / "remaining").read_text() == "4850\n"
    assert "Tokens:\t150\n" in tree.read(f"proc/{worker.pid}/status")
    lead.write("proc/self/budget/ctl", f"allocate {worker.pid} 1000")
    assert figures(tree, worker.pid)["allocated"] == "1000"
    with pytest.raises(OSError, match="quota") as refused:
        worker.ask("proc/self/call", "llm 1001")
    assert refused.value.errno == errno.EDQUOT
    why = worker.read("proc/self/error")
    assert "EDQUOT" in why
    assert "worker asked for 1001 tokens of sonnet" in why
    assert "(rule: budget)" in why
    with pytest.raises(PermissionError):
        worker.ask(f"proc/{lead.pid}/call", "llm 1")
    with pytest.raises(PermissionError):
        worker.write(f"proc/{lead.pid}/budget/ctl", f"allocate {worker.pid} 1")
    worker.write("proc/self/budget/ctl", "report 200 sonnet")
    worker.close()
    until(tree / f"proc/{worker.pid}/state", "zombie")
    assert figures(tree, lead.pid)["consumed"] == "350"
    assert figures(tree, lead.pid)["reserved"] == "0"
    lead.close()


def test_a_program_that_does_not_start_leaves_no_reservation(tree: Tree) -> None:
    with pytest.raises(FileNotFoundError):
        tree.spawn("no", tier="tactical", exec=["/no/such/program"], budget={"tactical": 500})
    assert figures(tree, 1)["reserved"] == "0"
    with pytest.raises(OSError, match="quota"):
        tree.spawn("no", tier="tactical", exec=["/bin/true"], budget={"tactical": 10**9})
    assert not (tree / "agents/no").exists()


def test_on_limit_skip_answers_and_stop_ends_the_program(tree: Tree) -> None:
    skipping = Puppet(tree, "skipping", tier="tactical", on_limit="skip", budget={"tactical": 10})
    assert skipping.ask("proc/self/call", "llm 11") == "skipped budget\n"
    skipping.close()
    pid = tree.spawn(
        "stopped",
        tier="tactical",
        on_limit="stop",
        restart="always",
        budget={"tactical": 10},
        exec="echo llm 11 1<>$AGENTFS/proc/self/call || echo refused; sleep 1000",
    )
    until(tree / f"proc/{pid}/state", "zombie")
    assert (tree / f"proc/{pid}/exit").read_text() == f"{128 + signal.SIGTERM}\n"
    assert "limit: budget tactical" in json.loads(tree.read(f"proc/{pid}/info"))["output"]
    assert tree.read(f"proc/{pid}/budget/tactical/allocated") == ""


def test_a_watcher_of_budget_events_hears_of_the_warning_and_of_each_refusal(tree: Tree) -> None:
    pid = tree.spawn("a", tier="tactical", budget={"tactical": 100})
    path = tree / f"proc/{pid}/budget/events"
    watcher = Watcher(tree, path)
    where = f"proc/{pid}/budget/events"
    tree.write(f"proc/{pid}/budget/ctl", "report 80")
    assert watcher.until(WRITTEN[-1], where) == written(where)
    assert path.read_text() == "warned 1\nrefused 0\n"
    for refusals in (1, 2):
        with pytest.raises(OSError, match="quota"):
            tree.ask(f"proc/{pid}/call", "llm 21")
        assert watcher.until(WRITTEN[-1], where) == written(where)
        assert path.read_text() == f"warned 1\nrefused {refusals}\n"


def test_budgets_and_open_calls_outlive_the_daemon(tree: Tree) -> None:
    pid = tree.spawn("a", tier="tactical", budget={"tactical": 1000})
    call = tree.ask(f"proc/{pid}/call", "llm 300").strip()
    tree.write(f"proc/{pid}/budget/ctl", "report 50")
    before = figures(tree, pid)
    tree.crash()
    assert check(tree.state / "store.db") == []
    tree.mount()
    assert figures(tree, pid) == before
    assert before["reserved"] == "300"
    tree.ask(f"proc/{pid}/call", f"settle {call} 0 10")
    assert figures(tree, pid)["consumed"] == "60"


def test_a_pool_that_is_lowered_holds_at_once_and_never_below_what_is_given_out(
    tree: Tree,
) -> None:
    pid = tree.spawn("a", tier="tactical")
    tree.spawn("b", tier="tactical", budget={"tactical": 1000})
    tree.ask(f"proc/{pid}/call", "llm 70")
    assert figures(tree, pid)["source"] == "1"
    before = tree.read("etc/agentfs.yaml")
    for less in (0, 100, 1069):
        with pytest.raises(OSError, match="Invalid argument"):
            (tree / "etc/agentfs.yaml").write_text(f"budgets: {{tactical: {less}}}")
    assert tree.read("proc/self/error") == (
        "/etc/agentfs.yaml: EINVAL: budgets.tactical: at least 1070 was expected, not 1069: 1000"
        " are granted to processes, 0 are used and 70 set aside for open calls (rule: budget)\n"
    )
    assert tree.read("etc/agentfs.yaml") == before
    (tree / "etc/agentfs.yaml").write_text("budgets: {tactical: 1070}")
    assert figures(tree, 1)["remaining"] == "0"
    assert figures(tree, pid)["remaining"] == "0"
    with pytest.raises(OSError, match="quota"):
        tree.ask(f"proc/{pid}/call", "llm 1")


def test_a_figure_that_cannot_be_true_costs_nobody_and_the_operator_puts_a_budget_back(
    tree: Tree,
) -> None:
    liar = Puppet(tree, "liar", tier="tactical")
    call = liar.ask("proc/self/call", "llm sonnet 100").strip()
    for said in (f"{10**12} {10**12}", "200000 1"):
        with pytest.raises(OSError, match="too long") as refused:
            liar.ask("proc/self/call", f"settle {call} {said}")
        assert refused.value.errno == errno.EMSGSIZE
    with pytest.raises(OSError, match="too long"):
        liar.write("proc/self/budget/ctl", f"report {10**12} sonnet")
    assert figures(tree, 1)["consumed"] == "0"
    assert liar.ask("proc/self/call", f"settle {call} 1000 500") == "settled\n"
    with pytest.raises(PermissionError):
        liar.write("proc/self/budget/ctl", "refund 1")
    tree.write("proc/1/budget/ctl", "refund 1500 tactical")
    assert figures(tree, 1)["consumed"] == "0"
    liar.close()
