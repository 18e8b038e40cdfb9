"""Folders of manifests: written in every way that editors have, refused whole, and seen."""

from __future__ import annotations

import json
import os

import pytest

from agentfs.base.errors import KernelError
from agentfs.vfs.changes import Created, Modified, Removed
from agentfs.vfs.node import Attributes, Node
from tests.providers.world import OPERATOR, STRANGER, World, refused

FOLDER = "/etc/pipelines"
REVIEW = f"{FOLDER}/review.yaml"

HELLO = """\
kind: Pipeline
metadata: {name: hello, description: says hello}
spec:
  input_schema: {type: object, properties: {name: {type: string}}, required: [name]}
  nodes:
    - {name: who, data: {name: "{{ input.name }}"}}
    - {name: greet, expression: {text: "'hello ' + who.name"}}
"""

TWELVE = """\
kind: Pipelne
---
kind: Pipeline
metadata: {name: twelve}
spec:
  nodez: []
  nodes:
    - {name: a, data: {v: 1}, dependancies: [b]}
    - {name: b, data: {v: 1}, dependencies: [c]}
    - {name: c, data: {v: 1}, dependencies: [b]}
    - {name: d, data: {v: 1}, dependencies: [nobody]}
    - {name: a, data: {v: 2}}
    - {name: input, data: {v: 2}}
    - {name: e, expresion: {x: 1}}
    - {name: f, expression: {x: "1 +"}}
    - {name: g, data: {v: "{{ nobody.x }}"}}
    - {name: h, program: [true], timeout: soon}
    - {name: i, program: [true], policies: [none]}
    - {name: j, data: {v: 1}, on_error: k}
"""


async def version(world: World, name: str = "review") -> int:
    return int(await world.text(f"{FOLDER}/{name}/version"))


async def test_the_life_of_a_pipeline(world: World) -> None:
    await world.write(REVIEW, HELLO, create=True)
    assert await world.text(REVIEW) == HELLO
    assert world.list(FOLDER) == ["check", "review.yaml", "review"]
    assert await version(world) == 1
    await world.write(REVIEW, HELLO)
    assert await version(world) == 1  # the same text
    await world.write(REVIEW, HELLO.replace("hello '", "good day '"))
    assert await version(world) == 2
    assert world.list(f"{FOLDER}/review/versions") == ["1.yaml", "2.yaml"]
    assert await world.text(f"{FOLDER}/review/versions/1.yaml") == HELLO
    for absent in ("0.yaml", "3.yaml", "01.yaml", "1", "x.yaml"):
        with refused("ENOENT"):
            world.find(f"{FOLDER}/review/versions/{absent}")
    plan = json.loads(await content(world, f"{FOLDER}/review/plan"))
    assert plan["edges"] == [["who", "greet"]]
    assert plan["waves"] == [["who"], ["greet"]]
    schema = json.loads(await content(world, f"{FOLDER}/review/schema"))
    assert schema["required"] == ["name"]
    world.unlink(REVIEW)
    assert world.list(FOLDER) == ["check"]
    for gone in ("review.yaml", "review"):
        with refused("ENOENT"):
            world.find(f"{FOLDER}/{gone}")


async def content(world: World, path: str) -> bytes:
    """A file whose content is waited for at the open."""
    handle = world.open(path)
    found = await handle.begin()
    handle.release()
    return found


async def test_every_fault_is_named_and_nothing_changes(world: World) -> None:
    await world.write(REVIEW, HELLO, create=True)
    node = world.find(REVIEW)
    handle = node.open(os.O_WRONLY | os.O_TRUNC, OPERATOR)  # type: ignore[attr-defined]
    await handle.write(0, TWELVE.encode())
    with pytest.raises(KernelError) as caught:
        await handle.flush()
    handle.release()
    assert caught.value.code == "EINVAL"
    with refused("EINVAL"):
        await world.write(REVIEW, HELLO + "#" * (5 << 20))
    lines = caught.value.reason.splitlines()[1:]
    assert len(lines) >= 12, lines
    for line in lines:
        file, row, column, words = line.split(":", 3)
        assert file == "review.yaml"
        assert int(row) > 0
        assert int(column) > 0
        assert words
    assert "did you mean" in caught.value.reason
    assert await world.text(REVIEW) == HELLO
    assert await version(world) == 1


async def test_what_was_never_right_never_was(world: World) -> None:
    world.changes.clear()
    handle = world.create(REVIEW)
    with refused("ENOENT"):
        world.find(REVIEW)  # not before it is closed
    await handle.write(0, b"kind: Pipelne\n")
    with refused("EINVAL"):
        await handle.flush()
    handle.release()
    assert world.list(FOLDER) == ["check"]
    assert world.changes == []


