"""A kernel with documents, and a way to let everything happen that needs no time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.triggers.system_table import SystemRun
from agentfs.workflow.model import Run, RunState, Start
from tests.world import OPERATOR, World

__all__ = ["WAITING", "Real", "refusal"]

WAITING = """\
kind: Pipeline
metadata: {name: NAME}
spec:
  nodes:
  - {name: held, wait: go}
  - {name: made, expression: {of: "held.v | default(0)", given: "input"}}
"""
"""A run of it waits for the signal `go`, and gives the `v` of that."""


class Real:
    """Runs of pipelines whose nodes are the kernel's; one that waits, waits for `go`."""

    def __init__(self, state: Path) -> None:
        self.world = World(state)
        self._begin()

    def _begin(self) -> None:
        kernel = self.kernel = self.world.kernel
        self.runs, self.library, self.engine = kernel.runs, kernel.library, kernel.engine
        self.systems, self.schedules = kernel.systems, kernel.schedules
        self.entities, self.topics = kernel.entities, kernel.topics

    def put(self, kind: str, name: str, text: str) -> int:
        """A document; raises EINVAL with its faults."""
        return trio.run(self.library.put, OPERATOR, kind, name, text)

    def put_waiting(self, *names: str) -> None:
        """Pipelines whose runs wait to be ended."""
        for name in names:
            self.put("pipelines", name, WAITING.replace("NAME", name))

    def end(self, number: int, state: RunState = RunState.COMPLETED, error: str = "") -> None:
        """End a run that waits; nothing else happens by that."""
        if state is RunState.COMPLETED:
            self.runs.signal(OPERATOR, number, "go", {})
        else:
            run = self.runs.find(number)
            assert run is not None
            with self.world.store.transaction():
                self.engine.close(run, state, error)
        while self.engine.turn():
            pass
        assert self.end_of(number) is state

    def settle(self) -> None:
        """Let everything happen that does not need time, or a step's end."""
        for _ in range(1000):
            before = self.kernel.events.last
            self.world.timers.run_due()
            while self.engine.turn():
                pass
            self.kernel.transitions.turn()
            while self.systems.runs.run_due() < 0.006:
                pass
            while self.schedules.run_due() < 0.006:
                pass
            if self.kernel.events.last == before:
                return
        raise AssertionError("it never settles")

    def advance(self, seconds: float) -> None:
        self.world.clock.advance(seconds)
        self.settle()

    def restart(self) -> None:
        """kill -9, and the next daemon."""
        self.world.restart()
        self._begin()
        for _ in self.engine.start_again():
            pass
        self.settle()

    def signal(self, run: int, data: Any = None) -> None:
        """End the wait of a run."""
        self.runs.signal(OPERATOR, run, "go", {} if data is None else data)
        self.settle()

    def open_runs(self, pipeline: str = "") -> list[int]:
        found = self.runs.query(limit=10_000)
        return sorted(
            run.id for run in found if not run.state.final and pipeline in ("", run.pipeline)
        )

    def all_runs(self, pipeline: str) -> list[Run]:
        return self.runs.query(pipeline=pipeline, limit=10_000)

    def output(self, run: int) -> Any:
        text = self.runs.output_of(run)
        return json.loads(text) if text else None

    def system(self, name: str, given: Any = None, **more: Any) -> SystemRun:
        number = self.systems.run(OPERATOR, Start(name, given, **more))
        self.settle()
        return self.systems.runs.get(number)

    def at(self, number: int) -> SystemRun:
        """A system, as it is after a restart, too."""
        return self.systems.runs.get(number)

    def states(self, system: SystemRun) -> dict[str, str]:
        return {name: part.state.value for name, part in self.at(system.id).parts.items()}

    def end_of(self, run: int) -> RunState:
        found = self.runs.find(run)
        assert found is not None
        return found.state

    def close(self) -> None:
        self.world.close()


def refusal(call: Any, *args: Any, **more: Any) -> KernelError:
    """The refusal of a call."""
    try:
        call(*args, **more)
    except KernelError as refused:
        return refused
    raise AssertionError("it was not refused")
