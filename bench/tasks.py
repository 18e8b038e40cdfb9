"""The side `tasks`: what a task costs beside a message in a queue, in turns.

A submission is a write to /dev/tasks/new; when it returns, the task is assigned: its message waits
for the worker. A send is a write to the queue. A task is done by a read
of the worker's `recv` and a write of the answer; a message by a read of the queue's `recv` and a
write of `done`. All of them through the mount, by one program.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from bench.counts import cpu_seconds
from bench.setting import Setting, Tree
from bench.table import Best, Row

__all__ = ["measure"]

MOST = 2.0
"""Times a queue's send, or its receive."""

ROOM = 10_000
"""Tasks that may be assigned at the same time: as many as are submitted."""

TASK = json.dumps({"description": "nothing", "input": {"n": 1}, "requirements": {"cpu": "low"}})


class _Side:
    """The files that are used, open."""

    def __init__(self, tree: Tree, stack: ExitStack) -> None:
        tree.configure(tasks={"max_concurrent": ROOM})
        (tree / "dev/queues/bench").mkdir()
        worker = {"name": "bench", "capabilities": {"cpu": "high"}, "capacity": ROOM}
        tree.ask("dev/workers/new", json.dumps(worker))
        self._tree = tree

        def opened(path: str, flags: int) -> int:
            file = os.open(tree / path, flags)
            stack.callback(os.close, file)
            return file

        self._new = opened("dev/tasks/new", os.O_RDWR)
        self._tasks = opened("dev/workers/bench/recv", os.O_RDWR | os.O_DIRECT)
        self._send = opened("dev/queues/bench/send", os.O_WRONLY)
        self._recv = opened("dev/queues/bench/recv", os.O_RDWR | os.O_DIRECT)

    def submit(self) -> None:
        os.write(self._new, TASK.encode())

    def do(self) -> None:
        head = os.read(self._tasks, 65536).decode()
        found = re.search(r"^Task: (\d+)$", head, re.MULTILINE)
        assert found is not None, head
        os.write(self._tasks, b'{"task": %s, "attempt": 1, "ok": 1}' % found[1].encode())

    def send(self) -> None:
        os.write(self._send, b"Type: task\n\n" + TASK.encode())

    def receive(self) -> None:
        os.read(self._recv, 65536)
        os.write(self._recv, b"done")

    def check(self, count: int) -> None:
        """Everything that was submitted is assigned, and then completed: nothing is left out."""
        stats = json.loads((self._tree / "dev/tasks/stats").read_text())
        assert stats["validated"] == 0, stats
        assert stats["assigned"] == count, stats


def measure(setting: Setting) -> Iterator[Row]:
    """The cost of a task."""
    count = setting.size(300, 10)
    best, spent = Best(), Best()
    with setting.tree() as tree, ExitStack() as stack:
        side = _Side(tree, stack)

        def timed(name: str, call: Callable[[], None]) -> None:
            cpu, began = cpu_seconds(tree.daemon), time.perf_counter()
            for _ in range(count):
                call()
            best.keep(name, (time.perf_counter() - began) / count)
            spent.keep(name, (cpu_seconds(tree.daemon) - cpu) / count)

        for _ in range(setting.size(7, 1)):
            timed("submit", side.submit)
            side.check(count)
            timed("send", side.send)
            timed("do", side.do)
            side.check(0)
            timed("receive", side.receive)
    for what, ours, theirs, beside in (
        ("submit to assigned", "submit", "send", "queue: send"),
        ("assigned to completed", "do", "receive", "queue: receive, done"),
    ):
        counts = {"µs of the daemon": spent[ours] * 1e6, "µs of it for theirs": spent[theirs] * 1e6}
        yield Row(
            "tasks", what, best[ours] * 1e6, "µs", beside, best[theirs] * 1e6, MOST, counts=counts
        )
