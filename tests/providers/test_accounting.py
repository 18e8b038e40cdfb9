"""/sys/accounting: who has used how much, for those whose business it is."""

from __future__ import annotations

import json
from pathlib import Path

from agentfs.base.clock import ManualClock
from agentfs.kernel import Kernel
from agentfs.model.process import Tier
from agentfs.quota.events import UseRecorded
from agentfs.quota.meter import Use
from agentfs.vfs.changes import Created, Modified, Removed
from agentfs.vfs.node import Directory
from tests.providers.world import OPERATOR, STRANGER, World, refused

BASE = "/sys/accounting"


def use(world: World, name: str, read: int, written: int, model: str = "sonnet") -> None:
    """A use that was made."""
    kernel = world.kernel
    process = kernel.table.get(world.pid(name))
    cost = kernel.catalog.cost(model, read, written)
    with kernel.store.transaction():
        kernel.accounting.record(
            process, Use("llm", model, Tier.TACTICAL, input=read, output=written, cost=cost)
        )


def user(world: World) -> str:
    return world.kernel.table.get(1).user


async def test_every_account_has_the_same_files(world: World) -> None:
    use(world, "alice", 2000, 200)
    accounts = (
        "agent/alice",
        f"user/{user(world)}",
        f"node/{world.kernel.table.get(1).node}",
        "tier/tactical",
        "total",
    )
    for account in accounts:
        path = f"{BASE}/{account}"
        names = ("tokens", "input", "output", "calls", "tool_calls", "cost", "unpriced")
        assert [await world.text(f"{path}/{name}") for name in names] == [
            "2200\n", "2000\n", "200\n", "1\n", "0\n", "0.009\n", "0\n",
        ]  # fmt: skip
        for name, span in (("hourly", "hour"), ("daily", "day")):
            (line,) = (await world.text(f"{path}/{name}")).splitlines()
            figures = json.loads(line)
            assert figures.pop(span).startswith("20")
            assert figures == {
                "tokens": 2200,
                "input": 2000,
                "output": 200,
                "calls": 1,
                "tool_calls": 0,
                "cost": "0.009",
                "cache_read": 0,
                "cache_write": 0,
                "estimated": 0,
                "unpriced": 0,
            }
    assert world.list(BASE) == ["agent", "user", "node", "tier", "total"]
    assert world.list(f"{BASE}/agent") == ["alice"]


async def test_before_the_first_use_there_are_no_accounts_but_the_total(world: World) -> None:
    assert world.list(f"{BASE}/agent") == []
    assert await world.text(f"{BASE}/total/cost") == "0\n"
    assert await world.text(f"{BASE}/total/hourly") == ""


async def test_a_use_changes_exactly_the_accounts_that_it_is_in(world: World) -> None:
    use(world, "alice", 1, 1)
    use(world, "bob", 1, 1)
    created = [change for change in world.changes if isinstance(change, Created)]
    assert (("accounting", "agent"), "alice") in {(each.directory, each.name) for each in created}
    before = world.find(f"{BASE}/agent/alice/tokens").stat().mtime
    world.changes.clear()
    use(world, "alice", 1, 1)
    changed = {change.key for change in world.changes if isinstance(change, Modified)}
    assert (("accounting", "agent", "alice"), "tokens") in changed
    assert (("accounting", "total", ""), "cost") in changed
    assert (("accounting", "agent", "bob"), "tokens") not in changed
    assert world.find(f"{BASE}/agent/alice/tokens").stat().mtime > before


async def test_an_agent_reads_its_own_and_its_users_and_the_rest_is_the_operators(
    world: World,
) -> None:
    for name in ("alice", "bob"):
        use(world, name, 1, 1)
    alice = world.as_agent("alice")
    for path in ("agent/alice", f"user/{user(world)}"):
        assert await world.text(f"{BASE}/{path}/tokens", alice)
        assert "tokens" in world.list(f"{BASE}/{path}", alice)
    for path in ("agent/bob", "node/" + world.kernel.node, "tier/tactical", "total"):
        for caller in (alice, STRANGER):
            with refused("EACCES"):
                world.open(f"{BASE}/{path}/tokens", caller=caller)
            with refused("EACCES"):
                world.list(f"{BASE}/{path}", caller)
            folder, _, name = f"{BASE}/{path}".rpartition("/")
            with refused("EACCES"):  # not even its size: Linux asks at every look-up
                world.directory(folder).admit(name, caller)
            assert world.directory(folder).gated
            assert world.find(f"{BASE}/{path}").timeout == 0
    for view in ("agent", "user", "node", "tier"):
        with refused("EACCES"):
            world.list(f"{BASE}/{view}", alice)
        assert world.list(f"{BASE}/{view}", OPERATOR)
        world.directory(BASE).admit(view, alice)
    world.directory(f"{BASE}/agent").admit("alice", alice)


async def test_how_much_was_used_is_in_no_event_that_everybody_reads(world: World) -> None:
    use(world, "alice", 12345, 678)
    records = list(world.kernel.events.since(1))
    (line,) = [record.line() for record in records if isinstance(record.event, UseRecorded)]
    told = json.loads(line)
    assert (told["agent"], told["used"]) == ("alice", "sonnet")
    assert told.keys() == {"seq", "time", "type", "agent", "pid", "kind", "used"}


async def test_the_maid_sweeps_and_the_account_of_who_is_gone_goes(tmp_path: Path) -> None:
    clock = ManualClock()
    kernel = Kernel(tmp_path / "state", "/run/agents", clock)
    async with kernel.running():
        world = World(kernel)
        pid = (await world.spawn("alice")).pid
        use(world, "alice", 5, 5)
        account = world.find(f"{BASE}/agent/alice")
        assert isinstance(account, Directory)
        await world.write(f"/proc/{pid}/ctl", "KILL")
        kernel.supervisor.reap(kernel.table.get(pid))
        world.directory("/agents").rmdir("alice", OPERATOR)
        assert await world.text(f"{BASE}/agent/alice/tokens") == "10\n"
        clock.advance(92 * 86_400)
        kernel.maid.scan()
        assert world.list(f"{BASE}/agent") == []
        assert Removed in {type(change) for change in world.changes}
        with refused("ESTALE"):
            account.lookup("tokens").stat()
        assert await world.text(f"{BASE}/total/tokens") == "10\n"
        assert await world.text(f"{BASE}/total/daily") == ""
