"""One agent does everything that holds others up, in eight processes at once; another one goes on
with its work, and the operator ends the first.

How long the neighbour's calls take is measured when it is alone, beside eight processes that keep
the processors as busy and make no call, and beside the attack: what is worse between the first two
is Linux's own doing, who has two processors for nine programs.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.puppet import Puppet
from tests.tree import Tree, eventually

__all__ = ["CALLS", "KILL_SECONDS", "TIMES", "Neighbour", "Report"]

PROGRAM = (Path(__file__).parent / "programs/rogue.py").read_text()

CALLS = ("send", "receive", "stat")

TIMES = 5.0
"""How much longer a neighbour's call may take than without the attack, at the 99th percentile."""

KILL_SECONDS = 1.0

WORK = """
import json, os, time

def once(found, name, call):
    begin = time.monotonic()
    try:
        call()
    except OSError:
        found['refused'].append(f"{name}: {read('proc/self/error').strip()}")
    else:
        found[name].append(time.monotonic() - begin)

def send():
    write('agents/self/send', f'To: {os.environ["AGENT_NAME"]}\\n\\n{time.monotonic_ns()}')

def work(seconds, least):
    found = {'send': [], 'receive': [], 'stat': [], 'refused': []}
    got, mine = [], f'From: {os.environ["AGENT_NAME"]}'
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(found['stat']) < least:
        once(found, 'send', send)
        once(found, 'receive', lambda: got.append(read('agents/self/recv')))
        while got and mine not in got.pop():  # those of the attacker come in between
            got.append(read('agents/self/recv'))
        once(found, 'stat', lambda: os.stat(tree + '/proc/self/state'))
        time.sleep(0.005)
    return found
"""


def percentile(times: list[float], part: float) -> float:
    """In seconds; infinite if there is none."""
    ordered = sorted(times) or [float("inf")]
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


@dataclass
class Report:
    """What was measured, in seconds. `kill`: from the operator's write to the end of all that the
    rogue had started."""

    alone: dict[str, list[float]] = field(default_factory=dict)
    busy: dict[str, list[float]] = field(default_factory=dict)
    attacked: dict[str, list[float]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    kill: float = 0.0
    held: list[str] = field(default_factory=list)

    def p99(self, call: str) -> tuple[float, float, float]:
        """Alone, beside busy programs, and attacked."""
        alone, busy, attacked = (
            percentile(times[call], 0.99) for times in (self.alone, self.busy, self.attacked)
        )
        return alone, busy, attacked

    @property
    def faults(self) -> list[str]:
        """What is above the targets."""
        found = []
        for call in CALLS:
            alone, busy, attacked = self.p99(call)
            if attacked > TIMES * max(alone, busy):
                times = attacked / max(alone, busy)
                found.append(f"{call} takes {times:.1f} times as long, {TIMES:g} is the target")
        if self.kill > KILL_SECONDS:
            found.append(f"KILL took {self.kill:.2f} s, {KILL_SECONDS:g} is the target")
        found += [f"refused {count} times: {what}" for what, count in self._refused()]
        return found + self.held

    def _refused(self) -> list[tuple[str, int]]:
        return Counter(self.refused).most_common(5)

    def __str__(self) -> str:
        lines = ["p99 in ms   alone   beside busy programs   attacked   times alone, beside busy"]
        for call in CALLS:
            alone, busy, attacked = (1000 * seconds for seconds in self.p99(call))
            lines.append(
                f"{call:10}{alone:7.2f}{busy:23.2f}{attacked:11.2f}"
                f"{attacked / alone:12.1f}{attacked / busy:14.1f}"
            )
        lines.append(f"KILL of the attacker: {self.kill:.3f} s")
        return "\n".join(lines)


class Neighbour:
    """Works in a tree, in which others are started."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.report = Report()

    def run(self, seconds: float, *, idle: float | None = None, least: int = 20) -> Report:
        """Work `idle` seconds alone, as long beside busy programs, and `seconds` beside an attack;
        `least` rounds of calls each time."""
        idle = seconds / 4 if idle is None else idle
        report = self.report
        limits = {"messages_per_minute": "max"}
        with closing(Puppet(self._tree, "victim", limits=limits)) as victim:
            victim.do(f"exec({WORK!r}, globals())")
            victim.do("work(0.2, 1)")
            report.alone = self._work(victim, idle, least)
            pid = self._start("spin")
            report.busy = self._work(victim, idle, least)
            self._kill(pid)
            pid = self._start("attack")
            report.attacked = self._work(victim, seconds, least)
            report.kill = self._kill(pid)
            self._work(victim, 0.0, 1)
        report.held = [f"held for 100 ms: {line}" for line in self._tree.holds(0.1)]
        return report

    def _work(self, victim: Puppet, seconds: float, least: int) -> dict[str, list[float]]:
        found: dict[str, Any] = victim.do(f"work({seconds}, {least})")
        self.report.refused += found.pop("refused")
        return found

    def _start(self, what: str) -> int:
        tree = self._tree
        given = json.dumps({"what": what, "state": str(tree.state)})
        exec_ = [sys.executable, "-c", PROGRAM, given]
        pid = tree.spawn(f"rogue-{what}", exec=exec_, restart="never")
        eventually((tree.state / f"agents/rogue-{what}/memory/ready").exists)
        return pid

    def _kill(self, pid: int) -> float:
        """End it; the seconds until nothing is left of it."""
        ospid = int(self._tree.read(f"proc/{pid}/ospid"))
        family = [ospid, *_children(ospid)]
        began = time.monotonic()
        self._tree.write(f"proc/{pid}/ctl", "KILL")
        eventually(lambda: not any(map(_runs, family)))
        return time.monotonic() - began


def _children(ospid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{ospid}/task/{ospid}/children").read_text().split()]


def _runs(ospid: int) -> bool:
    try:
        state = Path(f"/proc/{ospid}/status").read_text().partition("State:\t")[2]
    except OSError:
        return False
    return state[0] not in "ZX"
