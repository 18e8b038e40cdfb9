"""/dev: the streams of the kernel itself, and what agents share."""

from __future__ import annotations

from agentfs.mail.message import Draft
from agentfs.mail.settings import MessageSettings
from agentfs.mail.tally import EVERYBODY
from agentfs.providers.streams import EventStream, JournalStream
from agentfs.providers.system_table import SystemTable
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import message, stream
from agentfs.vfs.node import StreamHandle

__all__ = ["DevDirectory"]


SINCE = {"EINVAL": "no such command", "ERANGE": "`since` a number that there is not yet"}
"""Why a command to /dev/events may be refused."""


class DevDirectory(SystemTable):
    """/dev: streams, and what agents share."""

    PATH = "/dev"
    WHAT = "The streams of the kernel itself."
    key = ("dev",)

    @stream(
        "events",
        0o666,
        commands=True,
        example='{"seq": 41, "time": "…", "type": "state_changed", "agent": "bob", "pid": 7, …}',
        errors=SINCE,
    )
    def events(self, caller: Caller) -> StreamHandle:
        """Every event of the kernel from now on, one JSON object a line: seq, time (RFC 3339),
        type, agent (whom it concerns) and pid (of that agent's process; both may be null), and what
        the type has. A reader that falls behind by more than 10,000 events gets a record of type
        `lost` with their `count`; its seq is that of the last one lost. Opened for both (O_RDWR) it
        takes the command `since SEQ` and goes on after that event: first comes a record of type
        `boot`, whose `boot` is that of /sys/boot_id. Numbers go on rising when the daemon is
        started again, and what came before that is told as lost."""
        return EventStream(self.kernel, self.kernel.events.last + 1)

    @stream(
        "events.all",
        0o666,
        commands=True,
        example='{"seq": 1, "time": "…", "type": "agent_defined", "agent": "bob", "pid": null}',
        errors=SINCE,
    )
    def events_all(self, caller: Caller) -> StreamHandle:
        """The same from the oldest event that is kept (the newest 10,000 since the daemon started).
        If that is not event 1, a `lost` record comes first."""
        return EventStream(self.kernel, 1)

    @stream("kmsg", example="2026-11-21T09:00:00.123Z WARNING agentfs.kernel: …")
    def kmsg(self, caller: Caller) -> StreamHandle:
        """The kernel's log, one line a message: what is kept, then what comes. A reader that falls
        behind by more than 4,096 lines gets a line `lost N`."""
        return JournalStream(self.kernel)

    @message(
        "broadcast",
        0o222,
        limit="limit",
        sync="sync",
        example="Priority: high\n\nThe build is broken.",
        errors={
            "EACCES": "a task may not, nor who is no agent",
            "EMSGSIZE": "more than messages.max_size, or all copies than max_broadcast_bytes",
            "ENOSPC": "an inbox is full; nobody gets it then",
            "EDQUOT": "you have your share of what waits in one of them; nobody gets it",
        },
    )
    async def broadcast(self, content: bytes, caller: Caller) -> None:
        """Every write is one message to every other agent that there is at the moment, with or
        without a process: all of them get it, or none. Headers are optional, as in `outbox`; a
        message to `*` in `send` is the same. The copies say `Reply-Expected: no`, and in
        `Broadcast` the id that the sender finds in its `sent`."""
        principal = caller.principal
        now = self.kernel.clock.now()
        draft = Draft.parse(content, now=now, to=EVERYBODY)
        self.kernel.mail.broadcasts.send(principal, principal.name, draft)

    def limit(self) -> int:
        return self.kernel.settings.of(MessageSettings).max_size

    async def sync(self) -> None:
        await self.kernel.store.sync()
