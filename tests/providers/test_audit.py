"""/sys/audit, driven as the mount does; and who the records of a running kernel say it was."""

from __future__ import annotations

import json
import os
from typing import Any

import trio

from agentfs.audit.verify import verify
from agentfs.check import check
from agentfs.providers.audit import PAGE
from tests.process.world import eventually
from tests.providers.world import OPERATOR, STRANGER, World, refused


async def log(world: World) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await world.text("/sys/audit/log")).splitlines()]


def who(records: list[dict[str, Any]], event: str) -> list[str]:
    """Who acted in each record that has an event of this type."""
    return [
        record["actor"]["name"]
        for record in records
        if event in {change["type"] for change in record["changes"]}
    ]


async def test_the_directory_is_gated_and_for_the_operator_alone(world: World) -> None:
    audit = world.directory("/sys/audit")
    assert audit.gated
    audit.admit("log", OPERATOR)
    for caller in (world.as_agent("alice"), STRANGER):
        with refused("EACCES"):
            audit.admit("log", caller)
        with refused("EACCES"):
            world.list("/sys/audit", caller)
        for name in ("log", "head", "verify", "query"):
            with refused("EACCES"):
                world.open(f"/sys/audit/{name}", os.O_RDONLY, caller)
    assert world.list("/sys/audit") == ["log", "head", "verify", "query", "ctl"]
    assert [world.find(f"/sys/audit/{name}").timeout for name in ("log", "head", "verify")] == [
        0.0, 0.0, 0.0
    ]  # fmt: skip
    with refused("EACCES"):
        world.open("/sys/audit/log", os.O_RDWR)


async def test_the_log_ends_where_it_ended_when_it_was_opened_however_long_it_is(
    world: World,
) -> None:
    for number in range(PAGE + 10):
        await world.mail("alice", "bob", f"{number}")
        if number % 200 == 0:
            world.kernel.settings.replace("messages: {max_waiting: 20000}")
    seq = world.kernel.audit.seq
    handle = world.open("/sys/audit/log")
    content = b""
    while chunk := await handle.read(len(content), 3000):
        content += chunk
        await world.mail("alice", "bob", "meanwhile")
    handle.release()
    assert [json.loads(line)["seq"] for line in content.splitlines()] == list(range(1, seq + 1))
    assert (await world.text("/sys/audit/verify")).startswith(
        f"ok {world.kernel.audit.seq} records, head {world.kernel.audit.seq} "
    )


async def test_many_who_ask_to_verify_are_served_one_after_the_other(world: World) -> None:
    answers: list[str] = []

    async def ask() -> None:
        answers.append(await world.text("/sys/audit/verify"))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert len(answers) == 20
    assert all(answer.startswith("ok ") for answer in answers)


async def test_records_name_who_acted(world: World) -> None:
    alice = world.as_agent("alice")
    handle = world.open(f"/proc/{world.pid('alice')}/spawn", os.O_RDWR, alice)
    await handle.write(0, b"{name: child, exec: [/bin/true], restart: never}")
    assert int(await handle.read(0, 100)) > 0
    await world.write("/etc/agentfs.yaml", "processes: {max_children_of_init: 50}\n")
    await world.mail("bob", "alice")
    world.kernel.maid.scan()
    child = world.pid("child")
    await eventually(lambda: not world.kernel.table.get(child).state.alive)
    records = await log(world)
    assert who(records, "process_spawned") == ["init", "init", "init", "alice"]
    assert who(records, "config_changed") == ["init"]
    assert who(records, "message_arrived") == ["bob"]
    assert who(records, "health_checked") == [], "nothing was wrong"
    assert who(records, "process_exited") == ["kernel"]
    kinds = {record["actor"]["name"]: record["actor"]["kind"] for record in records}
    assert kinds == {"init": "operator", "alice": "agent", "bob": "agent", "kernel": "kernel"}


async def test_a_checkpoint_comes_into_the_file_beside_the_key_by_itself(
    world: World,
) -> None:
    audit = world.kernel.audit
    audit.checkpoint()
    await world.mail("bob", "alice")
    audit.checkpoint()
    seq = audit.seq
    lines = audit.key.with_name("audit.key.checkpoints")
    await eventually(lambda: f'"seq":{seq},' in lines.read_text())
    assert str(verify(audit.path, audit.key)).startswith(f"ok {seq} records")
    assert check(audit.path) == []
