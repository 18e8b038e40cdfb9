"""Budgets over random histories: spawns, grants, calls, ends, moves, and crashes of the daemon.

What must hold after each step: every token is in exactly one place, what an entry says it has given
away or set aside is what others say they have from it, what was used is charged to somebody who is
there, and a call gets through if, and only if, there is enough left where it draws.
"""

from __future__ import annotations

import errno
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentfs.base.errors import KernelError
from agentfs.model.principal import INIT
from agentfs.model.process import Process, Tier
from agentfs.quota.budget_table import BudgetEntry
from tests.process.world import OPERATOR, as_agent
from tests.quota.budget_world import TIERS, World

POOL = {"strategic": 300, "tactical": 600, "operational": 900}
MODELS = {"opus": Tier.STRATEGIC, "sonnet": Tier.TACTICAL, "mini": Tier.OPERATIONAL}
AMOUNT = st.sampled_from([0, 1, 7, 40, 100, 250, 700])
TIER = st.sampled_from(sorted(TIERS))


class BudgetMachine(RuleBasedStateMachine):
    """A tree of processes below init."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name) / "state", POOL)
        self.pool = {TIERS[name]: tokens for name, tokens in POOL.items()}
        self.used: Counter[Tier] = Counter()
        self.over: Counter[Tier] = Counter()  # taken beyond what was asked for
        self.tokens: Counter[int] = Counter()  # by pid
        self.names = 0
        self.since_start = 0  # steps of this daemon

    def teardown(self) -> None:
        with self.folder:
            try:
                self.all_end()
            finally:
                self.world.close()

    def all_end(self) -> None:
        for process in reversed(self.living()):
            for call in self.world.calls.of(process.pid):
                self.charge(process, call.held.tier, call.held.tokens)
            self.world.end(process)
        self.everything_adds_up()
        for tier, used in self.used.items():
            assert self.world.figures(INIT, tier.value)[1:3] == (used, 0)
        warned = len(set(self.world.alerts) - {INIT})
        assert self.world.sizes() | {"marks": warned} == self.world.base

    def living(self) -> list[Process]:
        return [each for each in self.world.table if each.pid != INIT and each.state.alive]

    def pick(self, data: st.DataObject, *, init: bool = False) -> Process:
        pids = ([INIT] if init else []) + [process.pid for process in self.living()]
        return self.world.table.get(data.draw(st.sampled_from(pids)))

    def who(self, process: Process) -> object:
        return OPERATOR if process.pid == INIT else as_agent(process)

    def charge(self, process: Process, tier: Tier, tokens: int) -> None:
        self.used[tier] += tokens
        self.tokens[process.pid] += tokens

    def everything(self) -> object:
        return (
            [entry.record() for entry in self.world.entries],
            [self.world.calls.of(process.pid) for process in self.world.table],
            len(self.world.table),
        )

    # -- what happens ----------------------------------------------------------------------------

    @rule(data=st.data(), tier=TIER, budget=st.dictionaries(TIER, AMOUNT, max_size=2))
    def spawn(self, data: st.DataObject, tier: str, budget: dict[str, int]) -> None:
        parent = self.pick(data, init=True)
        self.names += 1
        fits = Tier(tier).rank >= parent.tier.rank and all(
            Tier(each).rank >= Tier(tier).rank
            and (entry := self.world.budgets.find(parent.pid, Tier(each))) is not None
            and tokens <= max(0, entry.remaining)
            for each, tokens in budget.items()
        )
        before = self.everything()
        try:
            self.world.child(f"p{self.names}", parent, role="lead", tier=tier, budget=budget)
            assert fits
        except KernelError as refusal:
            assert not fits or refusal.rule == "max_children"
            assert self.everything() == before

    @precondition(lambda self: self.living())
    @rule(data=st.data(), tokens=AMOUNT, tier=TIER)
    def allocate(self, data: st.DataObject, tokens: int, tier: str) -> None:
        giver, process = self.pick(data, init=True), self.pick(data)
        own = self.world.budgets.find(giver.pid, Tier(tier))
        theirs = self.world.budgets.find(process.pid, Tier(tier))
        fits = (
            giver in self.world.table.ancestors(process.pid)
            and Tier(tier).rank >= process.tier.rank
            and own is not None
            and tokens <= max(0, own.remaining)
            and (theirs is None or theirs.grantor == giver.pid)
        )
        before = self.everything()
        try:
            self.world.budgets.allocate(self.who(giver), giver.pid, process.pid, tokens, Tier(tier))
            assert fits
        except KernelError:
            assert not fits
            assert self.everything() == before

    @precondition(lambda self: self.living())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        process = self.pick(data)
        self.world.budgets.release(as_agent(process), process.pid)
        for tier in Tier:
            entry = self.world.budgets.find(process.pid, tier)
            assert entry is None or entry.remaining <= 0

    @precondition(lambda self: self.living())
    @rule(data=st.data(), model=st.sampled_from(sorted(MODELS)), most=AMOUNT)
    def begin(self, data: st.DataObject, model: str, most: int) -> None:
        process, tier = self.pick(data), MODELS[model]
        left = self.world.budgets.source(process, tier).remaining
        fits = tier.rank >= process.tier.rank and left > 0 and most <= left
        try:
            self.world.llm(process, model, most or None)  # 0: it does not say
            assert fits
        except KernelError:
            assert not fits

    @precondition(lambda self: any(self.world.calls.of(each.pid) for each in self.living()))
    @rule(data=st.data(), how=st.sampled_from(["less", "all", "more", "unsaid", "cancelled"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        calls = [call for process in self.living() for call in self.world.calls.of(process.pid)]
        call = data.draw(st.sampled_from(calls))
        process = self.world.table.get(call.pid)
        held = call.held.tokens
        if how == "cancelled":
            self.world.calls.cancel(as_agent(process), process.pid, call.id)
            return
        took = {"less": held // 2, "more": held + 30}.get(how, held)
        tokens = () if how == "unsaid" else (took - took // 3, took // 3)
        entry = self.world.budgets.drawn_on(process, call.held)
        most = held if entry.remaining < 0 else took  # an overdrawn budget pays no excess
        try:
            self.world.settle(process, call.id, *tokens)
        except KernelError as refusal:
            assert refusal.errno == errno.EMSGSIZE
            assert took > held
            assert self.beyond(call.held.name, took, entry)
            return
        self.used[call.held.tier] += min(took, most)
        self.tokens[process.pid] += took
        self.over[call.held.tier] += min(took, most) - min(took, held)

    def beyond(self, model: str, tokens: int, entry: BudgetEntry) -> bool:
        """Whether one call cannot have used so many."""
        found = self.world.models.find(model)
        size = None if found is None else found.context
        return tokens > (entry.allocated if size is None else size)

    @precondition(lambda self: self.living())
    @rule(data=st.data(), tokens=AMOUNT.filter(bool))
    def report(self, data: st.DataObject, tokens: int) -> None:
        process = self.pick(data)
        tier = process.tier
        source = self.world.budgets.source(process, tier)
        left, beyond = source.remaining, self.beyond(process.model, tokens, source)
        try:
            self.world.calls.report(as_agent(process), process.pid, tokens)
            assert tokens <= left
        except KernelError as refusal:
            assert tokens > left
            assert (refusal.errno == errno.EMSGSIZE) == (beyond and left > 0)
        if left > 0 and not beyond:
            self.charge(process, tier, tokens)
            self.over[tier] += max(0, tokens - left)

    @precondition(lambda self: self.living())
    @rule(data=st.data())
    def reparent(self, data: st.DataObject) -> None:
        process, parent = self.pick(data), self.pick(data, init=True)
        try:
            self.world.processes.reparent(OPERATOR, process.pid, parent.pid)
        except KernelError as refusal:
            assert refusal.rule in ("tree", "tier", "max_children")

    @precondition(lambda self: self.living())
    @rule(data=st.data(), branch=st.booleans())
    def end(self, data: st.DataObject, branch: bool) -> None:
        process = self.pick(data)
        ending = [process, *(self.world.table.descendants(process.pid) if branch else [])]
        for each in ending:
            for call in self.world.calls.of(each.pid):
                self.charge(each, call.held.tier, call.held.tokens)
        if branch:
            self.world.processes.kill_branch(OPERATOR, process.pid)
        else:
            self.world.processes.signal(OPERATOR, process.pid, "KILL")
        for each in ending:
            if not each.state.alive and self.world.table.find(each.pid) is not None:
                self.world.supervisor.reap(each)

    @precondition(lambda self: self.since_start >= 6)  # it costs as much as all other steps
    @rule()
    def daemon_killed(self) -> None:
        self.since_start = 0
        base, self.world = self.world.base, self.world.restarted()
        self.world.base = base

    # -- what holds ------------------------------------------------------------------------------

    @invariant()
    def everything_adds_up(self) -> None:
        entries = list(self.world.entries)
        granted: Counter[tuple[int, Tier]] = Counter()
        held: Counter[tuple[int, Tier]] = Counter()
        for entry in entries:
            granted[entry.grantor, entry.tier] += entry.allocated
            assert self.world.table.get(entry.pid).state.alive
        for process in self.world.table:
            for call in self.world.calls.of(process.pid):
                held[call.held.source, call.held.tier] += call.held.tokens
        for tier, pool in self.pool.items():
            of_tier = [entry for entry in entries if entry.tier is tier]
            assert sum(entry.consumed for entry in of_tier) == self.used[tier]
            assert pool == sum(e.consumed + e.held + e.remaining for e in of_tier)
            for entry in of_tier:
                assert entry.granted == granted[entry.key]
                assert entry.held == held.pop(entry.key, 0)
                assert entry.remaining >= -self.over[tier]
        assert not held

    @invariant()
    def each_process_has_its_own_total(self) -> None:
        self.since_start += 1
        for process in self.living():
            assert process.tokens == self.tokens[process.pid]


BudgetMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, print_blob=True
)
TestBudgetModel = BudgetMachine.TestCase
