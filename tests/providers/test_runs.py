"""/proc/runs: started, watched, waited for, controlled and looked up by files."""

from __future__ import annotations

import json
import os
from typing import Any

import trio
import trio.lowlevel

from agentfs.model.principal import Kind, Principal
from agentfs.providers.run_signals import signal_data
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.node import Link
from agentfs.workflow.events import RunRemoved
from tests.providers.test_documents import HELLO
from tests.providers.world import GID, OPERATOR, UID, World, refused

HOLD = """\
kind: Pipeline
metadata: {name: hold}
spec:
  nodes:
    - {name: all, data: {xs: "{{ range(input.n) }}"}}
    - kind: for-each
      metadata: {name: each}
      spec:
        items: all.xs
        body:
          - {name: square, expression: {y: item * item}}
    - {name: hold, wait: go}
"""


async def put(world: World, name: str, text: str, caller: Caller = OPERATOR) -> None:
    await world.write(f"/etc/pipelines/{name}.yaml", text, caller, create=True)


async def ask(world: World, path: str, request: str, caller: Caller = OPERATOR) -> str:
    """Write a request, read the reply."""
    handle = world.open(path, os.O_RDWR, caller)
    try:
        await handle.write(0, request.encode())
        return (await handle.read(0, 1 << 20)).decode()
    finally:
        handle.release()


async def start(world: World, name: str, request: str = "{}", caller: Caller = OPERATOR) -> str:
    return (await ask(world, f"/etc/pipelines/{name}/run", request, caller)).strip()


async def held(world: World, n: int = 3, request: str = "") -> str:
    """A run that waits for a signal: its path."""
    await put(world, "hold", HOLD)
    run = await start(world, "hold", f'{request}{{"n": {n}}}')
    with trio.fail_after(60):
        while (await world.text(f"/proc/runs/{run}/state")) != "suspended\n":
            await trio.lowlevel.checkpoint()
    return f"/proc/runs/{run}"


async def ended(world: World, run: str) -> dict[str, Any]:
    with trio.fail_after(60):
        await world.kernel.runs.wait_ended(int(run))
    found: dict[str, Any] = json.loads(await world.text(f"/proc/runs/{run}/wait"))
    return found


def names(world: World, path: str) -> list[str]:
    """What a listing in steps shows."""
    return [*world.directory(path).names_now(OPERATOR)]


async def test_the_life_of_a_run(world: World) -> None:
    await put(world, "hello", HELLO)
    run = await start(world, "hello", 'Key: k1\nRef: order/7\n\n{"name": "ann"}')
    assert await ended(world, run) == {
        "state": "completed",
        "error": None,
        "output": {"text": "hello ann"},
    }
    folder = f"/proc/runs/{run}"
    assert await world.text(f"{folder}/state") == "completed\n"
    assert json.loads(await world.text(f"{folder}/input")) == {"name": "ann"}
    assert json.loads(await world.text(f"{folder}/output")) == {"text": "hello ann"}
    assert sorted(world.list(f"{folder}/nodes")) == ["greet", "who"]
    assert await world.text(f"{folder}/nodes/greet/state") == "completed\n"
    assert json.loads(await world.text(f"{folder}/nodes/who/output")) == {"name": "ann"}
    assert await world.text(f"{folder}/nodes/greet/attempt") == "1\n"
    assert await world.text(f"{folder}/nodes/greet/error") == ""
    assert await world.text(f"{folder}/nodes/greet/log") == ""
    info = json.loads(await world.text(f"{folder}/info"))
    assert (info["pipeline"], info["version"], info["ref_id"]) == ("hello", 1, "7")
    assert "Key:\tk1\n" in await world.text(f"{folder}/status")
    assert "name: greet" in await world.text(f"{folder}/manifest.yaml")
    for absent in ("process", "parent", "limits", "artifacts", "nothing"):
        with refused("ENOENT"):
            world.find(f"{folder}/{absent}")
    for never in ("0", "99999", "x", "07", f"0{run}"):
        with refused("ENOENT"):
            world.find(f"/proc/runs/{never}")
    for command in ("cancel", "pause", "resume", "skip who"):
        with refused("EPERM"):
            await world.write(f"{folder}/ctl", command)
    with refused("EPERM"):
        await world.write(f"{folder}/signals/go", "x", create=True)


