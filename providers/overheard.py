"""/agents/NAME/overheard: what the children of an agent say to each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agentfs.model.principal import Principal
from agentfs.providers.streams import RecordStream, lost, published

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["OverheardStream"]


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
        self._waited.append(self._kernel.waits.begin(self._pid, "overheard"))

    def unparked(self) -> None:
        self._waited.pop()()

    def release(self) -> None:
        self._copies.readers.discard(self.wake)
