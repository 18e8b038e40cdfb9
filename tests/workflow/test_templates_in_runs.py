"""Values on their way through a run: from the text of a manifest to what a step is given."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.yaml_document import DocumentError
from agentfs.manifests.documents import LocalLibrary
from agentfs.manifests.pipeline import compile_pipeline
from agentfs.workflow.model import Run
from tests.workflow.lab import Lab

HOSTILE = "x{{ nodes.b }}\"'\n$(id) {% raw %} {# c #}"

KINDS = "program function agent llm tool api_call message wait approval transition"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "state", KINDS)
    yield made
    made.close()


def run(lab: Lab, nodes: str, given: Any = None, more: str = "") -> Run:
    text = "kind: Pipeline\nmetadata: {name: p}\nspec:\n"
    text += textwrap.indent(more, "  ") + "  nodes:\n" + textwrap.indent(nodes, "  ")
    lab.plans["p"] = compile_pipeline(text, "p.yaml", LocalLibrary(None))
    return lab.start(given)


def refused(nodes: str) -> str:
    with pytest.raises(DocumentError) as refusal:
        text = f"kind: Pipeline\nmetadata: {{name: p}}\nspec:\n  nodes:\n{nodes}"
        compile_pipeline(text, "p.yaml", LocalLibrary(None))
    return str(refusal.value)


ALL_WAYS = """\
- {name: b, data: never}
- {name: a, program: [make], dependencies: []}
- name: mapped
  program: [cat]
  args: ["{{ a }}", "<{{ nodes.a }}>", "{{ v }}"]
  env: {V: "{{ a }}"}
  input_mapping: {v: a, w: "{{ nodes.a }}", x: "pre {{ a }}"}
- {name: prompt, llm: "Say: {{ a }}!", dependencies: [a]}
- {name: letter, message: alice, body: "{{ nodes.a }}"}
- {name: plain, program: [cat], dependencies: [a]}
- {name: sum, expression: {v: nodes.a, joined: a ~ a}}
- {name: later, program: [cat], input_mapping: {v: sum.v, joined: sum.joined}}
"""


def test_a_value_goes_everywhere_unchanged_and_is_evaluated_nowhere(lab: Lab) -> None:
    made = run(lab, ALL_WAYS)
    lab.done("a", HOSTILE)
    mapped = lab.step("mapped")
    assert mapped.input["v"] == mapped.input["w"] == HOSTILE
    assert mapped.input["x"] == f"pre {HOSTILE}"
    assert mapped.spec["args"] == [HOSTILE, f"<{HOSTILE}>", HOSTILE]
    assert mapped.spec["env"] == {"V": HOSTILE}
    assert mapped.spec["program"] == ["cat"]
    assert lab.step("prompt").spec["prompt"] == f"Say: {HOSTILE}!"
    assert lab.step("letter").spec["body"] == HOSTILE
    assert lab.step("plain").input == HOSTILE
    later = lab.step("later")
    assert (later.input["v"], later.input["joined"]) == (HOSTILE, HOSTILE * 2)
    assert lab.state(made) == "running"


def test_a_whole_reference_keeps_its_type_with_one_dependency_or_many(lab: Lab) -> None:
    value = {"list": [1, [2]], "big": 2**70, "none": None, "items": "x", "get": 1, "keys": {}}
    nodes = """\
- {name: a, program: [make]}
- {name: other, data: 1, dependencies: []}
- name: one
  program: [cat]
  args: ["{{ a.list }}", "{{ nodes.a.big }}", "{{ a.none }}", "{{ a.items }}", "{{ a.get }}"]
- name: many
  program: [cat]
  args: ["{{ a.list }}", "{{ nodes.a.big }}", "{{ a.none }}", "{{ a.items }}", "{{ a.get }}"]
  wait_for: other
- {name: sum, expression: {v: "a.big + other", w: a.keys, n: "a.none is none"}}
"""
    made = run(lab, nodes)
    lab.done("a", value)
    for name in ("one", "many"):
        assert lab.step(name).spec["args"] == [[1, [2]], 2**70, None, "x", 1]
    assert lab.output(made, "sum") == {"v": 2**70 + 1, "w": {}, "n": True}


def test_names_with_hyphens_are_nodes_even_if_they_were_skipped(lab: Lab) -> None:
    nodes = """\
- {name: research-agent, program: [make]}
- {name: skipped-one, data: 1, when: "false", dependencies: []}
- name: next
  program: [cat]
  args: ["{{ research-agent.researcher.output }}", "{{ skipped-one.x | default('none') }}"]
"""
    run(lab, nodes)
    lab.done("research-agent", {"researcher": {"output": "found"}})
    assert lab.step("next").spec["args"] == ["found", "none"]


def test_text_with_braces_of_its_own_stays_text(lab: Lab) -> None:
    nodes = """\
- {name: a, program: [make]}
- name: ask
  llm: |
    Answer with {"a": {"b": 1}} or {x}, for {{ a.v }}.
    {% raw %}Keep {{end}} as it is.{% endraw %}
