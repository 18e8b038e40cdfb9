"""Calls of the gateway over random histories: begun, grown, written, settled, dropped, lost with
the gateway or the daemon, ended with their program; while agents move between groups.

Providers keep to the maximum that they were told, and the gateway to what it holds; estimates of
inputs are high enough. Then no budget, group or limit is ever passed, at no moment, and everything
that was held is given back.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentfs.base.errors import KernelError
from agentfs.catalog.entries import MICROS
from agentfs.model.process import Process, Tier
from agentfs.quota.call import Call
from agentfs.quota.relay import Used, Wanted
from tests.process.world import OPERATOR
from tests.quota.budget_world import World

MODELS = """\
providers:
  here: {url: http://127.0.0.1:9, speaks: [messages]}
models:
  sonnet: {tier: tactical, provider: here, input: 3, output: 15, cache_read: 0.3, cache_write: 3.75,
    context: 3000}
  cheap: {tier: tactical, provider: here, input: 0.25, output: 0.3}
  free: {tier: tactical, provider: here, max_output: 900}
"""
TOKENS, HOUR, COST, CONTEXT, GROUP, BUDGET = 2500, 1500, 0.009, 1000, 3000, 4000
LIMITS: dict[str, dict[str, float]] = {
    "total": {"max_tokens_total": TOKENS},
    "hour": {"max_tokens_per_hour": HOUR},
    "cost": {"max_cost_usd": COST},
    "context": {"max_context_tokens": CONTEXT},
}
AMOUNT = st.integers(0, 1200)


class RelayedMachine(RuleBasedStateMachine):
    """Four agents below a lead, whose budget they share, each with another limit."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = world = World(Path(self.folder.name) / "state")
        world.models.replace(MODELS)
        world.groups.create(OPERATOR, "", "team")
        world.groups.set_limit(OPERATOR, "team", "tokens", GROUP)
        lead = world.child("lead", role="lead", tier="tactical", budget={"tactical": BUDGET})
        self.lead = lead.pid
        self.pids = [world.child(name, lead, limits=limit).pid for name, limit in LIMITS.items()]
        self.rooms: dict[int, int] = {}
        self.written: dict[int, int] = {}

    def teardown(self) -> None:
        with self.folder:
            try:
                for pid in self.pids:
                    self.world.calls.program_ended(self.world.table.get(pid), 0)
                entry = self.world.entry(self.lead)
                assert entry.held == 0
                spent = self.world.accounting.sums("total", "")
                assert entry.consumed == spent.tokens <= BUDGET
            finally:
                self.world.close()

    def process(self, data: st.DataObject) -> Process:
        return self.world.table.get(data.draw(st.sampled_from(self.pids)))

    def calls(self) -> list[Call]:
        return list(self.world.calls.relayed)

    def call(self, data: st.DataObject) -> Call:
        number = data.draw(st.sampled_from([call.id for call in self.calls()]))
        found = self.world.calls._open.get(number)
        assert found is not None
        return found

    # -- what happens ----------------------------------------------------------------------------

    @rule(
        data=st.data(),
        model=st.sampled_from(["sonnet", "cheap", "free"]),
        read=AMOUNT,
        output=st.none() | AMOUNT,
        stream=st.booleans(),
    )
    def begin(
        self, data: st.DataObject, model: str, read: int, output: int | None, stream: bool
    ) -> None:
        process = self.process(data)
        before = [call.record() for call in self.calls()], self.world.entry(self.lead).record()
        try:
            begun = self.world.calls.relayed.begin(process, Wanted(model, read, output, stream))
        except KernelError as refusal:
            assert refusal.code in ("EDQUOT", "EMSGSIZE")
            after = [call.record() for call in self.calls()], self.world.entry(self.lead).record()
            assert after == before
            return
        assert begun.output <= begun.room
        assert begun.output >= min(1, 1 if output is None else output)
        assert output is None or begun.room <= output
        assert stream or begun.output == begun.room
        self.rooms[begun.id], self.written[begun.id] = begun.room, 0

    @precondition(lambda self: self.calls())
    @rule(data=st.data(), share=st.floats(0, 1))
    def write(self, data: st.DataObject, share: float) -> None:
        call = self.call(data)
        most = min(call.held.output, self.rooms[call.id])
        self.written[call.id] = max(self.written[call.id], int(share * most))
        self.world.calls.relayed.progress(call.id, self.written[call.id])

    @precondition(lambda self: self.calls())
    @rule(data=st.data(), more=AMOUNT)
    def grow(self, data: st.DataObject, more: int) -> None:
        call = self.call(data)
        wanted = min(self.rooms[call.id], call.held.output + more)
        try:
            held = self.world.calls.relayed.grow(call.id, wanted)
        except KernelError as refusal:
            assert refusal.code in ("EDQUOT", "EMSGSIZE")
            assert self.world.calls._open.get(call.id) == call
        else:
            assert call.held.output <= held <= max(wanted, call.held.output)
            assert held > call.held.output or wanted <= call.held.output

    @precondition(lambda self: self.calls())
    @rule(data=st.data(), how=st.sampled_from(["exact", "cached", "unsaid", "dropped"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        call, gateway = self.call(data), self.world.calls.relayed
        read, written = call.held.input, self.written.pop(call.id)
        match how:
            case "exact":
                gateway.settle(call.id, Used(read, written))
            case "cached":
                gateway.settle(call.id, Used(read % 3, written, read // 3, read // 3))
            case "unsaid":
                gateway.settle(call.id, None)
            case _:
                gateway.drop(call.id)

    @precondition(lambda self: self.calls())
    @rule()
    def the_gateway_dies(self) -> None:
        assert self.world.calls.relayed.charge_lost() > 0

    @rule()
    def the_daemon_dies(self) -> None:
        self.world = self.world.restarted()

    @rule(data=st.data())
    def its_program_ends(self, data: st.DataObject) -> None:
        process = self.process(data)
        self.world.calls.program_ended(process, 1)
        assert not self.world.calls.of(process.pid)

    @rule(data=st.data(), group=st.sampled_from(["", "team"]))
    def move(self, data: st.DataObject, group: str) -> None:
        self.world.groups.move(OPERATOR, self.process(data).pid, group)

    @rule(seconds=st.sampled_from([1.0, 600.0, 3600.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.world.later(seconds)

    # -- what holds ------------------------------------------------------------------------------

    @invariant()
    def nothing_is_passed(self) -> None:
        world = self.world
        assert world.entry(self.lead).remaining >= 0
        assert world.groups.groups.get("team").tokens <= GROUP
        used = {
            name: world.limits.used(world.table.get(pid), name)
            for pid, limits in zip(self.pids, LIMITS.values(), strict=True)
            for name in limits
        }
        assert used["max_tokens_total"] <= TOKENS
        assert used["max_tokens_per_hour"] <= HOUR
        assert used["max_context_tokens"] <= CONTEXT
        assert round(used["max_cost_usd"] * MICROS) <= round(COST * MICROS)

    @invariant()
    def what_is_held_is_what_calls_hold(self) -> None:
        held = sum(call.held.tokens for call in self.calls())
        assert self.world.entry(self.lead).held == held
        assert self.world.entry(self.lead).tier is Tier.TACTICAL


TestRelayed = RelayedMachine.TestCase
TestRelayed.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
