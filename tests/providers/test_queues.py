"""/dev/queues as files, without a mount: modes, what is announced, what waits."""

from __future__ import annotations

import dataclasses
import os
import stat as st

import pytest

from agentfs.mail.message import Draft
from agentfs.providers.queue_send import Sending
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Created, Modified, Moved, Removed
from agentfs.vfs.node import Attributes, Directory, StreamHandle
from tests.providers.world import OPERATOR, STRANGER, World, refused

JOBS = "/dev/queues/jobs"


@pytest.fixture
def queue(world: World) -> Directory:
    node = world.directory("/dev/queues").mkdir("jobs", 0o777, OPERATOR)
    assert isinstance(node, Directory)
    return node


def sender(world: World, flags: int = 0) -> Sending:
    handle = world.open(f"{JOBS}/send", os.O_WRONLY | flags)
    assert isinstance(handle, Sending)
    return handle


def put(world: World, text: str, caller: Caller = OPERATOR) -> None:
    handle = world.open(f"{JOBS}/send", os.O_WRONLY, caller)
    assert isinstance(handle, Sending)
    assert handle.try_write(text.encode()) == len(text)
    handle.release()


def mode(world: World, path: str) -> int:
    return st.S_IMODE(world.find(path).stat().mode)


async def test_what_is_in_a_queue(world: World, queue: Directory) -> None:
    assert set(world.list(JOBS)) == {
        "send",
        "recv",
        "recv.batch",
        "new",
        "cur",
        "tmp",
        "dead",
        "length",
        "status",
        "ctl",
    }
    assert world.list("/dev/queues") == ["jobs"]
    assert await world.text(f"{JOBS}/length") == "0\n"
    with refused("ENOENT"):
        world.find("/dev/queues/none")
    with refused("EEXIST"):
        world.directory("/dev/queues").mkdir("jobs", 0o777, OPERATOR)


@pytest.mark.parametrize(
    ("given", "umask", "found"),
    [(0o755, 0o022, 0o777), (0o777, 0, 0o777), (0o700, 0o077, 0o700), (0o750, 0, 0o750)],
)
async def test_a_queue_is_for_others_unless_somebody_says_no(
    world: World, given: int, umask: int, found: int
) -> None:
    caller = dataclasses.replace(OPERATOR, umask=umask)
    world.directory("/dev/queues").mkdir("jobs", given, caller)
    assert mode(world, JOBS) == found


async def test_linux_is_told_modes_that_follow_from_the_queues(
    world: World, queue: Directory
) -> None:
    queue.chattr(OPERATOR, Attributes(mode=0o742))
    assert mode(world, JOBS) == 0o753
    expected = {
        "send": 0o202,
        "recv": 0o660,
        "recv.batch": 0o660,
        "new": 0o773,
        "tmp": 0o773,
        "cur": 0o770,
        "dead": 0o770,
        "length": 0o444,
        "ctl": 0o222,
    }
    for name, wanted in expected.items():
        assert oct(mode(world, f"{JOBS}/{name}")) == oct(wanted), name
    put(world, "x")
    assert mode(world, f"{JOBS}/new/{world.list(f'{JOBS}/new')[0]}") == 0o640


async def test_a_message_goes_through_every_folder_and_is_announced(
    world: World, queue: Directory
) -> None:
    world.find(f"{JOBS}/new")
    world.changes.clear()
    put(world, "To: somebody\nSubject: x\n\nhello")
    (name,) = world.list(f"{JOBS}/new")
    text = await world.text(f"{JOBS}/new/{name}")
    assert "\nTo: queues/jobs\n" in text
    await world.rename(f"{JOBS}/new/{name}", f"{JOBS}/cur/{name}:2,")
    await world.rename(f"{JOBS}/cur/{name}:2,", f"{JOBS}/new/{name}")
    world.unlink(f"{JOBS}/new/{name}")
    kinds = [type(change) for change in world.changes if not isinstance(change, Modified)]
    assert kinds == [Created, Moved, Moved, Removed]
    length = world.find(f"{JOBS}/length").key
    assert sum(c == Modified(length) for c in world.changes) == 4


async def test_nothing_is_announced_of_what_nobody_ever_looked_into(
    world: World, queue: Directory
) -> None:
    world.changes.clear()
    kernel = world.kernel
    found = kernel.queues.get("jobs")
    kernel.queues.send(OPERATOR.principal, found, Draft(found.mailbox, b"x"))
    assert world.changes == []


async def test_each_write_is_a_message_and_reading_send_gives_nothing(
    world: World, queue: Directory
) -> None:
    handle = sender(world)
    for number in range(3):
        assert handle.try_write(f"{number}".encode()) == 1
    await handle.fsync()
    assert handle.try_read(10) == b""
    handle.release()
    assert await world.text(f"{JOBS}/length") == "3\n"
    assert await world.text(f"{JOBS}/status") == (
        "Owner:\tinit\nMode:\t0777\nMax:\t10000\nWaiting:\t3\nClaimed:\t0\nDead:\t0\n"
    )
    with refused("EINVAL"):
        sender(world).try_write(b"Priority: whenever\n\nx")
    with refused("EMSGSIZE"):
        sender(world).try_write(bytes(1_048_576))


