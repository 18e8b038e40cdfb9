"""A call of a model or tool that is open, and what was set aside for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from typing import Any, Literal

from agentfs.model.process import Tier
from agentfs.quota.meter import Meter, Use
from agentfs.quota.relay import Relay

__all__ = ["KIND", "Call"]

KIND = "call"
"""The kind of the records; the key is the id."""

_SLOTS = attrgetter(*Use.__slots__)

_BESIDE = frozenset({"pid", "started", "parts", "relay"})
"""The fields of a record that say nothing of what is held."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was begun and not settled. `held` is what was set aside for it, of the budget;
    `parts` has what other meters set aside, (tokens, cost) by the stored name of each, where it is
    not that. `started` in seconds since 1970. `relay`: the gateway makes it, and has come so far.
    """

    id: int
    pid: int
    held: Use
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    started: float = 0.0
    relay: Relay | None = None

    @property
    def owner(self) -> Literal["process", "gateway"]:
        """Who settles it."""
        return "process" if self.relay is None else "gateway"

    def held_by(self, meter: Meter) -> Use:
        """What `meter` has set aside for it."""
        part = self.parts.get(meter.stored_name)
        return self.held if part is None else replace(self.held, output=part[0], cost=part[1])

    def record(self) -> dict[str, Any]:
        held = dict(zip(Use.__slots__, _SLOTS(self.held), strict=True))
        record = {"pid": self.pid, "started": self.started, **held, "tier": self.held.tier.value}
        if self.parts:
            record["parts"] = dict(self.parts)
        if self.relay is not None:
            record["relay"] = asdict(self.relay)
        return record

    @classmethod
    def from_record(cls, key: str, record: dict[str, Any]) -> Call:
        held = {name: value for name, value in record.items() if name not in _BESIDE}
        parts = {name: (part[0], part[1]) for name, part in record.get("parts", {}).items()}
        relay = record.get("relay")
        return cls(
            int(key),
            record["pid"],
            Use(**(held | {"tier": Tier(record["tier"])})),
            parts,
            record.get("started", 0.0),
            None if relay is None else Relay(**relay),
        )
