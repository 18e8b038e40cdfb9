"""Runs that ended long ago are forgotten, a part of them at a time."""

from __future__ import annotations

from agentfs.library.settings import WorkflowSettings
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.workflow.engine import Engine
from agentfs.workflow.events import RunRemoved
from agentfs.workflow.model import Run

__all__ = ["RunRetention"]

ROWS = 200
"""Rows in one commit, each some 10 µs."""

RUNS = 50
"""Runs that are looked at in one round; the next one follows soon while there are more."""

SOON = 0.05


class RunRetention(Part):
    """Forgets runs `workflows.retention` after their end, or as long after it as their pipeline
    says."""

    def __init__(self, ground: Ground, engine: Engine) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._timers = ground.timers
        self._settings = ground.settings
        self._engine = engine
        self._under_way = False

    def tidy(self) -> None:
        """Forget what is due, in small steps until there is no more."""
        if not self._under_way:
            self.sweep()

    def sweep(self) -> bool:
        """One step; whether there may be more, which then comes soon by itself."""
        self._under_way = self._step()
        if self._under_way:
            self._timers.call_later(SOON, self.sweep)
        else:
            with self._store.transaction():
                self._engine.journal.drop_plans(ROWS)
            self._engine.slots.trim()
        return self._under_way

    def _step(self) -> bool:
        now = self._clock.now()
        general = self._settings.of(WorkflowSettings).retention
        journal = self._engine.journal
        # No pipeline's own retention is longer than the general one: that is what is kept at most.
        for run in journal.ended_before(now, RUNS):
            own = journal.plan(run.plan_hash).retention
            kept = general if own is None else min(own, general)
            if run.ended + kept < now and not self._is_wanted(run):
                self._forget(run)
                return True
        return False

    def _is_wanted(self, run: Run) -> bool:
        """Whether an open run still looks at it: one that is a retry of it, or its parent."""
        if run.parent and self._engine.open.find(run.parent) is not None:
            return True
        return any(each.retry_of == run.id for each in self._engine.open)

    def _forget(self, run: Run) -> None:
        journal = self._engine.journal
        with self._store.transaction():
            if journal.delete_some("run_nodes", run.id, ROWS):
                return
            if journal.delete_some("run_events", run.id, ROWS):
                return
            journal.delete_run(run.id)
            self._events.emit(RunRemoved(run.id, run.pipeline, run.state.value, run.ref))
        self._engine.outputs.remove(run.id)
