"""Processes with budgets and calls, without programs: the kernel's own parts, on a clock that a
test moves."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from agentfs.base.clock import ManualClock
from agentfs.check import check
from agentfs.model.principal import INIT
from agentfs.model.process import Process, Tier
from agentfs.model.spec import ProcessSpec
from agentfs.quota.alerts import Marks
from agentfs.quota.budget import Budgets
from agentfs.quota.budget_table import Entries, Entry
from agentfs.quota.calls import Calls
from agentfs.quota.models import Models
from tests.process.world import OPERATOR, System, as_agent

T = TypeVar("T")

TIERS = {tier.value: tier for tier in Tier}
POOL = {"strategic": 1000, "tactical": 10_000, "operational": 100_000}


class World(System):
    """One system with few tokens: 1000 strategic, 10,000 tactical, 100,000 operational."""

    clock: ManualClock

    def __init__(
        self,
        state: Path,
        pool: Mapping[str, int] | None = POOL,
        clock: ManualClock | None = None,
    ) -> None:
        super().__init__(state, clock or ManualClock(), groups=False)
        if pool is not None:
            self.set_pool(**pool)
        self.wire_resources()
        self.supervisor.boot()
        self.base = self.sizes()

    def set_pool(self, **pool: int) -> None:
        self.settings.replace(f"budgets: {pool}")

    def wire_resources(self) -> None:
        """As the kernel does."""
        self.models = Models(self.store, self.events)
        self.marks = Marks(self.store, self.events)
        entries = Entries(self.store, self.events, self.clock)
        self.budgets = Budgets(self.gate, self.table, entries, self.marks, self.settings)
        self.entries = entries
        self.events.listen(self.budgets.heard)
        self.processes.budgets = self.budgets
        self.calls = Calls(
            gate=self.gate,
            table=self.table,
            store=self.store,
            events=self.events,
            settings=self.settings,
            models=self.models,
            budgets=self.budgets,
            marks=self.marks,
            stop=lambda process: self.supervisor.signals.send(process, "TERM"),
        )
        self.ground.parts.add(self.calls, self.budgets)

    def sizes(self) -> dict[str, int]:
        """Of every table."""
        return self.supervisor.sizes() | self.budgets.sizes() | self.calls.sizes()

    def restarted(self) -> Self:
        """kill -9 of the daemon and its next start: on what it had written by now."""
        left = Path(tempfile.mkdtemp(prefix="killed-", dir=self.state_dir.parent))
        for name in ("store.db", "store.db-wal"):
            shutil.copy(self.state_dir / name, left / name)
        for name in ("agents", "logs"):
            shutil.copytree(self.state_dir / name, left / name)
        assert check(left / "store.db") == []
        self.store.close()
        return type(self)(left, None, self.clock)

    def close(self) -> None:
        """Every test ends with the store's own consistency check."""
        self.programs.close()
        self.store.close()
        assert check(self.state_dir / "store.db") == []

    # -- short words ------------------------------------------------------------------------------

    def child(self, name: str, parent: Process | int = INIT, **spec: Any) -> Process:
        """A process without a program, spawned by its parent or, below init, by the operator; of
        its parent's tier, or the next one that its role can be of."""
        above = self.table.get(parent) if isinstance(parent, int) else parent
        task = spec.get("role") == "task" and above.tier is Tier.STRATEGIC
        spec.setdefault("tier", "tactical" if task else above.tier.value)
        who = OPERATOR if above.pid == INIT else as_agent(above)
        given = ProcessSpec.model_validate({"name": name, **spec})
        return at_once(self.processes.spawn(who, above.pid, given))

    def end(self, process: Process) -> None:
        """KILL, and its parent collects it."""
        self.processes.signal(OPERATOR, process.pid, "KILL")
        self.supervisor.reap(process)

    def llm(self, process: Process, *asked: Any) -> int:
        """Begin a call as the process itself: [model,] most."""
        model, most = ("", *asked) if len(asked) < 2 else asked
        number = self.calls.llm(as_agent(process), process.pid, model, most)
        assert isinstance(number, int)
        return number

    def settle(self, process: Process, number: int, *tokens: int) -> None:
        given = (tokens[0], tokens[1]) if tokens else None
        self.calls.settle(as_agent(process), process.pid, number, given)

    def use(self, process: Process, tokens: int, model: str = "") -> None:
        """A call that takes what it asked for."""
        self.settle(process, self.llm(process, model, tokens), 0, tokens)

    def entry(self, process: Process | int, tier: str = "tactical") -> Entry:
        pid = process if isinstance(process, int) else process.pid
        entry = self.budgets.find(pid, TIERS[tier])
        assert entry is not None
        return entry

    def figures(self, process: Process | int, tier: str = "tactical") -> tuple[int, int, int, int]:
        """(allocated, consumed, reserved, remaining)."""
        entry = self.entry(process, tier)
        return entry.allocated, entry.consumed, entry.reserved, entry.remaining


def at_once(call: Coroutine[Any, Any, T]) -> T:
    """Run what has nothing to wait for: a spawn without a program."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    call.close()
    raise AssertionError("it waits for something")
