"""What is in memory is what is in the store, whatever fails: transactions at random, of which some
fail as a whole, in a part that somebody catches, or with their commit."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.due_heap import DueHeap
from agentfs.base.errors import ApprovalError, KernelError
from agentfs.kernel import Kernel
from agentfs.mail.mailbox import FOLDERS
from agentfs.mail.message import Draft, Message
from agentfs.model.process import Process, Role, State
from agentfs.quota.spending import HELD
from agentfs.rights.acl import Acl
from agentfs.shared.artifact import Space
from agentfs.store.records import Index, Records
from tests.world import OPERATOR, World

STEPS = 250
SEEDS = range(10)

NAMES = ("lead", "alice", "bob", "kid")
RULES = """
rules:
- {effect: allow, agent: bob, action: send, path: /agents/alice/inbox, approval: {by: lead}}
- {effect: allow, agent: kid, action: send, path: /agents/*/inbox, approval: {timeout: 90s}}
"""

Image = dict[str, Any]


class BoomError(Exception):
    """What a caller raises in the middle of its work."""


def parts(thing: object, path: str, seen: set[int]) -> Iterator[tuple[str, object]]:
    """Every object of ours that `thing` consists of, with the way to it."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    yield path, thing
    if isinstance(thing, dict | Message) or not type(thing).__module__.startswith("agentfs."):
        return
    for name, value in sorted(getattr(thing, "__dict__", {}).items()):
        yield from parts(value, f"{path}.{name}", seen)


def image(kernel: Kernel, *, due: bool = True) -> Image:
    """All tables with their indexes, and all mail; with `due`, when all that has a time is due,
    which a new daemon may say otherwise."""
    found: Image = {}
    for path, thing in parts(kernel, "kernel", set()):
        match thing:
            case Records():
                written = {key: record(thing._write(item)) for key, item in thing.items()}
                found[path] = {key: each for key, each in written.items() if any(each.values())}
            case Index():
                found[path] = {group: sorted(thing[group]) for group in thing}
            case DueHeap():
                keys = thing._keys if due else {}
                found[path] = sorted(
                    (keys.get(number, 0.0), item.id) for number, item in thing.items.items()
                )
    table, boxes = kernel.asks._table, kernel.mail.boxes
    found["questions"] = {number: ask.id for number, ask in table.of_message.items()}
    queues = [kernel.queues.get(name).mailbox for name in kernel.queues]
    for name in (*kernel.agents, *queues):
        box = boxes.box(name)
        for folder in FOLDERS:
            found[f"{name}/{folder}"] = {
                file: letter(message) for file, message in box.folder(folder).items()
            }
        sent = boxes.archive.sent(name)
        found[f"{name}/sent"] = {seq: letter(message) for seq, message in sent.items()}
    spending = kernel.spending
    found["held"] = {
        process.pid: [getattr(spending.of(process.pid), name) for name in HELD]
        for process in kernel.table
    }
    found["claims"] = {pid: sorted(claims) for pid, claims in boxes.claimed.by_pid.items()}
    for registry in (kernel.queues, kernel.topics):
        found[registry.KIND] = {name: record(registry.get(name).record()) for name in registry}
    return found


def record(written: Mapping[str, Any]) -> Image:
    """Without what a transaction that fails leaves as it is: times of changes, the times in a
    window, and how often a limit was hit."""
    left = ("changed", "hour", "tokens_hits", "pids_hits")
    return {name: value for name, value in written.items() if name not in left}


def letter(message: Message) -> tuple[object, ...]:
    return message.seq, message.folder, message.file, message.record()


def differences(one: object, other: object, path: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [
            found
            for key in keys
            for found in differences(one.get(key), other.get(key), f"{path} {key}")
        ]
    return [] if one == other else [f"{path}: {one}, {other}"]


class Life:
    """Agents who do whatever comes to their mind."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.kernel = world, world.kernel
        self.random = random.Random(seed)
        self.full = False  # whether the next commit finds the disk full
        self.failed = False  # whether something was raised that is no refusal
        self.did: list[str] = []
        self.kernel.store.prepare(self._commit)
        with self.kernel.store.transaction():
            lead = world.process("lead", role=Role.LEAD)
            for name in ("alice", "bob"):
                world.process(name, lead.pid)
        self.kernel.policy.use_acl(Acl.parse(RULES))
        self.kernel.budgets.allocate(OPERATOR, 1, lead.pid, 100_000)

    def _commit(self) -> None:
        if self.full:
            self.full = False
            raise KernelError(errno.ENOSPC, "the disk is full")

    # -- one thing that somebody does --------------------------------------------------------------

    @property
    def somebody(self) -> Process:
        alive = [process for process in self.world.table if process.state.alive]
        return self.random.choice([process for process in alive if process.pid != 1])

    def one(self, kind: str) -> str:
        return f"{kind}{self.random.randrange(3)}"

    def step(self) -> None:
        kinds = [name for name in dir(type(self)) if name.startswith("do_")]
        kind = self.random.choice(kinds)
        self.did.append(kind)
        try:
            getattr(self, kind)()
        except KernelError:
            pass  # refused
        except Exception as failure:  # of this step, or of one before it that somebody caught
            self.failed = failure is not self.kernel.store._failure
            raise

    def do_send(self) -> None:
        process, receiver = self.somebody, self.random.choice(NAMES)
        headers = self.random.choice(("", "Expires: 60s\n", "Reply-By: 90s\n", "Priority: high\n"))
        held = self.kernel.mail.boxes.claimed.of(process.pid)
        if held and self.random.random() < 0.5:
            headers, receiver = f"In-Reply-To: {held[-1].id}\n", held[-1].sender
        try:
            self.world.send(process.name, receiver, f"{headers}\nhello")
        except ApprovalError as needed:
            self.kernel.approvals.file(needed)

    def do_decide(self) -> None:
        requests = [each for each in self.kernel.approvals if each.state.open]
        if requests:
            request = self.random.choice(requests)
            approve = self.random.random() < 0.7
            self.kernel.approvals.decide(OPERATOR, request.id, approve=approve)

    def do_receive(self) -> None:
        self.world.recv(self.somebody.name)

    def do_broadcast(self) -> None:
        self.kernel.mail.broadcasts.send(OPERATOR, "init", Draft.parse(b"\nall", now=0.0, to="*"))

    def do_give_up(self) -> None:
        claimed = self.kernel.mail.boxes.claimed
        claims = [each for pid in claimed.pids for each in claimed.of(pid)]
        if claims:
            with self.kernel.store.transaction():
                self.kernel.mail.delivery.fail(self.random.choice(claims), "nobody did it")

    def do_ask(self) -> None:
        process = self.somebody
        question = f"To: {self.random.choice(NAMES)}\nReply-By: 2m\n\n?"
        self.kernel.asks.ask(self.world.principal(process.name), process.name, question.encode())

    def do_cancel(self) -> None:
        process = self.somebody
        for number in list(self.kernel.asks.of(process.name))[:1]:
            self.kernel.asks.cancel(self.world.principal(process.name), process.name, number)

    def do_remind(self) -> None:
        process = self.somebody
        when = self.random.choice(("in 30s x", 'cron "* * * * *" y', "in 5m z"))
        self.kernel.reminders.set(self.world.principal(process.name), process.name, when)

    def do_fire(self) -> None:
        self.kernel.reminders.run_due()

    def do_queue(self) -> None:
        who, name = self.world.principal(self.somebody.name), self.one("queue")
        queues = self.kernel.queues
        match self.random.randrange(6):
            case 0:
                queues.create(who, name, 0o777)
            case 1:
                queues.remove(who, name, force=True)
            case 2:
                queues.purge(who, name)
            case 3:
                queues.set_limit(who, name, 5)
            case 4:
                self.kernel.mail.receiving.claim_next(who, queues.get(name).mailbox)
            case _:
                draft = Draft(queues.get(name).mailbox, b"job")
                queues.send(who, queues.get(name), draft)

    def do_topic(self) -> None:
        who, name = self.world.principal(self.somebody.name), self.one("topic")
        topics = self.kernel.topics
        match self.random.randrange(4):
            case 0:
                topics.create(who, name, 0o666)
            case 1:
                topics.remove(who, name)
            case _:
                topics.publish(who, topics.get(name), b"news")

    def do_group(self) -> None:
        groups, name = self.kernel.groups, self.one("group")
        match self.random.randrange(5):
            case 0:
                groups.create(OPERATOR, "", name)
            case 1:
                groups.create(OPERATOR, name, "below")
            case 2:
                groups.remove(OPERATOR, self.random.choice((name, f"{name}/below")))
            case 3:
                groups.set_limit(OPERATOR, name, "tokens", self.random.randrange(5000))
            case _:
                groups.move(OPERATOR, self.somebody.pid, self.random.choice(("", name)))

    def do_budget(self) -> None:
        process, budgets = self.somebody, self.kernel.budgets
        if self.random.random() < 0.7:
            budgets.allocate(OPERATOR, process.ppid, process.pid, self.random.randrange(2000))
        else:
            budgets.release(OPERATOR, process.pid)

    def do_call(self) -> None:
        process, calls = self.somebody, self.kernel.calls
        who, held = self.world.principal(process.name), calls.of(process.pid)
        match self.random.randrange(5):
            case 0:
                calls.tool(who, process.pid, "grep")
            case 1 if held:
                calls.cancel(who, process.pid, held[0].id)
            case 2 if held:
                calls.settle(who, process.pid, held[0].id, (40, 60))
            case 3:
                calls.report(who, process.pid, self.random.randrange(1500))
            case _:
                calls.llm(who, process.pid, "", self.random.randrange(1, 1500))

    def do_limit(self) -> None:
        pid, value = self.somebody.pid, str(self.random.randrange(1, 4))
        name = self.random.choice(("max_children", "messages_per_minute", "max_tool_calls"))
        self.kernel.limits.set(OPERATOR, pid, name, self.random.choice((value, "max")))

    def do_drop(self) -> None:
        self.kernel.capabilities.drop(OPERATOR, self.somebody.pid, f"tool:{self.one('x')}")

    def do_artifact(self) -> None:
        who, key = self.world.principal(self.somebody.name), self.one("key")
        spaces: tuple[Space, ...] = (("global", ""), ("subtree", who.name), ("private", who.name))
        space, artifacts = self.random.choice(spaces), self.kernel.artifacts
        match self.random.randrange(5):
            case 0:
                artifacts.remove(who, space, key)
            case 1:
                artifacts.rename(who, space, key, self.one("key"))
            case 2:
                artifacts.set_type(who, space, key, "text/csv")
            case _:
                draft = artifacts.draft(who, space, key)
                try:
                    draft.changed = True
                    artifacts.allot(draft)
                    draft.write(0, b"content")
                    artifacts.commit(draft)
                finally:
                    artifacts.finish(draft)

    def do_come(self) -> None:
        name, parent = self.random.choice(NAMES), self.somebody
        if self.world.table.by_name(name) is None:
            self.world.process(name, parent.pid)

    def do_go(self) -> None:
        process = self.somebody
        if process.name != "lead":
            self.world.end(process, self.random.randrange(2))

    def do_reap(self) -> None:
        for process in list(self.world.table):
            if process.state is State.ZOMBIE:
                self.kernel.supervisor.reap(process)

    def do_remove(self) -> None:
        self.kernel.agents.remove(OPERATOR, self.random.choice(NAMES))

    def do_tidy(self) -> None:
        for part in self.kernel.ground.parts:
            part.tidy()

    # -- and how it ends -------------------------------------------------------------------------

    def transaction(self) -> bool:
        """Some steps in one transaction. False if it failed."""
        store = self.kernel.store
        how = self.random.choice(("well", "well", "alone", "raises", "part", "full"))
        self.did = [how]
        if how == "alone":
            self.step()
            return True
        try:
            with store.transaction():
                for _ in range(self.random.randrange(1, 4)):
                    self.step()
                if how == "part":
                    with suppress(BoomError), store.transaction():
                        self.step()
                        raise BoomError
                    self.step()
                if how == "raises":
                    raise BoomError
                self.full = how == "full"
        except Exception:
            if self.failed:
                raise
            return False
        finally:
            self.full = False
        return True


@pytest.fixture
def reload(tmp_path: Path) -> Callable[[World], Image]:
    """What a daemon that starts now would have in memory."""

    def reloaded(world: World) -> Image:
        copy = tmp_path / "copy"
        shutil.copytree(world.state, copy)
        (copy / "lock").unlink(missing_ok=True)
        kernel = Kernel(copy, "/nowhere", world.clock)
        try:
            kernel.load()
            return image(kernel, due=False)
        finally:
            kernel.store.close()
            kernel.programs.close()
            shutil.rmtree(copy)

    return reloaded


@pytest.mark.parametrize("seed", SEEDS)
def test_memory_is_what_the_store_says(
    tmp_path: Path, seed: int, reload: Callable[[World], Image]
) -> None:
    world = World(tmp_path / "state")
    life = Life(world, seed)
    for number in range(STEPS):
        before = image(life.kernel)
        done = life.transaction()
        if not done:
            assert differences(before, image(life.kernel)) == [], life.did
        if number % 25 == 24:
            assert differences(image(life.kernel, due=False), reload(world)) == [], (
                number,
                life.did,
            )
            world.clock.advance(life.random.randrange(100))
            world.timers.run_due()
    world.close()
