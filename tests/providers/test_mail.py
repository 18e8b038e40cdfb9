"""An agent's mailbox as files: Maildir, outbox, send, recv; and who may use which of them."""

from __future__ import annotations

import os
import stat as st

import pytest

from agentfs.mail.settings import MessageSettings
from agentfs.providers.mail import OutboxDirectory
from agentfs.providers.maildir import MAX_DRAFTS
from agentfs.vfs.changes import Created, Moved, Removed
from agentfs.vfs.node import Attributes, File
from tests.providers.world import OPERATOR, STRANGER, World, refused

INBOX = "/agents/bob/inbox"
NEW, CUR, TMP = (f"{INBOX}/{folder}" for folder in ("new", "cur", "tmp"))


async def test_the_whole_life_of_a_message(world: World) -> None:
    bob = world.as_agent("bob")
    await world.mail("alice", "bob", "Subject: tea\n\nAt four?\n")
    (name,) = world.list(NEW, bob)
    assert name.endswith(".alice")
    text = await world.text(f"{NEW}/{name}", bob)
    headers, _, body = text.partition("\n\n")
    assert body == "At four?\n"
    assert "From: alice" in headers.splitlines()
    assert "Subject: tea" in headers.splitlines()
    assert world.find(f"{NEW}/{name}").stat().size == len(text)
    key = world.find(f"{NEW}/{name}").key
    await world.rename(f"{NEW}/{name}", f"{CUR}/{name}:2,", bob)
    assert world.list(NEW, bob) == []
    assert world.find(f"{CUR}/{name}:2,").key == key
    await world.rename(f"{CUR}/{name}:2,", f"{CUR}/{name}:2,S", bob)
    assert world.list(CUR, bob) == [f"{name}:2,S"]
    handle = world.open(f"{CUR}/{name}:2,S", caller=bob)
    world.unlink(f"{CUR}/{name}:2,S", bob)
    assert world.list(CUR, bob) == []
    assert (await handle.read(0, 4096)).decode() == text  # it was open
    with refused("ENOENT"):
        world.find(f"{CUR}/{name}:2,S")


async def test_a_message_that_is_announced_late_is_still_whole(world: World) -> None:
    """A client claimed it before its arrival was announced: the announcement must not make Linux
    believe that the file is empty."""
    new = world.find(NEW).key
    world.changes.clear()
    await world.mail("alice", "bob", "not empty")
    created = [change for change in world.changes if isinstance(change, Created)]
    (arrival,) = [change for change in created if change.directory == new]
    (name,) = world.list(NEW)
    await world.rename(f"{NEW}/{name}", f"{CUR}/{name}:2,S")
    size = len(await world.text(f"{CUR}/{name}:2,S"))
    assert arrival.node.stat().size == size
    world.unlink(f"{CUR}/{name}:2,S")
    assert arrival.node.stat().size == 0


async def test_every_step_is_announced_where_it_happens(world: World) -> None:
    new, cur = world.find(NEW).key, world.find(CUR).key
    world.changes.clear()
    await world.mail("alice", "bob")
    (name,) = world.list(NEW)
    await world.rename(f"{NEW}/{name}", f"{CUR}/{name}:2,")
    await world.rename(f"{CUR}/{name}:2,", f"{NEW}/{name}")
    world.unlink(f"{NEW}/{name}")
    steps = [change for change in world.changes if isinstance(change, Created | Moved | Removed)]
    arrived, claimed, returned, done = (
        step for step in steps if new in (step.directory, getattr(step, "target", None))
    )
    assert isinstance(arrived, Created)
    assert (arrived.directory, arrived.name) == (new, name)
    assert isinstance(claimed, Moved)
    assert (claimed.directory, claimed.target, claimed.new_name) == (new, cur, f"{name}:2,")
    assert isinstance(returned, Moved)
    assert (returned.directory, returned.target, returned.new_name) == (cur, new, name)
    assert isinstance(done, Removed)
    assert done.key == arrived.node.key == claimed.node.key == returned.node.key
    assert arrived.node.stat().mode == 0o100600  # it can be announced although it is gone


