"""The refusal of a use, and its consequences by `on_limit` of the process's definition."""

from __future__ import annotations

import errno

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.model.process import OnLimit, Process, Role, Tier
from agentfs.process.signals import Signals
from agentfs.process.table import ProcessTable
from agentfs.quota.alerts import Alerts
from agentfs.quota.events import ResourceStopped
from agentfs.quota.meter import LimitError
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground

__all__ = ["Enforcement", "Refusal", "check_model"]


def check_model(process: Process, name: str, tier: Tier) -> None:
    """Raise EPERM if a model of `tier` is above what `process` may use."""
    if tier is not process.tier and tier.rank < process.tier.rank:
        raise KernelError(
            errno.EPERM,
            f"{name} is a {tier.value} model, and {process.name} is {process.tier.value}",
            rule="tier",
        )


class Refusal(Exception):  # noqa: N818  # carries a meter's refusal out of its transaction
    """`why` a meter has refused a use to `process`."""

    def __init__(self, process: Process, why: KernelError) -> None:
        super().__init__(why)
        self.process = process
        self.why = why


class Enforcement:
    """Counts refusals, and ends a process that asks for that."""

    def __init__(
        self, ground: Ground, gate: Gate, table: ProcessTable, alerts: Alerts, signals: Signals
    ) -> None:
        self._events = ground.events
        self._gate = gate
        self._table = table
        self._alerts = alerts
        self._signals = signals

    def refuse(self, principal: Principal, process: Process, why: KernelError) -> str:
        """A use was refused to `process`; the transaction of its call is rolled back, and this is
        another one. Raises the refusal; if the process wants to skip, returns its rule instead."""
        resource = why.resource if isinstance(why, LimitError) else why.rule
        with self._gate.enter(principal):
            self._alerts.refused(process, resource)
            if isinstance(why, LimitError):
                self._alerts.exceeded(process, resource, why.used, why.limit)
            if process.on_limit is OnLimit.STOP and process.role is not Role.KERNEL:
                self._stop(process, resource)
        if process.on_limit is OnLimit.SKIP:
            return why.rule
        raise why

    def _stop(self, process: Process, resource: str) -> None:
        """TERM, then KILL."""
        if not process.stopping:  # another TERM would begin the grace period anew
            self._table.update(process, reason=f"limit: {resource}")
            self._events.emit(ResourceStopped(process.pid, process.name, resource))
            self._signals.send(process, "TERM")
