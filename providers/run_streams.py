"""What is read of a run as it happens: its events, and its end."""

from __future__ import annotations

import errno
import json
from collections import defaultdict, deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.providers.streams import RecordStream
from agentfs.store.event_log import Record
from agentfs.vfs.node import StreamHandle
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

__all__ = ["RunEndStream", "RunEventStream", "RunReaders", "end_of"]

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


class RunEventStream(RecordStream):
    """`/proc/runs/ID/events`: all of them from the first on, the new ones as they come, and the end
    of the file after the one that ends the run."""

    def __init__(self, kernel: Kernel, readers: RunReaders, run: int) -> None:
        super().__init__()
        self._runs = kernel.runs
        self._readers = readers
        self._run = run
        self._last = 0  # the number of the newest event that was fetched
        self._fetched: deque[str] = deque()
        readers.join(run, self)

    def _fetch(self) -> None:
        if not self._fetched:
            page = self._runs.events_of(self._run, self._last, PAGE)
            self._fetched.extend(line for _, line in page)
            self._last = page[-1][0] if page else self._last

    def next_record(self) -> bytes | None:
        self._fetch()
        return self._fetched.popleft().encode() if self._fetched else None

    def ended(self) -> bool:
        run = self._runs.find(self._run)
        self._fetch()  # what ended it came in the same commit
        return not self._fetched and (run is None or run.state.final)

    def ready(self) -> bool:
        self._fetch()
        return bool(self._rest or self._fetched) or self.ended()

    def release(self) -> None:
        self._readers.leave(self._run, self)
