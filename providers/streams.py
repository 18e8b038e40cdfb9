"""Streams of records that the kernel keeps for a while: a reader is a place in them.

No reader has a queue of its own, so a slow one costs nothing and slows nobody; what fell out before
it was read is announced by a `lost` record.
"""

from __future__ import annotations

import base64
import errno
import json
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.process.events import ProcessExited, ProcessReaped, SignalSent
from agentfs.store.event_log import Record
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import StreamHandle

if TYPE_CHECKING:
    from agentfs.kernel import Kernel
    from agentfs.model.principal import Principal

__all__ = [
    "EventStream",
    "JournalStream",
    "RecordStream",
    "SignalLines",
    "SignalStream",
    "WaitStream",
    "lost",
    "published",
    "since",
]


STEP_SECONDS = 0.0005

STEP_RECORDS = 100
"""So many come in one read whatever it takes, about 1 ms: else a busy machine gives each alone."""
"""How long one read makes records; then it gives what it has, and the next goes on."""


class RecordStream(StreamHandle, ABC):
    """Hands out whole records as bytes, as many as fit; one that does not fit comes in pieces.

    Programs that took more than they wanted go back to where they stopped (`head -n1`, `read` of a
    shell): what the last read gave is there once more from that place on.
    """

    seekable = True

    def __init__(self) -> None:
        super().__init__()
        self._rest = b""
        self._given = b""  # by the last read
        self._end = 0  # where in the file that ends

    def begin_read(self, offset: int, who: Callable[[], Hashable]) -> None:
        back = self._end - offset
        if 0 < back <= len(self._given):
            self._rest = self._given[-back:] + self._rest
        if back:
            self._given, self._end = b"", offset

    def _go_on(self, first: bytes = b"") -> None:
        """With `first`, and what comes after it; nothing of what was given comes again."""
        self._rest, self._given = first, b""

    @abstractmethod
    def next_record(self) -> bytes | None:
        """The next record, in the order they came; None if there is none yet."""

    def ended(self) -> bool:
        """Whether no record will come any more."""
        return False

    def try_read(self, size: int) -> bytes | None:
        pieces = self._rest
        ends = time.monotonic() + STEP_SECONDS
        count = 0
        while len(pieces) < size and (count < STEP_RECORDS or time.monotonic() < ends):
            record = self.next_record()
            if record is None:
                break
            pieces += record
            count += 1
        self._rest = pieces[size:]
        if pieces:
            self._given = pieces[:size]
            self._end += len(self._given)
            return self._given
        return b"" if self.ended() else None


_NOBODY = {"agent": None, "pid": None}
"""Every record of /dev/events has these keys."""


def lost(count: int, through: int, now: float, **more: object) -> bytes:
    """The record in place of `count` others that fell out, up to number `through`."""
    head = {"seq": through, "time": rfc3339(now), "type": "lost", **more, "count": count}
    return (json.dumps(head) + "\n").encode()


def published(seq: int, time: float, data: bytes, **more: object) -> bytes:
    """The record of something that somebody said: its text in `data`, or in `data_base64` if it is
    no UTF-8."""
    head: dict[str, object] = {"seq": seq, "time": rfc3339(time), **more}
    try:
        head["data"] = data.decode()
    except UnicodeDecodeError:
        head["data_base64"] = base64.b64encode(data).decode()
    return (json.dumps(head, ensure_ascii=False) + "\n").encode()


def since(data: bytes) -> int:
    """The number in the command `since SEQ`. EINVAL."""
    match as_text(data).split():
        case ["since", number] if number.isascii() and number.isdigit() and len(number) < 20:
            return int(number)
    raise KernelError(errno.EINVAL, "`since NUMBER` was expected")


class EventStream(RecordStream):
    """`/dev/events` (from now on) and `/dev/events.all` (from the oldest kept), or after the number
    of a command `since SEQ`."""

    def __init__(self, kernel: Kernel, first: int) -> None:
        super().__init__()
        self._events = kernel.events
        self._clock = kernel.clock
        self._next = first
        self._events.listen(self._heard)

    def _heard(self, record: Record) -> None:
        self.wake()

    def try_write(self, data: bytes) -> int:
        """`since SEQ`: go on after that number. EINVAL; ERANGE if there is no such number yet."""
        number = since(data)
        last = self._events.last
        if number > last:
            raise KernelError(errno.ERANGE, f"the newest event has number {last}")
        self._next = number + 1
        now = rfc3339(self._clock.now())
        boot = {"seq": number, "time": now, "type": "boot", **_NOBODY, "boot": self._events.boot}
        self._go_on((json.dumps(boot) + "\n").encode())
        self.wake()
        return len(data)

    def next_record(self) -> bytes | None:
        oldest = self._events.oldest
        if self._next < oldest:
            count, self._next = oldest - self._next, oldest
            return lost(count, oldest - 1, self._clock.now(), **_NOBODY)
        record = self._events.at(self._next)
        if record is None:
            return None
        self._next = record.seq + 1
        return record.line()

    def ready(self) -> bool:
        return bool(self._rest) or self._next <= self._events.last

    def release(self) -> None:
        self._events.unlisten(self._heard)