async def test_config_says_whose_each_limit_is(world: World) -> None:
    config = "kind: Config\nmetadata: {name: org}\nspec: {limits: {max_llm_calls: 100}}\n"
    await world.write("/etc/configs/org.yaml", config, OPERATOR, create=True)
    limits = "  limits: {max_llm_calls: 40, max_tool_calls: 9}\n  caps: [llm, memory]\n"
    await put(world, "hello", HELLO.replace("spec:\n", f"spec:\n{limits}", 1))
    asked = 'Limits: {"max_llm_calls": 60, "max_tool_calls": 2}\nCaps: ["llm"]\n\n{"name": "ann"}'
    run = await start(world, "hello", asked)
    assert (await world.text(f"/proc/runs/{run}/config")).splitlines() == [
        'caps: ["llm"] # request',
        "limits.max_llm_calls: 40 # pipeline hello",
        "limits.max_tool_calls: 2 # request",
    ]


async def test_a_key_starts_one_run(world: World) -> None:
    await put(world, "hello", HELLO)
    first = await start(world, "hello", 'Key: k1\n\n{"name": "ann"}')
    assert await start(world, "hello", 'Key: k1\n\n{"name": "ann"}') == first
    with refused("EEXIST"):
        await start(world, "hello", 'Key: k1\n\n{"name": "bob"}')
    assert await start(world, "hello", 'Key: k2\n\n{"name": "ann"}') != first


async def test_what_no_run_is_started_by(world: World) -> None:
    await put(world, "hello", HELLO)
    for bad in (
        "{}",  # it does not fit the schema
        '{"name": 1}',
        '{"name": "ann"',
        '{"name": NaN}',
        "[" * 100_000,
        "name",
        'Kye: k\n\n{"name": "ann"}',
        'Key: k\nKey: l\n\n{"name": "ann"}',
        'Key:\n\n{"name": "ann"}',
        'Ref: order\n\n{"name": "ann"}',
        'Deadline: soon\n\n{"name": "ann"}',
        'Limits: max_llm_calls=many\n\n{"name": "ann"}',
        'Limits: max_llm_calls\n\n{"name": "ann"}',
        'Limits: max_nothing=1\n\n{"name": "ann"}',
        'Version: one\n\n{"name": "ann"}',
        'Sync: maybe\n\n{"name": "ann"}',
        'Key: k\nnonsense\n\n{"name": "ann"}',
    ):
        with refused("EINVAL"):
            await start(world, "hello", bad)
    for gone in ('Version: 7\n\n{"name": "ann"}',):
        with refused("ENOENT"):
            await start(world, "hello", gone)
    assert [name for name in names(world, "/proc/runs") if name.isdigit()] == []


async def test_events_are_read_to_their_end_and_waited_for(world: World) -> None:
    folder = await held(world)
    events, wait = world.stream(f"{folder}/events"), world.stream(f"{folder}/wait")
    woken: list[str] = []
    events.on_wake(lambda: woken.append("events"))
    wait.on_wake(lambda: woken.append("wait"))
    first = events.try_read(1 << 20)
    assert first is not None
    lines = [json.loads(line) for line in first.splitlines()]
    assert [line["seq"] for line in lines] == [*range(1, len(lines) + 1)]
    assert (events.ready(), wait.ready()) == (False, False)
    assert events.try_read(10) is None
    assert wait.try_read(10) is None
    events.begin_read(len(first) - 10, lambda: None)  # head(1) goes back to where it stopped
    assert events.try_read(1 << 20) == first[-10:]
    await world.write(f"{folder}/signals/go", '{"yes": true}', create=True)
    await ended(world, folder.rpartition("/")[2])
    assert set(woken) == {"events", "wait"}
    assert (events.ready(), wait.ready()) == (True, True)
    rest = events.try_read(1 << 20)
    assert rest is not None
    types = [json.loads(line)["type"] for line in rest.splitlines()]
    assert types[-1] == "PipelineCompleted"
    assert types.count("PipelineCompleted") == 1
    assert events.try_read(100) == b""
    assert json.loads(wait.try_read(1 << 20) or b"")["state"] == "completed"
    assert wait.try_read(100) == b""
    for handle in (events, wait):
        handle.release()
    whole = (await world.read(f"{folder}/events")).splitlines()
    assert [json.loads(line)["seq"] for line in whole] == [*range(1, len(whole) + 1)]
    assert json.loads(await world.text(f"{folder}/nodes/hold/output")) == {"yes": True}


