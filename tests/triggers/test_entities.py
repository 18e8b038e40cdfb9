"""Entities: what may follow what, who may say so, what a process of a transition does, and a
history that stays."""

import errno
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.principal import Kind, Principal
from agentfs.model.process import Role
from agentfs.triggers.entities import WantedState
from agentfs.triggers.entity_table import Entity
from agentfs.workflow.model import RunState
from tests.triggers.lab import WAITING, Real
from tests.world import GID, OPERATOR, UID

ORDER = """\
initial: NEW
transitions:
  NEW: [PAID, {to: CANCELLED, guard: "payload.why != ''"}]
  PAID: [SHIPPED, CANCELLED]
states:
  PAID: {on_enter: charge, requires: [amount]}
  SHIPPED: {terminal: true}
"""


class World(Real):
    def orders(self, *names: str, machine: str = ORDER, mode: int = 0o777) -> None:
        self.entities.make_type(OPERATOR, "order", mode)
        if machine:
            self.entities.set_machine(OPERATOR, "order", machine)
        for name in names:
            self.entities.register(OPERATOR, "order", name)

    def order(self, name: str = "1") -> Entity:
        return self.entities.get("order", name)

    def go(self, to: str, name: str = "1", who: Principal = OPERATOR, **wanted: Any) -> int:
        return self.entities.transition(who, "order", name, WantedState(to, **wanted)).run

    def history(self, name: str = "1") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.entities.table.history(self.order(name))]

    def brief(self, name: str = "1") -> list[tuple[str | None, str, str]]:
        return [(line["from"], line["to"], line["state"]) for line in self.history(name)]

    def refuse(self, number: int, to: str, name: str = "1", **wanted: Any) -> str:
        """Be refused, and see that nothing changed."""
        before = (
            self.order(name).record(),
            self.history(name),
            self.kernel.events.last,
            self.open_runs(),
        )
        with pytest.raises(KernelError) as caught:
            self.go(to, name, **wanted)
        assert caught.value.errno == number, caught.value
        assert before == (
            self.order(name).record(),
            self.history(name),
            self.kernel.events.last,
            self.open_runs(),
        )
        return caught.value.reason


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.put_waiting("charge")
    yield world
    world.close()


def test_the_life_of_an_entity(world: World) -> None:
    world.orders("1")
    assert world.order().state == "NEW"
    assert world.entities.allowed(world.order()) == ("PAID", "CANCELLED")
    run = world.go("PAID", payload={"amount": 12}, reason="by card")
    assert world.open_runs() == [run]
    found = world.runs.get(run)
    assert (found.pipeline, found.ref) == ("charge", "order/1")
    assert json.loads(world.runs.input_of(run)) == {
        "amount": 12,
        "payload": {"amount": 12},
        "entity_type": "order",
        "entity_id": "1",
        "from_state": "NEW",
        "to_state": "PAID",
        "reason": "by card",
    }
    assert (world.order().state, world.entities.allowed(world.order())) == ("NEW", ())
    world.end(run)
    assert (world.order().state, world.order().pending) == ("PAID", None)
    assert world.go("SHIPPED") == 0
    assert world.brief() == [
        (None, "NEW", "NEW"),
        ("NEW", "PAID", "PAID"),
        ("PAID", "SHIPPED", "SHIPPED"),
    ]
    paid = world.history()[1]
    assert (paid["seq"], paid["by"], paid["reason"], paid["run"]) == (2, "init", "by card", run)
    world.restart()
    assert (world.order().state, len(world.history())) == ("SHIPPED", 3)
    world.entities.remove(OPERATOR, "order", "1")
    assert not list(world.world.store.read("SELECT * FROM entity_history"))


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.CANCELLED, RunState.TIMED_OUT])
def test_a_process_that_fails_leaves_the_state_and_a_line(world: World, state: RunState) -> None:
    world.orders("1")
    run = world.go("PAID", payload={"amount": 1})
    world.end(run, state, "no money")
    assert (world.order().state, world.order().pending) == ("NEW", None)
    line = world.history()[-1]
    assert (line["from"], line["to"], line["state"], line["run"]) == ("NEW", "PAID", "NEW", run)
    assert line["error"].endswith("no money")
    assert world.go("PAID", payload={"amount": 1}) != run


