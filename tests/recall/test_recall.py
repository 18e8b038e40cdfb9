"""Remembering and recalling, as a shell does it."""

from __future__ import annotations

import os

from agentfs.recall.events import MemoryRecalled, MemoryStored
from agentfs.store.event import Event
from tests.providers.world import OPERATOR, STRANGER, refused
from tests.recall.conftest import Remembering


async def test_the_life_of_a_note(world: Remembering) -> None:
    seen: list[Event] = []
    world.kernel.events.listen(lambda record: seen.append(record.event), MemoryStored)
    world.kernel.events.listen(lambda record: seen.append(record.event), MemoryRecalled)
    text = "Type: fact\nTags: Deploy, prod\n\nProd is deployed on Tuesdays.\nNever on Fridays.\n"
    path = await world.remember(text)
    assert path.startswith("memory/notes/")
    kept = await world.text(f"/agents/alice/{path}", world.as_agent("alice"))
    head, _, body = kept.partition("\n\n")
    assert head.startswith("Type: fact\nTags: deploy, prod\nCreated: 2")
    assert body == "Prod is deployed on Tuesdays.\nNever on Fridays.\n"
    (found,) = await world.recall("when to deploy? not on FRIDAYS")
    assert list(found) == ["path", "line", "snippet", "score", "type", "tags"]
    assert found["path"] == path
    assert kept.splitlines()[found["line"] - 1] == "Never on Fridays."
    assert found["snippet"] == "Never on Fridays."
    assert (found["type"], found["tags"]) == ("fact", ["deploy", "prod"])
    assert found["score"] > 0
    stored, recalled = seen
    assert stored == MemoryStored("alice", path[13:-3], len(kept.encode()), first=True)
    assert recalled == MemoryRecalled("alice", 1)
    world.unlink(f"/agents/alice/{path}", world.as_agent("alice"))
    assert await world.recall("Fridays") == []


async def test_words_have_no_syntax(world: Remembering) -> None:
    odd = await world.remember('We wrote it in C++ (foo/bar), and it\'s "fast" - really * AND so.')
    other = await world.remember("C is not it. The bar is not foo.")
    assert (await world.paths('C++ foo/bar "it\'s" - * AND'))[0] == odd
    assert await world.paths("C++") == [odd]
    assert await world.paths("foo/bar") == [odd]
    assert sorted(await world.paths("c")) == sorted([odd, other])
    for query in (
        '"',
        "'",
        "a OR",
        "NEAR(",
        "path:x",
        "^foo",
        "x*",
        "(",
        "{a b}",
        "foo-",
        "--",
        "\\",
    ):
        with_words = any(letter.isalnum() for letter in query)
        if with_words:
            await world.recall(query)
        else:
            with refused("EINVAL"):
                await world.recall(query)
    hostile = "x'; DROP TABLE files; --"
    assert await world.recall(hostile) == []
    assert await world.paths("C++") == [odd]


UNICODE = [
    ("Grüße aus Köln", "koln"),
    ("naïve cafe\u0301", "CAFÉ"),
    ("東京は日本の首都です", "首都"),
    ("我们在星期二部署", "部署"),
    ("Москва слезам не верит", "москва"),
    ("हिन्दी में लिखा", "हिन्दी"),
    ("it shipped 🚀 today", "🚀"),
    ("ﬁnd the ligature", "find"),
    ("tel. +49 30", "49"),
    ("\ufeffbom first", "bom"),
    ("snake_case_name", "case"),
]


async def test_any_unicode(world: Remembering) -> None:
    kept = [await world.remember(text) for text, _ in UNICODE]
    for path, (_, query) in zip(kept, UNICODE, strict=True):
        assert await world.paths(query) == [path], query


