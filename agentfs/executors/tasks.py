"""Steps that a task of the daemon does: it waits for a model, or for a program that works for the
run.

What such a task had under way ends with the daemon. The next one finds the attempt open, knows that
nobody does it, and that nobody can tell how far it was: it is lost, so another one follows, or none
where the node says `once`.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.executors.ends import beginning, end, fail
from agentfs.manifests.plan import PlanNode
from agentfs.store.part import Part
from agentfs.store.store import Store
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step, StepRef

__all__ = ["StepTasks"]

log = logging.getLogger(__name__)

LOST = "the daemon ended while it was done"

Work = Callable[[Step], Awaitable[Any]]


class StepTasks(Part):
    """An executor: `work(step)` gives the output, and `check(step)` is asked in the commit that
    begins the attempt. Both raise KernelError."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        kind: str,
        work: Work,
        check: Callable[[Step], object] = lambda step: None,
    ) -> None:
        self.kinds = frozenset({kind})
        self._check = check
        self._store = store
        self._engine = engine
        self._work = work
        self._nursery: trio.Nursery | None = None
        self._early: list[Callable[[trio.Nursery], None]] = []  # before there was a nursery
        self._scopes: dict[StepRef, trio.CancelScope] = {}

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for start in self._early:
                    start(nursery)
                self._early.clear()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    @property
    def under_way(self) -> int:
        """How many steps are being done."""
        return len(self._scopes)

    def room(self, node: PlanNode) -> int | None:
        return None

    def begin(self, step: Step) -> None:
        with beginning(self._engine, step):
            self._check(step)

    def start(self, step: Step, again: bool) -> None:
        if again:
            once = step.node.once
            end(lambda: self._engine.fail(step.ref, LOST, again=not once, kind="lost"))
            return
        scope = self._scopes[step.ref] = trio.CancelScope()
        task = partial(self._do, step, scope)
        if self._nursery is None:
            self._early.append(lambda nursery: nursery.start_soon(task))
        else:
            self._nursery.start_soon(task)

    def due(self, step: Step) -> None:
        """It never waits."""

    def cancel(self, step: Step) -> None:
        scope = self._scopes.get(step.ref)
        if scope is not None:
            self._store.on_commit(scope.cancel)

    async def _do(self, step: Step, scope: trio.CancelScope) -> None:
        try:
            with scope:
                try:
                    output = await self._work(step)
                except KernelError as failure:
                    fail(self._engine, step.ref, failure)
                except OSError as failure:
                    fail(self._engine, step.ref, KernelError.from_os(failure, step.node.kind))
                else:
                    end(lambda: self._engine.succeed(step.ref, output))
        except Exception as fault:
            log.exception("the step %s", step.ref)
            self._broken(step, fault)
        finally:
            del self._scopes[step.ref]

    def _broken(self, step: Step, fault: Exception) -> None:
        """A fault of ours is no reason for a run to hang."""
        words = KernelError(errno.EIO, f"a fault of the daemon: {type(fault).__name__}: {fault}")
        try:
            fail(self._engine, step.ref, words)
        except Exception:
            log.exception("the step %s stays open", step.ref)
