"""/proc/PID/limits and /proc/PID/usage, without FUSE."""

from __future__ import annotations

from agentfs.process.ceilings import NAMES
from agentfs.vfs.changes import Modified
from tests.providers.world import OPERATOR, World, refused


async def test_the_whole_life_of_a_limit(world: World) -> None:
    pid = world.pid("alice")
    assert world.list(f"/proc/{pid}/limits") == [*NAMES, "status", "shares"]
    assert world.list(f"/proc/{pid}/usage") == list(NAMES)
    path, alice = f"/proc/{pid}/limits/max_llm_calls", world.as_agent("alice")
    assert await world.text(path) == "max\n"
    await world.write(path, "7\n", alice)
    assert await world.text(path, world.as_agent("bob")) == "7\n"
    with refused("EPERM"):
        await world.write(path, "8", alice)
    with refused("EPERM"):
        await world.write(path, "6", world.as_agent("bob"))
    for bad in ("", "seven", "-7", "7 8"):
        with refused("EINVAL"):
            await world.write(path, bad)
    assert await world.text(path) == "7\n"
    await world.write(path, "max")
    assert await world.text(path) == "max\n"
    assert await world.text(f"/proc/{pid}/limits/timeout_seconds") == "300\n"


async def test_a_limit_that_changes_is_announced_in_its_file_and_in_info(world: World) -> None:
    pid = world.pid("alice")
    before = world.find(f"/proc/{pid}/limits/max_cost_usd").stat().mtime
    world.changes.clear()
    await world.write(f"/proc/{pid}/limits/max_cost_usd", "2.50")
    changed = [change.key for change in world.changes if isinstance(change, Modified)]
    directory = (("proc", pid), "limits")
    assert changed == [(directory, "max_cost_usd"), (("proc", pid), "info")]
    assert world.find(f"/proc/{pid}/limits/max_cost_usd").stat().mtime > before
    assert await world.text(f"/proc/{pid}/limits/max_cost_usd") == "2.5\n"
    assert '"max_cost_usd": 2.5' in await world.text(f"/proc/{pid}/info")


async def test_the_limit_of_process_1_is_the_configurations(world: World) -> None:
    limits = [await world.text(f"/proc/1/limits/{name}") for name in NAMES]
    assert limits == ["100\n", *["max\n"] * (len(NAMES) - 1)]
    world.changes.clear()
    await world.write("/etc/agentfs.yaml", "processes: {max_children_of_init: 50}\n")
    assert Modified(((("proc", 1), "limits"), "max_children")) in world.changes
    assert await world.text("/proc/1/limits/max_children") == "50\n"
    with refused("EPERM"):
        await world.write("/proc/1/limits/max_children", "10")


async def test_usage_counts_what_a_process_does(world: World) -> None:
    pid = (await world.spawn("dora", tier="tactical")).pid
    await world.write(f"/proc/{pid}/limits/messages_per_minute", "10")
    await world.mail("bob", "dora")
    await world.mail("dora", "bob")
    new = world.list("/agents/dora/inbox/new")[0]
    dora = world.as_agent("dora")
    await world.rename(f"/agents/dora/inbox/new/{new}", f"/agents/dora/inbox/cur/{new}:2,", dora)
    await world.spawn("child", pid)
    number = world.kernel.calls.llm(dora.principal, pid, "sonnet", 1000)
    world.kernel.calls.settle(dora.principal, pid, int(number), (1000, 0))
    used = {name: (await world.text(f"/proc/{pid}/usage/{name}")).strip() for name in NAMES}
    cost = world.kernel.catalog.cost("sonnet", 1000, 0)
    assert used == {
        "max_children": "1",
        "max_concurrent_tasks": "1",
        "timeout_seconds": "0",
        "max_tokens_per_hour": "1000",
        "max_tokens_total": "1000",
        "max_context_tokens": "1000",
        "max_llm_calls": "1",
        "max_tool_calls": "0",
        "max_cost_usd": f"{cost / 1e6:g}",
        "messages_per_minute": "1",
        "max_memory_mb": "0",
        "max_cpu_seconds": "0",
        "max_pids": "0",
        **{name: "0" for name in NAMES if name.endswith("_per_minute") and "messages" not in name},
    }
    with refused("EACCES"):
        await world.write(f"/proc/{pid}/usage/max_children", "0")
    world.kernel.processes.signal(OPERATOR.principal, pid, "KILL")
    assert await world.text(f"/proc/{pid}/usage/max_llm_calls") == "0\n"
