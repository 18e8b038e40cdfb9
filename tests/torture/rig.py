"""The rig: a real mount, real programs, and somebody who kills them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from agentfs.agent import Message
from agentfs.storage.check import check as check_store
from tests.hatchery import QuickTree
from tests.torture.model import Delivery, History, Life

__all__ = ["Report", "torture"]

PROGRAMS = Path(__file__).parent / "programs"

CONFIG = """
processes:
  restart_backoff: 20ms
  restart_backoff_max: 20ms
  restart_attempts: 1000000
topics: {max_records: 500}
"""
"""What is killed is started again at once, and as often as it is killed; a subscriber that is away
loses something now and then, and is to be told."""

SHARES = {"inbox": 0.6, "queue": 0.25, "topic": 0.15}
"""Of the messages. A shell sends fewer than a producer in Python: it starts a program for each."""

PAUSE = (0.02, 0.3)  # seconds between two kills
VICTIMS = {"consumer": 0.45, "producer": 0.35, "daemon": 0.2}
DRAIN = 60.0  # seconds in which everything must have been delivered once nobody kills any more
LAST = "the-last"  # published when everything else was


@dataclass(slots=True)
class Report:
    """What came out."""

    history: History
    kills: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)  # of the store, after a crash or at the end
    undrained: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        history = self.history
        topics = sum(len(life.records) for life in history.lives)
        kills = ", ".join(f"{count} {what}s" for what, count in sorted(self.kills.items()))
        return (
            f"{len(history.accepted)} messages accepted of {len(history.tried)} tried,"
            f" {len(history.deliveries)} deliveries ({history.duplicates} not the first),"
            f" {topics} records read from topics, {len(history.left)} left;"
            f" killed: {kills or 'nobody'}; {self.seconds:.0f} s"
        )


@dataclass(slots=True)
class _Program:
    """An agent of the torture: a consumer, a subscriber or a producer."""

    name: str
    role: str
    pid: int


def torture(folder: Path, seconds: float, messages: int, seed: int) -> Report:
    """Let `messages` flow, kill for at most `seconds`, wait until everything has arrived, and say
    what happened. `folder` is the torture's own.

    The seed decides which programs there are, who is killed in which order and after what pause,
    and which handlers fail. Which instruction a kill hits is the machine's affair.
    """
    rig = _Rig(folder, messages, random.Random(seed))
    try:
        return rig.run(seconds)
    finally:
        rig.tree.clean_up()


class _Rig:
    def __init__(self, folder: Path, messages: int, chance: random.Random) -> None:
        self.chance = chance
        self.notes = folder / "notes"
        self.notes.mkdir(parents=True)
        self.stop = folder / "stop"
        self.tree = QuickTree(folder / "tree")
        self.programs: list[_Program] = []
        self.report = Report(History())
        self._messages = messages
        self._boxes: list[str] = []  # folders that have new/, cur/ and dead/
        self._topics: list[str] = []

    def run(self, seconds: float) -> Report:
        began = time.monotonic()
        self.tree.mount()
        self.tree.write("etc/agentfs.yaml", CONFIG)
        self._populate()
        while time.monotonic() < began + seconds and self._producing():
            time.sleep(self.chance.uniform(*PAUSE))
            self._kill()
        self.stop.touch()
        self._drain()
        self._see_what_is_left()
        self.tree.unmount()
        self.report.faults += check_store(self.tree.state / "store.db")
        doctor = self.tree.run("doctor", "--state", str(self.tree.state), check=False)
        if doctor.returncode:
            self.report.faults.append(doctor.stdout + doctor.stderr)
        self._read_notes()
        self.report.seconds = time.monotonic() - began
        return self.report

    # -- who is there ------------------------------------------------------------------------------

    def _populate(self) -> None:
        inbox, queue, topic = (round(self._messages * share) for share in SHARES.values())
        for name, program, share in (
            ("reads", ["recv.py", "{recv}"], 0.25),
            ("batches", ["batch.py", "{recv}.batch"], 0.25),
            ("handles", ["client.py", "{recv}", str(self.chance.random())], 0.25),
            ("renames", ["maildir.py", "{box}"], 0.2),
            ("cats", ["recv.sh", "{recv}"], 0.05),
        ):
            home = f"{self.tree.path}/agents/{name}"
            words = [word.format(recv=f"{home}/recv", box=f"{home}/inbox") for word in program]
            consumer = self._start("consumer", name, 1, *words)
            self._boxes.append(f"agents/{name}/inbox")
            # Producers are children of who they write to: messages between siblings are copied.
            for number in range(2):
                self._produce("inbox", name, number, consumer.pid, round(inbox * share / 2))
        self._populate_queue(queue)
        self._populate_topic(topic)

    def _populate_queue(self, messages: int) -> None:
        box = self.tree / "dev/queues/jobs"
        box.mkdir()
        box.chmod(0o777)
        self._boxes.append("dev/queues/jobs")
        for name, program in (
            ("works", ["recv.py", f"{box}/recv"]),
            ("serves", ["client.py", f"{box}/recv", str(self.chance.random())]),
            ("toils", ["recv.sh", f"{box}/recv"]),
            ("sorts", ["maildir.py", f"{box}"]),
        ):
            self._start("consumer", name, 1, *program)
        for number in range(2):
            self._produce("queue", "jobs", number, 1, round(messages / 2))

    def _populate_topic(self, messages: int) -> None:
        topic = self.tree / "dev/topics/news"
        topic.touch()
        topic.chmod(0o777)
        self._topics.append("news")
        for name in ("follows", "listens"):
            self._start("consumer", name, 1, "subscriber.py", str(topic))
        for number in range(2):
            self._produce("topic", "news", number, 1, round(messages / 2))

    def _produce(self, kind: str, target: str, number: int, parent: int, count: int) -> None:
        name = f"{target}-{number}"
        if target == "cats":
            self._start("producer", name, parent, "producer.sh", str(self.stop), target, str(count))
        else:
            words = ["producer.py", str(self.stop), kind, target, str(count)]
            self._start("producer", name, parent, *words)

    def _start(self, role: str, name: str, parent: int, program: str, *words: str) -> _Program:
        interpreter = "sh" if program.endswith(".sh") else sys.executable
        command = [interpreter, str(PROGRAMS / program), str(self.notes / name), *words]
        restart = "always" if role == "consumer" else "on-failure"
        pid = self.tree.spawn(name, parent, exec=command, restart=restart)
        made = _Program(name, role, pid)
        self.programs.append(made)
        return made

    # -- killing -----------------------------------------------------------------------------------

    def _producing(self) -> bool:
        states = [
            (self.tree / f"proc/{program.pid}/state")
            for program in self.programs
            if program.role == "producer"
        ]
        return any(state.exists() and state.read_text() not in ENDED for state in states)

    def _kill(self) -> None:
        (role,) = self.chance.choices(list(VICTIMS), list(VICTIMS.values()))
        victim = self.chance.choice([each for each in self.programs if each.role != "daemon"])
        whole = self.chance.random() < 0.5
        self.report.kills[role] += 1
        if role == "daemon":
            self.tree.crash()
            self.report.faults += check_store(self.tree.state / "store.db")
            self.tree.mount()
            return
        while victim.role != role:
            victim = self.chance.choice(self.programs)
        with contextlib.suppress(OSError, ValueError):  # it has ended, or is being started again
            ospid = int(self.tree.read(f"proc/{victim.pid}/ospid"))
            (os.killpg if whole else os.kill)(ospid, signal.SIGKILL)

    # -- the end -----------------------------------------------------------------------------------

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN
        while self._producing() and time.monotonic() < deadline:
            time.sleep(0.02)
        for topic in self._topics:
            self.tree.write(f"dev/topics/{topic}", LAST)
        while time.monotonic() < deadline:
            self.report.undrained = self._undrained()
            if not self.report.undrained:
                return
            time.sleep(0.05)

    def _undrained(self) -> list[str]:
        waiting = [
            f"{box}/new/{name}"
            for box in self._boxes
            for name in os.listdir(self.tree / box / "new")
        ]
        if not waiting:  # what a loop over recv got last stays claimed: it has asked for no more
            got = "".join(
                (self.notes / each.name).read_text()
                for each in self.programs
                if each.role == "consumer"
            )
            waiting = [
                str(path)
                for box in self._boxes
                for path in (self.tree / box / "cur").iterdir()
                if not self._is_noted(path, got)
            ]
        behind = [
            f"{name} has not read all of the topic"
            for name in ("follows", "listens")
            if self._topics and LAST not in (self.notes / name).read_text()
        ]
        return waiting + behind

    @staticmethod
    def _is_noted(path: Path, notes: str) -> bool:
        """Whether a claimed message was noted, or is a notice, or was acknowledged this moment."""
        try:
            message = Message(path.read_bytes())
        except FileNotFoundError:
            return True
        return bool(message.type) or f" {message.id} {message.attempt} " in notes

    def _see_what_is_left(self) -> None:
        for box in self._boxes:
            base = box.removesuffix("/inbox")
            for folder in (f"{box}/new", f"{box}/cur", f"{base}/dead"):
                for path in (self.tree / folder).iterdir():
                    with contextlib.suppress(FileNotFoundError):  # it was taken this moment
                        message = Message(path.read_bytes())
                        if not message.type:
                            self.report.history.left.append((message.id, message.text.strip()))

    def _read_notes(self) -> None:
        for program in self.programs:
            lines = (self.notes / program.name).read_text().splitlines()
            self._note(program.name, [line.split() for line in lines])
        self.report.history.tried.add(LAST)

    def _note(self, name: str, lines: list[list[str]]) -> None:
        history = self.report.history
        for word, time_, *more in lines:
            match word, more:
                case "try", [payload]:
                    history.tried.add(payload)
                    if payload.partition(":")[0] in self._topics:
                        history.published.add(payload)
                case "ok", [payload]:
                    history.accepted.add(payload)
                case "got", [number, attempt, payload]:
                    history.deliveries.append(
                        Delivery(float(time_), name, number, int(attempt), payload)
                    )
                case "ack", [number]:
                    history.acknowledged.setdefault(number, float(time_))
                case "life", [since]:
                    history.lives.append(Life(self._topics[0], int(since)))
                case "sub", [seq, payload]:
                    history.lives[-1].records.append((int(seq), payload))
                case "lost", [seq, count]:
                    history.lives[-1].records.append((int(seq), int(count)))


ENDED = ("zombie\n", "dead\n")
