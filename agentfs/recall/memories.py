"""The system calls on memory: `remember` keeps a note as a plain file, `recall` finds it again."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.process.agents import Agents
from agentfs.process.capabilities import Capabilities
from agentfs.quota.disk_shares import DiskShares
from agentfs.quota.file_bytes import LEAST, Makers, taken
from agentfs.recall import place
from agentfs.recall.events import MemoryExpired, MemoryRecalled, MemoryStored
from agentfs.recall.follower import NOTES, Follower
from agentfs.recall.hits import Hit, together
from agentfs.recall.index import FILE, MemoryIndex
from agentfs.recall.note import Note
from agentfs.recall.query import MemoryQuery
from agentfs.recall.searcher import Searcher
from agentfs.recall.settings import MemorySettings
from agentfs.recall.vectors import Embed, Vector
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import keep_fields

__all__ = ["Memories"]

log = logging.getLogger(__name__)

T = TypeVar("T")

SOON = 0.2
"""Seconds from a change to the first look at it: what comes meanwhile is read with it."""

BREATH = 0.002
"""Seconds between two steps, in which a query may have its turn."""

FIRST = 10.0
"""Seconds at most in which the first query of a memory waits until all of that was read: some
100,000 files."""

AGAIN = 10.0
"""Seconds until the next try where the index cannot be written."""

PATIENCE = 5.0
"""Seconds for the vectors of a query, and of files that have none yet. Later queries ask for the
rest."""

TOGETHER = 64
"""Texts in one request for vectors."""

EXPIRING = 100
"""Notes that are removed in one round."""


class Memories(Part):
    """What agents remember. The index is kept while `run` runs."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        agents: Agents,
        capabilities: Capabilities,
        disk: DiskShares,
        embed: Embed,
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._agents = agents
        self._capabilities = capabilities
        self._disk = disk
        self._embed = embed
        self._follower = Follower(MemoryIndex(ground.state_dir / FILE))
        self._searcher = Searcher(self._follower)
        self._threads = trio.CapacityLimiter(4)
        self._last = 0  # the number of the latest note
        self._nursery: trio.Nursery | None = None
        self._told = trio.Event()  # there is another agent to follow, or one less
        self._followed: set[int] = set()  # agents, by number
        self._known: set[int] = set()  # those of whom everything was read once
        self._expired: list[tuple[int, bytes, str]] = []

    # -- one run of the daemon ---------------------------------------------------------------------

    def load(self) -> None:
        """Each note has an event when it is kept, so none has a higher number than the last one."""
        self._last = self._events.last

    def _follow(self, name: str) -> int:
        """Have the index know the memory of an agent from now on; the number of the agent. Those
        who never remember, nor recall, cost nothing."""
        agent = self._agents.get(name)
        if agent.id not in self._followed:
            self._followed.add(agent.id)
            self._follower.follow(agent.id, self._agents.memory_dir(name))
            self._told.set()
        return agent.id

    def agent_removed(self, name: str) -> None:
        number = self._agents.get(name).id
        if number in self._followed:
            self._store.on_commit(partial(self._forget, number))

    def _forget(self, number: int) -> None:
        self._followed.discard(number)
        self._known.discard(number)
        self._follower.forget(number)
        self._told.set()

    async def run(self) -> None:
        """Have the index know what changes, until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._follow_changes)
        finally:
            with trio.CancelScope(shield=True):
                await self._in_thread(self._searcher.close)

    def begin(self, answer: Callable[[], Awaitable[None]]) -> None:
        """Have a query answered, beside everything else. Raises ENODEV while the daemon starts or
        ends."""
        if self._nursery is None or self._nursery.cancel_scope.cancel_called:
            raise KernelError(errno.ENODEV, "the system is starting, or ending")
        self._nursery.start_soon(answer)

    async def _follow_changes(self) -> None:
        searcher = self._searcher
        in_index = await self._in_thread(searcher.agents)
        by_number = {agent.id: agent.name for agent in map(self._agents.get, self._agents)}
        for number in in_index:
            if number in by_number:
                self._follow(by_number[number])
            else:
                self._follower.forget(number)
        while True:
            told = self._told = trio.Event()
            more = await self._in_thread(searcher.work)
            now = self._clock.now()
            self._expired = await self._in_thread(partial(searcher.expired, now, EXPIRING))
            if searcher.trouble:
                await trio.sleep(AGAIN)
            elif more:
                await trio.sleep(BREATH)
            else:
                await self._change(told)

    async def _change(self, told: trio.Event) -> None:
        """Wait until something has changed, or was told, and a little longer."""
        due = self._follower.due()
        async with trio.open_nursery() as nursery:
            if due is not None:
                rest = max(0.0, due - time.monotonic())
                nursery.cancel_scope.deadline = trio.current_time() + rest
            nursery.start_soon(_cancel_at, told, nursery.cancel_scope)
            descriptor = self._follower.fileno()
            if descriptor is not None:
                await trio.lowlevel.wait_readable(descriptor)
                nursery.cancel_scope.cancel()
        await trio.sleep(SOON)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._threads)

    async def _read_whole(self, agent: int) -> None:
        """Wait until everything in a memory was read once, but not for ever."""
        ends = trio.current_time() + FIRST
        while agent not in self._known and trio.current_time() < ends:
            if await self._in_thread(partial(self._searcher.knows, agent)):
                self._known.add(agent)
            else:
                await trio.sleep(BREATH)

    def complaint(self) -> str:
        trouble = self._searcher.trouble
        return f"recall finds nothing new: {trouble}" if trouble else ""

    # -- system calls ------------------------------------------------------------------------------

    def check(self, principal: Principal, agent: str) -> None:
        """Raise EACCES unless `principal` may use the memory of `agent`, and has the capability."""
        if not principal.acts_for(agent):
            raise KernelError(
                errno.EACCES,
                f"the memory of {agent} is private, and you are {principal.name}",
                rule="private",
            )
        self._capabilities.require(principal, "memory")

    def limit(self) -> int:
        """Bytes that a note may have."""
        return self._settings.of(MemorySettings).max_note

    def remember(self, principal: Principal, agent: str, request: bytes) -> str:
        """Keep a note; the path of its file, which begins with `memory/`. Raises EACCES, EINVAL
        (a header, no text), EMSGSIZE, EDQUOT and ENOSPC (the share, the disk)."""
        if len(request) > self.limit():
            raise KernelError(
                errno.EMSGSIZE, f"a note has at most {self.limit():,} bytes", rule="memory.max_note"
            )
        note, made = self.read(request), ""
        try:
            with self._gate.enter(principal):
                self.check(principal, agent)
                now, owner = self._clock.now(), self._agents.get(agent)
                self._follow(agent)
                root = os.fspath(self._agents.memory_dir(agent))
                name, content = self._next(root), note.file(now)
                counted = self._disk.memory(agent)
                counted.check(principal, max(len(content), LEAST) + LEAST)
                folder = place.make_folder(root, owner.uid, owner.gid)
                if folder is not None:
                    counted.made(Makers(""), taken(folder))
                found = place.keep(root, f"{name}.md", content, owner.uid, owner.gid)
                made = f"{name}.md"
                self._store.on_commit(partial(counted.made, Makers(""), taken(found)))
                self._events.emit(MemoryStored(agent, name, len(content), folder is not None))
        except BaseException:
            if made:  # and refused at the end, or the store is full
                place.take_back(root, made)
            raise
        return f"memory/{NOTES}/{made}"

    def _next(self, root: str) -> str:
        """A name that no note has had, and no file has."""
        keep_fields(self._store, self, "_last")
        self._last = max(self._last, self._events.last)
        while True:
            self._last += 1
            name = f"{self._last:012d}"
            if not os.path.lexists(f"{root}/{NOTES}/{name}.md"):
                return name

    def read(self, request: bytes) -> Note:
        """The note that a request asks to keep. Raises EINVAL."""
        try:
            text = request.decode()
        except UnicodeDecodeError as bad:
            raise KernelError(errno.EINVAL, f"not UTF-8 text at byte {bad.start}") from None
        if "\0" in text:
            raise KernelError(errno.EINVAL, "a note is text, and this has a NUL in it")
        return Note.parse(text, self._clock.now())

    async def recall(self, principal: Principal, agent: str, request: bytes) -> list[Hit]:
        """Find what fits a query best. Raises EACCES, EINVAL (nothing is asked for), EMSGSIZE."""
        query = MemoryQuery.parse(request)
        self._gate.actor(principal)
        self.check(principal, agent)
        self._gate.require_room(principal)
        number, root = self._follow(agent), os.fspath(self._agents.memory_dir(agent))
        await self._read_whole(number)
        now = self._clock.now()
        found = await self._in_thread(lambda: self._searcher.search(number, root, query, now))
        model = self._settings.of(MemorySettings).embeddings
        if model and query.phrases and principal.pid is not None:
            asked = _Asked(principal.pid, number, root, query, model)
            with suppress(KernelError):  # its words are found all the same
                found = together(found, await self._meant(asked, now))
        found = found[: query.limit]
        with self._gate.enter(principal):
            here = self._agents.find(agent)
            if here is None or here.id != number:
                raise KernelError(errno.ESTALE, f"the agent {agent} was removed")
            self.check(principal, agent)
            self._events.emit(MemoryRecalled(agent, len(found)))
        return found

    async def _meant(self, asked: _Asked, now: float) -> list[Hit]:
        """What is like a query in its meaning. Raises KernelError: no vectors could be had."""
        ends = trio.current_time() + PATIENCE
        vector: Vector | None = None
        while vector is None or trio.current_time() < ends:
            more = await self._in_thread(
                lambda: self._searcher.without_vector(
                    asked.agent, asked.root, asked.model, TOGETHER
                )
            )
            if vector is not None and not more:
                break
            texts = [text for _, text in more]
            own = [] if vector is not None else [asked.query.text]
            try:
                with trio.fail_after(PATIENCE):
                    given = await self._embed(asked.pid, asked.model, [*own, *texts])
            except (KernelError, trio.TooSlowError) as failure:
                log.info("recall by words alone: %s gave no vectors: %s", asked.model, failure)
                raise KernelError(errno.EREMOTEIO, f"no vectors: {failure}") from None
            made = [*map(Vector, given)]
            vector = vector or made[0]
            kept = [*zip((row for row, _ in more), made[len(own) :], strict=True)]
            await self._in_thread(partial(self._searcher.put_vectors, asked.model, kept))
        close = partial(
            self._searcher.meant, asked.agent, asked.root, asked.query, now, asked.model, vector
        )
        return await self._in_thread(close)

    # -- notes whose time is over ------------------------------------------------------------------

    def tidy(self) -> None:
        """Remove notes that said that they are good until now."""
        expired, self._expired = self._expired, []
        self._told.set()  # the next ones are looked for
        by_number = {agent.id: agent for agent in map(self._agents.get, self._agents)}
        for number, path, stamp in expired:
            agent, name = by_number.get(number), os.fsdecode(path).rpartition("/")[2]
            if agent is None:
                continue
            with suppress(OSError), self._store.transaction():
                root = os.fspath(self._agents.memory_dir(agent.name))
                gone = place.remove(root, name, stamp)
                if gone is not None:
                    counted = self._disk.memory(agent.name)
                    counted.removed(Makers(""), taken(gone), is_open=False)
                    self._events.emit(MemoryExpired(agent.name, name.removesuffix(".md")))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A query for what is meant: process `pid` pays for the vectors of `model`; the agent, by its
    number, has its memory at `root`."""

    pid: int
    agent: int
    root: str
    query: MemoryQuery
    model: str


async def _cancel_at(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
