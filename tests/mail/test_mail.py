"""The system calls on messages: accepting, claiming, acknowledging, returning, expiring."""

import errno
import random

import pytest

from agentfs.base.errors import KernelError
from agentfs.mail.events import MessageClaimed, MessageExpired, MessageGivenUp
from agentfs.mail.message import Draft, Priority
from agentfs.mail.overheard import KEPT, KEPT_BYTES
from agentfs.mail.settings import MessageSettings
from agentfs.model.principal import Kind, Principal
from agentfs.model.process import Process, Role, State
from agentfs.process.events import StateChanged
from agentfs.store.part import Part
from tests.storage import without_log
from tests.world import OPERATOR, World


@pytest.fixture
def alice(world: World) -> Process:
    return world.process("alice", role=Role.LEAD)


@pytest.fixture
def bob(world: World, alice: Process) -> Process:
    """A child of alice."""
    return world.process("bob", alice.pid)


def configure(world: World, **messages: object) -> None:
    lines = "".join(f"  {name}: {value}\n" for name, value in messages.items())
    world.settings.replace(f"messages:\n{lines}")


def refuse(world: World, number: int, sender: str, receiver: str, **more: object) -> KernelError:
    """Send, be refused, and see that nothing changed."""
    memory, stored, events = world.memory(), world.stored(), world.events.last
    with pytest.raises(KernelError) as caught:
        world.send(sender, receiver, **more)
    assert caught.value.errno == number
    assert (world.memory(), world.stored(), world.events.last) == (memory, stored, events)
    return caught.value


def test_a_message_from_send_to_acknowledgement(world: World, alice: Process, bob: Process) -> None:
    message = world.send("alice", "bob", "Subject: tea\n\nat five")
    assert (message.file, message.folder, message.sender) == (
        f"{message.seq:012d}.alice",
        "new",
        "alice",
    )
    box = world.mail.mailbox("bob")
    assert (box.new, box.waiting) == ({message.file: message}, 1)
    assert world.mail.receiving.waiting("bob")
    assert world.header(message, "From") == "alice"
    assert world.header(message, "Relation") == "parent"
    assert world.header(message, "Message-ID") == f"<{message.id}@here>"
    me = world.principal("bob")
    name = message.file
    world.mail.delivery.claim(me, "bob", name, f"{name}:2,")
    assert (box.new, list(box.cur), message.claimed_by) == ({}, [f"{name}:2,"], bob.pid)
    world.mail.delivery.flag(me, "bob", f"{name}:2,", f"{name}:2,S")
    assert list(box.cur) == [f"{name}:2,S"]
    world.mail.delivery.acknowledge(me, "bob", "cur", f"{name}:2,S")
    assert (box.cur, world.unfinished()) == ({}, [])
    assert world.kinds() == ["message_arrived", "message_claimed", "message_done"]
    assert (message.folder, message.claimant) == ("done", "bob")


# -- refusals ------------------------------------------------------------------------------------


def test_a_refused_message_changes_nothing(world: World, bob: Process) -> None:
    configure(world, max_size=1024, max_waiting=3)
    task = world.process("task", bob.pid, Role.TASK)
    refuse(world, errno.ENOENT, "alice", "nobody")
    refuse(world, errno.EACCES, "task", "alice")
    refuse(world, errno.EMSGSIZE, "alice", "bob", body=b"x" * 1025)
    refuse(world, errno.EINVAL, "alice", "bob", expires=world.clock.now())
    refuse(world, errno.EINVAL, "init", "bob", filename="a/b")
    world.send("init", "bob", filename="taken")
    refuse(world, errno.EEXIST, "init", "bob", filename="taken")
    for _ in range(2):
        world.send("alice", "bob", body=b"x" * 1024)
    assert "is full" in refuse(world, errno.ENOSPC, "alice", "bob").reason
    refuse(world, errno.ENOSPC, task.name, "bob")
    assert world.recv("bob") == "hello"
    world.send("alice", "bob")


def test_only_the_agent_and_the_operator_use_its_mail(world: World, bob: Process) -> None:
    message = world.send("alice", "bob")
    for principal in (
        world.principal("alice"),
        Principal(Kind.USER, None, "user", 1, 1),
        Principal(Kind.STRANGER, None, "bob", 1, 1),
    ):
        for call in (
            lambda who: world.mail.send(who, "bob", Draft("alice", b"")),
            lambda who: world.mail.check(who, "bob", "alice"),
            lambda who: world.mail.delivery.claim(who, "bob", message.file, "x"),
            lambda who: world.mail.receiving.claim_next(who, "bob"),
            lambda who: world.mail.delivery.put_back(who, "bob", "x", "y"),
            lambda who: world.mail.delivery.flag(who, "bob", "x", "y"),
            lambda who: world.mail.delivery.acknowledge(who, "bob", "new", message.file),
        ):
            with pytest.raises(KernelError) as caught:
                call(principal)
            assert caught.value.errno == errno.EACCES
    assert world.waiting("bob") == ["hello"]


