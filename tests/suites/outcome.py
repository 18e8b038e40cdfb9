"""What a check of a suite came to on one side, and what that says of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

__all__ = ["BASELINES", "DEVICES", "FAILED", "FALLOCATE", "KNOWN", "Check", "Outcome", "alone"]

BASELINES = ("tmpfs", "ext4")

FAILED = "failed"
"""The kind of a fault where a suite knows one kind only."""


KNOWN = "docs/mount.md"
"""How a kind of fault ends that this page gives the reason of: it is told, and is no failure."""

DEVICES = f"with device files, which are refused on purpose: {KNOWN}"
FALLOCATE = f"of fallocate, which the library does instead of us: {KNOWN}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`figure` is what is printed: a rate, seconds, or `skipped`; `faults` counts what failed, by
    kind; `words` is why it was skipped or failed."""

    figure: str
    faults: Counter[str] = field(default_factory=Counter)
    words: str = ""

    @classmethod
    def skipped(cls, words: str) -> Outcome:
        return cls("skipped", words=words)

    @classmethod
    def failed(cls, words: str) -> Outcome:
        return cls(FAILED, Counter([FAILED]), words)


class Check(NamedTuple):
    """One row: `run` does it in a directory of one side. A `private` check has other users, and
    memory/ is private to its agent's."""

    name: str
    run: Callable[[Path], Outcome]
    private: bool = False


def alone(outcomes: dict[str, Outcome]) -> Iterator[tuple[str, str]]:
    """(side, words) of each kind of fault on ours that is on no baseline."""
    known: Counter[str] = Counter()
    for side in BASELINES:
        if side in outcomes:
            known |= outcomes[side].faults
    for side, outcome in outcomes.items():
        if side not in BASELINES:
            for kind, count in (outcome.faults - known).items():
                what = outcome.words if kind == FAILED else f"{count:,} {kind}"
                yield side, what
