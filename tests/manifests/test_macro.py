"""Macros: the plan is that of the nodes written by hand."""

from __future__ import annotations

from agentfs.manifests.documents import LocalLibrary
from agentfs.manifests.pipeline import compile_pipeline
from tests.manifests.drafts import faults, pipeline, plan, shelf
from tests.manifests.test_pipeline import needs, same

REVIEW = """
    kind: Macro
    metadata: {name: review}
    parameters:
    - {name: topic, required: true}
    - {name: count, type: int, default: 2}
    - {name: style, enum: [short, long], default: short}
    nodes:
    - {name: "{{ name }}_ask", llm: "{{ style }}: {{ topic }}", max_retries: "{{ count }}"}
    - {name: "{{ name }}_check", tool: check, arguments: {text: "{{ '{{ ' ~ name ~ '_ask }}' }}"}}
"""


def test_a_macro_gives_the_plan_of_the_nodes_written_by_hand() -> None:
    library = shelf(macros_review=REVIEW)
    used = plan(
        """
        - {name: fetch, data: {body: hello}}
        - {name: r, macro: review, inputs: {topic: "{{ fetch.body }}", count: 3}}
        - {name: end, data: done}
        - {name: late, data: 1, dependencies: [r]}
        """,
        library=library,
    )
    by_hand = plan("""
        - {name: fetch, data: {body: hello}}
        - {name: r_ask, llm: "short: {{ fetch.body }}", max_retries: 3}
        - {name: r_check, tool: check, arguments: {text: "{{ r_ask }}"}}
        - {name: end, data: done}
        - {name: late, data: 1, dependencies: [r_check]}
    """)
    assert same(used.graph, by_hand.graph)


def test_a_macro_in_the_same_text_may_stand_before_or_after_its_use() -> None:
    macro = "kind: Macro\nmetadata: {name: m}\nnodes: [{name: '{{ name }}-x', data: 1}]\n"
    use = pipeline("- {name: a, macro: m}")
    for text in (f"{macro}---\n{use}", f"{use}---\n{macro}"):
        found = compile_pipeline(text, "p.yaml", LocalLibrary())
        assert [node.name for node in found.graph.nodes] == ["a-x"]


def test_macros_three_deep_and_a_loop_in_raw_nodes() -> None:
    library = shelf(
        macros_outer="""
            kind: Macro
            metadata: {name: outer}
            nodes: [{name: "{{ name }}-in", macro: middle, inputs: {names: [x, y]}}]
        """,
        macros_middle="""
            kind: Macro
            metadata: {name: middle}
            parameters: [{name: names, type: list, required: true}]
            nodes: [{name: "{{ name }}-deep", macro: inner, inputs: {names: "{{ names }}"}}]
        """,
        macros_inner="""
            kind: Macro
            metadata: {name: inner}
            parameters: [{name: names, type: list}]
            nodes_raw: |
              {% for each in names %}
              - {name: "{{ name }}-{{ each }}", data: {who: "{{ each }}"}, dependencies: []}
              {% endfor %}
              {% if names | length > 1 %}
              - {name: "{{ name }}-end", data: 1, wait_for: ["{{ name }}-x"]}
              {% endif %}
        """,
    )
    found = plan(
        "- {name: start, data: 1}\n- {name: o, macro: outer}\n- {name: z, data: 2}", library=library
    )
    names = "o-in-deep"
    assert needs(found) == {
        "start": (),
        f"{names}-x": (),
        f"{names}-y": (),
        f"{names}-end": (f"{names}-x",),
        "z": (f"{names}-end", f"{names}-y"),
    }


