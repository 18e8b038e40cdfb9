"""A small tree of the tests' own, mounted in the test's process: the mount without a kernel."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from agentfs.base.clock import SystemClock
from agentfs.base.errors import KernelError
from agentfs.base.watchdog import Watchdog
from agentfs.model.principal import Kind, Principal
from agentfs.mount.session import Mount, serve
from agentfs.quota.pots import POTS
from agentfs.quota.settings import ShareSettings
from agentfs.quota.shares import Charge, Holder, Pot
from agentfs.store.event_log import EventLog
from agentfs.store.store import Store
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change
from agentfs.vfs.declare import control, document, exchange, stream, value
from agentfs.vfs.exchange import Answerer, PendingReply
from agentfs.vfs.files import Basics, Owner, Value
from agentfs.vfs.namespace import Namespace
from agentfs.vfs.node import Node, StreamHandle
from agentfs.vfs.standstill import Standstill
from agentfs.vfs.table import DirectoryOf, Table

T = TypeVar("T")


class Records(StreamHandle):
    """A stream that the test fills."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[bytes] = []
        self.released = False

    def try_read(self, size: int) -> bytes | None:
        return self.waiting.pop(0) if self.waiting else None

    def ready(self) -> bool:
        return bool(self.waiting)

    def release(self) -> None:
        self.released = True

    def say(self, record: bytes) -> None:
        self.waiting.append(record)
        self.wake()


class Bounded(StreamHandle):
    """What is written waits for the test to make room; what is read are the words "taken N"."""

    def __init__(self, tree: SmallTree) -> None:
        super().__init__()
        self._tree = tree
        self._answer = b""
        tree.writers.add(self)

    def try_write(self, data: bytes) -> int | None:
        if self._tree.slots == 0:
            return None
        self._tree.slots -= 1
        self._tree.taken.append(data)
        self._answer = b"taken %d\n" % len(self._tree.taken)
        return len(data)

    def writable(self) -> bool:
        return self._tree.slots > 0

    def try_read(self, size: int) -> bytes | None:
        answer, self._answer = self._answer, b""
        return answer or None

    def ready(self) -> bool:
        return bool(self._answer)

    def release(self) -> None:
        self._tree.writers.discard(self)


class Asked(Answerer):
    """The test answers what is asked."""

    def __init__(self, tree: SmallTree) -> None:
        self._tree = tree
        self.requests: list[bytes] = []
        self.replies: list[PendingReply] = []
        self.cancelled = 0
        self.waiting = 0
        self.closed = False

    def limit(self) -> int:
        return 1000

    def ask(self, request: bytes, reply: PendingReply) -> None:
        self.requests.append(request)
        if self._tree.refusal is not None:
            raise self._tree.refusal
        self.replies.append(reply)
        reply.on_cancel(self._stopped)

    def _stopped(self) -> None:
        self.cancelled += 1

    def waits(self) -> Callable[[], object]:
        self.waiting += 1
        return self._waited

    def _waited(self) -> None:
        self.waiting -= 1

    def close(self) -> None:
        self.closed = True


class Letters(DirectoryOf):
    """A directory whose entries come and go all the time."""

    restless = True

    def __init__(self, tree: SmallTree, name: str) -> None:
        self.key = ("letters", name)
        self._tree = tree
        self.names: dict[str, str] = {}
        """Whose content a name has."""

    def owner(self) -> Owner:
        return self._tree.owner()

    def lookup(self, name: str) -> Node:
        if name not in self.names:
            raise self.missing(name)
        return self.letter(self.names[name])

    def entries(self) -> list[tuple[str, Node]]:
        return [(name, self.letter(who)) for name, who in sorted(self.names.items())]

    def letter(self, who: str) -> Node:
        """The same file, whatever name it has."""
        return Value(Basics(("letter", who), 0o600, self.owner), lambda: f"from {who}\n".encode())


