"""Names with wildcards, compared by what they mean: `*` stands for any text, also for none."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Effort", "TooMuchError", "covers", "matches", "meet", "reduced"]

# No name has this character: a wildcard that can stand for it can stand for everything.
ANYTHING = "\0"


def matches(glob: str, name: str) -> bool:
    """Whether the whole of `name` matches `glob`. It is never slow: no wildcard is tried twice."""
    head, *parts = glob.split("*")
    if not parts:
        return glob == name
    if not name.startswith(head):
        return False
    at = len(head)
    for part in parts[:-1]:
        at = name.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return len(name) - at >= len(parts[-1]) and name.endswith(parts[-1])


def covers(wide: str, narrow: str) -> bool:
    """Whether every name that `narrow` means is one that `wide` means."""
    return matches(wide, narrow.replace("*", ANYTHING))


def reduced(globs: Iterable[str]) -> list[str]:
    """The fewest of `globs` that mean the same together, sorted."""
    kept: list[str] = []
    for glob in sorted(set(globs), key=lambda glob: (-glob.count("*"), len(glob), glob)):
        if not any(covers(wide, glob) for wide in kept):
            kept = [each for each in kept if not covers(glob, each)] + [glob]
    return sorted(kept)


class TooMuchError(Exception):
    """What two globs have in common would take too many globs, or too much work."""


class Effort:
    """How much work is left: `steps`, of about a microsecond. Raises TooMuchError when none is."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise TooMuchError


def meet(one: str, two: str, effort: Effort) -> list[str]:
    """The fewest globs for the names that match both; [] if there are none.

    Their number grows with every wildcard. Raises TooMuchError.
    """
    effort.spend(1)
    if covers(one, two):
        return [two]
    if covers(two, one):
        return [one]
    if "*" not in one or "*" not in two:
        return []
    return reduced(_Meeting(one, two, effort).of(0, 0))


class _Meeting:
    """Works out what two globs have in common, at each step for the rest of one and the rest of the
    other."""

    def __init__(self, one: str, two: str, effort: Effort) -> None:
        self._one = re.sub(r"\*+", "*", one)
        self._two = re.sub(r"\*+", "*", two)
        self._effort = effort
        self._known: dict[tuple[int, int], frozenset[str]] = {}

    def of(self, i: int, j: int) -> frozenset[str]:
        """What the first has from `i` on in common with the second from `j` on."""
        found = self._known.get((i, j))
        if found is None:
            found = self._known[i, j] = frozenset(self._work_out(i, j))
            self._effort.spend(1 + len(found))
        return found

    def _work_out(self, i: int, j: int) -> Iterable[str]:
        one, two = self._one[i : i + 1], self._two[j : j + 1]
        if one == two == "*":
            # Whichever wildcard stands for less ends first; the other goes on.
            both = self.of(i + 1, j) | self.of(i, j + 1)
            return {"*" + rest.removeprefix("*") for rest in both}
        if one == "*":
            return self.of(i + 1, j) | {two + rest for rest in self._eaten(i, j + 1, two)}
        if two == "*":
            return self.of(i, j + 1) | {one + rest for rest in self._eaten(i + 1, j, one)}
        if one != two:
            return ()
        return {one + rest for rest in self.of(i + 1, j + 1)} if one else {""}

    def _eaten(self, i: int, j: int, character: str) -> frozenset[str]:
        return self.of(i, j) if character else frozenset()