def test_each_refusal_has_its_errno(world: World) -> None:
    world.orders("1", "2")
    assert "did you mean PAID?" in world.refuse(errno.EINVAL, "PIAD")
    assert "PAID, CANCELLED may follow" in world.refuse(errno.EPERM, "SHIPPED")
    assert "amount" in world.refuse(errno.EINVAL, "PAID")
    assert "amount" in world.refuse(errno.EINVAL, "PAID", payload={"amount": None})
    assert "keeps" in world.refuse(errno.EPERM, "CANCELLED", payload={"why": ""})
    assert "says nothing" in world.refuse(errno.EPERM, "CANCELLED")
    assert "NEW, not PAID" in world.refuse(errno.ESTALE, "CANCELLED", expected="PAID")
    run = world.go("PAID", payload={"amount": 1}, expected="NEW")
    assert f"run {run}" in world.refuse(errno.EBUSY, "CANCELLED", payload={"why": "x"})
    world.go("CANCELLED", "2", payload={"why": "late"})
    assert "terminal" in world.refuse(errno.EPERM, "NEW", "2")
    with pytest.raises(KernelError) as caught:
        world.go("PAID", "3")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(KernelError) as caught:
        world.entities.transition(OPERATOR, "ordre", "1", WantedState("PAID"))
    assert (caught.value.errno, "did you mean order?" in caught.value.reason) == (
        errno.ENOENT,
        True,
    )


def test_a_start_that_is_refused_refuses_the_transition(world: World) -> None:
    world.orders("1")
    strict = WAITING.replace("NAME", "charge").replace("spec:", "spec:\n  input_schema: {n: int}")
    world.put("pipelines", "charge", strict)
    world.refuse(errno.EINVAL, "PAID", payload={"amount": 1})
    world.library.remove(OPERATOR, "pipelines", "charge")
    world.refuse(errno.ENOENT, "PAID", payload={"amount": 1})


def test_of_twenty_writers_one_wins(world: World) -> None:
    world.orders("1")
    writers = [world.world.process(f"writer{number}") for number in range(20)]
    outcomes = []
    for writer in writers:
        who = world.world.principal(writer.name)
        try:
            world.go("CANCELLED", who=who, expected="NEW", payload={"why": writer.name})
            outcomes.append(0)
        except KernelError as refused:
            outcomes.append(refused.errno)
    assert outcomes == [0] + [errno.ESTALE] * 19
    assert world.brief() == [(None, "NEW", "NEW"), ("NEW", "CANCELLED", "CANCELLED")]


def test_it_survives_kill_9_at_every_commit(world: World) -> None:
    world.orders("1")
    world.restart()
    run = world.go("PAID", payload={"amount": 1})
    world.restart()
    pending = world.order().pending
    assert pending is not None
    assert pending.run == run
    world.end(run)
    world.restart()
    assert (world.order().state, world.order().pending) == ("PAID", None)
    assert len(world.history()) == 2


def test_a_commit_that_fails_undoes_state_and_history_together(world: World) -> None:
    world.orders("1")
    run = world.go("PAID", payload={"amount": 1})
    before = world.order().record(), world.history()
    fail = [True]

    def full() -> None:
        if fail[0]:
            raise KernelError(errno.ENOSPC, "no space")

    world.world.store.prepare(full)
    with pytest.raises(KernelError):
        world.end(run)
    assert before == (world.order().record(), world.history())
    fail[0] = False
    world.end(run)
    assert world.order().state == "PAID"


def test_a_run_that_a_repair_has_lost_fails_its_transition(world: World) -> None:
    world.orders("1")
    run = world.go("PAID", payload={"amount": 1})
    with world.world.store.transaction():
        pending = world.order().pending
        assert pending is not None
        lost = replace(pending, run=run + 1000)
        world.entities.table.change(world.order(), pending=lost)
    world.entities.take_up()
    assert (world.order().pending, world.order().state) == (None, "NEW")
    assert "lost" in world.history()[-1]["error"]


def test_without_a_machine_any_state_may_follow(world: World) -> None:
    world.orders("1", machine="")
    assert world.order().state == "created"
    world.go("anything")
    world.refuse(errno.EINVAL, "two words")
    assert world.brief()[-1] == ("created", "anything", "anything")
    world.entities.remove(OPERATOR, "order", "1")


def test_rmdir_only_in_a_terminal_state(world: World) -> None:
    world.orders("1")
    with pytest.raises(KernelError) as caught:
        world.entities.remove(OPERATOR, "order", "1")
    assert caught.value.errno == errno.EBUSY
    with pytest.raises(KernelError) as caught:
        world.entities.remove_type(OPERATOR, "order")
    assert caught.value.errno == errno.ENOTEMPTY
    world.go("CANCELLED", payload={"why": "late"})
    world.entities.remove(OPERATOR, "order", "1")
    world.entities.remove_type(OPERATOR, "order")
    assert world.entities.table.types() == []


def test_a_machine_is_replaced_as_a_whole_or_not_at_all(world: World) -> None:
    world.orders("1")
    for text, words in (
        ("initial: NEW\ntransitions: {NEW: [PAID, PAID]}", "machine:2"),
        ("initial: OPEN\ntransitions: {OPEN: [SHUT]}", "1 is in state NEW"),
        ("initial: NEW\ntransitions: {NEW: [A]}\nstates: {A: {on_enter: nosuch}}", "nosuch"),
        ("", "a map was expected"),
    ):
        with pytest.raises(KernelError) as caught:
            world.entities.set_machine(OPERATOR, "order", text)
        assert caught.value.errno == errno.EINVAL
        assert words in caught.value.reason
        assert world.entities.get_type("order").text == ORDER
    world.entities.set_machine(OPERATOR, "order", ORDER + "# the same\n")
    world.restart()
    assert world.entities.get_type("order").text.endswith("same\n")


