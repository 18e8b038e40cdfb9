"""The words of other systems, and what says the same here. Each row is done through a mount, in a
shell, and its event is seen in /dev/events."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.tree import PATIENCE, Tree, eventually

pytestmark = pytest.mark.mount


@dataclass(frozen=True)
class Row:
    """`said` is their endpoint or event; `script` does the same through files; `event` is its type
    in /dev/events ("": it changes nothing), and `prints` a pattern in what the script prints."""

    said: str
    script: str
    event: str = ""
    prints: str = ""


HELPERS = r"""
ask() { exec 3<>"$1"; printf %s "$2" >&3 && cat <&3; exec 3>&-; } # FILE REQUEST
submit() { ask dev/tasks/new "{description: $1, requirements: {only: ${2:-nobody}}}"; }
worker() { echo "{name: $1, capabilities: {only: $1}}" > dev/workers/new; }
take() { exec 4<>dev/workers/$1/recv; cat <&4 > /dev/null; } # leaves it open
answer() { echo "{\"task\": $1, \"attempt\": 1, $2}" >&4; }
start() { ask proc/1/spawn "{name: $1, restart: never, exec: [sh, -c, '$2']}"; } # NAME SCRIPT
last() { grep -m 1 "\"type\": \"$1\"" dev/events.all; } # the first event of a type
asks-a-person() {
  printf 'kind: Pipeline\nmetadata: {name: %s}\nspec: {nodes: [{name: a, approval: "go?"}]}\n' $1 \
    > etc/pipelines/$1.yaml
  ask etc/pipelines/$1/run '{}' > /dev/null
}
project() { # whose seeds evolve once
  mkdir projects/$1
  phases='{execute: {data: {v: 1}}, evaluate: {expression: {score: "0.1"}}}'
  echo "{evolutions: 1, phases: $phases}" > projects/$1/spec.yaml
}
plant() { ask projects/$1/seeds/new 'a page'; }
"""

COLONY = (
    # -- its endpoints
    Row("GET /health", "cat sys/health", prints=r"Ok:\tyes"),
    Row(
        "GET /system/stats",
        "cat sys/stats/kernel sys/stats/workers sys/stats/tasks sys/stats/uptime",
        prints=r'(?s)"state": "running".*"active": \d+.*"validated": \d+.*^\d+\.\d+$',
    ),
    Row(
        "POST /tasks",
        "ask dev/tasks/new '{\"description\": \"sum\", \"priority\": 5,"
        ' "requirements": {"cpu": "medium"}}\'',
        "task_submitted",
        r"^\d+$",
    ),
    Row(
        "GET /tasks?status&limit",
        "submit a; ask dev/tasks/query 'state=validated limit=100'",
        prints=r'"state": "validated"',
    ),
    Row(
        "GET /tasks/{task_id}",
        "cat dev/tasks/$(submit looked-at)/info",
        prints=r'"description": "looked-at", "state": "validated"',
    ),
    Row("GET /tasks/{task_id}: 404", "! cat dev/tasks/9999/info 2>&1", prints="No such file"),
    Row(
        "DELETE /tasks/{task_id}",
        "t=$(submit b); echo cancel > dev/tasks/$t/ctl; cat dev/tasks/$t/state",
        "task_cancelled",
        "^cancelled$",
    ),
    Row(
        "DELETE /tasks/{task_id}: 409 finished",
        "t=$(submit b); echo cancel > dev/tasks/$t/ctl; echo cancel 2>&1 > dev/tasks/$t/ctl"
        " || cat proc/self/error",
        prints="EPERM: .*cancelled",
    ),
    Row("POST /workers", "ask dev/workers/new '{\"name\": \"v1\"}'", "worker_registered", "^v1$"),
    Row("GET /workers", "worker v2; cat dev/workers/*/info", prints='"name": "v2"'),
    Row("GET /workers/{worker_id}", "worker v3; cat dev/workers/v3/status", prints="\tactive"),
    Row(
        "POST /workers/{worker_id}/heartbeat",
        "worker v4; echo alive > dev/workers/v4/heartbeat",
        "worker_heartbeat",
    ),
    Row(
        "POST /system/checkpoint",
        "mkdir sys/checkpoints/good; cat sys/checkpoints/good/info",
        "checkpoint_created",
    ),
    Row("POST /system/rollback: 404", "! cd sys/checkpoints/none 2>&1", prints="No such file"),
    Row(
        "GET /system/audit?event_type&limit",
        "submit audited; ask sys/audit/query 'type=task_submitted limit=100'",
        prints='"task_submitted"',
    ),
    Row(
        "WS /ws/events",
        "submit streamed; timeout 5 grep -m 1 task_validated dev/events.all",
        prints=r'"seq": \d+, "time": "[^"]*Z", "type": "task_validated"',
    ),
    # -- its events, and the rest of the life of a task
    Row("kernel_started", "grep -m 1 kernel_started dev/events.all", prints='"kernel_started"'),
    Row("task_submitted", "submit c", "task_submitted"),
    Row("task_validated", "submit d", "task_validated"),
    Row("task_cancelled", "echo cancel > dev/tasks/$(submit e)/ctl", "task_cancelled"),
    Row("worker_registered", "worker e1", "worker_registered"),
    Row("worker_heartbeat", "worker e2; echo > dev/workers/e2/heartbeat", "worker_heartbeat"),
    Row("assigned", "worker e3; submit f e3", "task_assigned"),
    Row("started", "worker e4; submit g e4; take e4", "task_started"),
    Row(
        "progress",
        "worker e5; t=$(submit h e5); take e5; answer $t '\"progress\": \"half\"';"
        " tail -n 1 dev/tasks/$t/history",
        "task_progressed",
        '"half"',
    ),
    Row(
        "completed, and result retrieval",
        "worker e6; t=$(submit i e6); take e6; answer $t '\"ok\": 6';"
        " cat dev/tasks/$t/{wait,result}",
        "task_completed",
        r'(?s)\{"state": "completed", "error": null, "result": 6\}\n6$',
    ),
    Row(
        "failed",
        "worker e7; t=$(submit j e7); take e7; answer $t '\"error\": \"no\"';"
        " cat dev/tasks/$t/error",
        "task_failed",
        "^no$",
    ),
    Row(
        "retry",
        "worker e8; t=$(submit k e8); take e8; answer $t '\"error\": \"no\", \"again\": true';"
        " cat dev/tasks/$t/attempt",
        "task_returned",
        "^[12]$",
    ),
    Row(
        "too many retries",
        "worker e9; t=$(ask dev/tasks/new '{description: l, max_attempts: 1,"
        " requirements: {only: e9}}');"
        " take e9; answer $t '\"error\": \"no\", \"again\": true'; cat dev/tasks/$t/wait",
        "task_dead",
        '"state": "dead"',
    ),
    Row(
        "worker lost",
        "p=$(ask proc/1/spawn '{name: lost1, exec: sleep 1000}');"
        " echo '{name: l1, agent: lost1}' > dev/workers/new; echo KILL > proc/$p/ctl",
        "worker_lost",
    ),
    Row("deregistration", "worker f1; rmdir dev/workers/f1", "worker_removed"),
    Row("capacity", "worker f2; echo capacity 9 > dev/workers/f2/ctl", "worker_changed"),
)  # fmt: skip
"""ColonyOS: its endpoints and events, and the rest that it names no endpoint for."""


OXIOS = (
    Row("AgentCreated", "ask proc/1/spawn 'name: o1'", "agent_defined", r"^\d+$"),
    Row("AgentStarted", "ask proc/1/spawn 'name: o2'", "process_spawned", r"^\d+$"),
    Row(
        "AgentStopped",
        "p=$(start o3 'exit 0'); cat proc/$p/wait",
        "process_exited",
        "^0",
    ),
    Row(
        "AgentFailed",
        "p=$(start o4 'exit 3'); cat proc/$p/wait; last agent_failed",
        "agent_failed",
        '"cause": "it ended with exit code 3"',
    ),
    Row(
        "AgentOutput",
        "p=$(start o5 'echo an answer'); cat proc/$p/wait; cat agents/o5/log",
        prints="^an answer$",
    ),
    Row(
        "MessageReceived",
        "ask proc/1/spawn 'name: o6'; echo hi > agents/init/outbox/o6; cat agents/o6/inbox/new/*",
        "message_arrived",
        "^hi$",
    ),
    Row("ApprovalRequested", "asks-a-person p1; ls dev/approvals", "approval_asked", r"\d+"),
    Row(
        "ApprovalResolved",
        "asks-a-person p2; a=$(ls dev/approvals | grep '^0' | tail -n 1);"
        " echo approve > dev/approvals/$a/decision",
        "approval_decided",
    ),
    Row(
        "MemoryStored",
        "ask proc/1/spawn 'name: o7'; echo 'bees sleep' > agents/o7/remember",
        "memory_stored",
    ),
    Row(
        "MemoryRecalled",
        "ask proc/1/spawn 'name: o8'; echo 'ants dig' > agents/o8/remember;"
        " ask agents/o8/recall ants",
        "memory_recalled",
        "ants dig",
    ),
    Row("AgentGroupCreated", "mkdir dev/tasks/groups/g1", "agent_group_created"),
    Row(
        "AgentGroupMemberCompleted",
        "mkdir dev/tasks/groups/g2; ask proc/1/spawn 'name: o9';"
        " echo o9 > dev/tasks/groups/g2/members; echo complete o9 > dev/tasks/groups/g2/ctl;"
        " cat dev/tasks/groups/g2/wait",
        "agent_group_member_completed",
        '"completed": \\["o9"\\]',
    ),
    Row("ProjectCreated", "mkdir projects/q1", "project_created"),
    Row(
        "ProjectActivated",
        "mkdir projects/q2; echo activate > projects/q2/ctl; cat agents/init/project",
        "project_activated",
        "^q2$",
    ),
    Row("SeedCreated", "project q3; plant q3", "seed_created", r"^\d+$"),
    Row("PhaseStarted", "project q4; plant q4", "phase_started"),
    Row(
        "PhaseCompleted",
        "project q5; s=$(plant q5); cat projects/q5/seeds/$s/wait",
        "phase_completed",
        '"state": "failed"',
    ),
    Row(
        "EvaluationComplete",
        "project q6; s=$(plant q6); cat projects/q6/seeds/$s/{wait,evaluation}",
        "evaluation_complete",
        '"score": 0.1',
    ),
    Row(
        "EvolutionStarted",
        "project q7; s=$(plant q7); cat projects/q7/seeds/$s/{wait,child}",
        "evolution_started",
        r"^\d+$",
    ),
    Row(
        "EvolutionMaxReached",
        "project q8; s=$(plant q8); cat projects/q8/seeds/$s/wait",
        "evolution_max_reached",
        "after 1 evolutions",
    ),
)  # fmt: skip
"""Oxios 1.0.1: all of its twenty events."""


@pytest.fixture(scope="module")
def tree(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    made = QuickTree(tmp_path_factory.mktemp("words") / "tree", hatchery=hatchery)
    try:
        made.mount()
        made.write("etc/agentfs.yaml", "tasks: {max_concurrent: 100}\n")
        yield made
    finally:
        made.clean_up()


def say(tree: Tree, row: Row) -> None:
    """Do a row, and look for what it says."""
    stream = os.open(tree / "dev/events", os.O_RDONLY)
    try:
        done = subprocess.run(
            ["bash", "-e", "-c", f"cd {tree.path}\n{HELPERS}\n{row.script}"],
            env=os.environ | {"AGENTFS": str(tree.path)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, (
            row.script,
            done.stdout,
            done.stderr,
            tree.read("proc/self/error"),
        )
        assert re.search(row.prints, done.stdout, re.MULTILINE), done.stdout
        if row.event:
            assert row.event in _types(stream, row.event)
    finally:
        os.close(stream)


def _types(stream: int, wanted: str) -> list[str]:
    """The types of events up to the one that is wanted."""
    found: list[str] = []
    rest, deadline = b"", time.monotonic() + PATIENCE
    while wanted not in found and select.select([stream], [], [], deadline - time.monotonic())[0]:
        *lines, rest = (rest + os.read(stream, 65536)).split(b"\n")
        found += [json.loads(line)["type"] for line in lines]
    return found


@pytest.mark.parametrize("row", COLONY, ids=lambda row: row.said)
def test_what_colonyos_says(tree: Tree, row: Row) -> None:
    say(tree, row)


@pytest.mark.parametrize("row", OXIOS, ids=lambda row: row.said)
def test_what_oxios_says(tree: Tree, row: Row) -> None:
    say(tree, row)


def test_the_tables_have_every_word_once() -> None:
    assert len({row.said for row in OXIOS}) == len(OXIOS) == 20


def test_what_colonyos_says_of_the_way_back(tree: Tree) -> None:
    """POST /system/rollback/{checkpoint_id}: the last of all, because everything begins anew."""
    (tree / "sys/checkpoints/back").mkdir()
    (tree / "shared/since").write_text("later\n")
    tree.write("sys/checkpoints/back/ctl", "rollback\n")
    eventually(lambda: "system_rolled_back" in _events_so_far(tree))
    assert not (tree / "shared/since").exists()


def _events_so_far(tree: Tree) -> str:
    stream = os.open(tree / "dev/events.all", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(stream, 1 << 20).decode()
    except BlockingIOError:
        return ""
    finally:
        os.close(stream)
