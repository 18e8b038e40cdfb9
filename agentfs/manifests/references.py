"""What the templates and expressions of a node name, and whether it is there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from agentfs.base.yaml_document import near
from agentfs.manifests.expression import Expression, mapping_source
from agentfs.manifests.fuel import TemplateError
from agentfs.manifests.grammar import hyphenated
from agentfs.manifests.kinds import CTX_FIELDS, Filling
from agentfs.manifests.source import Located, ManifestText
from agentfs.manifests.template import Template, is_template
from agentfs.manifests.tree import Reference

__all__ = ["Fields", "NameScope", "NamedNodes", "as_templates", "find"]


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a run's input: those that are declared, and whether there may be others."""

    names: frozenset[str] = frozenset()
    declared: bool = False
    others: bool = True


@dataclass(frozen=True, slots=True)
class NameScope:
    """What a node's texts may name. `levels`: the nodes of each graph around it, the innermost
    last. `variables`: of loops, and fields of its own input."""

    levels: tuple[frozenset[str], ...]
    fields: Fields
    variables: frozenset[str] = frozenset()
    state: bool = False

    def with_variables(self, names: Iterable[str]) -> NameScope:
        """The same with more variables."""
        return NameScope(self.levels, self.fields, self.variables | frozenset(names), self.state)

    def within(self, names: Iterable[str], *, state: bool = False) -> NameScope:
        """For the nodes of a body; their names are still to come."""
        variables = self.variables | frozenset(names)
        return NameScope(self.levels, self.fields, variables, self.state or state)

    def level_of(self, name: str) -> int | None:
        """The innermost graph that has a node of this name."""
        found = (at for at in reversed(range(len(self.levels))) if name in self.levels[at])
        return next(found, None)

    def nodes(self) -> frozenset[str]:
        return frozenset().union(*self.levels)


@dataclass(slots=True)
class NamedNodes:
    """The nodes that were named, each with the level of its graph."""

    nodes: set[tuple[int, str]] = field(default_factory=set)


_PATH = re.compile(r"\$?[A-Za-z_][\w-]*(?:\.[\w-]+|\[\d+\])*")


def as_templates(value: Any, scope: NameScope) -> Any:
    """`value` with each text that is the path of something (`node`, `node.field`, `input.x`) as a
    template for it, as in an `output`. A path with dots becomes one even if it begins with an
    unknown name, and is a fault then; other texts stay as they are."""
    if isinstance(value, dict):
        return {key: as_templates(each, scope) for key, each in value.items()}
    if isinstance(value, list):
        return [as_templates(each, scope) for each in value]
    if not isinstance(value, str) or not _PATH.fullmatch(value):
        return value
    first = re.split(r"[.\[]", value, maxsplit=1)[0]
    known = {"nodes", "input", "$input", "ctx"} | scope.variables | scope.nodes()
    if first in known or "." in value:
        return f"{{{{ {value.removeprefix('$')} }}}}"
    return value


@lru_cache(maxsize=64)
def _hyphens(scope: NameScope) -> frozenset[str]:
    """Its names with hyphens: all others are read as names anyway."""
    return hyphenated(frozenset({*scope.nodes(), *scope.variables, *scope.fields.names}))


def find(
    source: ManifestText,
    value: Located,
    form: Filling,
    what: str,
    scope: NameScope,
    found: NamedNodes,
    *,
    own: str = "",
) -> None:
    """Look at everything that `value` names. Names that are not there are faults; `own` is the node
    that the value is of."""
    names = _hyphens(scope)
    for each, reference in _references(source, value, form, what, names):
        _Look(source, each, what, scope, own).at(reference, found, form)


def _references(
    source: ManifestText, value: Located, form: Filling, what: str, names: frozenset[str]
) -> Iterator[tuple[Located, Reference]]:
    if form is Filling.LITERAL:
        return
    if form is Filling.EXPRESSION and isinstance(value.value, list):
        form = Filling.TEMPLATE
    if isinstance(value.value, dict):
        for each in value.parts().values():
            yield from _references(source, each, form, what, names)
    elif isinstance(value.value, list):
        for each in value.items():
            yield from _references(source, each, form, what, names)
    elif isinstance(value.value, str):
        try:
            if form is Filling.EXPRESSION:
                references = Expression(value.value, names).references()
            elif form is Filling.MAPPING:
                references = mapping_source(value.value, names).references()
            elif is_template(value.value):
                references = Template(value.value, names).references()
            else:
                references = ()
        except TemplateError as bad:
            where = f", line {bad.line} of it" if bad.line > 1 else ""
            source.fault(value, f"{what}{where}, column {bad.column}: {bad.words}", "E110")
            return
        for reference in references:
            yield value, reference


@dataclass(frozen=True, slots=True)
class _Look:
    """One reference of one text."""

    source: ManifestText
    value: Located
    what: str
    scope: NameScope
    own: str

    def at(self, reference: Reference, found: NamedNodes, form: Filling) -> None:
        path = reference.path
        first = path[0]
        if first == "nodes":
            self._node(path[1] if len(path) > 1 else "", found)
        elif first in ("input", "$input"):
            self._field(path[1:])
        elif first == "ctx":
            self._ctx(path[1:])
        elif first == "state":
            if not self.scope.state:
                self._fault("`state` is there in a `while` only", "E111")
        elif first in self.scope.variables:
            return
        elif self.scope.level_of(first) is not None:
            self._node(first, found)
        else:
            self._other(reference, form)

    def _fault(self, words: str, code: str) -> None:
        self.source.fault(self.value, f"{self.what}: {words}", code)

    def _node(self, name: str, found: NamedNodes) -> None:
        level = self.scope.level_of(name)
        if not name:
            self._fault("`nodes.NAME` was expected", "E110")
        elif level is None:
            self._fault(f"there is no node `{name}`{near(name, self.scope.nodes())}", "E104")
        elif name == self.own and level == len(self.scope.levels) - 1:
            self._fault(f"`{name}` refers to itself", "E105")
        else:
            found.nodes.add((level, name))

    def _field(self, rest: tuple[str, ...]) -> None:
        fields = self.scope.fields
        if rest and fields.declared and not fields.others and rest[0] not in fields.names:
            hint = near(rest[0], fields.names)
            self._fault(f"input_schema has no field `{rest[0]}`{hint}", "E113")

    def _ctx(self, rest: tuple[str, ...]) -> None:
        if rest and rest[0] not in CTX_FIELDS:
            hint = near(rest[0], CTX_FIELDS) or f": it has {', '.join(CTX_FIELDS)}"
            self._fault(f"`ctx` has no field `{rest[0]}`{hint}", "E112")

    def _other(self, reference: Reference, form: Filling) -> None:
        """Neither a node nor a variable: a field of the run's input, or a slip."""
        name = reference.path[0]
        meant = near(reference.run, self.scope.nodes()) if reference.run else ""
        if meant:
            self._fault(f"there is no node `{reference.run}`{meant}", "E104")
            return
        fields = self.scope.fields
        if name in fields.names or (fields.declared and fields.others):
            return
        known = {*self.scope.nodes(), *self.scope.variables, *fields.names}
        hint = near(name, {*known, "nodes", "input", "ctx"})
        if not fields.declared and (
            reference.optional
            or (len(reference.path) == 1 and (not hint or form is Filling.MAPPING))
        ):
            return
        no_field = "no node, and no field of input_schema"
        if not fields.declared:
            no_field = "no node; a field of the run's input is `input." + str(reference) + "`"
        self._fault(f"`{name}` is {no_field}{hint}", "E111")
