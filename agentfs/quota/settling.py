"""The end of a call: it is open no more, and what it used counts instead of what it held."""

from __future__ import annotations

from dataclasses import replace

from agentfs.catalog.catalog import Catalog
from agentfs.model.process import Process
from agentfs.process.events import ProcessChanged
from agentfs.process.table import ProcessTable
from agentfs.quota.call import Call
from agentfs.quota.meter import Use
from agentfs.quota.meters import Meters
from agentfs.quota.open_calls import OpenCalls
from agentfs.quota.relay import Used
from agentfs.store.ground import Ground

__all__ = ["Settling"]


class Settling:
    """Each of its methods belongs inside the transaction of a call, or is one of its own."""

    def __init__(
        self, ground: Ground, table: ProcessTable, meters: Meters, open_calls: OpenCalls
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._table = table
        self._catalog: Catalog = meters.catalog
        self._meters = meters
        self._open = open_calls

    def priced(self, call: Call, used: Used, *, estimated: bool = False) -> Use:
        """What a call has used, at the prices of now."""
        held, relay = call.held, call.relay
        tokens = (used.input, used.output, used.cache_read, used.cache_write)
        return replace(
            held,
            input=used.input,
            output=used.output,
            cache_read=used.cache_read,
            cache_write=used.cache_write,
            cost=self._catalog.cost(held.name, *tokens),
            estimated=estimated,
            provider="" if relay is None else relay.provider,
        )

    def so_far(self, call: Call) -> Use:
        """What a call has used by now as far as anybody knows: what it holds, or, of one that the
        gateway makes, the estimate of its input and the tokens that have come."""
        if call.relay is None:
            return call.held
        used = Used(call.held.input, call.relay.output)
        return self.priced(call, used, estimated=True)

    def close(self, process: Process, call: Call, actual: Use | None, error: str = "") -> None:
        """The call used `actual`; None: it was not made. `error`: why it failed."""
        with self._store.transaction():
            self._open.remove(process, call, error)
            if actual is None:
                self._meters.let_go(process, call)
            else:
                self.count(process, call, actual)

    def count(self, process: Process, call: Call, actual: Use) -> None:
        """Count `actual` instead of what was set aside for a call."""
        self._meters.count(process, call, actual)
        tokens = actual.tokens
        if tokens:
            for each in self._table.accounts(process):
                self._table.update(each, tokens=each.tokens + tokens)
                self._events.emit(ProcessChanged(each.pid, each.name))