def test_the_first_nodes_wait_for_what_the_invocation_waits_for() -> None:
    library = shelf(
        macros_m="""
            kind: Macro
            metadata: {name: m}
            nodes:
            - {name: "{{ name }}1", data: 1}
            - {name: "{{ name }}2", data: 1}
            - {name: "{{ name }}3", data: 1, dependencies: []}
        """
    )
    found = plan(
        """
        - {name: a, data: 1}
        - {name: b, data: 1, dependencies: []}
        - {name: x, macro: m, dependencies: [a]}
        - {name: y, macro: m, dependencies: []}
        - {name: z, macro: m}
        """,
        library=library,
    )
    assert needs(found) == {
        "a": (),
        "b": (),
        "x1": ("a",),
        "x2": ("x1",),
        "x3": ("a",),
        "y1": (),
        "y2": ("y1",),
        "y3": (),
        "z1": ("y2", "y3"),
        "z2": ("z1",),
        "z3": (),
    }


def test_faults_of_a_macro_stand_where_it_is_invoked() -> None:
    library = shelf(
        macros_bad="""
            kind: Macro
            metadata: {name: bad}
            parameters: [{name: n, type: int, required: true}]
            nodes:
            - {name: "{{ name }}", data: "{{ nodes.nowhere }}"}
        """,
        macros_raw="""
            kind: Macro
            metadata: {name: raw}
            nodes_raw: "- {name: a, data: [}"
        """,
        macros_round="""
            kind: Macro
            metadata: {name: round}
            nodes: [{name: "{{ name }}x", macro: trip}]
        """,
        macros_trip="""
            kind: Macro
            metadata: {name: trip}
            nodes: [{name: "{{ name }}y", macro: round}]
        """,
        macros_port="""
            kind: Macro
            metadata: {name: port}
            requires_ports: [{name: db}, {name: cache, optional: true}]
            nodes: [{name: "{{ name }}", data: 1}]
        """,
    )
    told = faults(
        pipeline("""
            - {name: a, macro: bad, inputs: {n: 1}}
            - {name: b, macro: bad, inputs: {n: one, m: 2}}
            - {name: c, macro: bad}
            - {name: d, macro: bad, inputs: {n: 1}, config: {n: 2}}
            - {name: e, macro: raw}
            - {name: f, macro: round}
            - {name: g, macro: port}
            - {name: h, macro: prot}
            - {name: i, macro: bad, when: 1 > 0, inputs: {n: 1}}
        """),
        library,
    )
    assert told == [
        "5:5: E104 a.output: there is no node `nowhere` (macro bad, line 6)",
        "6:39: E131 macro bad: n: a value of the type int was expected",
        "6:47: E131 macro bad has no parameter `m`",
        "7:22: E131 macro bad: `n` was expected",
        "8:5: E104 d.output: there is no node `nowhere` (macro bad, line 6)",
        "8:55: E131 d: `n` is in `inputs` and in `config`",
        "9:5: E001 macro raw, line 1 of what it gives: not YAML: did not find"
        " expected node content",
        "10:5: E132 macros invoke each other: round -> trip -> round (macro trip, line 4)",
        "11:22: E133 g: macro port needs a port `db` in spec.ports",
        "12:22: E130 there is no macro `prot` (did you mean port?)",
        "13:5: E104 i.output: there is no node `nowhere` (macro bad, line 6)",
        "13:27: E005 i: unknown key `when`: macro_invocation has macro, inputs, config,"
        " dependencies",
    ]


def test_a_macro_is_bounded() -> None:
    library = shelf(
        macros_many="""
            kind: Macro
            metadata: {name: many}
            nodes_raw: |
              {% for a in range(1000) %}{% for b in range(1000) %}
              - {name: "n{{ a }}-{{ b }}", data: 1}
              {% endfor %}{% endfor %}
        """,
        **{
            f"macros_m{n}": f"""
                kind: Macro
                metadata: {{name: m{n}}}
                nodes:
                - {{name: "{{{{ name }}}}-a", macro: m{n + 1}}}
                - {{name: "{{{{ name }}}}-b", macro: m{n + 1}}}
            """
            for n in range(25)
        },
    )
    (told, *_) = faults(pipeline("- {name: a, macro: many}"), library)
    assert "E131" in told or "E110" in told
    told = " ".join(faults(pipeline("- {name: a, macro: m0}"), library))
    assert "at most 5000 nodes" in told or "at most 20 macros" in told
