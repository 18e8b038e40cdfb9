"""Processes with budgets, groups and calls, without programs: the real kernel, on a clock that a
test moves."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from agentfs.base.clock import ManualClock
from agentfs.check import check
from agentfs.kernel import Kernel
from agentfs.model.principal import INIT
from agentfs.model.process import Process, Tier
from agentfs.model.spec import ProcessSpec
from agentfs.process.ceilings import NAMES, Ceilings
from agentfs.quota.budget_table import BudgetEntry
from agentfs.quota.meter import Meter, Use
from agentfs.store.event import Event
from agentfs.store.layout import STORE, lay_out
from agentfs.store.store import Store
from tests.process.world import OPERATOR, as_agent

T = TypeVar("T")

TIERS = {tier.value: tier for tier in Tier}
POOL = {"strategic": 1000, "tactical": 10_000, "operational": 100_000}


@dataclass
class Noting:
    """A meter that lets everything through."""

    stored_name = "Noting"
    uses: list[Use] = field(default_factory=list)

    def hold(self, process: Process, use: Use) -> None:
        pass

    def grow(self, process: Process, held: Use, more: Use) -> None:
        pass

    def settle(self, process: Process, held: Use, actual: Use | None) -> None:
        if actual is not None:
            self.uses.append(actual)


class World:
    """One system with few tokens: 1000 strategic, 10,000 tactical, 100,000 operational. No `pool`:
    those of the configuration."""

    limits_of_all: dict[str, None] | None = dict.fromkeys(NAMES)
    """What children have for limits that their spec does not say: none, so that budgets decide."""

    def __init__(
        self,
        state: Path,
        pool: Mapping[str, int] | None = POOL,
        clock: ManualClock | None = None,
    ) -> None:
        if pool is not None:
            configure(state, f"budgets: {pool}")
        self.state_dir = state
        self.clock = clock or ManualClock()
        kernel = self.kernel = Kernel(state, "/nowhere", self.clock)
        self.ground = kernel.ground
        self.store = kernel.store
        self.events = kernel.events
        self.settings = kernel.settings
        self.timers = kernel.timers
        self.table = kernel.table
        self.gate = kernel.gate
        self.agents = kernel.agents
        self.programs = kernel.programs
        self.supervisor = kernel.supervisor
        self.processes = kernel.processes
        self.models = kernel.catalog
        self.alerts = kernel.alerts
        self.budgets = kernel.budgets
        self.entries = kernel.budgets._entries
        self.calls = kernel.calls
        self.groups = kernel.groups
        self.accounting = kernel.accounting
        self.limits = kernel.limits
        self.ceilings = Ceilings(self.table, self.settings)
        self.spending = kernel.spending
        self.rates = kernel.rates
        self.mail = kernel.mail
        self.queues = kernel.queues
        self.topics = kernel.topics
        self.killed = False
        kernel.load()
        self.supervisor.boot()
        self.heard: list[Event] = []
        self.events.listen(lambda record: self.heard.append(record.event))
        self.base = self.sizes()

    def set_pool(self, **pool: int) -> None:
        self.settings.replace(f"budgets: {pool}")

    def of(self, kind: type[Event]) -> list[Any]:
        """The events of a kind, so far."""
        return [event for event in self.heard if isinstance(event, kind)]

    def sizes(self) -> dict[str, int]:
        """Of every table."""
        return {
            **self.supervisor.sizes(),
            **self.budgets.sizes(),
            **self.kernel.calls._open.sizes(),
            "marks": len(self.alerts),
            **self.groups.groups.sizes(),
            **self.rates.sizes(),
            **self.mail.delivery.tasks.sizes(),
            "spent": len(self.spending),
        }

    def restarted(self) -> Self:
        """kill -9 of the daemon and its next start: on what it had written by now."""
        left = Path(tempfile.mkdtemp(prefix="killed-", dir=self.state_dir.parent))
        shutil.copytree(self.state_dir, left, dirs_exist_ok=True)
        assert check(left / "store.db") == []
        self.killed = True
        self.store.close()
        self.programs.close()
        for each in self.state_dir.iterdir():  # the directory stays: another is another system
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        for each in left.iterdir():
            each.rename(self.state_dir / each.name)
        return type(self)(self.state_dir, None, self.clock)

    def close(self) -> None:
        """Every test ends with the store's own consistency check."""
        if not self.killed:
            self.programs.close()
            self.store.close()
            assert check(self.state_dir / "store.db") == []

    def ask_first(self, meter: Meter) -> None:
        """Have another meter, which is asked before all others."""
        meters = self.kernel.calls._meters
        meters._meters = (meter, *meters._meters)

    def uses(self) -> list[Use]:
        """What will have been used from now on: it grows."""
        noting = Noting()
        self.ask_first(noting)
        return noting.uses

    def later(self, seconds: float) -> None:
        """Time goes by, and what is due happens."""
        self.clock.advance(seconds)
        self.timers.run_due()

    # -- short words ------------------------------------------------------------------------------

    def child(self, name: str, parent: Process | int = INIT, **spec: Any) -> Process:
        """A process without a program, spawned by its parent or, below init, by the operator; of
        its parent's tier, or the next one that its role can be of."""
        above = self.table.get(parent) if isinstance(parent, int) else parent
        task = spec.get("role") == "task" and above.tier is Tier.STRATEGIC
        if self.limits_of_all is not None:
            spec["limits"] = self.limits_of_all | spec.get("limits", {})
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

    def entry(self, process: Process | int, tier: str = "tactical") -> BudgetEntry:
        pid = process if isinstance(process, int) else process.pid
        entry = self.budgets.find(pid, TIERS[tier])
        assert entry is not None
        return entry

    def figures(self, process: Process | int, tier: str = "tactical") -> tuple[int, int, int, int]:
        """(allocated, consumed, reserved, remaining)."""
        entry = self.entry(process, tier)
        return entry.allocated, entry.consumed, entry.reserved, entry.remaining


def configure(state: Path, text: str) -> None:
    """Have a configuration in a state directory before the first start."""
    lay_out(state)
    store = Store(state / STORE)
    with store.transaction():
        store.set_meta("config", text)
    store.close()


def at_once(call: Coroutine[Any, Any, T]) -> T:
    """Run what has nothing to wait for: a spawn without a program."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    call.close()
    raise AssertionError("it waits for something")
