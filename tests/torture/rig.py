"""The rig: a real mount, real programs, and somebody who does them every harm there is."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from agentfs.agent import Message
from tests.torture.aftermath import faults_of
from tests.torture.cast import Cast, Program
from tests.torture.hazards import Hazards
from tests.torture.ledger import Ledger
from tests.torture.model import Delivery, History, Life, Spending, check

__all__ = ["Report", "torture"]

CONFIG = """
processes:
  restart_backoff: 20ms
  restart_backoff_max: 20ms
  restart_attempts: 1000000
topics: {max_records: 500}
messages: {max_waiting: 300}
audit: {max_records: 20000000}
"""
"""What is killed is started again at once, and as often as it is killed; a subscriber that is away
loses something now and then, and is to be told. No more waits than the slowest consumer gets
through at the end. The audit keeps the whole life of each message."""

PAUSE = (0.02, 0.3)  # seconds between two hazards
DRAIN = 60.0  # seconds in which everything must have been delivered once nothing happens any more
LAST = "the-last"  # published when everything else was


@dataclass(slots=True)
class Report:
    """What came out."""

    history: History
    hazards: Counter[str] = field(default_factory=Counter)
    most_open: int = 0
    faults: list[str] = field(default_factory=list)  # of the store, after a crash or at the end
    undrained: list[str] = field(default_factory=list)
    seconds: float = 0.0
    kept: Path | None = None
    """Where the notes and the store are, if there are violations."""

    @property
    def violations(self) -> list[str]:
        return [*check(self.history), *self.faults, *self.undrained]

    def __str__(self) -> str:
        history = self.history
        topics = sum(len(life.records) for life in history.lives)
        spent = sum(each.consumed for each in history.spendings)
        hazards = ", ".join(f"{what} {count}" for what, count in sorted(self.hazards.items()))
        return (
            f"{len(history.accepted)} messages accepted of {len(history.tried)} tried,"
            f" {len(history.deliveries)} deliveries ({history.duplicates} not the first),"
            f" {topics} records read from topics, {len(history.left)} left, {spent} tokens spent;"
            f" hazards: {hazards or 'none'}; {self.most_open} files open at once;"
            f" {self.seconds:.0f} s"
        )


def torture(folder: Path, seconds: float, messages: int, seed: int) -> Report:
    """Let `messages` flow, do harm for at most `seconds`, wait until everything has arrived, and
    say what happened. `folder` is the torture's own.

    The seed decides which programs there are, what happens in which order and after what pause,
    where daemons fall, and which handlers fail. Which instruction a kill from outside hits is the
    machine's affair.
    """
    rig = _Rig(folder, messages, random.Random(seed))
    try:
        report = rig.run(seconds)
        if report.violations:
            report.kept = rig.keep()
        return report
    finally:
        rig.hazards.close()


class _Rig:
    def __init__(self, folder: Path, messages: int, chance: random.Random) -> None:
        self._chance = chance
        self._folder = folder
        self._notes = folder / "notes"
        self._notes.mkdir(parents=True)
        self._stop = folder / "stop"
        self.hazards = Hazards(folder, chance)
        self._tree = self.hazards.tree
        self._cast = Cast(self._tree, self._notes, self._stop, chance)
        self._messages = messages
        self._report = Report(History())

    def run(self, seconds: float) -> Report:
        began = time.monotonic()
        self.hazards.mount(armed=False)
        self._tree.write("etc/agentfs.yaml", CONFIG)
        self._cast.enter(self._messages)
        self.hazards.cast = self._cast
        while time.monotonic() < began + seconds and self._producing():
            time.sleep(self._chance.uniform(*PAUSE))
            self.hazards.see()
            self.hazards.strike()
        self._stop.touch()
        self.hazards.cease()
        self._drain()
        self._see_what_is_left()
        self._tree.unmount()
        self._report.faults = self.hazards.faults + faults_of(self._tree.state)
        self._report.hazards = self.hazards.counts
        self._report.most_open = self.hazards.most_open
        self._read_notes()
        self._report.faults += self._compare_with_the_audit()
        self._report.seconds = time.monotonic() - began
        return self._report

    def keep(self) -> Path:
        """Copy what a violation is explained by from the small disk, which is about to go, to
        beside the notes."""
        kept = self._folder / "kept"
        kept.mkdir()
        for pattern in ("store.*", "audit.*", "kernel.log*"):
            for path in self._tree.state.glob(pattern):
                shutil.copy(path, kept)
        return self._folder

    def _producing(self) -> bool:
        """Whether somebody still sends; while the daemon is away, yes."""
        for program in self._cast.of("producer"):
            try:
                if self._tree.read(f"proc/{program.pid}/state") not in ENDED:
                    return True
            except FileNotFoundError:
                continue  # it ended so long ago that it is forgotten
            except OSError:
                return True
        return False

    # -- the end -----------------------------------------------------------------------------------

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN
        while self._producing() and time.monotonic() < deadline:
            time.sleep(0.02)
        for topic in self._cast.topics:
            self._tree.write(f"dev/topics/{topic}", LAST)
        while time.monotonic() < deadline:
            self._report.undrained = self._undrained()
            if not self._report.undrained:
                return
            time.sleep(0.05)

    def _undrained(self) -> list[str]:
        boxes = self._cast.boxes
        waiting = [
            f"{box}/new/{name}" for box in boxes for name in os.listdir(self._tree / box / "new")
        ]
        if not waiting:  # what a loop over recv got last stays claimed: it has asked for no more
            got = "".join((self._notes / each.name).read_text() for each in self._consumers())
            waiting = [
                str(path)
                for box in boxes
                for path in (self._tree / box / "cur").iterdir()
                if not self._is_noted(path, got)
            ]
        behind = [
            f"{name} has not read all of the topic"
            for name in ("follows", "listens")
            if LAST not in (self._notes / name).read_text()
        ]
        return waiting + behind

    def _consumers(self) -> list[Program]:
        return self._cast.of("consumer")

    @staticmethod
    def _is_noted(path: Path, notes: str) -> bool:
        """Whether a claimed message was noted, or is a notice, or was acknowledged this moment."""
        try:
            message = Message(path.read_bytes())
        except FileNotFoundError:
            return True
        return bool(message.type) or f" {message.id} {message.attempt} " in notes

    def _see_what_is_left(self) -> None:
        history = self._report.history
        for program in [*self._consumers(), *self._cast.of("spender")]:
            self._tree.write(f"proc/{program.pid}/ctl", "STOP\n")  # or things still move
        for box in self._cast.boxes:
            base = box.removesuffix("/inbox")
            for folder in (f"{box}/new", f"{box}/cur", f"{base}/dead"):
                for path in (self._tree / folder).iterdir():
                    with contextlib.suppress(FileNotFoundError):  # it was taken this moment
                        message = Message(path.read_bytes())
                        if not message.type:
                            history.left.append((message.id, message.text.strip()))
        for spender in self._cast.of("spender"):
            budget = f"proc/{spender.pid}/budget/operational"
            allocated, consumed, reserved = (
                int(self._tree.read(f"{budget}/{part}"))
                for part in ("allocated", "consumed", "reserved")
            )
            history.spendings.append(
                Spending(spender.name, allocated=allocated, consumed=consumed, reserved=reserved)
            )

    # -- the history -------------------------------------------------------------------------------

    def _read_notes(self) -> None:
        for program in self._cast:
            lines = (self._notes / program.name).read_text().splitlines()
            words = [line.split() for line in lines]
            if program.role == "spender":
                self._note_spending(program.name, words)
            else:
                self._note(program.name, words)
        self._report.history.tried.add(LAST)

    def _compare_with_the_audit(self) -> list[str]:
        ledger = Ledger({program.pid: program.name for program in self._cast})
        ledger.read(self._tree.state / "store.db")
        return list(ledger.compare(self._report.history))

    def _note_spending(self, name: str, lines: list[list[str]]) -> None:
        spending = next(each for each in self._report.history.spendings if each.name == name)
        for word, _, *more in lines:
            match word, more:
                case "asked", []:
                    spending.asked += 1
                case "full", []:
                    spending.full += 1
                case "held", [call]:
                    spending.held.append(call)
                case "spent", [call]:
                    spending.spent.add(call)
                case "cancelled", [call]:
                    spending.cancelled.add(call)

    def _note(self, name: str, lines: list[list[str]]) -> None:
        history, topics = self._report.history, self._cast.topics
        attempts: dict[str, int] = {}  # of each message, as this program got it last
        for word, time_, *more in lines:
            match word, more:
                case "try", [payload]:
                    history.tried.add(payload)
                    if payload.partition(":")[0] in topics:
                        history.published.add(payload)
                case "half", [payload]:
                    history.halves.add(payload)
                case "dropped", [payload]:
                    history.dropped.add(payload)
                case "ok", [payload]:
                    history.accepted.add(payload)
                case "got", [asked, number, attempt, payload]:
                    attempts[number] = int(attempt)
                    history.deliveries.append(
                        Delivery(float(time_), name, number, int(attempt), payload, float(asked))
                    )
                case "ack", [number]:
                    history.acknowledged.setdefault(number, float(time_))
                    if number in attempts:  # else it was a notice of the kernel
                        history.endings.add((name, number, attempts[number]))
                case "life", [since]:
                    history.lives.append(Life(topics[0], int(since)))
                case "sub", [seq, payload]:
                    history.lives[-1].records.append((int(seq), payload))
                case "lost", [seq, count]:
                    history.lives[-1].records.append((int(seq), int(count)))


ENDED = ("zombie\n", "dead\n")
