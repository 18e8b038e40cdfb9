"""Topics: a subscriber gets every record that is published from then on, or from a number on.

A record is in the store before the call that publishes it returns. The newest records of each topic
are kept there, within bounds. A reader is no more than a number, so a slow one costs nothing and
delays nobody. In memory a topic is its owner, its numbers, and the sizes of its records.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agentfs.base.clock import change_time
from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.quota.made import Made
from agentfs.rights.gate import Gate
from agentfs.rights.ownership import Access, Ownership
from agentfs.shared.events import TopicChanged, TopicCreated, TopicRemoved
from agentfs.shared.registry import Registry
from agentfs.shared.settings import TopicSettings
from agentfs.store.ground import Ground
from agentfs.store.records import keep_fields

__all__ = ["Publication", "Topic", "Topics"]


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
        """Its record in the store, beside what was published."""
        return self.ownership.record() | {"changed": self.changed}

    @classmethod
    def read(cls, name: str, record: dict[str, Any]) -> Topic:
        return cls(name, Ownership.from_record(record), record["changed"])

    def wake(self) -> None:
        """Tell its readers, and nobody else, that there is something to see."""
        for reader in tuple(self.readers):
            reader()


class Topics(Registry[Topic]):
    """All topics by name, and the system calls on them. Loads itself from the store."""

    KIND = "topic"
    FOLDER = "/dev/topics"
    CHANGED = TopicChanged

    def __init__(
        self, ground: Ground, gate: Gate, table: ProcessTable, agents: Agents, made: Made
    ) -> None:
        super().__init__(ground, gate, table, agents, made, Topic.read)
        self._listeners: list[Callable[[str], object]] = []
        self._load_publications()

    def _load_publications(self) -> None:
        for name, seq, record, size in self._store.publications():
            topic = self._by_name[name]
            if not topic.sizes:
                topic.first = seq
            topic.last = seq
            topic.sizes.append(size)
            topic.bytes += size
            topic.changed = max(topic.changed, int(record["time"] * 1e9))

    # -- making and removing ---------------------------------------------------------------------

    def create(self, principal: Principal, name: str, mode: int) -> Topic:
        """Make a topic with exactly these mode bits. EINVAL, EEXIST, EACCES, ENOSPC."""
        with self._gate.enter(principal) as actor:
            most = self._settings.of(TopicSettings).max_topics
            ownership = self._check_new(principal, actor, name, mode, most)
            topic = Topic(name, ownership, int(self._clock.now() * 1e9))
            self._add(topic)
            self._events.emit(TopicCreated(name, ownership.owner))
            return topic

    def remove(self, principal: Principal, name: str) -> None:
        """Remove a topic and what it keeps. Its readers are told how much they missed, and that
        this is the end. ENOENT; EPERM unless the owner agent or the operator asks."""
        with self._gate.enter(principal):
            topic = self.get(name)
            topic.ownership.require_owner(principal, f"remove {topic}")
            self._discard(topic)
            self._store.delete_publications(name, topic.last)
            self._store.on_commit(lambda: self._end(topic))
            self._events.emit(TopicRemoved(name))

    @staticmethod
    def _end(topic: Topic) -> None:
        topic.removed = True
        topic.first = topic.last + 1
        topic.wake()

    # -- publishing and reading ------------------------------------------------------------------

    def listen(self, listener: Callable[[str], object]) -> None:
        """Call `listener(name)` after each publication in a topic, from now on."""
        self._listeners.append(listener)

    def check_publish(self, principal: Principal, topic: Topic) -> None:
        """Raise what `publish` would of this principal: EACCES, ESTALE."""
        actor = self._gate.actor(principal)
        self._admit(principal, actor, topic)
        self._gate.count_message(actor, 0)

    def publish(self, principal: Principal, topic: Topic, data: bytes) -> int:
        """Publish a record; its number. EACCES, ESTALE, EINVAL (empty), EMSGSIZE, ENOSPC (the audit
        is full, and the operator chose to stop then).

        It is no event of the kernel: see `listen`. Records beyond the bounds of the topic are
        dropped, the oldest first.
        """
        with self._gate.enter(principal) as actor:
            self._admit(principal, actor, topic, data)
            limits = self._settings.of(TopicSettings)
            if not data:
                raise KernelError(errno.EINVAL, "an empty record")
            if len(data) > limits.max_record:
                raise KernelError(
                    errno.EMSGSIZE,
                    f"the record has {len(data)} bytes, {limits.max_record} are allowed",
                    rule="topics.max_record",
                )
            self._gate.require_room(principal)
            self._gate.count_message(actor)
            self._append(topic, principal.agent, data)
            self._trim(topic, limits.max_records, limits.max_bytes)
            return topic.last

    def _append(self, topic: Topic, sender: str, data: bytes) -> None:
        now = self._clock.now()
        keep_fields(self._store, topic, "first", "last", "sizes", "bytes", "changed")
        topic.sizes = topic.sizes[:]
        topic.last += 1
        topic.sizes.append(len(data))
        topic.bytes += len(data)
        topic.changed = change_time(now, topic.changed)
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

    def _published(self, topic: Topic) -> None:
        topic.wake()
        for call in self._listeners:
            call(topic.name)

    def check_subscribe(self, principal: Principal, topic: Topic) -> None:
        """Raise EACCES unless `principal` may read the topic."""
        topic.ownership.require(principal, Access.READ, str(topic))

    def read(self, topic: Topic, seq: int) -> Publication:
        """Record `seq`, one of those between `first` and `last`."""
        record, data = self._store.publication(topic.name, seq)
        return Publication(seq, record["time"], record["from"], data)
