"""/agents/NAME/reminders: what an agent asked to be told at a time."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.reminders.events import (
    ReminderCancelled,
    ReminderDelayed,
    ReminderFired,
    ReminderRescheduled,
    ReminderSet,
    ReminderTallyChanged,
)
from agentfs.reminders.reminders import Reminder
from agentfs.reminders.settings import ReminderSettings
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import live, transaction, value
from agentfs.vfs.files import Basics, Owner, Value, fields
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Handle, Node
from agentfs.vfs.on import When, on
from agentfs.vfs.table import Table

if TYPE_CHECKING:
    from agentfs.providers.agents import AgentDirectory

__all__ = ["RemindersDirectory"]

REMINDERS = (
    ReminderSet,
    ReminderFired,
    ReminderDelayed,
    ReminderRescheduled,
    ReminderCancelled,
    ReminderTallyChanged,
)
"""The events about reminders; `agent` says whose."""


class RemindersDirectory(Table):
    """/agents/NAME/reminders: each reminder is a file ID (0400): Id, Set, When, Next, Fired (how
    often), Text. `rm` cancels it."""

    PATH = "/agents/NAME/reminders"
    WHAT = "What it asked to be told at a time."
    PRIVATE = True
    KEPT = True
    mode = 0o700

    def __init__(self, agent: AgentDirectory) -> None:
        self.agent = agent
        self.name = agent.name
        self.key = agent.key_of("reminders")
        self.reminders = agent.kernel.reminders

    def owner(self) -> Owner:
        agent = self.agent.owner()
        return Owner(
            agent.uid, agent.gid, max(agent.mtime, self.reminders.table.changed(self.name))
        )

    def guard(self, caller: Caller) -> None:
        self.agent.private_guard(caller)

    @transaction(
        "new",
        0o600,
        private=True,
        example='cron "0 9 * * 1" plan the week',
        errors={
            "EINVAL": "malformed, in the past, or a date that never comes; nothing is set",
            "EAGAIN": "so many were set just now: `limits` says when the next can be",
            "EDQUOT": "reminders.max_pending are pending",
            "EMSGSIZE": "the text has more than reminders.max_text bytes",
        },
    )
    async def new(self, request: bytes, caller: Caller) -> str:
        """Set reminders: `in 10m TEXT`, `at 2026-12-01T09:00Z TEXT` or `cron "0 9 * * 1" TEXT`
        (minute, hour, day of month, month, day of week; UTC, unless `CRON_TZ=Europe/Berlin` or the
        like is before them), one a line, or each ended by a NUL if
        a text has lines; all or none. The reply is their ids, one a line. Each comes as a message
        of `Type: reminder` from the agent itself."""
        made = self.reminders.set(caller.principal, self.name, as_text(request))
        return "".join(f"{reminder.id}\n" for reminder in made)

    @value(
        "stat",
        0o400,
        on=REMINDERS,
        private=True,
        example="Pending:\t2\nDelivered-24h:\t14\nAttempts:\t120\nSuccesses:\t118\n",
    )
    def stat_file(self) -> str:
        """Pending (how many wait to fire), Delivered-24h (messages in the last 24 hours, by the
        minute), Attempts and Successes (deliveries since the agent exists; one fails when the inbox
        is full, and is tried again)."""
        counts = self.reminders.counts(self.name)
        return fields(
            ("Pending", self.reminders.table.pending(self.name)),
            ("Delivered-24h", counts.delivered),
            ("Attempts", counts.attempts),
            ("Successes", counts.successes),
        )

    @live("limits", 0o400, private=True, example="Left:\t20\nBurst:\t20\nPer-Minute:\t10\n…")
    def limits(self) -> str:
        """Left (how many can be set at this moment), Burst (at once), Per-Minute (that come back),
        Max-Pending, Max-Text (bytes). They are set in `/etc/agentfs.yaml`, section `reminders`."""
        limits = self.agent.kernel.settings.of(ReminderSettings)
        room = max(0, limits.max_pending - self.reminders.table.pending(self.name))
        return fields(
            ("Left", min(self.reminders.left(self.name), room)),
            ("Burst", limits.burst),
            ("Per-Minute", limits.per_minute),
            ("Max-Pending", limits.max_pending),
            ("Max-Text", limits.max_text),
        )

    def find(self, name: str) -> Node | None:
        reminder = self.reminders.table.find(self.name, name)
        return None if reminder is None else ReminderFile(self, reminder)

    def more(self) -> Iterator[tuple[str, Node]]:
        for reminder in self.reminders.table.of(self.name):
            yield reminder.id, ReminderFile(self, reminder)

    def unlink(self, name: str, caller: Caller) -> None:
        if name in self.TABLE:
            raise self._fixed(f"remove {name}")
        self.reminders.cancel(caller.principal, self.name, name)

    @on(ReminderSet)
    def _set(self, event: ReminderSet) -> Iterator[Change]:
        reminder = self.reminders.table.find(self.name, event.id)
        if reminder is not None:
            yield Created(self.key, event.id, ReminderFile(self, reminder, announced=True))

    @on(ReminderCancelled, When(ReminderFired, next=None))
    def _gone(self, event: ReminderCancelled | ReminderFired) -> Iterator[Change]:
        yield Removed(self.key, event.id, self.key_of(event.id))

    @on(ReminderFired, ReminderRescheduled)
    def _changed(self, event: ReminderFired | ReminderRescheduled) -> Iterator[Change]:
        if event.next is not None:
            yield Modified(self.key_of(event.id))


class ReminderFile(Value):
    """/agents/NAME/reminders/ID. `announced`: it may be gone by the time the watchers hear of it,
    and its agent too, and has the attributes that it had."""

    _kept: Owner | None = None

    def __init__(
        self, folder: RemindersDirectory, reminder: Reminder, *, announced: bool = False
    ) -> None:
        key = folder.key_of(reminder.id)
        super().__init__(Basics(key, 0o400, self._owner_now, folder.private_guard), self._text)
        self._folder = folder
        self._reminder = reminder
        self._kept = self._owner_now() if announced else None

    def _check(self) -> None:
        folder, reminder = self._folder, self._reminder
        if folder.reminders.table.find(folder.name, reminder.id) is not reminder:
            raise KernelError(errno.ENOENT, f"the reminder {reminder.id} was cancelled, or fired")

    def _owner_now(self) -> Owner:
        try:
            self._check()
            agent = self._folder.agent.owner()
        except KernelError:
            if self._kept is None:
                raise
            return self._kept
        changed = self._reminder.changed or int(self._reminder.set_at * 1e9)
        return Owner(agent.uid, agent.gid, max(agent.mtime, changed))

    def open(self, flags: int, caller: Caller) -> Handle:
        self._check()
        return super().open(flags, caller)

    def _text(self) -> bytes:
        reminder = self._reminder
        return fields(
            ("Id", reminder.id),
            ("Set", rfc3339(reminder.set_at)),
            ("When", reminder.schedule),
            ("Next", rfc3339(reminder.next)),
            ("Fired", reminder.fired),
            ("Text", reminder.text),
        ).encode()
