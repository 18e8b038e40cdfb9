"""/dev/topics: a file for each topic. Writing to it publishes, reading it subscribes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.providers.streams import RecordStream, lost, published, since
from agentfs.providers.system_table import SystemTable
from agentfs.shared.events import TopicChanged, TopicCreated, TopicRemoved
from agentfs.shared.topics import Publication, Topic
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.node import Attributes, File, Handle, Node, Stat, Time, regular
from agentfs.vfs.on import on

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["TopicFile", "TopicsDirectory", "tell_of_publications"]


class TopicFile(File):
    """/dev/topics/NAME."""

    kind = "stream"
    takes = fresh = True

    def __init__(self, kernel: Kernel, topic: Topic) -> None:
        self.key = self.at(topic.name)
        self._kernel = kernel
        self._topic = topic

    @staticmethod
    def at(name: str) -> Hashable:
        """The key of a topic's file."""
        return ("topics", name)

    def stat(self) -> Stat:
        topic = self._topic
        who, time = topic.ownership, topic.changed
        return Stat(regular(who.mode), who.uid, who.gid, 0, time, 1, time, time)

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        # `>` truncates what is empty.
        super().chattr(caller, replace(wanted, mode=None, size=None))
        if wanted.mode is not None:
            self._kernel.topics.chmod(caller.principal, self._topic.name, wanted.mode)

    def open(self, flags: int, caller: Caller) -> Handle:
        topics, principal = self._kernel.topics, caller.principal
        if flags & os.O_ACCMODE == os.O_WRONLY:
            topics.check_publish(principal, self._topic)
        else:
            topics.check_subscribe(principal, self._topic)
        return self.handle(flags, principal)

    def handle(self, flags: int, principal: Principal) -> Handle:
        """Open it with these flags, for a caller that may have that."""
        if flags & os.O_ACCMODE == os.O_WRONLY:
            return Publisher(self._kernel, self._topic, principal)
        return Subscription(self._kernel, self._topic, principal)


class Publisher(Handle):
    """Each write is one record; its last newline is not part of it."""

    seekable = False

    def __init__(self, kernel: Kernel, topic: Topic, principal: Principal) -> None:
        self._kernel = kernel
        self._topic = topic
        self._principal = principal

    async def write(self, offset: int, data: bytes) -> int:
        self._kernel.topics.publish(self._principal, self._topic, data.removesuffix(b"\n"))
        return len(data)

    async def fsync(self) -> None:
        await self._kernel.store.sync()


class Subscription(RecordStream):
    """The records published after it was opened, or after the number of a command `since SEQ`.

    A topic that is removed ends it, after a record of how many were not read.
    """

    def __init__(self, kernel: Kernel, topic: Topic, principal: Principal) -> None:
        super().__init__()
        self._kernel = kernel
        self._topic = topic
        self._pid = principal.pid
        self._waited: list[Callable[[], None]] = []
        self._next = topic.last + 1
        topic.readers.add(self.wake)

    def next_record(self) -> bytes | None:
        topic = self._topic
        if self._next < topic.first:
            count, self._next = topic.first - self._next, topic.first
            return lost(count, topic.first - 1, self._kernel.clock.now())
        if self._next > topic.last:
            return None
        publication = self._kernel.topics.read(topic, self._next)
        self._next += 1
        return _line(publication)

    def ended(self) -> bool:
        return self._topic.removed

    def parked(self) -> None:
        self._waited.append(self._kernel.why.waits.begin(self._pid, "topic", self._topic.name))

    def unparked(self) -> None:
        self._waited.pop()()

    def ready(self) -> bool:
        return bool(self._rest) or self._next <= self._topic.last or self._topic.removed

    def try_write(self, data: bytes) -> int:
        """`since SEQ`: go on after that number. EINVAL; ERANGE if there is no such number yet."""
        number = since(data)
        last = self._topic.last
        if number > last:
            raise KernelError(errno.ERANGE, f"the last record of {self._topic} has number {last}")
        self._next = number + 1
        self._go_on()
        self.wake()
        return len(data)

    def release(self) -> None:
        self._topic.readers.discard(self.wake)


def _line(publication: Publication) -> bytes:
    """The record as readers see it."""
    said = {"from": publication.sender}
    return published(publication.seq, publication.time, publication.data, **said)


class TopicsDirectory(SystemTable):
    """/dev/topics: a file for each topic. Creating it makes the topic (`touch NAME`, or the first
    `>`; names are 1 to 64 of `A-Z a-z 0-9 . _ -`), `rm` by its owner or the operator removes it,
    and its mode says who may read (subscribe) and write (publish), asked of the agent and not of
    its uid. Each write(2) is one record, without its last newline, of at most
    `topics.max_record` bytes (64 KiB). Reading gives every record that is published from the open
    on, as one JSON object a line: seq (per topic, from 1, without gaps), time (RFC 3339), from (the
    agent), data (or `data_base64`, if it is no UTF-8). Opened for both (O_RDWR) it takes the
    command `since SEQ` and gives every record after that number. The newest `topics.max_records`
    (1000) of at most `topics.max_bytes` (1 MiB) are kept, also over a restart; what fell out before
    it was read is announced by a record of type `lost` with its `count`; its seq is that of the
    last one lost. A task publishes only to topics of its parent. When a topic is removed, its
    readers come to the end of the file. **EINVAL**: a wrong name, an empty record, or no such
    command. **EMSGSIZE**: the record is too long. **ENOSPC**: `topics.max_topics`. **ERANGE**:
    `since` a number that there is not yet. **ESTALE**: writing to a topic that was removed.
    **EACCES**: the mode, or the rule for tasks. **EPERM**: chmod or rm by another agent."""

    PATH = "/dev/topics"
    WHAT = "What is published, for whoever reads: a file for each topic."
    mode = 0o1777
    key = ("topics",)

    def changed(self) -> Time:
        return self.kernel.topics.changed

    def find(self, name: str) -> Node | None:
        topic = self.kernel.topics.find(name)
        return None if topic is None else TopicFile(self.kernel, topic)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.topics:
            yield name, TopicFile(self.kernel, self.kernel.topics.get(name))

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        topics = self.kernel.topics
        found = topics.find(name)
        if found is not None and not flags & os.O_EXCL:
            node = TopicFile(self.kernel, found)
            return node, node.open(flags, caller)
        topic = topics.create(caller.principal, name, caller.unmasked(mode))
        node = TopicFile(self.kernel, topic)
        return node, node.handle(flags, caller.principal)

    def unlink(self, name: str, caller: Caller) -> None:
        self.kernel.topics.remove(caller.principal, name)

    @on(TopicCreated)
    def _created(self, event: TopicCreated) -> Iterator[Change]:
        topic = self.kernel.topics.find(event.name)
        if topic is not None:
            yield Created(self.key, event.name, TopicFile(self.kernel, topic))

    @on(TopicRemoved)
    def _removed(self, event: TopicRemoved) -> Iterator[Change]:
        yield Removed(self.key, event.name, TopicFile.at(event.name))

    @on(TopicChanged)
    def _changed(self, event: TopicChanged) -> Iterator[Change]:
        yield Modified(TopicFile.at(event.name))


def tell_of_publications(kernel: Kernel, notify: Callable[[Change], object]) -> None:
    """Call `notify` with the change that each publication is to the file of its topic: it is no
    event of the kernel, which would fill the event log."""
    kernel.topics.listen(lambda name: notify(Modified(TopicFile.at(name))))
