"""Questions as directories, and what is announced of them; `escalate`."""

from __future__ import annotations

import os

import pytest

from agentfs.vfs.changes import Created, Modified, Removed
from agentfs.vfs.handles import RequestHandle
from agentfs.vfs.node import StreamHandle
from agentfs.vfs.table import Table
from tests.providers.world import OPERATOR, STRANGER, World, refused

ASKS = "/agents/alice/asks"


async def transact(world: World, path: str, request: str, name: str) -> str:
    handle = world.open(path, os.O_RDWR, world.as_agent(name))
    assert isinstance(handle, RequestHandle)
    await handle.write(0, request.encode())
    reply = (await handle.read(0, 4096)).decode()
    assert await handle.read(0, 4096) == b""
    return reply.strip()


async def ask(world: World, text: str = "To: bob\nReply-By: 5m\n\nhow?\n") -> str:
    return await transact(world, f"{ASKS}/new", text, "alice")


def queued(world: World, text: str) -> None:
    """alice writes to the queue `jobs`."""
    handle = world.open("/dev/queues/jobs/send", os.O_WRONLY, world.as_agent("alice"))
    assert isinstance(handle, StreamHandle)
    assert handle.try_write(text.encode()) == len(text)
    handle.release()


def status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines())


def answer(world: World, number: str) -> StreamHandle:
    return world.stream(f"{ASKS}/{number}/answer", world.as_agent("alice"))


async def test_the_whole_life_of_a_question(world: World) -> None:
    alice = world.as_agent("alice")
    number = await ask(world)
    assert world.list(ASKS, alice) == ["new", number]
    assert world.list(f"{ASKS}/{number}", alice) == ["status", "question", "answer"]
    shown = status(await world.text(f"{ASKS}/{number}/status", alice))
    assert list(shown) == [
        "Id", "To", "Asked", "Deadline", "State", "Answered", "Answer", "Severity", "Reason",
    ]  # fmt: skip
    assert (shown["Id"], shown["To"], shown["State"]) == (number, "bob", "open")
    assert shown["Answer"] == shown["Answered"] == ""
    question = await world.text(f"{ASKS}/{number}/question", alice)
    assert question.endswith("\n\nhow?\n")
    received = await world.text("/agents/bob/recv", world.as_agent("bob"))
    assert received.endswith(question)
    handle = answer(world, number)
    woken: list[bool] = []
    handle.on_wake(lambda: woken.append(True))
    assert not handle.ready()
    assert handle.try_read(4096) is None
    await world.mail("bob", "alice", f"In-Reply-To: {number}\n\nthus\n")
    assert woken
    assert handle.ready()
    first = handle.try_read(10) or b""
    rest = handle.try_read(4096) or b""
    assert handle.try_read(4096) == handle.try_read(4096) == b""
    assert (first + rest).endswith(b"\n\nthus\n")
    handle.release()
    assert await world.read(f"{ASKS}/{number}/answer", alice) == first + rest
    assert world.list("/agents/alice/inbox/new", alice) == []
    shown = status(await world.text(f"{ASKS}/{number}/status", alice))
    assert shown["State"] == "answered"
    assert f"Message-ID: <{shown['Answer']}@".encode() in first + rest
    world.directory(ASKS).rmdir(number, alice)
    assert world.list(ASKS, alice) == ["new"]
    with refused("ENOENT"):
        world.directory(ASKS).rmdir(number, alice)


async def test_every_step_is_announced_where_it_happens(world: World) -> None:
    key = world.find(ASKS).key
    number = await ask(world)
    (made,) = [change for change in world.changes if isinstance(change, Created) and
               change.directory == key]  # fmt: skip
    assert made.name == number
    assert made.node.stat().mode == 0o040700
    shown = world.find(f"{ASKS}/{number}/status")
    before = shown.stat().mtime
    await world.mail("bob", "alice", f"In-Reply-To: {number}\n\nthus\n")
    assert Modified(shown.key) in world.changes
    assert shown.stat().mtime > before
    world.directory(ASKS).rmdir(number, OPERATOR)
    assert Removed(key, number, made.node.key, is_directory=True) in world.changes
    assert made.node.stat().mode == 0o040700  # it can be announced although it is gone


