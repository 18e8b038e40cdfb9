"""One use of a model or a tool, and the interface of everything that counts uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from agentfs.base.errors import KernelError
from agentfs.model.process import Process, Tier

__all__ = ["Bounded", "LimitError", "Meter", "Room", "Use"]


@dataclass(frozen=True, slots=True)
class Use:
    """One call of a model (`kind` "llm", `name` the model) or of a tool (`kind` "tool").

    `input` and `output` are tokens; before the call, the most that it asks for. `cache_read` and
    `cache_write` are tokens that were read, too, and are not in `input`: from what the provider had
    kept, and into that. `cost` is in millionths of a dollar. `source` is the pid of the process
    whose budget it draws on; 0: none. `estimated`: nobody said what was used. `provider` has
    answered, if the gateway made the call.
    """

    kind: str
    name: str
    tier: Tier
    input: int = 0
    output: int = 0
    cost: int = 0
    source: int = 0
    cache_read: int = 0
    cache_write: int = 0
    estimated: bool = False
    provider: str = ""

    @property
    def tokens(self) -> int:
        """All that were read or written: each of them counts."""
        return self.input + self.output + self.cache_read + self.cache_write


class Room(NamedTuple):
    """What is left for one more use: tokens, and millionths of a dollar. None: any number."""

    tokens: int | None = None
    cost: int | None = None

    def least(self, other: Room) -> Room:
        """What is left by both."""
        return Room(_least(self.tokens, other.tokens), _least(self.cost, other.cost))


def _least(one: int | None, two: int | None) -> int | None:
    return two if one is None else one if two is None else min(one, two)


class Meter(Protocol):
    """Counts uses against a bound: a budget, the limits of a process, those of a group.

    All of it happens inside the transaction of the call; on a rollback a meter has forgotten it.
    """

    @property
    def stored_name(self) -> str:
        """Its name in the records of open calls, which never changes."""

    def hold(self, process: Process, use: Use) -> None:
        """Set `use` aside before the call. Raises EDQUOT, EAGAIN or EMSGSIZE if it would exceed
        the bound, and has changed nothing then: of N that are allowed exactly N get through."""

    def grow(self, process: Process, held: Use, more: Use) -> None:
        """Set the tokens and the cost of `more` aside, too, for a call that has `held` set aside.
        Raises as `hold` does."""

    def settle(self, process: Process, held: Use, actual: Use | None) -> None:
        """The call was made: count `actual` instead of what was held; None: it was not made."""


@runtime_checkable
class Bounded(Meter, Protocol):
    """A meter that bounds tokens and can say by how many: for calls that name no maximum."""

    def room(self, process: Process, use: Use, held: int = 0) -> Room:
        """The most that `hold` would let through now for one more call such as `use`; or `grow`,
        for a call that has so many tokens set aside."""


class LimitError(KernelError):
    """A meter refuses: of `resource`, `limit` is allowed, and `used` is used or set aside."""

    def __init__(
        self, errno: int, reason: str, *, rule: str, resource: str, used: float, limit: float
    ) -> None:
        super().__init__(errno, reason, rule=rule)
        self.resource = resource
        self.used = used
        self.limit = limit
