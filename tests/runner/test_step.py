"""A step of a run that a model does with its tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentfs.runner.step import answered
from tests.runner.test_agent import Written, assistant, calls, here

__all__ = ["here"]

SUM = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}


def test_it_uses_its_tools_and_answers(here: Path) -> None:
    model = Written(calls("read_path", path="notes.txt"), "On Friday.")
    assert answered(assistant(model, here), "When?", None) == ("On Friday.", "")


@pytest.mark.parametrize("text", ['{"sum": 3}', 'So:\n```json\n{"sum": 3}\n```\n'])
def test_an_answer_that_fits_is_the_value(here: Path, text: str) -> None:
    model = Written(text)
    said, words = answered(assistant(model, here), "1 + 2?", SUM)
    assert (json.loads(said), words) == ({"sum": 3}, "")
    assert "fits this JSON Schema" in model.asked[0]["messages"][-1]["content"]


def test_one_that_does_not_is_told_so_twice_at_most(here: Path) -> None:
    model = Written("three", '{"sum": "3"}', '{"sum": 3}')
    assert answered(assistant(model, here), "1 + 2?", SUM) == ('{"sum": 3}', "")
    told: list[Any] = [request["messages"][-1]["content"] for request in model.asked]
    assert told[1].startswith("That does not fit: $: it is no JSON")
    assert told[2].startswith("That does not fit: $.sum: ")
    model = Written("a", "b", "c")
    _, words = answered(assistant(model, here), "1 + 2?", SUM)
    assert words == "$: it is no JSON"