class JournalStream(RecordStream):
    """`/dev/kmsg`: the lines that are kept, then the new ones."""

    CAPACITY = 4096  # lines that wait for this reader

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._lines: deque[bytes] = deque(kernel.journal.lines())
        self._lost = 0
        self._unlisten = kernel.journal.listen(self._heard)

    def _heard(self, line: bytes) -> None:
        if len(self._lines) >= self.CAPACITY:
            self._lines.popleft()
            self._lost += 1
        self._lines.append(line)
        self.wake()

    def next_record(self) -> bytes | None:
        if self._lost:
            lost, self._lost = self._lost, 0
            return f"lost {lost}\n".encode()
        return self._lines.popleft() if self._lines else None

    def ready(self) -> bool:
        return bool(self._rest or self._lines)

    def release(self) -> None:
        self._unlisten()


class SignalLines:
    """The signals and notices of each process, from its start on, the newest 100 of each."""

    KEPT = 100

    def __init__(self, kernel: Kernel) -> None:
        self._sent: dict[int, tuple[int, deque[str]]] = {}  # pid -> how many in all, the newest
        self._readers: dict[int, set[SignalStream]] = {}
        self._table = kernel.table
        kernel.events.listen(self._heard, SignalSent, ProcessReaped)

    def __len__(self) -> int:
        return len(self._sent)

    def _heard(self, record: Record) -> None:
        event = record.event
        if isinstance(event, SignalSent):
            if self._table.find(event.pid) is None:
                return
            count, kept = self._sent.get(event.pid, (0, None))
            kept = deque(maxlen=self.KEPT) if kept is None else kept
            kept.append(event.text)
            self._sent[event.pid] = (count + 1, kept)
        elif isinstance(event, ProcessReaped):
            self._sent.pop(event.pid, None)
        else:
            return
        for reader in tuple(self._readers.get(event.pid, ())):
            if isinstance(event, ProcessReaped):
                reader.end()
            reader.wake()

    def since(self, pid: int, number: int) -> tuple[int, str] | None:
        """The first kept signal whose number (from 0) is at least `number`, with its number."""
        count, kept = self._sent.get(pid, (0, deque()))
        first = max(number, count - len(kept))
        return None if first >= count else (first, kept[first - (count - len(kept))])

    def join(self, pid: int, reader: SignalStream) -> None:
        self._readers.setdefault(pid, set()).add(reader)

    def leave(self, pid: int, reader: SignalStream) -> None:
        readers = self._readers.get(pid, set())
        readers.discard(reader)
        if not readers:
            self._readers.pop(pid, None)


class SignalStream(RecordStream):
    """`/proc/PID/signals`: ends when the process is reaped."""

    def __init__(self, signals: SignalLines, pid: int) -> None:
        super().__init__()
        self._signals = signals
        self._pid = pid
        self._next = 0
        self._over = False
        signals.join(pid, self)

    def next_record(self) -> bytes | None:
        found = self._signals.since(self._pid, self._next)
        if found is None:
            return None
        number, text = found
        lost, self._next = number - self._next, number + 1
        line = f"{text}\n".encode()
        return f"LOST {lost}\n".encode() + line if lost else line

    def end(self) -> None:
        """The process is no more."""
        self._over = True

    def ended(self) -> bool:
        return self._over

    def ready(self) -> bool:
        if self._rest or self._over:
            return True
        return self._signals.since(self._pid, self._next) is not None

    def release(self) -> None:
        self._signals.leave(self._pid, self)


class WaitStream(StreamHandle):
    """`/proc/PID/wait`: the exit code once there is one, then the end."""

    seekable = True

    def __init__(self, kernel: Kernel, pid: int, principal: Principal) -> None:
        super().__init__()
        self._kernel = kernel
        self._pid = pid
        self._principal = principal
        self._code: int | None = None  # as the event said: another reader may reap it first
        self._gone = False
        self._content: bytes | None = None
        self._offset = 0  # of the read that is served
        self._waited: list[Callable[[], None]] = []
        kernel.events.listen(self._heard)

    def _heard(self, record: Record) -> None:
        match record.event:
            case ProcessExited(pid=self._pid, code=code):
                self._code = code
            case ProcessReaped(pid=self._pid):
                self._gone = True
            case _:
                return
        self.wake()

    def parked(self) -> None:
        begin = self._kernel.why.waits.begin
        self._waited.append(begin(self._principal.pid, "end", f"of process {self._pid}"))

    def unparked(self) -> None:
        self._waited.pop()()

    def ready(self) -> bool:
        process = self._kernel.table.find(self._pid)
        return self._content is not None or process is None or not process.state.alive

    def begin_read(self, offset: int, who: Callable[[], Hashable]) -> None:
        self._offset = offset

    def try_read(self, size: int) -> bytes | None:
        if self._content is None:
            code = self._collect()
            if code is None:
                return None
            self._content = f"{code}\n".encode()
        chunk = self._content[self._offset : self._offset + size]
        self._offset += len(chunk)
        return chunk

    def _collect(self) -> int | None:
        if not self._gone and self._kernel.table.find(self._pid) is not None:
            return self._kernel.processes.collect(self._principal, self._pid)
        if self._code is None:
            raise KernelError(errno.ESTALE, f"process {self._pid} is no more")
        return self._code

    def release(self) -> None:
        self._kernel.events.unlisten(self._heard)
