"""Runs without a mount: the real engine on the real kernel, plans as values, and an executor whose
steps a test ends by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.manifests.plan import Graph, Plan, PlanNode
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Run, Start, Step, StepRef
from agentfs.workflow.retention import RunRetention
from agentfs.workflow.runs import Runs
from agentfs.workflow.subruns import SubRuns
from tests.world import OPERATOR, World


def graph(*nodes: PlanNode, output: Any = None) -> Graph:
    """A graph of these nodes, in a topological order with ties by name."""
    left = {node.name: node for node in nodes}
    ordered: list[PlanNode] = []
    while left:
        free = min(n for n, node in left.items() if not set(node.needs) & left.keys())
        ordered.append(left.pop(free))
    return Graph(tuple(ordered), output)


def node(name: str, kind: str = "program", needs: str = "", **fields: Any) -> PlanNode:
    """A node; `needs` are names with blanks between. Fields of `spec` may be given as `spec_x`."""
    spec = dict(fields.pop("spec", {}))
    spec |= {key[5:]: fields.pop(key) for key in [*fields] if key.startswith("spec_")}
    edges = tuple(sorted(needs.split()))
    return PlanNode(name, kind, edges, fields.pop("sources", edges), spec, **fields)


def data(name: str, value: Any, needs: str = "", **fields: Any) -> PlanNode:
    return node(name, "data", needs, spec={"output": value}, **fields)


def expression(
    name: str, needs: str = "", fields: dict[str, Any] | None = None, **texts: str
) -> PlanNode:
    return node(name, "expression", needs, spec={"expressions": texts}, **(fields or {}))


class Hands:
    """An executor that does nothing: a test ends its steps. `slots`: how many it takes at once."""

    def __init__(self, engine: Engine, kinds: Iterable[str]) -> None:
        self._engine = engine
        self._kinds = frozenset(kinds)
        self.slots: int | None = None
        self.steps: dict[StepRef, Step] = {}
        self.log: list[str] = []
        self.refuse: KernelError | None = None
        self.waits: dict[str, str] = {}

    @property
    def kinds(self) -> frozenset[str]:
        return self._kinds

    def room(self, node: PlanNode) -> int | None:
        return None if self.slots is None else self.slots - len(self.steps)

    def begin(self, step: Step) -> None:
        if self.refuse is not None:
            raise self.refuse
        if step.node.kind == "wait":
            kept, value = self._engine.take_signal(step.ref.run, step.spec["event_key"])
            if kept:
                self._engine.succeed(step.ref, value)
                return
            timeout = step.spec.get("timeout")
            until = None if timeout is None else step_time(self._engine) + timeout
            self._engine.wait(step.ref, until, step.spec["event_key"])

    def start(self, step: Step, again: bool) -> None:
        self.steps[step.ref] = step
        self.log.append(f"{'again' if again else 'start'} {step.ref}")

    def cancel(self, step: Step) -> None:
        self.steps.pop(step.ref, None)
        self.log.append(f"cancel {step.ref}")

    def due(self, step: Step) -> None:
        self.log.append(f"due {step.ref}")
        self._engine.fail(step.ref, "nobody answered", kind="timeout", again=False)


def step_time(engine: Engine) -> float:
    return engine.steps.now()


class Lab:
    """A world with runs in it."""

    def __init__(self, state: Path, kinds: str = "program function agent wait approval") -> None:
        self.plans: dict[str, Plan] = {}
        self._kinds = kinds.split()
        self.world = World(state)
        self._begin()

    def _begin(self) -> None:
        kernel = self.world.kernel
        ground = kernel.ground
        self.engine = kernel.engine
        self.runs = Runs(ground, kernel.gate, kernel.table, kernel.light, self.engine, self)
        self.retention = RunRetention(ground, self.engine)
        ground.parts.add(self.runs)
        self.hands = Hands(self.engine, self._kinds)
        self.engine.executors.add(SubRuns(self.engine, self.runs))
        self.engine.executors.add(self.hands)

    def plan_now(self, name: str, version: int | None = None, environment: str = "") -> Plan:
        import errno

        if name not in self.plans:
            raise KernelError(errno.ENOENT, f"there is no pipeline {name}")
        return self.plans[name]

    # -- documents -------------------------------------------------------------------------------

    def pipeline(
        self, *nodes: PlanNode, name: str = "p", output: Any = None, **fields: Any
    ) -> Plan:
        plan = Plan(name, 1, graph(*nodes, output=output), **fields)
        self.plans[name] = Plan.from_record(json.loads(json.dumps(plan.record())))
        return self.plans[name]

    def start(self, given: Any = None, name: str = "p", **fields: Any) -> Run:
        run = self.runs.start(OPERATOR, Start(name, given, **fields))
        self.settle()
        return run

    def run(self, *nodes: PlanNode, given: Any = None, **fields: Any) -> Run:
        """Start a run of a pipeline of these nodes."""
        self.pipeline(*nodes, **fields)
        return self.start(given)

    # -- time ------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let everything happen that does not need time, or a step's end."""
        for _ in range(10_000):
            self.world.timers.run_due()
            if (
                not self.engine.turn()
                and self.world.timers.run_due() > 0
                and not self.engine.turn()
            ):
                return
        raise AssertionError("it never settles")

    def advance(self, seconds: float) -> None:
        self.world.clock.advance(seconds)
        self.settle()

    def check_slots(self) -> None:
        """What is held is what the rows say."""
        rows = {(group, (run, path)) for run, path, group in self.engine.journal.groups()}
        held = self.engine.slots._held
        assert {(key, holder) for key, them in held.items() for holder in them} == rows

    def start_again(self) -> None:
        for _ in self.engine.start_again():
            pass

    def restart(self) -> None:
        self.check_slots()
        self.world.restart()
        self._begin()
        self.start_again()
        self.settle()

    def close(self) -> None:
        self.check_slots()
        self.world.close()

    # -- steps -----------------------------------------------------------------------------------

    def step(self, path: str, run: Run | None = None) -> Step:
        """The step of a node that is under way."""
        found = [
            s for s in self.hands.steps.values()
            if s.ref.path == path and (run is None or s.ref.run == run.id)
        ]  # fmt: skip
        assert found, f"no step {path}: {[*map(str, self.hands.steps)]}"
        return found[-1]

    def done(self, path: str, output: Any = None, run: Run | None = None) -> None:
        """A step ends well."""
        ref = self.step(path, run).ref
        del self.hands.steps[ref]
        self.engine.succeed(ref, output)
        self.engine.freed(self.hands)
        self.settle()

    def failed(
        self, path: str, error: str = "it broke", run: Run | None = None, **how: Any
    ) -> None:
        ref = self.step(path, run).ref
        del self.hands.steps[ref]
        self.engine.fail(ref, error, **how)
        self.engine.freed(self.hands)
        self.settle()

    # -- looks -----------------------------------------------------------------------------------

    def states(self, run: Run) -> dict[str, str]:
        return {row.path: row.state.value for row in self.runs.nodes(run.id)}

    def state(self, run: Run, path: str = "") -> str:
        if path:
            row = self.runs.node(run.id, path)
            return "none" if row is None else row.state.value
        return self.runs.get(run.id).state.value

    def output(self, run: Run, path: str = "") -> Any:
        text = self.runs.node_output(run.id, path) if path else self.runs.output_of(run.id)
        return json.loads(text) if text else None

    def error(self, run: Run, path: str = "") -> str:
        if path:
            return self.runs.node(run.id, path).error
        return self.runs.get(run.id).error

    def lines(self, run: Run) -> list[dict[str, Any]]:
        return [json.loads(line) for _, line in self.runs.events_of(run.id, 0, 100_000)]

    def at_work(self) -> list[str]:
        return sorted(ref.path for ref in self.hands.steps)
