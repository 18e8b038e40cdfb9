"""Pools: workers that somebody runs take the steps of workflows from them.

A pool has an owner and a mode, as a queue has: who may read it may work, and who may write to it
may give it steps. It has capabilities, too: those that a run of its maker had when it was made, or
fewer. No program of an agent with more of them works at it, and no run with fewer of them uses it,
so that nobody has done by a worker what he may not do himself.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.executors.desk import StepDesk
from agentfs.executors.events import PoolChanged, PoolCreated, PoolRemoved
from agentfs.executors.line import PoolLine
from agentfs.executors.settings import PoolSettings
from agentfs.model.capability import EVERYTHING, CapabilitySet
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.process.agents import Agents
from agentfs.process.light import ROLE
from agentfs.process.table import ProcessTable
from agentfs.quota.made import Made
from agentfs.rights.gate import Gate
from agentfs.rights.ownership import Access, Ownership
from agentfs.shared.registry import Registry
from agentfs.store.ground import Ground
from agentfs.store.records import keep_item

__all__ = ["Pool", "Pools"]


@dataclass(slots=True, eq=False)
class Pool:
    """One pool. `caps` is the most that a worker of it may, `changed` (ns) when its mode, owner or
    capabilities did last. `workers`: only programs below this process work here; 0: those that the
    mode lets. Only `Pools` changes its fields."""

    name: str
    ownership: Ownership
    changed: int
    caps: CapabilitySet = EVERYTHING
    removed: bool = False
    workers: int = 0
    line: PoolLine = field(init=False)

    def __post_init__(self) -> None:
        self.line = PoolLine(self.name, self.workers)

    def __str__(self) -> str:
        return f"pool {self.name}"

    def record(self) -> dict[str, Any]:
        """Its record in the store."""
        caps = {} if self.caps == EVERYTHING else {"caps": self.caps.record()}
        return self.ownership.record() | {"changed": self.changed} | caps

    @classmethod
    def read(cls, name: str, record: dict[str, Any]) -> Pool:
        caps = record.get("caps")
        return cls(
            name,
            Ownership.from_record(record),
            record["changed"],
            EVERYTHING if caps is None else CapabilitySet.from_record(caps),
        )


class Pools(Registry[Pool]):
    """All pools by name, and the system calls on them. Loads itself from the store."""

    KIND = "pool"
    FOLDER = "/dev/pools"
    CHANGED = PoolChanged

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        agents: Agents,
        made: Made,
        desk: StepDesk,
    ) -> None:
        super().__init__(ground, gate, table, agents, made, Pool.read)
        self.desk = desk
        self._lent: dict[str, Pool] = {}

    # -- those that the kernel makes ---------------------------------------------------------------

    def lend(self, pool: Pool) -> None:
        """Show a pool of the kernel's own beside the others. Nobody can change it."""
        if self._store.in_transaction:
            keep_item(self._store, self._lent, pool.name)
        self._lent[pool.name] = pool
        self._touch()

    def caps_of(self, process: Process) -> CapabilitySet:
        """What a process may now."""
        return self._gate.policy.capabilities(process)

    def take_back(self, pool: Pool) -> None:
        """It is gone."""
        pool.removed = True
        self._lent.pop(pool.name, None)
        self._touch()

    def find(self, name: str) -> Pool | None:
        return self._lent.get(name) or super().find(name)

    def get(self, name: str) -> Pool:
        """One that somebody has made. Raises ENOENT; EPERM for one of the kernel's own."""
        if name in self._lent:
            raise KernelError(
                errno.EPERM, f"pool {name} is the kernel's, for the code of one pipeline"
            )
        return super().get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted([*self._by_name, *self._lent]))

    # -- those that are made -----------------------------------------------------------------------

    def create(self, principal: Principal, name: str, mode: int) -> Pool:
        """Make a pool with exactly these mode bits; its workers may what its maker may now. EINVAL,
        EEXIST, EACCES, ENOSPC."""
        with self._gate.enter(principal) as actor:
            most = self._settings.of(PoolSettings).max_pools
            ownership = self._check_new(principal, actor, name, mode, most)
            caps = self._for_runs(self._gate.policy.capabilities(actor))
            pool = Pool(name, ownership, int(self._clock.now() * 1e9), caps)
            self._add(pool)
            self._events.emit(PoolCreated(name, ownership.owner))
            return pool

    def remove(self, principal: Principal, name: str, *, force: bool = False) -> None:
        """Remove a pool. ENOENT; EPERM unless the owner agent or the operator asks; ENOTEMPTY if
        there are steps in it, unless by `force`: then they fail."""
        with self._gate.enter(principal):
            pool = self.get(name)
            pool.ownership.require_owner(principal, f"remove {pool}")
            waiting, working = len(pool.line), len(pool.line.claims)
            if (waiting or working) and not force:
                raise KernelError(
                    errno.ENOTEMPTY,
                    f"in {pool} {waiting} steps wait and {working} are being done; `remove` in its"
                    " ctl fails them",
                    rule="pool in use",
                )
            self._discard(pool)
            self._store.on_commit(lambda: self._end(pool))
            self._events.emit(PoolRemoved(name))

    def _end(self, pool: Pool) -> None:
        pool.removed = True
        self.desk.close(pool.line, f"{pool} was removed")

    def narrow(self, principal: Principal, name: str, allowed: Iterable[str]) -> None:
        """Let its workers have these capabilities at most. ENOENT; EPERM unless the owner agent or
        the operator asks, and if that is more than the caller has; EINVAL."""
        with self._gate.enter(principal) as actor:
            pool = self.get(name)
            pool.ownership.require_owner(principal, f"change {pool}")
            wanted = self._for_runs(CapabilitySet.of(allowed))
            if not wanted.within(self._gate.policy.capabilities(actor)):
                raise KernelError(
                    errno.EPERM,
                    f"{principal.name} may not give {pool} more than it may itself",
                    rule="capabilities",
                )
            self._update(pool, caps=wanted)

    def check_work(self, principal: Principal, pool: Pool) -> None:
        """Raise EACCES, EPERM or ESTALE unless a program of `principal` may work here."""
        actor = self._gate.actor(principal)
        if pool.removed:
            raise KernelError(errno.ESTALE, f"{pool} was removed")
        if pool.workers:
            if actor.ppid != pool.workers:
                raise KernelError(
                    errno.EACCES, f"only workers that the kernel has started work at {pool}"
                )
            return
        pool.ownership.require(principal, Access.TAKE, str(pool))
        if not principal.is_operator:
            caps = self._for_runs(self._gate.policy.capabilities(actor))
            self._check_caps(principal.name, caps, pool)

    def _for_runs(self, caps: CapabilitySet) -> CapabilitySet:
        """Those that a run can have at all: what others a worker has makes no difference to one."""
        return caps & self._gate.policy.role_capabilities(ROLE)

    def check_use(self, principal: Principal, caps: CapabilitySet, name: str) -> Pool:
        """The pool, for a step of a run of `principal` that may `caps`. ENOENT; EACCES unless it
        may write to the pool; EPERM if workers there may do what the run may not."""
        pool = self.get(name)
        pool.ownership.require(principal, Access.SEND, str(pool))
        if not pool.caps.within(caps):
            more = ", ".join(_beyond(pool.caps, caps)) or "other tools"
            raise KernelError(
                errno.EPERM,
                f"workers of {pool} may do more than the run: {more}; `caps` in the pool's ctl"
                " makes it less",
                rule="capabilities",
            )
        return pool

    @staticmethod
    def _check_caps(name: str, caps: CapabilitySet, pool: Pool) -> None:
        if not caps.within(pool.caps):
            more = ", ".join(_beyond(caps, pool.caps)) or "other tools"
            raise KernelError(
                errno.EPERM,
                f"{name} may do more than a worker of {pool}: {more}; give its process fewer"
                " capabilities",
                rule="capabilities",
            )


def _beyond(caps: CapabilitySet, less: CapabilitySet) -> Iterator[str]:
    """The plain names that only the first one has."""
    for line in caps.lines:
        if not line.startswith(("-", "tool:", "&")) and not less.allows(line):
            yield line
