"""A call of a model or tool that is open, and what was set aside for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agentfs.model.process import Tier
from agentfs.quota.meter import Meter, Use

__all__ = ["KIND", "Call"]

KIND = "call"
"""The kind of the records; the key is the id."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was begun and not settled. `held` is what was set aside for it, of the budget;
    `parts` has what other meters set aside, (tokens, cost) by the stored name of each, where it is
    not that."""

    id: int
    pid: int
    held: Use
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def held_by(self, meter: Meter) -> Use:
        """What `meter` has set aside for it."""
        part = self.parts.get(meter.stored_name)
        return self.held if part is None else replace(self.held, output=part[0], cost=part[1])

    def record(self) -> dict[str, Any]:
        held = {slot: getattr(self.held, slot) for slot in Use.__slots__}
        parts = {"parts": dict(self.parts)} if self.parts else {}
        return {"pid": self.pid, **held, "tier": self.held.tier.value} | parts

    @classmethod
    def from_record(cls, key: str, record: dict[str, Any]) -> Call:
        given = {name: value for name, value in record.items() if name not in ("pid", "parts")}
        parts = {name: (part[0], part[1]) for name, part in record.get("parts", {}).items()}
        return cls(int(key), record["pid"], Use(**(given | {"tier": Tier(record["tier"])})), parts)
