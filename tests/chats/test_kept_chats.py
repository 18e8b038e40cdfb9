"""/agents/NAME/chats: conversations that survive."""

from __future__ import annotations

import os
import re

import pytest
import trio

from agentfs.check import check
from agentfs.vfs.changes import Created, Modified, Removed
from agentfs.vfs.exchange import ExchangeHandle
from tests.chats.gateway import Gateway, Heard
from tests.chats.test_llm import read, whole
from tests.providers.world import OPERATOR, World, refused

FOLDER = "/agents/alice/chats"
HOME = f"{FOLDER}/plan"


@pytest.fixture
def chat(world: World) -> World:
    """Alice has a chat."""
    world.directory(FOLDER).mkdir("plan", 0o700, world.as_agent("alice"))
    return world


def asking(world: World, path: str = HOME, who: str = "alice") -> ExchangeHandle:
    handle = world.open(f"{path}/ask", os.O_RDWR, world.as_agent(who))
    assert isinstance(handle, ExchangeHandle)
    return handle


async def ask(world: World, prompt: str, path: str = HOME) -> str:
    handle = asking(world, path)
    try:
        handle.try_write(prompt.encode())
        return await whole(handle)
    finally:
        handle.release()


async def test_the_life_of_a_chat(chat: World, gateway: Gateway) -> None:
    alice = chat.as_agent("alice")
    assert chat.list(HOME, alice) == ["model", "system", "ask", "transcript"]
    assert await chat.text(f"{HOME}/model", alice) == "small\n"
    await chat.write(f"{HOME}/system", "Be brief.\n", alice)
    gateway.then(lambda heard: heard.answer("One.\nTwo."))
    gateway.then(lambda heard: heard.answer("Three."))
    assert await ask(chat, "Count\nto two.\n") == "One.\nTwo."
    assert await ask(chat, "go on") == "Three."
    assert gateway.heard[1].asked == {
        "model": "small",
        "system": "Be brief.\n",
        "messages": [
            {"role": "user", "content": "Count\nto two."},
            {"role": "assistant", "content": "One.\nTwo."},
            {"role": "user", "content": "go on"},
        ],
        "max_output": None,
    }
    text = await chat.text(f"{HOME}/transcript", alice)
    assert re.sub(r"(?m)^2\S+", "TIME", text) == (
        "TIME user\n\tCount\n\tto two.\nTIME small\n\tOne.\n\tTwo.\n"
        "TIME user\n\tgo on\nTIME small\n\tThree.\n"
    )
    chat.directory(HOME).unlink("transcript", alice)
    chat.directory(HOME).unlink("system", alice)
    assert await chat.text(f"{HOME}/transcript", alice) == ""
    assert await chat.text(f"{HOME}/system", alice) == ""
    stale = asking(chat)
    chat.directory(FOLDER).rmdir("plan", alice)
    assert chat.list(FOLDER, alice) == []
    stale.try_write(b"hello")
    with refused("ESTALE"):
        await read(stale)
    stale.release()


async def test_it_is_private(chat: World) -> None:
    await chat.spawn("bob", tier="operational")
    for path in (FOLDER, HOME):
        with refused("EACCES"):
            chat.list(path, chat.as_agent("bob"))
    with refused("EACCES"):
        asking(chat, who="bob")
    with refused("EACCES"):
        chat.directory(FOLDER).mkdir("x", 0o700, chat.as_agent("bob"))
    assert chat.list(FOLDER, OPERATOR) == ["plan"]


async def test_names_and_how_many(chat: World) -> None:
    alice, folder = chat.as_agent("alice"), chat.directory(FOLDER)
    for name in ("", ".x", "a b", "a/b", "x" * 65, "ä"):
        with refused("EINVAL"):
            folder.mkdir(name, 0o700, alice)
    with refused("EEXIST"):
        folder.mkdir("plan", 0o700, alice)
    await chat.write("/etc/agentfs.yaml", "chats: {max_chats: 2}\n")
    folder.mkdir("two", 0o700, alice)
    with refused("EDQUOT"):
        folder.mkdir("three", 0o700, alice)
    with refused("ENOENT"):
        folder.rmdir("three", alice)


async def test_the_model_is_one_that_may_be_asked(chat: World, gateway: Gateway) -> None:
    alice = chat.as_agent("alice")
    for name, code in (("none", "ENOENT"), ("big", "EPERM"), ("locked", "EACCES")):
        with refused(code):
            await chat.write(f"{HOME}/model", f"{name}\n", alice)
    await chat.write(f"{HOME}/model", "tiny-7", alice)
    gateway.then(lambda heard: heard.answer("yes"))
    assert await ask(chat, "x") == "yes"
    assert gateway.heard[0].asked["model"] == "tiny-7"
    assert (gateway.heard[0].pid) == chat.pid("alice")


