"""Topics: who subscribes gets every record that is published from then on, or from a number on.

What was published is in the store before the call returns, and is kept there, the newest of each
topic, within bounds: a reader is no more than a number, so a slow one costs nothing and delays
nobody. In memory a topic is its owner, its numbers, and the sizes of its records.
"""

from __future__ import annotations

import errno
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from agentfs.clock import Clock
from agentfs.config import Settings
from agentfs.errors import KernelError
from agentfs.events import EventLog, TopicChanged, TopicCreated, TopicRemoved
from agentfs.process.agents import INIT_NAME, Agents
from agentfs.process.model import Process
from agentfs.process.table import ProcessTable
from agentfs.security.ownership import Access, Ownership
from agentfs.security.policy import Action
from agentfs.security.principal import Principal
from agentfs.storage.store import Store
from agentfs.syscall import Gate

__all__ = ["Publication", "Topic", "Topics"]

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
KIND = "topic"
"""Of its record in the store."""


@dataclass(frozen=True, slots=True)
class Publication:
    """One record: its number, when it was published (wall clock, seconds), by whom, and what."""

    seq: int
    time: float
    sender: str
    data: bytes


@dataclass(slots=True, eq=False)
class Topic:
    """One topic. Numbers `first` to `last` are kept; with none kept `first` is `last + 1`.

    `changed` (ns) is when something was published or the mode changed. `removed`: nothing comes any
    more, not even if there is a topic of this name again. Only `Topics` changes its fields.
    """

    name: str
    ownership: Ownership
    changed: int
    first: int = 1
    last: int = 0
    sizes: array[int] = field(default_factory=lambda: array("I"))
    bytes: int = 0
    removed: bool = False
    readers: set[Callable[[], object]] = field(default_factory=set)

    def __str__(self) -> str:
        return f"topic {self.name}"

    def record(self) -> dict[str, Any]:
        """What the store keeps of it, beside its records."""
        return self.ownership.record() | {"changed": self.changed}

    def wake(self) -> None:
        """Tell its readers, and nobody else, that there is something to see."""
        for reader in tuple(self.readers):
            reader()


