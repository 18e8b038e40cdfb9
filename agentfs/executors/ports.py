"""Ports: names for something that can be asked, whatever it is. An adapter says what is behind one;
several adapters are a pool.

Of a pool `failover` asks the first, and the next one if that fails; `round_robin` begins with the
one after that which it began with last. A refusal of the request itself is the answer of all.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from agentfs.base.errors import KernelError
from agentfs.executors.behind import Adapter, Behind
from agentfs.executors.ends import FOR_GOOD
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.rights.gate import Gate
from agentfs.store.part import Part
from agentfs.vfs.exchange import PendingReply

__all__ = ["PortTally", "Ports"]

T = TypeVar("T")


@dataclass(slots=True)
class PortTally:
    """What an adapter was asked since the daemon started. `open`: calls under way."""

    calls: int = 0
    open: int = 0
    failures: int = 0
    failure: str = ""


class Ports(Part):
    """`behind` has each kind of what may be there; `adapters(name)` is the adapter of a name, as
    its document says it."""

    def __init__(
        self,
        gate: Gate,
        behind: Mapping[str, Behind],
        adapters: Callable[[str], Adapter | None],
    ) -> None:
        self._gate = gate
        self._behind = behind
        self._adapters = adapters
        self._tallies: dict[str, PortTally] = {}
        self._turns: dict[str, int] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # -- looking -----------------------------------------------------------------------------------

    def find(self, name: str) -> Adapter | None:
        """The adapter of that name."""
        return self._adapters(name)

    def tally(self, name: str) -> PortTally:
        """What the adapter of that name was asked."""
        return self._tallies.get(name, PortTally())

    def kind_of(self, adapter: Adapter) -> str:
        """What is behind an adapter: `program`, `queue` and so on; empty for a pool."""
        return next((kind for kind in self._behind if kind in adapter), "")

    # -- asking ------------------------------------------------------------------------------------

    def call(self, principal: Principal, name: str, request: bytes, reply: PendingReply) -> None:
        """Begin to ask the adapter of that name; the answer goes to `reply`. Raises ENOENT, EACCES
        (a capability that it requires), and EAGAIN while the system begins or ends."""
        adapter = self._adapters(name)
        if adapter is None:
            raise KernelError(errno.ENOENT, f"there is no adapter {name!r}")
        process = self._gate.actor(principal)
        self._require(process, adapter)
        if self._nursery is None:
            raise KernelError(errno.EAGAIN, "the system is just starting, or being shut down")
        scope = trio.CancelScope()
        reply.on_cancel(scope.cancel)
        self._nursery.start_soon(self._serve, process, adapter, request, (reply, scope))

    async def _serve(
        self,
        process: Process,
        adapter: Adapter,
        request: bytes,
        to: tuple[PendingReply, trio.CancelScope],
    ) -> None:
        reply, scope = to
        failure: KernelError | None = KernelError(errno.ECANCELED, "the call was ended")
        try:
            with scope:
                await reply.wanted()
                await reply.put(await self.ask(process, "", adapter, request))
                failure = None
        except KernelError as bad:
            failure = bad
        except OSError as bad:
            failure = KernelError.from_os(bad, str(adapter["adapter"]))
        finally:
            reply.end(failure)

    async def ask(self, process: Process, port: str, behind: Adapter, request: bytes) -> bytes:
        """The answer of what stands behind `port`: an adapter, or a pool of them. Raises what the
        last that was asked raises."""
        return await self.first(port, behind, lambda adapter: self._ask(process, adapter, request))

    async def first(self, port: str, behind: Adapter, ask: Callable[[Adapter], Awaitable[T]]) -> T:
        """What `ask` gives of the first adapter of a pool that does not fail in passing."""
        failure = KernelError(errno.ENODEV, f"there is no adapter behind the port {port}")
        for adapter in self._in_turn(port, behind):
            try:
                return await ask(adapter)
            except KernelError as bad:
                failure = bad
                if bad.errno in FOR_GOOD:
                    break
        raise failure

    def _in_turn(self, port: str, behind: Adapter) -> list[Adapter]:
        """The adapters of a pool, in the order in which they are to be asked."""
        if "adapters" not in behind:
            return [behind]
        members = [each for one in behind["adapters"] for each in self._in_turn(port, one)]
        if behind.get("strategy") == "failover" or not members:
            return members
        key = f"{port} {json.dumps(behind, sort_keys=True)}"
        turn = self._turns.get(key, 0)
        self._turns[key] = turn + 1
        first = turn % len(members)
        return members[first:] + members[:first]

    async def _ask(self, process: Process, adapter: Adapter, request: bytes) -> bytes:
        self._require(process, adapter)
        with self._counting(str(adapter["adapter"])):
            return await self._behind[self.kind_of(adapter)].ask(process, adapter, request)

    def _require(self, process: Process, adapter: Adapter) -> None:
        for capability in adapter.get("requires") or ():
            self._gate.policy.require_capability(process, capability)

    def _counting(self, name: str) -> Any:
        return _Counted(self._tallies.setdefault(name, PortTally()))


class _Counted:
    """The block is one call."""

    def __init__(self, tally: PortTally) -> None:
        self._tally = tally

    def __enter__(self) -> None:
        self._tally.calls += 1
        self._tally.open += 1

    def __exit__(self, kind: object, failure: object, trace: object) -> None:
        self._tally.open -= 1
        if isinstance(failure, KernelError):
            self._tally.failures += 1
            self._tally.failure = str(failure)