async def test_questions_are_private_even_under_one_uid(world: World) -> None:
    """H15: `rm` of somebody else's question is EACCES."""
    number = await ask(world)
    for caller in (world.as_agent("bob"), STRANGER):
        with refused("EACCES"):
            world.list(ASKS, caller)
        with refused("EACCES"):
            world.directory(ASKS).enter(caller)
        with refused("EACCES"):
            world.directory(ASKS).rmdir(number, caller)
        with refused("EACCES"):
            world.directory(f"{ASKS}/{number}").enter(caller)
        with refused("EACCES"):
            world.open(f"{ASKS}/new", os.O_RDWR, caller)
        for name in ("status", "question", "answer"):
            with refused("EACCES"):
                world.open(f"{ASKS}/{number}/{name}", os.O_RDONLY, caller)
    assert world.list(ASKS) == ["new", number]


async def test_rm_r_takes_the_files_for_granted_and_cancels_with_the_directory(
    world: World,
) -> None:
    number = await ask(world)
    handle = answer(world, number)
    directory = world.directory(f"{ASKS}/{number}")
    assert isinstance(directory, Table)
    for name in ("status", "question", "answer"):
        directory.unlink(name, OPERATOR)
        assert await world.text(f"{ASKS}/{number}/question")
    with refused("ENOENT"):
        directory.unlink("other", OPERATOR)
    world.directory(ASKS).rmdir(number, OPERATOR)
    with refused("ECANCELED"):
        handle.try_read(4096)
    assert handle.ready()
    handle.release()
    assert not world.kernel.asks._watching


@pytest.mark.parametrize("name", ["000000000000", "1", "x", "0000000000001", "١" * 12, "-1"])
async def test_what_is_no_question_is_not_there(world: World, name: str) -> None:
    await ask(world)
    with refused("ENOENT"):
        world.find(f"{ASKS}/{name}")
    with refused("ENOENT"):
        world.directory(ASKS).rmdir(name, OPERATOR)


async def test_another_agents_question_is_not_among_ones_own(world: World) -> None:
    number = await ask(world)
    with refused("ENOENT"):
        world.find(f"/agents/bob/asks/{number}")


async def test_why_there_is_no_answer_is_the_errno_of_reading(world: World) -> None:
    number = await ask(world, "To: bob\nReply-By: 50ms\n\nhow?\n")
    handle = answer(world, number)
    while not handle.ready():
        pass
    with refused("ETIMEDOUT"):
        handle.try_read(4096)
    handle.release()
    shown = status(await world.text(f"{ASKS}/{number}/status"))
    assert shown["State"] == "expired"
    assert shown["Reason"]


async def test_an_answer_that_is_dropped_unread_is_stale(world: World) -> None:
    number = await ask(world)
    handle = answer(world, number)
    await world.mail("bob", "alice", f"In-Reply-To: {number}\n\nthus\n")
    world.directory(ASKS).rmdir(number, OPERATOR)
    with refused("ESTALE"):
        handle.try_read(4096)
    handle.release()


async def test_a_question_may_be_as_long_as_a_message(world: World) -> None:
    number = await ask(world, f"To: bob\n\n{'x' * 500_000}\n")
    assert len(await world.text(f"{ASKS}/{number}/question")) > 500_000
    with refused("EMSGSIZE"):
        await ask(world, f"To: bob\n\n{'x' * 1_100_000}\n")


