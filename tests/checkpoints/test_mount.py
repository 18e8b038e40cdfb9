"""Checkpoints as a shell sees them, and what programs notice of one."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from agentfs.check import check
from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree, eventually, until

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def tree(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    made = QuickTree(tmp_path_factory.mktemp("checkpoints") / "tree", hatchery=hatchery)
    try:
        made.mount()
        yield made
    finally:
        made.clean_up()


def test_a_checkpoint_is_a_directory(tree: Tree) -> None:
    tree.spawn("bob", role="worker")
    (tree / "agents/bob/memory/note").write_text("then")
    (tree / "sys/checkpoints/good").mkdir()
    info = tree.read("sys/checkpoints/good/info")
    assert "Name:\tgood\n" in info
    assert "Files:\t" in info
    assert tree.run("checkpoint", "list").stdout.startswith("good  ")
    tree.write("sys/checkpoints/good/ctl", "verify\n")
    tree.run("checkpoint", "create", "two")
    assert sorted(os.listdir(tree / "sys/checkpoints")) == ["good", "two"]
    with pytest.raises(FileExistsError):
        (tree / "sys/checkpoints/two").mkdir()
    with pytest.raises(OSError, match="Invalid"):
        (tree / "sys/checkpoints/.x").mkdir()
    tree.run("checkpoint", "rm", "two")
    (tree / "sys/checkpoints/good").rmdir()
    assert os.listdir(tree / "sys/checkpoints") == []
    assert os.listdir(tree.state / "checkpoints") == []


def test_a_rollback_is_under_the_same_mount(tree: Tree) -> None:
    loop = 'while m=$(cat "$AGENTFS/agents/self/recv"); do echo "$m" >> got; done'
    pid = tree.spawn("carol", role="worker", exec=["sh", "-c", loop], restart="always")
    tree.write("agents/init/outbox/carol", "one")
    memory = tree / "agents/carol/memory"

    def got() -> str:
        return (memory / "got").read_text() if (memory / "got").exists() else ""

    eventually(lambda: "one" in got())
    until(tree / "agents/carol/state", "idle")  # the next read has acknowledged it
    (memory / "note").write_text("then")
    (tree / "projects/bees").mkdir()
    plan = tree / "projects/bees/memory/plan.md"
    plan.write_text("one page")
    boot, first = tree.read("sys/boot_id"), (tree / f"proc/{pid}/ospid").read_text()
    (tree / "sys/checkpoints/good").mkdir()
    assert "not all programs stand still" not in tree.log()
    tree.write("agents/init/outbox/carol", "two")
    (memory / "note").write_text("now")
    plan.write_text("two pages")
    late = tree.spawn("dave", role="worker")
    reader = tree.start("cat", str(tree / "dev/events"), stderr=subprocess.PIPE, text=True)
    held = os.open(tree / f"proc/{late}/status", os.O_RDONLY)
    tree.write("sys/checkpoints/good/ctl", "rollback\n")
    assert (memory / "note").read_text() == "then"
    assert plan.read_text() == "one page"
    assert tree.read("sys/boot_id") != boot
    assert not (tree / f"proc/{late}").exists()
    with pytest.raises(OSError, match="Stale"):
        os.pread(held, 100, 0)
    os.close(held)
    assert reader.wait(60) == 1
    assert reader.stderr is not None
    assert "Stale" in reader.stderr.read()
    eventually(lambda: "Type: rollback" in got())
    assert got().count("\n\none") == 1
    assert "\n\ntwo" not in got()
    assert (tree / f"proc/{pid}/ospid").read_text() != first
    assert tree.spawn("erin", role="worker") > late
    tree.unmount()
    assert check(tree.state / "store.db") == []
    tree.mount()
    assert (memory / "note").read_text() == "then"
    (tree / "sys/checkpoints/good").rmdir()


def test_a_reader_that_was_frozen_can_be_killed(tree: Tree) -> None:
    pid = tree.spawn("fred", role="worker", exec=["cat", "recv"], cwd="../")
    until(tree / "agents/fred/state", "idle")
    reader = int(tree.read(f"proc/{pid}/ospid"))
    (tree / "sys/checkpoints/cold").mkdir()
    os.kill(reader, signal.SIGKILL)
    until(tree / f"proc/{pid}/state", "zombie", patience=20)
    (tree / "sys/checkpoints/cold").rmdir()


def test_what_was_accepted_before_is_there_once_and_what_came_after_is_not(tree: Tree) -> None:
    tree.spawn("gina", role="worker")
    stop, begun, ended = threading.Event(), dict[str, float](), dict[str, float]()

    def send(sender: int) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            text = f"<{sender}-{number}>"
            begun[text] = time.monotonic()
            tree.write("agents/init/outbox/gina", text)
            ended[text] = time.monotonic()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(ended) > 50)
    before = time.monotonic()
    (tree / "sys/checkpoints/loaded").mkdir()
    after, sent = time.monotonic(), len(ended)
    eventually(lambda: len(ended) > sent + 50)
    stop.set()
    for thread in threads:
        thread.join()
    newest = max(int(name.split(".")[0]) for name in os.listdir(tree / "agents/gina/inbox/new"))
    tree.write("sys/checkpoints/loaded/ctl", "rollback\n")
    inbox = tree / "agents/gina/inbox/new"
    found = Counter(
        text for path in inbox.iterdir() for text in re.findall(r"<\d-\d+>", path.read_text())
    )
    assert set(found.values()) == {1}
    assert {text for text, at in ended.items() if at < before} <= found.keys()
    assert not {text for text, at in begun.items() if at > after} & found.keys()
    tree.write("agents/init/outbox/gina", "next")
    assert max(int(name.split(".")[0]) for name in os.listdir(inbox)) > newest
    (tree / "sys/checkpoints/loaded").rmdir()
