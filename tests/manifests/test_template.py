"""Templates and expressions: references, types, one pass, and what is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentfs.manifests.expression import Expression, mapping_source
from agentfs.manifests.template import (
    EvaluationError,
    MissingError,
    Template,
    TemplateError,
    fill,
    references_of,
    render,
)

NAMES = ("research-agent", "research", "step-2")

HOSTILE = "x{{ nodes.b }}\"'\n$(id)"

SCOPE: dict[str, Any] = {
    "nodes": {
        "a": {"v": 1, "items": [1, 2, 3], "get": "x", "big": 2**70, "none": None},
        "b": HOSTILE,
        "research-agent": {"researcher": {"output": "found"}},
    },
    "input": {"user": "Ann", "unit": None},
    "ctx": {"run_id": 7, "now": 1_000_000_000.25},
    "a": {"v": 1, "items": [1, 2, 3]},
    "research-agent": {"researcher": {"output": "found"}},
    "research": 10,
    "agent": 4,
    "step-2": {"rows": [{"n": 2, "name": "y"}, {"n": 1, "name": "x"}]},
}


def value(text: str) -> Any:
    return Template(text, NAMES).evaluate(SCOPE)


def refused(text: str, **more: Any) -> TemplateError:
    with pytest.raises(TemplateError) as refusal:
        Template(text, NAMES, **more)
    return refusal.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ nodes.a.items }}", [1, 2, 3]),
        ("{{nodes.a.items}}", [1, 2, 3]),
        ("{{ nodes.a.big }}", 2**70),
        ("{{ nodes.a.none }}", None),
        ("{{ nodes.a.get }}", "x"),
        ("{{ nodes['a']['v'] }}", 1),
        ("{{ nodes.a.items.0 }}", 1),
        ("{{ nodes.a.items[-1] }}", 3),
        ("{{ nodes.a.items[1:] }}", [2, 3]),
        ("{{ nodes.a }}", SCOPE["nodes"]["a"]),
        ("{# a comment #}{{ nodes.a.v }}", 1),
        ("{{ $input.user }}", "Ann"),
        ("{{ a.v == 1 and not a.v > 2 }}", True),
    ],
)
def test_a_whole_reference_keeps_the_type_of_its_value(text: str, expected: Any) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n={{ a.v }}", "n=1"),
        ("{{ a.items }}\n", "[1, 2, 3]\n"),
        ("{{ nodes.a.none }}!", "null!"),
        ("{{ true }} {{ 1.5 }} {{ {'k': [none]} }}", 'true 1.5 {"k": [null]}'),
        ("{{ input.user }}\r\n{{ a.v }}\r", "Ann\r\n1\r"),
        ("a {{- a.v -}}  b", "a1b"),
        ('{"a": {"b": 1}} {x} {}', '{"a": {"b": 1}} {x} {}'),
        ("{% raw %}{{end}}{% endraw %}", "{{end}}"),
        ("{{ '{{' }}x", "{{x"),
        ("{{ {'a': {'b': 1}} }} ", '{"a": {"b": 1}} '),
        ("a{# not shown #}b", "ab"),
    ],
)
def test_within_a_text_a_value_is_text_or_json_and_all_else_stays(text: str, expected: str) -> None:
    assert value(text) == expected


def test_a_value_that_looks_like_a_template_is_not_evaluated() -> None:
    assert value("{{ nodes.b }}") == HOSTILE
    assert value("<{{ nodes.b }}>") == f"<{HOSTILE}>"
    assert render({"args": ["{{ nodes.b }}"]}, SCOPE) == {"args": [HOSTILE]}
    assert json.loads(value('{"k": {{ nodes.b | tojson }}}')) == {"k": HOSTILE}


def test_declared_names_with_hyphens_are_names_and_blanks_make_a_subtraction() -> None:
    assert value("{{ research-agent.researcher.output }}") == "found"
    assert value("{{ nodes.research-agent.researcher.output }}") == "found"
    assert value("{{ research - agent }}") == 6
    assert value("{{ step-2.rows[0].n-1 }}") == 1
    assert Template("{{ research-agents }}", NAMES).references()[0].path == ("research",)
    assert render("{{ research-agent.researcher.output }}", SCOPE) == "found"


def test_references_have_paths_lines_and_columns() -> None:
    text = (
        "a\n  {{ nodes.b.items[0].c }} and\n{{ x['y z'] | default(zz) }}{{ [i.k for i in rows] }}"
    )
    found = [
        (str(each), each.line, each.column, each.optional) for each in Template(text).references()
    ]
    assert found == [
        ("nodes.b.items.0.c", 2, 6, False),
        ("x.y z", 3, 4, True),
        ("zz", 3, 23, False),
        ("rows", 3, 46, False),
    ]
    assert references_of({"a": ["{{ q }}", 3, {"b": "{{ r.s }}"}], "c": "t"})[1].path == ("r", "s")


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("{{ nodse.a }}", "nodse.a", "there is no `nodse` (did you mean nodes?)"),
        ("{{ nodes.a.items9 }}", "nodes.a.items9", "nodes.a has no `items9` (did you mean items?)"),
        ("{{ nodes.a.none.x }}", "nodes.a.none.x", "nodes.a.none is null and has no `x`"),
        ("{{ a.items[3] }}", "a.items[3]", "a.items has 3 items and no `[3]`"),
        ("{{ a.w | upper }}", "a.w", "a has no `w`"),
    ],
)
def test_what_is_missing_is_an_error_that_names_it(text: str, name: str, words: str) -> None:
    with pytest.raises(MissingError) as missing:
        value(text)
    assert missing.value.name == name
    assert words in str(missing.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ nodse | default(3) }}",
        "{{ nodes.a.w.x.y | default(3) }}",
        "{{ default(nodes.a.none, 3) }}",
        "{{ coalesce(nodse.x, nodes.a.none, 3) }}",
        "{{ nodse.x if nodse is defined else 3 }}",
        "{{ 4 if isempty(nodse.x) and nodes.a.none is none and not isnone(a.v) else 0 }}",
    ],
)
def test_default_coalesce_and_defined_help(text: str) -> None:
    assert value(text) in (3, 4)


@pytest.mark.parametrize("function", ["sum", "list", "unique", "dict", "length", "sort", "join"])
def test_null_is_no_empty_list(function: str) -> None:
    with pytest.raises(EvaluationError, match="was expected, not null"):
        value(f"{{{{ nodes.a.none | {function} }}}}")


def test_lists_and_maps_may_be_made_of_nothing() -> None:
    assert value("{{ [list(), set(), tuple(), dict(), dict(a=1), str(), int()] }}") == [
        [], [], [], {}, {"a": 1}, "", 0,
    ]  # fmt: skip


def test_refusals_say_where() -> None:
    bad = refused("ab\n {{ x.y( }}")
    assert (bad.line, bad.column) == (2, 10)
    assert (refused("a {{ b").column, refused("{{ a ? b }}").column) == (3, 6)
    assert "did you mean upper?" in refused("{{ a | uper }}").words
    assert "missing a required argument" in refused("{{ split() }}").words
    assert "raw" in refused("{% if a %}x{% endif %}").words
    assert refused("{{ a b }}").words == "expected token '}}', got 'b'"
    assert refused("{{ a + }}").words == "unexpected '}}'"
    unclosed = refused("{% for x in y %}{% if x %}{% endif %}", statements=True)
    assert unclosed.words == "`{% for %}` without its `{% endfor %}`"


def test_an_expression_stands_alone_or_in_one_pair_of_braces() -> None:
    for text in ("a.v + 1 == 2", "{{ a.v + 1 == 2 }}", " {{a.v == 1}} "):
        assert Expression(text).holds(SCOPE)
    assert Expression("{{ a.v }}").references()[0].column == 4
    assert not Expression("a.v > 'x' or a.v < none").holds(SCOPE)
    with pytest.raises(TemplateError):
        Expression(" ")
    with pytest.raises(MissingError):
        Expression("a.w == 1").holds(SCOPE)


def test_the_sources_of_a_mapping() -> None:
    source = mapping_source(
        {"x": "a.v * 2", "y": ["$nodes.a.v", "'lit'", "5", 7], "z": "{{ input.user }}!"}
    )
    assert source.evaluate(SCOPE) == {"x": 2, "y": [1, "lit", "5", 7], "z": "Ann!"}
    assert [str(each) for each in source.references()] == ["a.v", "nodes.a.v", "input.user"]
    assert mapping_source("input.unit | default(4)").evaluate(SCOPE) == 4
    with pytest.raises(EvaluationError, match="required"):
        mapping_source("input.unit | required").evaluate(SCOPE)
    with pytest.raises(TemplateError, match="quotes of its own"):
        mapping_source("hello world")


def test_a_macro_is_filled_and_keeps_what_it_does_not_know() -> None:
    text = "{{ name }}_x {{ later.y }}{% for x in [1, 2] %}[{{ x }} {{ later }}]{% endfor %}"
    filled = Template(text, statements=True).fill({"name": "m"})
    assert filled == "m_x {{ later.y }}[1 {{ later }}][2 {{ later }}]"
    parameters = {"name": [1]}
    assert fill(["{{ name }}", "{{ z }}", "{{ name }} {{ z }}"], parameters) == [
        [1],
        "{{ z }}",
        "[1] {{ z }}",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ file ~ nodes.a.v }}", '{{ ("a\\"b\\n") ~ nodes.a.v }}'),
        ("x {{ $count + later }}", "x {{ (3) + later }}"),
        ("{{ [x for x in list if x > y] }}", "{{ [x for x in ([1]) if x > y] }}"),
        ("{{ value | upper }}", "{{ (input.x + 1) | upper }}"),
        ("{{ value }}", "{{ input.x + 1 }}"),
        ("{{ value }}!", "{{ input.x + 1 }}!"),
        ("{{ count | default(later) }}", "{{ (3) | default(later) }}"),
        ("{{ map.a.b }} {{ map.c.d }}", None),
    ],
)
def test_what_a_macro_knows_stands_in_what_it_leaves(text: str, expected: str | None) -> None:
    parameters = {"file": 'a"b\n', "count": 3, "list": [1], "value": "{{ input.x + 1 }}", "map": {}}
    if expected is None:
        with pytest.raises(MissingError):
            Template(text).fill(parameters)
    else:
        filled = Template(text).fill(parameters)
        assert filled == expected
        Template(filled)
    with pytest.raises(EvaluationError, match="for-each"):
        Template("{% for x in value %}{% endfor %}", statements=True).fill(parameters)


def test_braces_in_an_expression_are_parentheses() -> None:
    for text in ("{{ a.v }} == 1", "{{ a.v }}+{{a.v}} == 2", "{'k': {'l': {{ a.v }}}}.k.l == 1"):
        assert Expression(text).holds(SCOPE)
    for text in ("{{ a.v", "a.v }}", "{{ (a.v }} )", "{{ }}", "{{" * 50 + "a" + "}}" * 50):
        with pytest.raises(TemplateError):
            Expression(text)


def test_what_is_only_passed_on_may_be_large() -> None:
    rows = [{"n": at, "text": "x" * 100} for at in range(6000)]
    scope = {"rows": rows, "long": "y" * 3_000_000, "many": [0] * 500_000}
    assert Template("{{ long | default('') }}").evaluate(scope) is scope["long"]
    assert Template("{{ many }}").evaluate(scope) is scope["many"]
    assert len(Template("{{ rows | selectattr('n', 'ge', 1000) }}").evaluate(scope)) == 5000
    for text in ("{{ [long] }}", "{{ long ~ '' }}", "{{ [many] }}", "x {{ many }}"):
        with pytest.raises(EvaluationError):
            Template(text).evaluate(scope)