async def test_a_maildir_delivery_and_send_ask_and_answer_too(world: World) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    place = "/agents/bob/inbox/new/1.M1.host"
    await world.write(place, "Reply-By: 5m\n\nhow?\n", alice, create=True)
    await world.write("/agents/alice/send", "To: bob\nReply-By: 5m\n\nhow?\n", alice)
    numbers = [name for name in world.list(ASKS) if name != "new"]
    assert len(numbers) == 2
    for name in numbers:
        text = f"In-Reply-To: {name}\nTo: alice\n\nthus\n"
        await world.write("/agents/bob/send", text, bob)
        assert (await world.text(f"{ASKS}/{name}/answer")).endswith("thus\n")
    assert len(world.list("/agents/alice/inbox/new")) == 2
    with refused("EINVAL"):
        await world.write(f"{place}2", "Reply-By: soon\n\nhow?\n", alice, create=True)


async def test_an_answer_delivered_the_maildir_way_has_its_file_too(world: World) -> None:
    number = await ask(world)
    place = "/agents/alice/inbox/new/1.M1.host"
    text = f"In-Reply-To: {number}\n\nthus\n"
    await world.write(place, text, world.as_agent("bob"), create=True)
    assert (await world.text(f"{ASKS}/{number}/answer")).endswith("thus\n")
    assert (await world.text(place)).endswith("thus\n")


async def test_a_broadcast_is_no_question(world: World) -> None:
    await world.write("/etc/roles.yaml", "roles: {agent: {capabilities: [broadcast]}}\n")
    with refused("EINVAL"):
        await world.write("/agents/alice/send", "To: *\nReply-By: 5m\n\nhow?\n")
    with refused("EINVAL"):
        await ask(world, "To: *\n\nhow?\n")
    assert world.list(ASKS) == ["new"]


async def test_escalate_tells_the_parent_and_its_id_is_an_ask(world: World) -> None:
    pid = world.pid("alice")
    number = await transact(world, f"/proc/{pid}/escalate", "error the build fails\n", "alice")
    (name,) = [name for name in world.list("/agents/init/inbox/new") if name.endswith("alice")]
    text = await world.text(f"/agents/init/inbox/new/{name}")
    assert text.endswith("\n\nthe build fails\n")
    assert "Severity: error" in text.splitlines()
    shown = status(await world.text(f"{ASKS}/{number}/status"))
    assert (shown["To"], shown["Severity"], shown["State"]) == ("init", "error", "open")
    await world.write("/agents/init/outbox/alice", f"In-Reply-To: {number}\n\nfixed\n")
    assert (await world.text(f"{ASKS}/{number}/answer")).endswith("fixed\n")
    for request, code in (("fatal x", "EINVAL"), ("error", "EINVAL"), ("", "EINVAL")):
        with refused(code):
            await transact(world, f"/proc/{pid}/escalate", request, "alice")
    with refused("EACCES"):
        await transact(world, f"/proc/{pid}/escalate", "error x", "bob")
    with refused("ESRCH"):
        handle = world.open("/proc/1/escalate", os.O_RDWR)
        await handle.write(0, b"error x")


async def test_the_next_one_up_shows_in_the_status_of_an_escalation(world: World) -> None:
    child = await world.spawn("dora", world.pid("alice"))
    number = await transact(world, f"/proc/{child.pid}/escalate", "critical fire", "dora")
    shown = status(await world.text(f"/agents/dora/asks/{number}/status"))
    assert shown["To"] == "alice, init"


async def test_a_question_to_a_queue_is_answered_by_who_claimed_it(world: World) -> None:
    alice, bob, carol = (world.as_agent(name) for name in ("alice", "bob", "carol"))
    world.directory("/dev/queues").mkdir("jobs", 0o777, alice)
    queued(world, "Reply-By: 5m\n\nhow?\n")
    (number,) = [name for name in world.list(ASKS) if name != "new"]
    assert status(await world.text(f"{ASKS}/{number}/status"))["To"] == "queues/jobs"
    reply = f"In-Reply-To: {number}\n\nthus\n"
    await world.write("/agents/carol/outbox/alice", reply, carol)  # foreign: no link
    assert (await world.text("/dev/queues/jobs/recv", bob)).endswith("\n\nhow?\n")
    await world.write("/agents/carol/outbox/alice", reply, carol)
    assert answer(world, number).try_read(4096) is None
    await world.write("/agents/bob/outbox/alice", reply, bob)
    text = await world.text(f"{ASKS}/{number}/answer", alice)
    assert "From: bob" in text.splitlines()
    inbox = [
        await world.text(f"/agents/alice/inbox/new/{name}")
        for name in world.list("/agents/alice/inbox/new")
    ]
    assert [f"In-Reply-To: <{number}@" in text for text in inbox] == [False, False, True]


