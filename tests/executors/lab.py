"""Runs whose steps are real programs: the kernel with all that runs need, mounted nowhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import yaml

from agentfs.base.clock import SystemClock
from agentfs.manifests.plan import Graph, Plan, PlanNode
from agentfs.model.process import Process, ProcessKind
from agentfs.process.step_files import step_files
from agentfs.workflow.model import NodeRow, Run, Start
from agentfs.workflow.runs import Runs
from tests.process.world import OPERATOR, System, as_agent


def program(name: str, command: str | list[str], needs: str = "", **fields: Any) -> PlanNode:
    """A node that runs a program. Keys of `spec` may be given as `spec_x`."""
    spec = {key[5:]: fields.pop(key) for key in [*fields] if key.startswith("spec_")}
    return PlanNode(
        name=name,
        kind="program",
        needs=tuple(needs.split()),
        spec={"program": command, **spec},
        **fields,
    )


class Lab:
    """A system with runs; its plans are values."""

    def __init__(self, state: Path) -> None:
        self.system = System(state, SystemClock())
        kernel = self.system.kernel
        self.plans: dict[str, Plan] = {}
        self.engine, self.programs = kernel.engine, kernel.step_programs
        ground, gate, table = kernel.ground, kernel.gate, kernel.table
        self.runs = Runs(ground, gate, table, kernel.light, self.engine, self)
        ground.parts.add(self.runs)
        self.state = state

    def plan_now(self, name: str, version: int | None = None, environment: str = "") -> Plan:
        return self.plans[name]

    def start(
        self, *nodes: PlanNode, given: Any = None, by: Process | None = None, **more: Any
    ) -> Run:
        """Start a run of these nodes, in their order."""
        name = more.pop("name", "p")
        self.plans[name] = Plan.from_record(
            json.loads(json.dumps(Plan(name, 1, Graph(nodes), **more).record()))
        )
        caller = OPERATOR if by is None else as_agent(by)
        return self.runs.start(caller, Start(name, given))

    async def put(self, name: str, nodes: str, **spec: Any) -> None:
        """Keep a document: its nodes as YAML, and other keys of its spec."""
        document = {"kind": "Pipeline", "metadata": {"name": name}}
        document["spec"] = {"nodes": yaml.safe_load(nodes), **spec}
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        await self.system.kernel.library.put(OPERATOR, "pipelines", name, text)

    def begin(self, name: str, given: Any = None) -> Run:
        """Start a run of a document."""
        return self.system.kernel.runs.start(OPERATOR, Start(name, given))

    async def ended(self, run: Run) -> Run:
        """Wait for the end of a run."""
        await self.system.until(lambda: self.runs.get(run.id).state.final)
        return self.runs.get(run.id)

    async def run(self, *nodes: PlanNode, **more: Any) -> Run:
        return await self.ended(self.start(*nodes, **more))

    def node(self, run: Run, path: str) -> NodeRow:
        row = self.runs.node(run.id, path)
        assert row is not None
        return row

    def output(self, run: Run, path: str) -> Any:
        text = self.runs.node_output(run.id, path)
        return None if text is None else json.loads(text)

    def process(self, run: Run, path: str, attempt: int = 1) -> Process:
        """The process of a step that is at work."""
        found = self.system.kernel.light.find_step(run.id, path, attempt)
        assert found is not None
        return found

    async def at_work(self, run: Run, path: str, attempt: int = 1) -> Process:
        """Wait until the program of a step is there."""
        light = self.system.kernel.light

        def there() -> bool:
            found = light.find_step(run.id, path, attempt)
            return found is not None and found.ospid is not None

        await self.system.until(there)
        return self.process(run, path, attempt)

    def at_work_now(self) -> list[int]:
        """The OS pids of the programs of all steps."""
        steps = [p for p in self.system.table if p.kind is ProcessKind.STEP]
        return [step.ospid for step in steps if step.ospid is not None]

    async def said(self, run: Run, path: str, attempt: int = 1) -> str:
        """Wait until a program has written a line, and give that."""
        files = step_files(self.state, run.id, path, attempt)
        while True:
            try:
                text = files.output.read_text()
            except OSError:
                text = ""
            if "\n" in text:
                await self.at_work(run, path, attempt)  # the record knows its program by now
                return text.split("\n")[0]
            await trio.sleep(0.005)


@asynccontextmanager
async def laboratory(state: Path, *, keep: bool = False) -> AsyncIterator[Lab]:
    """A lab at work. `keep`: it vanishes as with kill -9, and programs go on."""
    lab = Lab(state)
    system = lab.system
    try:
        system.kernel.load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(system.timers.run)
            await nursery.start(system.supervisor.run)
            nursery.start_soon(lab.engine.run)
            nursery.start_soon(lab.programs.run)
            try:
                yield lab
            finally:
                with trio.CancelScope(shield=True):
                    if not keep:
                        await system.supervisor.shutdown(0.1)
                nursery.cancel_scope.cancel()
    finally:
        system.store.close()
