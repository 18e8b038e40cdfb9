"""/dev: the streams of the kernel itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentfs.providers.streams import EventStream, JournalStream
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import stream
from agentfs.vfs.files import Owner
from agentfs.vfs.node import StreamHandle
from agentfs.vfs.table import Table

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["DevDirectory"]


class DevDirectory(Table):
    """/dev: streams."""

    PATH = "/dev"

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.key = ("dev",)

    def owner(self) -> Owner:
        return Owner(*self.kernel.owner, int(self.kernel.started * 1e9))

    @stream(
        "events",
        example='{"seq": 41, "time": "2026-11-21T09:00:00.123Z", "type": "state_changed", …}',
    )
    def events(self, caller: Caller) -> StreamHandle:
        """Every event of the kernel from now on, one JSON object a line: seq, time (RFC 3339),
        type, and what the type has. A reader that falls behind by more than 10,000 events gets a
        record of type `lost` with their `count`; its seq is that of the last one lost."""
        return EventStream(self.kernel, self.kernel.events.last + 1)

    @stream(
        "events.all",
        example='{"seq": 1, "time": "2026-11-21T09:00:00.123Z", "type": "agent_defined", …}',
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