async def test_of_two_that_claim_one_gets_enoent(world: World) -> None:
    await world.mail("alice", "bob")
    (name,) = world.list(NEW)
    await world.rename(f"{NEW}/{name}", f"{CUR}/{name}:2,")
    with refused("ENOENT"):
        await world.rename(f"{NEW}/{name}", f"{CUR}/{name}:2,x")


async def test_messages_do_not_leave_their_mailbox(world: World) -> None:
    await world.mail("alice", "bob")
    (name,) = world.list(NEW)
    for place, code in (
        ("/agents/alice/inbox/new", "EXDEV"),
        ("/shared", "EXDEV"),
        (TMP, "EPERM"),
        (NEW, "EPERM"),
    ):
        with refused(code):
            await world.rename(f"{NEW}/{name}", f"{place}/other")
    with refused("EINVAL"):
        await world.rename(f"{NEW}/{name}", f"{CUR}/{name}", flags=2)
    with refused("EPERM"):
        world.directory(CUR).link(world.find(f"{NEW}/{name}"), "x", OPERATOR)
    with refused("EACCES"):
        world.open(f"{NEW}/{name}", os.O_WRONLY)
    assert world.list(NEW) == [name]


async def test_a_mailbox_is_private_even_under_one_uid(world: World) -> None:
    await world.mail("carol", "bob", "secret")
    (name,) = world.list(NEW)
    for caller in (world.as_agent("alice"), STRANGER):
        for folder in (INBOX, NEW, CUR, TMP, "/agents/bob/outbox", "/agents/bob/memory"):
            with refused("EACCES"):
                world.list(folder, caller)
        for path in (f"{NEW}/{name}", "/agents/bob/recv", "/agents/bob/outbox/carol"):
            with refused("EACCES"):
                world.open(path, os.O_RDONLY, caller)
        with refused("EACCES"):
            world.open("/agents/bob/send", os.O_WRONLY, caller)
        with refused("EACCES"):
            await world.rename(f"{NEW}/{name}", f"{CUR}/{name}", caller)
        with refused("EACCES"):
            world.unlink(f"{NEW}/{name}", caller)
    assert world.list(NEW, OPERATOR) == [name]


@pytest.mark.parametrize("how", ["rename", "link", "new"])
async def test_delivering_the_maildir_way_sends_with_the_caller_as_sender(
    world: World, how: str
) -> None:
    alice = world.as_agent("alice")
    text = "From: carol\nSubject: forged?\n\nhello\n"
    if how == "new":
        await world.write(f"{NEW}/1.M2.host", text, alice, create=True)
    else:
        await world.write(f"{TMP}/1.M2.host", text, alice, create=True)
        assert world.list(NEW) == []
        if how == "rename":
            await world.rename(f"{TMP}/1.M2.host", f"{NEW}/1.M2.host", alice)
        else:
            draft = world.find(f"{TMP}/1.M2.host")
            world.directory(NEW).link(draft, "1.M2.host", alice)
            world.unlink(f"{TMP}/1.M2.host", alice)
    assert world.list(TMP) == []
    assert world.list(NEW) == ["1.M2.host"]
    received = (await world.text(f"{NEW}/1.M2.host")).splitlines()
    assert "From: alice" in received
    assert "From: carol" not in received
    with refused("EACCES"):
        world.open(f"{NEW}/1.M2.host", os.O_RDONLY, alice)
    with refused("EEXIST"):
        world.create(f"{NEW}/1.M2.host", alice)