# -- who may -------------------------------------------------------------------------------------


def test_mode_and_rules_say_who_may_make_transitions(world: World) -> None:
    world.orders("1", machine="", mode=0o755)
    world.world.process("ann")
    with pytest.raises(KernelError) as caught:
        world.go("a", who=world.world.principal("ann"))
    assert (caught.value.errno, caught.value.rule) == (errno.EACCES, "mode")
    world.entities.chmod(OPERATOR, "order", 0o777)
    world.go("a", who=world.world.principal("ann"))
    world.kernel.acl.replace(
        "rules: [{effect: deny, agent: ann, action: transition, path: /proc/entities/order/*}]"
    )
    with pytest.raises(KernelError) as caught:
        world.go("b", who=world.world.principal("ann"))
    assert caught.value.errno == errno.EPERM
    world.world.process("errand", role=Role.TASK)
    with pytest.raises(KernelError) as caught:
        world.go("b", who=world.world.principal("errand"))
    assert caught.value.errno == errno.EACCES
    with pytest.raises(KernelError) as caught:
        world.entities.set_machine(world.world.principal("ann"), "order", ORDER)
    assert caught.value.errno == errno.EPERM


def test_a_process_runs_for_whoever_made_the_type(world: World) -> None:
    ann = world.world.process("ann", max_llm_calls=3)
    world.world.process("bob")
    world.entities.make_type(world.world.principal("ann"), "order", 0o777)
    world.entities.set_machine(OPERATOR, "order", ORDER)  # that makes nobody mightier
    world.entities.register(world.world.principal("bob"), "order", "1")
    world.world.end(ann, 0)
    run = world.go("PAID", who=world.world.principal("bob"), payload={"amount": 1})
    process = world.kernel.table.get(run)
    assert world.kernel.ceilings.effective(process, "max_llm_calls") == 3
    assert process.ceiling is not None
    assert "agent" in process.ceiling.roles


def test_processes_of_transitions_that_make_one_another_come_to_an_end(world: World) -> None:
    names = [str(number) for number in range(15)]
    world.orders(*names)
    who, made = OPERATOR, 0
    with pytest.raises(KernelError) as caught:
        for name in names:
            run = world.go("PAID", name, who=who, payload={"amount": 1})
            # The run makes the next one; as a test makes no steps, its parent is set by hand.
            process = world.kernel.table.get(run)
            with world.world.store.transaction():
                if who is not OPERATOR:
                    world.kernel.table.update(process, ppid=who.pid)
            who = Principal(Kind.AGENT, run, process.name, UID, GID, process.agent)
            made += 1
    assert (caught.value.errno, made) == (errno.ELOOP, 10)


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", "a b", "x" * 129, "machine", "a\n"])
def test_names_that_cannot_be(world: World, name: str) -> None:
    world.orders()
    with pytest.raises(KernelError) as caught:
        world.entities.register(OPERATOR, "order", name)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(KernelError) as caught:
        world.entities.make_type(OPERATOR, name, 0o755)
    assert caught.value.errno == errno.EINVAL


def test_nobody_takes_all_the_types_or_entities(world: World) -> None:
    world.world.settings.replace("triggers: {max_entity_types: 40, max_entities: 40}")
    world.world.process("ann")
    ann = world.world.principal("ann")
    with pytest.raises(KernelError) as caught:
        for number in range(40):
            world.entities.make_type(ann, f"type{number}", 0o777)
    assert caught.value.errno == errno.EDQUOT
    with pytest.raises(KernelError) as caught:
        for number in range(40):
            world.entities.register(ann, "type0", str(number))
    assert caught.value.errno == errno.EDQUOT
    world.orders("1")


def test_what_is_there_already(world: World) -> None:
    world.orders("1")
    for call in (
        lambda: world.entities.register(OPERATOR, "order", "1"),
        lambda: world.entities.make_type(OPERATOR, "order", 0o755),
    ):
        with pytest.raises(KernelError) as caught:
            call()
        assert caught.value.errno == errno.EEXIST


def test_types_of_an_agent_that_is_removed_are_inits_and_may_no_more(world: World) -> None:
    ann = world.world.process("ann")
    world.entities.make_type(world.world.principal("ann"), "order", 0o777)
    world.entities.set_machine(OPERATOR, "order", ORDER)
    world.entities.register(OPERATOR, "order", "1")
    world.world.end(ann, 0)
    with world.world.store.transaction():
        world.entities.agent_removed("ann")
    kind = world.entities.get_type("order")
    assert (kind.ownership.owner, kind.maker.owner) == ("init", "init")
    assert kind.maker.ceiling is not None
    run = world.go("PAID", payload={"amount": 1})
    assert world.kernel.table.get(run).ceiling is not None
