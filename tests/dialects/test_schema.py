"""Schemas of tools: what public projects' tools had, and every provider has to take."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing.exceptions import Unresolvable

from agentfs.dialects.schema import fit, fit_name

EMPTY = {"type": "object", "properties": {}}


@pytest.mark.parametrize("schema", [{"type": "object"}, {}, None, True, {"properties": None}])
def test_a_tool_without_arguments_has_properties(schema) -> None:
    assert fit(schema) == EMPTY


def test_no_schema_and_no_ids() -> None:
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "x", **EMPTY}
    assert fit(schema) == EMPTY


def test_branches_on_top_become_one_object() -> None:
    """What all branches require is required; one argument may have several forms."""
    a = {"type": "object", "properties": {"x": {"type": "string"}, "a": {}}, "required": ["x", "a"]}
    b = {"type": "object", "properties": {"x": {"type": "integer"}, "b": {}}, "required": ["x"]}
    both = {"x": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "a": {}, "b": {}}
    for keyword, required in (("anyOf", ["x"]), ("oneOf", ["x"]), ("allOf", ["x", "a"])):
        made = fit({"description": "it", keyword: [a, b], "enum": [1], "not": {}})
        assert made == {
            "type": "object",
            "description": "it",
            "properties": both,
            "required": required,
        }


def test_references_are_written_out() -> None:
    schema = {
        "$ref": "#/$defs/Top",
        "$defs": {
            "Top": {"type": "object", "properties": {"p": {"$ref": "#/$defs/P"}}},
            "P": {"type": "integer", "minimum": 1},
        },
    }
    assert fit(schema)["properties"] == {"p": {"type": "integer", "minimum": 1}}


def test_rules_beside_a_reference_are_rules_as_well() -> None:
    schema = {
        "$ref": "#/$defs/d",
        "properties": {"a": {}},
        "$defs": {"d": {"properties": {"b": {}}, "additionalProperties": False}},
    }
    assert fit(schema) == {"type": "object", "properties": {"a": {}, "b": {}}}


def test_a_schema_within_itself_ends() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/N"}, "v": {"type": "null"}}}
    made = fit({"properties": {"head": {"$ref": "#/$defs/N"}}, "$defs": {"N": node}})
    assert made["properties"]["head"]["properties"] == {"next": {}, "v": {"type": "null"}}


@pytest.mark.parametrize("reference", ["https://x.org/s.json", "other.json#/a", "#/nowhere", "#x"])
def test_a_reference_to_elsewhere_takes_anything(reference) -> None:
    schema = {"properties": {"p": {"$ref": reference, "description": "d"}}}
    assert fit(schema)["properties"] == {"p": {"description": "d"}}


def test_definitions_that_double_each_other_end() -> None:
    defs = {
        f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
        for i in range(40)
    }
    schema = {"properties": {"p": {"$ref": "#/$defs/d0"}}, "$defs": defs}
    assert len(json.dumps(fit(schema))) < 100_000
    assert len(json.dumps(fit({"$ref": "#/$defs/d0", "$defs": defs}))) < 100_000


@pytest.mark.parametrize(
    ("given_", "made"),
    [
        ({"type": "array"}, {"type": "array", "items": {}}),
        ({"type": "array", "items": [{"type": "string"}]}, {"type": "array", "items": {}}),
        ({"type": "array", "prefixItems": [{}]}, {"type": "array", "items": {}}),
        ({"type": "string", "required": True}, {"type": "string"}),
        ({"const": 1}, {"enum": [1]}),
        ({"enum": []}, {}),
        ({"default": object()}, {}),
        ({"default": {"a": [1]}}, {"default": {"a": [1]}}),
        ({"type": "int"}, {"type": "integer"}),
        ({"type": "any"}, {}),
        ({"type": ["string", "null"]}, {"type": ["string", "null"]}),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"minimum": 0, "exclusiveMinimum": True}, {"exclusiveMinimum": 0}),
        ({"minimum": float("nan")}, {}),
        ({"pattern": "a.*"}, {}),
        ({"pattern": "^(?=a).*$"}, {}),
        ({"pattern": "^a+$"}, {"pattern": "^a+$"}),
        (True, {}),
        (
            {"type": "object", "required": ["a"]},
            {"type": "object", "required": ["a"], "properties": {"a": {}}},
        ),
        (
            {"type": "object", "additionalProperties": {"$ref": "#/x"}},
            {"type": "object", "additionalProperties": {}},
        ),
    ],
)
def test_what_some_provider_refuses_is_said_otherwise(given_, made) -> None:
    assert fit({"properties": {"p": given_}})["properties"] == {"p": made}


def test_arguments_that_are_no_object_are_refused() -> None:
    with pytest.raises(ValueError, match="not of type string"):
        fit({"type": "string"})


def test_a_name_that_anthropic_refuses() -> None:
    schema = {"properties": {"a b": {}, "c": {}}}
    assert fit(schema)["properties"] == {"c": {}}
    with pytest.raises(ValueError, match="'a b'"):
        fit({**schema, "required": ["a b"]})


def test_names_of_tools() -> None:
    assert fit_name("git_log-2") == "git_log-2"
    names = {fit_name(name) for name in ("a.b", "a b", "a/b", "", "x" * 65, "x" * 66, "é\udc80")}
    assert len(names) == 7
    assert all(0 < len(name) <= 64 and name.isascii() for name in names)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "items", "anyOf", "allOf", "$ref", "$defs", "required"]
                + ["additionalProperties", "if", "dependentSchemas", "pattern", "a", "prefixItems"]
            ),
            inner
            | st.sampled_from(["object", "array", "string", "#/$defs/a", "#", "#/properties/a"]),
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_whatever_is_given_is_made_fit_or_refused_with_words(schema) -> None:
    try:
        made = fit(schema)
    except ValueError as error:
        assert str(error)
        return
    assert made["type"] == "object"
    assert isinstance(made["properties"], dict)
    assert not {"anyOf", "oneOf", "allOf", "enum", "not", "$schema", "$ref", "$defs"} & set(made)
    assert '"$ref"' not in json.dumps(made)
    json.dumps(made)
    assert fit(made) == made


NAMES = st.sampled_from(["a", "b"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a", "ab"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)
TYPE = st.sampled_from(["object", "array", "string", "integer", "number", "null", "boolean"])


def _schemas(inner: st.SearchStrategy) -> st.SearchStrategy:
    several = st.lists(inner, min_size=1, max_size=2)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPE | st.lists(TYPE, min_size=1, max_size=2, unique=True),
            "properties": st.dictionaries(NAMES, inner, max_size=2),
            "required": st.lists(NAMES, unique=True, max_size=2),
            "additionalProperties": st.booleans() | inner,
            "patternProperties": st.dictionaries(st.just("a"), inner, min_size=1),
            "items": inner,
            "prefixItems": several,
            "anyOf": several,
            "oneOf": several,
            "allOf": several,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "dependentSchemas": st.dictionaries(NAMES, inner, max_size=1),
            "$ref": st.sampled_from(["#/$defs/d", "#/properties/a"]),
            "enum": st.lists(VALUES, min_size=1, max_size=2),
            "const": VALUES,
            "minimum": st.integers(-1, 1),
            "exclusiveMaximum": st.integers(-1, 1),
            "maxLength": st.integers(0, 2),
            "maxItems": st.integers(0, 2),
            "minProperties": st.integers(0, 2),
            "pattern": st.sampled_from(["^a$", "b"]),
            "uniqueItems": st.booleans(),
        },
    )


SCHEMAS = st.recursive(st.booleans() | st.just({}), _schemas, max_leaves=3)


TOP = st.fixed_dictionaries(
    {"properties": st.dictionaries(NAMES, _schemas(SCHEMAS), max_size=2)},
    optional={
        "required": st.lists(NAMES, unique=True, max_size=2),
        "additionalProperties": st.booleans() | SCHEMAS,
        "patternProperties": st.dictionaries(st.just("a"), SCHEMAS, min_size=1),
        "not": SCHEMAS,
        "minProperties": st.integers(0, 2),
    },
)


@settings(max_examples=50, deadline=None)
@given(TOP, SCHEMAS, st.dictionaries(NAMES, VALUES, max_size=2))
def test_what_was_allowed_is_allowed(schema, definition, arguments) -> None:
    """By jsonschema's own judgement, and where no branches on top say different things."""
    whole = {**schema, "$defs": {"d": definition}}
    try:
        made = fit(whole)
        fits = Draft202012Validator(whole).is_valid(arguments)
    except (ValueError, RecursionError, Unresolvable):
        return
    Draft202012Validator.check_schema(made)
    assert not fits or Draft202012Validator(made).is_valid(arguments)


def test_a_schema_that_is_deeper_than_any_stack() -> None:
    schema: dict = {}
    for _ in range(100_000):
        schema = {"type": "array", "items": schema}
    fit({"properties": {"p": schema}})
    top: dict = {}
    for _ in range(100_000):
        top = {"allOf": [top]}
    fit(top)
    while schema or top:  # taken apart by hand: the interpreter would recurse
        schema, top = schema.get("items", {}), (top.get("allOf") or [{}])[0]
