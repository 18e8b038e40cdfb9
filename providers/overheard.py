"""/agents/NAME/overheard: what the children of an agent say to each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agentfs.model.principal import Principal
from agentfs.providers.streams import RecordStream, lost, published
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import stream
from agentfs.vfs.node import StreamHandle
from agentfs.vfs.table import AddedRows

if TYPE_CHECKING:
    from agentfs.kernel import Kernel
    from agentfs.providers.agents import AgentDirectory

__all__ = ["OverheardRows", "OverheardStream"]


class OverheardStream(RecordStream):
    """The copies that are kept, then those that come; it ends when the agent is removed."""

    def __init__(self, kernel: Kernel, name: str, principal: Principal) -> None:
        super().__init__()
        self._kernel = kernel
        self._pid = principal.pid
        self._waited: list[Callable[[], None]] = []
        self._copies = kernel.mail.overheard.of(name)
        self._next = self._copies.oldest
        self._copies.readers.add(self.wake)

    def next_record(self) -> bytes | None:
        copies = self._copies
        if self._next >= copies.count or copies.over:
            return None
        oldest = copies.oldest
        if self._next < oldest:
            count, self._next = oldest - self._next, oldest
            return lost(count, copies.kept[0].seq - 1, self._kernel.clock.now())
        copy = copies.kept[self._next - oldest]
        self._next += 1
        ends = {"from": copy.sender, "to": copy.receiver}
        return published(copy.seq, copy.time, copy.content, **ends)

    def ended(self) -> bool:
        return self._copies.over

    def ready(self) -> bool:
        return bool(self._rest) or self._next < self._copies.count or self._copies.over

    def parked(self) -> None:
        self._waited.append(self._kernel.why.waits.begin(self._pid, "overheard"))

    def unparked(self) -> None:
        self._waited.pop()()

    def release(self) -> None:
        self._copies.readers.discard(self.wake)


class OverheardRows(AddedRows):
    """The entry of an agent that gives them."""

    INTO = "/agents/NAME"

    def __init__(self, agent: AgentDirectory) -> None:
        super().__init__(agent)
        self._kernel = agent.kernel
        self._name = agent.name

    @stream(
        "overheard",
        0o400,
        private=True,
        example='{"seq": 42, "time": "…", "from": "ann", "to": "ben", "data": "Message-ID: …"}',
        errors={"EAGAIN": "O_NONBLOCK, and there is no more"},
    )
    def overheard(self, caller: Caller) -> StreamHandle:
        """What its children say to each other, one JSON object a line: seq (the number in the
        Message-ID), time (RFC 3339), from, to, data (the whole message, as its receiver reads it;
        or `data_base64`, if it is no UTF-8). First those that are kept, then those that come. It
        is no mail: nothing is claimed, and nothing waits in the inbox. The newest 100, of at most
        256 KiB, are kept, and none over a restart of the daemon; what fell out before it was read
        is announced by a record of type `lost` with its `count`."""
        return OverheardStream(self._kernel, self._name, caller.principal)
