"""What has to be free before an attempt may begin: concurrency keys, rates, circuit breakers.

Keys are counted from the rows of the nodes that hold them, so none is held by nobody. The state of
a rate and of a breaker is a record of its policy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from agentfs.manifests.plan import Breaker, PlanNode, Rate
from agentfs.store.ground import Ground
from agentfs.store.records import Records, keep_item

__all__ = ["BREAKERS", "RATES", "Breaking", "Holder", "StepSlots"]

BREAKERS, RATES = "breaker", "rate"
"""The records in the store, by the policy's name."""

Holder = tuple[int, str]
"""A run, and the path of a node in it; empty: the run as a whole."""


@dataclass(slots=True)
class Breaking:
    """A breaker. `opened` is when it broke, wall clock; 0: it has not. `probe` is the one attempt
    that decides whether it heals."""

    failures: int = 0
    opened: float = 0.0
    probe: str = ""


@dataclass(slots=True)
class _Rated:
    """`free`: when the bucket of a rate is full again, wall clock."""

    free: float = 0.0


class StepSlots:
    """Changes belong inside a transaction of the store, and are undone with it."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._held: dict[str, dict[Holder, None]] = {}
        self._breakers = Records(
            ground.store, BREAKERS, lambda name, record: (name, Breaking(**record)), asdict
        )
        self._rates = Records(
            ground.store, RATES, lambda name, record: (name, _Rated(**record)), asdict
        )

    def load(self, holders: Iterable[tuple[str, Holder]]) -> None:
        """Read everything from the store; `holders` hold these keys."""
        self._breakers.load()
        self._rates.load()
        self._held.clear()
        for key, holder in holders:
            self._held.setdefault(key, {})[holder] = None

    # -- concurrency keys ------------------------------------------------------------------------

    def holders(self, key: str) -> list[Holder]:
        """Those that hold a key, the first one first."""
        return [*self._held.get(key, ())]

    def count_holders(self, key: str) -> int:
        return len(self._held.get(key, ()))

    def take(self, key: str, holder: Holder) -> None:
        held = self._held.setdefault(key, {})
        keep_item(self._store, held, holder)
        held[holder] = None

    def free(self, key: str, holder: Holder) -> None:
        held = self._held.get(key, {})
        if holder in held:
            keep_item(self._store, held, holder)
            del held[holder]

    def trim(self) -> None:
        """Forget keys that nobody holds."""
        for key in [key for key, held in self._held.items() if not held]:
            del self._held[key]

    # -- rates and breakers ----------------------------------------------------------------------

    def wait(self, node: PlanNode) -> tuple[str, float]:
        """What an attempt of `node` has to wait for, and how long, in seconds; 0 is not at all,
        and infinity until another attempt has ended."""
        now = self._clock.now()
        if node.breaker is not None:
            wait = self._broken(node.breaker, now)
            if wait:
                return f"breaker:{node.breaker.policy}", wait
        if node.rate is not None:
            rated = self._rates.get(node.rate.policy)
            wait = 0.0 if rated is None else rated.free - _burst(node.rate) - now
            if wait > 0:
                return f"rate:{node.rate.policy}", wait
        return "", 0.0

    def _broken(self, breaker: Breaker, now: float) -> float:
        state = self._breakers.get(breaker.policy)
        if state is None or not state.opened:
            return 0.0
        if state.probe:
            return float("inf")
        return max(0.0, state.opened + breaker.seconds - now)

    def count(self, node: PlanNode) -> None:
        """An attempt has begun, which counts for its rate."""
        if node.rate is not None:
            rate, now = node.rate, self._clock.now()
            before = self._rates.get(rate.policy)
            free = max(now, before.free if before else 0.0) + rate.seconds / rate.calls
            self._rates.put(rate.policy, _Rated(free))

    def probe(self, node: PlanNode, holder: Holder) -> None:
        """An attempt is about to begin: behind a breaker that has opened it is the one that
        decides, until `ended`."""
        if node.breaker is not None:
            state = self._breakers.get(node.breaker.policy)
            if state is not None and state.opened:
                self._breakers.change(node.breaker.policy, probe=_name(holder))

    def ended(self, node: PlanNode, holder: Holder, good: bool | None) -> bool:
        """An attempt has ended; None: nobody knows whether it would have succeeded. Returns whether
        others may go on now that had to wait."""
        if node.breaker is None:
            return False
        policy = node.breaker.policy
        state = self._breakers.get(policy)
        if state is None:
            if good is False:
                self._count(node.breaker, Breaking())
            return False
        probed = state.probe == _name(holder)
        if good:
            self._breakers.drop(policy)
        elif good is False:
            self._count(node.breaker, Breaking(state.failures, 0.0 if probed else state.opened))
        elif probed:
            self._breakers.change(policy, probe="")
        return probed or bool(good)

    def _count(self, breaker: Breaker, state: Breaking) -> None:
        state.failures += 1
        if state.failures >= breaker.failures and not state.opened:
            state.opened = self._clock.now()
        self._breakers.put(breaker.policy, state)


def _burst(rate: Rate) -> float:
    """How many seconds' worth of a rate may be used at once."""
    return rate.seconds * (rate.calls - 1) / rate.calls


def _name(holder: Holder) -> str:
    return f"{holder[0]}/{holder[1]}"
