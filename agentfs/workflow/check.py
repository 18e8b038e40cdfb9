"""Faults of runs in a store: what must hold between a run, its process, its nodes, its events, its
plan, and the files of its outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentfs.manifests.plan import Graph, Plan
from agentfs.model.process import ProcessKind
from agentfs.store.rows import UNREADABLE, StoreRows
from agentfs.workflow.model import NodeRow, NodeState, Run, RunState
from agentfs.workflow.outputs import ARTIFACT, Outputs, is_artifact
from agentfs.workflow.signals import KIND as SIGNALS
from agentfs.workflow.slots import BREAKERS, RATES

__all__ = ["faults"]

LAST_LINE = '"type":"PipelineCompleted"'
"""What the one terminal event of a run says."""


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    plans: dict[str, Plan] = {}
    yield from _plan_faults(rows, plans)
    runs: dict[int, Run] = {}
    for number, state, record, ended, digest in rows.read(
        "SELECT id, state, record, ended, plan_hash FROM runs ORDER BY id"
    ):
        try:
            run = runs[number] = Run.from_row(number, state, json.loads(record))
        except UNREADABLE as bad:
            yield f"run {number}: its record cannot be read: {bad!r}"
            continue
        yield from (f"run {number}: {fault}" for fault in _run_faults(rows, run, ended))
        if digest != run.plan_hash or digest not in plans:
            yield f"run {number}: there is no plan {digest[:12]} of it"
    yield from _process_faults(rows, runs)
    yield from _node_faults(rows, runs, plans)
    yield from _event_faults(rows, runs)
    yield from _beside_faults(rows, runs)


def _plan_faults(rows: StoreRows, plans: dict[str, Plan]) -> Iterator[str]:
    for digest, record in rows.read("SELECT hash, record FROM plans"):
        try:
            plans[digest] = Plan.from_record(json.loads(record))
        except UNREADABLE as bad:
            yield f"plan {digest[:12]}: it cannot be read: {bad!r}"


def _run_faults(rows: StoreRows, run: Run, ended: float | None) -> Iterator[str]:
    if run.state.final != (ended is not None) or run.state.final != bool(run.ended):
        yield f"it is {run.state.value}, and {'has ended' if ended else 'has not ended'}"
    if run.state.final and run.ending not in (None, run.state):
        yield f"it was to be {run.ending.value if run.ending else ''}, and is {run.state.value}"
    if run.state is RunState.SUSPENDED and run.ending is not None:
        yield "it is ending, and waits"
    if not run.state.final and not run.paused and run.state is RunState.SUSPENDED:
        query = "SELECT 1 FROM run_nodes WHERE run = ? AND state = 'waiting' LIMIT 1"
        if not [*rows.read(query, (run.id,))]:
            yield "it is suspended, and none of its nodes waits"


def _process_faults(rows: StoreRows, runs: dict[int, Run]) -> Iterator[str]:
    """Whether an open run and a living process of its kind go together. The lead of a system has
    such a process, too, and so have the workers of a pipeline's code."""
    systems = {key for key, _ in rows.records("system")}
    for process in rows.processes.values():
        if process.kind is not ProcessKind.RUN or not process.state.alive:
            continue
        if str(process.pid) in systems or "code" in process.metadata:
            continue  # the lead of a system, or what workers are below
        run = runs.get(process.pid)
        if run is None or run.state.final:
            yield f"process {process.pid}: it is that of a run, and there is no open one"
    for run in runs.values():
        process_of = rows.processes.get(run.id)
        alive = process_of is not None and process_of.state.alive
        if not (run.state.final or run.ending or alive):
            yield f"run {run.id}: it is {run.state.value}, and has no living process"


def _node_faults(rows: StoreRows, runs: dict[int, Run], plans: dict[str, Plan]) -> Iterator[str]:
    query = "SELECT run, path, state, attempt, wait, record, output FROM run_nodes ORDER BY run"
    for number, path, state, attempt, wait, record, output in rows.read(query):
        what, run = f"node {path} of run {number}", runs.get(number)
        try:
            row = NodeRow.from_row(number, path, state, attempt, json.loads(record))
        except UNREADABLE as bad:
            yield f"{what}: its row cannot be read: {bad!r}"
            continue
        if run is None:
            yield f"{what}: there is no such run"
            continue
        if run.state.final and not row.state.final:
            yield f"{what}: it is {state}, and the run {run.state.value}"
        if wait and row.state is not NodeState.WAITING:
            yield f"{what}: it is {state}, and waits for {wait}"
        plan = plans.get(run.plan_hash)
        if plan is not None and not _is_there(plan.graph, path.split("/")):
            yield f"{what}: the plan has no such node"
        if output and ARTIFACT in output:
            yield from (f"{what}: {fault}" for fault in _file_faults(rows, number, output))


def _is_there(graph: Graph, parts: list[str]) -> bool:
    node = graph.by_name.get(parts[0])
    if node is None or len(parts) < 3:
        return node is not None and (len(parts) == 1 or bool(node.bodies))
    return any(_is_there(body, parts[2:]) for _, body in node.bodies)


def _file_faults(rows: StoreRows, run: int, output: str) -> Iterator[str]:
    """Whether the files of the run that an output stands for are there."""
    outputs = Outputs(rows.path.parent)

    def walk(value: Any) -> Iterator[Path]:
        if is_artifact(value):
            path = outputs.path_of(value)
            if path is not None and path.parent.parent.name == str(run):
                yield path
        elif isinstance(value, dict):
            for each in value.values():
                yield from walk(each)
        elif isinstance(value, list):
            for each in value:
                yield from walk(each)

    try:
        found = [*walk(json.loads(output))]
    except ValueError:
        yield "its output is no JSON"
        return
    for path in found:
        if not path.exists():
            yield f"its output {path.name} is gone"


def _event_faults(rows: StoreRows, runs: dict[int, Run]) -> Iterator[str]:
    """Whether the events of each run are numbered from 1, and end with the one that says so."""
    query = (
        "SELECT run, count(*), min(seq), max(seq), sum(instr(line, ?) > 0) FROM run_events"
        " GROUP BY run"
    )
    told = set()
    for number, count, first, last, ends in rows.read(query, (LAST_LINE,)):
        told.add(number)
        run = runs.get(number)
        if run is None:
            yield f"events of run {number}: there is no such run"
            continue
        if (first, last) != (1, count):
            yield f"run {number}: its {count} events have the numbers {first} to {last}"
        if ends != run.state.final:
            yield f"run {number}: it is {run.state.value}, and {ends} of its events say its end"
        text = rows.read("SELECT line FROM run_events WHERE run = ? AND seq = ?", (number, last))
        if run.state.final and not any(LAST_LINE in line for (line,) in text):
            yield f"run {number}: it went on after its end"
    for number, run in runs.items():
        if run.state.final and number not in told:
            yield f"run {number}: it has ended, and has no events"


def _beside_faults(rows: StoreRows, runs: dict[int, Run]) -> Iterator[str]:
    for key, record in rows.records(SIGNALS):
        number = key.partition("/")[0]
        run = runs.get(int(number)) if number.isdigit() else None
        if run is None or run.state.final:
            yield f"signal {key}: there is no open run {number}"
        if not isinstance(record.get("values"), list) or not record["values"]:
            yield f"signal {key}: it has no value"
    for kind, name in ((BREAKERS, "failures"), (RATES, "free")):
        for key, record in rows.records(kind):
            if not isinstance(record.get(name), int | float):
                yield f"{kind} {key}: its record does not say {name}"
