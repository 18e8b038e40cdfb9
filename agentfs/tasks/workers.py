"""Workers: who does tasks, what each is capable of, and whether it lives.

A worker is an agent, which gets its tasks in its inbox; a program, which reads them from `recv` of
the worker; or a pool of workflow workers. Agents and what they have registered live as long as
their process; of a program from outside, which the operator has registered, the kernel has to hear
something from time to time.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from agentfs.base.alarm import Alarm
from agentfs.base.errors import KernelError
from agentfs.base.models import validated
from agentfs.executors.pools import Pools
from agentfs.model.names import INIT_NAME, check_reserved
from agentfs.model.principal import Principal
from agentfs.model.process import Agent, Process
from agentfs.process.agents import Agents
from agentfs.process.events import ProcessSpawned
from agentfs.process.table import ProcessTable
from agentfs.quota.made import Made
from agentfs.rights.gate import Gate
from agentfs.rights.ownership import Access, Ownership
from agentfs.shared.registry import Registry
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged
from agentfs.store.ground import Ground
from agentfs.store.later import AGAIN, when_there_is_room
from agentfs.tasks.events import (
    WorkerChanged,
    WorkerHeartbeat,
    WorkerLost,
    WorkerRecovered,
    WorkerRegistered,
    WorkerRemoved,
)
from agentfs.tasks.model import TaskWorker, WorkerRequest, WorkerState
from agentfs.tasks.settings import TaskSettings, WorkerSettings

__all__ = ["Workers"]

log = logging.getLogger(__name__)

Gone = Callable[[TaskWorker, str], object]


class Workers(Registry[TaskWorker]):
    """All workers by name, and the system calls on them."""

    KIND = "worker"
    FOLDER = "/dev/workers"
    CHANGED = WorkerChanged

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        agents: Agents,
        made: Made,
        pools: Pools,
    ) -> None:
        super().__init__(ground, gate, table, agents, made, TaskWorker.read)
        self._timers = ground.timers
        self._pools = pools
        self._heard: dict[str, float] = {}  # of those that have to beat: when, as Clock.monotonic
        self._by_agent = self._by_name.index(_depends_on, "ownership", "agent")
        for name, worker in self._by_name.items():  # read before there was the index
            self._by_agent.add(_depends_on(worker), name, worker)
        self._came: Callable[[TaskWorker], object] = lambda worker: None
        self._gone: Gone = lambda worker, reason: None
        self._waits: Callable[[TaskWorker], bool] = lambda worker: False
        self._alarm = Alarm(ground.clock, ground.timers, self._look, ground.clock.monotonic)
        ground.events.listen(self._heard_of, ProcessSpawned, ConfigChanged)

    def follow(
        self,
        came: Callable[[TaskWorker], object],
        gone: Gone,
        waits: Callable[[TaskWorker], bool],
    ) -> None:
        """Call `came(worker)` when a worker may get tasks, or others than before, and
        `gone(worker, reason)` when it may get none any more; both inside the transaction of that.
        `waits(worker)` says whether a program waits for its tasks at this moment."""
        self._came, self._gone, self._waits = came, gone, waits

    # -- looking -----------------------------------------------------------------------------------

    def every(self) -> Iterator[TaskWorker]:
        """All workers, by name."""
        return (self._by_name[name] for name in self)

    def process_of(self, name: str) -> Process | Agent | None:
        """The process of an agent, or without one the agent: for rules that ask about it."""
        return self._table.by_name(name) or self._agents.find(name)

    def counts(self) -> dict[str, int]:
        """How many workers are in each state."""
        states = [worker.state for worker in self._by_name.values()]
        return {state.value: states.count(state) for state in WorkerState}

    # -- system calls ------------------------------------------------------------------------------

    def register(self, principal: Principal, request: WorkerRequest) -> TaskWorker:
        """Have a worker. One of that name and kind which is the caller's already is the same, with
        what is said now: a program that is started again registers again. EINVAL, EEXIST (it is
        somebody else's), ENOENT (no such agent or pool), EPERM (an agent registers only itself, and
        its own pools), EACCES, ENOSPC, EDQUOT."""
        with self._gate.enter(principal) as actor:
            known = self._known(principal, request)
            if known is not None:
                return known
            most = self._settings.of(WorkerSettings).max_workers
            owned = self._check_new(principal, actor, request.name, request.mode, most)
            check_reserved(request.name)
            self._check_namesake(principal, request)
            worker = TaskWorker(
                request.name,
                self._owner(principal, request, owned),
                int(self._clock.now() * 1e9),
                request.kind,
                self._clock.now(),
                agent=request.agent,
                pool=request.pool,
                capabilities=request.capabilities,
                capacity=request.capacity,
                stops=request.on_cancel == "stop",
            )
            if not self._lives(worker):
                worker.state = WorkerState.LOST
            self._add(worker)
            self._events.emit(
                WorkerRegistered(worker.ownership.owner, worker.name, worker.kind.value)
            )
            self._hear(worker)
            self._came(worker)
            return worker

    def _known(self, principal: Principal, request: WorkerRequest) -> TaskWorker | None:
        """The worker that is registered again, as it is now."""
        known = self.find(request.name)
        if known is None or not known.ownership.owned_by(principal):
            return None
        asked = (request.kind, request.agent, request.pool)
        if (known.kind, known.agent, known.pool) != asked:
            return None
        wanted = {"capabilities": request.capabilities, "capacity": request.capacity}
        stops = request.on_cancel == "stop"
        if (known.capabilities, known.capacity, known.stops) != (*wanted.values(), stops):
            self._update(known, **wanted, stops=stops)
            self._came(known)
        self._hear(known)
        self._revive(known)
        return known

    def _check_namesake(self, principal: Principal, request: WorkerRequest) -> None:
        """Whoever asks for a worker by the name of an agent means that agent."""
        namesake = self._agents.find(request.name)
        if namesake is not None and not principal.acts_for(namesake.name):
            raise KernelError(
                errno.EPERM,
                f"{request.name} is an agent: only that one and the operator may register a worker"
                " of its name",
                rule="name",
            )

    def _owner(self, principal: Principal, request: WorkerRequest, owned: Ownership) -> Ownership:
        if request.pool:
            pool = self._pools.get(request.pool)
            pool.ownership.require_owner(principal, f"have tasks done by {pool}")
        if not request.agent:
            return owned
        agent = self._agents.get(request.agent)
        if not principal.acts_for(agent.name):
            raise KernelError(
                errno.EPERM,
                f"only {agent.name} and the operator may make {agent.name} a worker, not"
                f" {principal.name}",
                rule="owner",
            )
        return Ownership(agent.name, agent.uid, agent.gid, request.mode)

    def remove(self, principal: Principal, name: str) -> None:
        """Have it no more: its tasks come back. ENOENT; EPERM unless the owner agent or the
        operator asks."""
        with self._gate.enter(principal):
            worker = self.get(name)
            worker.ownership.require_owner(principal, f"remove {worker}")
            self._remove(worker, f"worker {name} was removed")

    def _remove(self, worker: TaskWorker, reason: str) -> None:
        self._discard(worker)
        self._store.on_commit(partial(self._forget, worker))
        self._events.emit(WorkerRemoved(worker.ownership.owner, worker.name))
        self._gone(worker, reason)

    def _forget(self, worker: TaskWorker) -> None:
        worker.removed = True
        self._heard.pop(worker.name, None)

    def change(
        self,
        principal: Principal,
        name: str,
        capabilities: dict[str, Any] | None = None,
        capacity: int | None = None,
    ) -> None:
        """Let it be capable of something else, or have room for more or fewer tasks; it keeps
        those that it has. ENOENT; EPERM unless the owner agent or the operator asks; EINVAL."""
        with self._gate.enter(principal):
            worker = self.get(name)
            worker.ownership.require_owner(principal, f"change {worker}")
            given: dict[str, Any] = {"name": name}
            given |= {"capabilities": worker.capabilities if capabilities is None else capabilities}
            given |= {"capacity": worker.capacity if capacity is None else capacity}
            wanted = validated(given, WorkerRequest, "worker")
            self._update(worker, capabilities=wanted.capabilities, capacity=wanted.capacity)
            self._came(worker)

    def heartbeat(self, principal: Principal, name: str) -> None:
        """It lives. ENOENT; EACCES unless the caller may take from it."""
        with self._gate.enter(principal):
            worker = self.get(name)
            worker.ownership.require(principal, Access.TAKE, str(worker))
            self._by_name.change(name, heartbeat=self._clock.now())
            self._events.emit(WorkerHeartbeat(worker.ownership.owner, name))
            self._hear(worker)
            self._revive(worker)

    def seen(self, name: str) -> None:
        """Its program has asked for a task, or answered: as good as a heartbeat."""
        worker = self.find(name)
        if worker is None:
            return
        self._by_name.set(name, heartbeat=self._clock.now())
        self._hear(worker)
        if worker.state is WorkerState.LOST:
            with self._store.transaction():
                self._revive(worker)

    # -- life and death ----------------------------------------------------------------------------

    def load(self) -> None:
        """Those that have to beat could not while the daemon was away: they have all their time."""
        for worker in self._by_name.values():
            self._hear(worker)

    def take_up(self) -> None:
        """Of those that ended, or came back, while the daemon was away."""
        for worker in tuple(self._by_name.values()):
            check = partial(self._check, worker)
            when_there_is_room(self._timers, check, f"worker {worker.name} may be lost")

    def _lives(self, worker: TaskWorker) -> bool:
        """As far as the process table says."""
        name = _depends_on(worker)
        return name == INIT_NAME or self._table.by_name(name) is not None

    def _check(self, worker: TaskWorker) -> None:
        """See whether it lives. One from outside is lost only by its silence."""
        if self._by_name.get(worker.name) is not worker:
            return
        with self._store.transaction():
            if self._lives(worker):
                if not worker.beats:
                    self._revive(worker)
            else:
                self._lose(worker, f"{_depends_on(worker)} has no process")

    def _hear(self, worker: TaskWorker) -> None:
        if worker.beats:
            now = self._clock.monotonic()
            self._heard[worker.name] = now
            self._alarm.set(now + self._settings.of(TaskSettings).heartbeat_timeout)

    def _revive(self, worker: TaskWorker) -> None:
        if worker.state is WorkerState.LOST and self._lives(worker):
            self._by_name.change(worker.name, state=WorkerState.ACTIVE)
            self._events.emit(WorkerRecovered(worker.ownership.owner, worker.name))
            self._came(worker)

    def _lose(self, worker: TaskWorker, reason: str) -> None:
        if worker.state is WorkerState.ACTIVE:
            self._by_name.change(worker.name, state=WorkerState.LOST)
            self._events.emit(WorkerLost(worker.ownership.owner, worker.name, reason))
            self._gone(worker, f"worker {worker.name} is lost: {reason}")

    def _look(self) -> float | None:
        """Lose those of which nothing was heard; when to look again."""
        now, patience = self._clock.monotonic(), self._settings.of(TaskSettings).heartbeat_timeout
        active = [
            worker
            for name in self._heard
            if (worker := self.find(name)) and worker.state is WorkerState.ACTIVE and worker.beats
        ]
        for worker in active:
            if self._waits(worker):
                self._heard[worker.name] = now  # its program waits in a read
            elif self._heard[worker.name] + patience <= now:
                self._give_up(worker, f"nothing was heard of it for {patience:g} s")
        left = [self._heard[w.name] for w in active if w.state is WorkerState.ACTIVE]
        return max(min(left) + patience, now + AGAIN) if left else None

    def _give_up(self, worker: TaskWorker, reason: str) -> None:
        """Lose it; on a full disk it is tried again soon."""
        try:
            with self._store.transaction():
                self._lose(worker, reason)
        except KernelError as failure:
            log.warning("worker %s is not lost for now: %s", worker.name, failure)

    def process_ended(self, process: Process) -> None:
        """Its worker is lost with it, unless the agent has another process already."""
        for worker in tuple(self._by_agent.of(process.name).values()):
            if self._table.by_name(process.name) in (process, None):
                self._lose(worker, f"{process.name} has ended")

    def agent_removed(self, name: str) -> None:
        """The workers that were the agent go with it; what it has registered is init's."""
        for worker in tuple(self._by_name.values()):
            if worker.agent == name:
                self._remove(worker, f"{name} was removed")
        super().agent_removed(name)

    def _heard_of(self, record: Record) -> None:
        match record.event:
            case ProcessSpawned(agent=name):
                for worker in tuple(self._by_agent.of(name).values()):
                    self._check(worker)
            case ConfigChanged():
                self._alarm.set(self._look())


def _depends_on(worker: TaskWorker) -> str:
    """The agent with whose process it lives; init, who always does."""
    return worker.agent or worker.ownership.owner
