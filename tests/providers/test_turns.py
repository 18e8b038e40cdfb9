"""/proc/PID/turns and /sys/stats/agents."""

import json

from agentfs.model.process import Tier
from agentfs.quota.meter import Use
from agentfs.turns.turns import day_of
from tests.providers.world import OPERATOR, World, refused


async def test_turns_are_written_and_read(world: World) -> None:
    bob = world.as_agent("bob")
    path = f"/proc/{bob.principal.pid}/turns"
    assert await world.text(path, bob) == ""
    await world.mail("alice", "bob", "work")
    [message] = world.kernel.mail.mailbox("bob").new.values()
    with refused("ENOENT"):
        await world.write(path, f"begin {message.id}\n", bob)
    world.kernel.mail.receiving.claim_next(bob.principal, "bob")
    await world.write(path, f"begin {message.id}\n", bob)
    [turn] = map(json.loads, (await world.text(path, bob)).splitlines())
    assert (turn["turn"], turn["state"], turn["messages"]) == (1, "running", [message.id])
    assert turn["ended"] is turn["seconds"] is turn["input"] is None
    with refused("EBUSY"):
        await world.write(path, "begin", bob)
    with refused("EACCES"):
        await world.write(path, "end ok", world.as_agent("alice"))
    with refused("EINVAL"):
        await world.write(path, "end badly", bob)
    await world.write(path, "end failed claude ended with code 1", bob)
    [turn] = map(json.loads, (await world.text(path, bob)).splitlines())
    assert (turn["state"], turn["reason"]) == ("failed", "claude ended with code 1")
    assert (turn["input"], turn["tool_calls"]) == (0, 0)
    with refused("ENOENT"):
        await world.write(path, "end ok", bob)
    with refused("EINVAL"):
        await world.write(path, "stop", bob)


async def test_the_days_of_an_agent(world: World) -> None:
    bob = world.as_agent("bob")
    process = world.kernel.table.get(world.pid("bob"))
    path = f"/proc/{process.pid}/turns"
    await world.write(path, "begin", bob)
    with world.kernel.store.transaction():
        world.kernel.accounting.record(process, Use("llm", "sonnet", Tier.TACTICAL, 5, 3, 1))
        world.kernel.accounting.record(process, Use("tool", "grep", Tier.TACTICAL))
    await world.write(path, "end ok", bob)
    with world.kernel.store.transaction():
        row = ("bob", "1999-12-31", 1, 1, 2.0)
        world.kernel.store.write("INSERT INTO turn_days VALUES (?, ?, ?, ?, ?)", row)
    text = await world.text("/sys/stats/agents/bob", bob)
    lines = dict(line.split(":\t") for line in text.splitlines())
    assert (lines["Turns"], lines["Failed"], lines["Tools"]) == ("1", "0", "grep 1")
    assert (lines["Input"], lines["Output"], lines["Calls"]) == ("5", "3", "1")
    assert "1999-12-31" not in lines  # older than turns.retention
    day = world.kernel.clock.now() - 86_400
    with world.kernel.store.transaction():
        row = ("bob", day_of(day), 4, 1, 10.0)
        world.kernel.store.write("INSERT INTO turn_days VALUES (?, ?, ?, ?, ?)", row)
    text = await world.text("/sys/stats/agents/bob", OPERATOR)
    assert text.splitlines()[-1] == (
        f"{day_of(day)}:\tturns 4, failed 1, mean seconds 2.5, input 0, output 0, calls 0,"
        " tool calls 0, tools none"
    )


async def test_an_agent_reads_its_own_figures_only(world: World) -> None:
    with refused("EACCES"):
        await world.text("/sys/stats/agents/bob", world.as_agent("alice"))
    assert set(world.list("/sys/stats/agents")) >= {"alice", "bob", "init"}


async def test_the_figures_come_and_go_with_their_agent(world: World) -> None:
    world.directory("/agents").mkdir("dora", 0o755, OPERATOR)
    assert "dora" in world.list("/sys/stats/agents")
    assert "Turns:\t0\n" in await world.text("/sys/stats/agents/dora")
    world.directory("/agents").rmdir("dora", OPERATOR)
    assert "dora" not in world.list("/sys/stats/agents")