async def test_a_file_in_new_is_sent_once_even_if_it_is_empty(world: World) -> None:
    handle = world.create(f"{NEW}/empty", world.as_agent("alice"))
    assert handle.unflushed
    assert world.list(NEW) == []
    await handle.flush()
    assert not handle.unflushed
    await handle.flush()
    handle.release()
    assert world.list(NEW) == ["empty"]
    abandoned = world.create(f"{NEW}/abandoned")
    abandoned.release()
    with refused("ENOENT"):
        world.find(f"{NEW}/abandoned")


async def test_what_is_being_written_is_its_writers_only(world: World) -> None:
    await world.write(f"{TMP}/draft", "text", world.as_agent("alice"), create=True)
    carol = world.as_agent("carol")
    with refused("EACCES"):
        world.open(f"{TMP}/draft", os.O_RDONLY, carol)
    with refused("EACCES"):
        world.unlink(f"{TMP}/draft", carol)
    with refused("EACCES"):
        await world.rename(f"{TMP}/draft", f"{NEW}/draft", carol)
    with refused("EACCES"):
        world.create(f"{TMP}/mine", STRANGER)
    with refused("EACCES"):  # into cur: only its owner saves mail
        await world.rename(f"{TMP}/draft", f"{CUR}/draft", world.as_agent("alice"))
    assert await world.read(f"{TMP}/draft", world.as_agent("alice")) == b"text"
    world.unlink(f"{TMP}/draft", world.as_agent("bob"))  # the owner cleans up


async def test_saving_into_cur_is_for_the_owner_and_claims(world: World) -> None:
    bob = world.as_agent("bob")
    await world.write(f"{TMP}/draft", "Subject: edited\n\ntext", bob, create=True)
    await world.rename(f"{TMP}/draft", f"{CUR}/draft:2,S", bob)
    assert world.list(CUR, bob) == ["draft:2,S"]
    assert world.list(NEW, bob) == []


async def test_drafts_are_bounded_in_number_and_size(world: World) -> None:
    alice = world.as_agent("alice")
    limit = world.kernel.settings.of(MessageSettings).max_size
    for number in range(MAX_DRAFTS):
        handle = world.create(f"{TMP}/{number}", alice)
        handle.release()
    with refused("ENOSPC"):
        world.create(f"{TMP}/more", alice)
    world.create(f"{TMP}/more", world.as_agent("carol")).release()  # nobody shuts others out so
    handle = world.open(f"{TMP}/0", os.O_WRONLY, alice)
    with refused("EMSGSIZE"):
        await handle.write(limit, b"x")
    with refused("EMSGSIZE"):
        world.find(f"{TMP}/0").chattr(alice, Attributes(size=limit + 1))


async def test_outboxes_of_many_agents_are_not_their_square(world: World) -> None:
    """To others than the agent itself; each name is found all the same."""
    kid = await world.spawn("kid", parent=world.pid("bob"))
    few = len(world.list("/agents/bob/outbox"))
    assert few == len(world.kernel.agents)
    for number in range(OutboxDirectory.MANY):
        world.kernel.agents.define(OPERATOR.principal, f"agent-{number}", 0, 0)
    assert world.list("/agents/bob/outbox") == ["init", "kid"]
    assert world.list("/agents/kid/outbox") == ["bob"]
    assert world.list("/agents/agent-7/outbox") == ["init"]
    assert len(world.list("/agents/init/outbox")) == len(world.kernel.agents)
    for name in ("bob", "kid"):
        assert len(world.list(f"/agents/{name}/outbox", world.as_agent(name))) > few
    assert world.find("/agents/bob/outbox/agent-7").stat().mode == st.S_IFREG | 0o200
    assert kid.name == "kid"


