"""What is read of a run as it happens: its events, and its end."""

from __future__ import annotations

import errno
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import trio

from agentfs.base.errors import KernelError
from agentfs.store.event_log import Record
from agentfs.vfs.files import Basics, Stream
from agentfs.vfs.node import Stat, StreamHandle
from agentfs.workflow.events import (
    NodeChanged,
    RunEnded,
    RunRemoved,
    RunSignalled,
    RunStarted,
    RunStateChanged,
)
from agentfs.workflow.model import Run

if TYPE_CHECKING:
    from agentfs.kernel import Kernel
    from agentfs.model.principal import Principal

__all__ = ["EventsFile", "RunEndStream", "RunReaders", "end_of"]

PAGE = 128
"""Events that are fetched at once."""


class RunReaders:
    """Who reads a run as it happens, by its id. They are woken when something becomes of it."""

    def __init__(self, kernel: Kernel) -> None:
        self._of: defaultdict[int, set[StreamHandle]] = defaultdict(set)
        kernel.events.listen(
            self._heard,
            RunStarted,
            RunStateChanged,
            RunEnded,
            RunRemoved,
            NodeChanged,
            RunSignalled,
        )

    def __len__(self) -> int:
        return len(self._of)

    def _heard(self, record: Record) -> None:
        run: int = record.event.run  # type: ignore[attr-defined]  # each of them has it
        if run in self._of:
            for reader in tuple(self._of[run]):
                reader.wake()

    def join(self, run: int, reader: StreamHandle) -> None:
        self._of[run].add(reader)

    def leave(self, run: int, reader: StreamHandle) -> None:
        self._of[run].discard(reader)
        if not self._of[run]:
            del self._of[run]


def end_of(kernel: Kernel, run: Run) -> bytes:
    """What `wait` gives of a run that has ended: state, output and error as one JSON object."""
    output = kernel.runs.output_of(run.id)
    head = json.dumps({"state": run.state.value, "error": run.error or None}, ensure_ascii=False)
    return f'{head[:-1]}, "output": {output or "null"}}}\n'.encode()


class RunEndStream(StreamHandle):
    """`/proc/runs/ID/wait`: how the run ended, once it has, then the end of the file."""

    seekable = True

    def __init__(self, kernel: Kernel, readers: RunReaders, run: int, principal: Principal) -> None:
        super().__init__()
        self._kernel = kernel
        self._readers = readers
        self._run = run
        self._principal = principal
        self._content: bytes | None = None
        self._offset = 0  # of the read that is served
        self._waits: list[Callable[[], None]] = []
        readers.join(run, self)

    def parked(self) -> None:
        begin = self._kernel.why.waits.begin
        self._waits.append(begin(self._principal.pid, "end", f"of run {self._run}"))

    def unparked(self) -> None:
        self._waits.pop()()

    def ready(self) -> bool:
        if self._content is not None:
            return True
        run = self._kernel.runs.find(self._run)
        return run is None or run.state.final

    def begin_read(self, offset: int, who: Callable[[], Hashable]) -> None:
        self._offset = offset

    def try_read(self, size: int) -> bytes | None:
        if self._content is None:
            run = self._kernel.runs.find(self._run)
            if run is None:
                raise KernelError(errno.ESTALE, f"run {self._run} is forgotten")
            if not run.state.final:
                return None
            self._content = end_of(self._kernel, run)
        chunk = self._content[self._offset : self._offset + size]
        self._offset += len(chunk)
        return chunk

    def release(self) -> None:
        self._readers.leave(self._run, self)


class EventsFile(Stream):
    """`/proc/runs/ID/events`: it has a size, so that tail(1) begins where it should."""

    timeout = 0.0

    def __init__(self, basics: Basics, kernel: Kernel, readers: RunReaders, run: int) -> None:
        super().__init__(basics, lambda caller: RunEventStream(kernel, readers, run))
        self._runs = kernel.runs
        self._run = run

    def stat(self) -> Stat:
        found = super().stat()
        found.size = self._runs.events_size(self._run)
        return found


class RunEventStream(StreamHandle):
    """All events of a run from the first on, the new ones as they come, and the end of the file
    after the one that ends the run. Each has its place in the file, to which a reader may go."""

    seekable = True

    def __init__(self, kernel: Kernel, readers: RunReaders, run: int) -> None:
        super().__init__()
        self._runs = kernel.runs
        self._readers = readers
        self._run = run
        self._pages = [(0, 0)]  # where each page begins, and the number of the event before it
        self._last = 0  # the number of the newest event that was fetched
        self._bytes = b""  # of what was fetched, from `_offset` on
        self._offset = 0
        readers.join(run, self)

    async def begin(self) -> bytes:
        """Find the pages, so that a read anywhere is as fast as the first."""
        while self._fetch():
            self._offset += len(self._bytes)
            self._bytes = b""
            await trio.lowlevel.cancel_shielded_checkpoint()
        self._go(0)
        return b""

    def _fetch(self) -> bool:
        """Have the next page, if nothing is left. Whether there is something now."""
        if not self._bytes:
            page = self._runs.events_of(self._run, self._last, PAGE)
            if page:
                if self._offset > self._pages[-1][0]:
                    self._pages.append((self._offset, self._last))
                self._bytes = "".join(line for _, line in page).encode()
                self._last = page[-1][0]
        return bool(self._bytes)

    def _go(self, offset: int) -> None:
        """Go on at another place: in the page where it is, or at the end."""
        begin, last = self._pages[bisect_right(self._pages, offset, key=lambda page: page[0]) - 1]
        self._offset, self._last, self._bytes = begin, last, b""
        while self._offset < offset and self._fetch():
            self._skip(offset - self._offset)

    def _skip(self, count: int) -> bytes:
        """Take so many of the bytes that were fetched, if there are."""
        taken, self._bytes = self._bytes[:count], self._bytes[count:]
        self._offset += len(taken)
        return taken

    def begin_read(self, offset: int, who: Callable[[], Hashable]) -> None:
        if offset != self._offset:
            self._go(offset)

    def try_read(self, size: int) -> bytes | None:
        if self._fetch():
            return self._skip(size)
        run = self._runs.find(self._run)
        return b"" if run is None or run.state.final else None

    def ready(self) -> bool:
        return self.try_read(0) is not None

    def release(self) -> None:
        self._readers.leave(self._run, self)
