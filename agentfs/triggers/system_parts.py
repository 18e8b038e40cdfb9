"""The processes of a system: what each is given, and how it is started."""

from __future__ import annotations

import json
from typing import Any

from agentfs.manifests.fuel import EvaluationError, TemplateError
from agentfs.manifests.system_plan import SystemPipe, SystemProcess, names_in
from agentfs.manifests.template import references_of, render
from agentfs.model.principal import Kind, Principal
from agentfs.model.process import Process
from agentfs.model.spec import ProcessSpec
from agentfs.process.calls import Processes
from agentfs.process.table import ProcessTable
from agentfs.triggers.maker import TriggerMakers
from agentfs.triggers.system_table import PartState, SystemRun
from agentfs.workflow.model import Start
from agentfs.workflow.runs import Runs

__all__ = ["EVALUATION", "PartStarter"]

EVALUATION = (EvaluationError, TemplateError)
"""What a template may raise."""

INPUT = "INPUT"
"""The variable of a program's environment that has its input, as JSON."""


class PartStarter:
    """Starts processes of systems, and ends them."""

    def __init__(
        self, table: ProcessTable, processes: Processes, runs: Runs, makers: TriggerMakers
    ) -> None:
        self._table = table
        self._makers = makers
        self._processes = processes
        self._runs = runs

    # -- what they are given ---------------------------------------------------------------------

    def is_known(self, system: SystemRun, pipe: SystemPipe) -> bool:
        """Whether everything that a pipe names has ended."""
        named = {
            each.path[0]
            for each in references_of(pipe.mapping, names_in(pipe.mapping, system.parts))
        }
        return all(
            system.parts[name].state is PartState.COMPLETED
            for name in (named | {pipe.source}) & system.parts.keys()
        )

    def value(self, system: SystemRun, mapping: dict[str, Any]) -> dict[str, Any]:
        """What the templates of a pipe, or of a process's `input`, say now. Raises EVALUATION."""
        names = names_in(mapping, system.parts)
        scope = self._scope(system, mapping, names)
        made: dict[str, Any] = render(mapping, scope, names)
        return made

    def input(self, system: SystemRun, process: SystemProcess) -> Any:
        """The input of a process: that of the system, under its own `input`, under what the pipes
        give, in their order; null of a pipe leaves what is there. Raises EVALUATION."""
        pipes = system.plan.pipes_to(process.name)
        if not isinstance(system.input, dict) and not process.input and not pipes:
            return system.input
        found = dict(system.input) if isinstance(system.input, dict) else {}
        found |= self.value(system, process.input)
        for pipe in pipes:
            given = system.values.get(pipe.name)
            if given is None:
                given = self.value(system, pipe.mapping)
            found |= {
                name: value
                for name, value in given.items()
                if value is not None or found.get(name) is None
            }
        return found

    def _scope(
        self, system: SystemRun, mapping: dict[str, Any], names: list[str]
    ) -> dict[str, Any]:
        ambient = system.input if isinstance(system.input, dict) else {}
        scope: dict[str, Any] = {**ambient, "input": system.input}
        wanted: dict[str, set[tuple[str, ...]]] = {}
        for reference in references_of(mapping, names):
            if reference.path[0] in system.parts:
                wanted.setdefault(reference.path[0], set()).add(reference.path[1:3])
        for name, paths in wanted.items():
            scope[name] = self._outputs(system, name, paths)
        return scope

    def _outputs(self, system: SystemRun, name: str, paths: set[tuple[str, ...]]) -> dict[str, Any]:
        """What a process has given: `output`, `nodes`, and its nodes by their names."""
        if name in system.results:
            program: dict[str, Any] = system.results[name]
            return program
        number = system.parts[name].number
        wanted = {path[1] if path[:1] == ("nodes",) else path[0] for path in paths if len(path) > 1}
        wanted |= {
            path[0] for path in paths if len(path) == 1 and path[0] not in ("nodes", "output")
        }
        if any(path in ((), ("nodes",)) for path in paths):
            wanted = {row.path for row in self._runs.nodes(number)}
        nodes = {}
        for node in wanted:
            text = self._runs.node_output(number, node)
            if text:
                nodes[node] = json.loads(text)
        output = self._runs.output_of(number)
        return {**nodes, "output": json.loads(output) if output else None, "nodes": nodes}

    # -- how they are started and ended ----------------------------------------------------------

    def start_run(self, system: SystemRun, lead: Process, process: SystemProcess) -> int:
        """Start the run of a process, inside a transaction; its pid. Raises EVALUATION, and what
        `Runs.start` does."""
        start = Start(
            process.pipeline,
            self.input(system, process),
            process.version,
            key=f"system/{system.id}/{system.passes}/{process.name}",
            ref=("system", str(system.id)),
            environment=system.environment,
            levels=(system.plan.level(), process.level()),
        )
        return self._runs.start_for(lead, start).id

    async def start_program(self, system: SystemRun, lead: Process, process: SystemProcess) -> int:
        """Start the program of a process; its pid. Raises EVALUATION, and what a spawn does."""
        found = self.program(lead, process.name)
        if found is not None:
            return found.pid  # an earlier daemon has started it, and could not say so
        content = dict(process.program or {})
        given = json.dumps(self.input(system, process), ensure_ascii=False)
        content["env"] = {INPUT: given, **content.get("env", {})}
        spec = ProcessSpec.model_validate({"name": process.name, **content})
        principal = Principal(Kind.AGENT, lead.pid, lead.name, lead.uid, lead.gid, lead.agent)
        return (await self._processes.spawn(principal, lead.pid, spec)).pid

    def program(self, lead: Process, name: str) -> Process | None:
        """The program of a process, if it is there."""
        found = self._table.by_name(name)
        return found if found is not None and found.ppid == lead.pid else None

    def cancel(self, system: SystemRun, why: str) -> None:
        """End everything that runs for a system, inside a transaction; each end is told in its
        time."""
        operator = self._makers.operator()
        for number in system.running().values():
            run, process = self._runs.find(number), self._table.find(number)
            if run is not None:
                if not run.state.final:
                    self._runs.cancel(operator, number, why)
            elif process is not None and process.state.alive:
                self._processes.signal(operator, number, "TERM")
