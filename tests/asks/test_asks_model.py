"""Asks against a simple model, over random histories with crashes of agents and of the daemon.

What must hold: an ask is in the state that the model says, whoever waits is woken when it ends and
not before, its texts are kept as long as it is, and the answer is where its asker looks for it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentfs.mail.message import Message
from tests.world import World

ATTEMPTS = 2


@dataclass
class Expected:
    """What the model knows of one ask."""

    seq: int
    deadline: float
    apart: bool
    state: str = "open"
    answer: str = ""
    kept: bool = True
    woken: bool = False
    watched: bool = False


class AskMachine(RuleBasedStateMachine):
    """alice asks, bob answers or does not; carol replies to what is none of hers."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name))
        for name in ("alice", "bob", "carol"):
            self.world.process(name)
        self.world.settings.replace(
            f"messages: {{max_delivery_attempts: {ATTEMPTS}, max_sent: 2, asks_retention: 60s}}"
        )
        self.asks: list[Expected] = []
        self.inbox: list[str] = []  # bodies that alice is to find, in any order
        self.count = 0

    def teardown(self) -> None:
        self.world.close()
        self.folder.cleanup()

    def those(self, **wanted: object) -> list[Expected]:
        return [each for each in self.asks if all(getattr(each, k) == v for k, v in wanted.items())]

    def pass_time(self) -> None:
        now = self.world.clock.now()
        for each in self.those(state="open"):
            if each.deadline <= now:
                self.close(each, "expired")

    def close(self, each: Expected, state: str) -> None:
        each.state = state
        if not each.apart and state in ("expired", "failed"):
            self.inbox.append(state)

    # -- what happens ----------------------------------------------------------------------------

    @rule(apart=st.booleans(), wait=st.sampled_from([5, 20, 500]))
    def ask(self, apart: bool, wait: int) -> None:
        self.count += 1
        text = f"Reply-By: {wait}s\n\nquestion {self.count}"
        if apart:
            alice = self.world.principal("alice")
            seq = self.world.asks.ask(alice, "alice", f"To: bob\n{text}".encode()).id
        else:
            seq = self.world.send("alice", "bob", text).seq
        self.asks.append(Expected(seq, self.world.clock.now() + wait, apart))
        self.watch(self.asks[-1])

    def watch(self, each: Expected) -> None:
        def wake() -> None:
            each.woken = True

        self.world.asks.on_end(self.world.asks.get("alice", each.seq), wake)
        each.watched = True

    @rule()
    def recv(self) -> None:
        self.world.recv("bob")

    @precondition(lambda self: self.asks)
    @rule(data=st.data(), who=st.sampled_from(["bob", "bob", "carol"]))
    def reply(self, data: st.DataObject, who: str) -> None:
        each = data.draw(st.sampled_from(self.asks))
        self.count += 1
        body = f"reply {self.count}"
        sent = self.world.send(who, "alice", f"In-Reply-To: {each.seq}\n\n{body}")
        if who == "bob" and each.state == "open":
            each.state, each.answer = "answered", body
            if not each.apart:
                self.inbox.append(body)
        else:
            self.inbox.append(body)
        self.check_link(who, each, sent)

    def check_link(self, who: str, each: Expected, sent: Message) -> None:
        linked = self.world.header(sent, "In-Reply-To") is not None
        if who == "carol" or each.state in ("expired", "cancelled"):
            assert not linked
        elif each.answer and self.world.body(sent) == each.answer:
            assert linked

    @precondition(lambda self: self.those(kept=True))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from(self.those(kept=True)))
        self.world.asks.cancel(self.world.principal("alice"), "alice", each.seq)
        if each.state == "open":
            each.state = "cancelled"
        each.kept = False

    @rule(code=st.sampled_from([0, 1]))
    def bob_ends(self, code: int) -> None:
        bob = self.world.table.by_name("bob")
        assert bob is not None
        self.world.end(bob, code, restart=True)
        for each in self.those(state="open"):
            message = self.world.mail.archive.find(each.seq)
            assert message is not None  # it may still be replied to
            if message.folder == "dead":
                self.close(each, "failed")

    @rule()
    def daemon_killed(self) -> None:
        self.world.restart()
        for each in self.those(kept=True):
            each.watched = False
            if each.state == "open":
                self.watch(each)

    @rule(seconds=st.sampled_from([0.5, 6, 21]), timer=st.booleans(), maid=st.booleans())
    def time_goes_by(self, seconds: float, timer: bool, maid: bool) -> None:
        before = self.those(state="open", watched=True)
        self.world.clock.advance(seconds)
        self.pass_time()
        if timer:
            self.world.timers.run_due()
            assert all(each.woken for each in before if each.state != "open")
        if maid:
            self.world.asks.tidy()
            kept = self.world.asks.of("alice")
            for each in self.those(kept=True):
                if each.state != "open" and each.seq not in kept:
                    each.kept = False

    # -- what holds ------------------------------------------------------------------------------

    @invariant()
    def asks_are_as_the_model_says(self) -> None:
        asks = self.world.asks
        found = asks.of("alice")
        assert set(found) == {each.seq for each in self.those(kept=True)}
        for each in self.those(kept=True):
            ask = found[each.seq]
            assert ask.state.value == each.state
            assert asks.question(ask).startswith(f"Message-ID: <{each.seq:012d}@".encode())
            if each.answer:
                assert asks.answer(ask).endswith(f"\n\n{each.answer}".encode())
        for each in self.asks:
            if each.woken:
                assert each.state != "open"

    @invariant()
    def alice_finds_in_her_inbox_what_is_meant_for_it(self) -> None:
        self.world.asks.expire_due()  # as the alarm does in a moment
        got = []
        for message in self.world.mail.mailbox("alice").new.values():
            kind = self.world.header(message, "Type")
            got.append(kind.removeprefix("ask-") if kind else self.world.body(message))
        assert sorted(got) == sorted(self.inbox)


AskMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, print_blob=True
)
TestAskModel = AskMachine.TestCase