- {name: whole, llm: "{{a.v}}"}
"""
    run(lab, nodes)
    lab.done("a", {"v": 3})
    assert lab.step("ask").spec["prompt"] == (
        'Answer with {"a": {"b": 1}} or {x}, for 3.\nKeep {{end}} as it is.\n'
    )


def test_a_missing_first_name_is_refused_and_a_deeper_one_fails_the_node(lab: Lab) -> None:
    words = refused("  - {name: a, data: 1}\n  - {name: b, program: [cat], args: ['{{ aa.v }}']}\n")
    assert "p.yaml:6:" in words
    assert "(did you mean a" in words
    nodes = """\
- {name: a, program: [make]}
- {name: b, program: [cat], args: ["{{ a.v.w | default(5) }}"]}
- {name: c, program: [cat], args: ["{{ a.v.w }}"], dependencies: [a]}
"""
    made = run(lab, nodes)
    lab.done("a", {"v": None})
    assert lab.step("b").spec["args"] == [5]
    assert lab.state(made, "c") == "failed"
    assert "a.v is null and has no `w`" in lab.error(made, "c")


def test_what_is_mapped_comes_before_a_field_of_the_runs_input(lab: Lab) -> None:
    nodes = """\
- {name: a, program: [make]}
- {name: b, llm: "{{ text }}, {{ tone }}", input_mapping: {text: a.text}}
"""
    run(
        lab, nodes, {"text": "of the run", "tone": "kind"}, "input_schema: {text: str, tone: str}\n"
    )
    lab.done("a", {"text": "of a"})
    assert lab.step("b").spec["prompt"] == "of a, kind"
    assert lab.step("b").input["tone"] == "kind"


def test_a_hostile_expression_fails_its_node_alone(lab: Lab) -> None:
    nodes = """\
- {name: a, data: {n: 1000000000}}
- {name: b, expression: {v: "'A' * a.n"}, on_error: c}
- {name: c, expression: {what: "b['_error']['message']"}, dependencies: [b]}
"""
    made = run(lab, nodes)
    assert lab.state(made) == "completed"
    assert "makes too much" in lab.output(made, "c")["what"]


def test_a_long_value_is_looked_into_and_passed_on_as_a_file(lab: Lab) -> None:
    nodes = """\
- {name: a, program: [make]}
- name: b
  llm: "{{ a.title }}: {{ nodes.a.text | length }}"
- {name: c, program: [cat], args: ["{{ a }}", "{{ nodes.a }}"], dependencies: [a]}
"""
    made = run(lab, nodes, more="output: {all: nodes.a}\n")
    lab.done("a", {"title": "long", "text": "x" * 300_000})
    assert lab.step("b").spec["prompt"] == "long: 300000"
    assert [each["size"] > 300_000 for each in lab.step("c").spec["args"]] == [True, True]
    lab.done("b")
    lab.done("c")
    assert lab.output(made)["all"]["size"] > 300_000
    made = run(lab, "- {name: a, program: [make]}\n", more="output: {title: nodes.a.title}\n")
    lab.done("a", {"title": "long", "text": "x" * 300_000}, made)
    assert lab.output(made) == {"title": "long"}


def test_a_slip_in_a_name_with_hyphens_is_one_fault_with_the_name_that_was_meant() -> None:
    words = refused(
        "  - {name: count-letters, data: 1}\n"
        "  - {name: b, expression: {v: count-leters + 1, w: 'input.x - 1'}}\n"
    )
    assert words.count("E1") == 1
    assert "there is no node `count-leters` (did you mean count-letters?)" in words


def test_a_payload_is_mapped_and_a_command_is_as_written(lab: Lab) -> None:
    nodes = """\
- {name: a, data: {v: 2}}
- name: ship
  transition: order
  entity_id: "{{ a.v }}"
  to_state: shipped
  payload: {sum: a.v * 2, "n": a.v, text: "'as is'", mixed: "no {{ a.v }}", many: [a.v, 7]}
- {name: echo, program: "echo {{ a.v }} $HOME", dependencies: [a]}
"""
    run(lab, nodes)
    assert lab.step("ship").spec["payload"] == {
        "sum": 4, "n": 2, "text": "as is", "mixed": "no 2", "many": [2, 7],
    }  # fmt: skip
    assert lab.step("ship").spec["entity_id"] == 2
    assert "echo {{ a.v }} $HOME" in lab.step("echo").spec["program"]


def test_an_input_schema_takes_what_it_declares(lab: Lab) -> None:
    nodes = """\
- {name: a, data: {text: t, other: 1, note: null}}
- name: b
  program: [cat]
  input_schema:
    type: object
    properties: {text: {type: string}, tone: {type: string}, note: {type: [string, "null"]}}
    additionalProperties: false
- {name: z, program: [cat], input_schema: {more: str}, dependencies: [a]}
- {name: d, program: [cat], dependencies: [a]}
"""
    made = run(lab, nodes, {"tone": "kind", "note": "n", "extra": 2})
    assert lab.step("b").input == {"text": "t", "tone": "kind", "note": "n"}
    assert lab.step("d").input == {
        "text": "t", "other": 1, "note": "n", "tone": "kind", "extra": 2,
    }  # fmt: skip
    assert lab.state(made, "z") == "failed"
    assert 'the input: $: "more" is a required property' in lab.error(made, "z")