async def test_a_turn_is_kept_before_its_end_is_seen_and_never_half(
    chat: World, gateway: Gateway
) -> None:
    go_on = trio.Event()

    async def slowly(heard: Heard) -> None:
        await heard.begin()
        await heard.data(b"half")
        await go_on.wait()
        await heard.data(b" and half")
        await heard.end()

    gateway.then(slowly)
    handle = asking(chat)
    handle.try_write(b"x")
    assert await read(handle) == b"half"
    store = chat.kernel.store
    assert list(store.records("chat turn")) == []
    other = asking(chat)
    other.try_write(b"y")
    with refused("EBUSY"):
        await read(other)
    other.release()
    go_on.set()
    assert await whole(handle) == " and half"
    ((key, turn),) = store.records("chat turn")
    assert (key, turn["prompt"], turn["answer"], turn["whole"]) == (
        "alice/plan/000001",
        "x",
        "half and half",
        True,
    )
    handle.release()


@pytest.mark.parametrize("how", ["closed", "failed", "refused"])
async def test_an_answer_that_ends_early(chat: World, gateway: Gateway, how: str) -> None:
    async def some(heard: Heard) -> None:
        await heard.begin()
        await heard.data(b"some")
        if how == "failed":
            await heard.end(x_agentfs_errno="EREMOTEIO", x_agentfs_error="gone")
        else:
            await trio.sleep_forever()

    refusal = {"errno": "EDQUOT", "words": "no"}
    gateway.then(some if how != "refused" else lambda heard: heard.refuse(400, **refusal))
    handle = asking(chat)
    handle.try_write(b"x")
    if how == "refused":
        with refused("EDQUOT"):
            await read(handle)
    else:
        assert await read(handle) == b"some"
    if how == "failed":
        with refused("EREMOTEIO"):
            await read(handle)
    handle.release()
    text = await chat.text(f"{HOME}/transcript", chat.as_agent("alice"))
    assert text.endswith("" if how == "refused" else "small (cut)\n\tsome\n")
    gateway.then(lambda heard: heard.answer("yes"))
    assert await ask(chat, "again") == "yes"
    assert len(gateway.heard[-1].asked["messages"]) == (1 if how == "refused" else 3)


async def test_a_chat_has_an_end(chat: World, gateway: Gateway) -> None:
    await chat.write("/etc/agentfs.yaml", "chats: {max_conversation: 2000, max_turns: 2}\n")
    for _ in range(2):
        gateway.then(lambda heard: heard.answer("a" * 100))
        await ask(chat, "x")
    with refused("EMSGSIZE"):
        await ask(chat, "x")
    chat.directory(HOME).unlink("transcript", chat.as_agent("alice"))
    with refused("EMSGSIZE"):
        await ask(chat, "x" * 2001)
    gateway.then(lambda heard: heard.answer("b" * 5000))
    assert len(await ask(chat, "long")) == 5000
    (_, turn), *_ = chat.kernel.store.records("chat turn")
    assert len(turn["answer"]) + 4 <= 2000
    assert not turn["whole"]


async def test_changes_are_announced(chat: World, gateway: Gateway) -> None:
    alice, folder = chat.as_agent("alice"), chat.directory(FOLDER)
    transcript, home = chat.find(f"{HOME}/transcript").key, chat.find(HOME).key
    chat.changes.clear()
    folder.mkdir("two", 0o700, alice)
    assert [c.name for c in chat.changes if isinstance(c, Created) and c.directory == folder.key]
    gateway.then(lambda heard: heard.answer("yes"))
    await ask(chat, "x")
    assert Modified(transcript) in chat.changes
    assert Modified(home) in chat.changes
    await chat.write(f"{HOME}/system", "x", alice)
    assert Modified(chat.find(f"{HOME}/system").key) in chat.changes
    folder.rmdir("two", alice)
    assert [c.name for c in chat.changes if isinstance(c, Removed)] == ["two"]


async def test_the_agent_goes_with_its_chats(chat: World, gateway: Gateway) -> None:
    gateway.then(lambda heard: heard.answer("yes"))
    await ask(chat, "x")
    chat.directory("/agents").mkdir("dora", 0o755, OPERATOR)
    chat.directory("/agents/dora/chats").mkdir("plan", 0o700, OPERATOR)
    chat.directory("/agents").rmdir("dora", OPERATOR)
    chat.directory("/agents").mkdir("dora", 0o755, OPERATOR)
    assert chat.list("/agents/dora/chats") == []
    assert chat.list(FOLDER) == ["plan"]
    assert check(chat.kernel.store.path) == []


async def test_the_check_finds_what_is_wrong(chat: World, gateway: Gateway) -> None:
    gateway.then(lambda heard: heard.answer("yes"))
    await ask(chat, "x")
    store = chat.kernel.store
    with store.transaction():
        store.put_record("chat turn", "alice/plan/000002", {"time": 1.0})
        store.put_record("chat", "bob/plan", {"agent": "carol"})
        store.delete_record("chat turn", "alice/plan/000001")
    faults = "\n".join(check(store.path))
    for fault in ("turn 1 is missing", "0 bytes were said", "no such chat", "cannot be read"):
        assert fault in faults
