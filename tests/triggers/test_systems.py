"""Systems: their processes at the same time and one after another, pipes, limits, ends; and those
that begin by themselves."""

import errno
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.triggers.system_table import SystemState
from agentfs.workflow.model import RunState, Start
from tests.triggers.lab import Real, refusal
from tests.world import OPERATOR

GIVING = """\
kind: Pipeline
metadata: {name: giving}
spec:
  nodes:
  - name: the-data
    data:
      list: [1, {two: [2, 3]}]
      big: 1180591620717411303424
      none: null
      text: "x{{ '{' ~ '{' }} y }}"
  output: {all: "{{ the-data }}", two: "{{ the-data.list[1].two }}"}
"""
TAKING = """\
kind: Pipeline
metadata: {name: taking}
spec:
  nodes:
  - {name: taken, expression: {input: "input"}}
"""
FAILING = """\
kind: Pipeline
metadata: {name: failing}
spec:
  nodes:
  - {name: broken, expression: {x: "1 / input.zero"}}
"""


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Real]:
    real = Real(tmp_path)
    real.put_waiting("waiting")
    for text in (GIVING, TAKING, FAILING):
        name = text.split("name: ")[1].split("}")[0]
        real.put("pipelines", name, text)
    yield real
    real.close()


def system(real: Real, text: str, name: str = "s") -> None:
    real.put("systems", name, f"kind: System\nmetadata: {{name: {name}}}\nspec:\n{text}")


DIAMOND = """\
  processes:
    a: {pipeline: waiting}
    b: {pipeline: waiting}
    join-ab: {pipeline: taking}
  pipes:
  - from: a
    to: join-ab
    mapping: {left: "{{ a.made.of }}", both: "{{ a.output.of }}{{ b.output.of }}"}
  - {from: b, to: join-ab, mapping: {right: "{{ b.nodes.made.of }}"}}
"""


def test_independent_processes_run_at_the_same_time_and_a_pipe_waits_for_both(real: Real) -> None:
    system(real, DIAMOND)
    made = real.system("s", {"city": "Bern"})
    first, second = real.open_runs("waiting")
    assert real.states(made) == {"a": "running", "b": "running", "join-ab": "pending"}
    real.signal(second, {"v": 2})
    assert real.at(made.id).values == {"b-join-ab": {"right": 2}}
    real.restart()
    assert real.states(made)["join-ab"] == "pending"
    real.signal(first, {"v": 1})
    made = real.at(made.id)
    assert made.state is SystemState.COMPLETED
    (last,) = real.all_runs("taking")
    assert real.output(last.id) == {"input": {"city": "Bern", "left": 1, "both": "12", "right": 2}}
    assert last.ref == f"system/{made.id}"
    assert real.kernel.table.find(made.id) is None


def test_pipes_keep_depth_and_type_and_are_evaluated_once(real: Real) -> None:
    system(
        real,
        """\
  processes: {research-agent: {pipeline: giving}, next: {pipeline: taking}}
  pipes:
  - from: research-agent
    to: next
    mapping:
      list: "{{ research-agent.the-data.list }}"
      deep: "{{ research-agent.the-data.list[1].two[1] }}"
      big: "{{ research-agent.output.all.big }}"
      text: "{{ research-agent.the-data.text }}"
      two: "{{ research-agent.output.two }}"
      mixed: "<{{ research-agent.output.two }}>"
      none: "{{ research-agent.the-data.none }}"
      fallback: "{{ research-agent.the-data.none }}"
""",
    )
    real.system("s", {"fallback": "kept"})
    (run,) = real.all_runs("taking")
    assert real.output(run.id)["input"] == {
        "list": [1, {"two": [2, 3]}],
        "deep": 3,
        "big": 2**70,
        "text": "x{{ y }}",
        "two": [2, 3],
        "mixed": "<[2, 3]>",
        "none": None,
        "fallback": "kept",
    }


def test_a_process_that_fails_stops_the_system(real: Real) -> None:
    system(
        real,
        """\
  processes:
    bad: {pipeline: failing, input: {zero: 0}}
    slow: {pipeline: waiting}
    after: {pipeline: taking}
  pipes: [{from: slow, to: after}]
""",
    )
    made = real.at(real.system("s").id)
    assert made.state is SystemState.FAILED
    assert made.error.startswith("bad: ")
    assert real.states(made) == {"bad": "failed", "slow": "cancelled", "after": "skipped"}
    (slow,) = real.all_runs("waiting")
    assert slow.state is RunState.CANCELLED
    assert not real.all_runs("taking")


