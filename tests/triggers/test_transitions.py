"""Nodes of the kind `transition`: an entity goes on to another state as a step of a run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.check import check
from agentfs.triggers.entities import WantedState
from agentfs.workflow.model import Run, RunState, Start
from tests.triggers.lab import Real
from tests.world import OPERATOR

PAYING = """\
kind: Pipeline
metadata: {name: paying}
spec:
  nodes:
  - kind: transition
    metadata: {name: pay}
    spec:
      entity: order
      entity_id: "{{ input.order }}"
      to_state: PAID
      expected: "{{ input.expected | default('NEW') }}"
      reason: "by {{ input.by }}"
      payload: {amount: "{{ input.amount }}"}
  - {name: after, expression: {from: "pay.from_state", to: "pay.to_state"}}
"""
MACHINE = """\
initial: NEW
transitions: {NEW: [PAID], PAID: [SHIPPED]}
states: {PAID: {requires: [amount]ENTER}}
"""


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Real]:
    real = Real(tmp_path)
    real.put_waiting("charge")
    real.put("pipelines", "paying", PAYING)
    yield real
    real.close()


def orders(real: Real, enter: str = "") -> None:
    real.entities.make_type(OPERATOR, "order", 0o777)
    real.entities.set_machine(OPERATOR, "order", MACHINE.replace("ENTER", enter))
    real.entities.register(OPERATOR, "order", "7")


def pay(real: Real, **given: object) -> Run:
    start = Start("paying", {"order": "7", "by": "card", "amount": 5} | given)
    run = real.runs.start(OPERATOR, start)
    real.settle()
    return run


def test_a_node_makes_a_transition(real: Real) -> None:
    orders(real)
    run = pay(real)
    assert real.end_of(run.id) is RunState.COMPLETED
    assert real.output(run.id) == {"from": "NEW", "to": "PAID"}
    last = json.loads([*real.entities.table.history(real.entities.get("order", "7"))][-1])
    assert (last["by"], last["reason"]) == ("init", "by card")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"expected": "PAID"}, "not PAID"),
        ({"amount": None}, "amount"),
        ({"order": "8"}, "no order '8'"),
        ({"order": ""}, "the id of an entity"),
    ],
)
def test_a_transition_that_is_refused_fails_the_node(
    real: Real, given: dict[str, object], words: str
) -> None:
    orders(real)
    run = pay(real, **given)
    found = real.runs.get(run.id)
    assert found.state is RunState.FAILED
    assert words in found.error
    assert real.entities.get("order", "7").state == "NEW"


@pytest.mark.parametrize("state", [RunState.COMPLETED, RunState.FAILED])
def test_a_node_waits_for_the_process_of_its_transition(real: Real, state: RunState) -> None:
    orders(real, ", on_enter: charge")
    run = pay(real)
    (charging,) = real.open_runs("charge")
    assert real.runs.node(run.id, "pay").state.value == "waiting"  # type: ignore[union-attr]
    real.restart()
    real.end(charging, state, "no money")
    real.settle()
    done = state is RunState.COMPLETED
    assert real.end_of(run.id) is state
    assert real.entities.get("order", "7").state == ("PAID" if done else "NEW")
    assert done or "no money" in real.runs.get(run.id).error


def test_it_is_made_once_whenever_the_daemon_is_killed(real: Real) -> None:
    orders(real)
    run = real.runs.start(OPERATOR, Start("paying", {"order": "7", "by": "x", "amount": 5}))
    while real.engine.turn():
        pass
    real.restart()  # the attempt has begun, and nothing was made
    assert real.end_of(run.id) is RunState.COMPLETED
    assert len([*real.entities.table.history(real.entities.get("order", "7"))]) == 2


def test_a_run_that_is_cancelled_waits_no_more_and_the_transition_goes_on(real: Real) -> None:
    orders(real, ", on_enter: charge")
    run = pay(real)
    (charging,) = real.open_runs("charge")
    real.runs.cancel(OPERATOR, run.id)
    real.settle()
    real.end(charging)
    real.settle()
    assert real.end_of(run.id) is RunState.CANCELLED
    assert real.entities.get("order", "7").state == "PAID"


def test_the_check_of_a_store_finds_faults_of_all_three(real: Real) -> None:
    orders(real, ", on_enter: charge")
    real.entities.transition(OPERATOR, "order", "7", WantedState("PAID", payload={"amount": 1}))
    made = real.schedules.create(OPERATOR, '{"pipeline": "charge", "every": 60}')
    real.put("systems", "s", "kind: System\nmetadata: {name: s}\n"
             "spec: {processes: {a: {pipeline: charge}}}")  # fmt: skip
    system = real.system("s")
    assert check(real.world.state / "store.db") == []
    store = real.world.store
    kept = {}
    kinds = (("schedule", str(made.number)), ("entity", "order/7"), ("system", str(system.id)))
    with store.transaction():
        for kind, key in kinds:
            record = store.record(kind, key)
            assert record is not None
            kept[kind, key] = record
            wrong = {
                "schedule": {"state": "done"},
                "entity": {"seq": 9, "pending": None, "state": "LOST"},
                "system": {"state": "completed"},
            }[kind]
            store.put_record(kind, key, record | wrong)
    found = check(real.world.state / "store.db")
    for words in (
        f"schedule {made.number}: it has ended, and something is to come",
        "entity order/7: its machine has no state LOST",
        "entity order/7: its history does not have 9 lines",
        f"system {system.id}: it has ended, and a runs",
    ):
        assert words in found, found
    with store.transaction():
        for (kind, key), record in kept.items():
            store.put_record(kind, key, record)
