"""Pipelines: both forms of nodes, their edges, and every fault at once with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentfs.manifests.documents import LocalLibrary
from agentfs.manifests.pipeline import check_manifest, compile_pipeline
from agentfs.manifests.plan import Graph, Plan, PlanNode, Retry
from tests.manifests.drafts import faults, pipeline, plan


def needs(found: Plan) -> dict[str, tuple[str, ...]]:
    return {node.name: node.needs for node in found.graph.nodes}


def same(one: Graph, other: Graph) -> bool:
    """Whether the graphs say the same, wherever they stand."""

    def plain(graph: Graph) -> Any:
        return [
            replace(node, line=0, bodies=()).record()
            | {"bodies": [(name, plain(body)) for name, body in node.bodies]}
            for node in graph.nodes
        ], graph.output

    return bool(plain(one) == plain(other))


# -- nodes -----------------------------------------------------------------------------------------


def test_the_short_form_says_the_same_as_the_long_one() -> None:
    short = plan("""
        - {name: a, data: {v: 1}}
        - {name: b, program: [wc, -l], args: ["{{ a.v }}"], timeout: 5s}
        - {name: c, llm: "say {{ b }}", dependencies: [a], wait_for: b}
    """)
    long = plan("""
        - kind: data_node
          metadata: {name: a}
          spec: {output: {v: 1}}
        - kind: program
          metadata: {name: b}
          spec: {program: [wc, -l], args: ["{{ a.v }}"], timeout: 5}
        - kind: llm_node
          metadata: {name: c}
          spec: {human_message: "say {{ b }}"}
          dependencies: [a]
          wait_for: [b]
    """)
    assert same(short.graph, long.graph)


@pytest.mark.parametrize(
    ("text", "kind", "spec"),
    [
        ("data: NO", "data", {"output": "NO"}),
        ("static: null", "data", {"output": None}),
        ("expression: {x: 1 + 1}", "expression", {"expressions": {"x": "1 + 1"}}),
        ("condition: 1 > 0", "condition", {"condition": "1 > 0"}),
        ("wait: key, timeout: 1d12h", "wait", {"event_key": "key", "timeout": 129600.0}),
        ("approval: sure?, timeout: 10m", "approval", {"question": "sure?", "timeout": 600.0}),
        ("message: bob, body: hi", "message", {"to": ["bob"], "body": "hi"}),
        ("program: wc -l", "program", {"program": ["/bin/sh", "-c", "wc -l", "sh"]}),
        ("function: a.b.f", "function", {"fn": "a.b:f"}),
        ("service_call: m:C, method: go", "service_call", {"service": "m:C", "method": "go"}),
        ("agent: alice, main_prompt: do", "agent", {"agent": "alice", "prompt": "do"}),
        ("tool: t, arguments: {q: 1}", "tool", {"tool": "t", "arguments": {"q": 1}}),
        ("api_call: http://x, method: POST", "api_call", {"url": "http://x", "method": "POST"}),
        (
            "transition: order, to_state: paid",
            "transition",
            {"entity": "order", "to_state": "paid"},
        ),
        ("pipeline: other", "pipeline", {"pipeline": "other"}),
    ],
)
def test_each_kind_by_its_main_key(text: str, kind: str, spec: dict[str, Any]) -> None:
    (node,) = plan(f"- {{name: n, {text}}}").graph.nodes
    assert (node.kind, node.spec) == (kind, spec)


def test_a_text_of_yaml_1_1_stays_one() -> None:
    found = plan("""
        - {name: n, data: {a: NO, on: yes, t: 12:30:45, z: 0123, d: 2026-01-01, i: 12}}
    """)
    assert found.graph.nodes[0].spec["output"] == {
        "a": "NO",
        "on": "yes",
        "t": "12:30:45",
        "z": "0123",
        "d": "2026-01-01",
        "i": 12,
    }


def test_retries_of_all_forms() -> None:
    found = plan("""
        - {name: a, tool: t, max_retries: 4, retry_delay: 0, retry_backoff: 3, retry_max_delay: 9}
        - {name: b, tool: t, retry: 5}
        - {name: c, tool: t, retry: {attempts: 2, delay: 10m}}
        - {name: d, tool: t, max_retries: 0}
    """)
    retries = {node.name: node.retry for node in found.graph.nodes}
    assert retries == {
        "a": Retry(4, 0, 3, 9),
        "b": Retry(5),
        "c": Retry(2, 600),
        "d": Retry(),
    }


def test_what_a_node_may_say_besides() -> None:
    (_, node) = plan("""
        - {name: a, data: 1}
        - name: b
          program: [x]
          input_mapping: {v: a}
          strict_mapping: true
          required_inputs: v
          critical: true
          once: true
          always: true
          join: first
          output_schema: {score: int, note: "str | None"}
          concurrency: {key: "{{ input.user }}", limit: 2, on_full: skip}
    """).graph.nodes
    assert node.input == {"v": "a"}
    assert (node.strict, node.critical, node.once, node.always, node.join) == (*[True] * 4, "first")
    assert node.required_inputs == ("v",)
    assert node.output_schema is not None
    assert node.output_schema["required"] == ["score"]
    assert node.concurrency is not None
    assert (node.concurrency.limit, node.concurrency.on_full) == (2, "skip")


# -- edges -----------------------------------------------------------------------------------------


def test_a_node_that_says_nothing_follows_the_one_before() -> None:
    found = plan("""
        - {name: c, data: 1}
        - {name: b, data: 1}
        - {name: a, data: 1, dependencies: []}
        - {name: d, data: 1}
    """)
    assert needs(found) == {"a": (), "c": (), "b": ("c",), "d": ("a",)}
    assert found.graph.waves() == [["a", "c"], ["b", "d"]]


def test_references_are_edges_in_every_place() -> None:
    found = plan("""
        - {name: a-1, data: {v: 1}}
        - {name: b, data: 1, dependencies: []}
        - {name: t, data: {deep: [{x: "{{ a-1.v }}"}]}}
        - {name: w, data: 1, when: nodes.a-1.v > 0}
        - {name: m, data: 1, input_mapping: {x: b, y: "'text'", q: input.q}}
        - {name: e, expression: {x: b + 1, y: x + 1}}
        - {name: s, switch: [{condition: b > 0, action: r1}], else_action: r2}
        - {name: r1, data: 1}
        - {name: r2, data: 1, dependencies: [b]}
        - {name: h, data: 1, dependencies: [b], on_error: z}
        - {name: z, data: 1}
        - {name: o, data: 1, wait_for: [b, t]}
        - {name: p, program: [echo, "{{ b }}"], args: ["{{ t }}"]}
    """)
    assert needs(found) == {
        "a-1": (),
        "b": (),
        "t": ("a-1",),
        "w": ("a-1",),
        "m": ("b",),
        "e": ("b",),
        "s": ("b",),
        "r1": ("s",),
        "r2": ("b", "s"),
        "h": ("b",),
        "z": ("h",),
        "o": ("b", "t"),
        "p": ("t",),
    }
    by_name = found.graph.by_name
    assert by_name["z"].handles == ("h",)
    assert by_name["r1"].routes == ("s",)
    assert by_name["r1"].sources == ()
    assert by_name["o"].sources == ()
    assert by_name["r2"].sources == ("b",)


def test_what_a_body_names_outside_is_an_edge_of_its_loop() -> None:
    found = plan("""
        - {name: a, data: [1, 2]}
        - {name: b, data: 3, dependencies: []}
        - name: loop
          for-each: a
          item_var: number
          concurrency: 4
          body:
          - {name: one, data: "{{ number + b + index + total }}"}
          - name: two
            times: 2
            body: [{name: x, data: "{{ one }} {{ b }} {{ item }}"}]
    """)
    loop = found.graph.by_name["loop"]
    assert loop.needs == ("a", "b")
    body = loop.body()
    assert body is not None
    assert body.by_name["two"].needs == ("one",)
    assert loop.spec == {"items": "a", "item_var": "number", "concurrency": 4}
    assert loop.concurrency is None


def test_while_has_a_state_and_its_body_is_seen_by_the_update() -> None:
    found = plan("""
        - name: count
          while: state.n < 5
          initial_state: {n: 0}
          state_update: {n: state.n + half.n, last: result, nth: iteration}
          body: [{name: half, data: {n: "{{ state.n / 2 }}"}}]
        - {name: alone, while: state.n < 5, initial_state: {n: 0}, state_update: {n: state.n + 1}}
    """)
    assert found.graph.by_name["alone"].body() == Graph()
    assert (
        "`state` is there in a `while` only"
        in faults(pipeline("- {name: a, data: '{{ state.n }}'}"))[0]
    )


def test_bodies_of_if_and_switch_and_by_name() -> None:
    found = plan("""
        - {name: i, if: 1 > 0, body: [{name: y, data: 1}], else_body: [{name: n, data: 0}]}
        - {name: s, switch: [{condition: 1 > 0, body: [{name: x, data: 1}]}], else_body: m.f}
        - {name: l, for-each: [1, 2], body_pipeline: other}
        - {name: k, times: 3, body: {nodes: [{name: q, data: 1}], output: {v: q}}}
    """)
    by_name = found.graph.by_name
    assert [name for name, _ in by_name["i"].bodies] == ["body", "else"]
    assert [name for name, _ in by_name["s"].bodies] == ["branch-0", "else"]
    other = by_name["s"].body("else")
    assert other is not None
    assert (other.nodes[0].kind, other.nodes[0].spec) == ("function", {"fn": "m:f"})
    run = by_name["l"].body()
    assert run is not None
    assert run.nodes[0].spec == {"pipeline": "other"}
    inner = by_name["k"].body()
    assert inner is not None
    assert inner.output == {"v": "{{ q }}"}


def test_composite_nodes_are_what_their_mode_says() -> None:
    found = plan("""
        - kind: composite_node
          metadata: {name: c}
          spec: {mode: if-else, condition: 1 > 0, body: [{name: x, data: 1}]}
        - kind: composite_node
          metadata: {name: d}
          spec: {mode: for-each, items: [1], body: m.f}
    """)
    assert [node.kind for node in found.graph.nodes] == ["if", "for-each"]


def test_the_output_of_a_run() -> None:
    found = plan("- {name: a, data: {v: 1}}", "output: {x: a.v, y: '{{ a.v + 1 }}', z: done}")
    assert found.graph.output == {"x": "{{ a.v }}", "y": "{{ a.v + 1 }}", "z": "done"}
    assert "there is no" not in str(found.graph.output)
    told = faults(pipeline("- {name: abc, data: 1}", "output: {x: abd.v}"))
    assert told == [
        "6:15: E111 output: `abd` is no node; a field of the run's input is"
        " `input.abd.v` (did you mean abc?)"
    ]


def test_the_expanded_document_gives_the_same_plan() -> None:
    first = plan(
        """
        - {name: a, data: {v: NO, w: 0o17, x: 0123, y: '5', z: "1e3"}}
        - {name: b, when: "a.v == 'NO'", expression: {x: a.v}, retry: {attempts: 3, delay: 0}}
        - name: s
          switch:
          - {condition: a.v, action: r}
          - {condition: b.x, body: [{name: q, data: 1}]}
        - {name: r, tool: t, arguments: {"on": "{{ b.x }}"}, timeout: 1h}
        - name: l
          for-each: [1, 2]
          body: {nodes: [{name: q, data: "{{ item }}"}], output: {v: q}}
        - {name: i, if: b.x, body: [{name: y, data: 1}], else_body: [{name: n, program: ls}]}
        - {name: w, while: state.n < 2, state_update: {n: 1}, wait_for: i}
    """,
        "output: {x: b.x}\nlimits: {max_llm_calls: 3}\ncaps: [llm]\nmax_runs: 2",
    )
    again = compile_pipeline(first.document, "p.yaml", LocalLibrary())
    assert same(first.graph, again.graph)
    assert (again.limits, again.caps, again.max_runs) == (first.limits, first.caps, 2)
    assert again.document == first.document


# -- names -----------------------------------------------------------------------------------------


def test_a_missing_first_name_is_a_fault_and_a_field_of_the_input_none() -> None:
    assert plan("- {name: a, data: '{{ topic }} {{ input.x.y }} {{ user.name | default(1) }}'}")
    (told,) = faults(pipeline("- {name: a, data: '{{ nowhere.v }}'}"))
    assert told.startswith("5:21: E111 a.output: `nowhere` is no node")
    schema = "input_schema: {topic: str}"
    assert plan("- {name: a, data: '{{ topic }} {{ input.topic.x }}'}", schema)
    nodes = "- {name: a, data: '{{ topics }} {{ input.topix }} {{ ctx.run }}'}"
    assert faults(pipeline(nodes, schema)) == [
        f"5:21: {each}"
        for each in (
            "E111 a.output: `topics` is no node, and no field of input_schema"
            " (did you mean topic?)",
            "E113 a.output: input_schema has no field `topix` (did you mean topic?)",
            "E112 a.output: `ctx` has no field `run` (did you mean run_id?)",
        )
    ]


def test_fields_of_its_input_mapping_are_names_of_a_node() -> None:
    found = plan("""
        - {name: a, data: {text: hello}}
        - {name: b, llm: "sum up {{ body.x }}", input_mapping: {body: a.text}}
    """)
    assert found.graph.by_name["b"].needs == ("a",)


def test_templates_in_words_that_mean_themselves() -> None:
    found = plan("""
        - name: a
          llm: '{"json": {"braces": 1}} {% raw %}{{ end }}{% endraw %}'
        - {name: b, program: ["echo", "{{ not.a.template }}"]}
    """)
    assert found.graph.by_name["a"].needs == ()


# -- faults ----------------------------------------------------------------------------------------

PAGE = Path(__file__).with_name("faults.txt")
"""Documents, and after `=>` every fault of each. `…` is the head of a pipeline."""


def documents() -> Iterator[tuple[str, list[str]]]:
    text: list[str] = []
    told: list[str] = []
    for line in [*PAGE.read_text().splitlines(), ""]:
        if line.startswith("=> "):
            told.append(line.removeprefix("=> "))
        elif told:
            yield "\n".join(text).replace("…", pipeline("").rstrip("\n")), told
            text, told = [], []
        else:
            text.append(line)


@pytest.mark.parametrize(("text", "told"), [*documents()])
def test_every_fault_of_a_document_and_its_place(text: str, told: list[str]) -> None:
    assert faults(text) == told


def test_twelve_faults_are_told_at_once() -> None:
    text = pipeline(
        """
        - {kind: Pipelne, metadata: {name: a}, spec: {}}
        - {name: b, data: 1, dependancies: [c]}
        - {name: c, data: '{{ d }}'}
        - {name: d, data: '{{ c }}'}
        - {name: input, data: 1}
        - {name: f, tool: t, timeout: soon}
        - {name: g, tool: t, when: '1 +'}
        - {name: h, data: '{{ ctx.nothing }}'}
        - {name: i, data: 1, on_error: nobody}
        - {name: j, data: '{{ nodes.nobody }}'}
        - {name: k, macro: nobody}
        """,
        "lmits: {}",
    )
    found = faults(text)
    assert [int(each.split(":")[0]) for each in found] == [5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16]
    assert len({each.split(" ")[1] for each in found}) >= 8
    assert all(each.split(" ")[1][0] == "E" for each in found)


def test_circles_are_told_each() -> None:
    text = pipeline("""
        - {name: a, data: '{{ b }}'}
        - {name: b, data: '{{ a }}'}
        - {name: c, data: '{{ d }}'}
        - {name: d, data: '{{ c }}', dependencies: [a]}
    """)
    assert [each.partition(": ")[2] for each in faults(text)] == [
        "E100 nodes wait for each other: a -> b -> a",
        "E100 nodes wait for each other: c -> d -> c",
    ]


# -- several documents, environments, variables ----------------------------------------------------


def test_the_document_of_an_environment() -> None:
    text = "\n---\n".join(
        f"kind: Pipeline\nmetadata: {{name: p, namespace: {name}}}\n"
        f"spec: {{nodes: [{{name: a, data: {name}}}]}}"
        for name in ("dev", "prod")
    )
    for environment, said in (("", "dev"), ("dev", "dev"), ("prod", "prod")):
        found = compile_pipeline(text, "p.yaml", LocalLibrary(), environment)
        assert (found.namespace, found.graph.nodes[0].spec["output"]) == (said, said)
    (told,) = faults(text, env="prd")
    assert told == "1:1: E007 there is no environment `prd` (did you mean prod?)"
    (told,) = faults(text.replace("prod", "dev"))
    assert "a second pipeline of this environment" in told


def test_variables_are_those_of_the_settings_alone() -> None:
    library = LocalLibrary(own_variables={"HOST": "example.com", "N": "5"})
    found = plan(
        """
        - {name: a, data: "${HOST}:${PORT:80}"}
        - {name: b, program: 'echo ${HOME}', timeout: "${N}"}
        """,
        library=library,
    )
    assert found.graph.by_name["a"].spec == {"output": "example.com:80"}
    assert found.graph.by_name["b"].spec["program"][2] == "echo ${HOME}"
    assert found.graph.by_name["b"].timeout == 5.0


def test_a_system_is_no_pipeline() -> None:
    (told, *_) = faults("kind: System\nmetadata: {name: p}\nspec: {}")
    assert told == "1:7: E101 kind: Pipeline was expected, a System belongs into /etc/systems"


def test_lint_tells_what_is_worth_a_look() -> None:
    text = pipeline(
        """
        - {name: Ask, llm: "sk-abcdefghijklmnopqrstuvwx"}
        - {name: sub, pipeline: nowhere}
        - {name: idle, data: 1, dependencies: []}
        """,
        "output: {x: Ask}",
    )
    found = check_manifest("pipelines", text, "q.yaml", LocalLibrary(), style=True)
    assert sorted({each.code for each in found}) == [
        *("I300", "I301", "W103", "W104", "W200", "W201", "W202", "W203")
    ]
    assert not [each for each in found if each.severity == "error"]


# -- limits of size --------------------------------------------------------------------------------


def test_what_is_too_large_is_refused() -> None:
    assert "E008" in faults("#" * (5 << 20))[0]
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
    )
    assert "E001" in faults(bomb)[0]
    assert "nested too deeply" in faults(f"a: {'[' * 60}{']' * 60}")[0]
    body = "{name: z, data: 1}"
    for number in range(15):
        body = f"{{name: n{number}, times: 2, body: [{body}]}}"
    assert plan(f"- {body}")
    many = "".join(f"- {{name: n{number}, data: 1}}\n" for number in range(5001))
    assert "at most 5000 nodes" in faults(pipeline(many))[0]


def test_a_plan_of_many_nodes_survives_as_json() -> None:
    many = "".join(f"- {{name: n{number}, data: 1}}\n" for number in range(500))
    found = plan(many)
    assert Plan.from_record(json.loads(json.dumps(found.record()))) == found
    assert isinstance(found.graph.nodes[0], PlanNode)
