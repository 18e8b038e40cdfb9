"""Which paths each kind of event changes: announced.txt says it, for each kind and each place in it
that matters.

    python -m tests.providers.test_announced > tests/providers/announced.txt
"""

from __future__ import annotations

import ast
import re
import tempfile
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import agentfs.providers
from agentfs.base.content import Content
from agentfs.base.errors import ApprovalError
from agentfs.kernel import Kernel
from agentfs.model.principal import INIT
from agentfs.model.process import Tier
from agentfs.process.ceilings import NAMES
from agentfs.process.events import ShownStateChanged, WhyChanged
from agentfs.providers.tree import build
from agentfs.quota.meter import Use
from agentfs.store.event import Event, vocabulary
from agentfs.tasks.model import TaskRequest, WorkerRequest
from agentfs.triggers.entities import WantedState
from agentfs.vfs.changes import Change, Created, HungUp, Modified, Moved, Removed
from agentfs.vfs.node import Directory
from agentfs.vfs.on import Cause, Handler, When, handlers
from agentfs.workflow.model import Start
from tests.providers.test_conformance import tables
from tests.providers.test_documents import HELLO
from tests.providers.test_shm import put
from tests.providers.world import OPERATOR, UID, World

PAGE = Path(__file__).with_name("announced.txt")

VARIANTS: dict[str, tuple[dict[str, object], ...]] = {
    "ChildrenChanged": ({"added": True}, {"added": False, "child": 99}),
    "ConfigChanged": tuple(
        {"path": f"/etc/{name}"}
        for name in (
            *("agentfs.yaml", "roles.yaml", "acl.yaml"),
            *("models.yaml", "tools.yaml", "harnesses.yaml", "hooks.yaml"),
            *("guardian.yaml", "mind.yaml"),
        )
    ),
    "MemoryStored": ({"first": True}, {"first": False}),
    "LimitChanged": tuple({"limit": name} for name in NAMES),
    "ProcessChanged": ({}, {"pid": INIT, "agent": "init"}, {"pid": 99, "agent": "gone"}),
    "AgentChanged": ({}, {"agent": "gone"}),
    "ReminderFired": ({"next": None}, {"next": 1.5}),
    "BudgetChanged": tuple({"tier": tier.value} for tier in Tier),
    "GroupCreated": ({"path": "team"}, {"path": "team/inner"}, {"path": "gone"}),
    "GroupRemoved": ({"path": "team"}, {"path": "team/inner"}),
    "GroupLimitSet": tuple(
        {"path": path, "limit": limit}
        for path in ("team", "team/inner")
        for limit in ("tokens", "pids", "rate")
    ),
    "GroupLimitHit": ({"path": "team/inner", "limit": "pids"}, {"path": "team", "limit": "tokens"}),
    "QueueChanged": ({"name": "jobs"},),
    "QueuePurged": ({"name": "jobs"},),
    "QueueRemoved": ({"name": "jobs"},),
    "TopicChanged": ({"name": "news"},),
    "PoolChanged": ({"name": "sums"},),
    "PoolRemoved": ({"name": "sums"},),
    "TopicRemoved": ({"name": "news"},),
    "QueueCreated": ({"name": "jobs"}, {"name": "gone"}),
    "TopicCreated": ({"name": "news"}, {"name": "gone"}),
    "PoolCreated": ({"name": "sums"}, {"name": "gone"}),
    "CheckpointCreated": ({"name": "good"}, {"name": "gone"}),
    "CheckpointRemoved": ({"name": "good"},),
    "AgentGroupCreated": ({"name": "crew"}, {"name": "gone"}),
    **{
        f"AgentGroup{what}": ({"name": "crew"},)
        for what in ("Changed", "MemberCompleted", "Removed")
    },
    "ProjectCreated": ({"name": "bees"}, {"name": "gone"}),
    **{
        f"Project{what}": ({"name": "bees"},)
        for what in ("Activated", "Changed", "Left", "Removed")
    },
    "SeedCreated": ({}, {"seed": 99}),
    "ChatMade": ({}, {"chat": "gone"}),
    "AskOpened": ({}, {"id": "000000000099"}),
    "ApprovalAsked": ({}, {"id": "000099"}),
    "ReminderSet": ({}, {"id": "99"}),
    "ManifestChanged": (
        {"kind": "pipelines", "name": "hello", "version": 1},
        {"kind": "systems", "name": "team", "version": 1},
        {"kind": "adapters", "name": "finder", "version": 1},
        {"kind": "policies", "name": "gone", "version": 2},
        {"kind": "macros", "name": "twice", "version": 1},
        {"kind": "prompts", "name": "greet", "version": 1},
    ),
    "ManifestRemoved": (
        {"kind": "pipelines", "name": "hello"},
        {"kind": "macros", "name": "twice"},
        {"kind": "adapters", "name": "finder"},
    ),
    "RunStarted": ({}, {"ref": ""}),
    "RunStateChanged": ({"old": "queued", "new": "running"},),
    "RunEnded": ({"old": "running", "state": "completed"},),
    "RunRemoved": ({"state": "completed"}, {"state": "failed", "ref": ""}),
    "NodeChanged": ({"node": "greet"}, {"node": "each/1/square"}),
    "RunSignalled": ({"key": "go"},),
    "ScheduleMade": ({}, {"schedule": 99}),
    "EntityTypeMade": ({}, {"entity_type": "gone"}),
    "EntityRegistered": ({}, {"entity": "gone"}),
    "EntityChanged": tuple(
        {"outcome": outcome, "run": run}
        for outcome, run in (("done", 0), ("pending", 5), ("failed", 5))
    ),
    "SystemStarted": ({}, {"system": 9999}),
    "SystemChanged": ({"process": "", "run": 0}, {"process": "a", "run": 5}),
    "WorkerRegistered": ({}, {"worker": "gone"}),
    "MessageArrived": ({}, {"agent": "queues/jobs"}, {"id": "000000000099"}, {"sender": "carol"}),
    "BroadcastSent": ({}, {"id": "000000000099"}),
} | {
    name: ({}, {"agent": "queues/jobs"}, {"agent": "gone"})
    for name in (
        "MessageClaimed",
        "MessageDone",
        "MessageExpired",
        "MessageGivenUp",
        "MessageReturned",
        "MessageRevived",
        "DeadLetterDropped",
    )
}
"""Fields that are otherwise than in `Town.values`; each variant is an entry of the page."""

