"""What is read of a thing as it happens: who reads, and the stream that waits for its end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable

from agentfs.base.errors import KernelError
from agentfs.store.event import Event
from agentfs.store.event_log import EventLog, Record
from agentfs.vfs.node import StreamHandle

__all__ = ["EndStream", "Readers"]


class Readers:
    """Who reads of a thing as it happens, by the number of the thing, or its name, which is in the
    field `which` of each of these kinds of events. They are woken when something becomes of it."""

    def __init__(self, events: EventLog, which: str, *kinds: type[Event]) -> None:
        self._which = which
        self._of: defaultdict[int | str, set[StreamHandle]] = defaultdict(set)
        events.listen(self._heard, *kinds)

    def __len__(self) -> int:
        return len(self._of)

    def _heard(self, record: Record) -> None:
        number: int | str = getattr(record.event, self._which)
        if number in self._of:
            for reader in tuple(self._of[number]):
                reader.wake()

    def join(self, number: int | str, reader: StreamHandle) -> None:
        self._of[number].add(reader)

    def leave(self, number: int | str, reader: StreamHandle) -> None:
        self._of[number].discard(reader)
        if not self._of[number]:
            del self._of[number]


class EndStream(StreamHandle):
    """How a thing has ended, once it has, then the end of the file. `end()` gives the text, None
    before that; `begin_wait()` is called when a read begins to wait, and what it returns when it
    waits no more."""

    seekable = True

    def __init__(
        self,
        readers: Readers,
        number: int | str,
        end: Callable[[], bytes | None],
        begin_wait: Callable[[], Callable[[], None]],
    ) -> None:
        super().__init__()
        self._readers = readers
        self._number = number
        self._end = end
        self._begin_wait = begin_wait
        self._content: bytes | None = None
        self._offset = 0  # of the read that is served
        self._waits: list[Callable[[], None]] = []
        readers.join(number, self)

    def parked(self) -> None:
        self._waits.append(self._begin_wait())

    def unparked(self) -> None:
        self._waits.pop()()

    def ready(self) -> bool:
        try:
            return self._whole() is not None
        except KernelError:
            return True  # a read would say what is wrong

    def _whole(self) -> bytes | None:
        if self._content is None:
            self._content = self._end()
        return self._content

    def begin_read(self, offset: int, who: Callable[[], Hashable]) -> None:
        self._offset = offset

    def try_read(self, size: int) -> bytes | None:
        whole = self._whole()
        if whole is None:
            return None
        chunk = whole[self._offset : self._offset + size]
        self._offset += len(chunk)
        return chunk

    def release(self) -> None:
        self._readers.leave(self._number, self)
