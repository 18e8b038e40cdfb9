"""What is read of a run as it happens: its events, and its end."""

from __future__ import annotations

import errno
import json
from bisect import bisect_right
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import trio

from agentfs.base.errors import KernelError
from agentfs.providers.ends import EndStream, Readers
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

if TYPE_CHECKING:
    from agentfs.kernel import Kernel
    from agentfs.model.principal import Principal

__all__ = ["EventsFile", "run_end", "run_readers"]

PAGE = 128
"""Events that are fetched at once."""


def run_readers(kernel: Kernel) -> Readers:
    """Who reads a run as it happens, by its id."""
    return Readers(
        kernel.events,
        "run",
        RunStarted,
        RunStateChanged,
        RunEnded,
        RunRemoved,
        NodeChanged,
        RunSignalled,
    )


def run_end(kernel: Kernel, readers: Readers, number: int, principal: Principal) -> EndStream:
    """`/proc/runs/ID/wait`: state, output and error as one JSON object."""

    def end() -> bytes | None:
        run = kernel.runs.find(number)
        if run is None:
            raise KernelError(errno.ESTALE, f"run {number} is forgotten")
        if not run.state.final:
            return None
        output = kernel.runs.output_of(number)
        head = json.dumps(
            {"state": run.state.value, "error": run.error or None}, ensure_ascii=False
        )
        return f'{head[:-1]}, "output": {output or "null"}}}\n'.encode()

    def begin_wait() -> Callable[[], None]:
        return kernel.why.waits.begin(principal.pid, "end", f"of run {number}")

    return EndStream(readers, number, end, begin_wait)


class EventsFile(Stream):
    """`/proc/runs/ID/events`: it has a size, so that tail(1) begins where it should."""

    timeout = 0.0

    def __init__(self, basics: Basics, kernel: Kernel, readers: Readers, run: int) -> None:
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

    def __init__(self, kernel: Kernel, readers: Readers, run: int) -> None:
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
