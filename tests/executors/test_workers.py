"""Workers of the kernel and of people, at a real mount."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.hatchery import Hatchery, QuickTree
from tests.pages import blocks, run
from tests.tree import Tree, eventually


@pytest.fixture(scope="module")
def tree(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    made = QuickTree(tmp_path_factory.mktemp("workers") / "tree", hatchery=hatchery)
    try:
        made.mount()
        yield made
    finally:
        made.clean_up()


class Shop:
    """A pipeline of one node, whose function is in a module of its own."""

    def __init__(self, tree: Tree, folder: Path, name: str) -> None:
        self.tree = tree
        self.folder = folder
        self.name = name

    def code(self, text: str) -> None:
        """Have this code."""
        new = self.folder / "new"
        new.write_text("from agentfs.steps import *\n" + textwrap.dedent(text))
        new.replace(self.folder / "shop.py")

    def pipeline(self, *nodes: dict[str, Any], **spec: Any) -> None:
        document = {
            "kind": "Pipeline",
            "metadata": {"name": self.name},
            "spec": {"code": str(self.folder), "nodes": list(nodes), **spec},
        }
        path = self.tree / f"etc/pipelines/{self.name}.yaml"
        path.write_text(yaml.safe_dump(document))

    def begin(self, **given: Any) -> int:
        return int(self.tree.ask(f"etc/pipelines/{self.name}/run", json.dumps(given)))

    def end(self, run: int) -> dict[str, Any]:
        return json.loads(self.tree.read(f"proc/runs/{run}/wait"))

    def run(self, **given: Any) -> dict[str, Any]:
        return self.end(self.begin(**given))

    def workers(self) -> list[int]:
        """The programs of its workers."""
        found = []
        for status in (self.tree / "proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
            except OSError:
                continue
            lines = dict(line.split(":\t", 1) for line in text.splitlines())
            if lines["Name"].startswith(f"{self.name}.code@") and ":worker" in lines["Name"]:
                found.append(int((status.parent / "ospid").read_text()))
        return found


@pytest.fixture
def shop(tree: Tree, tmp_path: Path, request: pytest.FixtureRequest) -> Shop:
    return Shop(tree, tmp_path, f"p{abs(hash(request.node.name)) % 10**9}")


@pytest.mark.skipif(not shutil.which("jq"), reason="its worker is jq in a shell")
def test_the_page_is_right(tree: Tree, tmp_path: Path) -> None:
    for script, expected in blocks("pools.md"):
        assert run(script, tree, tmp_path) == expected, script


def test_changed_code_is_used_by_the_next_step(shop: Shop) -> None:
    shop.code("@step\ndef f(): return 'old'")
    shop.pipeline({"name": "f", "function": "shop:f"})
    assert shop.run()["output"] == "old"
    [worker] = shop.workers()
    shop.code("@step\ndef f(): return 'new'")
    assert shop.run()["output"] == "new"
    assert shop.workers() == [worker]


def test_code_that_is_wrong_says_so_and_can_be_mended(shop: Shop) -> None:
    shop.code("def f(: pass")
    shop.pipeline({"name": "f", "function": "shop:f"})
    assert "SyntaxError" in shop.run()["error"]
    shop.code("def f(): return 1")
    assert "no @step" in shop.run()["error"]
    shop.code("@step\ndef f(): return 1 / 0")
    assert "ZeroDivisionError: division by zero (shop.py:3, in f)" in shop.run()["error"]
    shop.code("@step\ndef f(): raise GiveUp('closed today')")
    assert shop.run()["error"] == "f: closed today"
    shop.code("@step\ndef f(): return object()")
    assert "object is no JSON" in shop.run()["error"]
    shop.code("@step\ndef f(): raise SystemExit(3)")
    assert "SystemExit" in shop.run()["error"]
    shop.code("@step\ndef f(): return 'open'")
    assert shop.run()["output"] == "open"


def test_steps_of_a_worker_that_is_killed_are_done_by_the_next(shop: Shop) -> None:
    shop.code(
        """
        import os
        @step
        def f(mark: str):
            if not os.path.exists(mark):
                open(mark, "w").close()
                os.kill(os.getpid(), 9)
            return current().attempt
        """
    )
    shop.pipeline({"name": "f", "function": "shop:f"})
    assert shop.run(mark=str(shop.folder / "mark"))["output"] == 2
    shop.pipeline({"name": "f", "function": "shop:f", "once": True})
    ended = shop.run(mark=str(shop.folder / "other"))
    assert "before it had an answer" in ended["error"]


def test_a_worker_that_hangs_is_left_behind_and_ended(shop: Shop) -> None:
    shop.code(
        """
        import time
        @step
        def f():
            if current().attempt == 1:
                time.sleep(1000)
            return "quick"
        """
    )
    retry = {"attempts": 2, "delay": 0}
    shop.pipeline({"name": "f", "function": "shop:f", "timeout": 0.5, "retry": retry})
    assert shop.run()["output"] == "quick"
    [worker] = shop.workers()
    eventually(lambda: worker not in shop.workers())


def test_long_steps_are_done_at_the_same_time(shop: Shop) -> None:
    shop.code(
        """
        import asyncio, threading
        barrier = threading.Barrier(4)
        event = asyncio.Event()
        @step
        def thread(): barrier.wait(5)
        @step
        async def wait(): await asyncio.wait_for(event.wait(), 5)
        @step
        async def set(): event.set()
        """
    )
    names = {"a": "thread", "b": "thread", "c": "thread", "d": "thread", "e": "wait", "f": "set"}
    nodes = ({"name": n, "function": f"shop:{f}", "dependencies": []} for n, f in names.items())
    shop.pipeline(*nodes)
    assert shop.run()["state"] == "completed"


def test_a_step_goes_on_while_the_daemon_is_killed(shop: Shop) -> None:
    gate = shop.folder / "gate"
    shop.code(
        f"""
        import os, time
        @step
        def f():
            open({str(gate)!r} + ".begun", "a").write(f"{{os.getpid()}}-{{current().attempt}} ")
            while not os.path.exists({str(gate)!r}):
                time.sleep(0.05)
            return [current().attempt, os.getpid()]
        """
    )
    shop.pipeline(*({"name": n, "function": "shop:f", "dependencies": []} for n in "fg"))
    number = shop.begin()
    begun = shop.folder / "gate.begun"
    eventually(lambda: begun.exists() and len(begun.read_text().split()) == 2)
    [worker] = shop.workers()
    shop.tree.crash()
    shop.tree.run("umount", str(shop.tree.path), check=False)
    shop.tree.mount()
    gate.touch()
    output = shop.end(number)["output"]
    print([p.read_text() for p in (shop.tree.state / "runs").glob("*/*/log")])
    assert output["f"] == output["g"]
    assert output["f"][0] == 1
    assert len(begun.read_text().split()) == 2
    assert shop.run()["state"] == "completed"
    assert shop.workers() == [worker]


def test_a_worker_that_starts_while_the_daemon_is_dead_waits_for_it(shop: Shop) -> None:
    shop.code(
        """
        class Till:
            def setup(self): self.sum = 100
            @step
            def add(self, amount: int): self.sum += amount; return self.sum
        @step
        def bill():
            current().progress("writing")
            with open(current().artifact("bill.txt"), "w") as file:
                file.write("to pay")
            return "bill.txt"
        """
    )
    tree = shop.tree
    (tree / "dev/pools/tills").mkdir()
    add = {"service": "shop:Till", "method": "add", "pool": "tills", "input_mapping": {"amount": 5}}
    shop.pipeline(
        {"kind": "service_call", "metadata": {"name": "sum"}, "spec": add},
        {"name": "bill", "function": "shop:bill", "pool": "tills"},
    )
    number = shop.begin()
    tree.crash()
    command = [sys.executable, "-m", "agentfs.steps", str(shop.folder), "--pool", "tills"]
    tree.start(*command, env=os.environ | {"AGENTFS": str(tree.path)})
    tree.run("umount", str(tree.path), check=False)
    tree.mount()
    assert shop.end(number)["state"] == "completed", shop.end(number)
    assert json.loads(tree.read(f"proc/runs/{number}/nodes/sum/output")) == 105
    assert tree.read(f"proc/runs/{number}/artifacts/bill.txt") == "to pay"
    events = tree.read(f"proc/runs/{number}/events").splitlines()
    assert any("NodeProgress" in line and "writing" in line for line in events)
    tree.write("dev/pools/tills/ctl", "remove\n")


def test_a_run_without_the_network_has_no_worker_with_it(shop: Shop) -> None:
    shop.code(
        """
        import socket
        @step
        def f(port: int):
            try:
                with socket.create_connection(("127.0.0.1", port), 5):
                    return "there"
            except OSError as failure:
                return type(failure).__name__
        """
    )
    (shop.tree / "dev/pools/wide").mkdir()
    node = {"name": "f", "function": "shop:f"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        shop.pipeline(node | {"pool": "wide"}, caps=["llm"])
        closed = shop.run(port=port)  # by a worker of its own: the pool's may do more
        shop.pipeline(node)
        opened = shop.run(port=port)
    assert opened["output"] == "there"
    assert closed["output"] in ("ConnectionRefusedError", "PermissionError", "OSError")
    assert "Waiting:\t0" in shop.tree.read("dev/pools/wide/status")
    assert len(shop.workers()) == 2


def test_workers_without_work_end(shop: Shop) -> None:
    shop.code("@step\ndef f(): return 1")
    shop.pipeline({"name": "f", "function": "shop:f"})
    settings = shop.tree.read("etc/agentfs.yaml")
    shop.tree.write("etc/agentfs.yaml", "pools: {idle: 0.2s}\n")
    try:
        assert shop.run()["output"] == 1
        eventually(lambda: not shop.workers())
        eventually(lambda: not [*(shop.tree / "dev/pools").glob(f"{shop.name}*")])
        assert shop.run()["output"] == 1
    finally:
        shop.tree.write("etc/agentfs.yaml", settings)


def test_term_ends_a_worker_and_its_steps_come_back(shop: Shop) -> None:
    shop.code("@step\ndef f(): return current().attempt")
    shop.pipeline({"name": "f", "function": "shop:f"})
    assert shop.run()["output"] == 1
    [worker] = shop.workers()
    os.killpg(os.getpgid(worker), signal.SIGTERM)
    assert shop.run()["output"] in (1, 2)
    eventually(lambda: worker not in shop.workers())


def test_a_worker_may_poll_instead_of_waiting(shop: Shop) -> None:
    (shop.tree / "dev/pools/polled").mkdir()
    shop.pipeline({"name": "f", "function": "any:thing", "pool": "polled"})
    path = shop.tree / "dev/pools/polled/work"
    with pytest.raises(PermissionError):
        path.read_bytes()
    file = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            os.read(file, 65536)
        poll = select.poll()
        poll.register(file, select.POLLIN)
        assert poll.poll(0) == []
        run = shop.begin()
        assert poll.poll(60_000)
        step = json.loads(os.read(file, 65536))
        with pytest.raises(OSError, match="Invalid argument"):
            os.write(file, b"garbage\n")
        assert "one line of JSON" in shop.tree.read("proc/self/error")
        about = {"step": step["step"], "attempt": step["attempt"]}
        os.write(file, json.dumps(about | {"ok": {"x": 2**70}}).encode())
        with pytest.raises(OSError, match="Stale file handle"):
            os.write(file, json.dumps(about | {"ok": 1}).encode())
    finally:
        os.close(file)
    assert shop.end(run)["output"] == {"x": 2**70}
