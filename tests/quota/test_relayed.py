"""Calls that the gateway makes: what they hold, how they grow, what counts when they end, and that
no budget, limit or group is passed on the way."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.process import Process
from agentfs.process.events import ResourceExceeded
from agentfs.quota.call import Call
from agentfs.quota.events import (
    CallBegun,
    CallCancelled,
    CallEnded,
    ResourceRefused,
    ResourceStopped,
    ResourceWarning,
)
from agentfs.quota.relay import Begun, Used, Wanted
from agentfs.store.event_log import Record
from tests.process.world import OPERATOR, as_agent
from tests.quota.budget_world import World as BudgetWorld

MODELS = """\
providers:
  here: {url: http://127.0.0.1:9, speaks: [chat, messages, embeddings]}
  there: {url: http://127.0.0.1:9, speaks: [messages], key: {secret: there}}
models:
  sonnet: {tier: tactical, provider: here, match: ["claude-*"], input: 3, output: 15,
    cache_read: 0.3, cache_write: 3.75, context: 200000, max_output: 64000}
  small: {tier: operational, provider: here, context: 1000}
  free: {tier: tactical, provider: here}
  far: {tier: tactical, provider: there}
  opus: {tier: strategic, provider: here}
  priced: {tier: tactical, input: 1}
"""


class World(BudgetWorld):
    """The same system, with short words for the gateway."""

    @property
    def gateway(self):
        return self.calls.relayed

    def begin(
        self, process: Process, tokens: int | None = 100, model: str = "free", **more: object
    ) -> Begun:
        wanted = Wanted(model, more.pop("read", 10), tokens, more.pop("stream", False), **more)
        return self.gateway.begin(process, wanted)

    def stream(self, process: Process, tokens: int | None = 64_000, **more: object) -> Begun:
        return self.begin(process, tokens, stream=True, **more)

    def call(self, number: int) -> Call:
        found = self.calls._open.get(number)
        assert found is not None
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "state")
    made.models.replace(MODELS)
    yield made
    made.close()


def lead(world: World, tokens: int = 5000, **spec: object) -> Process:
    return world.child("lead", role="lead", tier="tactical", budget={"tactical": tokens}, **spec)


def refused(call, *given: object, **more: object) -> KernelError:
    with pytest.raises(KernelError) as caught:
        call(*given, **more)
    assert caught.value.reason
    return caught.value


# -- one call ------------------------------------------------------------------------------------


def test_a_plain_call_from_its_beginning_to_its_end(world: World) -> None:
    made, uses = lead(world), world.uses()
    begun = world.begin(made, 400, "claude-opus-4-8", dialect="messages", via="tcp")
    assert begun == Begun(begun.id, "sonnet", "here", 400, 400)
    assert world.figures(made) == (5000, 0, 410, 4590)
    call = world.call(begun.id)
    assert (call.owner, call.started) == ("gateway", world.clock.now())
    assert (call.relay.via, call.relay.dialect) == ("tcp", "messages")
    world.gateway.settle(begun.id, Used(100, 50, cache_read=20, cache_write=30), provider="here")
    assert world.figures(made) == (5000, 200, 0, 4800)
    assert made.tokens == 200
    (use,) = uses
    assert (use.input, use.output, use.cache_read, use.cache_write) == (100, 50, 20, 30)
    assert use.cost == -(-(3 * 100 + 15 * 50 + 0.3 * 20 + 3.75 * 30) // 1)  # micros, rounded up
    assert (use.estimated, use.provider) == (False, "here")
    assert world.of(CallBegun) == [CallBegun(made.pid, "lead", begun.id)]
    assert world.of(CallEnded) == [CallEnded(made.pid, "lead", begun.id)]
    assert refused(world.gateway.settle, begun.id, None).code == "ENOENT"


def test_a_call_that_was_not_made_counts_for_nothing(world: World) -> None:
    made, uses = lead(world), world.uses()
    world.gateway.drop(world.begin(made).id)
    assert world.figures(made) == (5000, 0, 0, 5000)
    assert (uses, made.tokens) == ([], 0)


def test_a_plain_call_is_lowered_to_the_room_there_is(world: World) -> None:
    made = lead(world, 1000)
    assert world.begin(made, 64_000).output == 990
    assert refused(world.begin, made, 1).code == "EDQUOT"


def test_a_call_that_names_no_maximum_gets_the_models_or_the_room(world: World) -> None:
    made = lead(world)
    assert world.begin(made, None).output == 4096
    assert world.begin(made, None).output == 884
    other = world.child("other", tier="operational", limits={"max_context_tokens": None})
    assert world.begin(other, None, "small").output == 990
    world.set_pool(tactical=10**6)
    rich = world.child("rich", tier="tactical", budget={"tactical": 10**5})
    assert world.stream(rich, None).room == 16_384  # more is refused by some models
    assert world.stream(rich, 64_000).room == 64_000


def test_embeddings_write_nothing(world: World) -> None:
    made = lead(world)
    begun = world.begin(made, None, dialect="embeddings")
    assert (begun.output, world.figures(made)[2]) == (0, 10)


def test_usage_nobody_tells_is_the_estimate_of_the_input_and_what_has_come(world: World) -> None:
    made, uses = lead(world), world.uses()
    begun = world.stream(made)
    world.gateway.progress(begun.id, 0, first_byte=True, provider="elsewhere")
    world.gateway.progress(begun.id, 40)
    world.gateway.settle(begun.id, None, error="reset by peer")
    assert [(use.input, use.output, use.estimated, use.provider) for use in uses] == [
        (10, 40, True, "elsewhere")
    ]
    assert world.accounting.sums("agent", "lead").estimated == 1
    (ended,) = world.of(CallEnded)
    assert ended.error == "reset by peer"
    assert b"peer" not in Record(1, 0.0, ended).line()  # words that may quote what was asked


def test_an_absurd_usage_is_no_figure(world: World) -> None:
    made, uses = lead(world), world.uses()
    world.gateway.settle(world.begin(made).id, Used(-5, 10**30))
    assert (uses[0].input, uses[0].output) == (0, 10**12)


def test_the_first_byte_and_what_has_come_are_remembered(world: World) -> None:
    made = lead(world)
    number = world.stream(made).id
    world.clock.advance(2)
    world.gateway.progress(number, 5, first_byte=True)
    world.clock.advance(1)
    world.gateway.progress(number, 3, first_byte=True)  # it never goes back
    relay = world.call(number).relay
    assert (relay.first_byte_at, relay.output) == (world.clock.now() - 1, 5)
    world.gateway.progress(number + 1, 5)  # one that has ended meanwhile


# -- rights --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "more", "code", "rule"),
    [
        ("none", {}, "ENOENT", "model"),
        ("priced", {}, "ENOENT", "model"),
        ("opus", {}, "EPERM", "tier"),
        ("far", {"dialect": "messages"}, "EACCES", "secret"),
        ("far", {"dialect": "chat"}, "ENOENT", "dialect"),
        ("sonnet", {"read": 200_000}, "EMSGSIZE", "context"),
    ],
)
def test_a_call_that_cannot_be_made_is_refused_in_words(
    world: World, model: str, more: dict, code: str, rule: str
) -> None:
    made = lead(world)
    error = refused(world.begin, made, 10, model, **more)
    assert (error.code, error.rule) == (code, rule)
    assert list(world.gateway) == []
    assert world.figures(made) == (5000, 0, 0, 5000)


def test_without_the_capability_no_model_is_offered(world: World) -> None:
    made = world.child("mute", tier="tactical", deny=["llm"])
    assert world.gateway.offered(made) == []
    assert refused(world.begin, made).code == "EPERM"
    other = world.child("other", tier="tactical")
    assert [model.name for model in world.gateway.offered(other)] == ["sonnet", "small", "free"]


def test_the_operator_has_models_too(world: World) -> None:
    init = world.table.get(1)
    begun = world.begin(init, 100, "opus")
    world.gateway.settle(begun.id, Used(10, 10))
    assert world.accounting.sums("agent", "init").calls == 1


# -- limits --------------------------------------------------------------------------------------


def test_of_50_callers_with_room_for_seven_seven_get_through(world: World) -> None:
    made = lead(world, 7 * 110)
    through = 0
    for _ in range(50):
        try:
            begun = world.begin(made, 100)
        except KernelError as error:
            assert error.code == "EDQUOT"
        else:
            assert begun.output == 100
            through += 1
    assert through == 7


def grow_all(world: World, begun: list[Begun], chunk: int = 20) -> int:
    """Streams that write in turn, a chunk at a time, until each is refused; what all have written,
    without the chunks that were in flight when they ended."""
    written, held = dict.fromkeys((each.id for each in begun), 0), {}
    for each in begun:
        held[each.id] = each.output
    open_ones = set(held)
    while open_ones:
        for number in sorted(open_ones):
            if written[number] + chunk > held[number]:
                try:
                    held[number] = world.gateway.grow(number, held[number] + 2048)
                except KernelError as error:
                    assert error.code == "EDQUOT"
                    written[number] = held[number]
                    open_ones.discard(number)
                    continue
            written[number] += min(chunk, held[number] - written[number])
    for number, tokens in written.items():
        world.gateway.settle(number, Used(10, tokens))
    return sum(written.values()) + 10 * len(begun)


def test_streams_share_what_is_left_and_never_pass_it(world: World) -> None:
    made = lead(world, 1000)
    begun: list[Begun] = []
    for _ in range(20):
        try:
            begun.append(world.stream(made))
        except KernelError as error:
            assert error.code == "EDQUOT"
    assert len(begun) >= 8  # the first one does not take everything
    assert all(each.room <= 1000 for each in begun)
    assert grow_all(world, begun) == 1000
    assert world.figures(made) == (1000, 1000, 0, 0)


def test_a_stream_holds_little_at_first_and_is_told_the_room_there_is(world: World) -> None:
    world.set_pool(tactical=10**6)
    made = lead(world, 10**5)
    begun = world.stream(made, model="sonnet")
    assert (begun.output, begun.room) == (2048, 64_000)
    assert world.figures(made)[2] == 2058
    assert world.gateway.grow(begun.id, 1000) == 2048  # it has that
    assert world.gateway.grow(begun.id, 4096) == 4096
    world.gateway.settle(begun.id, Used(10, 3000))
    assert world.figures(made) == (10**5, 3010, 0, 10**5 - 3010)


@pytest.mark.parametrize(
    ("limit", "number", "code"),
    [
        ("max_tokens_total", 1000, "EDQUOT"),
        ("max_tokens_per_hour", 1000, "EDQUOT"),
        ("max_context_tokens", 1000, "EMSGSIZE"),
        ("max_cost_usd", 0.015, "EDQUOT"),
    ],
)
def test_every_limit_ends_a_stream_on_its_way(
    world: World, limit: str, number: float, code: str
) -> None:
    made = lead(world, limits={limit: number})
    begun = world.stream(made, model="sonnet")
    held, error = begun.output, None
    while error is None:
        try:
            held = world.gateway.grow(begun.id, held + 100)
        except KernelError as refusal:
            error = refusal
    assert (error.code, error.rule) == (code, limit)
    assert held <= begun.room
    most = 1000 - 10 if limit != "max_cost_usd" else (15_000 - 37.5) // 15
    assert held == most
    assert world.of(ResourceRefused) == [ResourceRefused(made.pid, "lead", limit)]
    world.gateway.settle(begun.id, Used(10, held))
    assert world.limits.used(made, "max_tokens_total") == 10 + held
    assert world.limits.used(made, "max_cost_usd") <= 0.015


def test_a_group_ends_a_stream_on_its_way(world: World) -> None:
    made = lead(world)
    world.groups.create(OPERATOR, "", "team")
    world.groups.set_limit(OPERATOR, "team", "tokens", 500)
    world.groups.move(OPERATOR, made.pid, "team")
    begun = world.stream(made)
    world.groups.move(OPERATOR, made.pid, "")  # the call stays where it began
    held = begun.output
    while held < 490:
        held = world.gateway.grow(begun.id, held + 300)
    error = refused(world.gateway.grow, begun.id, held + 1)
    assert (error.code, error.rule) == ("EDQUOT", "group team: tokens.max")
    world.gateway.settle(begun.id, Used(10, 100))
    assert world.groups.groups.get("team").tokens == 110


def test_the_number_of_calls_and_their_rate_are_limited(world: World) -> None:
    made = lead(world, limits={"max_llm_calls": 2})
    world.gateway.drop(world.begin(made).id)
    for _ in range(2):
        world.begin(made)
    assert refused(world.begin, made).rule == "max_llm_calls"
    other = world.child("other", tier="tactical", limits={"llm_calls_per_minute": 1})
    first = world.begin(other)
    world.clock.advance(20)
    error = refused(world.begin, other)
    assert (error.code, error.rule) == ("EAGAIN", "llm_calls_per_minute")
    assert error.retry_after == 40
    world.gateway.drop(first.id)
    world.begin(other, instead_of="sonnet")  # a fallback is no further call


def test_open_calls_are_limited(world: World) -> None:
    world.set_pool(max_open_calls=1)
    made = world.child("made", tier="tactical")
    world.begin(made)
    error = refused(world.begin, made)
    assert (error.code, error.rule, error.retry_after) == ("EAGAIN", "max_open_calls", 1.0)


def test_on_limit_is_followed(world: World) -> None:
    skipping = lead(world, 50, on_limit="skip")
    assert refused(world.begin, skipping, 100, read=60).code == "EDQUOT"
    stopped = world.child("stopped", tier="tactical", budget={"tactical": 50}, on_limit="stop")
    assert refused(world.begin, stopped, 100, read=60).code == "EDQUOT"
    assert world.of(ResourceStopped) == [ResourceStopped(stopped.pid, "stopped", "budget tactical")]


def test_a_warning_comes_once_80_percent_are_used(world: World) -> None:
    made = lead(world, 100)
    world.gateway.settle(world.begin(made, 80).id, Used(10, 75))
    assert [event.used for event in world.of(ResourceWarning)] == [85]
    assert world.of(ResourceExceeded) == []


# -- ends ----------------------------------------------------------------------------------------


def test_the_end_of_its_program_charges_what_has_come(world: World) -> None:
    made, uses = lead(world), world.uses()
    begun = world.stream(made)
    world.gateway.progress(begun.id, 25)
    world.calls.program_ended(made, 1)
    assert [(use.tokens, use.estimated) for use in uses] == [(35, True)]
    assert refused(world.gateway.settle, begun.id, Used(1, 1)).code == "ENOENT"


def test_a_gateway_that_dies_leaves_nothing_open(world: World) -> None:
    made, uses = lead(world), world.uses()
    for tokens in (10, 20):
        world.gateway.progress(world.stream(made).id, tokens)
    own = world.llm(made, 100)
    assert world.gateway.charge_lost() == 2
    assert [(use.tokens, use.estimated) for use in uses] == [(20, True), (30, True)]
    assert [call.id for call in world.calls] == [own]
    assert world.figures(made) == (5000, 50, 100, 4850)


def test_a_daemon_that_dies_charges_what_was_told_once_a_second(world: World) -> None:
    made = lead(world)
    number = world.stream(made).id
    for tokens in (5, 6, 7):
        world.gateway.progress(number, tokens)
        world.clock.advance(0.5)
    world.gateway.progress(number, 8)
    again = world.restarted()
    try:
        assert again.accounting.sums("agent", "lead").output == 7
        assert again.figures(made) == (5000, 17, 0, 4983)
        assert list(again.calls) == []
    finally:
        again.close()


def test_nobody_but_the_gateway_settles_its_calls(world: World) -> None:
    made = lead(world)
    number = world.begin(made).id
    for call in (world.calls.settle, world.calls.cancel):
        error = refused(call, as_agent(made), made.pid, number)
        assert (error.code, error.rule) == ("EPERM", "gateway")
    world.calls.end(as_agent(made), made.pid, number)
    assert world.of(CallCancelled) == [CallCancelled(made.pid, "lead", number)]
    own = world.llm(made, 10)
    assert refused(world.gateway.drop, own).errno == errno.ENOENT
    world.calls.end(as_agent(made), made.pid, own)
    assert [call.id for call in world.calls] == [number]
    other = world.child("other", tier="tactical")
    assert refused(world.calls.end, as_agent(other), made.pid, number).code == "EACCES"


def test_a_price_that_changes_meanwhile_counts_at_the_end(world: World) -> None:
    made, uses = lead(world), world.uses()
    begun = world.stream(made, model="sonnet")
    world.models.replace(MODELS.replace("output: 15", "output: 30"))
    assert world.gateway.grow(begun.id, begun.output + 10) == begun.output + 10
    world.models.replace("models: {}")
    assert world.gateway.grow(begun.id, begun.output + 20) == begun.output + 20
    world.gateway.settle(begun.id, Used(10, 10))
    assert uses[0].cost == 0


def test_a_call_of_the_operator_is_charged_after_a_crash(world: World) -> None:
    begun = world.stream(world.table.get(1), model="opus")
    world.gateway.progress(begun.id, 9)
    again = world.restarted()
    try:
        assert again.accounting.sums("agent", "init").output == 9
        assert list(again.calls) == []
    finally:
        again.close()
