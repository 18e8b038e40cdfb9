"""Pages of /lib about nodes, adapters and tags: what they say is so."""

from __future__ import annotations

import textwrap

import pytest
import yaml

from agentfs.manifests.about import ADAPTERS, NODES, TAGS
from agentfs.manifests.documents import LocalLibrary
from agentfs.manifests.kinds import KINDS
from agentfs.manifests.pipeline import check_manifest, compile_pipeline
from agentfs.manifests.schema import Schema
from agentfs.manifests.template import Template

HEAD = """\
kind: Macro
metadata: {name: review-twice}
parameters: [{name: file}]
nodes: [{name: "{{ name }}_one", data: "{{ file }}"}]
---
kind: Pipeline
metadata: {name: example}
spec:
  nodes:
"""


def _library() -> LocalLibrary:
    library = LocalLibrary(None)
    library.pipelines.add("review")
    return library


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_a_kind_of_nodes_compiles_and_fits_its_schema(kind: str) -> None:
    page = NODES[kind]
    plan = compile_pipeline(
        HEAD + textwrap.indent(page.example, "    "), "example.yaml", _library()
    )
    assert plan.graph.nodes
    if kind != "macro_invocation":
        assert kind in [node.kind for node in plan.graph.nodes]
    schema = Schema(page.schema)
    for node in yaml.safe_load(page.example):
        if kind in node:
            spec = {KINDS[kind].main if key == kind else key: node[key] for key in node}
            spec.pop("name")
            assert schema.check(spec) == ""
            assert "no_such_key" in schema.check(spec | {"no_such_key": 1})
            if KINDS[kind].keys[KINDS[kind].main].required:
                assert schema.check({}) != ""


def test_every_key_of_a_kind_has_a_line_of_words() -> None:
    for name, kind in KINDS.items():
        lines = NODES[name].about.splitlines()
        assert lines[0] == kind.what
        for key in kind.keys:
            assert any(line.startswith(key) for line in lines[2:]), (name, key)
        assert len(NODES[name].schema["properties"]) > len(kind.keys)


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_example_of_an_adapter_is_one(name: str) -> None:
    page = ADAPTERS[name]
    assert check_manifest("adapters", page.example, "finder.yaml", _library()) == []
    assert Schema(page.schema).check(yaml.safe_load(page.example)["spec"]) == ""
    assert Schema(page.schema).check({}) != ""


def test_the_examples_of_tags_make_nodes() -> None:
    parameters = {"name": "n", "words": ["a", "b"], "careful": True}
    made = {
        tag: Template(page.example, statements=True).fill(parameters) for tag, page in TAGS.items()
    }
    assert made["raw"] == "{{ this is text }}\n"
    assert yaml.safe_load(made["for"]) == [
        {"name": "n_1", "data": "a"},
        {"name": "n_2", "data": "b"},
    ]
    assert yaml.safe_load(made["if"]) == [{"name": "n_ask", "approval": "Go on?"}]
    assert yaml.safe_load(made["set"]) == [{"name": "n_all", "data": '["a", "b", "end"]'}]