async def test_its_coming_changing_and_going_is_announced(world: World) -> None:
    world.changes.clear()
    await world.write(REVIEW, HELLO, create=True)
    created = {c.name for c in world.changes if isinstance(c, Created)}
    assert created == {"review.yaml", "review", "1.yaml"}
    world.changes.clear()
    await world.write(REVIEW, HELLO + "# more\n")
    assert {c.name for c in world.changes if isinstance(c, Created)} == {"2.yaml"}
    folder = world.directory(FOLDER)
    keys = {change.key for change in world.changes if isinstance(change, Modified)}
    assert world.find(REVIEW).key in keys
    assert world.find(f"{FOLDER}/review/version").key in keys
    world.changes.clear()
    world.unlink(REVIEW)
    removed = {(c.name, c.directory) for c in world.changes if isinstance(c, Removed)}
    assert removed == {("review.yaml", folder.key), ("review", folder.key)}


async def test_it_belongs_to_whoever_made_it(world: World) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    await world.write(REVIEW, HELLO, alice, create=True)
    assert (await world.text(REVIEW, bob)) == HELLO
    for attempt in (
        lambda: world.open(REVIEW, os.O_WRONLY, bob),
        lambda: world.unlink(REVIEW, bob),
        lambda: world.find(REVIEW).chattr(bob, Attributes(mode=0o600)),
        lambda: world.create(f"{FOLDER}/strange.yaml", STRANGER),
        lambda: world.create(f"{FOLDER}/scratch", STRANGER),
        lambda: world.create("/etc/policies/mine.yaml", alice),
        lambda: world.create("/etc/configs/.mine.swp", alice),
        lambda: world.create("/etc/adapters/mine.yaml", alice),
    ):
        with refused("EACCES"):
            attempt()
    await world.write(f"{FOLDER}/sedAbC", "kind: Pipelne\n", bob, create=True)
    for taken in (REVIEW, f"{FOLDER}/other"):
        with refused("EACCES"):
            await world.rename(f"{FOLDER}/sedAbC" if taken == REVIEW else REVIEW, taken, bob)
    with refused("EACCES"):
        world.open(f"{FOLDER}/sedAbC", os.O_RDONLY, alice)
    world.find(REVIEW).chattr(alice, Attributes(mode=0o600))  # install(1) does it: it stays 0644
    assert world.find(REVIEW).stat().mode == 0o100644
    await world.write(REVIEW, HELLO + "# more\n", alice)
    await world.write(REVIEW, HELLO)  # the operator
    assert await version(world) == 3


async def test_names(world: World) -> None:
    for bad in ("check.yaml", "a.yaml.yaml", "a b.yaml", "review.yml", f"{'x' * 65}.yaml"):
        with refused("EINVAL"):
            world.create(f"{FOLDER}/{bad}")
    with refused("EPERM"):
        world.directory(FOLDER).mkdir("folder", 0o755, OPERATOR)
    await world.write(REVIEW, HELLO, create=True)
    with refused("EEXIST"):
        world.create(f"{FOLDER}/review")
    for fixed in ("check", "review"):
        with refused("EPERM"):
            world.unlink(f"{FOLDER}/{fixed}")
        with refused("EPERM"):
            await world.rename(f"{FOLDER}/{fixed}", f"{FOLDER}/other")


async def test_editors_and_mv(world: World) -> None:
    await world.write(REVIEW, HELLO, create=True)
    # sed -i
    await world.write(f"{FOLDER}/sedAbC", HELLO + "# sed\n", create=True)
    await world.rename(f"{FOLDER}/sedAbC", REVIEW)
    assert await version(world) == 2
    # vim renames it away, and back if what it wrote was refused
    await world.rename(REVIEW, f"{REVIEW}~")
    with refused("ENOENT"):
        world.find(REVIEW)
    with refused("EINVAL"):
        await world.write(REVIEW, "kind: Pipelne\n", create=True)
    await world.rename(f"{REVIEW}~", REVIEW)
    assert await world.text(REVIEW) == HELLO + "# sed\n"
    assert await version(world) == 2
    # mv to another name, and back
    await world.rename(REVIEW, f"{FOLDER}/other.yaml")
    assert world.list(FOLDER) == ["check", "other.yaml", "other"]
    with refused("EEXIST"):
        await world.rename(f"{FOLDER}/other.yaml", f"{FOLDER}/other.yaml", flags=1)
    # mv onto another one, in the midst of what is wrong
    await world.write(f"{FOLDER}/draft", "kind: Pipelne\n", create=True)
    with refused("EINVAL"):
        await world.rename(f"{FOLDER}/draft", f"{FOLDER}/other.yaml")
    assert await version(world, "other") == 1
    assert "draft" in world.list(FOLDER)


async def test_scratch_files_are_few_for_each(world: World) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    for number in range(16):
        world.create(f"{FOLDER}/.{number}.swp", alice).release()
    with refused("ENOSPC"):
        world.create(f"{FOLDER}/more", alice)
    world.create(f"{FOLDER}/more", bob).release()