def test_an_agent_whose_process_ended_may_do_nothing(world: World, bob: Process) -> None:
    me = world.principal("bob")
    world.end(bob, 1)
    with pytest.raises(KernelError) as caught:
        world.mail.send(me, "bob", Draft("alice", b""))
    assert caught.value.errno == errno.EACCES


def test_the_default_limits_are_those_of_the_design(world: World) -> None:
    limits = world.settings.of(MessageSettings)
    assert (limits.max_size, limits.max_waiting, limits.max_delivery_attempts) == (
        1024 * 1024,
        10_000,
        5,
    )


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\nb", "\x00", "\udc80", "x" * 256, "ü" * 128]
)
def test_a_file_name_that_is_none_is_refused(world: World, bob: Process, name: str) -> None:
    message = world.send("alice", "bob")
    me = world.principal("bob")
    with pytest.raises(KernelError) as caught:
        world.mail.delivery.claim(me, "bob", message.file, name)
    assert caught.value.errno == errno.EINVAL
    world.mail.delivery.claim(me, "bob", message.file, "ok")
    for call in (world.mail.delivery.flag, world.mail.delivery.put_back):
        with pytest.raises(KernelError) as caught:
            call(me, "bob", "ok", name)
        assert caught.value.errno == errno.EINVAL


def test_a_full_store_refuses_and_changes_nothing(world: World, bob: Process) -> None:
    kept = world.send("alice", "bob", "kept")
    pages = without_log(world.store)._db.execute("PRAGMA page_count").fetchone()[0]
    world.store._db.execute(f"PRAGMA max_page_count = {pages}")
    big = "x" * 500_000
    refusal = refuse(world, errno.ENOSPC, "alice", "bob", body=big.encode())
    assert "full" in refusal.reason
    assert world.body(kept) == "kept"
    world.store._db.execute("PRAGMA max_page_count = 1000000")
    assert world.send("alice", "bob", big).seq == kept.seq + 1
    assert world.kinds() == ["message_arrived"] * 2


# -- routing's consequences ----------------------------------------------------------------------


def overheard(world: World, name: str) -> list[tuple[int, str, str]]:
    return [(each.seq, each.sender, each.receiver) for each in world.mail.overheard.of(name).kept]


def test_a_sibling_message_is_overheard_by_the_parent_and_is_no_mail_of_it(
    world: World, bob: Process
) -> None:
    world.process("carol", bob.ppid)
    message = world.send(
        "bob", "carol", "Priority: high\nType: offer\nSubject: s\nExpires: 1h\n\nlet us meet"
    )
    assert (message.level, world.header(message, "Type")) == (Priority.HIGH, "offer")
    assert world.waiting("alice") == []
    [copy] = world.mail.overheard.of("alice").kept
    assert (copy.seq, copy.sender, copy.receiver) == (message.seq, "bob", "carol")
    assert copy.content == world.mail.content(message)
    assert world.kinds() == ["message_arrived"]


def test_what_is_refused_or_rolled_back_is_not_overheard(world: World, bob: Process) -> None:
    configure(world, max_waiting=1)
    world.process("carol", bob.ppid)
    first = world.send("bob", "carol")
    refuse(world, errno.ENOSPC, "bob", "carol")
    with pytest.raises(ZeroDivisionError), world.store.transaction():
        world.send("carol", "bob")
        raise ZeroDivisionError
    assert overheard(world, "alice") == [(first.seq, "bob", "carol")]