class SmallTree(Table):
    """number, faulty, text, events, room, oracle, items that come and go, and below `letters-…`,
    which are not listed, what comes and goes all the time."""

    key = ("small",)

    def __init__(self) -> None:
        self.content = b"0"
        self.document = b""
        self.applied: list[bytes] = []
        self.items: set[str] = set()
        self.letters: dict[str, Letters] = {}
        self.streams: list[Records] = []
        self.writers: set[Bounded] = set()
        self.slots = 0
        self.most_waiting = 100
        self.taken: list[bytes] = []
        self.refusals: list[tuple[str, KernelError]] = []
        self.asked: list[Asked] = []
        self.refusal: KernelError | None = None

    def owner(self) -> Owner:
        return Owner(os.geteuid(), os.getegid(), 1)

    @value("number", 0o644, write="set_number")
    def number(self) -> bytes:
        """Whatever was written last."""
        return self.content

    async def set_number(self, text: str, caller: Caller) -> None:
        self.content = text.encode()

    @value("faulty")
    def faulty(self) -> str:
        """A fault of ours."""
        raise ZeroDivisionError("on purpose")

    @document("text", write="replace")
    def text(self) -> bytes:
        """A document; `bad` in it is refused."""
        return self.document

    async def replace(self, content: bytes, caller: Caller) -> None:
        if b"bad" in content:
            raise KernelError(22, "no bad documents")
        self.document = content
        self.applied.append(content)

    @stream("events")
    def events(self, caller: Caller) -> StreamHandle:
        """What the test says."""
        records = Records()
        self.streams.append(records)
        return records

    @stream("room", 0o600, apart=True)
    def room(self, caller: Caller) -> StreamHandle:
        """Takes what is written while there are slots."""
        return Bounded(self)

    @exchange("oracle", 0o666)
    def oracle(self, caller: Caller) -> Answerer:
        """The test answers."""
        self.asked.append(Asked(self))
        return self.asked[-1]

    def make_room(self, slots: int) -> None:
        self.slots += slots
        for writer in tuple(self.writers):
            writer.wake()

    @control("ctl")
    async def ctl(self, command: str, caller: Caller) -> None:
        """`refuse`: refused."""
        raise KernelError(1, f"no {command}")

    def item(self, name: str) -> Node:
        return Value(Basics(("item", name), 0o600, self.owner), lambda: f"{name}\n".encode())

    def find(self, name: str) -> Node | None:
        if name.startswith("letters"):
            return self.letters.setdefault(name, Letters(self, name))
        return self.item(name) if name in self.items else None

    def more(self) -> list[tuple[str, Node]]:
        return [(name, self.item(name)) for name in sorted(self.items)]


class Operator:
    """A host where everybody is the operator."""

    def __init__(self, tree: SmallTree, folder: Path) -> None:
        self._tree = tree
        self._folder = folder
        self._holder = Holder("operator", 0, operator=True)
        self._pots = {
            "parked": Pot(POTS["parked"], lambda: tree.most_waiting, ShareSettings),
            "unsent": Pot(POTS["unsent"], lambda: 1 << 30, ShareSettings),
            "contents": Pot(POTS["contents"], lambda: 1 << 30, ShareSettings),
            "handles": Pot(POTS["handles"], lambda: 1 << 16, ShareSettings),
        }

    standstill = Standstill()

    def identify(self, tid: int, uid: int, gid: int) -> Principal:
        return Principal(Kind.OPERATOR, 1, "init", uid, gid)

    def refused(self, principal: Principal, path: str, refusal: KernelError) -> None:
        self._tree.refusals.append((path, refusal))

    def charge(self, principal: Principal, pot: str) -> Charge:
        return Charge(self._pots[pot], self._holder, 0)

    def disk(self) -> os.statvfs_result:
        return os.statvfs(self._folder)

    def room(self, principal: Principal) -> int | None:
        return None

    def announce_queue(self) -> int:
        return 1000

    def moved(self, place: str) -> None:
        pass


class Mounted:
    """The small tree, mounted. `do` runs file operations in a thread, as a client would."""

    def __init__(self, tree: SmallTree, mount: Mount, path: Path) -> None:
        self.tree = tree
        self.mount = mount
        self.path = path

    async def changed(self, change: Change) -> None:
        """Make a change known, as a handler does before it answers."""
        self.mount.apply(change)
        if self.mount.announcer.contested:
            await self.mount.announcer.settled()

    async def do(self, call: Callable[..., T], *arguments: object) -> T:
        return await trio.to_thread.run_sync(call, *arguments, abandon_on_cancel=True)

    async def announced(self) -> None:
        """Wait until the announcer has nothing left to do."""
        with trio.fail_after(10):
            while self.mount.announcer.busy:  # noqa: ASYNC110  # a thread of its own
                await trio.sleep(0.005)


@pytest.fixture
async def small(fuse: None, tmp_path: Path) -> AsyncIterator[Mounted]:
    path = tmp_path / "mnt"
    path.mkdir()
    tree = SmallTree()
    mount = Mount(
        Namespace(tree, lambda event, known=None: ()),
        Operator(tree, tmp_path),
        str(path),
        Watchdog(),
    )
    store = Store(tmp_path / "store.db")
    stop, ready = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            serve,
            mount,
            EventLog(store, SystemClock()),
            {"default_permissions", "fsname=small"},
            ready.set,
            stop,
            100,
        )
        await ready.wait()
        try:
            yield Mounted(tree, mount, path)
        finally:
            stop.set()
    store.close()