async def test_each_event_has_its_place_in_the_file(world: World) -> None:
    folder = await held(world, n=300)
    whole = await world.read(f"{folder}/events")
    assert len(whole) > 20_000
    assert world.find(f"{folder}/events").stat().size == len(whole)
    handle = world.stream(f"{folder}/events")
    await handle.begin()
    for place in (*range(0, len(whole), 977), len(whole) - 1, 0, 12_345):
        handle.begin_read(place, lambda: None)
        assert (handle.try_read(30) or b"")[:10] == whole[place : place + 10]
    handle.begin_read(len(whole), lambda: None)
    assert handle.try_read(10) is None
    handle.release()


async def test_iterations_are_directories(world: World) -> None:
    folder = await held(world, n=300)
    items = f"{folder}/nodes/each/items"
    assert names(world, items) == [str(number) for number in range(300)]
    assert world.list(f"{items}/7") == ["square"]
    assert json.loads(await world.text(f"{items}/7/square/output")) == {"y": 49}
    assert await world.text(f"{items}/299/square/state") == "completed\n"
    for absent in ("300", "07", "x", "-1"):
        with refused("ENOENT"):
            world.find(f"{items}/{absent}")
    with refused("ENOENT"):
        world.find(f"{folder}/nodes/all/items")


async def test_what_changes_is_announced(world: World) -> None:
    folder = await held(world, request="Ref: order/7\n\n")
    run = folder.rpartition("/")[2]
    made = [change for change in world.changes if isinstance(change, Created)]
    places = {(change.directory, change.name) for change in made}
    runs = world.directory("/proc/runs")
    assert (runs.key, run) in places
    for path in ("by-pipeline/hold", "by-ref/order/7", "by-state/suspended"):
        directory = world.directory(f"/proc/runs/{path}")
        assert (directory.key, run) in places, path
    assert (world.directory("/proc/runs/by-ref/order").key, "7") in places
    assert (world.directory("/etc/pipelines/hold/runs").key, run) in places
    world.changes.clear()
    await world.write(f"{folder}/signals/other", "later", create=True)
    signals = world.directory(f"{folder}/signals")
    assert any(isinstance(c, Created) and c.directory == signals.key for c in world.changes)
    assert world.list(f"{folder}/signals") == ["go", "other"]
    world.changes.clear()
    await world.write(f"{folder}/ctl", "cancel enough")
    await ended(world, run)
    changed = {change.key for change in world.changes if isinstance(change, Modified)}
    for path in ("state", "status", "info", "reason", "output", "nodes/hold/state"):
        assert world.find(f"{folder}/{path}").key in changed, path
    moved = [change for change in world.changes if isinstance(change, Removed | Created)]
    by_state = {
        name: world.directory(f"/proc/runs/by-state/{name}").key
        for name in ("suspended", "running", "cancelled")
    }
    assert came_last(moved, run) == by_state["cancelled"]
    assert by_state["suspended"] in {c.directory for c in moved if isinstance(c, Removed)}
    assert "enough" in await world.text(f"{folder}/reason")


def came_last(changes: list[Change], run: str) -> object:
    made = [c for c in changes if isinstance(c, Created) and c.name == run]
    return made[-1].directory


async def test_links_lead_to_runs(world: World) -> None:
    folder = await held(world, request="Ref: order/7\n\n")
    run = folder.rpartition("/")[2]
    for path in (
        f"/proc/runs/by-state/suspended/{run}",
        f"/proc/runs/by-pipeline/hold/{run}",
        f"/proc/runs/by-ref/order/7/{run}",
        f"/etc/pipelines/hold/runs/{run}",
    ):
        node = world.find(path)
        assert isinstance(node, Link)
        place = os.path.normpath(f"{path.rpartition('/')[0]}/{node.target(OPERATOR)}")
        assert place == folder, path
        assert run in names(world, path.rpartition("/")[0])
    for absent in ("by-state/done", "by-state/failed/1", "by-pipeline/other", "by-ref/order/8"):
        with refused("ENOENT"):
            world.find(f"/proc/runs/{absent}")
    assert world.find(f"{folder}/limits").stat().mode & 0o170000 == 0o120000
    assert os.path.normpath(f"{folder}/{world.target(f'{folder}/process')}") == f"/proc/{run}"
    assert "process" not in world.list(folder)  # what follows links shall come to an end


