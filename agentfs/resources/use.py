"""One use of a model or a tool, and what everything that counts uses can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agentfs.process.model import Process, Tier

__all__ = ["MICROS", "Meter", "Use"]

MICROS = 1_000_000
"""Costs are kept in millionths of a dollar: sums of whole numbers agree, whatever their order."""


@dataclass(frozen=True, slots=True)
class Use:
    """One call of a model (`kind` "llm", `name` the model) or of a tool (`kind` "tool").

    `input` and `output` are tokens; before the call, what is asked for at most. `cost` is in
    millionths of a dollar.
    """

    kind: str
    name: str
    tier: Tier
    input: int = 0
    output: int = 0
    cost: int = 0

    @property
    def tokens(self) -> int:
        return self.input + self.output


class Meter(Protocol):
    """Counts uses against a bound: a budget, the limits of a process, those of a group.

    All of it happens inside the transaction of the call; on a rollback a meter has forgotten it.
    """

    def hold(self, process: Process, use: Use) -> None:
        """Set `use` aside before the call. Raises EDQUOT, EAGAIN or EMSGSIZE if it would exceed
        the bound, and has changed nothing then: of N that are allowed exactly N get through."""

    def settle(self, process: Process, held: Use, actual: Use | None) -> None:
        """The call was made: count `actual` instead of what was held; None: it was not made."""
