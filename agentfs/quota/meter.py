"""One use of a model or a tool, and the interface of everything that counts uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from agentfs.base.errors import KernelError
from agentfs.model.process import Process, Tier

__all__ = ["MICROS", "Bounded", "LimitError", "Meter", "Use"]

MICROS = 1_000_000
"""Costs are kept in millionths of a dollar: sums of whole numbers agree, whatever their order."""


@dataclass(frozen=True, slots=True)
class Use:
    """One call of a model (`kind` "llm", `name` the model) or of a tool (`kind` "tool").

    `input` and `output` are tokens; before the call, the most that it asks for. `cost` is in
    millionths of a dollar. `source` is the pid of the process whose budget it draws on; 0: none.
    """

    kind: str
    name: str
    tier: Tier
    input: int = 0
    output: int = 0
    cost: int = 0
    source: int = 0

    @property
    def tokens(self) -> int:
        return self.input + self.output


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

    def settle(self, process: Process, held: Use, actual: Use | None) -> None:
        """The call was made: count `actual` instead of what was held; None: it was not made."""


@runtime_checkable
class Bounded(Meter, Protocol):
    """A meter that bounds tokens and can say by how many: for calls that name no maximum."""

    def room(self, process: Process, use: Use) -> int | None:
        """The most tokens that `hold` would let through now for one more call such as `use`, which
        asks for one token; None: any number."""


class LimitError(KernelError):
    """A meter refuses: of `resource`, `limit` is allowed, and `used` is used or set aside."""

    def __init__(
        self, errno: int, reason: str, *, rule: str, resource: str, used: float, limit: float
    ) -> None:
        super().__init__(errno, reason, rule=rule)
        self.resource = resource
        self.used = used
        self.limit = limit