async def test_outbox_lists_who_may_be_written_to_and_sends_one_message(world: World) -> None:
    task = await world.spawn("tim", parent=world.pid("alice"), role="task")
    assert set(world.list("/agents/tim/outbox", world.as_agent("tim"))) == {"alice", "tim"}
    assert {"bob", "carol"} <= set(world.list("/agents/alice/outbox"))
    with refused("EACCES"):
        world.open("/agents/tim/outbox/bob", os.O_WRONLY, world.as_agent("tim"))
    with refused("ENOENT"):
        world.find("/agents/alice/outbox/nobody")
    with refused("ENOENT"):
        world.create("/agents/alice/outbox/nobody")
    handle = world.open("/agents/tim/outbox/alice", os.O_WRONLY, world.as_agent("tim"))
    await handle.write(0, b"one ")
    await handle.write(4, b"message")
    assert world.list("/agents/alice/inbox/new") == []
    await handle.flush()
    (name,) = world.list("/agents/alice/inbox/new")
    assert (await world.text(f"/agents/alice/inbox/new/{name}")).endswith("\n\none message")
    await handle.flush()  # another descriptor of it is closed
    with refused("EPERM"):
        await handle.write(11, b"and another")
    handle.release()
    handle = world.open("/agents/tim/outbox/alice", os.O_WRONLY, world.as_agent("tim"))
    await handle.write(0, b"half")
    await handle.fsync()  # what is not whole yet is not sent
    assert len(world.list("/agents/alice/inbox/new")) == 1
    await handle.write(4, b" and half")
    await handle.flush()
    handle.release()
    assert len(world.list("/agents/alice/inbox/new")) == 2
    assert world.find("/agents/tim/outbox/alice").timeout == 0
    assert task.pid == world.pid("tim")


async def test_what_is_too_large_or_malformed_is_refused_and_nothing_is_sent(
    world: World,
) -> None:
    limit = world.kernel.settings.of(MessageSettings).max_size
    handle = world.open("/agents/alice/outbox/bob", os.O_WRONLY, world.as_agent("alice"))
    await handle.write(0, b"what fits")
    with refused("EMSGSIZE"):
        await handle.write(9, bytes(limit))
    assert handle.unflushed
    with refused("EMSGSIZE"):  # who did not look at that hears it at the close
        await handle.flush()
    handle.release()
    with refused("EMSGSIZE"):
        await world.write("/agents/alice/send", b"To: bob\n\n" + bytes(limit))
    with refused("EINVAL"):
        await world.write("/agents/alice/send", "no header")
    with refused("EINVAL"):
        await world.write("/agents/alice/outbox/bob", "To: carol\n\nhello")
    with refused("EINVAL"):
        await world.write("/agents/alice/outbox/bob", "Priority: whenever\n\nhello")
    assert world.list(NEW) == []


async def test_each_write_to_send_is_a_message(world: World) -> None:
    handle = world.open("/agents/alice/send", os.O_WRONLY, world.as_agent("alice"))
    for number in range(3):
        await handle.write(number * 12, f"To: bob\n\n{number}\n".encode())
    assert len(world.list(NEW)) == 3
    await handle.fsync()
    assert await world.read("/agents/alice/send") == b""


async def test_recv_gives_a_message_then_the_end_then_the_next(world: World) -> None:
    bob = world.as_agent("bob")
    stream = world.stream("/agents/bob/recv", bob)
    woken: list[int] = []
    unsubscribe = stream.on_wake(lambda: woken.append(1))
    assert stream.try_read(4096) is None
    assert not stream.ready()
    stream.parked()
    await world.mail("alice", "bob", "one")
    await world.mail("alice", "bob", "two")
    assert woken
    assert stream.ready()
    assert (len(world.list(NEW)), len(world.list(CUR))) == (1, 1)  # it waited: the first is its own
    whole = b""
    while chunk := stream.try_read(10):
        assert len(chunk) <= 10
        whole += chunk
    assert whole.endswith(b"\n\none")
    assert (len(world.list(NEW)), len(world.list(CUR))) == (1, 1)
    assert (stream.try_read(4096) or b"").endswith(b"\n\ntwo")
    (claimed,) = world.list(CUR)  # the first is acknowledged
    assert "two" in await world.text(f"{CUR}/{claimed}")
    assert stream.try_read(4096) == b""
    assert stream.try_read(4096) is None
    unsubscribe()
    stream.release()


