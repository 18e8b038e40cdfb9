"""Nodes that a person decides: `approval: {question, approvers, timeout}`.

Each is a request in /dev/approvals, of the agent that started the run, in the commit that begins
the attempt. So nobody decides for a run of their own, and the operator may decide for all. A
decision that comes when a daemon dies is found by the next one.
"""

from __future__ import annotations

import errno
from dataclasses import asdict, dataclass

from agentfs.approvals.approvals import Approvals
from agentfs.approvals.events import ApprovalDecided
from agentfs.approvals.request import OPERATOR, ApprovalRequest, ApprovalState
from agentfs.base.content import Content
from agentfs.base.errors import ApprovalError, KernelError
from agentfs.executors.ends import beginning, end
from agentfs.executors.messages import as_body
from agentfs.executors.spec import duration
from agentfs.executors.starters import starter_of
from agentfs.manifests.plan import PlanNode
from agentfs.process.agents import Agents
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step, StepRef

__all__ = ["KIND", "ApprovalNodes", "Gated"]

KIND = "step_approval"
"""The records in the store: the attempt that waits for a request, by the request's number."""

PATIENCE = 86_400.0
"""Seconds that a request waits unless the node says so: a person may be asleep."""


@dataclass(frozen=True, slots=True)
class Gated:
    """The attempt that goes on once somebody agrees."""

    run: int
    path: str
    attempt: int

    @property
    def ref(self) -> StepRef:
        return StepRef(self.run, self.path, self.attempt)


class ApprovalNodes(Part):
    """The output is `{"approved": true, "by": NAME}`. A rejection fails the node with EACCES and
    its reason, and no other attempt follows; without a decision in time it is ETIMEDOUT."""

    kinds = frozenset({"approval"})

    def __init__(
        self, ground: Ground, engine: Engine, approvals: Approvals, agents: Agents
    ) -> None:
        self._store, self._clock = ground.store, ground.clock
        self._engine = engine
        self._approvals = approvals
        self._agents = agents
        self._gated = Records(
            ground.store, KIND, lambda key, record: (int(key), Gated(**record)), asdict
        )
        self._of_step = self._gated.index(lambda gated: (gated.run, gated.path), "run")
        ground.events.listen(self._heard, ApprovalDecided)

    def load(self) -> None:
        self._gated.load()

    # -- an executor -------------------------------------------------------------------------------

    def room(self, node: PlanNode) -> int | None:
        return None

    def begin(self, step: Step) -> None:
        with beginning(self._engine, step):
            request = self._approvals.file(self._needed(step))
            self._gated.put(request.id, Gated(**asdict(step.ref)))
            self._engine.wait(step.ref)

    def start(self, step: Step, again: bool) -> None:
        """It waits since the commit in which it began."""

    def due(self, step: Step) -> None:
        """Its request has the time, and not its row."""

    def cancel(self, step: Step) -> None:
        for number in tuple(self._of_step.of((step.ref.run, step.ref.path))):
            self._gated.drop(number)
            self._approvals.withdraw(number, f"run {step.ref.run} does not wait for it any more")

    def _needed(self, step: Step) -> ApprovalError:
        spec, ref, process = step.spec, step.ref, step.process
        principal = starter_of(step.process, self._agents)
        timeout = duration(spec, "timeout", PATIENCE)
        if step.deadline is not None:
            timeout = min(timeout, max(0.0, step.deadline - self._clock.now()))
        return ApprovalError(
            "a node of a run waits for an approval",
            rule="approval node",
            pid=process.pid,
            agent=principal.name,
            user=process.user,
            action="continue",
            path=f"/proc/runs/{ref.run}/nodes/{ref.path}",
            by=_deciders(spec.get("approvers"), principal.name),
            timeout=timeout,
            content=Content.of(as_body(spec.get("question", step.input))),
        )

    # -- decisions ---------------------------------------------------------------------------------

    def take_up(self) -> None:
        """Of what was decided before the last daemon could say so."""
        for number in tuple(self._gated):
            request = self._approvals.find(number)
            if request is None or request.state is not ApprovalState.PENDING:
                self._over(number)

    def _heard(self, record: Record) -> None:
        self._over(int(record.event.id))  # type: ignore[attr-defined]  # it has one

    def _over(self, number: int) -> None:
        """It is decided, or never will be. The step ends first: a daemon that dies before the
        request is used up finds that out."""
        gated = self._gated.get(number)
        if gated is None:
            return
        request = self._approvals.find(number)
        if request is not None and request.agreed:
            output = {"approved": True, "by": request.who}
            end(lambda: self._engine.succeed(gated.ref, output))
        else:
            failure, kind = _why(request)
            end(lambda: self._engine.fail(gated.ref, str(failure), again=False, kind=kind))
        with self._store.transaction():
            self._gated.drop(number)
            if request is not None and request.state is ApprovalState.APPROVED:
                self._approvals.use(number)


def _deciders(named: object, starter: str) -> str:
    """Those who may decide beside the operator. Nobody decides for a run of their own."""
    names = named if isinstance(named, list) else [named] if named else []
    others = [str(name) for name in names if str(name) not in (starter, OPERATOR)]
    return ", ".join(others) or OPERATOR


def _why(request: ApprovalRequest | None) -> tuple[KernelError, str]:
    """Why the node fails, and the kind of that failure."""
    if request is None:
        return KernelError(errno.ECANCELED, "the request for an approval is no more"), "cancelled"
    why = f": {request.reason}" if request.reason else ""
    match request.state:
        case ApprovalState.REJECTED:
            words = f"request {request.name} was rejected by {request.who}{why}"
            return KernelError(errno.EACCES, words), "rejected"
        case ApprovalState.EXPIRED:
            words = f"nobody decided request {request.name} in time"
            return KernelError(errno.ETIMEDOUT, words), "timeout"
    words = f"request {request.name} was withdrawn{why}"
    return KernelError(errno.ECANCELED, words), "cancelled"
