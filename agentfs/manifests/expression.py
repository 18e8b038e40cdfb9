"""Expressions: the inside of `{{ … }}` alone, as in `when`, `condition`, `items`, `state_update`.

Braces in one are parentheses: hexDAG's documents have `{{ a.v }} > 3` and `{{ a.v > 3 }}`, too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from agentfs.manifests.evaluate import Evaluation
from agentfs.manifests.fuel import Fuel, TemplateError
from agentfs.manifests.grammar import parse_expression
from agentfs.manifests.template import Template, is_template
from agentfs.manifests.tree import Reference, check, references

__all__ = ["Expression", "MappingSource", "mapping_source"]

_LITERAL = re.compile(r"\s*[-+]?[\d_]+(\.[\d_]*)?(e[-+]?\d+)?\s*|\s*", re.IGNORECASE)


class Expression:
    """An expression. `names`: names with hyphens. Raises TemplateError."""

    __slots__ = ("_tree", "text")

    def __init__(self, text: str, names: Collection[str] = ()) -> None:
        if not text.strip():
            raise TemplateError("an expression was expected")
        self.text = text
        self._tree = parse_expression(text, names)
        check(self._tree, text)

    def references(self) -> tuple[Reference, ...]:
        """Everything that it names, in the order of its text."""
        return references(self._tree, self.text)

    def evaluate(self, scope: Mapping[str, Any], fuel: Fuel | None = None) -> Any:
        """Its value in a scope. Raises EvaluationError."""
        return Evaluation(scope, fuel or Fuel(), self.text).value(self._tree)

    def holds(self, scope: Mapping[str, Any], fuel: Fuel | None = None) -> bool:
        """Whether its value is true, as in Python: neither false nor null, 0 or empty. Raises
        EvaluationError: a condition that cannot be decided is no false one."""
        return bool(self.evaluate(scope, fuel))


class MappingSource:
    """A value of an `input_mapping`: where the field comes from.

    A text with braces is a template, any other text an expression (`a.v`, `$input.x`, `a.v * 2`,
    `a.v | default(0)`, `'a text'`), unless it is only a number or empty; lists and maps have
    sources in them; anything else is the value itself. Raises TemplateError.
    """

    __slots__ = ("_source",)

    def __init__(self, value: Any, names: Collection[str] = ()) -> None:
        self._source: Any = value
        if isinstance(value, dict):
            self._source = {key: MappingSource(each, names) for key, each in value.items()}
        elif isinstance(value, list):
            self._source = [MappingSource(each, names) for each in value]
        elif isinstance(value, str) and is_template(value):
            self._source = Template(value, names)
        elif isinstance(value, str) and not _LITERAL.fullmatch(value):
            try:
                self._source = Expression(value, names)
            except TemplateError as bad:
                hint = f"{bad.words}; a text is written in quotes of its own: \"'a text'\""
                raise TemplateError(hint, bad.line, bad.column) from None

    def references(self) -> tuple[Reference, ...]:
        """Everything that it names."""
        if isinstance(self._source, Template | Expression):
            return self._source.references()
        inner = self._source
        if isinstance(inner, dict):
            inner = list(inner.values())
        if isinstance(inner, list):
            return tuple(each for source in inner for each in source.references())
        return ()

    def evaluate(self, scope: Mapping[str, Any], fuel: Fuel | None = None) -> Any:
        """Its value in a scope. Raises EvaluationError."""
        fuel = fuel or Fuel()
        match self._source:
            case Template() | Expression():
                return self._source.evaluate(scope, fuel)
            case dict():
                return {key: each.evaluate(scope, fuel) for key, each in self._source.items()}
            case list():
                return [each.evaluate(scope, fuel) for each in self._source]
        return self._source


def mapping_source(value: Any, names: Collection[str] = ()) -> MappingSource:
    """A value of an `input_mapping`. Raises TemplateError."""
    return MappingSource(value, names)
