"""The executor of function and service_call nodes: workers do them, those of a pool or those that
the kernel starts for the code of the pipeline."""

from __future__ import annotations

import errno
from typing import ClassVar

from agentfs.base.errors import KernelError
from agentfs.executors.desk import StepDesk
from agentfs.executors.events import PoolRefused
from agentfs.executors.line import PoolLine
from agentfs.executors.pools import Pools
from agentfs.executors.workers import CodeWorkers
from agentfs.manifests.plan import PlanNode
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.model.process import Process
from agentfs.process.table import ProcessTable
from agentfs.rights.policy import Policy
from agentfs.store.ground import Ground
from agentfs.workflow.model import Step

__all__ = ["Functions"]


class Functions:
    """It finds the line that a step waits in. The time of an attempt begins when a worker has
    it."""

    kinds: ClassVar = frozenset({"function", "service_call"})

    def __init__(
        self, ground: Ground, table: ProcessTable, policy: Policy, pools: Pools, code: CodeWorkers
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._table = table
        self._policy = policy
        self._pools = pools
        self._code = code
        self._desk: StepDesk = pools.desk

    def room(self, node: PlanNode) -> int | None:
        """Any number of them may wait."""
        return None

    def begin(self, step: Step) -> None:
        """Raises ENOENT, EACCES and EPERM of the pool; EINVAL for a node without pool or code."""
        self._desk.begin(step, self._line(step))

    def start(self, step: Step, again: bool) -> None:
        line = self._desk.line_of(step.ref)
        if line is None:
            try:
                with self._store.transaction():
                    line = self._line(step)
            except KernelError as refusal:
                self._desk.refuse(step.ref, refusal)
                return
        self._desk.start(step, line, again)
        self._code.called(line)

    def cancel(self, step: Step) -> None:
        self._desk.cancel(step)

    def due(self, step: Step) -> None:
        """None of them waits for a time."""

    def _line(self, step: Step) -> PoolLine:
        name = str(step.spec.get("pool") or "")
        if not name:
            if not step.plan.code:
                raise KernelError(
                    errno.EINVAL,
                    f"node {step.ref.path} has no `pool`, and its pipeline has no `code`",
                )
            return self._code.line(step)
        principal = self._starter(step.process)
        try:
            pool = self._pools.check_use(principal, self._policy.capabilities(step.process), name)
        except KernelError as refusal:
            if refusal.errno == errno.EPERM and step.plan.code:
                return self._code.line(step)
            if refusal.is_refusal:
                self._tell(step, name, principal, refusal)
            raise
        return pool.line

    def _starter(self, run: Process) -> Principal:
        """Whoever the run is for: the agent that started it."""
        agent = self._table.agent_of(run)
        kind = Kind.OPERATOR if agent.pid == INIT else Kind.AGENT
        return Principal(kind, agent.pid, agent.name, run.uid, run.gid)

    def _tell(self, step: Step, pool: str, starter: Principal, refusal: KernelError) -> None:
        """What is refused is told of, although the transaction of the refusal fails."""

        def tell() -> None:
            with self._store.transaction():
                ref = step.ref
                self._events.emit(
                    PoolRefused(pool, starter.name, ref.run, ref.path, refusal.reason)
                )

        self._store.on_end(tell)