async def test_thousands_are_listed_name_by_name(world: World) -> None:
    await world.write(REVIEW, HELLO, create=True)
    directory = world.directory(FOLDER)
    names = directory.names_now(OPERATOR)
    assert next(names) == "check"
    assert [*names] == ["review.yaml", "review"]
    assert isinstance(directory.glance("review"), Node)


async def test_a_draft_is_checked_and_not_kept(world: World) -> None:
    handle = world.open(f"{FOLDER}/check", os.O_RDWR)
    await handle.write(0, TWELVE.encode())
    reply = await handle.read(0, 1 << 20)
    faults = [json.loads(line) for line in reply.splitlines()]
    assert len([fault for fault in faults if fault["severity"] == "error"]) >= 12
    assert {"line", "column", "code", "message", "hint"} <= faults[0].keys()
    await handle.write(0, HELLO.encode())
    assert await handle.read(0, 1 << 20) == b""
    handle.release()
    assert world.list(FOLDER) == ["check"]


async def test_all_seven_folders(world: World) -> None:
    for folder, text in (
        (
            "systems",
            "kind: System\nmetadata: {name: s}\nspec: {processes: {a: {exec: [/bin/true]}}}\n",
        ),
        ("macros", "kind: Macro\nmetadata: {name: m}\nnodes: [{name: x, data: {v: 1}}]\n"),
        ("adapters", "kind: Adapter\nmetadata: {name: a}\nspec: {program: [/bin/cat]}\n"),
        (
            "policies",
            "kind: Policy\nmetadata: {name: p}\nspec: {type: retry, config: {attempts: 2}}\n",
        ),
        ("configs", "kind: Config\nmetadata: {name: c}\nspec: {limits: {max_llm_calls: 3}}\n"),
    ):
        await world.write(f"/etc/{folder}/x.yaml", text, create=True)
        assert await world.text(f"/etc/{folder}/x/version") == "1\n"
        assert world.find(f"/etc/{folder}/x").getxattr("user.agentfs.entity_type")
    await world.write("/lib/prompts/greet.md", "Greet {{ input.name }}.\n", create=True)
    assert world.list("/lib/prompts/greet/versions") == ["1.md"]


async def test_a_system_is_planned_and_run(world: World) -> None:
    await world.write(REVIEW, HELLO, create=True)
    system = (
        "kind: System\nmetadata: {name: greetings}\nspec:\n"
        "  processes:\n    one: {pipeline: review}\n    two: {pipeline: review}\n"
        "  pipes: [{from: one, to: two, mapping: {name: '{{ one.greet.text }}'}}]\n"
    )
    await world.write("/etc/systems/greetings.yaml", system, create=True)
    plan = json.loads(await world.text("/etc/systems/greetings/plan"))
    assert [each["name"] for each in plan["processes"]] == ["one", "two"]
    assert plan["pipes"][0]["to"] == "two"
    handle = world.open("/etc/systems/greetings/run", os.O_RDWR)
    for bad in ('Sync: yes\n\n{"name": "ann"}', "[", "Kye: x\n\n{}"):
        with refused("EINVAL"):
            await handle.write(0, bad.encode())
    await handle.write(0, b'{"name": "ann"}')
    number = (await handle.read(0, 100)).decode().strip()
    handle.release()
    assert number in world.list("/proc/systems")
    assert world.list("/etc/systems/greetings/runs") == [number]
    path = world.target(f"/etc/systems/greetings/runs/{number}")
    assert os.path.normpath(f"/etc/systems/greetings/runs/{path}") == f"/proc/systems/{number}"


async def test_what_stat_says_for_programs(world: World) -> None:
    await world.write(REVIEW, HELLO, create=True)
    node = world.find(f"{FOLDER}/review")
    said = {name: node.getxattr(name).decode() for name in node.listxattr()}
    assert said["user.agentfs.entity_type"] == "pipeline"
    assert said["user.agentfs.description"] == "says hello"
    assert said["user.agentfs.capabilities"] == "read exec"
    assert json.loads(said["user.agentfs.tags"]) == {"version": "1"}
    with refused("ENODATA"):
        node.getxattr("user.agentfs.status")


async def test_what_a_pipeline_is_written_with(world: World) -> None:
    for kind in world.list("/lib/nodes"):
        assert (await world.text(f"/lib/nodes/{kind}/about")).strip()
        json.loads(await world.text(f"/lib/nodes/{kind}/schema"))
        assert await world.text(f"/lib/nodes/{kind}/example")
    assert {"data", "program", "llm", "for-each"} <= set(world.list("/lib/nodes"))
    with refused("ENOENT"):
        world.find("/lib/nodes/nothing")
    world.changes.clear()
    macro = "kind: Macro\nmetadata: {name: m}\nnodes: [{name: x, data: {v: 1}}]\n"
    await world.write("/etc/macros/twice.yaml", macro, create=True)
    assert world.list("/lib/macros") == ["twice"]
    made = [change for change in world.changes if isinstance(change, Created)]
    assert world.directory("/lib/macros").key in {change.directory for change in made}
    await world.text("/lib/macros/twice/example")