HINTS = (ShownStateChanged, WhyChanged)
"""These show in the tree and are no change of the system."""

SHM: tuple[dict[str, object], ...] = (
    {"visibility": "private", "space": ("private", "alice")},
    {"visibility": "subtree", "space": ("subtree", "alice")},
    {"visibility": "user", "space": ("user", str(UID))},
    {"visibility": "global", "space": ("global", "")},
    {"visibility": "global", "space": ("global", ""), "name": "gone"},
)


HELD = "kind: Pipeline\nmetadata: {name: held}\nspec: {nodes: [{name: x, wait: go}]}\n"
PAIR = (
    "kind: System\nmetadata: {name: pair}\nspec:\n"
    "  processes: {a: {pipeline: held}, b: {pipeline: held}}\n  pipes: [{from: a, to: b}]\n"
)
MACHINE = "initial: A\ntransitions: {A: [B]}\nstates: {B: {on_enter: held}}\n"


class Town:
    """A world with one of everything in it, and the values that its events have."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ids: dict[str, dict[str, object]] = {}
        self.values: dict[str, object] = {
            "agent": "bob",
            "pid": world.pid("bob"),
            "sender": "alice",
            "owner": "alice",
            "by": "alice",
            "folder": "new",
            "renamed": "renamed:2,",
            "child": world.pid("kid"),
            "accounts": (("agent", "alice"), ("total", "")),
            "path": "/etc/acl.yaml",
            "view": "agent",
            "key": "alice",
            "visibility": "",
            "space": ("private", "alice"),
            "name": "thing",
            "old": "old",
            "old_space": ("subtree", "alice"),
            "before": "bob",
            "server": "thing",
            "chat": "plan",
            "pipeline": "hello",
            "ref": "order/7",
            "added": True,
        }

    @classmethod
    async def built(cls, world: World) -> Town:
        kernel = world.kernel
        await world.spawn("kid", world.pid("bob"))
        town = cls(world)
        alice, bob = world.as_agent("alice"), world.as_agent("bob")
        await world.mail("alice", "bob", "one")
        [file] = world.list("/agents/bob/inbox/new")
        [message] = world.list("/agents/alice/sent")
        town.values |= {"id": message, "file": file, "ids": (message,)}
        world.directory("/dev/queues").mkdir("jobs", 0o777, alice)
        await world.write("/dev/queues/jobs/new/1.M1.host", "two", alice, create=True)
        world.create("/dev/topics/news", alice).release()
        kernel.locks.take(alice.principal, "thing")
        kernel.pools.create(alice.principal, "sums", 0o777)
        for path in ("/sys/cgroup/team", "/sys/cgroup/team/inner"):
            folder, _, name = path.rpartition("/")
            world.directory(folder).mkdir(name, 0o755, OPERATOR)
        for folder in ("private", "subtree", "user", "global"):
            await put(world, f"{folder}/thing", b"x", alice)
        process = kernel.table.get(alice.principal.pid or 0)
        with kernel.store.transaction():
            kernel.accounting.record(process, Use("llm", "sonnet", Tier.TACTICAL, 5, 5, 1))
        kernel.tooling.document.replace("tools: {thing: {exec: [/bin/cat]}}")
        ask = kernel.asks.ask(bob.principal, "bob", b"To: carol\nReply-By: 1h\n\nhow?\n").key
        kernel.chats.make(bob.principal, "bob", "plan")
        await kernel.checkpoints.create(OPERATOR.principal, "good")
        macro = "kind: Macro\nmetadata: {name: twice}\nnodes: [{name: x, data: {v: 1}}]\n"
        system = (
            "kind: System\nmetadata: {name: team}\nspec: {processes: {a: {exec: [/bin/true]}}}\n"
        )
        for kind, name, text in (
            ("pipelines", "hello", HELLO),
            ("macros", "twice", macro),
            ("systems", "team", system),
            ("adapters", "finder", "kind: Adapter\nmetadata: {name: f}\nspec: {agent: bob}\n"),
            ("prompts", "greet", "Greet {{ input.name }}."),
        ):
            await kernel.library.put(OPERATOR.principal, kind, name, text)
        note = kernel.memories.remember(bob.principal, "bob", b"remember this")
        town.values["note"] = note.rpartition("/")[2].removesuffix(".md")
        begin = Start("hello", {"name": "ann"}, ref=("order", "7"))
        town.values["run"] = kernel.runs.start(OPERATOR.principal, begin).id
        await kernel.runs.wait_ended(kernel.runs.page(0, 1)[0])
        await town.with_triggers()
        kernel.workers.register(OPERATOR.principal, WorkerRequest(name="w1"))
        task = kernel.tasks.submit(OPERATOR.principal, TaskRequest(description="work"))
        town.values |= {"task": task.id, "worker": "w1"}
        [reminder] = kernel.reminders.set(bob.principal, "bob", "in 1h wake up")
        needed = ApprovalError(
            "it has to be approved",
            rule="1",
            pid=town.values["pid"],  # type: ignore[arg-type]
            agent="bob",
            user="root",
            action="spawn",
            path="/agents/x",
            by="operator",
            timeout=3600.0,
            content=Content.of(b"x"),
        )
        approval = kernel.approvals.file(needed).name
        town.values["call"] = kernel.calls.llm(bob.principal, world.pid("bob"), "", 10)
        kernel.agent_groups.create(bob.principal, "crew", 0o755)
        kernel.agent_groups.set_members(bob.principal, "crew", ["bob"])
        kernel.projects.create(bob.principal, "bees", 0o755)
        seed = kernel.seeds.plant(bob.principal, "bees", "a page")
        town.ids["agentfs.projects.events"] = {"project": "bees", "seed": seed.number}
        for module, number in (("asks", ask), ("reminders", reminder.id), ("approvals", approval)):
            town.ids[f"agentfs.{module}.events"] = {"id": number}
        return town

    async def with_triggers(self) -> None:
        """A schedule, an entity on its way to another state, and a system at work."""
        kernel, operator = self.world.kernel, OPERATOR.principal
        for kind, name, text in (
            ("pipelines", "held", HELD),
            ("systems", "pair", PAIR),
        ):
            await kernel.library.put(operator, kind, name, text)
        schedule = kernel.schedules.create(operator, '{"pipeline": "held", "in": "1h"}')
        kernel.entities.make_type(operator, "thing", 0o777)
        kernel.entities.set_machine(operator, "thing", MACHINE)
        kernel.entities.register(operator, "thing", "thing")
        kernel.entities.transition(operator, "thing", "thing", WantedState("B"))
        system = kernel.systems.run(operator, Start("pair"))
        kernel.systems.runs.run_due()
        self.values |= {
            "schedule": schedule.number,
            "entity_type": "thing",
            "entity": "thing",
            "system": system,
            "pipe": "a-b",
        }

    def events(self) -> Iterator[Event]:
        """One event of each kind, or several."""
        for name, kind in sorted(vocabulary().items()):
            if kind.__subclasses__():
                continue  # it is what others have in common
            variants = VARIANTS.get(name, SHM if name.startswith("Artifact") else ({},))
            for variant in variants:
                given = self.values | self.ids.get(kind.__module__, {}) | variant
                yield kind(
                    **{
                        each.name: given.get(each.name, "" if each.type == "str" else 0)
                        for each in fields(kind)
                    }
                )

    def paths(self) -> dict[Hashable, str]:
        """Where the nodes are; seeing that is to look everywhere."""
        self.world.find(f"/dev/shm/users/{UID}")
        return dict(_walk(self.world.tree.root, ""))


def _walk(directory: Directory, path: str) -> Iterator[tuple[Hashable, str]]:
    yield directory.key, path or "/"
    for name, node in directory.entries():
        if isinstance(node, Directory):
            yield from _walk(node, f"{path}/{name}")
        else:
            yield node.key, f"{path}/{name}"


def _named(paths: dict[Hashable, str], key: Hashable) -> str:
    if key in paths:
        return paths[key]
    if isinstance(key, tuple) and len(key) == 2 and key[0] in paths:
        return f"{paths[key[0]]}/{key[1]}"
    return f"<{key!r}>"


def shown(paths: dict[Hashable, str], change: Change) -> str:
    """A change in words."""
    at = partial(_named, paths)
    match change:
        case Modified(key):
            return f"modified {at(key)}"
        case HungUp(key):
            return f"hung up {at(key)}"
        case Created(directory, name, node):
            return f"created {at(directory)}/{name} = {at(node.key)}"
        case Removed(directory, name, key, is_directory):
            what = "directory" if is_directory else "file"
            return f"removed {what} {at(directory)}/{name} = {at(key)}"
        case Moved(directory, name, target, new_name, node):
            return f"moved {at(directory)}/{name} to {at(target)}/{new_name} = {at(node.key)}"


def said(event: Event) -> str:
    """The event, with the fields that distinguish it from the others of its kind."""
    variants = VARIANTS.get(type(event).__name__, ())
    names = {name for variant in variants for name in variant}
    if type(event).__name__.startswith("Artifact"):
        names = {"visibility", "name"}
    given = [f"{name}={getattr(event, name)!r}" for name in sorted(names)]
    return f"{type(event).__name__}({', '.join(given)})"


def page(town: Town) -> Iterator[str]:
    """The changes in a tree where nobody ever looked, and in one that was read whole."""
    unseen = build(town.world.kernel)
    of_unseen = {said(event): list(unseen.changes(event)) for event in town.events()}
    paths = town.paths()
    for event in town.events():
        yield said(event)
        seen = sorted(shown(paths, change) for change in town.world.tree.changes(event))
        at_once = [shown(paths, change) for change in of_unseen[said(event)]]
        for line in seen:
            if line in at_once:
                at_once.remove(line)
                yield f"    {line}"
            else:
                yield f"    {line}  (where somebody looked)"
        assert not at_once, (event, at_once)
        yield ""


def plain(lines: Iterable[str]) -> str:
    """The page, which says the same whoever runs it."""
    text = "\n".join(lines).replace(f"/users/{UID}/", "/users/UID/")
    return text.replace(f"'user', '{UID}'", "'user', 'UID'")


async def test_each_event_is_announced_where_it_was(world: World) -> None:
    assert plain(page(await Town.built(world))) == PAGE.read_text()


Declared = tuple[str, Cause]


def declared() -> set[Declared]:
    """Every entry, as its path, with each cause that is declared for it."""
    found: set[Declared] = set()
    for table in tables():
        for name, entry in table.TABLE.items():
            found |= {(f"{table.PATH.rstrip('/')}/{name}", cause) for cause in entry.on}
    return found


def caused(cause: Cause, event: Event) -> bool:
    return cause.matches(event) if isinstance(cause, When) else type(event) is cause


def matches(pattern: str, path: str) -> bool:
    """Whether `path` is one of those that `pattern` stands for, with capitals for any name."""
    return re.fullmatch(re.sub("[A-Z]{2,}(?=/)", "[^/]+", pattern), path) is not None


async def lose_mail(world: World) -> None:
    """Messages of alice go with the mailboxes in which they wait."""
    queues, alice = world.kernel.queues, world.as_agent("alice")
    world.directory("/agents").mkdir("dora", 0o755, OPERATOR)
    await world.mail("alice", "dora")
    world.directory("/agents").rmdir("dora", OPERATOR)
    world.directory("/dev/queues").mkdir("more", 0o777, alice)
    for lose in (queues.purge, partial(queues.remove, force=True)):
        await world.write("/dev/queues/more/new/1.M1.host", "x", alice, create=True)
        lose(alice.principal, "more")


async def test_every_declared_change_comes_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each entry is announced for each event that is declared for it, and each method that is
    declared for an event says something of it, when the kernel tells of the event."""
    silent: set[tuple[str, Cause]] = set()

    def watched(kind: type) -> Iterator[Handler]:
        for handler in handlers(kind):
            name = handler.method.__qualname__
            silent.update((name, cause) for cause in handler.causes)

            def method(*given: Any, handler: Handler = handler, name: str = name) -> list[Change]:
                changes = list(handler.method(*given))
                if changes:
                    said = {(name, cause) for cause in handler.causes if caused(cause, given[-1])}
                    silent.difference_update(said)
                return changes

            yield handler._replace(method=method)

    town = await Town.built(world)
    monkeypatch.setattr("agentfs.vfs.index.handlers", watched)
    town.world = World(world.kernel)  # its tree is built of these
    paths = town.paths()
    left = declared()
    assert len(left) > 100
    assert len(silent) > 50
    await lose_mail(town.world)
    # The removals come last, so that everything is there for the others.
    for event in sorted(town.events(), key=lambda event: "Removed" in type(event).__name__):
        town.world.changes.clear()
        (world.kernel.events.hint if isinstance(event, HINTS) else world.kernel.events.emit)(event)
        announced = {
            _named(paths, change.key)
            for change in town.world.changes
            if isinstance(change, Modified)
        }
        left -= {
            (path, cause)
            for path, cause in left
            if caused(cause, event) and any(matches(path, each) for each in announced)
        }
    assert not left
    assert not silent


def test_no_provider_makes_a_key_where_it_announces_a_change() -> None:
    """The key is that of the node, or what its class says: else the two part one day."""
    for file in Path(agentfs.providers.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(getattr(node, "func", None), "id", "")
            if name in ("Modified", "Created", "Removed", "Moved", "HungUp"):
                made = [each for each in node.args if isinstance(each, ast.Tuple)]  # type: ignore[attr-defined]
                assert not made, f"{file.name}:{node.lineno}"  # type: ignore[attr-defined]


async def _print() -> None:
    with tempfile.TemporaryDirectory() as folder:
        kernel = Kernel(Path(folder, "state"), "/run/agents")
        async with kernel.running():
            world = World(kernel)
            for name in ("alice", "bob", "carol"):
                await world.spawn(name)
            print(plain(page(await Town.built(world))), end="")


if __name__ == "__main__":
    trio.run(_print)
