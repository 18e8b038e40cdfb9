"""The hand-over: what comes for a reader that waits is claimed for it in the sender's transaction,
as it would be in its own, and comes back if no read gives it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from agentfs.base.errors import KernelError
from agentfs.mail.message import Draft, Message, Priority
from agentfs.mail.readers import Reader
from agentfs.model.process import Process, State
from agentfs.mount.parking import Client, Parking
from agentfs.providers.maildir import Mailroom
from agentfs.providers.recv import Recv, RecvBatch
from agentfs.vfs.caller import Caller
from tests.world import GID, OPERATOR, UID, World


class Parked:
    """A reader of `name` that waits in a read."""

    def __init__(self, world: World, name: str, box: str = "", most: int = 1) -> None:
        self.world = world
        self.principal = world.principal(name)
        self.box = box or name
        self.most = most
        self.reader = Reader(self.box)
        self.woken = 0
        assert self.read() == []
        self.join()

    def wake(self) -> None:
        self.woken += 1

    def join(self) -> None:
        receiving = self.world.mail.receiving
        receiving.wait(self.principal, self.box, self.reader, self.wake, self.most)

    def read(self) -> list[Message]:
        """What its read is answered with; empty if it goes on waiting."""
        receiving = self.world.mail.receiving
        if self.most > 1:
            return receiving.claim_batch(self.principal, self.box, self.most, self.reader)
        message = receiving.claim_next(self.principal, self.box, self.reader)
        return [] if message is None else [message]

    def end(self) -> None:
        """The read ends, with an answer or without."""
        receiving = self.world.mail.receiving
        receiving.wait_no_more(self.box, self.wake)
        receiving.put_back(self.reader)
        receiving.hand_on(self.box)

    @property
    def handed(self) -> list[str]:
        return [self.world.body(message) for message in self.reader.handed]


@pytest.fixture
def alice(world: World) -> Process:
    return world.process("alice")


@pytest.fixture
def bob(world: World) -> Process:
    return world.process("bob")


def audited(world: World, since: int) -> list[tuple[str, list[str]]]:
    """Who made which changes, a pair for each record after `since`."""
    rows = world.store.read("SELECT record FROM audit WHERE seq > ? ORDER BY seq", (since,))
    records: list[dict[str, Any]] = [json.loads(row[0]) for row in rows]
    return [(each["actor"]["name"], [c["type"] for c in each["changes"]]) for each in records]


# -- one transaction, two records ------------------------------------------------------------------


def test_it_is_one_transaction_with_a_record_of_each(
    world: World, alice: Process, bob: Process
) -> None:
    waits = Parked(world, "bob")
    seq, commits = world.kernel.audit.seq, world.store.commits
    sent = world.send("alice", "bob", "one")
    assert world.store.commits == commits + 1
    assert (sent.folder, sent.claimed_by, sent.claimant, sent.attempt) == ("cur", bob.pid, "bob", 1)
    assert (waits.woken, bob.state) == (1, State.RUNNING)
    assert waits.read() == [sent]
    assert world.store.commits == commits + 1, "the answer changes nothing"
    waits.end()
    assert sent.folder == "cur"
    assert audited(world, seq) == [
        ("alice", ["message_arrived"]),
        ("bob", ["message_claimed", "state_changed"]),
    ]
    assert world.kinds() == ["message_arrived", "message_claimed"]
    assert waits.read() == []
    assert sent.folder == "done", "asking for the next acknowledges it, as always"


def test_the_record_of_the_reader_is_its_own_though_more_of_the_sender_follows(
    world: World, alice: Process, bob: Process
) -> None:
    first, second = Parked(world, "bob"), Parked(world, "alice")
    seq = world.kernel.audit.seq
    with world.store.transaction():
        world.store.act_for(world.principal("alice"))
        for name in ("bob", "alice"):
            world.mail.notify(name, b"note", [])
    assert (first.handed, second.handed) == (["note"], ["note"])
    assert [who for who, _ in audited(world, seq)] == ["alice", "bob", "alice"]
    assert audited(world, seq)[0][1] == ["message_arrived", "message_arrived"]


def test_what_its_loop_had_before_is_acknowledged_with_it(
    world: World, alice: Process, bob: Process
) -> None:
    waits = Parked(world, "bob")
    other = Reader("bob")
    world.send("alice", "bob", "one")
    assert waits.read()
    waits.end()
    world.send("alice", "bob", "two")
    two = world.mail.receiving.claim_next(waits.principal, "bob", other)
    assert two is not None
    late = Parked.__new__(Parked)  # it waits before what it will acknowledge is left to it
    late.world, late.principal, late.box, late.most = world, waits.principal, "bob", 1
    late.reader, late.woken = Reader("bob"), 0
    assert late.read() == []
    late.join()
    world.mail.receiving.leave(other)
    three = world.send("alice", "bob", "three")
    assert (two.folder, three.folder) == ("done", "cur")
    assert late.read() == [three]


# -- who gets it -----------------------------------------------------------------------------------


def test_of_several_readers_each_gets_one_in_the_order_in_which_they_came(
    world: World, alice: Process, bob: Process
) -> None:
    readers = [Parked(world, "bob") for _ in range(3)]
    for number in range(2):
        world.send("alice", "bob", f"{number}")
    assert [each.handed for each in readers] == [["0"], ["1"], []]
    assert [each.woken for each in readers] == [1, 1, 0]


def test_it_is_the_one_that_is_first_in_the_order_of_delivery(
    world: World, alice: Process, bob: Process
) -> None:
    waits = Parked(world, "bob")
    with world.store.transaction():
        world.send("alice", "bob", "later", priority=Priority.LOW, on_purpose=True)
        world.send("alice", "bob", "first", priority=Priority.CRITICAL, on_purpose=True)
    assert waits.handed == ["first"]
    assert world.waiting("bob") == ["later"]


def test_what_somebody_was_woken_for_is_left_to_him(
    world: World, alice: Process, bob: Process
) -> None:
    first, second = Parked(world, "bob"), Parked(world, "bob")
    kept = world.mail.boxes.offer
    world.mail.boxes.offer = lambda name: None
    world.send("alice", "bob", "one")
    world.mail.boxes.offer = kept
    assert (first.woken, first.handed, second.woken) == (1, [], 0)
    world.send("alice", "bob", "two")
    assert second.handed == ["one"], "it is first in the order of delivery"
    assert [world.body(each) for each in first.read()] == ["two"]


def test_a_batch_is_handed_over_up_to_its_size(world: World, alice: Process, bob: Process) -> None:
    waits = Parked(world, "bob", most=3)
    with world.store.transaction():
        sent = [world.send("alice", "bob", f"{number}") for number in range(4)]
    assert [each.folder for each in sent] == ["cur", "cur", "cur", "new"]
    assert waits.read() == sent[:3]


def test_a_batch_has_no_more_than_its_process_may_have(world: World, alice: Process) -> None:
    world.process("carol", max_concurrent_tasks=2)
    waits = Parked(world, "carol", most=10)
    with world.store.transaction():
        for number in range(4):
            world.send("alice", "carol", f"{number}")
    assert waits.handed == ["0", "1"]


def test_of_a_queue_each_takes_its_own(world: World, alice: Process, bob: Process) -> None:
    queue = world.kernel.queues.create(OPERATOR, "jobs", 0o666)
    readers = [Parked(world, name, queue.mailbox) for name in ("alice", "bob")]
    seq = world.kernel.audit.seq
    sent = [world.kernel.queues.send(OPERATOR, queue, job(world, text)) for text in "01"]
    assert [each.claimed_by for each in sent] == [alice.pid, bob.pid]
    assert [each.handed for each in readers] == [["0"], ["1"]]
    assert [who for who, _ in audited(world, seq)] == ["init", "alice", "init", "bob"]


def job(world: World, text: str) -> Draft:
    return Draft.parse(text.encode(), now=world.clock.now(), to="jobs", forwarded=True)


def test_a_broadcast_is_handed_to_everybody_who_waits(
    world: World, alice: Process, bob: Process
) -> None:
    world.process("carol")
    waits = Parked(world, "bob")
    world.send("init", "*", "all")
    assert waits.handed == ["all"]
    assert world.waiting("carol") == ["all"]


# -- decided as in the reader's own transaction ----------------------------------------------------


def test_a_queue_that_the_reader_may_not_take_from_any_more_keeps_it(
    world: World, alice: Process, bob: Process
) -> None:
    queue = world.kernel.queues.create(OPERATOR, "jobs", 0o666)
    waits = Parked(world, "bob", queue.mailbox)
    world.kernel.queues.chmod(OPERATOR, "jobs", 0o600)
    sent = world.kernel.queues.send(OPERATOR, queue, job(world, "secret"))
    assert (sent.folder, waits.handed, waits.woken) == ("new", [], 1)
    with pytest.raises(KernelError) as refused:
        waits.read()
    assert refused.value.errno == errno.EACCES


def test_who_may_claim_no_more_this_minute_is_told_so_himself(world: World, alice: Process) -> None:
    carol = world.process("carol", claims_per_minute=1)
    world.kernel.rates._look_at(carol.pid)
    waits = Parked(world, "carol")
    one = world.send("alice", "carol", "one")
    assert waits.read() == [one]
    waits.end()
    assert waits.read() == []
    waits.join()
    two = world.send("alice", "carol", "two")
    assert (two.folder, waits.handed, waits.woken) == ("new", [], 2)
    with pytest.raises(KernelError) as refused:
        waits.read()
    assert (refused.value.errno, refused.value.rule) == (errno.EAGAIN, "claims_per_minute")
    world.clock.advance(60)
    assert waits.read() == [two]


def test_a_process_that_has_all_its_tasks_gets_it_when_one_ends(
    world: World, alice: Process
) -> None:
    carol = world.process("carol", max_concurrent_tasks=1)
    waits = Parked(world, "carol")
    claimed = world.send("alice", "carol", "by name")
    waits.end()
    assert claimed.folder == "new", "nobody read it: it waits again"
    world.mail.delivery.claim(world.principal("carol"), "carol", claimed.file, "held:2,")
    assert waits.read() == []
    waits.join()
    sent = world.send("alice", "carol", "two")
    assert (sent.folder, waits.handed) == ("new", [])
    world.mail.delivery.acknowledge(world.principal("carol"), "carol", "cur", "held:2,")
    assert waits.woken == 2
    assert waits.read() == [sent]
    assert world.mail.delivery.tasks.count(carol.pid) == 1


def test_a_process_that_has_ended_gets_nothing(world: World, alice: Process, bob: Process) -> None:
    waits = Parked(world, "bob")
    world.end(bob, 0)
    sent = world.send("alice", "bob", "late")
    assert (sent.folder, waits.handed) == ("new", [])


def test_one_that_has_expired_on_its_way_goes_to_nobody(
    world: World, alice: Process, bob: Process
) -> None:
    waits = Parked(world, "bob")
    with world.store.transaction():
        sent = world.send("alice", "bob", "soon over", expires=world.clock.now() + 1)
        world.clock.advance(2)
    assert waits.handed == []
    assert waits.read() == []
    assert sent.folder == "expired"


def test_a_message_that_is_a_dead_letter_at_once_goes_to_nobody(
    world: World, alice: Process, bob: Process
) -> None:
    waits = Parked(world, "bob")
    with world.store.transaction():
        sent = world.send("alice", "bob", "looped")
        world.mail.delivery.give_up(sent, "it went round")
    assert (sent.folder, waits.handed, waits.read()) == ("dead", [], [])


@pytest.mark.parametrize("room", [1, 2])
def test_the_audit_has_to_have_room_for_both_records(
    world: World, alice: Process, bob: Process, room: int
) -> None:
    waits = Parked(world, "bob")
    kept = world.kernel.audit.pruning.kept + 1  # with that of the change of the settings
    world.settings.replace(f"audit: {{max_records: {kept + room}, when_full: stop}}")
    sent = world.send("alice", "bob", "one")
    assert sent.folder == ("new" if room == 1 else "cur")
    assert world.kernel.audit.pruning.kept == kept + room
    if room == 1:
        with pytest.raises(KernelError) as refused:
            waits.read()
        assert refused.value.rule == "audit.when_full"


# -- not done after all ----------------------------------------------------------------------------


def test_a_send_that_fails_at_the_last_moment_leaves_everything_as_it_was(
    world: World, alice: Process, bob: Process
) -> None:
    readers = [Parked(world, "bob") for _ in range(2)]
    before = world.memory(), world.stored(), world.kernel.audit.seq
    full = [True]

    def commit() -> None:
        if full.pop():
            raise KernelError(errno.ENOSPC, "no space is left on the disk")

    world.store.before_commit.append(commit)
    with pytest.raises(KernelError):
        world.send("alice", "bob", "refused")
    world.store.before_commit.remove(commit)
    assert (world.memory(), world.stored(), world.kernel.audit.seq) == before
    assert [(each.woken, each.handed, each.reader.claimed) for each in readers] == [
        (0, [], False)
    ] * 2
    world.send("alice", "bob", "one")
    assert [each.handed for each in readers] == [["one"], []], "the order is the same"


def test_what_no_read_gave_waits_again_in_its_place_and_was_no_attempt(
    world: World, alice: Process, bob: Process
) -> None:
    waits = Parked(world, "bob")
    one = world.send("alice", "bob", "one")
    two = world.send("alice", "bob", "two")
    waits.end()
    assert (one.folder, one.file, one.attempt, bob.state) == (
        "new",
        "000000000001.alice",
        1,
        State.IDLE,
    )
    assert world.kinds()[-1] == "message_returned"
    assert (waits.read(), waits.read()) == ([one], [two])
    assert one.attempt == 1


def test_what_comes_back_goes_to_the_next_that_waits(
    world: World, alice: Process, bob: Process
) -> None:
    first, second = Parked(world, "bob"), Parked(world, "bob")
    sent = world.send("alice", "bob", "one")
    first.end()
    assert second.woken == 1
    assert second.read() == [sent]
    assert sent.attempt == 1


@pytest.mark.parametrize("code", [0, 137])
def test_a_program_that_ends_before_the_answer_acknowledges_nothing(
    world: World, alice: Process, bob: Process, code: int
) -> None:
    waits = Parked(world, "bob")
    sent = world.send("alice", "bob", "one")
    world.end(bob, code, restart=True)
    assert (sent.folder, sent.attempt) == ("new", 1)
    waits.end()
    assert (sent.folder, sent.attempt) == ("new", 1)


def test_closing_the_file_while_a_read_waits_leaves_it_to_that_read(
    world: World, alice: Process, bob: Process
) -> None:
    waits = Parked(world, "bob")
    one = world.send("alice", "bob", "one")
    world.mail.receiving.leave(waits.reader)
    two = world.send("alice", "bob", "two")
    fresh = Reader("bob")
    assert world.mail.receiving.claim_next(waits.principal, "bob", fresh) is two
    assert one.folder == "cur", "nobody has read it: asking for the next does not acknowledge it"
    with pytest.raises(KernelError):
        world.mail.receiving.settle(waits.principal, "bob", "done", reader=Reader("bob"))
    assert waits.read() == [one]


def test_what_is_acknowledged_by_name_before_the_answer_is_not_given(
    world: World, alice: Process, bob: Process
) -> None:
    waits = Parked(world, "bob")
    one = world.send("alice", "bob", "one")
    world.mail.delivery.acknowledge(waits.principal, "bob", "cur", one.file)
    assert waits.read() == []
    assert one.folder == "done"


def test_a_disk_that_is_full_keeps_it_claimed_until_there_is_room(
    world: World, alice: Process, bob: Process
) -> None:
    waits = Parked(world, "bob")
    one = world.send("alice", "bob", "one")

    def commit() -> None:
        raise KernelError(errno.ENOSPC, "no space is left on the disk")

    world.store.before_commit.append(commit)
    waits.end()
    assert one.folder == "cur"
    world.store.before_commit.remove(commit)
    world.mail.receiving.tidy()
    assert (one.folder, one.attempt) == ("new", 1)


def test_a_daemon_that_dies_before_the_answer_gives_it_again_as_the_next_attempt(
    world: World, alice: Process, bob: Process
) -> None:
    Parked(world, "bob")
    number = world.send("alice", "bob", "one").seq
    world.restart()
    message = world.mail.receiving.claim_next(world.principal("bob"), "bob", Reader("bob"))
    assert message is not None
    assert (message.seq, message.attempt) == (number, 2)


# -- reads that wait in the mount ------------------------------------------------------------------


@pytest.fixture
def reading() -> Iterator[int]:
    """A process that stands in a read, as far as signals go: they stay pending."""
    child = subprocess.Popen(["sleep", "1000"])
    try:
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        yield child.pid
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("kind", [Recv, RecvBatch])
@pytest.mark.parametrize("killed", [False, True])
async def test_a_read_gives_it_or_gives_it_back_if_a_signal_ends_it(
    world: World, alice: Process, bob: Process, reading: int, kind: type[Recv], killed: bool
) -> None:
    principal = world.principal("bob")
    parking = Parking(world.kernel.shares.charge, lambda: None, lambda: False)
    handle = kind(
        Mailroom(world.kernel, "bob", ("inbox", "bob")), Caller(principal, UID, GID, reading)
    )
    answers: list[bytes] = []
    errors: list[int] = []

    async def read() -> None:
        try:
            client = Client(principal, reading, 0, 0)
            answers.append(await parking.read(handle, 4096, lambda: client))
        except KernelError as ended:
            errors.append(ended.errno)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        sent = world.send("alice", "bob", "one")
        assert sent.folder == "cur"
        if killed:
            os.kill(reading, signal.SIGTERM)
    if killed:
        assert (answers, errors) == ([], [errno.EINTR])
        assert (sent.folder, sent.attempt) == ("new", 1)
    else:
        assert ([b"\n\none" in answer for answer in answers], errors) == ([True], [])
        assert (sent.folder, sent.attempt) == ("cur", 1)
