"""The soak: every agent of our documents, left alone. It was given one thing to do, and has done
it; from then on nothing may be sent, taken or done again, nothing may grow, and no event may come.

The time is the machine's first, then a clock `RATE` times as fast, by which a week takes five
minutes. Who the agents are is in `towns.py`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.hatchery import Hatchery
from tests.torture.failpoints import Panel
from tests.torture.towns import PATH, PATIENCE, TOWNS, Town
from tests.tree import eventually

__all__ = ["DAY", "RATE", "Report", "soak"]

RATE = 2000.0
SLOWLY = ((20, RATE), (29, 60.0), (30, 10.0))
"""Until which minute of the half hour the clock goes how fast. Near its end whoever is reminded has
to work, and may have its mail for five minutes: at ten times the pace that is half a real one."""
MINUTE, DAY = 60.0, 86_400.0
NOISE = {
    "memory": 4 * 2**20,  # Python takes it by arenas of 1 MiB
    "bytes of the store": 64 * 2**10,  # a few records of the audit: what was forgotten
    "descriptors": 8,  # what the foreman's calls, one a second, have in the daemon just then
    "timers": 8,
    "inodes": 64,
}
"""How much more there may be at the end than at half-time, when the maid has made some 3,000 rounds
in between and each agent has been looked after as often."""

FIRST_HOUR = {
    "process_ready": "a program that said nothing counts as ready after processes.ready_timeout",
    "process_reaped": "nobody waited for the lead of the word count and for bob, who have ended",
    "children_changed": "the same",
    "agent_changed": "the same",
}
"""Events that come by themselves after the work, within the hour, and why."""

A_DAY_LATER = {
    "sent_forgotten": "what became of a message is kept for messages.sent_retention, a day",
    "reminder_tally_changed": "reminders/stat has the deliveries of the last 24 hours",
}
"""Events that come after that, once for a message or an agent, and why. There are no others."""


@dataclass
class Report:
    """What was left alone for how long, and what happened that must not."""

    agents: int = 0
    seconds: float = 0.0
    fast: float = 0.0
    events: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        events = ", ".join(f"{kind} {count}" for kind, count in sorted(self.events.items()))
        return (
            f"{self.agents} agents left alone for {self.seconds:.0f} s, and for"
            f" {self.fast / DAY:.1f} days of a fast clock; events: {events or 'none'}"
        )


def soak(folder: Path, seconds: float, fast: float, rate: float = RATE) -> Report:
    """Leave them alone for `seconds`; then, after half an hour with reminders in it, for `fast`
    seconds in which the clock goes `rate` times as fast."""
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(seconds=seconds)
    panel = Panel(folder / "panel")
    hatchery = Hatchery("tests.torture.failpoints", PATH)
    with ExitStack() as stack:
        stack.callback(hatchery.close)
        towns: list[Town] = []
        for make in TOWNS:
            town = make(folder, hatchery, panel)
            stack.callback(town.tree.clean_up)
            towns.append(town)
            town.tree.mount()
            town.open()
        for town in towns:
            town.work()
        _quiet(towns)
        _settle(towns)
        report.agents = sum(len(town.agents()) - 1 for town in towns)
        time.sleep(seconds)
        for town in towns:
            report.faults += [*town.wrong(), *_changed(town, FIRST_HOUR)]
        _half_an_hour(towns, panel, report)
        began = [town.uptime() for town in towns]
        _turn(towns, panel, rate)
        time.sleep(fast / 2)
        half = [town.figures() for town in towns]
        time.sleep(fast / 2)
        after = [town.figures() for town in towns]
        _turn(towns, panel, 1.0)
        report.fast = min(town.uptime() - start for town, start in zip(towns, began, strict=True))
        for town, before, now in zip(towns, half, after, strict=True):
            report.events.update(str(event["type"]) for event in town.events())
            report.faults += [*_changed(town, A_DAY_LATER), *_repeated(town)]
            report.faults += _grown(town.name, before, now)
    return report


def _turn(towns: list[Town], panel: Panel, rate: float) -> None:
    panel.rate = rate
    for town in towns:
        town.uptime()  # which makes it look at the panel


def _half_an_hour(towns: list[Town], panel: Panel, report: Report) -> None:
    """That in which the reminders come, quickly until they are near, and what follows from the
    work."""
    wanted = [town.remind() for town in towns]
    begun = [town.uptime() for town in towns]  # they were not mounted at the same moment
    for minute, pace in SLOWLY:
        _turn(towns, panel, pace)
        # In each tree: by a clock that is so fast, they are minutes apart on a busy machine.
        eventually(
            lambda so_long=minute * MINUTE: all(  # type: ignore[misc]
                town.uptime() >= start + so_long for town, start in zip(towns, begun, strict=True)
            ),
            "the clock stands",
            PATIENCE,
        )
    time.sleep(1.0)  # ten seconds more
    _turn(towns, panel, 1.0)
    _quiet(towns)
    for town, events in zip(towns, wanted, strict=True):
        found = Counter(str(event["type"]) for event in town.events())
        for kind in FIRST_HOUR:
            del found[kind]
        if found != events:
            report.faults.append(f"{town.name}: events: {dict(found)}, and not {dict(events)}")
        report.faults += [*town.wrong(), *town.mail()]
        report.events += found
    _settle(towns)


def _quiet(towns: list[Town]) -> None:
    """Wait until everything is acknowledged, if it ever is, and nothing happens any more."""
    deadline = time.monotonic() + PATIENCE
    while any(town.mail() for town in towns) and time.monotonic() < deadline:
        time.sleep(0.1)
    before: list[int] = []
    while before != (before := [town.last() for town in towns]):
        time.sleep(1.0)


def _settle(towns: list[Town]) -> None:
    """The work is done: what comes from here on is looked at."""
    for town in towns:
        town.settled, town.kept = town.last(), town.keeps()


def _changed(town: Town, expected: Iterable[str] = ()) -> list[str]:
    """What has happened since it settled, and was not to."""
    faults = [
        f"{town.name}: {json.dumps(event)}"
        for event in town.events()
        if event["type"] not in expected
    ]
    kept = town.keeps()
    if kept != town.kept:
        faults.append(f"{town.name}: its agents wrote {kept}, after {town.kept}")
    return faults + town.mail()


def _repeated(town: Town) -> list[str]:
    """What came more than once: of each message, or else of each agent."""
    counts: Counter[tuple[object, ...]] = Counter()
    for event in town.events():
        of = event.get("ids", [""])
        assert isinstance(of, list)
        counts.update((event["type"], event["agent"], each) for each in of)
    return [f"{town.name}: {what} {count} times" for what, count in counts.items() if count > 1]


def _grown(name: str, before: dict[str, int], after: dict[str, int]) -> list[str]:
    return [
        f"{name}: {what}: {before[what]} at half-time, then {count}"
        for what, count in after.items()
        if count > before[what] + NOISE.get(what, 0)
    ]
