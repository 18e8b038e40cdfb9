"""Each example of docs/templates.md has the value that the page says, and each function has one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentfs.manifests.expression import Expression
from agentfs.manifests.functions import FUNCTIONS, METHODS, TESTS
from agentfs.manifests.template import EvaluationError, Template
from tests.pages import DOCS, blocks, run
from tests.tree import Tree

PAGE = (DOCS / "templates.md").read_text()
NAMES = ("research-agent",)

TABLE = re.compile(r"\| (template|expression) \| value \|\n\|---\|---\|\n((?:\|.*\n)+)")
LINE = re.compile(r"\| `(.*?)` \| (?:`(.*)`|error: (.*)) \|")


def _scope() -> dict[str, Any]:
    block = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    names: dict[str, Any] = yaml.safe_load(block[1])
    return names["input"] | names["nodes"] | names


def _examples() -> list[tuple[str, str, str, str]]:
    found = []
    for kind, lines in TABLE.findall(PAGE):
        for line in lines.splitlines():
            example = LINE.fullmatch(line)
            assert example is not None, line
            text, value, error = (part and part.replace("\\|", "|") for part in example.groups())
            found.append((kind, text, value, error))
    return found


EXAMPLES = _examples()


@pytest.mark.parametrize(("kind", "text", "value", "error"), EXAMPLES, ids=lambda part: str(part))
def test_an_example_of_the_page_has_the_value_that_it_says(
    kind: str, text: str, value: str, error: str
) -> None:
    read = (Template if kind == "template" else Expression)(text, NAMES)
    if error:
        with pytest.raises(EvaluationError) as failure:
            read.evaluate(_scope())
        assert error in str(failure.value)
    else:
        found = read.evaluate(_scope())
        assert json.dumps(found) == json.dumps(json.loads(value))


def test_the_page_has_an_example_of_each_function_and_names_each_test() -> None:
    assert len(EXAMPLES) > 100
    texts = " ".join(text for kind, text, *_ in EXAMPLES if kind == "expression")
    for name in FUNCTIONS:
        assert re.search(rf"\b{name}\b", texts), name
    for name in METHODS:
        assert f".{name}(" in texts, name
    listed = re.search(r"A test stands behind(.*?)\n\n", PAGE, re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed[1])) - {"is"} == set(TESTS)


@pytest.mark.mount
def test_its_lines_print_what_the_page_says(tree: Tree, tmp_path: Path) -> None:
    scripts = list(blocks("templates.md"))
    assert len(scripts) == 2
    for script, expected in scripts:
        assert run(script, tree, tmp_path) == expected
