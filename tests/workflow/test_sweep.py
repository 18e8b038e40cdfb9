"""The sweep: a scenario with nodes of every kind that needs no program, and the daemon dies before
and after each of its commits in turn. However it dies, runs end alike, and nothing that happened
once for good happens again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.manifests.plan import Concurrency, Retry
from agentfs.workflow.model import Run, Start
from tests.workflow.lab import Lab, data, expression, graph, node
from tests.world import OPERATOR

STRIDE = 1 if os.environ.get("SWEEP_ALL") else 3
"""Every how many commits the daemon dies in the suite: each death takes 0.2 s of processor time."""


class Death(BaseException):
    """kill -9."""


def describe(lab: Lab) -> None:
    """The pipelines of the scenario."""
    routed = {"routes": ("way",), "sources": ()}
    lab.pipeline(
        node("c", retry=Retry(2, 0.0)), data("d", {"n": "{{ input.n }}"}, "c"), name="child"
    )
    lab.pipeline(
        data("a", {"n": 3, "long": "x" * 70_000}),
        expression("b", "a", n="a.n + 1"),
        node("cond", "condition", "b", spec={"condition": "b.n == 4"}),
        node("way", "switch", "cond", spec={
            "branches": [{"condition": "cond.result", "action": "left"}], "else_action": "right"}),
        node("left", needs="way", timeout=30.0, **routed),
        node("right", needs="way", **routed),
        node("join", needs="left right", retry=Retry(3, 5.0)),
        node("each", "for-each", "join", spec={"items": [1, 2, 3], "concurrency": 2},
             bodies=(("body", graph(node("u"), expression("v", "u", v="u + item"))),)),
        node("count", "while", "join", spec={
            "condition": "state.n < 2", "initial_state": {"n": 0},
            "state_update": {"n": "state.n + 1"}}, bodies=(("body", graph(node("w"))),)),
        node("choose", "if", "b", spec={"condition": "b.n > 1"},
             bodies=(("body", graph(data("yes", 1))), ("else", graph(data("no", 0))))),
        node("sub", "pipeline", "each", spec={"pipeline": "child", "input": {"n": 7}}),
        node("late", "wait", "b", spec={"event_key": "never", "timeout": 20.0}, on_error="comfort"),
        data("comfort", "{{ late._error.type }}", "late", handles=("late",)),
        node("signal", "wait", "b", spec={"event_key": "go"}),
        node("bad", needs="b", on_error="mend"),
        node("mend", needs="bad", handles=("bad",)),
        node("slow", needs="b"),
        node("first", needs="choose slow", join="first"),
        data("end", "{{ nodes.sub }}", "sub count signal mend first comfort"),
        name="main", concurrency=Concurrency("one", 1), output={"end": "{{ end }}"},
    )  # fmt: skip
    lab.pipeline(
        node("one"), node("two", needs="one"), node("tidy", needs="two", always=True), name="frail"
    )
    lab.pipeline(node("sub", "pipeline", spec={"pipeline": "child"}), node("x"), name="doomed")


ANSWERS: dict[str, list[Any]] = {
    "main:join": ["again", "joined"],
    "main:bad": ["fail"],
    "child:c": ["again", 1],
    "frail:two": ["fail"],
}
"""What the attempts of a node give: `again` and `fail` are failures; all others give 1."""


def die() -> None:
    raise Death


class Story:
    """The world around the daemon: it does steps, sends signals, retries, cancels, lets time go by;
    and begins the daemon again when it is dead."""

    def __init__(self, state: Path, die_at: int, before: bool) -> None:
        self.lab = Lab(state, "program wait")
        self.die_at, self.before = die_at, before
        self.commits = self.deaths = 0
        self.effects: list[str] = []
        self._arm()

    def _arm(self) -> None:
        describe(self.lab)
        store = self.lab.world.store

        def commit() -> None:
            if store._direct or store._changes or store._metas:
                self.commits += 1
                if self.before and self.commits == self.die_at:
                    die()
                if not self.before and self.commits >= self.die_at and not self.deaths:
                    store._commit.insert(0, die)  # before all that follows from the commit

        store.prepare(commit)

    def tell(self) -> dict[str, Any]:
        """Let it all happen."""
        for _ in range(400):
            try:
                self.lab.settle()
                if not self.act():
                    return self.ends()
            except Death:
                self.deaths += 1
                self.lab.world.store._roll_back()
                self.lab.world.store._depth = 0
                while True:  # a daemon that dies while it begins is begun again
                    try:
                        self.lab.world.restart()
                        self.lab._begin()
                        describe(self.lab)
                        self._arm()
                        self.lab.start_again()
                        break
                    except Death:
                        self.deaths += 1
        raise AssertionError("it never ends")

    def run(self, pipeline: str) -> Run | None:
        found = self.lab.runs.query(pipeline=pipeline, limit=100)
        return found[-1] if found else None

    def act(self) -> bool:
        """Do the next thing; whether there was anything to do."""
        lab = self.lab
        for name in ("main", "frail", "doomed"):
            if self.run(name) is None:
                lab.runs.start(OPERATOR, Start(name, {"n": 1}, key="once"))
                return True
        doomed, frail, main = self.run("doomed"), self.run("frail"), self.run("main")
        if not doomed.state.final:
            if lab.runs.children(doomed.id):
                lab.runs.cancel(OPERATOR, doomed.id, "enough")
            return True
        if lab.hands.steps:
            self.answer(next(iter(lab.hands.steps)))
            return True
        if frail.state.final and not any(r.retry_of for r in lab.runs.query(pipeline="frail")):
            lab.runs.retry(OPERATOR, frail.id)
            return True
        if lab.state(main, "signal") == "waiting":
            lab.runs.signal(OPERATOR, main.id, "go", "gone")
            return True
        if len(lab.engine.open):
            lab.world.clock.advance(2.5)
            return True
        return False

    def answer(self, ref) -> None:
        lab, step = self.lab, self.lab.hands.steps[ref]
        name = ref.path.rpartition("/")[2] if "/" in ref.path else ref.path
        if name == "slow":
            del lab.hands.steps[ref]  # it would never end
            return
        answers = ANSWERS.get(f"{step.plan.name}:{name}", [])
        answer = answers[min(ref.attempt, len(answers)) - 1] if answers else 1
        if step.plan.name == "frail" and lab.runs.get(ref.run).retry_of:
            answer = 1
        try:
            if answer in ("again", "fail"):
                lab.engine.fail(ref, "it broke", again=answer == "again")
            else:
                self.effects.append(f"{step.plan.name} {step.key}")
                lab.engine.succeed(ref, answer)
        except KernelError as stale:
            assert stale.code == "ESTALE"
        lab.hands.steps.pop(ref, None)
        lab.engine.freed(lab.hands)

    def ends(self) -> dict[str, Any]:
        """Everything that must be alike in the end."""
        lab, found = self.lab, {}
        for run in reversed(lab.runs.query(limit=100)):
            nodes = {
                row.path: (row.state.value, row.attempt, row.kind) for row in lab.runs.nodes(run.id)
            }
            ends = [line for line in lab.lines(run) if line["type"] == "PipelineCompleted"]
            found[f"{run.pipeline} {run.id}"] = (
                run.state.value,
                lab.output(run),
                nodes,
                len(ends),
                {path: lab.output(run, path) for path in nodes if path != "a"},
            )
        return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int, list[str]]:
    """How it ends if nobody dies, and in how many commits."""
    story = Story(tmp_path_factory.mktemp("sweep") / "state", 0, True)
    ends = story.tell()
    story.lab.close()
    return ends, story.commits, story.effects


def test_the_scenario_ends_as_it_should(undisturbed) -> None:
    ends, commits, effects = undisturbed
    states = {name.split()[0]: end[0] for name, end in ends.items()}
    assert states == {
        "main": "completed", "frail": "completed", "doomed": "cancelled", "child": "completed",
    }  # fmt: skip
    assert commits > 25
    assert len(effects) == len(set(effects))


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_whenever_the_daemon_dies_everything_ends_alike(
    tmp_path: Path, undisturbed, before: bool
) -> None:
    expected, commits, effects = undisturbed
    wrong = []
    for die_at in range(1 + 3 * before % STRIDE, commits + 1, STRIDE):
        story = Story(tmp_path / f"{die_at}", die_at, before)
        ends = story.tell()
        story.lab.close()
        assert story.deaths
        if ends != expected:
            wrong.append((die_at, ends))
        # An effect happens twice only if the daemon died while its end was being committed.
        assert sorted({*story.effects}) == sorted({*effects})
        assert len(story.effects) - len(effects) <= 1
    for die_at, ends in wrong[:3]:
        for name in expected:
            assert (die_at, ends.get(name)) == (die_at, expected[name])
    assert not wrong
