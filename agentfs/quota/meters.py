"""Everything that counts uses of models and tools, asked and told together."""

from __future__ import annotations

from collections.abc import Sequence

from agentfs.base.errors import KernelError
from agentfs.catalog.catalog import Catalog
from agentfs.model.process import Process
from agentfs.quota.accounting import Accounting
from agentfs.quota.budget import Budgets
from agentfs.quota.call import Call
from agentfs.quota.meter import Bounded, Meter, Room, Use

__all__ = ["Held", "Meters"]

Held = tuple[Use, dict[str, tuple[int, int]]]
"""The use that a budget set aside for a call, and by name what other meters did, if it differs."""


class Meters:
    """`others` are asked in their order, then the budget; the books are told of every use that was
    made. All of it happens inside the transaction of the call."""

    def __init__(
        self, catalog: Catalog, budgets: Budgets, others: Sequence[Meter], books: Accounting
    ) -> None:
        self.catalog = catalog
        self.budgets = budgets
        self._meters = (*others, budgets)
        self._books = books

    def at_most(self, use: Use, tokens: int) -> Use:
        """A use of so many tokens, at the price of the dearer ones."""
        cost = self.catalog.most(use.name, tokens)
        return Use(use.kind, use.name, use.tier, 0, tokens, cost, use.source)

    def hold(self, process: Process, use: Use, *, exact: bool) -> Held | KernelError:
        """Have every meter set `use` aside, or what it has left of it unless that is to be `exact`;
        or none of them: then why not."""
        holding: list[tuple[Meter, Use]] = []
        for meter in self._meters:
            part = use if exact else self._fitting(meter, process, use)
            try:
                meter.hold(process, part)
            except KernelError as refusal:
                for other, its in reversed(holding):
                    other.settle(process, its, None)
                return refusal
            holding.append((meter, part))
        if exact:
            return use, {}
        held = holding[-1][1]
        parts = {
            meter.stored_name: (part.tokens, part.cost) for meter, part in holding if part != held
        }
        return held, parts

    def _fitting(self, meter: Meter, process: Process, use: Use) -> Use:
        """As much of `use` as `meter` lets through; one token if that is none."""
        if not isinstance(meter, Bounded):
            return use
        one = self.at_most(use, 1)
        room = meter.room(process, one)
        if room.cost is not None and one.cost:
            room = room.least(Room(tokens=room.cost // one.cost))
        if room.tokens is None or room.tokens >= use.tokens:
            return use
        return self.at_most(use, max(1, room.tokens))

    def room(self, process: Process, use: Use, held: int = 0) -> Room:
        """What all of them have left for one more call such as `use`, or for one that has so many
        tokens set aside."""
        room = Room()
        for meter in self._meters:
            if isinstance(meter, Bounded):
                room = room.least(meter.room(process, use, held))
        return room

    def grow(self, process: Process, held: Use, more: Use) -> None:
        """Have every meter set `more` aside for a call that holds the same with all. Raises the
        refusal of one of them: then the transaction has failed."""
        for meter in self._meters:
            meter.grow(process, held, more)

    def let_go(self, process: Process, call: Call) -> None:
        """The call was not made."""
        for meter in self._meters:
            meter.settle(process, call.held_by(meter), None)

    def count(self, process: Process, call: Call, actual: Use) -> None:
        """The call was made: count `actual` instead of what was set aside for it."""
        for meter in self._meters:
            meter.settle(process, call.held_by(meter), actual)
        self._books.record(process, actual)
