"""The evaluation of a tree of Jinja2's grammar over JSON, with fuel.

Nothing of Python can be reached: a name is looked up in the scope, a field in a map or list, a
function in our own table. Everything else in a tree is refused before it is evaluated.
"""

from __future__ import annotations

import itertools
import operator
import re
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from jinja2 import nodes

from agentfs.base.yaml_document import near
from agentfs.manifests.fuel import (
    LARGEST,
    EvaluationError,
    Fuel,
    FuelError,
    MissingError,
    brief,
    same,
    weigh,
)
from agentfs.manifests.functions import CLOCK, FUNCTIONS, PASSING
from agentfs.manifests.grammar import Span, place
from agentfs.manifests.json_values import compare, kind_of, to_json, to_text
from agentfs.manifests.tree import BINARY, NOTHING, arguments, callee, tolerates, walk

__all__ = ["MISSING", "Evaluation"]

Scope = Mapping[str, Any]

MISSING: Any = ...
"""A name or field that is not there."""

LONGEST_NAMED = 64
"""Characters of a name that an error shows."""

MOST_NEAR = 200
"""Names among which one that was meant is looked for: below 1 ms."""

_ONE = re.compile(r"\s*\{\{-?((?:(?!\{\{|\}\}).)*?)-?\}\}\s*", re.DOTALL)


def _now(scope: Scope) -> float:
    context = scope.get("ctx")
    now = context.get("now") if isinstance(context, Mapping) else None
    if not isinstance(now, int | float):
        raise EvaluationError("nobody says here what time it is")
    return float(now)