def test_what_a_pipe_names_and_is_not_there_fails_its_process(real: Real) -> None:
    system(
        real,
        """\
  processes: {a: {pipeline: giving}, b: {pipeline: taking}}
  pipes: [{from: a, to: b, mapping: {x: "{{ a.the-data.nosuch }}"}}]
""",
    )
    made = real.at(real.system("s").id)
    assert (made.state, "nosuch" in made.error) == (SystemState.FAILED, True)


def test_a_pipe_can_be_edited_until_its_process_begins(real: Real) -> None:
    system(real, DIAMOND)
    made = real.system("s")
    first, second = real.open_runs("waiting")
    real.signal(first, {"v": 1})
    real.systems.set_value(OPERATOR, made.id, "a-join-ab", {"left": "edited"})
    real.systems.set_value(OPERATOR, made.id, "b-join-ab", {"right": "before its end"})
    real.restart()
    real.signal(second, {"v": 2})
    (last,) = real.all_runs("taking")
    assert real.output(last.id)["input"] == {"left": "edited", "right": "before its end"}
    for value, number in (({}, errno.EPERM), ([], errno.EPERM)):
        refused = refusal(real.systems.set_value, OPERATOR, made.id, "a-join-ab", value)
        assert refused.errno == number


def test_limits_and_capabilities_narrow_from_level_to_level(real: Real) -> None:
    system(
        real,
        """\
  limits: {max_llm_calls: 50}
  deny: [network_access]
  processes: {a: {pipeline: waiting, limits: {max_llm_calls: 30}, caps: [llm, network_access]}}
""",
    )
    made = real.system("s", limits={"max_llm_calls": 40})
    (number,) = real.open_runs("waiting")
    run, lead = real.kernel.table.get(number), real.kernel.table.get(made.id)
    assert run.ppid == lead.pid
    assert lead.limits.max_llm_calls == 40
    assert real.kernel.ceilings.effective(run, "max_llm_calls") == 30
    allowed = real.kernel.policy.capabilities(run)
    assert allowed.allows("llm")
    assert not allowed.allows("network_access")
    assert not allowed.allows("file_write")
    found = real.runs.find(number)
    assert found is not None
    assert real.runs.plan_of(found).origin["limits.max_llm_calls"] == (30, "process a")


def test_an_agent_starts_a_system_and_it_may_no_more_than_the_agent(real: Real) -> None:
    system(real, "  processes: {a: {pipeline: waiting}}")
    ann = real.world.process("ann", max_llm_calls=5)
    made = real.systems.run(real.world.principal("ann"), Start("s"))
    real.settle()
    (number,) = real.open_runs("waiting")
    run = real.kernel.table.get(number)
    assert (run.agent, real.at(made).maker.owner) == ("ann", "ann")
    assert real.kernel.ceilings.effective(run, "max_llm_calls") == 5
    real.world.end(ann, 0)
    assert real.kernel.ceilings.effective(run, "max_llm_calls") == 5
    real.world.kernel.acl.replace(
        "rules: [{effect: deny, agent: bob, action: spawn, path: /etc/systems/s}]"
    )
    real.world.process("bob")
    refused = refusal(real.systems.run, real.world.principal("bob"), Start("s"))
    assert refused.errno == errno.EPERM
    refused = refusal(real.systems.control, real.world.principal("bob"), made, "cancel")
    assert refused.errno == errno.EPERM


def test_cancel_pause_and_resume(real: Real) -> None:
    system(real, "  processes: {a: {pipeline: waiting}, b: {pipeline: taking}}\n"
                 "  pipes: [{from: a, to: b}]")  # fmt: skip
    made = real.system("s")
    (run,) = real.open_runs()
    real.systems.control(OPERATOR, made.id, "pause")
    real.signal(run)
    assert (real.at(made.id).state, real.states(made)["b"]) == (SystemState.SUSPENDED, "pending")
    real.restart()
    real.systems.control(OPERATOR, made.id, "resume")
    real.settle()
    assert real.at(made.id).state is SystemState.COMPLETED
    assert refusal(real.systems.control, OPERATOR, made.id, "cancel").errno == errno.EPERM
    made = real.system("s")
    assert refusal(real.systems.control, OPERATOR, made.id, "stop").errno == errno.EINVAL
    real.systems.control(OPERATOR, made.id, "cancel no need")
    real.settle()
    made = real.at(made.id)
    assert (made.state, "no need" in made.error) == (SystemState.CANCELLED, True)
    assert real.open_runs() == []


def test_a_lead_that_is_killed_takes_its_runs_with_it(real: Real) -> None:
    system(real, "  processes: {a: {pipeline: waiting}}")
    for name in ("TERM", "KILL"):
        made = real.system("s")
        real.kernel.processes.signal(OPERATOR, made.id, name)
        real.settle()
        assert real.at(made.id).state is SystemState.CANCELLED
        assert real.open_runs() == []


