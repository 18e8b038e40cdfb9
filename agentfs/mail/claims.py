"""The claims of processes, in whatever mailbox: how many messages, until when, and the calls to
make when a process has one less.

A claimed message is a task of its process. How many a process may have and how long each may take
is for `tasks` to say; here they are kept, and ended in time. That is not the time on the wall: a
clock that is set takes nothing from anybody. It goes on while the daemon is away, as the programs
do, but not while the machine is off.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from itertools import islice

from agentfs.base.alarm import Alarm
from agentfs.base.due_heap import DueHeap
from agentfs.base.errors import KernelError
from agentfs.mail.message import Message
from agentfs.store.ground import Ground

__all__ = ["Claims"]

log = logging.getLogger(__name__)

Call = Callable[[], object]

# Tasks of one transaction that took too long: about 20 ms. Between two of them others have their
# turn for as long.
BATCH, PAUSE = 200, 0.02


class Claims:
    """By process, and by the time at which they end."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
        self._clock = clock = ground.clock
        self.by_pid: dict[int, dict[int, Message]] = {}
        """The messages that each process has claimed, by number, oldest first. To look at."""
        self.due: DueHeap[Message] = DueHeap()
        """By the time at which each ends (Clock.monotonic). To look at."""
        self._deadlines: dict[int, int] = {}  # message -> its number in _due
        self._number = itertools.count()
        self._waiting: dict[int, dict[Call, None]] = {}
        self._waits_for: dict[Call, int] = {}
        self._alarm = Alarm(clock, ground.timers, self._ring, clock.monotonic)
        self._patience: Callable[[int], float | None] = lambda pid: None
        self._time_out: Callable[[Message], object] = lambda message: None

    def end_by(
        self, patience: Callable[[int], float | None], time_out: Callable[[Message], object]
    ) -> None:
        """A claim of process `pid` may last `patience(pid)` seconds from now on (None: any number);
        one that has lasted so long ends by `time_out(message)`, inside a transaction."""
        self._patience = patience
        self._time_out = time_out

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests."""
        return {
            "claimants": len(self.by_pid),
            "deadlines": len(self._deadlines),
            "held up": len(self._waits_for),
        }

    # -- claims ------------------------------------------------------------------------------------

    @property
    def pids(self) -> list[int]:
        """The processes that have claimed something."""
        return list(self.by_pid)

    def of(self, pid: int) -> list[Message]:
        """The messages that process `pid` has claimed, oldest first."""
        return list(self.by_pid.get(pid, {}).values())

    def newest(self, pid: int, most: int) -> list[Message]:
        """The messages that process `pid` has claimed last, newest first, `most` of them at
        most."""
        return list(islice(reversed(self.by_pid.get(pid, {}).values()), most))

    def count(self, pid: int) -> int:
        """How many messages process `pid` has claimed."""
        return len(self.by_pid.get(pid, ()))

    def oldest(self, pid: int) -> float:
        """For how many seconds process `pid` has had what it claimed first; 0 without a claim."""
        since = [message.claimed_since for message in self.by_pid.get(pid, {}).values()]
        return self._clock.monotonic() - min(since) if since else 0.0

    def clear(self) -> None:
        self.by_pid.clear()
        self._deadlines.clear()
        self.due = DueHeap()

    def add(self, message: Message) -> None:
        """A process has claimed `message`."""
        pid = message.claimed_by
        assert pid is not None
        claims = self.by_pid.get(pid)
        if claims is None:
            claims = self.by_pid[pid] = {}
        claims[message.seq] = message
        self._set_deadline(message, self._patience(pid))

    def remove(self, message: Message) -> None:
        """It has it no more."""
        pid = message.claimed_by
        assert pid is not None
        claims = self.by_pid[pid]
        del claims[message.seq]
        if not claims:
            del self.by_pid[pid]
        self._drop_deadline(message)
        if pid in self._waiting and self._store.in_transaction:
            self._store.on_commit(lambda: self.wake(pid))

    # -- waiting for an end ------------------------------------------------------------------------

    def wait(self, pid: int, call: Call) -> None:
        """Call `call()` once, when process `pid` has claimed less than now, or may claim more."""
        self.leave(call)
        self._waiting.setdefault(pid, {})[call] = None
        self._waits_for[call] = pid

    def leave(self, call: Call) -> None:
        """Do not call it any more."""
        pid = self._waits_for.pop(call, None)
        if pid is not None:
            del self._waiting[pid][call]
            if not self._waiting[pid]:
                del self._waiting[pid]

    def wake(self, pid: int) -> None:
        """Make the calls that wait for process `pid`."""
        calls = tuple(self._waiting.get(pid, ()))
        for call in calls:
            self.leave(call)
        for call in calls:
            call()

    def limits_changed(self, pids: Iterable[int] | None = None) -> None:
        """The patience with these processes (None: with any) is another, or they may have more
        tasks than before."""
        concerned = self.pids if pids is None else [pid for pid in pids if pid in self.by_pid]
        for pid in concerned:
            patience = self._patience(pid)
            for message in self.of(pid):
                self._drop_deadline(message)
                self._set_deadline(message, patience)
        for pid in list(self._waiting) if pids is None else pids:
            self.wake(pid)
        self.time_out_due()

    # -- how long it takes -------------------------------------------------------------------------

    def _set_deadline(self, message: Message, patience: float | None) -> None:
        if patience is None:
            return
        number, when = next(self._number), message.claimed_since + patience
        self._deadlines[message.seq] = number
        if when < self.due.soonest:  # else it rings before
            self._alarm.set(when)
        self.due.add(when, number, message)

    def _drop_deadline(self, message: Message) -> None:
        number = self._deadlines.pop(message.seq, None)
        if number is not None:
            self.due.discard(number)

    def time_out_due(self) -> int:
        """End a batch of the claims that have lasted too long; how many. The alarm does it when it
        is time; calls that look do it before, so that nothing depends on when the alarm rings."""
        now, ended = self._clock.monotonic(), 0
        message = self.due.due(now)
        if message is None or self._store.in_transaction:
            return 0
        try:
            with self._store.transaction():
                while message is not None and ended < BATCH:
                    self._time_out(message)
                    message, ended = self.due.due(now), ended + 1
        except KernelError as failure:
            log.warning("tasks that took too long go on for now: %s", failure)
            return 0
        return ended

    def _ring(self) -> float | None:
        ended = self.time_out_due()
        if self.due.first() is None:
            return None
        when = self.due.soonest
        return max(when, self._clock.monotonic() + PAUSE) if ended else when
