"""The tally of a broadcast: the ends of its copies, counted in the one message that the sender
sees."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["EVERYBODY", "GROUP", "OUTCOMES", "still_waiting"]

EVERYBODY = "*"
"""The receiver of a broadcast, and the mailbox in which it is kept."""

GROUP = "@"
"""Before the name of a group it is the receiver of a broadcast to its members."""

OUTCOMES = ("done", "dead", "expired", "removed")
"""How a copy ends; `removed`: its agent was, before it took the copy."""


def still_waiting(tally: Mapping[str, int]) -> int:
    """How many copies wait or are claimed."""
    return tally["recipients"] - sum(tally.get(outcome, 0) for outcome in OUTCOMES)
