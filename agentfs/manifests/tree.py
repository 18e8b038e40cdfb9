"""A tree of Jinja2's grammar: whether all of it can be evaluated, and what it names."""

from __future__ import annotations

import inspect
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import nodes

from agentfs.base.yaml_document import near
from agentfs.manifests.fuel import TemplateError
from agentfs.manifests.functions import CLOCK, FUNCTIONS, METHODS, TESTS, TOLERANT
from agentfs.manifests.grammar import place

__all__ = [
    "BINARY",
    "NOTHING",
    "Reference",
    "arguments",
    "callee",
    "check",
    "references",
    "tolerates",
    "walk",
]

Named = tuple[tuple[str, ...], int, bool]
"""A path, its offset in the text, and whether it may be missing."""

_RUN = re.compile(r"[A-Za-z_]\w*(?:-\w+){1,20}", re.ASCII)
_IN_RUN = frozenset("-_" + string.ascii_letters + string.digits)

_CALLED = FUNCTIONS | CLOCK
_METHODS = {name: FUNCTIONS[name] for name in METHODS}

_OWN = frozenset({"loop"})
"""Names that a `{% for %}` gives, within it."""

NOTHING: frozenset[str] = frozenset()

BINARY = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow)
_PLAIN = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Tuple,
    nodes.List, nodes.Dict, nodes.Pair, nodes.CondExpr, nodes.Or, nodes.And, nodes.Not,
    nodes.Compare, nodes.Operand, nodes.Neg, nodes.Pos, nodes.Concat, nodes.Getattr,
    nodes.Getitem, nodes.Slice, nodes.Keyword, nodes.If, nodes.Assign, nodes.For, *BINARY,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reference:
    """What a template names: `nodes.b.items[0]` is ("nodes", "b", "items", "0").

    `optional`: something in the template says what is taken if it is missing. `line` and `column`
    count from 1 in the template's text. `run`: the word with hyphens that its name is a part of, as
    in `count-leters`, which is a subtraction because no such name is declared.
    """

    path: tuple[str, ...]
    line: int
    column: int
    optional: bool = False
    run: str = ""

    def __str__(self) -> str:
        return ".".join(self.path)

    @property
    def node(self) -> str:
        """The node that it names, if it names one."""
        return self.path[1] if self.path[0] == "nodes" and len(self.path) > 1 else self.path[0]


def check(tree: nodes.Node, text: str) -> None:
    """Whether the tree has nothing but what can be evaluated. Raises TemplateError."""
    stack: list[nodes.Node] = [tree]
    while stack:
        node = stack.pop()
        try:
            _check_one(node)
        except TemplateError as bad:
            raise TemplateError(bad.words, *place(text, node.lineno or 0)) from None
        stack.extend(node.iter_child_nodes())


def _check_one(node: nodes.Node) -> None:
    if isinstance(node, nodes.Call | nodes.Filter | nodes.Test):
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise TemplateError("`*` and `**` before arguments are not known here")
        name, function, what = callee(node)
        values = len(node.args) + (not isinstance(node, nodes.Call) or _is_method(node))
        try:
            _signature(function).bind(None, *range(values), **dict.fromkeys(arguments(node)))
        except TypeError as bad:
            raise TemplateError(f"{what} `{name}`: {bad}") from None
    elif type(node) not in _PLAIN:
        raise TemplateError(f"`{type(node).__name__.lower()}` is not known here")


def arguments(node: nodes.Call | nodes.Filter | nodes.Test) -> dict[str, nodes.Expr]:
    return {str(each.key): each.value for each in node.kwargs}


def _is_method(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr)


def callee(node: nodes.Call | nodes.Filter | nodes.Test) -> tuple[str, Callable[..., Any], str]:
    if isinstance(node, nodes.Test):
        name = node.name if node.name in TESTS else node.name.lower()
        known, what = TESTS, "test"
        name = "none" if name == "null" else name
    elif isinstance(node, nodes.Filter):
        name, known, what = node.name, FUNCTIONS, "filter"
    elif isinstance(node.node, nodes.Name):
        name, known, what = node.node.name, _CALLED, "function"
    elif isinstance(node.node, nodes.Getattr):
        name, known, what = node.node.attr, _METHODS, "method"
    else:
        raise TemplateError("only a function or a method can be called")
    if name not in known:
        if name == "Decimal":
            raise TemplateError("JSON has no decimal numbers: use round(x, 2)")
        raise TemplateError(f"there is no {what} `{name[:40]}`{near(name[:40], known)}")
    return name, known[name], what


@cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def references(tree: nodes.Node, text: str) -> tuple[Reference, ...]:
    """Everything that a tree names and does not make itself, in the order of the text."""
    found = sorted(set(walk(tree, NOTHING, False)), key=lambda each: each[1])
    return tuple(
        Reference(path, *place(text, at), may, _run(text, at, path[0])) for path, at, may in found
    )


def _run(text: str, at: int, name: str) -> str:
    """The word with hyphens around a name; "" if it is not part of one."""
    begin = at
    while begin > max(0, at - 100) and text[begin - 1] in _IN_RUN:
        begin -= 1
    found = _RUN.match(text, begin)
    return found[0] if found and found.end() >= at + len(name) and found[0] != name else ""


def walk(node: nodes.Node, bound: frozenset[str], optional: bool) -> Iterator[Named]:
    """As `references`, in no order. `bound`: names that are made around the tree."""
    if isinstance(node, nodes.Name | nodes.Getattr | nodes.Getitem):
        yield from _chain(node, bound, optional)
    elif isinstance(node, nodes.For):
        yield from walk(node.iter, bound, optional)
        inner = bound | _bound(node.target) | _OWN
        for each in (*node.body, *([node.test] if node.test else ())):
            yield from walk(each, inner, optional)
        for each in node.else_:
            yield from walk(each, bound, optional)
    elif isinstance(node, nodes.Call | nodes.Filter | nodes.Test):
        tolerant = tolerates(node)
        if isinstance(node, nodes.Call):
            if isinstance(node.node, nodes.Getattr):
                yield from walk(node.node.node, bound, optional)
        elif node.node is not None:
            yield from walk(node.node, bound, optional or tolerant)
        for each in (*node.args, *node.kwargs):
            yield from walk(each, bound, optional or (tolerant and type(node) is nodes.Call))
    elif isinstance(node, nodes.Template | nodes.If):
        yield from _block(node.body, bound, optional)
        if isinstance(node, nodes.If):
            yield from walk(node.test, bound, optional)
            yield from _block([*node.elif_], bound, optional)
            yield from _block(node.else_, bound, optional)
    else:
        for each in node.iter_child_nodes():
            yield from walk(each, bound, optional)


def _block(body: list[nodes.Node], bound: frozenset[str], optional: bool) -> Iterator[Named]:
    for each in body:
        if isinstance(each, nodes.Assign):
            yield from walk(each.node, bound, optional)
            bound |= _bound(each.target)
        else:
            yield from walk(each, bound, optional)


def _chain(node: nodes.Node, bound: frozenset[str], optional: bool) -> Iterator[Named]:
    path: list[str] = []
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        if isinstance(node, nodes.Getattr):
            path.append(node.attr)
        elif isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str | int):
            path.append(str(node.arg.value))
        else:
            yield from walk(node.arg, bound, optional)
            path.clear()  # what is below is known when it is evaluated
        node = node.node
    if not isinstance(node, nodes.Name):
        yield from walk(node, bound, optional)
    elif node.name not in bound:
        yield (node.name, *reversed(path)), node.lineno, optional


def _bound(target: nodes.Node) -> frozenset[str]:
    return frozenset(name.name for name in target.find_all(nodes.Name)) | (
        frozenset({target.name}) if isinstance(target, nodes.Name) else frozenset()
    )


def tolerates(node: nodes.Call | nodes.Filter | nodes.Test) -> bool:
    if isinstance(node, nodes.Test):
        return node.name in ("defined", "undefined")
    if isinstance(node, nodes.Filter):
        return node.name in TOLERANT
    return isinstance(node.node, nodes.Name) and node.node.name in TOLERANT
