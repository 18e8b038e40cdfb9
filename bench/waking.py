"""How soon one who waits for a message has it, what watchers see at a thousand changes a second,
and what it costs to tell them. Part of the side `messages`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from inotify_simple import INotify, masks

from bench.alternatives.crew import Couple, Crew
from bench.alternatives.servers import Redis
from bench.alternatives.ways import FLOOR, Empty, floor, mail, stream
from bench.announced import EVERY, all_announced, by_mask, figure
from bench.setting import Setting, Tree
from bench.table import AT_LEAST, Row, beside, median, percentile

__all__ = ["Delay", "announcing", "delay", "wakes", "watching"]

ROUNDS = 5
LATENCIES = 100
"""Messages whose way is timed in a round."""
APART, SOON = 0.01, 0.001
"""Seconds between two, in which the receiver waits again: after ten milliseconds all code is in no
cache of the processor, and after one most of it is."""
CHANGES = 3000
"""Changes that a watcher is to see."""
ANNOUNCED = 1000
"""Messages of a round that are announced, or not."""

PARKED, REDIS = "parked read", "blocking XREADGROUP"
READERS = {
    PARKED: ("ours", "RecvReceiver"),
    "poll": ("ours", "PollReceiver"),
    "inotify": ("ours", "Watcher"),
    "agentfs.agent": ("client", "AgentReceiver"),
}

OTHERS = READERS.keys() - {PARKED}


@dataclass(frozen=True, slots=True)
class Delay:
    """The µs until the receiver had a message: median and 99th percentile."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Timing:
    """When each message was sent, when that call returned, and when its receiver had it, in ns."""

    calls: list[int]
    returns: list[int]
    wakes: list[int]

    @property
    def rate(self) -> float:
        """Messages that were sent a second."""
        return (len(self.calls) - 1) * 1e9 / (self.calls[-1] - self.calls[0])

    def since(self, moments: list[int]) -> Delay:
        return delay(moments, self.wakes)


def delay(moments: list[int], wakes: list[int]) -> Delay:
    """From each moment to the wake of the same number (ns)."""
    took = [(wake - moment) / 1e3 for moment, wake in zip(moments, wakes, strict=True)]
    return Delay(percentile(took, 0.5), percentile(took, 0.99))


def wakes(
    setting: Setting, hired: Crew, tree: Tree, empty: Empty, everysec: Redis | None
) -> Iterator[Row]:
    """Everything of this module."""
    yield from latencies(setting, hired, tree, empty, everysec)
    yield from watching(setting, hired, tree)
    yield from by_mask(setting, hired, tree)
    yield from announcing(setting, hired, tree)


def latencies(
    setting: Setting, hired: Crew, tree: Tree, empty: Empty, everysec: Redis | None
) -> Iterator[Row]:
    """From one who sends to one who waits, by each way to wait, beside a blocking XREADGROUP (where
    there is a Redis) and a read of the empty mail.

    Counted from the sender's call: a receiver may have the message before the sender's call has
    returned (then the time since the return is below zero), and of such times there is no ratio.
    """
    ways = [floor(empty)]
    if everysec is not None:
        ways.append(stream(REDIS, everysec, key="wake"))
    ways += [mail(name, tree, receiver=(*end, {})) for name, end in READERS.items()]
    couples = hired.couples([(way, f"wake-{number}") for number, way in enumerate(ways)])
    all_of_them = dict(zip((way.name for way in ways), couples, strict=True))
    rested = _in_turns(setting, all_of_them, APART)
    soon = _in_turns(
        setting, {name: all_of_them[name] for name in all_of_them if name not in OTHERS}, SOON
    )
    if everysec is not None:
        for name in READERS:
            yield from _wake(
                f"wake by {name}", rested, name, REDIS, 1.5 if name == PARKED else None
            )
        yield from _wake(f"wake by {PARKED}, every 1 ms", soon, PARKED, REDIS)
    yield from _wake(f"wake by {PARKED}", rested, PARKED, FLOOR)
    yield from _wake(f"wake by {PARKED}, every 1 ms", soon, PARKED, FLOOR)


def _in_turns(
    setting: Setting, couples: Mapping[str, Couple], apart: float
) -> dict[str, list[Timing]]:
    """What each way came to in each round. One round more, to warm up."""
    timings: dict[str, list[Timing]] = {name: [] for name in couples}
    for warm in (False, *[True] * setting.size(ROUNDS, 1)):
        for name, couple in couples.items():
            timing = _timed(couple, setting.size(LATENCIES, 10), apart)
            if warm:
                timings[name].append(timing)
    return timings


