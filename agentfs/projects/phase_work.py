"""The work on a phase of a seed: a run of the node that the project's specification says, or a task
for a worker. Both are done for the agent that has planted the seed, spend its budget, and may no
more than it might."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agentfs.base.errors import KernelError
from agentfs.library.library import Library
from agentfs.projects.outcomes import Assessment, read_evaluation, read_exit, said_no
from agentfs.projects.seed import Seed
from agentfs.projects.spec import Phase, ProjectSpec, is_program, pipeline_name, pipeline_of
from agentfs.tasks.model import Task, TaskRequest, TaskState
from agentfs.tasks.tasks import Tasks
from agentfs.triggers.launcher import RunLauncher
from agentfs.triggers.maker import TriggerMakers
from agentfs.workflow.model import Run, RunState, Start
from agentfs.workflow.runs import Runs

__all__ = ["Ended", "PhaseWork"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How the work on a phase has ended: with a value, or with an error."""

    output: Any = None
    error: str = ""


class PhaseWork:
    """Starts that, and reads how it has ended. It has no state."""

    def __init__(
        self,
        library: Library,
        makers: TriggerMakers,
        launcher: RunLauncher,
        runs: Runs,
        tasks: Tasks,
    ) -> None:
        self._library = library
        self._makers = makers
        self._launcher = launcher
        self._runs = runs
        self._tasks = tasks

    def check(self, spec: ProjectSpec) -> None:
        """Raise EINVAL with every fault of the phases."""
        faults = [
            fault
            for phase in spec.phases
            for fault in (_faults_of_task(spec, phase) or self._faults(spec, phase))
        ]
        if faults:
            raise KernelError(errno.EINVAL, "\n".join(faults), rule="spec")

    def _faults(self, spec: ProjectSpec, phase: Phase) -> list[str]:
        if spec.task(phase) is not None:
            return []
        try:
            self._library.plan_of(phase.value, pipeline_of(phase, spec.phases[phase]))
        except KernelError as bad:
            # Their places are those of a text that nobody has written, and so is its output.
            said = [line.split(" ", 1)[-1] for line in bad.reason.splitlines()]
            own = [line for line in said if " output: " not in line] or said
            return [f"phases.{phase.value}: {line}" for line in own]
        return []

    # -- beginning ---------------------------------------------------------------------------------

    def start(self, seed: Seed, spec: ProjectSpec, given: dict[str, Any]) -> tuple[int, int]:
        """Begin the present phase of a seed, inside a transaction: the numbers of the run and of
        the task that do it, one of which is 0. Raises what a start is refused with."""
        asked = spec.task(seed.phase)
        if asked is not None:
            return 0, self._submit(seed, asked, given)
        text = pipeline_of(seed.phase, spec.phases[seed.phase])
        plan = self._library.plan_of(seed.phase.value, text)
        start = Start(pipeline_name(seed.phase), given, ref=("seed", str(seed.number)))
        return self._launcher.start_plan(seed.maker, plan, start), 0

    def _submit(self, seed: Seed, asked: dict[str, Any], given: dict[str, Any]) -> int:
        principal = self._makers.principal(seed.maker)
        if principal.is_operator and not seed.maker.is_operator:
            raise KernelError(
                errno.EHOSTUNREACH, f"nobody works for {seed.maker.name}, who would submit a task"
            )
        words = f"{seed.phase.value} of seed {seed.number}: {seed.goal}"
        request = TaskRequest(
            description=words[:16_384],
            input=given,
            key=f"seed/{seed.number}/{seed.phase.value}/{seed.attempt + 1}",
            **asked,
        )
        return self._tasks.submit(principal, request).id

    def cancel(self, seed: Seed, why: str) -> None:
        """End what is under way, inside a transaction."""
        if seed.run and self._launcher.is_open(seed.run):
            self._launcher.cancel(seed.run, why)
        task = self._tasks.find(seed.task) if seed.task else None
        if task is not None and not task.state.final:
            self._tasks.cancel(self._makers.operator(), task.id, why)

    # -- how it has ended --------------------------------------------------------------------------

    def ended(self, seed: Seed) -> Ended | None:
        """How the work has ended; None: it has not."""
        if seed.run:
            run = self._runs.find(seed.run)
            return Ended(error=f"run {seed.run} is lost") if run is None else self._of_run(run)
        task = self._tasks.find(seed.task)
        return Ended(error=f"task {seed.task} is lost") if task is None else self._of_task(task)

    def _of_run(self, run: Run) -> Ended | None:
        if not run.state.final:
            return None
        if run.state is not RunState.COMPLETED:
            words = run.error or run.reason
            return Ended(
                error=f"run {run.id} is {run.state.value}" + (f": {words}" if words else "")
            )
        text = self._runs.output_of(run.id)
        return Ended(json.loads(text) if text else None)

    def _of_task(self, task: Task) -> Ended | None:
        if not task.state.final:
            return None
        if task.state is not TaskState.COMPLETED:
            words = task.error or task.reason
            return Ended(
                error=f"task {task.id} is {task.state.value}" + (f": {words}" if words else "")
            )
        text = self._tasks.result_of(task)
        try:
            return Ended(json.loads(text))
        except ValueError:
            return Ended(text)

    def evaluation(self, seed: Seed, ended: Ended) -> Assessment | None:
        """What the work on `evaluate` says; None if it has failed. Raises EINVAL."""
        run = self._runs.find(seed.run) if seed.run else None
        by_program = run is not None and is_program(self._runs.plan_of(run))
        if ended.error:
            return said_no(ended.error) if by_program else None
        return (read_exit if by_program else read_evaluation)(ended.output)


def _faults_of_task(spec: ProjectSpec, phase: Phase) -> list[str]:
    asked = spec.task(phase)
    if asked is None:
        return []
    where = f"phases.{phase.value}.task"
    own = [name for name in ("description", "input", "key") if name in asked]
    if own:
        return [f"{where}: {', '.join(own)}: the seed says that"]
    try:
        TaskRequest(description="x", **asked)
    except (ValidationError, TypeError) as bad:
        if not isinstance(bad, ValidationError):
            return [f"{where}: {bad}"]
        faults = bad.errors(include_url=False, include_context=False, include_input=False)
        return [f"{where}.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in faults]
    return []
