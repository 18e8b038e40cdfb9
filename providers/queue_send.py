"""The file `send` of a queue: every write is one message, and waits while the queue is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Hashable

from agentfs.base.errors import KernelError
from agentfs.providers.queue_folders import QueueRoom
from agentfs.vfs.caller import Caller
from agentfs.vfs.files import Basics, Stream
from agentfs.vfs.handles import WHOLE_WRITE
from agentfs.vfs.node import Handle, StreamHandle, is_writing

__all__ = ["SendFile", "Sending"]


class SendFile(Stream):
    """/dev/queues/NAME/send."""

    kind = "control"
    takes = False

    def __init__(self, room: QueueRoom, key: Hashable, mode: int) -> None:
        super().__init__(
            Basics(key, mode, room.owner), lambda caller: Sending(room, caller), apart=True
        )
        self._room = room

    def open(self, flags: int, caller: Caller) -> Handle:
        if not is_writing(flags):
            return Handle()
        self._room.kernel.queues.check(caller.principal, self._room.queue)
        return Sending(self._room, caller, wait=not flags & os.O_NONBLOCK)


class Sending(StreamHandle):
    """An open `send`. Writes that find no room wait in line, those with O_NONBLOCK get ENOSPC."""

    def __init__(self, room: QueueRoom, caller: Caller, *, wait: bool = True) -> None:
        super().__init__()
        self._room = room
        self._queue = room.queue
        self._queues = room.kernel.queues
        self._principal = caller.principal
        self._wait = wait
        self._parked = 0  # writes that wait
        self._waited: Callable[[], None] = lambda: None  # ends what `parked` began
        self._called = False
        self._unsubscribe: Callable[[], None] | None = None

    def try_read(self, size: int) -> bytes | None:
        return b""

    def ready(self) -> bool:
        return True

    def try_write(self, data: bytes) -> int | None:
        limit = min(self._room.limit(), WHOLE_WRITE)
        if len(data) > limit:
            raise KernelError(errno.EMSGSIZE, f"at most {limit} bytes in one write")
        draft = self._room.parse(data)
        self._queues.check(self._principal, self._queue, len(data))
        line = self._queues.line(self._queue)
        others_first = self._wait and not self._called and len(line)
        if others_first or not self._queues.has_room(self._queue):
            if not self._wait:
                raise self._queues.full(self._queue)
            self._called = False
            line.join(self._call)
            return None
        self._queues.send(self._principal, self._queue, draft)
        return len(data)

    def writable(self) -> bool:
        if self._unsubscribe is None:
            self._unsubscribe = self._queues.on_room(self._queue, self.wake)
        return self._queue.removed or self._queues.has_room(self._queue)

    def _call(self) -> None:
        self._called = True
        self.wake()

    def parked(self) -> None:
        self._parked += 1
        if self._parked == 1:
            begin, detail = self._room.kernel.why.waits.begin, f"{self._queue.name} is full"
            self._waited = begin(self._principal.pid, "queue", detail)

    def unparked(self) -> None:
        self._parked -= 1
        if not self._parked:
            self._waited()
        self._called = False
        line = self._queues.line(self._queue)
        line.leave(self._call)
        if self._parked:
            line.join(self._call)
        self._queues.hand_on(self._queue)

    async def fsync(self) -> None:
        await self._room.kernel.store.sync()

    def release(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
