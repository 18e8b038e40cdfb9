"""What happened, and what must hold of it. Knows nothing of trees: it reads lists of events.

Producers note `try` before they send and `ok` when the call has returned, and `dropped` before they
write what nobody will live to close; consumers note `got`
before they acknowledge and `ack` when that is certain; subscribers note what they read. A program
that is killed leaves a note out at most, so everything noted is true, and what is not noted is
unknown.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Delivery", "History", "Life", "Spending", "check"]

SLACK = 0.05
"""Seconds by which the clocks of two notes may differ: a shell reads /proc/uptime, which has
hundredths. Between a call's return and its note a program may stand still for any time; so when a
message came is known from two sides only, see `Delivery`."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A consumer got a message, some time between `asked`, when it began to ask, and `time`, when
    it noted it. Without `asked` it was exactly then."""

    time: float
    consumer: str
    id: str
    attempt: int
    payload: str
    asked: float | None = None

    @property
    def earliest(self) -> float:
        return self.time if self.asked is None else self.asked


@dataclass(slots=True)
class Life:
    """One subscriber from its start to its end. `records` are (seq, payload), or (seq, count) for
    `count` lost ones up to `seq`."""

    topic: str
    since: int
    records: list[tuple[int, str | int]] = field(default_factory=list)


@dataclass(slots=True)
class Spending:
    """One spender: how often it asked, how often it was told that nothing is left; which calls were
    let through, which of them are certainly settled, which certainly cancelled; and what the kernel
    says that it was given, has consumed, and holds for calls that are open."""

    name: str
    asked: int = 0
    full: int = 0
    held: list[str] = field(default_factory=list)
    spent: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    allocated: int = 0
    consumed: int = 0
    reserved: int = 0


@dataclass(slots=True)
class History:
    """Everything that was noted. A payload is `CHANNEL:WORDS` and is sent once only."""

    tried: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    published: set[str] = field(default_factory=set)  # those of `tried` that went to topics
    dropped: set[str] = field(default_factory=set)  # whose writer was killed before it closed
    halves: set[str] = field(default_factory=set)  # whose opener ends well, and another writes on
    deliveries: list[Delivery] = field(default_factory=list)
    acknowledged: dict[str, float] = field(default_factory=dict)  # id -> when it was certain
    endings: set[tuple[str, str, int]] = field(default_factory=set)  # (who, id, attempt) that did
    left: list[tuple[str, str]] = field(default_factory=list)  # (id, payload) that wait or are dead
    lives: list[Life] = field(default_factory=list)
    spendings: list[Spending] = field(default_factory=list)

    @property
    def duplicates(self) -> int:
        """How many deliveries were not the first of their message."""
        return len(self.deliveries) - len({delivery.id for delivery in self.deliveries})


def check(history: History) -> list[str]:
    """Everything that is wrong, in words; empty if all holds."""
    return [
        *_messages(history),
        *_acknowledged(history),
        *_topics(history),
        *_budgets(history),
    ]


def _messages(history: History) -> Iterator[str]:
    """Every accepted message was delivered or is still there, as one message, unchanged."""
    found = [(each.id, each.payload) for each in history.deliveries] + history.left
    ids: dict[str, set[str]] = defaultdict(set)
    payloads: dict[str, set[str]] = defaultdict(set)
    for number, payload in found:
        ids[payload].add(number)
        payloads[number].add(payload)
    for payload in sorted(history.accepted - history.published - ids.keys()):
        yield f"lost: {payload} was accepted, and is nowhere"
    for payload, numbers in sorted(ids.items()):
        if payload in history.dropped:
            yield f"kept: {payload} is there, and a signal ended whoever wrote it"
        elif payload in history.halves:
            if any(whole.startswith(payload) for whole in history.accepted):
                yield f"cut: {payload} is there, and more of it was accepted"
        elif payload not in history.tried:
            yield f"invented: {payload} was never sent"
        if len(numbers) > 1:
            yield f"twice: {payload} is in the messages {' and '.join(sorted(numbers))}"
    for number, several in sorted(payloads.items()):
        if len(several) > 1:
            yield f"changed: message {number} has been {' and '.join(sorted(several))}"
    by_id: dict[str, list[Delivery]] = defaultdict(list)
    for delivery in history.deliveries:
        by_id[delivery.id].append(delivery)
    for number, deliveries in sorted(by_id.items()):
        deliveries.sort(key=lambda delivery: delivery.attempt)
        for before, after in itertools.pairwise(deliveries):
            if before.attempt == after.attempt:
                yield (
                    f"unmarked: {number} came to {before.consumer} and to {after.consumer},"
                    f" both as attempt {after.attempt}"
                )
            elif after.time < before.earliest - SLACK:
                yield (
                    f"backwards: attempt {after.attempt} of {number} came before the one before:"
                    f" {_told(after)}, {_told(before)}"
                )


def _told(delivery: Delivery) -> str:
    """Who got it when, so that a violation can be followed in the notes."""
    return (
        f"{delivery.consumer} asked at {delivery.earliest:.3f} and got attempt"
        f" {delivery.attempt} by {delivery.time:.3f}"
    )


def _acknowledged(history: History) -> Iterator[str]:
    """What is acknowledged for certain does not come back."""
    for delivery in history.deliveries:
        when = history.acknowledged.get(delivery.id)
        if when is not None and delivery.earliest > when + SLACK:
            yield (
                f"back: {delivery.id} came to {delivery.consumer} after it was acknowledged at"
                f" {when:.3f}: {_told(delivery)}"
            )
    for number, _ in history.left:
        if number in history.acknowledged:
            yield f"back: {number} is still there after it was acknowledged"


def _topics(history: History) -> Iterator[str]:
    """Every subscriber sees every record from where it began, once, in order; or is told."""
    seen: dict[str, dict[int, str]] = defaultdict(dict)
    missed: dict[str, set[int]] = defaultdict(set)
    for life in history.lives:
        expected = life.since + 1
        for seq, what in life.records:
            first = seq - what + 1 if isinstance(what, int) else seq
            if first > expected:
                yield f"gap: {life.topic} went from {expected - 1} to {first}, and nothing was lost"
            elif first < expected:
                yield f"again: {life.topic} gave {first} to one that had {expected - 1}"
            expected = seq + 1
            if isinstance(what, int):
                missed[life.topic].update(range(first, seq + 1))
                continue
            if seen[life.topic].setdefault(seq, what) != what:
                yield f"changed: {life.topic} has {what} and {seen[life.topic][seq]} as {seq}"
    for topic, records in sorted(seen.items()):
        for payload, count in sorted(Counter(records.values()).items()):
            if count > 1:
                yield f"twice: {payload} is in {topic} {count} times"
            if payload not in history.tried:
                yield f"invented: {payload} was never published"
        arrived = set(records.values())
        gone = {
            payload
            for payload in (history.accepted & history.published) - arrived
            if payload.startswith(f"{topic}:")
        }
        if len(gone) > len(missed[topic] - records.keys()):
            yield f"lost: {topic} has not {', '.join(sorted(gone))}, and nobody was told"


ASIDE, USED = 10, 7  # what a spender sets aside for a call, and what it uses of that


def _budgets(history: History) -> Iterator[str]:
    """Every settled call is counted once, none of the cancelled, and never more than was given."""
    for number, count in Counter(
        call for spending in history.spendings for call in spending.held
    ).items():
        if count > 1:
            yield f"twice: call {number} was given out {count} times"
    for each in history.spendings:
        certain = USED * len(each.spent)
        unclear = len(set(each.held) - each.spent - each.cancelled)
        unclear += each.asked - each.full - len(each.held)  # those that died before they knew
        most = certain + ASIDE * unclear
        total = each.consumed + each.reserved
        if each.consumed < certain:
            yield f"lost: {each.name} has spent {certain}, and {each.consumed} are counted"
        if total > most:
            yield f"invented: {each.name} can have spent {most}, and {total} are counted"
        if total > each.allocated:
            yield f"overdrawn: {each.name} was given {each.allocated}, and {total} are counted"
