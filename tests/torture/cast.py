"""Who is in the rig: consumers of every kind, their producers, a subscriber or two, and those who
spend what they are allowed."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.tree import Tree

__all__ = ["ALLOWANCE", "Cast", "Program"]

PROGRAMS = Path(__file__).parent / "programs"

SHARES = {"inbox": 0.6, "queue": 0.25, "topic": 0.15}
"""Of the messages. A shell sends fewer than a producer in Python: it starts a program for each."""

ALLOWANCE = 3000
"""Tokens that each spender is given; it tries to spend more."""


@dataclass(slots=True)
class Program:
    """An agent of the torture: a consumer, a subscriber, a producer or a spender."""

    name: str
    role: str
    pid: int


class Cast:
    """All of them. `boxes` are folders that have new/, cur/ and dead/."""

    def __init__(self, tree: Tree, notes: Path, stop: Path, chance: random.Random) -> None:
        self._tree = tree
        self._notes = notes
        self._stop = stop
        self._chance = chance
        self.programs: list[Program] = []
        self.boxes: list[str] = []
        self.topics: list[str] = []

    def __iter__(self) -> Iterator[Program]:
        return iter(self.programs)

    def of(self, role: str) -> list[Program]:
        return [program for program in self.programs if program.role == role]

    def enter(self, messages: int) -> None:
        """Start them all; they send `messages` between them."""
        inbox, queue, topic = (round(messages * share) for share in SHARES.values())
        for name, program, share in (
            ("reads", ["recv.py", "{recv}"], 0.2),
            ("batches", ["batch.py", "{recv}.batch"], 0.2),
            ("handles", ["client.py", "{recv}", str(self._chance.random())], 0.25),
            ("renames", ["maildir.py", "{box}"], 0.2),
            ("takes", ["recv.py", "{recv}"], 0.1),
            ("cats", ["recv.sh", "{recv}"], 0.05),
        ):
            home = f"{self._tree.path}/agents/{name}"
            words = [word.format(recv=f"{home}/recv", box=f"{home}/inbox") for word in program]
            consumer = self._start("consumer", name, 1, *words)
            self.boxes.append(f"agents/{name}/inbox")
            # Producers are children of who they write to.
            for number in range(2):
                self._produce("inbox", name, number, consumer.pid, round(inbox * share / 2))
        self._queue(queue)
        self._topic(topic)
        for number in range(2):
            self._start(
                "spender",
                f"spends-{number}",
                1,
                "spender.py",
                str(self._stop),
                role="worker",
                tier="operational",
                budget={"operational": ALLOWANCE},
            )

    def _queue(self, messages: int) -> None:
        box = self._tree / "dev/queues/jobs"
        box.mkdir()
        box.chmod(0o777)
        self.boxes.append("dev/queues/jobs")
        for name, program in (
            ("works", ["recv.py", f"{box}/recv"]),
            ("serves", ["client.py", f"{box}/recv", str(self._chance.random())]),
            ("toils", ["recv.sh", f"{box}/recv"]),
            ("sorts", ["maildir.py", f"{box}"]),
        ):
            self._start("consumer", name, 1, *program)
        for number in range(2):
            self._produce("queue", "jobs", number, 1, round(messages / 2))

    def _topic(self, messages: int) -> None:
        topic = self._tree / "dev/topics/news"
        topic.touch()
        topic.chmod(0o777)
        self.topics.append("news")
        for name in ("follows", "listens"):
            self._start("consumer", name, 1, "subscriber.py", str(topic))
        for number in range(2):
            self._produce("topic", "news", number, 1, round(messages / 2))

    def _produce(self, kind: str, target: str, number: int, parent: int, count: int) -> None:
        name, stop = f"{target}-{number}", str(self._stop)
        if target == "takes":
            self._start("producer", name, parent, "openers.py", stop, target, str(count))
        elif target == "cats":
            self._start("producer", name, parent, "producer.sh", stop, target, str(count))
        else:
            words = ["producer.py", stop, kind, target, str(count)]
            self._start("producer", name, parent, *words)

    def _start(
        self, part: str, name: str, parent: int, program: str, *words: str, **spec: object
    ) -> Program:
        interpreter = "sh" if program.endswith(".sh") else sys.executable
        command = [interpreter, str(PROGRAMS / program), str(self._notes / name), *words]
        restart = "on-failure" if part == "producer" else "always"
        pid = self._tree.spawn(name, parent, exec=command, restart=restart, **spec)
        made = Program(name, part, pid)
        self.programs.append(made)
        return made
