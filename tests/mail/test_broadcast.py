"""Broadcasts: one message to everybody, all or none, counted until the last copy is finished."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.mail.events import BroadcastChanged, BroadcastSent
from agentfs.mail.message import Draft, Message
from agentfs.model.process import Process, Role
from agentfs.rights.acl import Acl
from agentfs.store.store import Store
from tests.storage import copy_store, refusing
from tests.world import OPERATOR, World


@pytest.fixture
def crowd(world: World) -> dict[str, Process]:
    """alice, who may broadcast, with a child and a sibling, and ghost, without a process."""
    alice = world.process("alice", role=Role.DAEMON)
    crowd = {
        "alice": alice,
        "bob": world.process("bob", alice.pid),
        "carol": world.process("carol"),
    }
    world.agent("ghost")
    return crowd


def broadcast(world: World, sender: str = "alice", text: str = "to all") -> Message:
    draft = Draft.parse(text.encode(), now=world.clock.now(), to="*")
    return world.mail.send(world.principal(sender), sender, draft)


def cover(world: World, message: Message) -> dict[str, str]:
    head = world.mail.sent.content(message).partition(b"Message-ID: ")[0].decode()
    return dict(line.split(": ", 1) for line in head.splitlines())


def test_a_rule_on_one_inbox_holds_against_a_broadcast_too(
    world: World, crowd: dict[str, Process]
) -> None:
    rule = "rules: [{effect: deny, agent: alice, action: send, path: /agents/carol/inbox}]"
    world.gate.policy.use_acl(Acl.parse(rule))
    with pytest.raises(KernelError) as caught:
        broadcast(world)
    assert (caught.value.errno, caught.value.rule) == (errno.EPERM, "acl.yaml: rule 1")
    assert world.waiting("bob") == [], "all or none"


def test_every_other_agent_gets_one_copy_with_the_same_broadcast_id(
    world: World, crowd: dict[str, Process]
) -> None:
    commits = world.store.commits
    sent = broadcast(world)
    assert world.store.commits == commits + 1
    ids = set()
    for name in ("init", "bob", "carol", "ghost"):
        [copy] = world.mail.mailbox(name).new.values()
        assert world.body(copy) == "to all"
        assert world.header(copy, "From") == "alice"
        assert world.header(copy, "To") == "*"
        assert world.header(copy, "Broadcast") == f"<{sent.id}@here>"
        assert world.header(copy, "Reply-Expected") == "no"
        ids.add(world.header(copy, "Message-ID"))
    assert len(ids) == 4  # each copy is a message of its own
    assert f"<{sent.id}@here>" not in ids
    assert world.waiting("alice") == []  # not to the sender
    world.agent("late-born")
    assert world.waiting("late-born") == []
    relations = [
        next(iter(world.mail.mailbox(n).new.values())).relation.value for n in crowd if n != "alice"
    ]
    assert relations == ["parent", "sibling"]


def test_the_sender_sees_one_message_and_what_became_of_its_copies(
    world: World, crowd: dict[str, Process]
) -> None:
    world.settings.replace("messages: {max_delivery_attempts: 1}")
    message = broadcast(world, text="Expires: 60s\n\nto all")
    assert list(world.mail.archive.sent("alice")) == [message.seq]
    assert world.mail.sent.content(message).endswith(b"\n\nto all")

    def says(state: str, done: int, dead: int, expired: int, removed: int, waiting: int) -> None:
        said = cover(world, message)
        said.pop("Finished", None)
        assert said == {
            "State": state,
            "Recipients": "4",
            "Done": str(done),
            "Dead": str(dead),
            "Expired": str(expired),
            "Removed": str(removed),
            "Waiting": str(waiting),
        }

    says("queued", 0, 0, 0, 0, 4)
    world.recv("bob")
    says("queued", 0, 0, 0, 0, 4)
    world.end(crowd["bob"], 0, restart=True)
    says("queued", 1, 0, 0, 0, 3)
    world.recv("carol")
    world.end(crowd["carol"], 1, restart=True)
    says("queued", 1, 1, 0, 0, 2)
    world.agents.remove(OPERATOR, "ghost")
    says("queued", 1, 1, 0, 1, 1)
    world.restart()
    kept = world.mail.archive.find(message.seq)
    assert kept is not None
    message = kept
    says("queued", 1, 1, 0, 1, 1)
    world.clock.advance(20)
    [dead] = world.mail.mailbox("carol").dead
    world.mail.delivery.revive(OPERATOR, "carol", dead, "again")
    says("queued", 1, 0, 0, 1, 2)
    world.recv("carol")
    carol = world.table.by_name("carol")
    assert carol is not None
    world.end(carol, 0, restart=True)
    world.clock.advance(60)
    world.mail.mailbox("init")
    says("done", 2, 0, 1, 1, 0)
    assert world.unfinished() == []
    assert [row[0] for row in world.store.messages()] == [message.seq]


def test_a_dead_copy_that_is_put_back_opens_the_broadcast_again(
    world: World, crowd: dict[str, Process]
) -> None:
    world.settings.replace("messages: {max_delivery_attempts: 1}")
    message = broadcast(world, text="x" * 9000)
    for name in ("init", "carol", "ghost"):
        [file] = world.mail.mailbox(name).new
        world.mail.delivery.acknowledge(OPERATOR, name, "new", file)
    world.recv("bob")
    world.end(crowd["bob"], 1, restart=True)
    said = cover(world, message)
    assert (said["State"], said["Done"], said["Dead"]) == ("done", "3", "1")
    [dead] = world.mail.mailbox("bob").dead
    world.mail.delivery.revive(OPERATOR, "bob", dead, "again")
    said = cover(world, message)
    assert (said["State"], said["Waiting"]) == ("queued", "1")
    with pytest.raises(KernelError) as refused:
        world.mail.sent.forget(OPERATOR, "alice", message.seq)
    assert refused.value.errno == errno.EBUSY
    world.clock.advance(10 * 86_400)
    assert world.sweep() == 0
    world.restart()
    assert (world.recv("bob") or "").startswith("xxx")
    process = world.table.by_name("bob")
    assert process is not None
    world.end(process, 0)
    kept = world.mail.archive.find(message.seq)
    assert kept is not None
    said = cover(world, kept)
    assert (said["State"], said["Done"], said["Dead"]) == ("done", "4", "0")
    assert int(said["Body-Dropped"].split()[0]) > 9000


def test_the_record_may_be_gone_before_a_dead_copy_is_put_back(
    world: World, crowd: dict[str, Process]
) -> None:
    world.settings.replace("messages: {max_delivery_attempts: 1}")
    message = broadcast(world)
    for name in ("init", "carol", "ghost"):
        [file] = world.mail.mailbox(name).new
        world.mail.delivery.acknowledge(OPERATOR, name, "new", file)
    world.recv("bob")
    world.end(crowd["bob"], 1, restart=True)
    world.mail.sent.forget(world.principal("alice"), "alice", message.seq)
    [dead] = world.mail.mailbox("bob").dead
    world.mail.delivery.revive(OPERATOR, "bob", dead, "again")
    assert world.recv("bob") == "to all"


def test_a_sender_that_is_removed_leaves_copies_that_are_delivered(
    world: World, crowd: dict[str, Process]
) -> None:
    draft = Draft.parse(b"my last words", now=world.clock.now(), to="*")
    world.mail.send(OPERATOR, "ghost", draft)
    world.agents.remove(OPERATOR, "ghost")
    world.restart()
    for name in ("init", "alice", "bob", "carol"):
        [file] = world.mail.mailbox(name).new
        world.mail.delivery.acknowledge(OPERATOR, name, "new", file)
    assert world.stored() == []


def test_a_full_inbox_refuses_it_for_all(world: World, crowd: dict[str, Process]) -> None:
    world.settings.replace("messages: {max_waiting: 1}")
    world.send("alice", "carol")
    before, stored = world.memory(), world.stored()
    with pytest.raises(KernelError, match="the inbox of carol is full") as refused:
        broadcast(world)
    assert refused.value.errno == errno.ENOSPC
    assert (world.memory(), world.stored()) == (before, stored)


def test_a_fault_in_the_middle_leaves_no_copy(world: World, crowd: dict[str, Process]) -> None:
    before, stored = world.memory(), world.stored()
    third = "INSERT ON messages WHEN (SELECT count(*) FROM messages) = 2"
    with (
        refusing(world.store, third),
        pytest.raises(KernelError, match="disk is full"),
        world.store.transaction(),
    ):
        world.store.write(
            "DELETE FROM records WHERE kind = ?", ("none",)
        )  # SQLite is asked at once
        broadcast(world)
    assert (world.memory(), world.stored()) == (before, stored)
    assert world.kinds() == []


def test_a_kill_at_any_statement_leaves_all_copies_or_none(
    world: World, crowd: dict[str, Process], tmp_path: Path
) -> None:
    left: list[Path] = []

    def killed_here(statement: str) -> None:
        left.append(tmp_path / f"left-{len(left)}")
        left[-1].mkdir()
        copy_store(world.state, left[-1])

    world.store._db.set_trace_callback(killed_here)  # called as each begins, COMMIT the last
    broadcast(world, text="x" * 100_000)
    world.store._db.set_trace_callback(None)
    assert len(left) > 5  # a row for each copy, and the record of the audit
    for folder in left:
        assert check(folder / "store.db") == []
        store = Store(folder / "store.db")
        assert list(store.messages()) == []
        store.close()
    world.restart()
    assert [len(world.mail.mailbox(name).new) for name in ("init", "bob", "carol", "ghost")] == [
        1
    ] * 4


def test_who_may_not_broadcast_is_told_why(world: World, crowd: dict[str, Process]) -> None:
    world.process("errand", crowd["alice"].pid, Role.TASK)
    with pytest.raises(KernelError, match="errand is a task") as refused:
        broadcast(world, "errand")
    assert refused.value.errno == errno.EACCES
    with pytest.raises(KernelError, match="role agent does not have it") as refused:
        broadcast(world, "bob")
    assert (refused.value.errno, refused.value.rule) == (errno.EACCES, "capability broadcast")
    draft = Draft.parse(b"hello", now=0, to="*")
    with pytest.raises(KernelError) as refused:
        world.mail.send(world.principal("bob"), "alice", draft)
    assert refused.value.errno == errno.EACCES


def test_its_size_is_bounded_for_all_copies_together(
    world: World, crowd: dict[str, Process]
) -> None:
    world.settings.replace("messages: {max_broadcast_bytes: 4000}")
    broadcast(world, text="x" * 1000)
    with pytest.raises(KernelError, match="4 copies of 1001 bytes") as refused:
        broadcast(world, text="x" * 1001)
    assert refused.value.errno == errno.EMSGSIZE
    world.settings.replace("")
    with pytest.raises(KernelError) as refused:
        broadcast(world, text="x" * (1024 * 1024 + 1))
    assert refused.value.errno == errno.EMSGSIZE


def test_it_is_no_question_and_forged_marks_are_dropped(
    world: World, crowd: dict[str, Process]
) -> None:
    with pytest.raises(KernelError, match="nobody answers a broadcast") as refused:
        broadcast(world, text="Subject: eh?\nReply-By: 5m\n\nwho is there?")
    assert refused.value.errno == errno.EINVAL
    sent = broadcast(world, text="Subject: x\nBroadcast: <forged>\nReply-Expected: yes\n\n!")
    [copy] = world.mail.mailbox("bob").new.values()
    assert world.header(copy, "Broadcast") == f"<{sent.id}@here>"
    assert "forged" not in world.mail.content(copy).partition(b"\n\n")[0].decode()
    assert world.body(copy).startswith("Subject: x\nBroadcast: <forged>\n"), "no header of ours"
    world.mail.delivery.acknowledge(OPERATOR, "bob", "new", copy.file)
    world.send("alice", "bob", "Broadcast: the party is at nine\n\nCome!")
    assert world.recv("bob") == "Broadcast: the party is at nine\n\nCome!"


def test_nobody_else_is_there(world: World) -> None:
    draft = Draft.parse(b"hello?", now=world.clock.now(), to="*")
    message = world.mail.send(OPERATOR, "init", draft)
    said = cover(world, message)
    assert (said["State"], said["Recipients"], said["Waiting"]) == ("done", "0", "0")


def test_its_events_tell_the_sender_of_every_copy_that_is_settled(
    world: World, crowd: dict[str, Process]
) -> None:
    world.seen.clear()
    message = broadcast(world)
    assert world.seen[0] == BroadcastSent("alice", message.id, 4)
    assert [event.type for event in world.seen[1:]] == ["message_arrived"] * 4
    world.recv("bob")
    world.seen.clear()
    world.end(crowd["bob"], 0, restart=True)
    [event] = [event for event in world.seen if isinstance(event, BroadcastChanged)]
    assert event == BroadcastChanged("alice", message.id, 3)
