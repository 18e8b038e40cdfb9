"""A sum over the last so many seconds, which slides along with the clock."""

from __future__ import annotations

from collections import deque

__all__ = ["HOUR", "MINUTE", "Window"]

HOUR, MINUTE = 3600.0, 60.0

# Entries of one window. With more of them neighbours are put together, as of the later one: for an
# hour that is about a second, and what is put together counts too long rather than too short.
MOST_ENTRIES = 4096


class Window:
    """Amounts with their times, in seconds of a clock that never goes back; one that is exactly
    `span` seconds old counts no more. Those of one `grain`, in seconds, are one entry, as of the
    latest of them."""

    __slots__ = ("_entries", "_grain", "_sum", "span")

    def __init__(self, span: float, grain: float = 0.0) -> None:
        self.span = span
        self._grain = grain
        self._entries: deque[tuple[float, int]] = deque()
        self._sum = 0

    def __len__(self) -> int:
        """How many entries it has."""
        return len(self._entries)

    def sum(self, now: float) -> int:
        """What was added within the last `span` seconds."""
        entries = self._entries
        while entries and now - entries[0][0] >= self.span:
            self._sum -= entries.popleft()[1]
        return self._sum

    def wait(self, now: float) -> float:
        """Seconds until the oldest amount counts no more; 0 if there is none."""
        self.sum(now)
        return self._entries[0][0] + self.span - now if self._entries else 0.0

    def add(self, now: float, amount: int = 1) -> None:
        """Count `amount` as of `now`."""
        self.sum(now)
        self._sum += amount
        if self._entries and self._is_one(self._entries[-1][0], now):
            amount += self._entries.pop()[1]
        self._entries.append((now, amount))
        if len(self._entries) > MOST_ENTRIES:
            self._thin_out()

    def take_back(self, amount: int = 1) -> None:
        """Undo the newest `add`, which was of this amount: what it counted was not done."""
        when, counted = self._entries.pop()
        self._sum -= amount
        if counted > amount:
            self._entries.append((when, counted - amount))

    def entries(self, now: float) -> list[tuple[float, int]]:
        """(age in seconds, amount), the oldest first."""
        self.sum(now)
        return [(now - when, amount) for when, amount in self._entries]

    def _is_one(self, before: float, now: float) -> bool:
        return before == now or (self._grain > 0 and before // self._grain == now // self._grain)

    def _thin_out(self) -> None:
        old = list(self._entries)
        pairs = [(b[0], a[1] + b[1]) for a, b in zip(old[::2], old[1::2], strict=False)]
        self._entries = deque(pairs if len(old) % 2 == 0 else [*pairs, old[-1]])
