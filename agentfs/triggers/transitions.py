"""Nodes of the kind `transition`: an entity goes on to another state, as a step of a run.

The transition and the end of the attempt are one commit, so it is made once. Where the machine has
a process for it, the node waits, and ends in the commit of that run's end.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.manifests.plan import PlanNode
from agentfs.model.principal import Kind, Principal
from agentfs.store.ground import Ground
from agentfs.store.part import EndedWork, Part
from agentfs.store.records import Records
from agentfs.triggers.entities import Entities, Transition, WantedState
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step, StepRef

__all__ = ["KIND", "TransitionSteps"]

log = logging.getLogger(__name__)

KIND = "transition-step"
"""The records in the store, by the run that a step waits for."""

FINAL = (errno.EINVAL, errno.ENOENT, errno.ELOOP)
"""Refusals that another attempt would get, too."""


@dataclass(slots=True)
class Waiting:
    """A step whose transition waits for a run."""

    ref: StepRef
    made: Transition

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"ref": asdict(self.ref), "made": asdict(self.made)}


def _read(key: str, record: dict[str, Any]) -> tuple[int, Waiting]:
    return int(key), Waiting(StepRef(**record["ref"]), Transition(**record["made"]))


class TransitionSteps(Part):
    """The executor of these nodes."""

    kinds = frozenset({"transition"})

    def __init__(self, ground: Ground, engine: Engine, entities: Entities) -> None:
        self._store = ground.store
        self._engine = engine
        self._entities = entities
        self._begun: deque[Step] = deque()
        self._wake = trio.Event()
        self._waiting = Records(ground.store, KIND, _read, Waiting.record)

    def load(self) -> None:
        """Read everything from the store."""
        self._waiting.load()

    # -- as an executor --------------------------------------------------------------------------

    def room(self, node: PlanNode) -> int | None:
        """Any number."""
        return None

    def begin(self, step: Step) -> None:
        """Nothing has to be with it."""

    def start(self, step: Step, again: bool) -> None:
        """Have it made by the next turn."""
        self._begun.append(step)
        self._wake.set()

    def cancel(self, step: Step) -> None:
        """Nobody waits for the transition any more; it goes on."""
        for run, waiting in list(self._waiting.items()):
            if waiting.ref == step.ref:
                self._waiting.drop(run)

    def due(self, step: Step) -> None:
        """It waits for a run, and for no time."""

    async def run(self) -> None:
        """Make transitions, one at a time, until cancelled."""
        while True:
            self._wake = trio.Event()
            while self.turn():
                await trio.lowlevel.checkpoint()
            await self._wake.wait()

    def turn(self) -> bool:
        """Make one; False if there is none."""
        if not self._begun:
            return False
        step = self._begun.popleft()
        try:
            self._make(step)
        except Exception:
            log.exception("step %s", step.ref)
        return True

    def _make(self, step: Step) -> None:
        try:
            with self._store.transaction():
                made = self._transition(step)
                if made.run:
                    self._waiting.put(made.run, Waiting(step.ref, made))
                    self._engine.wait(step.ref)
                else:
                    self._engine.succeed(step.ref, made.output())
        except KernelError as refused:
            with suppress(KernelError):  # it was cancelled meanwhile
                again = refused.errno not in FINAL
                self._engine.fail(step.ref, refused.reason, again=again)

    def _transition(self, step: Step) -> Transition:
        spec, process = step.spec, step.process
        about = step.input if isinstance(step.input, dict) else {}
        name = spec.get("entity_id", about.get("entity_id"))
        if not isinstance(name, str | int) or name == "":
            raise KernelError(errno.EINVAL, "entity_id: the id of an entity was expected")
        payload = spec.get("payload")
        if payload is not None and not isinstance(payload, dict):
            raise KernelError(errno.EINVAL, "payload: an object was expected")
        expected = spec.get("expected")
        wanted = WantedState(
            str(spec["to_state"]),
            None if expected is None else str(expected),
            str(spec.get("reason") or ""),
            payload,
        )
        principal = Principal(
            Kind.AGENT, process.pid, process.name, process.uid, process.gid, process.agent
        )
        return self._entities.transition(principal, str(spec["entity"]), str(name), wanted)

    # -- its end ---------------------------------------------------------------------------------

    def run_ended(self, run: EndedWork) -> None:
        """The process of a transition has ended, inside the transaction of that."""
        waiting = self._waiting.drop(run.id)
        if waiting is None or not self._engine.progress(waiting.ref):
            return
        if run.state.value == "completed":
            self._engine.succeed(waiting.ref, waiting.made.output())
        else:
            words = f"run {run.id} of the transition {run.state.value.replace('_', ' ')}"
            why = run.error or run.reason
            self._engine.fail(waiting.ref, f"{words}: {why}" if why else words)