def test_one_that_is_paused_or_ending_keeps_nobody_busy(real: Real) -> None:
    system(
        real,
        """\
  deadline: 1h
  processes: {a: {pipeline: waiting}}
  init: {type: continuous, backoff: 10s}
""",
    )
    made = real.system("s")
    (run,) = real.open_runs()
    real.signal(run)
    real.systems.control(OPERATOR, made.id, "pause")
    real.advance(60)
    assert real.systems.runs.run_due() > 1
    real.systems.control(OPERATOR, made.id, "resume")
    real.settle()
    assert len(real.open_runs()) == 1
    real.world.clock.advance(7200)
    real.systems.runs.run_due()
    real.systems.runs.run_due()
    assert real.at(made.id).ending is SystemState.FAILED
    assert real.systems.runs.run_due() > 1


def test_a_lead_that_is_killed_just_before_the_daemon(real: Real) -> None:
    system(real, "  processes: {a: {pipeline: waiting}}")
    made = real.system("s")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(real.systems.runs), "_stop", lambda *_: None)
        real.kernel.processes.signal(OPERATOR, made.id, "KILL")
    real.restart()
    assert real.at(made.id).state is SystemState.CANCELLED
    assert real.open_runs() == []


def test_many_processes_begin_in_several_goes(real: Real) -> None:
    names = [f"p{number}" for number in range(35)]
    system(real, "  processes:\n" + "".join(f"    {n}: {{pipeline: taking}}\n" for n in names))
    made = real.system("s")
    assert real.at(made.id).state is SystemState.COMPLETED
    assert len(real.all_runs("taking")) == 35


def test_a_deadline_ends_it(real: Real) -> None:
    system(real, "  deadline: 10m\n  processes: {a: {pipeline: waiting}}")
    made = real.system("s")
    real.advance(599)
    assert real.open_runs()
    real.advance(2)
    made = real.at(made.id)
    assert (made.state, made.error) == (SystemState.FAILED, "its deadline has come")
    assert real.open_runs() == []


def test_a_key_starts_it_once(real: Real) -> None:
    system(real, "  processes: {a: {pipeline: waiting}}")
    made = real.system("s", {"a": 1}, key="k")
    real.restart()
    assert real.systems.run(OPERATOR, Start("s", {"a": 1}, key="k")) == made.id
    assert refusal(real.systems.run, OPERATOR, Start("s", {"a": 2}, key="k")).errno == errno.EEXIST


def test_an_input_is_checked_against_the_schema(real: Real) -> None:
    system(real, "  input_schema: {n: int}\n  processes: {a: {pipeline: waiting}}")
    assert "n" in refusal(real.systems.run, OPERATOR, Start("s", {"n": "x"})).reason
    assert real.system("s", {"n": 1})


# -- those that begin by themselves ----------------------------------------------------------------


def test_a_hundred_records_and_three_kills_are_a_hundred_runs(real: Real) -> None:
    real.topics.create(OPERATOR, "news", 0o666)
    system(
        real,
        """\
  processes: {a: {pipeline: taking}}
  init: {type: event, topic: news, filter: "n % 2 == 0"}
""",
    )
    made = real.system("s", {"base": 1})
    assert made.state is SystemState.WAITING
    for number in range(200):
        real.topics.publish(OPERATOR, real.topics.get("news"), f'{{"n": {number}}}'.encode())
        if number in (30, 99, 177):
            real.systems.runs.run_due()
            real.restart()
    real.settle()
    runs = real.all_runs("taking")
    seen = sorted(real.output(run.id)["input"]["n"] for run in runs)
    assert seen == list(range(0, 200, 2))
    given = real.output(min(run.id for run in runs))["input"]
    assert (given["base"], given["data"], given["event"]["seq"]) == (1, {"n": 0}, 1)
    assert (real.at(made.id).cursor, real.at(made.id).passes) == (200, 100)


def test_records_that_fail_hold_up_no_others_and_those_that_fell_out_are_counted(
    real: Real,
) -> None:
    real.world.settings.replace("topics: {max_records: 5}")
    real.topics.create(OPERATOR, "news", 0o666)
    system(
        real,
        "  processes: {a: {pipeline: failing}}\n  init: {type: event, topic: news, since: 0}",
    )
    for _ in range(8):
        real.topics.publish(OPERATOR, real.topics.get("news"), b'{"zero": 0}')
    made = real.system("s")
    real.settle()
    made = real.at(made.id)
    assert (made.state, made.passes, made.failed, made.lost) == (SystemState.WAITING, 5, 5, 3)


