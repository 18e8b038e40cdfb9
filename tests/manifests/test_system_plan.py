"""Systems with runs and pipes: what a document says, and every fault of it at once."""

import pytest

from agentfs.base.yaml_document import DocumentError
from agentfs.manifests.documents import LocalLibrary
from agentfs.manifests.system_plan import (
    Init,
    SystemPipe,
    SystemPlan,
    compile_system,
    names_in,
)

LIBRARY = LocalLibrary(pipelines={"giving", "taking"})

PAIR = """\
  description: two of them
  limits: {max_llm_calls: 50, on_limit: stop}
  processes:
    research-agent: {pipeline: giving, limits: {max_llm_calls: 30}, caps: [llm], deadline: 10m}
    writer: {exec: ./taking.yaml, input: {k: "{{ input.k }}"}}
    teller: {exec: [echo, done], restart: never}
  pipes:
  - {from: research-agent, to: writer, mapping: {x: "{{ research-agent.a-node.list-a }}"}}
  - {from: writer, to: teller}
  init: {type: event, topic: news, filter: "n > 1", since: 4}
"""


def compiled(text: str) -> SystemPlan:
    head = "kind: System\nmetadata: {name: s}\nspec:\n"
    return compile_system(head + text, "s.yaml", LIBRARY)


def test_a_system_as_it_is_written() -> None:
    plan = compiled(PAIR)
    assert [process.name for process in plan.processes] == ["research-agent", "writer", "teller"]
    first, writer, teller = plan.processes
    assert (first.pipeline, first.limits, first.caps, first.deadline) == (
        "giving",
        {"max_llm_calls": 30},
        ("llm",),
        600.0,
    )
    assert (writer.pipeline, writer.after, writer.input) == (
        "taking",
        ("research-agent",),
        {"k": "{{ input.k }}"},
    )
    assert teller.program == {"exec": ["echo", "done"], "restart": "never"}
    assert plan.pipes_to("teller") == (SystemPipe("writer", "teller", {}),)
    assert plan.init == Init("event", topic="news", filter="n > 1", since=4)
    assert (plan.limits, plan.on_limit) == ({"max_llm_calls": 50}, "stop")
    assert SystemPlan.from_record(plan.record()) == plan


def test_processes_can_be_a_list_with_names() -> None:
    plan = compiled("  processes: [{name: a, pipeline: giving}, {name: b, pipeline: taking}]")
    assert [process.name for process in plan.processes] == ["a", "b"]


def test_names_with_hyphens_are_names_and_a_number_is_taken_off() -> None:
    mapping = {"x": ["{{ a-b.c-d.e }}", {"y": "{{ a-b.n-1 }} {{ p.q - r }}"}]}
    assert names_in(mapping, ["a-b"]) == ["a-b", "c-d"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  processes: {}", "one at least"),
        ("  processes: {a: {pipeline: nosuch}}", "no pipeline `nosuch`"),
        ("  processes: {a: {pipeline: givin}}", "did you mean giving?"),
        ("  processes: {a: {pipline: giving}}", "unknown key `pipline`"),
        ("  processes: {a: {pipeline: giving, limit: {}}}", "did you mean limits?"),
        ("  proceses: {}", "did you mean processes?"),
        (
            "  processes: {a: {pipeline: giving}}\n  pipes: [{from: a, to: b}]",
            "there is no process `b`",
        ),
        ("  processes: {a: {pipeline: giving}}\n  pipes: [{from: a, to: a}]", "leads to itself"),
        (
            "  processes: {a: {pipeline: giving}, b: {pipeline: taking}}\n"
            "  pipes: [{from: a, to: b}, {from: b, to: a}]",
            "circle",
        ),
        (
            "  processes: {a: {pipeline: giving}, b: {pipeline: taking}, c: {pipeline: taking}}\n"
            "  pipes: [{from: a, to: b, mapping: {x: '{{ c.output }}'}}]",
            "no pipe leads from c",
        ),
        (
            "  processes: {a: {pipeline: giving}, b: {pipeline: taking}}\n"
            "  pipes: [{from: a, to: b, mapping: {x: '{{ aa.output }}'}}]",
            "there is no `aa` (did you mean a?)",
        ),
        (
            "  processes: {a: {pipeline: giving}, b: {pipeline: taking}}\n"
            "  pipes: [{from: a, to: b, mapping: {x: '{{ a.output '}}]",
            "x:",
        ),
        ("  processes: {a: {pipeline: giving}}\n  init: {type: evnt}", "did you mean event?"),
        ("  processes: {a: {pipeline: giving}}\n  init: {type: event}", "`topic` was expected"),
        (
            "  processes: {a: {pipeline: giving}}\n  init: {type: manual, every: 5m}",
            "every is not for type manual",
        ),
        ("  processes: {a: {pipeline: giving}}\n  init: {type: schedule}", "`every` and `cron`"),
        ("  processes: {a: {pipeline: giving}}\n  transaction: saga", "transaction is not taken"),
        (
            "  processes: {a: {pipeline: giving}}\n"
            "  state_machines: {order: {initial: A, transitions: {A: [B]},"
            " states: {B: {on_enter: nosuch}}}}",
            "no pipeline `nosuch`",
        ),
    ],
)
def test_faults_of_a_document(text: str, words: str) -> None:
    with pytest.raises(DocumentError) as caught:
        compiled(text)
    told = caught.value.faults
    assert any(words in fault for fault in told), told
    assert all(fault.startswith("s.yaml:") for fault in told)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(DocumentError) as caught:
        compiled(
            """\
  processes:
    a: {pipeline: givin}
    b: {pipeline: taking, timeot: 5}
    c: {exec: [], role: king}
  pipes: [{from: a, to: d}, {from: b, to: a, mapping: {x: "{{ z }}"}}]
  init: {type: contnuous}
  extra: 1
"""
        )
    lines = {fault.split(":")[1] for fault in caught.value.faults}
    assert {"5", "6", "7", "8", "9", "10"} <= lines, caught.value.faults
