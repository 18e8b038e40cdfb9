"""Token buckets: so much at once, and then so much a minute."""

from __future__ import annotations

from agentfs.base.clock import Clock

__all__ = ["TokenBuckets"]


class TokenBuckets:
    """One bucket a name. It begins full, with `burst` tokens, and gets `per_minute` back.

    Only those that are not full are kept, and in memory only: a restart fills them all. The numbers
    are given with each call, so that a change of the configuration holds at once.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}  # tokens, when that was (monotonic)

    def __len__(self) -> int:
        return len(self._levels)

    def left(self, name: str, burst: int, per_minute: int) -> float:
        """The tokens that `name` has now."""
        tokens, since = self._levels.get(name, (float(burst), 0.0))
        passed = self._clock.monotonic() - since
        return min(float(burst), tokens + passed * per_minute / 60)

    def take(self, name: str, count: int, burst: int, per_minute: int) -> float:
        """Take `count` tokens and return 0; or take none, and return the seconds until there are
        so many."""
        left = self.left(name, burst, per_minute)
        if left < count - 1e-9:
            return (count - left) * 60 / per_minute
        self._levels[name] = (left - count, self._clock.monotonic())
        return 0.0

    def give_back(self, name: str, count: int) -> None:
        """Put back tokens that were taken and not used."""
        tokens, since = self._levels[name]
        self._levels[name] = (tokens + count, since)

    def drop_full(self, burst: int, per_minute: int) -> None:
        """Forget the buckets that are full again."""
        for name in tuple(self._levels):
            if self.left(name, burst, per_minute) >= burst:
                del self._levels[name]