async def test_a_cancelled_question_to_a_queue_is_withdrawn_or_its_claimant_told(
    world: World,
) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    world.directory("/dev/queues").mkdir("jobs", 0o777, alice)
    for _ in range(2):
        queued(world, "Reply-By: 5m\n\nhow?\n")
    await world.text("/dev/queues/jobs/recv", bob)
    for name in world.list(ASKS):
        if name != "new":
            world.directory(ASKS).rmdir(name, alice)
    assert world.list("/dev/queues/jobs/new") == []
    (notice,) = world.list("/agents/bob/inbox/new")
    text = await world.text(f"/agents/bob/inbox/new/{notice}")
    assert "Type: ask-cancelled" in text.splitlines()


async def test_removing_a_queue_ends_the_questions_in_it(world: World) -> None:
    alice = world.as_agent("alice")
    world.directory("/dev/queues").mkdir("jobs", 0o777, alice)
    queued(world, "Reply-By: 5m\n\nhow?\n")
    (number,) = [name for name in world.list(ASKS) if name != "new"]
    handle = answer(world, number)
    await world.write("/dev/queues/jobs/ctl", "remove\n", alice)
    with refused("EHOSTUNREACH"):
        handle.try_read(4096)
    handle.release()


async def test_the_record_of_a_question_that_may_be_answered_cannot_be_dropped(
    world: World,
) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    number = await ask(world)
    await world.text("/agents/bob/recv", bob)
    (claimed,) = world.list("/agents/bob/inbox/cur", bob)
    world.unlink(f"/agents/bob/inbox/cur/{claimed}", bob)
    assert (await world.text(f"/agents/alice/sent/{number}", alice)).startswith("State: done\n")
    with refused("EBUSY"):
        world.unlink(f"/agents/alice/sent/{number}", alice)
    await world.mail("bob", "alice", f"In-Reply-To: {number}\n\nthus\n")
    assert (await world.text(f"{ASKS}/{number}/answer")).endswith("thus\n")
    world.unlink(f"/agents/alice/sent/{number}", alice)


async def test_an_answer_that_is_in_no_inbox_shows_in_the_senders_sent(world: World) -> None:
    bob = world.as_agent("bob")
    number = await ask(world)
    sent = world.find("/agents/bob/sent").key
    await world.mail("bob", "alice", f"In-Reply-To: {number}\n\nthus\n")
    (name,) = world.list("/agents/bob/sent", bob)
    assert [c.name for c in world.changes if isinstance(c, Created) and c.directory == sent] == [
        name
    ]
    shown = await world.text(f"/agents/bob/sent/{name}", bob)
    assert shown.startswith("State: done\n")
    assert shown.endswith("\n\nthus\n")


async def test_a_question_that_its_receiver_saves_again_asks_nobody(world: World) -> None:
    bob = world.as_agent("bob")
    text = "From: alice\nReply-By: Mon, 01 Jan 2001 00:00:00 +0000\n\nhow?\n"
    await world.write("/agents/bob/inbox/cur/1.M1.host:2,F", text, bob, create=True)
    saved = await world.text("/agents/bob/inbox/cur/1.M1.host:2,F", bob)
    assert "Reply-By: Mon, 01 Jan 2001 00:00:00 +0000" in saved.splitlines()
    assert world.list("/agents/bob/asks", bob) == ["new"]