def test_the_newest_copies_are_kept_within_bounds(world: World, bob: Process) -> None:
    world.process("carol", bob.ppid)
    copies = world.mail.overheard.of("alice")
    for _ in range(KEPT + 5):
        last = world.send("bob", "carol").seq
    assert (len(copies.kept), copies.oldest, copies.count) == (KEPT, 5, KEPT + 5)
    assert copies.kept[-1].seq == last
    world.send("bob", "carol", "x" * (KEPT_BYTES // 2))
    world.send("bob", "carol", "y" * (KEPT_BYTES // 2))
    assert copies.bytes == sum(len(each.content) for each in copies.kept) <= KEPT_BYTES
    last = world.send("bob", "carol", "z" * (2 * KEPT_BYTES)).seq
    assert [each.seq for each in copies.kept] == [last]  # the newest, whatever its size
    world.send("bob", "carol")
    assert len(copies.kept) == 1
    assert copies.bytes < KEPT_BYTES


def test_nothing_else_is_overheard(world: World, bob: Process) -> None:
    world.send("alice", "bob")
    world.send("bob", "alice")
    world.send("bob", "bob")
    world.send("init", "bob")
    assert world.kinds() == ["message_arrived"] * 4
    assert [overheard(world, name) for name in ("alice", "bob", "init")] == [[], [], []]


def test_mail_to_an_agent_without_a_process_waits_for_one(world: World, alice: Process) -> None:
    world.agent("later")
    world.send("alice", "later", "see you")
    later = world.process("later", alice.pid)
    assert later.state is State.IDLE
    assert world.recv("later") == "see you"


def test_the_operator_writes_as_an_agent_that_has_no_process(world: World, bob: Process) -> None:
    world.agent("ghost")
    message = world.send("ghost", "bob")
    assert (message.sender, message.relation.value) == ("ghost", "other")


def test_the_operator_is_held_to_a_tasks_rule_when_it_writes_as_one(
    world: World, bob: Process
) -> None:
    world.process("task", bob.pid, Role.TASK)
    with pytest.raises(KernelError) as caught:
        world.mail.send(OPERATOR, "task", Draft("alice", b""))
    assert caught.value.errno == errno.EACCES


# -- order ---------------------------------------------------------------------------------------


def test_recv_gives_the_urgent_first_and_equals_in_order(world: World, bob: Process) -> None:
    world.agent("ghost")  # which is nothing to bob: its priorities are as it says
    for text in ("low", "normal", "critical", "high"):
        for number in (1, 2):
            world.send("ghost", "bob", f"Priority: {text}\n\n{text} {number}")
    got = [world.recv("bob") for _ in range(9)]
    assert got == [
        f"{level} {number}" for level in ("critical", "high", "normal", "low") for number in (1, 2)
    ] + [None]


def test_a_parents_word_is_before_a_strangers_and_the_systems_before_all(
    world: World, bob: Process
) -> None:
    world.agent("ghost")
    for sender in ("ghost", "alice", "init"):
        world.send(sender, "bob", sender)
    assert [world.recv("bob") for _ in range(3)] == ["init", "alice", "ghost"]


def test_a_priority_that_was_said_on_purpose_holds_whoever_said_it(
    world: World, bob: Process
) -> None:
    world.agent("ghost")
    for sender, said in (("init", "low"), ("alice", "normal"), ("ghost", "high")):
        world.send(sender, "bob", f"Priority: {said}\n\n{sender}")
    assert [world.recv("bob") for _ in range(3)] == ["ghost", "alice", "init"]
    for sender, said in (("ghost", "high"), ("init", "high"), ("init", "critical")):
        world.send(sender, "bob", f"Priority: {said}\n\n{sender} {said}")
    assert [world.recv("bob") for _ in range(3)] == ["init high", "init critical", "ghost high"]


@pytest.mark.parametrize(("priority", "seconds"), [("high", 10), ("normal", 20), ("low", 30)])
def test_a_message_overtakes_a_fresh_critical_one_when_it_is_old_enough(
    world: World, bob: Process, priority: str, seconds: int
) -> None:
    world.agent("ghost")
    for late, first in ((-0.01, "fresh"), (0.0, "old"), (0.01, "old")):
        world.send("ghost", "bob", f"Priority: {priority}\n\nold")
        world.clock.advance(seconds + late)
        world.send("ghost", "bob", "Priority: critical\n\nfresh")
        assert world.recv("bob") == first
        assert world.recv("bob") is not None


def test_a_clock_that_is_set_back_does_not_turn_the_order_round(world: World, bob: Process) -> None:
    world.send("alice", "bob", "first")
    world.clock.step(-86_400)
    world.send("alice", "bob", "second")
    world.restart()
    world.send("alice", "bob", "third")
    assert [world.recv("bob") for _ in range(3)] == ["first", "second", "third"]


def test_a_new_rate_of_ageing_is_in_effect_at_once(world: World, bob: Process) -> None:
    world.agent("ghost")
    world.send("ghost", "bob", "Priority: low\n\nold")
    world.clock.advance(20)
    world.send("ghost", "bob", "Priority: critical\n\nfresh")
    configure(world, ageing_per_second=0.2)
    assert world.recv("bob") == "old"


# -- expiry --------------------------------------------------------------------------------------


def test_an_expired_message_is_gone_at_its_time(world: World, bob: Process) -> None:
    world.send("alice", "bob", "Expires: 10s\n\nsoon")
    world.send("alice", "bob", "Expires: 20s\n\nlater")
    world.send("alice", "bob", "for ever")
    world.clock.advance(9.999)
    world.timers.run_due()
    assert world.waiting("bob") == ["soon", "later", "for ever"]
    world.clock.advance(0.001)
    world.timers.run_due()
    assert world.kinds() == ["message_arrived"] * 3 + ["message_expired"]
    assert len(world.timers) == 1
    world.clock.advance(10)
    world.timers.run_due()
    assert world.kinds() == ["message_expired"]
    assert len(world.unfinished()) == 1
    assert len(world.timers) == 0


def test_nobody_sees_an_expired_message_though_the_timer_is_late(
    world: World, bob: Process
) -> None:
    configure(world, max_waiting=1)
    message = world.send("alice", "bob", "Expires: 10s\n\nsoon")
    world.clock.advance(10)
    assert not world.mail.receiving.waiting("bob")
    assert world.mail.mailbox("bob").new == {}
    assert world.recv("bob") is None
    with pytest.raises(KernelError) as caught:
        world.mail.delivery.claim(world.principal("bob"), "bob", message.file, "x")
    assert caught.value.errno == errno.ENOENT
    world.send("alice", "bob", "there is room")


def test_an_expired_message_makes_room_for_the_next(world: World, bob: Process) -> None:
    configure(world, max_waiting=1)
    world.send("alice", "bob", "Expires: 10s\n\nsoon")
    world.clock.advance(10)
    world.mail.check(world.principal("alice"), "alice", "bob")
    assert world.kinds() == ["message_arrived", "message_expired"]


def test_a_claimed_message_does_not_expire_under_its_reader_but_does_not_come_back(
    world: World, bob: Process
) -> None:
    world.send("alice", "bob", "Expires: 10s\n\nsoon")
    assert world.recv("bob") == "soon"
    world.clock.advance(3600)
    world.timers.run_due()
    assert len(world.mail.mailbox("bob").cur) == 1
    world.end(bob, 1)
    assert world.kinds() == ["message_arrived", "message_claimed", "message_expired"]
    assert world.unfinished() == []


def test_expiry_survives_a_restart_and_a_step_of_the_clock(world: World, bob: Process) -> None:
    world.send("alice", "bob", "Expires: 10s\n\nsoon")
    world.send("alice", "bob", "Expires: 1h\n\nlater")
    world.restart()
    assert len(world.timers) == 1
    world.clock.step(3600)
    world.kinds()
    world.clock.advance(10)
    world.timers.run_due()
    assert world.kinds() == ["message_expired"] * 2
    assert len(world.timers) == 0


def test_a_full_store_keeps_the_expired_and_tries_again(world: World, bob: Process) -> None:
    world.send("alice", "bob", "Expires: 10s\n\nsoon")
    world.clock.advance(10)
    without_log(world.store)._db.execute("PRAGMA query_only = ON")
    world.timers.run_due()
    assert world.recv("bob") is None
    assert len(world.mail.mailbox("bob").new) == 1
    world.store._db.execute("PRAGMA query_only = OFF")
    world.clock.advance(1.001)
    world.timers.run_due()
    assert world.unfinished() == []


# -- claiming ------------------------------------------------------------------------------------


def test_of_two_that_claim_one_gets_enoent(world: World, bob: Process) -> None:
    message = world.send("alice", "bob")
    file = message.file
    world.mail.delivery.claim(world.principal("bob"), "bob", file, "mine")
    with pytest.raises(KernelError) as caught:
        world.mail.delivery.claim(world.principal("bob"), "bob", file, "mine too")
    assert caught.value.errno == errno.ENOENT


def test_a_name_that_is_taken_is_not_overwritten(world: World, bob: Process) -> None:
    one, two, three = (world.send("alice", "bob", str(number)).file for number in (1, 2, 3))
    me = world.principal("bob")
    world.mail.delivery.claim(me, "bob", one, "x")
    for call, file, renamed in (
        (world.mail.delivery.claim, two, "x"),
        (world.mail.delivery.put_back, "x", two),
    ):
        with pytest.raises(KernelError) as caught:
            call(me, "bob", file, renamed)
        assert caught.value.errno == errno.EEXIST
    world.mail.delivery.claim(me, "bob", two, "y")
    with pytest.raises(KernelError) as caught:
        world.mail.delivery.flag(me, "bob", "y", "x")
    assert caught.value.errno == errno.EEXIST
    world.mail.delivery.flag(me, "bob", "y", "y")
    assert sorted(world.mail.mailbox("bob").cur) == ["x", "y"]
    assert list(world.mail.mailbox("bob").new) == [three]


@pytest.mark.parametrize("folder", ["tmp", "", "..", "new"])
def test_what_is_not_there_is_enoent(world: World, bob: Process, folder: str) -> None:
    with pytest.raises(KernelError) as caught:
        world.mail.delivery.acknowledge(world.principal("bob"), "bob", folder, "x")
    assert caught.value.errno == errno.ENOENT


def test_recv_acknowledges_what_it_gave_before(world: World, bob: Process) -> None:
    for number in (1, 2):
        world.send("alice", "bob", str(number))
    assert world.recv("bob") == "1"
    assert world.recv("bob") == "2"
    assert [world.body(message) for message in world.mail.mailbox("bob").cur.values()] == ["2"]
    assert world.kinds()[2:] == ["message_claimed", "message_done", "message_claimed"]
    assert world.recv("bob") is None
    assert not world.mail.mailbox("bob").cur, "who asks for more has finished what it had"
    assert bob.state is State.IDLE


def test_recv_does_not_acknowledge_what_was_claimed_by_renaming(world: World, bob: Process) -> None:
    file = world.send("alice", "bob", "1").file
    world.send("alice", "bob", "2")
    world.mail.delivery.claim(world.principal("bob"), "bob", file, "held")
    assert world.recv("bob") == "2"
    world.send("alice", "bob", "3")
    assert world.recv("bob") == "3"
    assert "held" in world.mail.mailbox("bob").cur


def test_the_operators_recv_does_not_acknowledge_the_agents(world: World, bob: Process) -> None:
    for number in (1, 2, 3):
        world.send("alice", "bob", str(number))
    assert world.recv("bob") == "1"
    second = world.mail.receiving.claim_next(OPERATOR, "bob")
    assert second is not None
    assert (world.body(second), second.claimed_by) == ("2", bob.pid)
    assert world.recv("bob") == "3"
    assert sorted(map(world.body, world.mail.mailbox("bob").cur.values())) == ["2", "3"]


def test_a_claim_is_the_agents_living_process(world: World, bob: Process) -> None:
    world.send("alice", "bob")
    world.mail.receiving.claim_next(OPERATOR, "bob")
    [event] = [event for event in world.seen if isinstance(event, MessageClaimed)]
    assert event.pid == bob.pid
    world.agent("later")
    world.send("alice", "later")
    message = world.mail.receiving.claim_next(OPERATOR, "later")
    assert message is not None
    assert message.claimed_by is None


def test_a_maildir_program_may_save_straight_into_cur(world: World, bob: Process) -> None:
    message = world.send("bob", "bob", "changed", filename="1.host:2,S", claimed=True)
    assert (message.folder, message.file, message.claimed_by) == ("cur", "1.host:2,S", bob.pid)
    assert world.kinds() == ["message_arrived", "message_claimed"]
    with pytest.raises(KernelError) as caught:
        world.send("bob", "bob", "again", filename="1.host:2,S", claimed=True)
    assert caught.value.errno == errno.EEXIST
    assert world.waiting("bob") == []


def test_who_waits_is_woken_by_what_comes_and_comes_back(world: World, bob: Process) -> None:
    calls: list[int] = []
    unsubscribe = world.mail.receiving.on_waiting(
        "bob", lambda: calls.append(world.mail.mailbox("bob").waiting)
    )
    world.send("bob", "alice")
    assert calls == []
    world.send("alice", "bob")
    assert calls == [1]
    world.recv("bob")
    world.end(bob, 1, restart=True)
    assert calls == [1, 1]
    unsubscribe()
    unsubscribe()
    world.send("alice", "bob")
    assert calls == [1, 1]


# -- states --------------------------------------------------------------------------------------


def states(world: World) -> list[str]:
    found = [event.new for event in world.seen if isinstance(event, StateChanged)]
    world.seen.clear()
    return found


def test_a_process_runs_while_it_holds_a_message(world: World, bob: Process) -> None:
    me = world.principal("bob")
    one, two = world.send("alice", "bob").file, world.send("alice", "bob").file
    world.mail.delivery.claim(me, "bob", one, "1")
    assert bob.state is State.RUNNING
    world.mail.delivery.claim(me, "bob", two, "2")
    world.mail.delivery.acknowledge(me, "bob", "cur", "1")
    assert bob.state is State.RUNNING
    world.mail.delivery.put_back(me, "bob", "2", two)
    assert bob.state is State.IDLE
    assert states(world) == ["running", "idle"]


def test_a_process_that_waits_in_recv_is_idle(world: World, bob: Process) -> None:
    file = world.send("alice", "bob").file
    world.send("alice", "bob")
    assert world.recv("bob") is not None
    assert world.recv("bob") is not None
    assert states(world) == ["running"], "not idle between two messages"
    world.mail.receiving.parked("bob")
    assert bob.state is State.IDLE
    file = world.send("alice", "bob").file
    world.mail.delivery.claim(world.principal("bob"), "bob", file, "held")
    world.mail.receiving.parked("bob")
    assert bob.state is State.RUNNING, "another of its workers has a message"
    world.mail.receiving.parked("nobody")


@pytest.mark.parametrize("state", [State.BLOCKED, State.SLEEPING])
def test_a_message_does_not_undo_a_signal(world: World, bob: Process, state: State) -> None:
    world.table.set_state(bob, state)
    world.send("alice", "bob")
    assert world.recv("bob") == "hello"
    world.mail.receiving.parked("bob")
    [file] = world.mail.mailbox("bob").cur
    world.mail.delivery.acknowledge(world.principal("bob"), "bob", "cur", file)
    assert bob.state is state


def test_process_1_always_runs(world: World, bob: Process) -> None:
    world.send("alice", "init")
    assert world.recv("init") == "hello"
    [file] = world.mail.mailbox("init").cur
    world.mail.delivery.acknowledge(OPERATOR, "init", "cur", file)
    world.mail.receiving.parked("init")
    init = world.table.find(1)
    assert init is not None
    assert init.state is State.RUNNING


# -- returning -----------------------------------------------------------------------------------


def test_a_crash_brings_claims_back_and_says_so(world: World, bob: Process) -> None:
    first = world.send("alice", "bob", "1")
    second = world.send("alice", "bob", "2")
    names = [first.file, second.file]
    assert world.recv("bob") == "1"
    world.mail.delivery.claim(world.principal("bob"), "bob", second.file, "else:2,S")
    world.end(bob, 137, restart=True)
    assert sorted(world.mail.mailbox("bob").new) == names
    assert (first.attempt, second.attempt) == (2, 2)
    assert world.header(first, "Delivery-Attempt") == "2"
    assert world.kinds()[-2:] == ["message_returned"] * 2
    assert world.recv("bob") == "1"


def test_a_clean_exit_acknowledges_the_last_of_recv_only(world: World, bob: Process) -> None:
    for number in (1, 2, 3):
        world.send("alice", "bob", str(number))
    third = max(world.mail.mailbox("bob").new)
    world.mail.delivery.claim(world.principal("bob"), "bob", third, "held")
    assert world.recv("bob") == "1"
    assert world.recv("bob") == "2"
    world.end(bob, 0)
    assert world.waiting("bob") == ["3"]


def test_a_message_that_is_never_acknowledged_is_given_up(world: World, bob: Process) -> None:
    message = world.send("alice", "bob")
    for attempt in range(1, 6):
        assert message.attempt == attempt
        assert world.recv("bob") == "hello"
        world.end(bob, 1, restart=True)
    assert world.recv("bob") is None
    box = world.mail.mailbox("bob")
    assert (message.folder, list(box.dead.values())) == ("dead", [message])
    assert message.reason == "delivered 5 times, never acknowledged; last: bob ended with code 1"
    [event] = [event for event in world.seen if isinstance(event, MessageGivenUp)]
    assert (event.folder, event.file) == ("cur", f"{message.named}:2,")
    world.mail.delivery.acknowledge(OPERATOR, "bob", "dead", message.file)
    assert world.unfinished() == []


def test_to_put_back_is_no_further_attempt(world: World, bob: Process) -> None:
    message = world.send("alice", "bob")
    me = world.principal("bob")
    for _ in range(7):
        world.mail.delivery.claim(me, "bob", message.file, "x")
        world.mail.delivery.put_back(me, "bob", "x", "renamed")
        world.mail.delivery.claim(me, "bob", "renamed", "y")
        world.mail.delivery.put_back(me, "bob", "y", message.file)
    assert (message.attempt, message.named) == (1, message.file)


def test_a_returned_message_finds_another_name_if_its_own_is_taken(
    world: World, bob: Process
) -> None:
    world.send("bob", "bob", "1", filename="mine")
    world.mail.delivery.claim(world.principal("bob"), "bob", "mine", "x")
    world.send("bob", "bob", "2", filename="mine")
    world.end(bob, 1)
    assert sorted(world.mail.mailbox("bob").new) == ["mine", "mine_1"]


def test_what_was_accepted_comes_back_though_the_inbox_is_full(world: World, bob: Process) -> None:
    configure(world, max_waiting=1)
    world.send("alice", "bob", "1")
    assert world.recv("bob") == "1"
    world.send("alice", "bob", "2")
    world.end(bob, 1)
    assert world.waiting("bob") == ["1", "2"]


def test_the_maid_returns_forgotten_claims(world: World, bob: Process) -> None:
    world.agent("ghost")
    world.send("alice", "ghost", "nobody's")
    world.send("alice", "bob", "held for long")
    world.mail.receiving.claim_next(OPERATOR, "ghost")
    assert world.recv("bob") == "held for long"
    assert world.release_stale() == 0
    world.clock.advance(world.settings.of(MessageSettings).claim_timeout)
    assert world.release_stale() == 1
    assert world.waiting("ghost") == ["nobody's"]
    assert len(world.mail.mailbox("bob").cur) == 1, "its process lives: it takes the time it takes"
    world.table.set_state(bob, State.ZOMBIE)  # without the hook
    assert world.release_stale() == 1
    assert world.waiting("bob") == ["held for long"]


# -- agents, restarts ----------------------------------------------------------------------------


def test_the_mail_of_a_removed_agent_goes_with_it(world: World, alice: Process) -> None:
    world.agent("ghost")
    for _ in range(3):
        world.send("alice", "ghost", "Expires: 1h\n\n" + "x" * 10_000)
    world.mail.receiving.claim_next(OPERATOR, "ghost")
    woken: list[str] = []
    world.mail.receiving.on_waiting("ghost", lambda: woken.append("ghost"))
    world.agents.remove(OPERATOR, "ghost")
    assert (world.unfinished(), woken) == ([], ["ghost"])
    with pytest.raises(KernelError) as caught:
        world.mail.receiving.waiting("ghost")
    assert caught.value.errno == errno.ENOENT
    world.agent("ghost")
    assert world.mail.mailbox("ghost").new == {}


def test_a_removal_that_fails_leaves_the_mail(world: World, alice: Process) -> None:
    world.agent("ghost")
    world.send("alice", "ghost")
    memory = world.memory()

    class Refusal(Part):
        def agent_removed(self, name: str) -> None:
            raise KernelError(errno.EBUSY, "not now")

    world.kernel.ground.parts.add(Refusal())
    with pytest.raises(KernelError):
        world.agents.remove(OPERATOR, "ghost")
    assert world.memory() == memory
    assert world.waiting("ghost") == ["hello"]


def test_a_restart_finds_everything_as_it_was(world: World, bob: Process) -> None:
    world.process("carol", bob.ppid)
    for number in range(5):
        world.send("bob", "carol", f"Expires: 1h\nPriority: low\n\n{number}" + "x" * 5000 * number)
    _, second, *_ = sorted(world.mail.mailbox("carol").new)
    carol = world.principal("carol")
    world.mail.delivery.claim(carol, "carol", second, "held:2,S")
    assert world.recv("carol") is not None
    before = world.memory()
    world.restart()
    after = world.memory()
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    stamp, later = before.pop("stamp"), after.pop("stamp")
    assert after == before
    assert later[0] >= stamp[0], "a number is never used twice"
    assert world.recv("carol") is not None
    assert "held:2,S" in world.mail.mailbox("carol").cur


def test_a_number_is_never_used_twice_even_if_all_messages_are_gone(
    world: World, bob: Process
) -> None:
    seqs = []
    for _ in range(3):
        message = world.send("alice", "bob")
        seqs.append(message.seq)
        world.mail.delivery.acknowledge(world.principal("bob"), "bob", "new", message.file)
        world.restart()
    assert seqs == sorted(set(seqs))


def test_a_burst_is_delivered_whole_and_in_order(world: World, bob: Process) -> None:
    chance = random.Random(7)
    sent = [str(number) for number in range(1000)]
    for text in sent:
        world.send("alice", "bob", text + "x" * chance.choice([0, 0, 0, 6000]))
    got = [world.recv("bob") for _ in sent]
    assert [text.rstrip("x") for text in got if text] == sent


# -- what is kept of a message that is finished ----------------------------------------------------


def test_a_finished_message_is_kept_for_its_sender_and_comes_back_with_the_store(
    world: World, bob: Process
) -> None:
    short = world.send("alice", "bob", "short")
    long = world.send("alice", "bob", "Subject: tea\n\n" + "x" * 100_000)
    gone = world.send("alice", "bob", "gone", expires=world.clock.now() + 1)
    assert world.recv("bob") == "short"
    world.clock.advance(2)
    world.timers.run_due()
    assert world.recv("bob") == "x" * 100_000
    world.mail.delivery.acknowledge(world.principal("bob"), "bob", "cur", long.file)
    for _ in range(2):
        sent = world.mail.archive.sent("alice")
        assert {seq: m.folder for seq, m in sent.items()} == {
            short.seq: "done",
            long.seq: "done",
            gone.seq: "expired",
        }
        assert world.body(sent[short.seq]) == "short"
        # A long body is not kept for ever: the headers say what it was.
        assert world.body(sent[long.seq]) == ""
        assert world.header(sent[long.seq], "Subject") == "tea"
        assert sent[long.seq].dropped > 100_000
        assert set(world.mail.archive.finished("alice")) == set(sent)
        world.restart()


def test_a_notice_is_in_nobodys_sent(world: World, alice: Process) -> None:
    world.process("one", alice.pid)
    world.process("two", alice.pid)
    told = world.send("one", "two", "hello")
    notice = world.mail.notify("two", b"wake up", [("Type", "restart-notice")])
    assert notice is not None
    assert world.header(notice, "From") == "init"
    assert world.header(notice, "Relation") == "system"
    assert world.header(notice, "Type") == "restart-notice"
    assert list(world.mail.archive.sent("one")) == [told.seq]
    assert list(world.mail.archive.sent("init")) == []
    world.mail.delivery.acknowledge(world.principal("two"), "two", "new", notice.file)
    assert world.mail.archive.find(notice.seq) is None


def test_a_notice_to_nobody_or_to_a_full_inbox_is_none(world: World, bob: Process) -> None:
    configure(world, max_waiting=1)
    assert world.mail.notify("nobody", b"hello", []) is None
    assert world.mail.notify("bob", b"hello", []) is not None
    assert world.mail.notify("bob", b"hello", []) is None


def test_who_takes_over_a_name_sees_nothing_of_what_was_sent_under_it(
    world: World, alice: Process
) -> None:
    world.agent("ghost")
    done = world.send("ghost", "alice", "done")
    waiting = world.send("ghost", "alice", "waiting")
    assert world.recv("alice") == "done"
    world.mail.delivery.acknowledge(world.principal("alice"), "alice", "cur", done.file)
    world.mail.remove("ghost")
    for _ in range(2):
        assert dict(world.mail.archive.sent("ghost")) == {}
        assert world.mail.archive.find(done.seq) is None
        assert world.waiting("alice") == ["waiting"]
        assert world.mail.archive.find(waiting.seq) is not None
        world.agents.ensure("ghost", 0, 0, "init", "")
        world.restart()


def test_the_end_of_a_process_returns_what_it_claimed_in_whatever_mailbox(
    world: World, alice: Process, bob: Process
) -> None:
    world.send("alice", "bob", "mine")
    assert world.recv("bob") == "mine"
    assert [m.mailbox for m in world.mail.boxes.claimed.of(bob.pid)] == ["bob"]
    world.end(bob, 1)
    assert world.mail.boxes.claimed.pids == []
    assert world.waiting("bob") == ["mine"]


def test_what_expired_while_it_was_in_doubt_is_over_with_the_next_message(world: World) -> None:
    """Its reader may not have got it before the daemon was killed, and shall not get it now."""
    world.agent("ghost")
    first = world.send("init", "ghost", "short-lived", expires=world.clock.now() + 25)
    assert world.recv("ghost") == "short-lived"
    world.restart()
    world.clock.advance(31)
    world.send("init", "ghost", "next")
    assert world.recv("ghost") == "next"
    box = world.mail.mailbox("ghost")
    assert [world.body(message) for message in box.cur.values()] == ["next"]
    assert [event.id for event in world.seen if isinstance(event, MessageExpired)] == [first.id]
