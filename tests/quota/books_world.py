"""The world of budgets, with short words for groups and accounting."""

from __future__ import annotations

from datetime import UTC, datetime

from agentfs.model.process import Process, Tier
from agentfs.quota.group_table import Group
from agentfs.quota.meter import Use
from agentfs.quota.uses import VIEWS, Sums
from tests.process.world import OPERATOR
from tests.quota.budget_world import World

POOL = {"strategic": 10**9, "tactical": 10**9, "operational": 10**9}


class Books(World):
    """One system whose budgets do not matter."""

    # -- accounting ------------------------------------------------------------------------------

    def book(
        self, process: Process, tokens: int, model: str = "sonnet", tier: Tier = Tier.TACTICAL
    ) -> None:
        """A use that was made, whatever budgets say."""
        use = Use("llm", model, tier, output=tokens, cost=self.models.cost(model, 0, tokens))
        with self.store.transaction():
            self.accounting.record(process, use)

    def tokens(self, view: str, key: str = "") -> int:
        sums = self.accounting.sums(view, key)
        return sums.input + sums.output

    def agree(self) -> None:
        """Every view adds up to the total: in all, and by the hour and the day."""
        total = self.accounting.sums("total", "")
        for view in VIEWS:
            keys = [*self.accounting.keys(view), ""]
            assert add(self.accounting.sums(view, key) for key in keys) == total, view
            for spans in (self.accounting.hours, self.accounting.days):
                by_span: dict[str, list[Sums]] = {}
                for key in keys:
                    for span, sums in spans(view, key):
                        by_span.setdefault(span, []).append(sums)
                assert {span: add(some) for span, some in by_span.items()} == dict(
                    spans("total", "")
                ), view

    def hour(self) -> str:
        return datetime.fromtimestamp(self.clock.now(), UTC).strftime("%Y-%m-%dT%H")

    # -- groups ----------------------------------------------------------------------------------

    def group(self, path: str, **limits: int | None) -> Group:
        """A group, made by the operator, with these limits (`tokens`, `pids`)."""
        parent, _, name = path.rpartition("/")
        made = self.groups.create(OPERATOR, parent, name)
        for limit, value in limits.items():
            self.groups.set_limit(OPERATOR, path, limit, value)
        return made

    def move(self, process: Process, path: str) -> None:
        self.groups.move(OPERATOR, process.pid, path)

    def pids(self, path: str) -> list[int]:
        return [process.pid for process in self.groups.members(path)]


def add(some: object) -> Sums:
    """The sum of sums."""
    return Sums(*map(sum, zip(Sums(), *some, strict=True)))  # type: ignore[misc]
