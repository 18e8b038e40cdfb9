"""Tasks: the messages that a process has claimed, within its `max_concurrent_tasks` and
`timeout_seconds`.

A task that takes longer is returned as after a crash, and to acknowledge it then is ENOENT. Of the
claims that no process holds, or process 1, nobody asks: see `messages.claim_timeout`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from agentfs.base.errors import KernelError
from agentfs.mail.claims import Claims
from agentfs.mail.message import Message
from agentfs.model.principal import INIT
from agentfs.model.process import Process
from agentfs.process.ceilings import Ceilings
from agentfs.process.events import ProcessReparented
from agentfs.process.table import ProcessTable
from agentfs.quota.events import LimitChanged, TaskTimedOut
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["ClaimLimits"]


class ClaimLimits(Part):
    """Asked before a claim. `give_back(message, reason)` returns one, inside a transaction."""

    def __init__(
        self,
        ground: Ground,
        claims: Claims,
        table: ProcessTable,
        ceilings: Ceilings,
        give_back: Callable[[Message, str], object],
    ) -> None:
        self._store = ground.store
        self._claims = claims
        self._table = table
        self._ceilings = ceilings
        self._events = ground.events
        self._give_back = give_back
        self._bounds: dict[int, tuple[int | None, float | None]] = {}  # see `_of`
        claims.end_by(self._patience, self._time_out)
        self._events.listen(self._heard, LimitChanged, ProcessReparented, ConfigChanged)

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests."""
        return self._claims.sizes()

    def most(self, process: Process) -> int | None:
        """How many it may have at once; None: any number. With no time for one it has none."""
        return self._of(process)[0]

    def _of(self, process: Process) -> tuple[int | None, float | None]:
        """That, and how many seconds each may take. Kept until a limit is another one: every claim
        asks for both. Inside a transaction nothing is kept: its limits may be taken back."""
        found = self._bounds.get(process.pid)
        if found is None:
            patience = self._ceilings.effective(process, "timeout_seconds")
            most = self._ceilings.whole(process, "max_concurrent_tasks")
            found = 0 if patience == 0 else most, patience
            if not self._store.in_transaction:
                self._bounds[process.pid] = found
        return found

    def process_ended(self, process: Process) -> None:
        self._bounds.pop(process.pid, None)

    def of(self, pid: int) -> list[Message]:
        """Those of process `pid`, oldest first."""
        return self._claims.of(pid)

    def count(self, pid: int) -> int:
        """How many process `pid` has."""
        return self._claims.count(pid)

    def oldest(self, pid: int) -> float:
        """For how many seconds process `pid` has had the oldest of its tasks; 0 without one."""
        return self._claims.oldest(pid)

    def usage(self, process: Process, limit: str) -> float | None:
        """How many tasks it has, and for how many whole seconds the oldest of them."""
        match limit:
            case "max_concurrent_tasks":
                return self.count(process.pid)
            case "timeout_seconds":
                return int(self.oldest(process.pid))
        return None

    def free(self, pid: int, process: Process | None) -> int | None:
        """How many more messages process `pid` may claim for `process`. None: any number, so for
        the operator, and where no process is to have them."""
        if pid == INIT or process is None:
            return None
        most, _ = self._bounds.get(process.pid) or self._of(process)
        return None if most is None else most - len(self._claims.by_pid.get(process.pid, ()))

    def require(self, actor: Process, process: Process | None) -> None:
        """EAGAIN unless `actor` may claim one more message for `process`."""
        free = self.free(actor.pid, process)
        if process is None or free is None or free > 0:
            return
        if self.most(process) == 0:
            limit = "max_concurrent_tasks"
            if self._ceilings.effective(process, "timeout_seconds") == 0:
                limit = "timeout_seconds"
            reason = f"{process.name} may have no tasks: its {limit} is 0"
            raise KernelError(errno.EAGAIN, reason, rule=limit)
        raise KernelError(
            errno.EAGAIN,
            f"{process.name} has claimed {self._claims.count(process.pid)} messages, as many as it"
            " may have at once: acknowledge one first",
            rule="max_concurrent_tasks",
        )

    def _patience(self, pid: int) -> float | None:
        found = self._bounds.get(pid)
        if found is not None:
            return found[1]
        process = self._table.find(pid)
        return None if process is None else self._of(process)[1]

    def _time_out(self, message: Message) -> None:
        assert message.claimed_by is not None
        process = self._table.get(message.claimed_by)
        seconds = self._patience(process.pid) or 0
        self._events.emit(
            TaskTimedOut(process.pid, process.name, message.mailbox, message.id, int(seconds))
        )
        self._give_back(message, f"{process.name} had it for {seconds:g} s (timeout_seconds)")

    def _heard(self, record: Record) -> None:
        match record.event:
            case LimitChanged(limit="max_concurrent_tasks" | "timeout_seconds", pid=pid):
                self._look_again(pid)
            case ProcessReparented(pid=pid):
                self._look_again(pid)
            case ConfigChanged():
                self._bounds.clear()
                self._claims.limits_changed()

    def _look_again(self, pid: int) -> None:
        """The limits of `pid` are others, and so are those of everything below it."""
        pids = [pid, *(p.pid for p in self._table.descendants(pid))]
        for each in pids:
            self._bounds.pop(each, None)
        self._claims.limits_changed(pids)