def _wake(
    what: str,
    timings: Mapping[str, list[Timing]],
    name: str,
    other: str,
    target: float | None = None,
) -> Iterator[Row]:
    """The medians of what the rounds came to; the target is of the p50."""
    for share, wanted in (("p50", target), ("p99", None)):
        ours, theirs = (
            [getattr(timing.since(timing.calls), share) for timing in timings[way]]
            for way in (name, other)
        )
        returned, returned_theirs = (
            median([getattr(timing.since(timing.returns), share) for timing in timings[way]])
            for way in (name, other)
        )
        yield beside(
            "messages",
            f"{what}, {share}",
            ours,
            "µs",
            other,
            theirs,
            wanted,
            counts={"µs after send returned": returned, "µs theirs": returned_theirs},
        )


def _timed(couple: Couple, count: int, interval: float) -> Timing:
    couple.receiver.tell("notice", count=count)
    time.sleep(0.05)  # it waits now
    couple.sender.tell("pace", count=count, interval=interval)
    sent = couple.sender.hear()
    return Timing(sent["calls"], sent["returns"], couple.receiver.hear()["wakes"])


def watching(setting: Setting, hired: Crew, tree: Tree) -> Iterator[Row]:
    """A watcher of `inbox/new` at a thousand messages a second."""
    way = mail("watching", tree, receiver=("ours", "Watcher", {}))
    (couple,) = hired.couples([(way, "watching")])
    count = setting.size(CHANGES, 50)
    timings = []
    for changes in (10, *[count] * setting.size(3, 1)):
        timings.append(_timed(couple, changes, EVERY))
        all_announced(tree)  # also that the mail was taken: the next round begins with nothing
    lost = sum(len(timing.calls) - len(timing.wakes) for timing in timings)
    yield Row("messages", "inotify, 1,000 changes/s: lost", lost, "events", target=0)
    whole = [timing for timing in timings[1:] if len(timing.wakes) == count]
    if not whole:
        return
    best = min(whole, key=lambda timing: timing.since(timing.calls).p99)
    found = best.since(best.calls)
    for share, target in (("p50", None), ("p99", 2000.0)):
        yield Row(
            "messages",
            f"inotify, 1,000 changes/s: {share}",
            getattr(found, share),
            "µs",
            target=target,
            counts={"changes/s that the sender came to": best.rate},
            note="from the sender's call to the watcher's event",
        )


def announcing(setting: Setting, hired: Crew, tree: Tree) -> Iterator[Row]:
    """Mail to an inbox that Linux was never told of, so that nothing is announced, to one that
    somebody has open but nobody watches, and to one whose every event somebody watches."""
    quiet, known, told = (mail(name, tree) for name in ("not announced", "known", "watched"))
    ways = (quiet, known, told)
    couples = hired.couples([(quiet, "quiet"), (known, "known"), (told, "told")])
    messages = setting.size(ANNOUNCED, 20)
    rates: dict[str, list[float]] = {way.name: [] for way in ways}
    made = dict.fromkeys(rates, 0.0)
    rounds = setting.size(ROUNDS, 1)
    with ExitStack() as opened:
        watcher = opened.enter_context(INotify())
        for folder in ("new", "cur"):
            # Open, so that Linux does not forget it.
            looked = os.open(tree / f"agents/known-to/inbox/{folder}", os.O_RDONLY)
            opened.callback(os.close, looked)
            watcher.add_watch(str(tree / f"agents/told-to/inbox/{folder}"), masks.ALL_EVENTS)
        for warm in (False, *[True] * rounds):
            for way, couple in zip(ways, couples, strict=True):
                before = figure(tree, "announced_total")
                rate = _until_announced(tree, couple, messages)
                announced = figure(tree, "announced_total") - before
                while watcher.read(timeout=0):
                    pass
                if warm:
                    rates[way.name].append(rate)
                    made[way.name] += announced / messages / rounds
    for way, what, target in (
        (known, "1 to 1, Linux knows the inbox and nobody watches", 0.7),
        (told, "1 to 1, all is announced to a watcher", None),
    ):
        yield beside(
            "messages",
            what,
            rates[way.name],
            "/s",
            quiet.name,
            rates[quiet.name],
            target,
            AT_LEAST,
            counts={"announcements a message": made[way.name], "beside": made[quiet.name]},
            note="until the last change was announced",
        )


def _until_announced(tree: Tree, couple: Couple, messages: int) -> float:
    """Messages a second, counted until nothing is left to announce."""
    started = time.perf_counter()
    couple.receiver.tell("drain")
    couple.sender.tell("fill", count=messages)
    couple.sender.hear()
    couple.receiver.hear()
    all_announced(tree)
    return messages / (time.perf_counter() - started)