def test_a_topic_has_to_be_there_and_open_to_its_maker(real: Real) -> None:
    system(real, "  processes: {a: {pipeline: taking}}\n  init: {type: event, topic: news}")
    assert refusal(real.systems.run, OPERATOR, Start("s")).errno == errno.ENOENT
    real.topics.create(OPERATOR, "news", 0o644)
    real.world.process("ann")
    made = real.systems.run(real.world.principal("ann"), Start("s"))
    real.topics.chmod(OPERATOR, "news", 0o600)
    assert refusal(real.systems.run, real.world.principal("ann"), Start("s")).errno == errno.EACCES
    real.topics.publish(OPERATOR, real.topics.get("news"), b"1")
    real.settle()
    assert (real.at(made).passes, "may not read" in real.at(made).error) == (0, True)


def test_continuous_backs_off_and_gives_up(real: Real) -> None:
    system(
        real,
        """\
  processes: {a: {pipeline: failing, input: {zero: 0}}}
  init: {type: continuous, backoff: 1s, max_restarts: 3, window: 1h}
""",
    )
    made = real.system("s")
    begun = [real.world.clock.now()]
    for _ in range(400):
        passes = real.at(made.id).passes
        real.advance(0.5)
        if real.at(made.id).passes > passes:
            begun.append(real.world.clock.now())
    waits = [round(later - sooner, 1) for sooner, later in itertools.pairwise(begun)]
    assert waits == [1.0, 2.0, 4.0]
    made = real.at(made.id)
    assert (made.state, made.error.startswith("given up after 4 failures")) == (
        SystemState.FAILED,
        True,
    )


def test_continuous_goes_on_after_a_restart(real: Real) -> None:
    system(
        real,
        """\
  processes: {a: {pipeline: waiting}}
  init: {type: continuous, backoff: 10s}
""",
    )
    made = real.system("s")
    (run,) = real.open_runs()
    real.signal(run)
    assert real.at(made.id).state is SystemState.WAITING
    real.restart()
    real.advance(9)
    assert real.open_runs() == []
    real.advance(1)
    assert (len(real.open_runs()), real.at(made.id).passes) == (1, 2)


def test_a_schedule_starts_a_system(real: Real) -> None:
    system(
        real,
        """\
  processes: {a: {pipeline: waiting}}
  init: {type: schedule, every: 1h, overlap: skip}
""",
    )
    number = real.systems.run(OPERATOR, Start("s", {"x": 1}))
    schedule = real.schedules.get(number)
    real.advance(3600)
    (started,) = schedule.open
    assert real.at(started).base == {"x": 1}
    real.advance(3600)
    assert (schedule.skipped, schedule.open) == (1, (started,))
    real.restart()
    (run,) = real.open_runs()
    real.signal(run)
    schedule = real.schedules.get(number)
    assert (schedule.open, schedule.result) == ((), "completed")


# -- kill -9 -----------------------------------------------------------------------------------


def test_it_ends_alike_whichever_commit_fails_first(tmp_path: Path) -> None:
    outcomes = set()
    for fails in range(1, 14):
        real = Real(tmp_path / str(fails))
        for text in (GIVING, TAKING):
            real.put("pipelines", text.split("name: ")[1].split("}")[0], text)
        system(
            real,
            """\
  processes: {a: {pipeline: giving}, b: {pipeline: giving}, c: {pipeline: taking}}
  pipes:
  - {from: a, to: c, mapping: {x: "{{ a.output.two }}"}}
  - {from: b, to: c, mapping: {y: "{{ b.output.two }}"}}
""",
        )
        commits = [0]

        def fail(commits: list[int] = commits, fails: int = fails) -> None:
            commits[0] += 1
            if commits[0] == fails:
                raise SystemError("killed")

        real.world.store.prepare(fail)
        try:
            real.systems.run(OPERATOR, Start("s", key="k"))
            for _ in range(30):
                real.engine.turn()
                real.systems.runs.run_due()
        except SystemError:
            pass
        real.restart()
        number = real.systems.run(OPERATOR, Start("s", key="k"))
        real.settle()
        done = real.at(number)
        (taken,) = real.all_runs("taking")
        given = real.output(taken.id)["input"]
        outcomes.add((done.state, str(given), len(real.all_runs("giving"))))
        real.close()
    assert outcomes == {(SystemState.COMPLETED, "{'x': [2, 3], 'y': [2, 3]}", 2)}


def test_machines_of_a_system_are_declared_when_it_starts(real: Real) -> None:
    system(
        real,
        """\
  processes: {a: {pipeline: waiting}}
  state_machines:
    order: {initial: NEW, transitions: {NEW: [PAID]}, states: {PAID: {on_enter: taking}}}
""",
    )
    real.system("s")
    real.entities.register(OPERATOR, "order", "1")
    assert real.entities.get("order", "1").state == "NEW"
    real.system("s")
