"""Runs that ended long ago are forgotten, a part of them at a time."""

from __future__ import annotations

import trio

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
    """Forgets runs `workflows.retention` after their end, or sooner if their pipeline says so.
    Their files are deleted in a thread, after that was committed."""

    def __init__(self, ground: Ground, engine: Engine) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._timers = ground.timers
        self._settings = ground.settings
        self._engine = engine
        self._under_way = False
        self._folders: list[int] = []
        self._more = trio.Event()

    async def run(self) -> None:
        """Delete the files of runs that are forgotten, those too that an earlier daemon left."""
        journal, outputs = self._engine.journal, self._engine.outputs
        left = await trio.to_thread.run_sync(outputs.runs)
        self._folders += [number for number in left if journal.run(number) is None]
        while True:
            while self._folders:
                await trio.to_thread.run_sync(outputs.remove, self._folders.pop())
            self._more = trio.Event()
            await self._more.wait()

    def tidy(self) -> None:
        """Forget what is due, in small steps until there is no more."""
        if not self._under_way:
            self.sweep()

    def sweep(self) -> None:
        """One step; if there may be more, the next one comes soon by itself."""
        self._under_way = self._step()
        if self._under_way:
            self._timers.call_later(SOON, self.sweep)
            return
        with self._store.transaction():
            self._engine.journal.drop_plans(ROWS)
        self._engine.slots.trim()

    def _step(self) -> bool:
        """Forget a part of one run; whether there was one."""
        general = self._settings.of(WorkflowSettings).retention
        runs = self._engine.open
        retried = {each.retry_of for each in runs}
        for run in self._engine.journal.forgettable(self._clock.now(), general, RUNS):
            # An open run may still look at the one that it is a retry of, or has started.
            if run.id not in retried and (not run.parent or runs.find(run.parent) is None):
                self._forget(run)
                return True
        return False

    def _forget(self, run: Run) -> None:
        journal = self._engine.journal
        with self._store.transaction():
            if journal.delete_some("run_nodes", run.id, ROWS):
                return
            if journal.delete_some("run_events", run.id, ROWS):
                return
            journal.delete_run(run.id)
            self._events.emit(RunRemoved(run.id, run.pipeline, run.state.value, run.ref))
            self._store.on_commit(lambda: self._remove(run.id))

    def _remove(self, number: int) -> None:
        self._folders.append(number)
        self._more.set()