class Topics:
    """All topics by name, and the system calls on them. Loads itself from the store.

    `on_published` calls get the name of a topic after each publication in it.
    """

    def __init__(
        self,
        gate: Gate,
        table: ProcessTable,
        agents: Agents,
        store: Store,
        events: EventLog,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._gate = gate
        self._table = table
        self._agents = agents
        self._store = store
        self._events = events
        self._clock = clock
        self._settings = settings
        self.on_published: list[Callable[[str], object]] = []
        self.changed = int(clock.now() * 1e9)
        self._topics: dict[str, Topic] = {}
        self._load()
        agents.on_remove.append(self._agent_removed)

    def _load(self) -> None:
        for name, record in self._store.records(KIND):
            self._topics[name] = Topic(name, Ownership.from_record(record), record["changed"])
        for name, seq, record, size in self._store.publications():
            topic = self._topics[name]
            if not topic.sizes:
                topic.first = seq
            topic.last = seq
            topic.sizes.append(size)
            topic.bytes += size
            topic.changed = max(topic.changed, int(record["time"] * 1e9))

    # -- look-ups --------------------------------------------------------------------------------

    def find(self, name: str) -> Topic | None:
        return self._topics.get(name)

    def get(self, name: str) -> Topic:
        """Raises ENOENT."""
        topic = self._topics.get(name)
        if topic is None:
            raise KernelError(errno.ENOENT, f"there is no topic {name!r}")
        return topic

    def __iter__(self) -> Iterator[str]:
        """The names, sorted."""
        return iter(sorted(self._topics))

    def __len__(self) -> int:
        return len(self._topics)

    # -- making and removing ---------------------------------------------------------------------

    def create(self, principal: Principal, name: str, mode: int) -> Topic:
        """Make a topic with exactly these mode bits. EINVAL, EEXIST, EACCES, ENOSPC."""
        with self._gate.enter(principal, Action.SEND) as actor:
            if not NAME.fullmatch(name) or name in (".", ".."):
                raise KernelError(
                    errno.EINVAL,
                    f"{name!r} is no name for a topic: 1 to 64 of A-Z a-z 0-9 . _ - were expected",
                    rule="name",
                )
            if name in self._topics:
                raise KernelError(errno.EEXIST, f"there is a topic {name!r} already")
            ownership = Ownership.of(principal, mode)
            ownership.require_parent(actor, self._table.find, f"topic {name}")
            limit = self._settings.now.topics.max_topics
            if len(self._topics) >= limit:
                raise KernelError(
                    errno.ENOSPC, f"there are {limit} topics already", rule="topics.max_topics"
                )
            topic = Topic(name, ownership, int(self._clock.now() * 1e9))
            self._store.on_rollback(lambda: self._topics.pop(name))
            self._topics[name] = topic
            self._touch()
            self._store.put_record(KIND, name, topic.record())
            self._events.emit(TopicCreated(name, ownership.owner))
            return topic

    def remove(self, principal: Principal, name: str) -> None:
        """Remove a topic and what it keeps. Its readers are told how much they missed, and that
        this is the end. ENOENT; EPERM unless the owner agent or the operator asks."""
        with self._gate.enter(principal):
            topic = self.get(name)
            topic.ownership.require_owner(principal, f"remove {topic}")
            self._store.on_rollback(lambda: self._topics.__setitem__(name, topic))
            del self._topics[name]
            self._touch()
            self._store.delete_record(KIND, name)
            self._store.delete_publications(name, topic.last)
            self._store.on_commit(lambda: self._end(topic))
            self._events.emit(TopicRemoved(name))

    @staticmethod
    def _end(topic: Topic) -> None:
        topic.removed = True
        topic.first = topic.last + 1
        topic.wake()

    def chmod(self, principal: Principal, name: str, mode: int) -> None:
        """Change the mode bits. ENOENT; EPERM unless the owner agent or the operator asks."""
        with self._gate.enter(principal):
            topic = self.get(name)
            self._own(topic, topic.ownership.with_mode(principal, mode, str(topic)))

    def _agent_removed(self, name: str) -> None:
        """Its topics outlive an agent: init has them then, and not the next one of that name."""
        init = self._agents.get(INIT_NAME)
        for topic in self._topics.values():
            if topic.ownership.owner == name:
                owned = replace(topic.ownership, owner=INIT_NAME, uid=init.uid, gid=init.gid)
                self._own(topic, owned)

    def _own(self, topic: Topic, ownership: Ownership) -> None:
        before = topic.ownership, topic.changed
        self._store.on_rollback(lambda: self._set(topic, *before))
        self._set(topic, ownership, max(int(self._clock.now() * 1e9), topic.changed + 1))
        self._store.put_record(KIND, topic.name, topic.record())
        self._events.emit(TopicChanged(topic.name))

    @staticmethod
    def _set(topic: Topic, ownership: Ownership, changed: int) -> None:
        topic.ownership, topic.changed = ownership, changed

    def _touch(self) -> None:
        self.changed = max(int(self._clock.now() * 1e9), self.changed + 1)

    # -- publishing and reading ------------------------------------------------------------------

    def check_publish(self, principal: Principal, topic: Topic) -> None:
        """Raise what `publish` would of this principal: EACCES, ESTALE."""
        actor = self._gate.actor(principal)
        self._gate.policy.require(actor, Action.SEND)
        self._admit(principal, actor, topic)

    def _admit(self, principal: Principal, actor: Process, topic: Topic) -> None:
        if topic.removed:
            raise KernelError(errno.ESTALE, f"{topic} was removed")
        topic.ownership.require(principal, Access.SEND, str(topic))
        topic.ownership.require_parent(actor, self._table.find, str(topic))

    def publish(self, principal: Principal, topic: Topic, data: bytes) -> int:
        """Publish a record; its number. EACCES, ESTALE, EINVAL (empty), EMSGSIZE.

        It is no event of the kernel, but `on_published` is called. What is kept beyond the bounds
        of the topic falls out, the oldest first.
        """
        with self._gate.enter(principal, Action.SEND) as actor:
            self._admit(principal, actor, topic)
            limits = self._settings.now.topics
            if not data:
                raise KernelError(errno.EINVAL, "an empty record")
            if len(data) > limits.max_record:
                raise KernelError(
                    errno.EMSGSIZE,
                    f"the record has {len(data)} bytes, {limits.max_record} are allowed",
                    rule="topics.max_record",
                )
            self._append(topic, principal.name, data)
            self._trim(topic, limits.max_records, limits.max_bytes)
            return topic.last

    def _append(self, topic: Topic, sender: str, data: bytes) -> None:
        now = self._clock.now()
        before = topic.first, topic.last, topic.sizes[:], topic.bytes, topic.changed
        self._store.on_rollback(lambda: self._restore(topic, *before))
        topic.last += 1
        topic.sizes.append(len(data))
        topic.bytes += len(data)
        topic.changed = max(int(now * 1e9), topic.changed + 1)
        self._store.put_publication(topic.name, topic.last, {"time": now, "from": sender}, data)
        self._store.on_commit(lambda: self._published(topic))

    def _trim(self, topic: Topic, most: int, most_bytes: int) -> None:
        """Let the oldest fall out, but never the newest: it says how far the numbers got."""
        over = 0
        while topic.last - topic.first - over + 1 > most or (
            topic.bytes > most_bytes and topic.first + over < topic.last
        ):
            topic.bytes -= topic.sizes[over]
            over += 1
        if over:
            topic.first += over
            del topic.sizes[:over]
            self._store.delete_publications(topic.name, topic.first - 1)

    @staticmethod
    def _restore(
        topic: Topic, first: int, last: int, sizes: array[int], size: int, changed: int
    ) -> None:
        topic.first, topic.last, topic.sizes = first, last, sizes
        topic.bytes, topic.changed = size, changed

    def _published(self, topic: Topic) -> None:
        topic.wake()
        for call in self.on_published:
            call(topic.name)

    def check_subscribe(self, principal: Principal, topic: Topic) -> None:
        """Raise EACCES unless `principal` may read the topic."""
        topic.ownership.require(principal, Access.READ, str(topic))

    def read(self, topic: Topic, seq: int) -> Publication:
        """Record `seq`, one of those between `first` and `last`."""
        record, data = self._store.publication(topic.name, seq)
        return Publication(seq, record["time"], record["from"], data)