async def test_what_is_refused(world: Remembering) -> None:
    for empty in ("", " \n", "Type: fact\n\n", "-", "\n\n"):
        if empty:
            with refused("EINVAL"):
                await world.remember(empty if empty != "-" else "Type: two words\n\nx")
    for query in (b" ", b"- *", b"\n", b"Limit: 3\n\n", b"Type: a b\n\nx", b"Limit: 0\n\nx"):
        with refused("EINVAL"):
            await world.recall(query)
    with refused("EINVAL"):
        await world.recall("Type: fact\nOther: x\n\nwords")
    with refused("EMSGSIZE"):
        await world.recall(b"x " * (1 << 19))
    with refused("EMSGSIZE"):
        await world.recall(" ".join(f"w{number}" for number in range(300)))
    with refused("EMSGSIZE"):
        await world.remember("x" * (256 * 1024 + 1))
    for header in ("Tag: x", "Type: a b", "Expires: never", "Type: fact\nType: skill"):
        with refused("EINVAL"):
            await world.remember(
                f"Type: fact\n{header}\n\ntext" if header[:3] == "Tag" else f"{header}\n\ntext"
            )
    with refused("EINVAL"):
        await world.write("/agents/alice/remember", b"\xff\xfe", world.as_agent("alice"))
    assert not (world.memory() / "notes").exists()


async def test_it_is_private_and_needs_the_capability(world: Remembering) -> None:
    await world.remember("alice likes apples")
    for caller in (world.as_agent("bob"), STRANGER):
        for file in ("remember", "recall"):
            with refused("EACCES"):
                world.open(f"/agents/alice/{file}", os.O_RDWR, caller)
    with refused("EPERM"):
        world.open("/agents/mute/recall", os.O_RDWR, world.as_agent("mute"))
    with refused("EPERM"):
        world.open("/agents/mute/remember", os.O_WRONLY, world.as_agent("mute"))
    assert await world.recall("apples", "bob") == []
    assert len(await world.recall("apples", caller=OPERATOR)) == 1


async def test_a_query_is_narrowed(world: Remembering) -> None:
    fact = await world.remember("Type: fact\nTags: red, blue\n\napples")
    skill = await world.remember("Type: skill\nTags: red\n\napples")
    plain = await world.remember("apples")
    assert len(await world.paths("apples")) == 3
    assert await world.paths("Type: fact\n\napples") == [fact]
    assert await world.paths("Tags: red blue\n\napples") == [fact]
    assert await world.paths("Tags: re\n\napples") == []
    assert await world.paths("Type: NOTE\n\napples") == [plain]
    assert await world.paths("Tags: red\n\n") == [skill, fact]
    assert len(await world.paths("Limit: 2\n\napples")) == 2


async def test_the_operator_remembers_too(world: Remembering) -> None:
    await world.remember("apples of the operator", "init", OPERATOR)
    assert len(await world.recall("apples", "init", OPERATOR)) == 1


async def test_one_handle_is_for_several_notes_and_a_close_keeps_one(world: Remembering) -> None:
    alice = world.as_agent("alice")
    handle = world.open("/agents/alice/remember", os.O_RDWR, alice)
    await handle.write(0, b"Type: fact\n")  # as printf of a shell does it
    await handle.write(11, b"\n")
    await handle.write(12, b"apples\n")
    await handle.hold()  # a copy of the descriptor is closed
    assert await world.recall("apples") == []
    first = (await handle.read(19, 4096)).decode()
    await handle.write(60, b"pears\n")
    await handle.flush()
    handle.release()
    (apple,) = await world.recall("Type: fact\n\napples")
    assert f"{apple['path']}\n" == first
    (pear,) = await world.recall("pears")
    assert pear["type"] == "note"
    with refused("EINVAL"):
        await world.write("/agents/alice/remember", "Tags: x\nTipe: y\n\n", alice)


async def test_notes_count_as_memory(world: Remembering) -> None:
    await world.write("/etc/agentfs.yaml", "shares: {memory: 30000}\n")
    alice = world.as_agent("alice")
    with refused("ENOSPC"):
        for _ in range(20):
            await world.write("/agents/alice/remember", "apples", alice)
    assert 0 < len(os.listdir(world.memory() / "notes")) < 8


async def test_the_best_comes_first(world: Remembering) -> None:
    some = await world.remember("A boat with a red sail.")
    most = await world.remember("Red apples grow here, and sweet ones.\nA barn.")
    whole = await world.remember("# Fruit\n\nSweet red apples.\n")
    found = await world.recall("sweet red apples")
    assert [hit["path"] for hit in found] == [whole, most, some]
    assert found[0]["snippet"] == "Sweet red apples."
    assert found[0]["score"] > found[1]["score"] > found[2]["score"] > 0
    long = "x " * 400 + "the needle " + "y " * 400
    await world.remember(long)
    (hit,) = await world.recall("needle")
    assert "the needle" in hit["snippet"]
    assert len(hit["snippet"]) < 260
