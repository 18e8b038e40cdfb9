"""/dev/llm: whom it is shown to, what is asked, and what an answer becomes."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace

import pytest
import trio
import trio.testing

from agentfs.base.errors import KernelError
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Created, Modified, Removed
from agentfs.vfs.exchange import ExchangeHandle
from tests.chats.gateway import Gateway, Heard
from tests.providers.world import OPERATOR, STRANGER, World, refused


def open_model(world: World, name: str = "small", who: str | Caller = "alice") -> ExchangeHandle:
    caller = world.as_agent(who) if isinstance(who, str) else who
    handle = world.open(f"/dev/llm/{name}", os.O_RDWR, caller)
    assert isinstance(handle, ExchangeHandle)
    return handle


async def read(handle: ExchangeHandle, size: int = 65536) -> bytes:
    """read(2), which waits."""
    woken = trio.Event()
    forget = handle.on_wake(lambda: woken.set())
    try:
        while True:
            data = handle.try_read(size)
            if data is not None:
                return data
            with trio.fail_after(30):
                await woken.wait()
            woken = trio.Event()
    finally:
        forget()


async def whole(handle: ExchangeHandle) -> str:
    """cat."""
    content = b""
    while piece := await read(handle):
        content += piece
    return content.decode()


# -- whom it is shown to ---------------------------------------------------------------------------


async def test_a_listing_shows_what_the_caller_may_ask_now(world: World) -> None:
    assert world.list("/dev/llm") == ["big", "small"]
    assert world.list("/dev/llm", world.as_agent("alice")) == ["small"]
    assert world.list("/dev/llm", world.as_agent("mute")) == []
    assert world.list("/dev/llm", STRANGER) == []
    await world.kernel.catalog.secrets.set(OPERATOR.principal, "keyed", b"sk-1")
    assert world.list("/dev/llm", world.as_agent("alice")) == ["small", "locked"]


@pytest.mark.parametrize(
    ("name", "who", "code"),
    [
        ("big", "alice", "EPERM"),
        ("small", "mute", "EPERM"),
        ("locked", "alice", "EACCES"),
        ("priced", "alice", "ENOENT"),
        ("none", "alice", "ENOENT"),
    ],
)
async def test_others_cannot_be_opened(world: World, name: str, who: str, code: str) -> None:
    with refused(code):
        open_model(world, name, who)


async def test_a_stranger_asks_nothing(world: World) -> None:
    with refused("EACCES"):
        world.open("/dev/llm/small", os.O_RDWR, STRANGER)


async def test_a_name_that_a_program_has_built_in_leads_to_a_model(
    world: World, gateway: Gateway
) -> None:
    gateway.then(lambda heard: heard.answer("yes"))
    handle = open_model(world, "tiny-2026")
    handle.try_write(b"hello")
    assert await whole(handle) == "yes"
    assert gateway.heard[0].asked["model"] == "tiny-2026"


async def test_changes_of_what_can_be_asked_are_announced(world: World) -> None:
    key = world.directory("/dev/llm").key
    world.changes.clear()
    await world.kernel.catalog.secrets.set(OPERATOR.principal, "keyed", b"sk-1")
    (change,) = (c for c in world.changes if isinstance(c, Created) and c.directory == key)
    assert change.name == "locked"
    await world.kernel.catalog.secrets.set(OPERATOR.principal, "keyed", b"sk-2")
    world.kernel.catalog.secrets.remove(OPERATOR.principal, "keyed")
    (gone,) = (c for c in world.changes if isinstance(c, Removed) and c.directory == key)
    assert gone.name == "locked"
    text = world.kernel.catalog.text
    world.changes.clear()
    world.kernel.catalog.replace(text.replace("  big:", "  great:"))
    told = [type(c).__name__ + c.name for c in world.changes if getattr(c, "directory", 0) == key]
    assert told == ["Removedbig", "Createdgreat"]
    world.kernel.capabilities.drop(world.as_agent("alice").principal, world.pid("alice"), "llm")
    assert Modified(key) in world.changes
    assert world.list("/dev/llm", world.as_agent("alice")) == []


# -- conversations ---------------------------------------------------------------------------------


async def test_a_conversation(world: World, gateway: Gateway) -> None:
    gateway.then(lambda heard: heard.answer("Par", "is."))
    gateway.then(lambda heard: heard.answer("About two million."))
    handle = open_model(world)
    handle.try_write(b"Capital of ")
    handle.try_write(b"France?\n")
    await trio.testing.wait_all_tasks_blocked()
    assert gateway.heard == []
    assert await whole(handle) == "Paris."
    assert await read(handle) == b""
    handle.try_write("Wie viele leben dort, ungefähr?".encode())
    assert await whole(handle) == "About two million."
    first, second = gateway.heard
    assert (first.pid, first.path) == (world.pid("alice"), "/agentfs/ask")
    assert first.asked == {
        "model": "small",
        "system": "",
        "messages": [{"role": "user", "content": "Capital of France?"}],
        "max_output": None,
    }
    assert second.asked["messages"] == [
        {"role": "user", "content": "Capital of France?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "Wie viele leben dort, ungefähr?"},
    ]
    handle.release()


async def test_the_answer_comes_as_it_is_made(world: World, gateway: Gateway) -> None:
    go_on = trio.Event()

    async def slowly(heard: Heard) -> None:
        await heard.begin()
        await heard.data(b"first ")
        await go_on.wait()
        await heard.data(b"second")
        await heard.end()

    gateway.then(slowly)
    handle = open_model(world)
    handle.try_write(b"count")
    assert await read(handle) == b"first "
    go_on.set()
    assert await whole(handle) == "second"
    handle.release()


async def test_what_is_never_read_for_is_never_sent(world: World, gateway: Gateway) -> None:
    handle = open_model(world)
    handle.try_write(b"hello")
    handle.release()
    await trio.testing.wait_all_tasks_blocked()
    assert gateway.heard == []
    assert world.kernel.chats.under_way == 0


@pytest.mark.parametrize("came", [b"", b"some"])
async def test_closing_it_cancels(world: World, gateway: Gateway, came: bytes) -> None:
    async def hang(heard: Heard) -> None:
        if came:
            await heard.begin()
            await heard.data(came)
        await trio.sleep_forever()

    gateway.then(hang)
    handle = open_model(world)
    handle.try_write(b"count")
    assert handle.try_read(10) is None
    if came:
        assert await read(handle) == came
    while not gateway.heard:
        await trio.testing.wait_all_tasks_blocked()
    handle.release()
    with trio.fail_after(30):
        await gateway.heard[0].gone.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert world.kernel.chats.under_way == 0


async def test_what_came_of_an_answer_is_part_of_the_conversation(
    world: World, gateway: Gateway
) -> None:
    async def lines(heard: Heard) -> None:
        await heard.begin()
        await heard.data(b"one\ntwo\n")
        await trio.sleep_forever()

    gateway.then(lines)
    gateway.then(lambda heard: heard.answer("yes"))
    handle = open_model(world)
    handle.try_write(b"count")
    assert await read(handle, 4) == b"one\n"
    handle.try_write(b"go on?")
    assert await whole(handle) == "yes"
    assert [each["content"] for each in gateway.heard[1].asked["messages"]] == [
        "count",
        "one\ntwo\n",
        "go on?",
    ]
    handle.release()


async def test_a_request_of_a_dialect(world: World, gateway: Gateway) -> None:
    async def raw(heard: Heard) -> None:
        await heard.begin(kind="text/event-stream")
        await heard.data(b"data: {}\n\n", b"\xff\x00")
        await heard.end()

    gateway.then(raw)
    handle = open_model(world)
    body = b'{"messages": [], "unknown": "\xc3\xa4"}\n'
    handle.try_write(body)
    assert await read(handle) + await read(handle) in (b"data: {}\n\n\xff\x00",)
    (heard,) = gateway.heard
    assert (heard.path, heard.headers["x-agentfs-model"]) == ("/agentfs/raw", "small")
    assert heard.body == body
    handle.release()


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        (b"\n", "EINVAL"),
        (b" \n\n", "EINVAL"),
        (b"\xff", "EINVAL"),
        (b"x" * 2_000_000, "EMSGSIZE"),
    ],
)
async def test_prompts_that_are_none(
    world: World, gateway: Gateway, prompt: bytes, code: str
) -> None:
    handle = open_model(world)
    handle.try_write(prompt)
    with refused(code):
        await read(handle)
    assert gateway.heard == []
    gateway.then(lambda heard: heard.answer("yes"))
    handle.try_write(b"better")
    assert await whole(handle) == "yes"
    assert len(gateway.heard[0].asked["messages"]) == 1
    handle.release()


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (400, {"errno": "EDQUOT", "words": "no tokens left", "rule": "budget"}, "EDQUOT"),
        (502, {"errno": "EREMOTEIO", "words": "it said no"}, "EREMOTEIO"),
        (504, {"errno": "ETIMEDOUT", "words": "no byte in 120 s"}, "ETIMEDOUT"),
        (500, {"error": {"message": "overloaded"}}, "EREMOTEIO"),
        (500, {"errno": "ENOTTY", "words": "?"}, "EREMOTEIO"),
        (500, ["odd"], "EREMOTEIO"),
    ],
)
async def test_a_refusal_is_the_errno_of_the_read(
    world: World, gateway: Gateway, status: int, said: dict[str, object], code: str
) -> None:
    async def refuse(heard: Heard) -> None:
        await heard.begin(status, "application/json")
        await heard.data(json.dumps(said).encode())
        await heard.end()

    gateway.then(refuse)
    gateway.then(lambda heard: heard.answer("yes"))
    handle = open_model(world)
    handle.try_write(b"hello")
    for _ in range(2):
        with refused(code):
            await read(handle)
    handle.try_write(b"again")
    assert await whole(handle) == "yes"
    assert [each["content"] for each in gateway.heard[1].asked["messages"]] == ["again"]
    handle.release()


async def test_a_rate_lets_the_next_read_try_again(world: World, gateway: Gateway) -> None:
    said = {"errno": "EAGAIN", "words": "in 12 s", "rule": "rate", "retry_after": 12}
    gateway.then(lambda heard: heard.refuse(429, **said))
    gateway.then(lambda heard: heard.answer("yes"))
    handle = open_model(world)
    handle.try_write(b"hello")
    with pytest.raises(KernelError) as limited:
        await read(handle)
    assert (limited.value.errno, limited.value.retry_after) == (errno.EAGAIN, 12)
    assert await whole(handle) == "yes"
    handle.release()


@pytest.mark.parametrize(
    ("trailers", "code", "words"),
    [
        ({"x_agentfs_errno": "EREMOTEIO", "x_agentfs_error": "hung up"}, "EREMOTEIO", "hung up"),
        ({"x_agentfs_errno": "ETIMEDOUT", "x_agentfs_error": "silent"}, "ETIMEDOUT", "silent"),
        ({"x_agentfs_finish": "budget"}, "EDQUOT", "cut here"),
    ],
)
async def test_a_failure_in_the_midst_comes_after_what_came(
    world: World, gateway: Gateway, trailers: dict[str, str], code: str, words: str
) -> None:
    gateway.then(lambda heard: heard.answer("some", **trailers))
    gateway.then(lambda heard: heard.answer("rest"))
    handle = open_model(world)
    handle.try_write(b"hello")
    assert await read(handle) == b"some"
    for _ in range(2):
        with pytest.raises(KernelError, match=words) as failed:
            await read(handle)
        assert failed.value.code == code
    handle.try_write(b"go on")
    assert await whole(handle) == "rest"
    assert len(gateway.heard[1].asked["messages"]) == 3
    handle.release()


@pytest.mark.parametrize("came", [0, 1, 2])
async def test_a_gateway_that_dies_is_no_end_of_file(
    world: World, gateway: Gateway, came: int
) -> None:
    async def die(heard: Heard) -> None:
        if came:
            await heard.begin()
        if came == 2:
            await heard.data(b"some")
        await heard.stream.aclose()

    gateway.then(die)
    handle = open_model(world)
    handle.try_write(b"hello")
    if came == 2:
        assert await read(handle) == b"some"
    with refused("EREMOTEIO"):
        await read(handle)
    handle.release()
    assert world.kernel.chats.under_way == 0


async def test_a_conversation_has_an_end(world: World, gateway: Gateway) -> None:
    await world.write("/etc/agentfs.yaml", "chats: {max_conversation: 2000}\n")
    gateway.then(lambda heard: heard.answer("a" * 1500))
    handle = open_model(world)
    handle.try_write(b"x" * 400)
    assert len(await whole(handle)) == 1500
    handle.try_write(b"y" * 200)
    with refused("EMSGSIZE"):
        await read(handle)
    gateway.then(lambda heard: heard.answer("b" * 5000))
    handle.try_write(b"short")
    assert await whole(handle) == "b" * 5000  # the reader has it all
    handle.try_write(b"more")
    with refused("EMSGSIZE"):
        await read(handle)
    handle.release()


async def test_memory_counts_for_whoever_asks_and_is_given_back(
    world: World, gateway: Gateway
) -> None:
    pot = world.kernel.shares.pots["unsent"]
    alice = world.as_agent("alice").principal

    async def much(heard: Heard) -> None:
        await heard.answer("a" * 3000)

    gateway.then(much)
    caller = replace(world.as_agent("alice"), charge=world.kernel.shares.charge)
    handle = open_model(world, "small", caller)
    handle.try_write(b"x" * 1000)
    assert pot.held(world.kernel.shares.holder(alice)) == 1000
    await whole(handle)
    assert pot.held(world.kernel.shares.holder(alice)) >= 4000
    handle.release()
    assert pot.held(world.kernel.shares.holder(alice)) == 0


async def test_a_reader_that_does_not_read_stops_the_gateway(
    world: World, gateway: Gateway
) -> None:
    sent = 0

    async def pour(heard: Heard) -> None:
        nonlocal sent
        await heard.begin()
        while sent < 3_000_000:
            await heard.data(b"x" * 10_000)
            sent += 10_000
        await heard.end()

    gateway.then(pour)
    handle = open_model(world)
    handle.try_write(b"hello")
    got = len(await read(handle))
    await trio.testing.wait_all_tasks_blocked(0.1)
    assert got <= sent < 1_500_000  # what a pair of sockets holds
    while piece := await read(handle):
        got += len(piece)
    assert got == sent == 3_000_000
    handle.release()


async def test_why_says_which_model_it_waits_for(world: World, gateway: Gateway) -> None:
    handle = open_model(world)
    handle.parked()
    line = await world.text(f"/proc/{world.pid('alice')}/why")
    assert line.split()[::2] == ["model", "small"]
    handle.unparked()
    assert not (await world.text(f"/proc/{world.pid('alice')}/why")).startswith("model")
    handle.release()
