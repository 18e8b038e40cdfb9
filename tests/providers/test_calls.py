"""/proc/PID/calls: what is open, and how it is ended."""

from __future__ import annotations

from agentfs.quota.events import CallCancelled
from agentfs.quota.relay import Used, Wanted
from agentfs.store.event import Event
from agentfs.vfs.changes import Created, Removed
from agentfs.vfs.node import Directory
from tests.providers.world import World, refused

MODELS = """\
providers:
  here: {url: http://127.0.0.1:9, speaks: [chat, messages]}
models:
  sonnet: {tier: operational, provider: here, match: ["claude-*"]}
"""


async def test_a_call_of_the_gateway_is_seen_while_it_is_open(world: World) -> None:
    world.kernel.catalog.replace(MODELS)
    pid, gateway = world.pid("alice"), world.kernel.calls.relayed
    folder = f"/proc/{pid}/calls"
    assert world.list(folder) == []
    world.changes.clear()
    wanted = Wanted("claude-opus-4-8", 10, 500, True, "tcp", "messages")
    begun = gateway.begin(world.kernel.table.get(pid), wanted)
    (created,) = [each for each in world.changes if isinstance(each, Created)]
    assert (created.name, isinstance(created.node, Directory)) == (str(begun.id), True)
    assert world.list(folder) == [str(begun.id)]
    gateway.progress(begun.id, 7, first_byte=True)
    text = await world.text(f"{folder}/{begun.id}/status")
    said = dict(line.split(":\t") for line in text.splitlines())
    assert said.pop("Age").replace(".", "").isdigit()
    assert said.pop("Started") <= said.pop("First-Byte")
    assert said == {
        "Kind": "llm",
        "Name": "sonnet",
        "Provider": "here",
        "Via": "tcp",
        "Dialect": "messages",
        "Instead-Of": "claude-opus-4-8",
        "Held": "510",
        "Input": "10",
        "Output": "7",
    }
    world.changes.clear()
    gateway.settle(begun.id, Used(10, 7))
    assert world.list(folder) == []
    assert [each.name for each in world.changes if isinstance(each, Removed)] == [str(begun.id)]
    with refused("ENOENT"):
        world.find(f"{folder}/{begun.id}")


async def test_cancel_ends_a_call_whoever_makes_it(world: World) -> None:
    world.kernel.catalog.replace(MODELS)
    heard: list[Event] = []
    world.kernel.events.listen(lambda record: heard.append(record.event), CallCancelled)
    pid, alice = world.pid("alice"), world.as_agent("alice")
    folder = f"/proc/{pid}/calls"
    own = world.kernel.calls.llm(alice.principal, pid, "", 10)
    text = await world.text(f"{folder}/{own}/status", alice)
    assert "Via:\tcall\n" in text
    with refused("EINVAL"):
        await world.write(f"{folder}/{own}/ctl", "stop", alice)
    await world.write(f"{folder}/{own}/ctl", "cancel", alice)
    assert world.list(folder) == []
    process = world.kernel.table.get(pid)
    begun = world.kernel.calls.relayed.begin(process, Wanted("sonnet", 10, 500))
    await world.write(f"{folder}/{begun.id}/ctl", "cancel", alice)
    assert heard == [CallCancelled(pid, "alice", begun.id)]
    world.kernel.calls.relayed.settle(begun.id, None)


async def test_a_call_is_private_to_its_agent(world: World) -> None:
    pid = world.pid("alice")
    number = world.kernel.calls.llm(world.as_agent("alice").principal, pid, "", 10)
    for path in (f"/proc/{pid}/calls", f"/proc/{pid}/calls/{number}"):
        with refused("EACCES"):
            world.list(path, world.as_agent("bob"))
    with refused("EACCES"):
        await world.write(f"/proc/{pid}/calls/{number}/ctl", "cancel", world.as_agent("bob"))


async def test_nobody_is_told_of_calls_where_nobody_looked(world: World) -> None:
    pid, alice = world.pid("alice"), world.as_agent("alice")
    world.changes.clear()
    number = world.kernel.calls.llm(alice.principal, pid, "", 10)
    assert not [each for each in world.changes if isinstance(each, Created)]
    assert world.list(f"/proc/{pid}/calls") == [str(number)]
    another = world.kernel.calls.llm(alice.principal, pid, "", 10)
    (created,) = [each for each in world.changes if isinstance(each, Created)]
    assert created.name == str(another)
