"""What all calls share, and what one of them is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from agentfs.dialects.dialect import Request
from agentfs.dialects.usage import Ratios
from agentfs.gateway.catalogue import Catalogue
from agentfs.gateway.ledger import CallingProcess, Ledger
from agentfs.gateway.outlet import Outlet
from agentfs.gateway.providers import Providers
from agentfs.gateway.source import Headers

if TYPE_CHECKING:
    from agentfs.gateway.attempt import Attempt

__all__ = ["CANCELLED", "GONE", "Interrupt", "Job", "Office"]

GONE = "the caller has gone"
CANCELLED = "the call was cancelled"


class Interrupt:
    """Why a call is to stop, if it is."""

    def __init__(self) -> None:
        self.why = ""
        self._scope: trio.CancelScope | None = None

    def gone(self) -> None:
        """The caller is not there any more."""
        self._now(GONE)

    def cancel(self) -> None:
        """Somebody has said so."""
        self._now(CANCELLED)

    def _now(self, why: str) -> None:
        self.why = self.why or why
        if self._scope is not None:
            self._scope.cancel()

    @contextmanager
    def scope(self) -> Iterator[trio.CancelScope]:
        """What waits in the block is cancelled if the call is to stop."""
        with trio.CancelScope() as scope:
            self._scope = scope
            if self.why:
                scope.cancel()
            try:
                yield scope
            finally:
                self._scope = None


@dataclass(slots=True)
class Job:
    """A request of a caller. `target` is the path and query for the provider; `headers` are those
    that it gets of the caller's."""

    caller: CallingProcess
    request: Request
    target: str
    headers: Headers
    answer: Outlet
    interrupt: Interrupt = field(default_factory=Interrupt)


class Office:
    """`open` has the calls that have begun, by their number."""

    def __init__(self, ledger: Ledger, providers: Providers) -> None:
        self.ledger, self.providers = ledger, providers
        self.ratios = Ratios()
        self.open: dict[int, Attempt] = {}

    @property
    def catalogue(self) -> Catalogue:
        return self.providers.catalogue