def _utc(fuel: Fuel, seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


class Evaluation:
    """One evaluation: its scope, and the fuel that is left."""

    def __init__(
        self, scope: Scope, fuel: Fuel, text: str, keep: Sequence[Span] | None = None
    ) -> None:
        """`keep`: where `{{ … }}` are in the text; those that name what is not in the scope stay as
        they are."""
        self._scope = scope
        self._fuel = fuel
        self._text = text
        self._keep = keep
        self._local: dict[str, Any] = {}
        self._at = 0
        self._made = False

    def knows(self, tree: nodes.Node) -> bool:
        """Whether all that a tree names is in the scope, and has its value by now."""
        values = [self._known(path[0]) for path, _at, _may in walk(tree, NOTHING, False)]
        if isinstance(tree, nodes.Name):
            return values != [MISSING]
        return all(value is not MISSING and _later(value) is None for value in values)

    def value(self, tree: nodes.Node) -> Any:
        """The value of an expression. Raises EvaluationError."""
        return self._guarded(lambda: self._whole(tree))

    def filled(self, tree: nodes.Template) -> str:
        """A template's text. Raises EvaluationError."""
        return cast(str, self._guarded(lambda: "".join(self._body(tree.body))))

    def _guarded(self, evaluate: Callable[[], Any]) -> Any:
        told: Exception
        try:
            return evaluate()
        except (EvaluationError, RecursionError, MemoryError) as bad:
            told = bad
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as bad:
            told = bad
        words = str(told)
        if isinstance(told, RecursionError | MemoryError):
            words = "too much within each other"
        line, column = place(self._text, self._at)
        words = f"line {line}, column {column}: {brief(words)}"
        if isinstance(told, MissingError):
            raise MissingError(told.name, words) from None
        raise (FuelError if isinstance(told, FuelError) else EvaluationError)(words) from None

    def _whole(self, tree: nodes.Node) -> Any:
        found = self._of(tree)
        if self._made:
            weigh(found, Fuel(size=LARGEST))
        return found

    # -- statements

    def _body(self, body: list[nodes.Node]) -> Iterator[str]:
        for node in body:
            self._fuel.spend(1)
            if isinstance(node, nodes.Output):
                for each in node.nodes:
                    if isinstance(each, nodes.TemplateData):
                        self._fuel.make(len(each.data))
                        yield each.data
                    elif self._keep is not None and not self.knows(each):
                        yield self.source(each)
                    else:
                        yield to_text(self._fuel, self._of(each))
            elif isinstance(node, nodes.Assign):
                self._local = self._local | self._bind(node.target, self._of(node.node))
            elif isinstance(node, nodes.If):
                yield from self._if(node)
            elif isinstance(node, nodes.For):
                yield from self._for(node)

    def source(self, node: nodes.Node) -> str:
        """The `{{ … }}` that a node is in, for a later evaluation: what is known by now stands in
        the place of its name."""
        assert self._keep is not None
        begin, end = self._keep[bisect(self._keep, (node.lineno, len(self._text))) - 1]
        pieces, at = [], begin
        named = {(where, path[0]) for path, where, _may in walk(node, frozenset(), False)}
        for where, name in sorted(named):
            value = self._known(name)
            if value is not MISSING:
                later = _later(value)
                known = to_json(self._fuel, value) if later is None else later
                pieces += [self._text[at:where], f"({known})"]
                at = where + len(name) + self._text.startswith("$", where)
        text = "".join([*pieces, self._text[at:end]])
        self._fuel.make(len(text))
        return text

    def _known(self, name: str) -> Any:
        return self._local.get(name, self._scope.get(name, MISSING))

    def _if(self, node: nodes.If) -> Iterator[str]:
        for each in (node, *node.elif_):
            if self._of(each.test):
                yield from self._body(each.body)
                return
        yield from self._body(node.else_)

    def _for(self, node: nodes.For) -> Iterator[str]:
        items = [*self._each(node)]
        outside = self._local
        for at, local in enumerate(items):
            self._local = local | {
                "loop": {
                    "index": at + 1,
                    "index0": at,
                    "first": not at,
                    "last": at + 1 == len(items),
                    "length": len(items),
                }
            }
            yield from self._body(node.body)
        self._local = outside
        if not items:
            yield from self._body(node.else_)

    def _each(self, node: nodes.For) -> Iterator[dict[str, Any]]:
        """The local names in each round of a loop or comprehension."""
        outside = self._local
        source = self._of(node.iter)
        if not isinstance(source, list | str | Mapping):
            raise EvaluationError(f"`for` needs a list, not {kind_of(source)}")
        if self._keep is not None and _later(source) is not None:
            raise EvaluationError("this list is known in the run only: a for-each node is for it")
        for item in source:
            self._fuel.spend(2)
            self._local = local = outside | self._bind(node.target, item)
            if node.test is None or self._of(node.test):
                yield local
        self._local = outside

    def _bind(self, target: nodes.Node, value: Any) -> dict[str, Any]:
        if isinstance(target, nodes.Name):
            return {target.name: value}
        assert isinstance(target, nodes.Tuple)
        if not isinstance(value, list) or len(value) != len(target.items):
            raise EvaluationError(f"a list of {len(target.items)} was expected for these names")
        bound: dict[str, Any] = {}
        for each, part in zip(target.items, value, strict=True):
            bound |= self._bind(each, part)
        return bound

    # -- expressions

    def _of(self, node: nodes.Node) -> Any:
        """The value of an expression; something missing is an error."""
        self._at = node.lineno or self._at
        if isinstance(node, nodes.Name | nodes.Getattr | nodes.Getitem):
            found = self._found(node)
            if found is MISSING:
                self._at = node.lineno or self._at
                raise self._missing(node)
            return _plain(found)
        self._fuel.spend(1)
        return _EVALUATE[type(node)](self, node)

    def _found(self, node: nodes.Node) -> Any:
        """As `_of`; MISSING if a name or a field on the way is."""
        if isinstance(node, nodes.Name):
            self._fuel.spend(1)
            if node.name in self._local:
                return self._local[node.name]
            return self._scope.get(node.name, MISSING)
        if isinstance(node, nodes.Getattr):
            self._fuel.spend(1)
            return _field(self._found(node.node), node.attr)
        if isinstance(node, nodes.Getitem):
            self._fuel.spend(1)
            base = self._found(node.node)
            if isinstance(node.arg, nodes.Slice):
                return self._slice(base, node.arg)
            return _field(base, self._of(node.arg))
        return self._of(node)

    def _slice(self, base: Any, bounds: nodes.Slice) -> Any:
        if base is MISSING or base is None:
            return MISSING
        if not isinstance(base, list | str):
            raise EvaluationError(f"{kind_of(base)} has no parts")
        ends = (bounds.start, bounds.stop, bounds.step)
        part = slice(*(None if each is None else self._of(each) for each in ends))
        self._fuel.values(len(range(*part.indices(len(base)))))
        return base[part]

    def _missing(self, node: nodes.Node) -> MissingError:
        path: list[nodes.Node] = [node]
        while isinstance(path[-1], nodes.Getattr | nodes.Getitem):
            path.append(path[-1].node)
        name = _short(_name(node))
        for each in reversed(path):  # the first that is not there, from the left
            if self._found(each) is MISSING:
                break
        if isinstance(each, nodes.Name):
            known = _near(each.name, [*self._scope, *self._local])
            return MissingError(name, f"there is no `{_short(each.name)}`{known}")
        assert isinstance(each, nodes.Getattr | nodes.Getitem)
        base, label = self._found(each.node), _name(each.node)
        key = each.attr if isinstance(each, nodes.Getattr) else _name(each)[len(label) :]
        label = _short(label)
        if isinstance(base, Mapping):
            return MissingError(name, f"{label} has no `{_short(key)}`{_near(key, base)}")
        if isinstance(base, list):
            return MissingError(name, f"{label} has {len(base)} items and no `{_short(key)}`")
        return MissingError(name, f"{label} is {kind_of(base)} and has no `{_short(key)}`")

    def _call(self, node: nodes.Call | nodes.Filter | nodes.Test) -> Any:
        name, function, _what = callee(node)
        if isinstance(node, nodes.Call) and name in CLOCK and isinstance(node.node, nodes.Name):
            now = _now(self._scope)
            return now if name == "timestamp" else _utc(self._fuel, now)
        tolerant = tolerates(node)
        values: list[Any] = []
        if isinstance(node, nodes.Call):
            if isinstance(node.node, nodes.Getattr):
                values.append(self._of(node.node.node))
            tolerated = len(node.args) if tolerant else 0
        else:
            assert node.node is not None
            values.append(self._found(node.node) if tolerant else self._of(node.node))
            tolerated = 0
        for at, each in enumerate(node.args):
            values.append(self._found(each) if at < tolerated else self._of(each))
        if not isinstance(node, nodes.Test):
            values = [None if value is MISSING else value for value in values]
        named = {key: self._of(each) for key, each in arguments(node).items()}
        self._made = self._made or name not in PASSING
        return function(self._fuel, *values, **named)

    def _list(self, node: nodes.List | nodes.Tuple) -> list[Any]:
        self._made = True
        self._fuel.values(len(node.items))
        return [self._of(each) for each in node.items]

    def _dict(self, node: nodes.Dict) -> dict[str, Any]:
        self._made = True
        self._fuel.values(len(node.items))
        return dict(self._pair(each) for each in node.items)

    def _pair(self, node: nodes.Pair) -> tuple[str, Any]:
        key = self._of(node.key)
        if not isinstance(key, str):
            raise EvaluationError(f"a key of a map is a text, not {kind_of(key)}")
        return key, self._of(node.value)

    def _comprehension(self, node: nodes.For) -> Any:
        self._made = True
        body = node.body[0]
        if isinstance(body, nodes.Pair):
            pairs = {}
            for _local in self._each(node):
                self._fuel.values(1)
                key, value = self._pair(body)
                pairs[key] = value
            return pairs
        found = []
        for _local in self._each(node):
            self._fuel.values(1)
            found.append(self._of(body))
        return found

    def _binary(self, node: nodes.BinExpr) -> Any:
        left, right = self._of(node.left), self._of(node.right)
        if isinstance(left, int | float) and isinstance(right, int | float):
            return self._numbers(type(node), left, right)
        if isinstance(node, nodes.Add) and type(left) is type(right) and type(left) in (str, list):
            self._made = True
            (self._fuel.make if isinstance(left, str) else self._fuel.values)(
                len(left) + len(right)
            )
            return left + right
        if isinstance(node, nodes.Mul):
            if isinstance(left, int):
                left, right = right, left
            if isinstance(left, str | list) and type(right) is int:
                self._made = True
                size = len(left) * max(0, right)
                (self._fuel.make if isinstance(left, str) else self._fuel.values)(size)
                return left * right
        hint = "; `~` joins texts" if isinstance(node, nodes.Add) else ""
        raise EvaluationError(
            f"`{node.operator}` is not for {kind_of(left)} and {kind_of(right)}{hint}"
        )

    def _numbers(self, kind: type, left: float, right: float) -> Any:
        if kind is nodes.Pow:
            return FUNCTIONS["pow"](self._fuel, left, right)
        if right == 0 and kind in (nodes.Div, nodes.FloorDiv, nodes.Mod):
            raise EvaluationError("division by zero")
        found = _ARITHMETIC[kind](left, right)
        if isinstance(found, int):
            return self._fuel.integer(found)
        if found != found or found in (float("inf"), float("-inf")):
            raise EvaluationError("the number is too large")
        return found

    def _negative(self, node: nodes.Neg | nodes.Pos) -> Any:
        value = self._of(node.node)
        if not isinstance(value, int | float):
            raise EvaluationError(f"`{node.operator}` is not for {kind_of(value)}")
        return -value if isinstance(node, nodes.Neg) else value

    def _compare(self, node: nodes.Compare) -> bool:
        left = self._of(node.expr)
        for each in node.ops:
            right = self._of(each.expr)
            if not self._holds(each.op, left, right):
                return False
            left = right
        return True

    def _holds(self, op: str, left: Any, right: Any) -> bool:
        if op in ("eq", "ne"):
            return same(left, right, self._fuel) is (op == "eq")
        if op in ("in", "notin"):
            found: bool = FUNCTIONS["contains"](self._fuel, right, left)
            return found is (op == "in")
        order = compare(self._fuel, left, right)
        return order is not None and bool(_ORDER[op](order, 0))

    def _concat(self, node: nodes.Concat) -> str:
        return "".join(to_text(self._fuel, self._of(each)) for each in node.nodes)

    def _conditional(self, node: nodes.CondExpr) -> Any:
        if self._of(node.test):
            return self._of(node.expr1)
        return None if node.expr2 is None else self._of(node.expr2)


def _later(value: Any) -> str | None:
    """The inside of a text that is one `{{ … }}`: a parameter whose value is known in the run only.
    None for anything else."""
    found = _ONE.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else found[1].strip()


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) and not isinstance(value, dict) else value