async def test_opening_recv_alone_does_nothing(world: World) -> None:
    await world.mail("alice", "bob")
    world.stream("/agents/bob/recv", world.as_agent("bob")).release()
    assert len(world.list(NEW)) == 1


async def test_recv_of_an_agent_that_was_removed_is_stale(world: World) -> None:
    world.directory("/agents").mkdir("dora", 0o755, OPERATOR)
    stream = world.stream("/agents/dora/recv")
    woken: list[int] = []
    stream.on_wake(lambda: woken.append(1))
    assert not stream.ready()
    world.directory("/agents").rmdir("dora", OPERATOR)
    assert woken
    assert stream.ready()
    with refused("ESTALE"):
        stream.try_read(10)
    stream.release()
    with refused("ENOENT"):
        world.find("/agents/dora")


async def test_the_folders_st_mtime_moves_with_every_change(world: World) -> None:
    def times() -> tuple[int, int]:
        return world.find(NEW).stat().mtime, world.find(CUR).stat().mtime

    before = times()
    for _ in range(3):
        await world.mail("alice", "bob")
        after = times()
        assert after > before
        before = after
    await world.rename(f"{NEW}/{world.list(NEW)[0]}", f"{CUR}/x")
    assert times() > before


async def test_touch_and_chmod_of_a_message_do_no_harm(world: World) -> None:
    await world.mail("alice", "bob")
    node = world.find(f"{NEW}/{world.list(NEW)[0]}")
    node.chattr(OPERATOR, Attributes(times=(1, 2)))
    node.chattr(OPERATOR, Attributes(mode=0o600))
    with refused("EPERM"):
        node.chattr(OPERATOR, Attributes(mode=0o644))
    with refused("EPERM"):
        node.chattr(OPERATOR, Attributes(size=0))


async def test_a_draft_that_is_opened_again_is_truncated_and_appended_to(world: World) -> None:
    alice = world.as_agent("alice")
    await world.write(f"{TMP}/draft", "a long text", alice, create=True)
    await world.write(f"{TMP}/draft", "short", alice)
    handle = world.open(f"{TMP}/draft", os.O_WRONLY | os.O_APPEND, alice)
    await handle.write(0, b"er")
    handle.release()
    assert await world.read(f"{TMP}/draft", alice) == b"shorter"


async def test_the_limit_of_a_message_is_that_of_the_moment(world: World) -> None:
    send = world.find("/agents/alice/send")
    await world.write("/etc/agentfs.yaml", "messages: {max_size: 1024}\n")
    assert isinstance(send, File)
    handle = send.open(os.O_WRONLY, world.as_agent("alice"))
    with refused("EMSGSIZE"):
        await handle.write(0, b"To: bob\n\n" + bytes(1024))


async def test_a_message_that_waits_gets_fields_and_flags_and_keeps_its_place(world: World) -> None:
    """As mbsync does (`,U=7`). What the name begins with says which message it is."""
    await world.mail("alice", "bob", "first")
    await world.mail("alice", "bob", "second")
    one, two = world.list(NEW)
    for name in (f"{one},U=7", f"{one},U=7:2,S", f"{one}:2,", one, f"{one},U=8"):
        await world.rename(f"{NEW}/{world.list(NEW)[0]}", f"{NEW}/{name}")
        assert world.list(NEW) == [name, two]
    for other in (two, f"{two},U=8", "other", f"{one}x,U=8"):
        with refused("EPERM"):
            await world.rename(f"{NEW}/{one},U=8", f"{NEW}/{other}")
    with refused("EACCES"):
        await world.rename(f"{NEW}/{one},U=8", f"{NEW}/{one}", caller=world.as_agent("alice"))
    assert (await world.text("/agents/bob/recv")).endswith("\n\nfirst")
