"""Mail against a simple model, over random histories with crashes of agents and of the daemon.

What must hold: nothing that was accepted is lost, nothing that was acknowledged comes back,
attempts only rise, and the order is that of the model, which sorts a list.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentfs.base.errors import KernelError
from agentfs.mail.message import Priority
from tests.world import OPERATOR, World

AGENTS = ("bob", "ghost")
MAX_ATTEMPTS = 3


@dataclass(eq=False)
class Expected:
    """What the model knows of one message."""

    text: str
    level: int
    arrived: float
    expires: float | None
    folder: str = "new"
    attempt: int = 1
    through_recv: bool = False
    doubted: bool = False  # it was claimed through recv when the daemon was killed
    revived: int = 0

    def is_over(self, now: float) -> bool:
        return self.expires is not None and self.expires <= now


class MailMachine(RuleBasedStateMachine):
    """bob has a process, ghost has none; ghost, who is nobody's kin, writes to both."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name))
        self.world.process("bob")
        self.world.agent("ghost")
        self.world.settings.replace(f"messages: {{max_delivery_attempts: {MAX_ATTEMPTS}}}")
        self.model: dict[str, list[Expected]] = {name: [] for name in AGENTS}
        self.sent = 0

    def teardown(self) -> None:
        self.world.close()
        self.folder.cleanup()

    # -- the model -------------------------------------------------------------------------------

    def messages(self, name: str, folder: str) -> list[Expected]:
        return [each for each in self.model[name] if each.folder == folder]

    def expire(self) -> None:
        now = self.world.clock.now()
        for name, messages in self.model.items():
            self.model[name] = [
                each
                for each in messages
                if each.folder != "new" or each.expires is None or each.expires > now
            ]

    def returned(self, name: str, message: Expected) -> None:
        message.through_recv = message.doubted = False
        if message.attempt >= message.revived + MAX_ATTEMPTS:
            message.folder = "dead"
        else:
            message.folder, message.attempt = "new", message.attempt + 1

    def file(self, name: str, folder: str, text: str) -> str:
        files = self.world.mail.mailbox(name).folder(folder)
        [found] = [file for file, message in files.items() if self.world.body(message) == text]
        return found

    # -- what happens ----------------------------------------------------------------------------

    @rule(
        name=st.sampled_from(AGENTS),
        priority=st.sampled_from(list(Priority)),
        ttl=st.sampled_from([None, None, 5, 25]),
        size=st.sampled_from([0, 0, 5000]),
    )
    def send(self, name: str, priority: Priority, ttl: int | None, size: int) -> None:
        text = f"{self.sent}" + "x" * size
        self.sent += 1
        expires = f"Expires: {ttl}s\n" if ttl else ""
        self.world.send("ghost", name, f"Priority: {priority.name}\n{expires}\n{text}")
        now = self.world.clock.now()
        self.model[name].append(Expected(text, priority, now, now + ttl if ttl else None))

    def doubts(self, name: str) -> list[Expected]:
        """What the reader of `name` gets again, because it may never have got it."""
        now = self.world.clock.now()
        return [each for each in self.model[name] if each.doubted and not each.is_over(now)]

    def best(self, name: str) -> list[Expected]:
        """What waits, in the order of delivery."""
        waiting = self.messages(name, "new")
        return sorted(waiting, key=lambda each: 10 * each.level + each.arrived)

    def settled(self, name: str) -> None:
        """Somebody asks for more: what was got through recv before is acknowledged, but for what
        comes again."""
        doubts = self.doubts(name)
        self.model[name] = [
            each for each in self.model[name] if not each.through_recv or each in doubts
        ]

    @rule(name=st.sampled_from(AGENTS))
    def recv(self, name: str) -> None:
        doubts, waiting = self.doubts(name), self.best(name)
        got = self.world.recv(name)
        self.settled(name)
        if doubts:
            assert got == doubts[0].text
            doubts[0].attempt += 1
            doubts[0].doubted = False
        elif waiting:
            assert got == waiting[0].text
            waiting[0].folder, waiting[0].through_recv = "cur", True
        else:
            assert got is None

    @rule(name=st.sampled_from(AGENTS), most=st.integers(1, 4))
    def recv_batch(self, name: str, most: int) -> None:
        doubts = self.doubts(name)
        principal = self.world.principal("bob") if name == "bob" else OPERATOR
        got = self.world.mail.receiving.claim_batch(principal, name, most)
        self.settled(name)
        if not doubts and not self.messages(name, "new"):
            assert got == []
            return
        for each in doubts:
            each.folder, each.attempt = "new", each.attempt + 1
            each.through_recv = each.doubted = False
        batch = self.best(name)[:most]
        assert [self.world.body(message) for message in got] == [each.text for each in batch]
        for each in batch:
            each.folder, each.through_recv = "cur", True

    @precondition(lambda self: any(self.messages(name, "new") for name in AGENTS))
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        name, message = self.pick(data, "new")
        file = self.file(name, "new", message.text)
        self.world.mail.delivery.claim(OPERATOR, name, file, f"{file}:2,S")
        message.folder = "cur"

    @precondition(lambda self: any(self.messages(name, "cur") for name in AGENTS))
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        name, message = self.pick(data, "cur")
        file = self.file(name, "cur", message.text)
        self.world.mail.delivery.put_back(OPERATOR, name, file, file.partition(":")[0])
        message.folder, message.through_recv, message.doubted = "new", False, False
        self.expire()

    @precondition(lambda self: any(self.messages(name, "dead") for name in AGENTS))
    @rule(data=st.data())
    def put_back_a_dead_letter(self, data: st.DataObject) -> None:
        name, message = self.pick(data, "dead")
        file = self.file(name, "dead", message.text)
        if message.is_over(self.world.clock.now()):
            with pytest.raises(KernelError):
                self.world.mail.delivery.revive(OPERATOR, name, file, file)
            return
        self.world.mail.delivery.revive(OPERATOR, name, file, f"{file}.again")
        message.folder, message.revived = "new", message.attempt
        message.attempt += 1

    @precondition(lambda self: any(self.model.values()))
    @rule(data=st.data(), folder=st.sampled_from(["new", "cur", "dead"]))
    def acknowledge(self, data: st.DataObject, folder: str) -> None:
        if any(self.messages(name, folder) for name in AGENTS):
            name, message = self.pick(data, folder)
            file = self.file(name, folder, message.text)
            self.world.mail.delivery.acknowledge(OPERATOR, name, folder, file)
            self.model[name].remove(message)

    def pick(self, data: st.DataObject, folder: str) -> tuple[str, Expected]:
        choices = [(name, each) for name in AGENTS for each in self.messages(name, folder)]
        return choices[data.draw(st.integers(0, len(choices) - 1))]

    @rule(code=st.sampled_from([0, 1, 137]), again=st.booleans())
    def process_ended(self, code: int, again: bool) -> None:
        process = self.world.table.by_name("bob")
        assert process is not None
        self.world.end(process, code, restart=again)
        if not again:
            self.world.process("bob")
        for message in self.messages("bob", "cur"):
            if code == 0 and message.through_recv:
                self.model["bob"].remove(message)
            else:
                self.returned("bob", message)
        self.expire()

    @rule()
    def daemon_killed(self) -> None:
        self.world.restart()
        for messages in self.model.values():
            for message in messages:
                message.doubted = message.through_recv

    @rule(seconds=st.sampled_from([0.5, 3, 11, 31]), timer=st.booleans())
    def time_goes_by(self, seconds: float, timer: bool) -> None:
        self.world.clock.advance(seconds)
        if timer:
            self.world.timers.run_due()
        self.expire()

    # -- what holds ------------------------------------------------------------------------------

    @invariant()
    def the_mailboxes_are_as_the_model_says(self) -> None:
        for name in AGENTS:
            box = self.world.mail.mailbox(name)
            for folder in ("new", "cur", "dead"):
                got = {
                    (self.world.body(message), message.attempt)
                    for message in box.folder(folder).values()
                }
                assert got == {(each.text, each.attempt) for each in self.messages(name, folder)}
            for message in box.new.values():
                said = self.world.header(message, "Delivery-Attempt")
                assert said == (str(message.attempt) if message.attempt > 1 else None)


MailMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, print_blob=True
)
TestMailModel = MailMachine.TestCase