async def test_things_of_any_name_are_found_by_type(world: World) -> None:
    await put(world, "hello", HELLO)
    refs = ("a/1", "a/2", "a-b/1", "a0/1", "b/1")
    for ref in refs:
        await ended(world, await start(world, "hello", f'Ref: {ref}\n\n{{"name": "ann"}}'))
    found = {
        f"{kind}/{number}"
        for kind in names(world, "/proc/runs/by-ref")
        for number in names(world, f"/proc/runs/by-ref/{kind}")
    }
    assert found == set(refs)
    with refused("ENOENT"):
        world.find("/proc/runs/by-ref/c")


async def test_a_query(world: World) -> None:
    await put(world, "hello", HELLO)
    runs = [await start(world, "hello", f'Ref: order/{n}\n\n{{"name": "ann"}}') for n in range(4)]
    for run in runs:
        await ended(world, run)

    async def found(query: str) -> list[str]:
        reply = await ask(world, "/proc/runs/query", query)
        return [str(json.loads(line)["id"]) for line in reply.splitlines()]

    assert await found("limit=2") == runs[:1:-1]
    assert await found("state=completed pipeline=hello since=2h") == runs[::-1]
    assert await found("ref=order/1") == [runs[1]]
    assert await found("state=failed") == []
    for bad in ("state=failled", "stat=failed", "limit=0", "limit=9999", "since=soon", "failed"):
        with refused("EINVAL"):
            await found(bad)


async def test_who_may_not_read_a_run(world: World) -> None:
    await put(world, "hold", HOLD)
    run = await start(world, "hold", '{"n": 1}')
    folder = f"/proc/runs/{run}"
    other = Caller(Principal(Kind.STRANGER, None, "a stranger", UID, GID), UID, GID, os.getpid())
    for path in ("state", "events", "nodes/hold/output"):
        with refused("EACCES"):
            world.open(f"{folder}/{path}", os.O_RDONLY, other)
    with refused("EACCES"):
        world.list(folder, other)
    reply = await ask(world, "/proc/runs/query", "", other)
    assert reply == ""


async def test_a_run_that_is_forgotten_is_gone(world: World) -> None:
    folder = await held(world, request="Ref: order/7\n\n")
    wait = world.stream(f"{folder}/wait")
    run = int(folder.rpartition("/")[2])
    world.changes.clear()
    world.changes += world.tree.changes(RunRemoved(run, "hold", "suspended", "order/7"))
    gone = {change.directory for change in world.changes if isinstance(change, Removed)}
    for path in ("/proc/runs", "/proc/runs/by-state/suspended", "/etc/pipelines/hold/runs"):
        assert world.directory(path).key in gone, path
    wait.release()


async def test_retry(world: World) -> None:
    await put(world, "hello", HELLO)
    run = await start(world, "hello", '{"name": "ann"}')
    await ended(world, run)
    with refused("EPERM"):
        await ask(world, f"/proc/runs/{run}/retry", "")
    for bad in ("from", "form: who", "from: \n"):
        with refused("EINVAL"):
            await ask(world, f"/proc/runs/{run}/retry", bad)
    again = (await ask(world, f"/proc/runs/{run}/retry", "from: greet\n")).strip()
    assert (await ended(world, again))["output"] == {"text": "hello ann"}
    assert f"Retry-Of:\t{run}\n" in await world.text(f"/proc/runs/{again}/status")


def test_a_signal_carries_json_or_a_text() -> None:
    assert signal_data(b'{"a": 1}\n') == {"a": 1}
    assert signal_data(b"yes\n") == "yes"
    assert signal_data(b"12") == 12
    assert signal_data(b"\n") is None
    assert signal_data(b"[" * 50_000) == "[" * 50_000
    with refused("EINVAL"):
        signal_data(b"\xff")
