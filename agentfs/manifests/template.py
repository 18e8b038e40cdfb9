"""Templates: texts with `{{ … }}`, evaluated over JSON.

A text that is one `{{ … }}` as a whole keeps the type of its value. Nothing is evaluated twice: a
value that looks like a template stays a text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import nodes

from agentfs.manifests.evaluate import MISSING, Evaluation
from agentfs.manifests.fuel import EvaluationError, Fuel, FuelError, MissingError, TemplateError
from agentfs.manifests.grammar import hyphenated, parse_template
from agentfs.manifests.tree import Reference, check, references

__all__ = [
    "MISSING",
    "EvaluationError",
    "Fuel",
    "FuelError",
    "MissingError",
    "Reference",
    "Template",
    "TemplateError",
    "fill",
    "is_template",
    "needs_inside",
    "references_of",
    "render",
]

LONGEST_KEPT = 1 << 13
"""Characters of a text whose tree is kept for the next evaluation."""


def is_template(text: str) -> bool:
    """Whether there is anything to evaluate in it."""
    return "{{" in text or "{%" in text or "{#" in text


class Template:
    """A text with `{{ … }}` in it.

    `names`: names with hyphens that are to be read as one (of nodes, of processes). `statements`:
    `for`, `if` and `set` are allowed; such a text may be much longer. Raises TemplateError.
    """

    __slots__ = ("_parts", "_spans", "_tree", "text")

    def __init__(self, text: str, names: Collection[str] = (), statements: bool = False) -> None:
        self.text = text
        self._tree, self._spans = parse_template(text, names, statements)
        check(self._tree, text)

    def references(self) -> tuple[Reference, ...]:
        """Everything that it names, in the order of its text."""
        return references(self._tree, self.text)

    def evaluate(self, scope: Mapping[str, Any], fuel: Fuel | None = None) -> Any:
        """Its value in a scope. Raises EvaluationError: MissingError if something that it names is
        not there, FuelError if it takes too much."""
        evaluation = Evaluation(scope, fuel or Fuel(), self.text)
        whole = self._whole()
        return evaluation.filled(self._tree) if whole is None else evaluation.value(whole)

    def needs_inside(self) -> frozenset[str]:
        """The nodes whose outputs it looks into; not one that it only passes on as a whole."""
        whole = self._whole()
        if isinstance(whole, nodes.Getattr) and isinstance(whole.node, nodes.Name):
            if whole.node.name == "nodes":
                return frozenset()
        elif isinstance(whole, nodes.Name):
            return frozenset()
        return frozenset(each.node for each in self.references())

    def _whole(self) -> nodes.Node | None:
        """The one expression, if there is nothing else in the text."""
        match self._tree.body:
            case [nodes.Output(nodes=[only])] if not isinstance(only, nodes.TemplateData):
                return only
        return None

    def fill(self, scope: Mapping[str, Any], fuel: Fuel | None = None) -> Any:
        """As `evaluate`, but `{{ … }}` that name what is not in the scope stay, for a later
        evaluation; what the scope has stands in the place of its name there. So do those with a
        value that is itself one `{{ … }}`. Statements are evaluated now. Raises EvaluationError."""
        evaluation = Evaluation(scope, fuel or Fuel(), self.text, self._spans)
        whole = self._whole()
        if whole is None:
            return evaluation.filled(self._tree)
        return evaluation.value(whole) if evaluation.knows(whole) else evaluation.source(whole)


@lru_cache(maxsize=1024)
def _kept(text: str, names: frozenset[str]) -> Template:
    return Template(text, names)


def _read(text: str, names: frozenset[str]) -> Template:
    names = names if "-" in text else frozenset()
    return _kept(text, names) if len(text) <= LONGEST_KEPT else Template(text, names)


def render(
    value: Any,
    scope: Mapping[str, Any],
    names: Collection[str] | None = None,
    fuel: Fuel | None = None,
) -> Any:
    """`value` with every text in it evaluated, in lists and maps too; keys of maps stay.

    Without `names`, those with hyphens are taken from the scope and its `nodes`. Raises
    TemplateError, and EvaluationError with the text's path (`$.to[0]: …`).
    """
    if names is None:
        own = scope.get("nodes")
        names = [*scope, *(own if isinstance(own, Mapping) else ())]
    declared, shared = hyphenated(names), fuel or Fuel()
    return _walk(value, "$", lambda text: _read(text, declared).evaluate(scope, shared))


def fill(
    value: Any, scope: Mapping[str, Any], names: Collection[str] = (), fuel: Fuel | None = None
) -> Any:
    """As `render`, by `Template.fill`."""
    declared, shared = hyphenated(names), fuel or Fuel()
    return _walk(value, "$", lambda text: _read(text, declared).fill(scope, shared))


def references_of(value: Any, names: Collection[str] = ()) -> tuple[Reference, ...]:
    """What all texts in a value name. Raises TemplateError."""
    declared = hyphenated(names)
    found: list[Reference] = []
    _walk(value, "$", lambda text: found.extend(_read(text, declared).references()))
    return tuple(found)


def needs_inside(value: Any, names: Collection[str] = ()) -> frozenset[str]:
    """The nodes whose outputs the texts in a value look into. Raises TemplateError."""
    declared = hyphenated(names)
    found: set[str] = set()
    _walk(value, "$", lambda text: found.update(_read(text, declared).needs_inside()))
    return frozenset(found)


def _walk(value: Any, path: str, each: Callable[[str], Any]) -> Any:
    if isinstance(value, str):
        if not is_template(value):
            return value
        try:
            return each(value)
        except MissingError as bad:
            raise MissingError(bad.name, f"{path}: {bad}") from None
        except EvaluationError as bad:
            raise type(bad)(f"{path}: {bad}") from None
        except TemplateError as bad:
            raise TemplateError(f"{path}: {bad.words}", bad.line, bad.column) from None
    if isinstance(value, list):
        return [_walk(item, f"{path}[{at}]", each) for at, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _walk(item, f"{path}.{key}", each) for key, item in value.items()}
    return value