async def test_delivering_the_maildir_way(world: World, queue: Directory) -> None:
    alice = world.as_agent("alice")
    await world.write(f"{JOBS}/tmp/1.x", "one", alice, create=True)
    await world.rename(f"{JOBS}/tmp/1.x", f"{JOBS}/new/1.x", alice)
    await world.write(f"{JOBS}/new/2.x", "two", alice, create=True)
    assert world.list(f"{JOBS}/new") == ["1.x", "2.x"]
    assert "From: alice" in await world.text(f"{JOBS}/new/1.x")
    with refused("EPERM"):
        world.create(f"{JOBS}/cur/3.x", alice)
    await world.write(f"{JOBS}/tmp/3.x", "three", alice, create=True)
    with refused("EPERM"):
        await world.rename(f"{JOBS}/tmp/3.x", f"{JOBS}/cur/3.x", alice)
    await world.write(f"{JOBS}/ctl", "max 2")
    with refused("ENOSPC"):
        await world.rename(f"{JOBS}/tmp/3.x", f"{JOBS}/new/3.x", alice)
    with refused("ENOSPC"):
        world.create(f"{JOBS}/new/4.x", alice)


async def test_a_write_waits_for_room_and_polling_says_when(world: World, queue: Directory) -> None:
    await world.write(f"{JOBS}/ctl", "max 1")
    first, second, hasty = sender(world), sender(world), sender(world, os.O_NONBLOCK)
    assert first.writable()
    woken: list[str] = []
    hasty.on_wake(lambda: woken.append("hasty"))
    for name, handle in (("first", first), ("second", second)):
        handle.on_wake(lambda name=name: woken.append(name))  # type: ignore[misc]
    assert first.try_write(b"one") == 3
    assert not hasty.writable()
    for handle in (first, second):
        assert handle.try_write(b"more") is None
        handle.parked()
    with refused("ENOSPC"):
        hasty.try_write(b"now")
    stream = world.stream(f"{JOBS}/recv")
    assert stream.try_read(4096)
    assert woken.count("second") == 0
    assert {"first", "hasty"} <= set(woken)
    assert first.try_write(b"more") == 4
    first.unparked()
    assert woken.count("second") == 0
    second.unparked()  # a signal
    assert world.kernel.queues.line(world.kernel.queues.get("jobs")).idle
    for each in (first, second, hasty, stream):
        each.release()


async def test_a_stream_of_a_queue_that_was_removed_is_stale_even_if_there_is_another(
    world: World, queue: Directory
) -> None:
    stream, handle = world.stream(f"{JOBS}/recv"), sender(world)
    assert stream.try_read(10) is None
    world.directory("/dev/queues").rmdir("jobs", OPERATOR)
    world.directory("/dev/queues").mkdir("jobs", 0o777, OPERATOR)
    put(world, "x")
    for call in (lambda: stream.try_read(10), lambda: handle.try_write(b"x")):
        with refused("ESTALE"):
            call()
    assert handle.writable()
    assert await world.text(f"{JOBS}/length") == "1\n"


async def test_the_owner_decides_and_nobody_else(world: World) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    queue = world.directory("/dev/queues").mkdir("jobs", 0o700, alice)
    for caller in (bob, STRANGER):
        for path in (JOBS, f"{JOBS}/new", f"{JOBS}/cur", f"{JOBS}/dead"):
            with refused("EACCES"):
                world.list(path, caller)
        for name in ("recv", "recv.batch", "length", "status"):
            with refused("EACCES"):
                world.open(f"{JOBS}/{name}", os.O_RDONLY, caller)
        with refused("EACCES"):
            world.open(f"{JOBS}/send", os.O_WRONLY, caller)
        for code, call in (("EPERM", 0o777), ("EPERM", 0o700)):
            with refused("EACCES" if caller is STRANGER else code):
                queue.chattr(caller, Attributes(mode=call))
        with refused("EACCES" if caller is STRANGER else "EPERM"):
            world.directory("/dev/queues").rmdir("jobs", caller)
    queue.chattr(alice, Attributes(mode=0o722))
    put(world, "x", bob)
    assert await world.text(f"{JOBS}/length", bob) == "1\n"
    with refused("EPERM"):
        await world.write(f"{JOBS}/ctl", "purge", bob)
    with refused("EPERM"):
        queue.chattr(alice, Attributes(uid=12345))
    queue.chattr(OPERATOR, Attributes(mode=0o777))
    assert isinstance(world.stream(f"{JOBS}/recv", bob), StreamHandle)


async def test_ctl_takes_nothing_else(world: World, queue: Directory) -> None:
    for command in ("max", "max -1", "max x", "max 0", "max 99999999999", "remove it", "drop"):
        with refused("EINVAL"):
            await world.write(f"{JOBS}/ctl", command)
    await world.write(f"{JOBS}/ctl", "max 7\nmax default\n")
    assert "Max:\t10000\n" in await world.text(f"{JOBS}/status")
    put(world, "x")
    with refused("ENOTEMPTY"):
        world.directory("/dev/queues").rmdir("jobs", OPERATOR)
    await world.write(f"{JOBS}/ctl", "remove")
    assert world.list("/dev/queues") == []


async def test_coming_and_going_of_queues_is_announced(world: World) -> None:
    world.changes.clear()
    made = world.directory("/dev/queues").mkdir("jobs", 0o777, OPERATOR)
    made.chattr(OPERATOR, Attributes(mode=0o700))
    world.directory("/dev/queues").rmdir("jobs", OPERATOR)
    kinds = [type(c) for c in world.changes]
    assert (kinds[0], kinds[-1]) == (Created, Removed)
    assert Modified(made.key) in world.changes
    assert made.stat().mode & 0o777 == 0o700  # it can be announced although it is gone
