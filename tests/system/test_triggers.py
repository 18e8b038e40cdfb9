"""Schedules, entities and systems through a mount, and over a kill -9 of the daemon."""

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tree import Tree, eventually, until

pytestmark = pytest.mark.mount

HELD = """\
kind: Pipeline
metadata: {name: held}
spec: {nodes: [{name: x, wait: go}, {name: y, expression: {v: "x.v | default(0)"}}]}
"""
PAIR = """\
kind: System
metadata: {name: pair}
spec:
  processes:
    a: {pipeline: held}
    b: {pipeline: held}
    teller: {exec: [/bin/sh, -c, 'echo "got $INPUT"']}
    failing: {exec: [/bin/sh, -c, 'exit 3'], restart: never}
  pipes:
  - {from: a, to: b, mapping: {v: "{{ a.y.v }}"}}
  - {from: a, to: teller, mapping: {w: "{{ a.y.v }}"}}
  - {from: b, to: failing}
"""
MACHINE = """\
initial: NEW
transitions: {NEW: [PAID, CANCELLED], PAID: [SHIPPED]}
states: {PAID: {on_enter: held}}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    tree = Tree(tmp_path / "tree")
    try:
        tree.mount()
        (tree / "etc/pipelines/held.yaml").write_text(HELD)
        yield tree
    finally:
        tree.clean_up()


def why(tree: Tree, number: int, path: str, text: str) -> str:
    """The reason of a write that is refused."""
    with pytest.raises(OSError) as caught:
        tree.write(path, text)
    assert caught.value.errno == number
    return tree.read("proc/self/error")


def go(tree: Tree, run: str, value: int = 0) -> None:
    (tree / f"{run}/signals/go").write_text(json.dumps({"v": value}))


def test_they_live_on_after_a_kill_of_the_daemon(tree: Tree) -> None:
    number = tree.ask("proc/scheduled/new", '{"pipeline": "held", "every": "1s"}').strip()
    scheduled, order = f"proc/scheduled/{number}", "proc/entities/order/7"
    (tree / "proc/entities/order").mkdir()
    (tree / "proc/entities/order/machine").write_text(MACHINE)
    (tree / order).mkdir()
    assert "did you mean PAID?" in why(tree, errno.EINVAL, f"{order}/state", "PIAD")
    tree.write(f"{order}/ctl", '{"to": "PAID", "expected": "NEW"}')
    until(tree / f"{scheduled}/state", "active")
    (tree / "etc/systems/pair.yaml").write_text(PAIR)
    system = "proc/systems/" + tree.ask("etc/systems/pair/run", '{"city": "Bern"}').strip()
    until(tree / f"{system}/processes/a/state", "running")
    first = tree.read(f"{scheduled}/last")

    tree.crash()
    tree.mount()

    assert tree.read(f"{scheduled}/state") == "active\n"
    assert tree.read(f"{scheduled}/last") == first
    eventually(lambda: "Skipped:\t0\n" not in tree.read(f"{scheduled}/status"))
    tree.write(f"{scheduled}/ctl", "cancel")
    assert tree.read(f"{scheduled}/count") == "1\n"
    assert "EPERM" in why(tree, errno.EPERM, f"{scheduled}/ctl", "run-now")

    go(tree, f"{order}/pending")
    until(tree / f"{order}/state", "PAID")
    lines = [json.loads(line) for line in tree.read(f"{order}/history").splitlines()]
    assert [(line["from"], line["state"]) for line in lines] == [(None, "NEW"), ("NEW", "PAID")]
    with pytest.raises(OSError) as busy:
        (tree / order).rmdir()
    assert busy.value.errno == errno.EBUSY

    go(tree, f"{system}/processes/a/run", 7)
    until(tree / f"{system}/processes/b/state", "running")
    assert json.loads(tree.read(f"{system}/processes/b/run/input")) == {"city": "Bern", "v": 7}
    until(tree / f"{system}/processes/teller/state", "completed")
    assert json.loads(tree.read("agents/teller/log").removeprefix("got "))["w"] == 7
    assert "has begun" in why(tree, errno.EPERM, f"{system}/pipes/a-b/value", "{}")
    go(tree, f"{system}/processes/b/run")
    until(tree / f"{system}/state", "failed")
    assert "failing: code 3" in tree.read(f"{system}/status")
    for tool in (["find", "."], ["grep", "-r", "nothing", "."], ["ls", "-lR", "."]):
        done = subprocess.run(
            tool, cwd=tree / "proc/systems", check=False, capture_output=True, timeout=30
        )
        assert not done.stderr
    assert os.getxattr(tree / f"{system}/state", "user.agentfs.kind") == b"value"
    for path, kind, status in (
        (scheduled, b"scheduled_task", b"cancelled"),
        (order, b"entity", b"PAID"),
        (system, b"system", b"failed"),
    ):
        assert os.getxattr(tree / path, "user.agentfs.entity_type") == kind
        assert os.getxattr(tree / path, "user.agentfs.status") == status
        assert "user.agentfs.tags" in os.listxattr(tree / path)