def _field(base: Any, key: Any) -> Any:
    if isinstance(base, Mapping):
        if type(key) is int:
            key = str(key)
        return base.get(key, MISSING) if isinstance(key, str) else MISSING
    if isinstance(base, list | str) and type(key) is int and -len(base) <= key < len(base):
        return base[key]
    return MISSING


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAMED else f"{name[:LONGEST_NAMED]}…"


def _near(name: str, known: Iterable[str]) -> str:
    """A name that may have been meant, as a question."""
    few = itertools.islice((each for each in known if len(each) <= LONGEST_NAMED), MOST_NEAR)
    return near(name, few) if len(name) <= LONGEST_NAMED else ""


def _name(node: nodes.Node) -> str:
    """A reference as people write it."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr):
        return f"{_name(node.node)}.{node.attr}"
    if isinstance(node, nodes.Getitem):
        if isinstance(node.arg, nodes.Const):
            return f"{_name(node.node)}[{node.arg.value!r}]"
        return f"{_name(node.node)}[…]"
    return "(…)"


_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    nodes.Add: operator.add,
    nodes.Sub: operator.sub,
    nodes.Mul: operator.mul,
    nodes.Div: operator.truediv,
    nodes.FloorDiv: operator.floordiv,
    nodes.Mod: operator.mod,
}

_ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
}

_EVALUATE: dict[type, Callable[[Evaluation, Any], Any]] = {
    nodes.Const: lambda self, node: node.value,
    nodes.Tuple: Evaluation._list,
    nodes.List: Evaluation._list,
    nodes.Dict: Evaluation._dict,
    nodes.For: Evaluation._comprehension,
    nodes.CondExpr: Evaluation._conditional,
    nodes.Or: lambda self, node: self._of(node.left) or self._of(node.right),
    nodes.And: lambda self, node: self._of(node.left) and self._of(node.right),
    nodes.Not: lambda self, node: not self._of(node.node),
    nodes.Compare: Evaluation._compare,
    nodes.Concat: Evaluation._concat,
    nodes.Neg: Evaluation._negative,
    nodes.Pos: Evaluation._negative,
    nodes.Filter: Evaluation._call,
    nodes.Test: Evaluation._call,
    nodes.Call: Evaluation._call,
    **dict.fromkeys(BINARY, Evaluation._binary),
}
