"""Queues without files: who may, what is counted, what survives, who waits for room."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.mail.message import Draft, Message
from agentfs.model.principal import Kind, Principal
from agentfs.model.process import Process, Role, State
from agentfs.shared.events import QueuePurged, QueueRemoved
from agentfs.shared.queues import PURGE_BATCH, Queue
from tests.world import GID, OPERATOR, UID, World

JOBS = "queues/jobs"


class QueueWorld(World):
    """A world with queues in it."""

    def _start(self) -> None:
        super()._start()
        self.queues = self.kernel.queues

    def queue(self, name: str = "jobs", owner: str = "init", mode: int = 0o777) -> Queue:
        return self.queues.create(self.principal(owner), name, mode)

    def put(self, sender: str, text: str = "hello", name: str = "jobs") -> Message:
        queue = self.queues.get(name)
        draft = Draft.parse(text.encode(), now=self.clock.now(), to=queue.mailbox)
        return self.queues.send(self.principal(sender), queue, draft)

    def take(self, who: str, name: str = "jobs") -> Message | None:
        return self.mail.receiving.claim_next(self.principal(who), f"queues/{name}")

    def configure(self, text: str) -> None:
        self.settings.replace(text)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[QueueWorld]:
    world = QueueWorld(tmp_path)
    yield world
    world.close()


@pytest.fixture
def ann(world: QueueWorld) -> Process:
    return world.process("ann")


@pytest.fixture
def bob(world: QueueWorld) -> Process:
    return world.process("bob")


def refuses(code: int, call: Callable[..., object], *arguments: object, **more: object) -> str:
    with pytest.raises(KernelError) as caught:
        call(*arguments, **more)
    assert caught.value.errno == code, caught.value
    return caught.value.reason


def test_the_life_of_a_queue(world: QueueWorld, ann: Process, bob: Process) -> None:
    queue = world.queue(owner="ann")
    assert (str(queue), queue.mailbox, queue.ownership.owner) == ("queue jobs", JOBS, "ann")
    sent = world.put("bob", "Subject: one\n\n1")
    assert world.header(sent, "To") == JOBS
    assert world.header(sent, "Relation") == "other"
    refuses(errno.ENOTEMPTY, world.queues.remove, world.principal("ann"), "jobs")
    taken = world.take("bob")
    assert taken is sent
    assert (sent.claimed_by, sent.claimant, bob.state) == (bob.pid, "bob", State.RUNNING)
    refuses(errno.ENOTEMPTY, world.queues.remove, world.principal("ann"), "jobs")
    world.mail.receiving.settle(world.principal("bob"), JOBS, "done")
    assert world.mail.archive.sent("bob")[sent.seq].folder == "done"
    refuses(errno.EPERM, world.queues.remove, world.principal("bob"), "jobs")
    world.queues.remove(world.principal("ann"), "jobs")
    assert queue.removed
    refuses(errno.ESTALE, world.queues.send, OPERATOR, queue, Draft(JOBS, b""))
    refuses(errno.ENOENT, world.take, "bob")
    assert list(world.queues) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "x" * 65, "ä", "a\n"])
def test_a_name_that_is_none_is_refused(world: QueueWorld, name: str) -> None:
    refuses(errno.EINVAL, world.queue, name)


def test_names_that_differ_never_share_a_message(world: QueueWorld) -> None:
    names = ["a-b", "a_b", "a.b", "A-b", "a-B", "ab"]
    for name in names:
        world.queue(name)
        world.put("init", name, name)
    refuses(errno.EEXIST, world.queue, "a-b")
    world.restart()
    for name in names:
        message = world.take("init", name)
        assert message is not None
        assert world.body(message) == name
        assert world.take("init", name) is None


def test_everything_is_there_after_a_crash(world: QueueWorld, ann: Process, bob: Process) -> None:
    world.queue(owner="ann", mode=0o730)
    world.queues.set_limit(world.principal("ann"), "jobs", 5)
    one, two = world.put("ann", "one"), world.put("ann", "two")
    assert world.take("ann") is one
    world.restart()
    queue = world.queues.get("jobs")
    assert (queue.ownership.owner, queue.ownership.mode, queue.limit) == ("ann", 0o730, 5)
    box = world.queues.box(queue)
    assert [m.seq for m in box.new.values()] == [two.seq]
    (claimed,) = box.cur.values()
    assert (claimed.seq, claimed.claimed_by) == (one.seq, ann.pid)
    again = world.take("ann")  # whether its reader got it before the crash, nobody knows
    assert again is not None
    assert (again.seq, again.attempt) == (one.seq, 2)


def test_a_removed_queue_stays_removed_and_its_name_is_free(world: QueueWorld) -> None:
    world.queue()
    world.put("init")
    world.queues.remove(OPERATOR, "jobs", force=True)
    world.restart()
    refuses(errno.ENOENT, world.queues.get, "jobs")
    world.queue()
    assert world.take("init") is None


def test_what_a_consumer_had_when_it_died_comes_back_from_every_queue(
    world: QueueWorld, ann: Process, bob: Process
) -> None:
    world.queue("one"), world.queue("two")
    first, second = world.put("init", "1", "one"), world.put("init", "2", "two")
    assert world.take("ann", "one") is first
    assert world.take("ann", "two") is second
    world.end(ann, 137)
    assert (first.folder, first.attempt) == ("new", 2)
    assert world.take("bob", "one") is first
    assert world.take("bob", "two") is second
    world.end(bob, 0)  # a clean end acknowledges the last
    assert (first.folder, second.folder) == ("done", "done")


def bury(world: QueueWorld) -> Message:
    """A message that five workers died of."""
    sent = world.put("init", "poison")
    for attempt in range(1, 6):
        worker = world.process(f"worker{attempt}")
        taken = world.take(worker.name)
        assert taken is sent
        assert sent.attempt == attempt
        world.end(worker, 1)
    assert sent.folder == "dead"
    return sent


def test_a_poison_message_is_given_up_after_five(world: QueueWorld) -> None:
    world.queue()
    bury(world)
    assert world.queues.box(world.queues.get("jobs")).dead
    refuses(errno.ENOTEMPTY, world.queues.remove, OPERATOR, "jobs")


def test_claiming_in_one_queue_leaves_what_was_claimed_in_another(
    world: QueueWorld, ann: Process
) -> None:
    world.queue("one"), world.queue("two")
    first = world.put("init", "1", "one")
    world.put("init", "2", "two")
    letter = world.send("init", "ann")
    world.take("ann", "one")
    world.take("ann", "two")
    assert world.recv("ann") == "hello"
    assert first.folder == letter.folder == "cur"


def test_what_the_operator_claims_times_out(world: QueueWorld) -> None:
    world.queue()
    sent = world.put("init")
    world.take("init")
    world.clock.advance(3599)
    assert world.release_stale() == 0
    world.clock.advance(2)
    assert world.release_stale() == 1
    assert (sent.folder, sent.attempt) == ("new", 2)


def test_the_more_urgent_is_delivered_first_whoever_sent_it(
    world: QueueWorld, ann: Process
) -> None:
    world.queue()
    for sender, priority in (("init", "low"), ("ann", "normal"), ("init", "critical")):
        world.put(sender, f"Priority: {priority}\n\n{priority}")
    taken = [world.take("ann") for _ in range(3)]
    assert [world.body(m) for m in taken if m] == ["critical", "normal", "low"]


# -- who may ---------------------------------------------------------------------------------------


def test_the_mode_holds_between_agents_of_one_user(
    world: QueueWorld, ann: Process, bob: Process
) -> None:
    world.queue(owner="ann", mode=0o700)
    refuses(errno.EACCES, world.put, "bob")
    refuses(errno.EACCES, world.take, "bob")
    world.put("ann")
    refuses(errno.EPERM, world.queues.chmod, world.principal("bob"), "jobs", 0o777)
    world.queues.chmod(world.principal("ann"), "jobs", 0o733)
    world.put("bob")
    refuses(errno.EACCES, world.take, "bob")
    world.queues.chmod(OPERATOR, "jobs", 0o744)
    refuses(errno.EACCES, world.put, "bob")
    assert world.take("bob") is not None


@pytest.mark.parametrize("kind", [Kind.USER, Kind.STRANGER])
def test_who_is_no_agent_changes_nothing(world: QueueWorld, kind: Kind) -> None:
    queue = world.queue()
    world.put("init")
    nobody = Principal(kind, None, "nobody", UID, GID)
    refuses(errno.EACCES, world.queues.create, nobody, "mine", 0o777)
    refuses(errno.EACCES, world.queues.send, nobody, queue, Draft(JOBS, b""))
    refuses(errno.EACCES, world.mail.receiving.claim_next, nobody, JOBS)
    refuses(errno.EACCES, world.queues.remove, nobody, "jobs")


def test_a_task_sends_to_its_parents_queue_only_and_takes_from_any(
    world: QueueWorld, ann: Process
) -> None:
    task = world.process("tim", ann.pid, Role.TASK)
    world.queue("parents", owner="ann")
    world.queue("inits")
    world.put("tim", name="parents")
    reason = refuses(errno.EACCES, world.put, "tim", name="inits")
    assert "is a task" in reason
    refuses(errno.EACCES, world.queue, "own", owner="tim")
    world.put("ann", name="inits")
    assert world.take("tim", "inits") is not None
    assert task.state is State.RUNNING


def test_a_queue_outlives_its_owner_with_its_messages(world: QueueWorld, ann: Process) -> None:
    world.queue(owner="ann", mode=0o700)
    sent = world.put("ann", "kept")
    world.end(ann, 0)
    world.table.remove(ann.pid)
    world.agents.remove(OPERATOR, "ann")
    assert world.queues.get("jobs").ownership.owner == "init"
    world.restart()
    world.process("ann")  # another one of that name
    refuses(errno.EACCES, world.take, "ann")
    taken = world.take("init")
    assert taken is not None
    assert taken.seq == sent.seq


# -- how much --------------------------------------------------------------------------------------


def test_a_full_queue_refuses_until_one_is_claimed(world: QueueWorld) -> None:
    queue = world.queue()
    world.queues.set_limit(OPERATOR, "jobs", 2)
    world.put("init"), world.put("init")
    assert "2 messages wait" in refuses(errno.ENOSPC, world.put, "init")
    world.take("init")
    assert world.queues.has_room(queue)
    world.put("init")
    refuses(errno.ENOSPC, world.put, "init")
    world.queues.set_limit(OPERATOR, "jobs", None)
    world.put("init")
    world.configure("queues: {max_waiting: 3}\n")
    refuses(errno.ENOSPC, world.put, "init")
    refuses(errno.EINVAL, world.queues.set_limit, OPERATOR, "jobs", 0)


def test_a_dead_letter_goes_back_if_the_queue_has_room_and_not_an_inbox(world: QueueWorld) -> None:
    world.queue()
    dead = bury(world)
    world.configure("messages: {max_waiting: 1}\n")
    world.queues.set_limit(OPERATOR, "jobs", 2)
    world.put("init"), world.put("init")
    back = (OPERATOR, "queues/jobs", dead.id, "again")
    words = refuses(errno.ENOSPC, world.mail.delivery.revive, *back)
    assert "queue jobs is full: 2 messages" in words
    assert dead.folder == "dead"
    world.take("init")
    world.mail.delivery.revive(*back)
    assert dead.folder == "new"


def test_expired_messages_take_no_room(world: QueueWorld) -> None:
    world.queue()
    world.queues.set_limit(OPERATOR, "jobs", 1)
    world.put("init", "Expires: 10s\n\nsoon gone")
    refuses(errno.ENOSPC, world.put, "init")
    world.clock.advance(11)
    world.put("init", "next")
    message = world.take("init")
    assert message is not None
    assert world.body(message) == "next"


def test_room_is_given_in_the_order_in_which_it_was_waited_for(world: QueueWorld) -> None:
    queue = world.queue()
    world.queues.set_limit(OPERATOR, "jobs", 1)
    world.put("init")
    called: list[int] = []
    calls = [lambda n=n: called.append(n) for n in range(4)]
    line = world.queues.line(queue)
    for call in calls:
        line.join(call)
    line.leave(calls[1])
    polled: list[int] = []
    unsubscribe = world.queues.on_room(queue, lambda: polled.append(1))
    world.take("init")
    assert called == [0]
    world.queues.hand_on(queue)  # there is room for one, and one was called
    assert called == [0]
    line.leave(calls[0])
    world.queues.hand_on(queue)  # it did not take it
    assert called == [0, 2]
    world.put("init")
    line.leave(calls[2])
    world.queues.hand_on(queue)  # it did, and there is none now
    assert called == [0, 2]
    world.queues.set_limit(OPERATOR, "jobs", 2)
    assert called == [0, 2, 3]
    assert len(polled) == 2
    line.leave(calls[3])
    assert line.idle
    unsubscribe()
    world.queues.set_limit(OPERATOR, "jobs", 3)
    assert len(polled) == 2


def test_removing_a_queue_wakes_whoever_waits(world: QueueWorld) -> None:
    queue = world.queue()
    called: list[str] = []
    for n in range(2):
        world.queues.line(queue).join(lambda n=n: called.append(f"sender {n}"))
        world.mail.boxes.waiters.line(JOBS).join(lambda n=n: called.append(f"reader {n}"))
    world.queues.remove(OPERATOR, "jobs")
    assert sorted(called) == ["reader 0", "reader 1", "sender 0", "sender 1"]


def test_a_message_wakes_one_reader_and_not_all(world: QueueWorld) -> None:
    world.queue()
    called: list[int] = []
    calls = [lambda n=n: called.append(n) for n in range(200)]
    for call in calls:
        world.mail.boxes.waiters.line(JOBS).join(call)
    world.put("init")
    assert called == [0]
    world.put("init")
    assert called == [0, 1]
    assert world.take("init")  # somebody who did not stand in line
    world.mail.boxes.waiters.line(JOBS).join(calls[0])  # came too late
    world.mail.boxes.waiters.line(JOBS).leave(calls[1])  # is being killed
    world.mail.receiving.hand_on(JOBS)
    assert called == [0, 1, 2]


def test_purging_drops_what_waits_in_pieces_and_says_how_many(
    world: QueueWorld, bob: Process
) -> None:
    world.queue()
    sent = [world.put("bob", str(n)) for n in range(PURGE_BATCH + 3)]
    world.take("bob")
    world.seen.clear()
    dropped = []
    while count := world.queues.purge(OPERATOR, "jobs"):
        dropped.append(count)
    assert dropped == [PURGE_BATCH, 2]
    events = [event for event in world.seen if isinstance(event, QueuePurged)]
    assert [(event.by, event.dropped) for event in events] == [("init", PURGE_BATCH), ("init", 2)]
    assert world.mail.archive.sent("bob")[sent[-1].seq].reason == "init purged queue jobs"
    assert sent[0].folder == "cur"
    world.queues.remove(OPERATOR, "jobs", force=True)
    (event,) = [event for event in world.seen if isinstance(event, QueueRemoved)]
    assert event.dropped == 1


def test_there_is_a_limit_of_queues(world: QueueWorld) -> None:
    world.configure("queues: {max_queues: 2}\n")
    world.queue("a"), world.queue("b")
    refuses(errno.ENOSPC, world.queue, "c")
    world.queues.remove(OPERATOR, "a")
    world.queue("c")


def test_what_cannot_be_stored_is_undone(
    world: QueueWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = world.queue()
    before = world.memory(), queue.record()

    def full() -> None:
        raise KernelError(errno.ENOSPC, "no space is left on the disk")

    world.store.before_commit.append(full)
    for call in (
        lambda: world.queue("other"),
        lambda: world.put("init"),
        lambda: world.queues.chmod(OPERATOR, "jobs", 0o700),
        lambda: world.queues.set_limit(OPERATOR, "jobs", 7),
        lambda: world.queues.remove(OPERATOR, "jobs"),
    ):
        refuses(errno.ENOSPC, call)
    world.store.before_commit.remove(full)
    assert list(world.queues) == ["jobs"]
    assert not queue.removed
    assert (world.memory(), queue.record()) == before


@pytest.mark.parametrize("step", [86400.0, -86400.0])
def test_a_step_of_the_clock_leaves_each_reader_what_it_has(world: QueueWorld, step: float) -> None:
    """Two at one queue: neither gets what the other is at work on, and each ends its own."""
    world.queue()
    for name in ("ann", "bob"):
        world.process(name, timeout_seconds=300)
    sent = [world.put("init", text) for text in ("one", "two", "three", "four")]
    assert [world.take("ann"), world.take("bob")] == sent[:2]
    world.clock.step(step)
    world.timers.run_due()
    assert [world.take("bob"), world.take("ann")] == sent[2:]
    assert [(each.folder, each.attempt) for each in sent[:2]] == [("done", 1)] * 2


def test_ten_thousand_queues_cost_a_message_in_one_of_them_nothing(world: QueueWorld) -> None:
    with world.store.transaction():
        for number in range(10_000):
            world.queue(f"q{number}")
    world.put("init", name="q5000")
    statements: list[str] = []
    world.store._db.set_trace_callback(statements.append)
    touched: list[str] = []
    for box in world.mail.boxes:
        touched.append(box.name)
    world.put("init", name="q5000")
    assert world.take("init", "q5000") is not None
    world.store._db.set_trace_callback(None)
    assert touched == ["queues/q5000"]  # a mailbox comes with its first message
    assert len([s for s in statements if not s.startswith(("BEGIN", "COMMIT"))]) <= 8
