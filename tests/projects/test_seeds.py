"""Seeds: their phases, their evaluation, their evolutions, and the death of the daemon in each."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.process import Role
from agentfs.projects.events import EvaluationComplete, EvolutionMaxReached, PhaseStarted
from agentfs.projects.outcomes import (
    Assessment,
    criteria_of,
    read_evaluation,
    read_exit,
    read_plot,
    said_no,
)
from agentfs.projects.seed import Seed, SeedState
from agentfs.projects.spec import Phase, read_spec
from agentfs.tasks.model import TaskState, WorkerRequest
from agentfs.workflow.model import RunState
from tests.projects.world import PHASES, Nursery
from tests.world import OPERATOR


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Nursery]:
    world = Nursery(tmp_path)
    yield world
    world.close()


def refused(call: Any, *args: object, **more: object) -> KernelError:
    with pytest.raises(KernelError) as caught:
        call(*args, **more)
    return caught.value


def place(seed: Seed) -> tuple[str, str, int]:
    return seed.state.value, seed.phase.value, seed.attempt


def test_a_seed_goes_through_its_phases_and_passes(world: Nursery) -> None:
    world.specify(*PHASES)
    seed = world.plant()
    assert place(seed) == ("running", "interview", 1)
    world.answer(seed, {"ambiguity": 0.1, "goal": "a page on honey bees"})
    assert (seed.goal, seed.ambiguity) == ("a page on honey bees", 0.1)
    world.answer(seed, ["it names three kinds", "it has sources"])
    assert seed.criteria == ("it names three kinds", "it has sources")
    world.answer(seed, {"path": "bees.md"})
    assert world.kernel.seeds.table.result(seed.number) == {"path": "bees.md"}
    world.answer(seed, {"score": 0.9, "words": "well done"})
    assert place(seed) == ("passed", "evaluate", 1)
    assert seed.evaluation == Assessment(0.9, True, "well done")
    assert world.told() == [
        "seed_created 1",
        *("phase_started interview 1", "phase_completed interview 1"),
        *("phase_started seed 1", "phase_completed seed 1"),
        *("phase_started execute 1", "phase_completed execute 1"),
        *("phase_started evaluate 1", "evaluation 1", "phase_completed evaluate 1"),
    ]


def test_a_seed_that_does_not_pass_evolves_at_most_so_often(world: Nursery) -> None:
    world.specify("execute", "evaluate", evolutions=2, threshold=0.5)
    first = world.plant()
    for number, score in ((1, 0.4), (2, 0.3), (3, 0.2)):
        seed = world.seed(number)
        assert (seed.generation, seed.parent) == (number - 1, number - 1)
        assert seed.feedback == ("" if number == 1 else "more sources")
        assert seed.goal == first.goal
        world.answer(seed, f"text {number}")
        world.seen.clear()
        world.answer(seed, {"score": score, "words": "more sources"})
    assert [world.seed(number).state.value for number in (1, 2, 3)] == [
        *("evolved", "evolved", "failed")
    ]
    assert [seed.number for seed in world.kernel.seeds.table] == [1, 2, 3]
    assert EvolutionMaxReached("alice", "bees", 3, 2) in world.seen
    assert EvaluationComplete("alice", "bees", 3, 0.2, False) in world.seen
    assert "after 2 evolutions" in world.seed(3).reason
    assert world.kernel.seeds.last_of(first) is world.seed(3)


def test_an_evolution_is_told_and_may_change_the_goal(world: Nursery) -> None:
    world.specify("execute", "evaluate", "evolve")
    seed = world.plant()
    world.answer(seed, "a text")
    world.told()
    world.answer(seed, 0.1)
    given = json.loads(world.kernel.runs.input_of(seed.run))
    assert (given["result"], given["evaluation"]["score"]) == ("a text", 0.1)
    world.answer(seed, {"goal": "a short page on bees", "criteria": "it is short"})
    assert world.told() == [
        *("evaluation 1", "phase_completed evaluate 1"),
        *("evolution_started 1", "phase_started evolve 1", "phase_completed evolve 1"),
        *("seed_created 2", "phase_started seed 2", "phase_completed seed 2"),
        "phase_started execute 2",
    ]
    child = world.seed(2)
    assert (child.goal, child.criteria) == ("a short page on bees", ("it is short",))
    assert (seed.child, child.parent, child.phase) == (2, 1, Phase.EXECUTE)


def test_without_a_specification_members_do_it_all(world: Nursery) -> None:
    seeds, bob, dave = world.kernel.seeds, world.principal("bob"), world.principal("dave")
    seed = world.plant()
    assert place(seed) == ("waiting", "execute", 1)
    assert seed.criteria == ("a page on bees",)
    assert refused(seeds.set_result, dave, seed, "mine").errno == errno.EACCES
    assert refused(seeds.evaluate, bob, seed, Assessment(1.0)).errno == errno.EPERM
    seeds.set_result(bob, seed, "a text")
    world.settle()
    assert place(seed) == ("waiting", "evaluate", 1)
    assert refused(seeds.set_result, bob, seed, "another").errno == errno.EPERM
    own = refused(seeds.evaluate, world.alice, seed, Assessment(1.0))
    assert (own.errno, own.rule) == (errno.EPERM, "own seed")
    assert refused(seeds.evaluate, dave, seed, Assessment(1.0)).errno == errno.EACCES
    seeds.evaluate(bob, seed, Assessment(0.9))
    assert seed.state is SeedState.PASSED


def test_a_goal_that_is_not_clear_waits_for_an_answer(world: Nursery) -> None:
    world.specify("interview", ambiguity=0.3)
    seeds, seed = world.kernel.seeds, world.plant()
    world.answer(seed, {"ambiguity": 0.7, "questions": ["how long?"]})
    assert place(seed) == ("waiting", "interview", 1)
    assert (seed.questions, seed.ambiguity) == (("how long?",), 0.7)
    assert "0.7, more than 0.3" in seed.reason
    assert refused(seeds.set_goal, world.principal("bob"), seed, "x").errno == errno.EPERM
    assert refused(seeds.set_goal, world.alice, seed, " ").errno == errno.EINVAL
    world.told()
    seeds.set_goal(world.alice, seed, "one page on bees")
    world.settle()
    assert place(seed) == ("running", "interview", 2)
    assert world.told() == ["phase_started interview 1"]
    world.answer(seed, 0.5)
    seeds.accept(OPERATOR, seed)
    world.settle()
    assert place(seed) == ("waiting", "execute", 1)


def test_a_phase_that_fails_fails_its_seed_and_is_begun_again_where_that_is_said(
    world: Nursery,
) -> None:
    world.specify("execute")
    seeds, seed = world.kernel.seeds, world.plant()
    world.kernel.runs.cancel(OPERATOR, seed.run, "too dear")
    world.settle()
    assert place(seed) == ("failed", "execute", 1)
    assert "too dear" in seed.reason
    assert refused(seeds.retry, world.principal("bob"), seed).errno == errno.EPERM
    seeds.retry(world.alice, seed)
    world.settle()
    assert place(seed) == ("running", "execute", 2)
    begun = [event.attempt for event in world.seen if isinstance(event, PhaseStarted)]
    assert begun[-1] == 2
    world.answer(seed, "a text")
    assert place(seed) == ("waiting", "evaluate", 1)
    assert refused(seeds.retry, world.alice, seed).errno == errno.EPERM


@pytest.mark.parametrize(
    ("phase", "output", "words"),
    [
        ("interview", {"ambiguity": 2}, "ambiguity: a number from 0 to 1"),
        ("interview", "clear enough", "was expected"),
        ("interview", {"goal": "x", "gaol": "y"}, "gaol"),
        ("seed", 7, "was expected"),
        ("evaluate", "very good", "was expected"),
        ("evaluate", {"words": "fine"}, "a score, or whether it has passed"),
        ("evaluate", None, "was expected"),
    ],
)
def test_an_outcome_that_says_nothing_fails_the_seed_and_says_what_was_expected(
    world: Nursery, phase: str, output: object, words: str
) -> None:
    world.specify(phase, *(() if phase == "execute" else ("execute",)))
    seed = world.plant()
    if phase == "evaluate":
        world.answer(seed, "a text")
    world.answer(seed, output)
    assert place(seed) == ("failed", phase, 1)
    assert words in seed.reason


def test_cancelling_ends_what_is_under_way(world: Nursery) -> None:
    world.specify("execute")
    seeds, seed = world.kernel.seeds, world.plant()
    number = seed.run
    assert refused(seeds.cancel, world.principal("bob"), seed).errno == errno.EPERM
    seeds.cancel(world.alice, seed, "enough")
    world.settle()
    run = world.kernel.runs.get(number)
    assert run.state is RunState.CANCELLED
    assert place(seed) == ("cancelled", "execute", 1)
    assert seed.reason == "cancelled by alice: enough"
    assert refused(seeds.cancel, world.alice, seed).errno == errno.EPERM


def test_who_is_no_member_plants_nothing(world: Nursery) -> None:
    seeds = world.kernel.seeds
    assert refused(seeds.plant, world.principal("dave"), "bees", "x").errno == errno.EACCES
    assert refused(seeds.plant, world.alice, "none", "x").errno == errno.ENOENT
    for wrong in ("", " \n", "x" * 20_000):
        assert refused(seeds.plant, world.alice, "bees", wrong).errno == errno.EINVAL
    world.settings.replace("projects: {max_seeds: 1}")
    world.plant()
    assert refused(seeds.plant, OPERATOR, "bees", "x").errno == errno.ENOSPC


def test_a_seed_is_its_makers_doing(world: Nursery) -> None:
    world.specify("execute")
    seed = world.plant(who="bob")
    run = world.kernel.runs.get(seed.run)
    assert run.starter == "bob"
    bob = world.table.by_name("bob")
    process = world.table.find(run.id)
    assert bob is not None
    assert process is not None
    assert process.ppid == bob.pid, "what it uses counts for bob, and within his limits"
    assert world.kernel.policy.capabilities(process).within(world.kernel.policy.capabilities(bob))


def test_who_may_start_nothing_plants_nothing(world: Nursery) -> None:
    world.process("errand", world.alice.pid or 0, Role.TASK)
    world.kernel.projects.set_members(world.alice, "bees", ["errand"])
    assert refused(world.plant, who="errand").errno == errno.EACCES


def test_a_seed_keeps_the_specification_that_it_was_planted_under(world: Nursery) -> None:
    world.specify("execute")
    seed = world.plant()
    world.specify("evaluate", evolutions=0)
    world.answer(seed, "a text")
    assert place(seed) == ("waiting", "evaluate", 1), "nobody evaluated, when it was planted"


def test_a_start_that_is_refused_for_the_moment_is_tried_again(world: Nursery) -> None:
    world.specify("execute")
    world.settings.replace("workflows: {max_open: 1}")
    first, second = world.plant("one"), world.plant("two")
    assert (bool(first.run), bool(second.run)) == (True, False)
    assert "as many as there may be" in second.reason
    world.answer(first, "done")
    world.clock.advance(6.0)
    world.settle()
    assert place(second) == ("running", "execute", 1)
    assert second.run


def test_each_step_survives_a_kill_and_is_done_once(world: Nursery) -> None:
    world.specify(*PHASES, evolutions=1)
    outputs = {
        Phase.INTERVIEW: 0.0,
        Phase.SEED: ["short"],
        Phase.EXECUTE: "a text",
        Phase.EVALUATE: 0.1,
        Phase.EVOLVE: "another page",
    }
    world.kernel.seeds.plant(world.alice, "bees", "a page")
    for _ in range(100):
        world.restart()
        for _ in world.kernel.engine.start_again():
            pass
        if world.kernel.seeds.table.first() is not None:
            world.kernel.seeds.run_due()
        elif world.kernel.engine.turn():
            pass
        else:
            waiting = [seed for seed in world.kernel.seeds.table if seed.open]
            if not waiting:
                break
            (seed,) = waiting
            key, run = seed.phase.value, seed.run
            world.kernel.runs.signal(OPERATOR, run, key, outputs[seed.phase])
    first, second = world.kernel.seeds.table
    assert (first.state, second.state) == (SeedState.EVOLVED, SeedState.FAILED)
    for seed, phases in ((first, PHASES), (second, PHASES[1:4])):
        begun = [line for line in seed.history if line["words"].startswith("started")]
        assert [(line["phase"], line["attempt"]) for line in begun] == [(p, 1) for p in phases]
    runs = world.kernel.runs.query(ref="seed/1", limit=100)
    assert len(runs) == 5, "no phase had two runs"


def test_what_a_project_had_goes_with_it(world: Nursery) -> None:
    world.specify("execute")
    seed = world.plant()
    run = seed.run
    bob = world.principal("bob")
    assert refused(world.kernel.seeds.remove_project, bob, "bees").errno == errno.EPERM
    assert seed.open
    assert refused(world.kernel.seeds.remove_project, world.alice, "bees").errno == errno.ENOTEMPTY
    assert world.kernel.projects.memory_dir("bees").is_dir()
    world.kernel.seeds.remove_project(world.alice, "bees", force=True)
    world.restart()
    world.settle()
    assert list(world.kernel.seeds.table) == []
    assert world.kernel.runs.get(run).state is RunState.CANCELLED


def test_seeds_that_ended_long_ago_are_forgotten_line_by_line(world: Nursery) -> None:
    world.specify("execute", "evaluate", evolutions=1)
    seed = world.plant()
    for number in (1, 2):
        world.answer(world.seed(number), "text")
        world.answer(world.seed(number), 0)
        world.clock.advance(8 * 86_400.0)
        world.kernel.seeds.tidy()
        left = [seed.number for seed in world.kernel.seeds.table]
        assert left == ([1, 2] if number == 1 else [])
    assert world.store.record("seed_result", str(seed.number)) is None


def test_the_seeds_of_an_agent_that_is_removed_are_inits_and_may_no_more(world: Nursery) -> None:
    world.specify("execute")
    seed = world.plant(who="bob")
    bob = world.table.by_name("bob")
    assert bob is not None
    world.end(bob, 0)
    world.kernel.supervisor.reap(bob)
    world.agents.remove(OPERATOR, "bob")
    assert (seed.maker.owner, seed.maker.name) == ("init", "bob")
    assert world.project.members == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("phases: {plant: {data: {}}}", "phases.plant"),
        ("phases: {execute: {}}", "phases.execute"),
        ("phases: {execute: {name: x, data: {}}}", "it has no name"),
        ("threshold: 2", "line 1: threshold"),
        ("evolutions: -1", "line 1: evolutions"),
        ("goal: x", "there is no such key"),
        ("phases: {execute: {task: {}, data: {}}}", "`task` stands alone"),
        ("phases: {execute: {programme: x}}", "phases.execute: E101 a node: a kind was expected"),
        ("phases: {execute: {program: x, arg: [y]}}", "phases.execute: E005"),
        ("phases: {execute: {task: {priority: 12}}}", "phases.execute.task.priority"),
        ("phases: {execute: {task: {key: x}}}", "the seed says that"),
    ],
)
def test_a_specification_with_faults_is_refused_and_they_are_named(
    world: Nursery, text: str, words: str
) -> None:
    def check() -> None:
        world.kernel.seeds.check_spec(read_spec(text))

    bad = refused(check)
    assert bad.errno == errno.EINVAL
    assert words in bad.reason


def test_answers_are_read_as_programs_models_and_people_give_them() -> None:
    assert read_plot("interview", "0.25").ambiguity == 0.25
    assert read_plot("seed", "one\n\n two  words \n").criteria == ("one", "two words")
    fenced = '```json\n{"score": 0.5, "words": "half"}\n```'
    assert read_evaluation(fenced) == Assessment(0.5, None, "half")
    assert read_evaluation({"passed": True}) == Assessment(1.0, True)
    assert read_evaluation("true") == Assessment(1.0, True)
    assert read_exit(None) == Assessment(1.0, True)
    assert read_exit("all 12 tests pass\n") == Assessment(1.0, True, "all 12 tests pass")
    assert read_exit({"score": 0.2}) == Assessment(0.2)
    assert said_no("node evaluate: exit code 1: two tests fail") == Assessment(
        0.0, False, "two tests fail"
    )
    assert said_no("node evaluate: exit code 12: a bug") is None
    assert said_no("node evaluate: exit code 137 (SIGKILL)") is None
    assert criteria_of([]) == ()


# -- tasks -----------------------------------------------------------------------------------------


def task_of(world: Nursery, seed: Seed) -> int:
    """The number of the task that does its phase; a worker has claimed it."""
    assert seed.task
    message = world.mail.receiving.claim_next(OPERATOR, "workers/w1")
    assert message is not None
    return seed.task


def test_a_phase_may_be_a_task_for_a_worker(world: Nursery) -> None:
    world.kernel.workers.register(OPERATOR, WorkerRequest(name="w1", capabilities={"writes": True}))
    task = {"task": {"requirements": {"writes": True}, "priority": 7}}
    world.specify(nodes={"execute": task, "evaluate": task}, evolutions=0)
    seed = world.plant()
    number = task_of(world, seed)
    found = world.kernel.tasks.get(number)
    assert (found.submitter, found.priority, found.key) == ("alice", 7, "seed/1/execute/1")
    assert json.loads(world.kernel.tasks.input_of(found))["goal"] == "a page on bees"
    world.kernel.tasks.complete(OPERATOR, number, {"path": "bees.md"})
    world.settle()
    assert world.kernel.seeds.table.result(seed.number) == {"path": "bees.md"}
    assert place(seed) == ("running", "evaluate", 1)
    world.kernel.tasks.complete(OPERATOR, task_of(world, seed), 0.9)
    world.settle()
    assert place(seed) == ("passed", "evaluate", 1)


def test_a_task_that_ended_just_before_the_daemon_did_is_not_submitted_again(
    world: Nursery,
) -> None:
    world.kernel.workers.register(OPERATOR, WorkerRequest(name="w1"))
    world.specify(nodes={"execute": {"task": {}}})
    number = task_of(world, world.plant())
    with patch.object(world.kernel.seeds, "_look"):  # the death comes before it is heard of
        world.kernel.tasks.complete(OPERATOR, number, "a text")
    world.restart()
    world.settle()
    seed = world.seed(1)
    assert place(seed) == ("waiting", "evaluate", 1)
    assert world.kernel.seeds.table.result(1) == "a text"
    assert sum(world.kernel.tasks.counts().values()) == 1


def test_a_task_that_fails_fails_the_seed_and_a_cancelled_seed_cancels_its_task(
    world: Nursery,
) -> None:
    world.kernel.workers.register(OPERATOR, WorkerRequest(name="w1"))
    world.specify(nodes={"execute": {"task": {}}})
    seed = world.plant()
    world.kernel.tasks.fail(OPERATOR, task_of(world, seed), "no paper")
    world.settle()
    assert place(seed) == ("failed", "execute", 1)
    assert "no paper" in seed.reason
    world.kernel.seeds.retry(world.alice, seed)
    world.settle()
    again = task_of(world, seed)
    assert world.kernel.tasks.get(again).key == "seed/1/execute/2"
    world.kernel.seeds.cancel(world.alice, seed)
    assert world.kernel.tasks.get(again).state is TaskState.CANCELLED


def test_nobody_submits_a_task_for_an_agent_without_a_process(world: Nursery) -> None:
    world.kernel.workers.register(OPERATOR, WorkerRequest(name="w1"))
    world.specify("interview", nodes={"execute": {"task": {}}})
    seed = world.plant(who="bob")
    bob = world.table.by_name("bob")
    assert bob is not None
    run = seed.run
    world.end(bob, 0)
    assert world.kernel.runs.get(run).starter == "bob"
    world.answer(seed, 0)
    assert place(seed) == ("failed", "execute", 0)
    assert "nobody works for bob" in seed.reason
