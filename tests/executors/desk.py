"""An engine for one step at a time: what an executor does is kept, and tried again as after a
crash."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.manifests.plan import Plan, PlanNode
from agentfs.store.store import Store
from agentfs.workflow.model import Executor, Step, StepRef
from tests.world import World

__all__ = ["Desk"]


@dataclass
class Desk:
    """It begins steps and hears how they end."""

    store: Store
    over: dict[StepRef, Any] = field(default_factory=dict)
    failed: dict[StepRef, tuple[str, bool, str]] = field(default_factory=dict)
    waiting: dict[StepRef, tuple[float | None, str]] = field(default_factory=dict)
    open: dict[StepRef, Step] = field(default_factory=dict)
    signals: dict[tuple[int, str], list[Any]] = field(default_factory=dict)

    # -- what executors call -----------------------------------------------------------------------

    def _take(self, ref: StepRef) -> None:
        if ref not in self.open:
            raise KernelError(errno.ESTALE, f"{ref} is over")

    def succeed(self, ref: StepRef, output: Any) -> None:
        with self.store.transaction():
            self._take(ref)
            self.over[ref] = output
            del self.open[ref]

    def fail(self, ref: StepRef, error: str, *, again: bool = True, kind: str = "error") -> None:
        with self.store.transaction():
            self._take(ref)
            self.failed[ref] = (error, again, kind)
            del self.open[ref]

    def wait(self, ref: StepRef, until: float | None = None, key: str = "") -> None:
        self._take(ref)
        self.waiting[ref] = (until, key)

    def progress(self, ref: StepRef) -> bool:
        return ref in self.open

    def take_signal(self, run: int, key: str) -> tuple[bool, Any]:
        kept = self.signals.get((run, key))
        return (True, kept.pop(0)) if kept else (False, None)

    # -- what tests call ---------------------------------------------------------------------------

    def begin(self, executor: Executor, step: Step) -> None:
        """The commit that begins an attempt."""
        with self.store.transaction():
            self.open[step.ref] = step
            try:
                executor.begin(step)
            except KernelError:
                del self.open[step.ref]
                raise

    def do(self, executor: Executor, step: Step) -> None:
        """Begin an attempt, and start it."""
        self.begin(executor, step)
        executor.start(step, again=False)

    def cancel(self, executor: Executor, ref: StepRef) -> None:
        """The attempt is over for another reason."""
        with self.store.transaction():
            executor.cancel(self.open.pop(ref))


class Steps:
    """Makes steps of one run, which agent `starter` has started."""

    def __init__(self, world: World, starter: str) -> None:
        process = world.table.by_name(starter)
        assert process is not None
        self.process = world.kernel.light.begin_run(process, "demo")
        self.run = self.process.pid

    def make(
        self, kind: str, spec: dict[str, Any], attempt: int = 1, *, path: str = "n", **more: Any
    ) -> Step:
        deadline, given = more.pop("deadline", None), more.pop("input", None)
        node = PlanNode(path, kind, spec=spec, **more)
        ref, key = StepRef(self.run, path, attempt), f"{self.run}/{path}"
        return Step(ref, Plan("demo"), node, given, spec, key, deadline, self.process)
