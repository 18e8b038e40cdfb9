"""How YAML (and JSON, which is YAML) is read, everywhere, and written: by libyaml, within bounds of
time.

The values of a document are counted, with all that its aliases and merge keys repeat: a few hundred
bytes cannot stand for a billion values. 5,000 of them take 10 ms.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import yaml
from yaml._yaml import CParser
from yaml.composer import Composer
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.events import AliasEvent
from yaml.reader import ReaderError
from yaml.resolver import Resolver

from agentfs.base.errors import KernelError

__all__ = [
    "MOST_VALUES",
    "YamlError",
    "compose",
    "compose_all",
    "construct",
    "duplicates",
    "line_of",
    "place_of",
    "plain",
    "read_yaml",
    "write_yaml",
]

MOST_VALUES = 5000
"""Values (maps, lists, keys, texts) that a document has at most, repetitions included. A thousand
variables of an environment are 2000."""

MAX_NESTING = 50
"""How deep maps and lists may be nested: each level takes some of the interpreter's stack."""

MAX_DIGITS = 100
"""Characters of a number or a date; a longer one is taken for a text. Python's time for a number
grows with the square of its length."""

MAX_INTEGER = 2**63
"""The bound of a number for SQLite and Linux."""

MAX_DIRECTIVES = 10
"""Lines `%TAG` and `%YAML`: libyaml compares each with all."""

_CORE = "tag:yaml.org,2002:"
_KINDS = {"bool": "true or false", "int": "whole number", "float": "number", "timestamp": "date"}


class YamlError(Exception):
    """A text that is not YAML, or has a value that cannot be read. `line` and `column` count from
    1."""

    def __init__(self, line: int, what: str, column: int = 1) -> None:
        super().__init__(f"line {line}: {what}")
        self.line = line
        self.what = what
        self.column = column


def line_of(node: yaml.Node) -> int:
    """The line that `node` begins in, from 1."""
    return int(node.start_mark.line) + 1


def place_of(node: yaml.Node) -> tuple[int, int]:
    """The line and the column that `node` begins in, both from 1."""
    return line_of(node), int(node.start_mark.column) + 1


class _Resolver(Resolver):
    """Knows no number of more than `MAX_DIGITS` digits."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode and len(value) > MAX_DIGITS and implicit[0]:
            if value.lstrip("+-").replace("_", "").isdigit():
                raise ValueError(f"a number of {len(value)} digits")
            return f"{_CORE}str"
        tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        return tag


class _Composer(Composer, CParser, _Resolver):
    """Gives the nodes of one document; stops where it would take too long."""

    def __init__(self, text: str, most: int) -> None:
        CParser.__init__(self, text)
        Composer.__init__(self)
        _Resolver.__init__(self)
        self._most = most
        self._count = 0
        self._depth = 0
        self._sizes: dict[int, int] = {}  # of the nodes that have an anchor, by their identity

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        line = event.start_mark.line + 1
        before = self._count
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise YamlError(line, "nested too deeply")
        try:
            node: yaml.Node | None = super().compose_node(parent, index)
        except ValueError as bad:
            raise YamlError(line, str(bad)) from None
        self._depth -= 1
        if not isinstance(event, AliasEvent):
            self._count += 1
            if event.anchor is not None:
                self._sizes[id(node)] = self._count - before
        elif id(node) in self._sizes:
            self._count += self._sizes[id(node)]
        else:
            raise YamlError(line, f"`*{event.anchor}` is part of itself")
        if self._count > self._most:
            raise YamlError(
                line, f"too long: at most {self._most} values, what aliases repeat is counted"
            )
        return node


def _core() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """What YAML 1.2's core schema takes for something else than a text, by its first letter. `0123`
    and `.nan` are texts, and so are `no`, `on`, dates and times: JSON has none of these."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for kind, pattern, first in (
        ("null", r"(?:null|Null|NULL|~|)\Z", ["~", "n", "N", ""]),
        ("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", list("tTfF")),
        ("int", r"(?:[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+)\Z", list("-+0123456789")),
        (
            "float",
            r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z",
            list("-+.0123456789"),
        ),
        ("merge", r"<<\Z", ["<"]),
    ):
        for letter in first:
            table.setdefault(letter, []).append((f"{_CORE}{kind}", re.compile(pattern)))
    return table


CORE = _core()


class _CoreComposer(_Composer):
    """The same for documents of the core schema."""

    yaml_implicit_resolvers = CORE


def compose_all(text: str, most: int = MOST_VALUES) -> list[yaml.Node]:
    """The nodes of all documents of a text, by the core schema; empty ones are left out. They have
    at most `most` values together. Raises YamlError."""
    with _in_words(text):
        composer = _CoreComposer(text, most)
        found = []
        while composer.check_node():
            node = composer.get_node()
            if node is not None and not (node.tag == f"{_CORE}null" and node.value == ""):
                found.append(node)
        return found


def plain(node: yaml.Node) -> Any:
    """What a node of `compose_all` says, as JSON: maps with texts as keys, lists, texts, numbers,
    true, false, null. Raises YamlError."""
    if isinstance(node, yaml.SequenceNode):
        return [plain(each) for each in node.value]
    if isinstance(node, yaml.MappingNode):
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == f"{_CORE}merge":
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(source, yaml.MappingNode):
                        raise YamlError(line_of(value), "`<<`: a map was expected")
                    merged = plain(source) | merged
            elif isinstance(key, yaml.ScalarNode):
                own[key.value] = plain(value)
            else:
                raise YamlError(line_of(key), "a text was expected as key")
        return merged | own
    kind = node.tag.removeprefix(_CORE)
    text = str(node.value)
    make = _SCALARS.get(kind)
    if make is None:
        tag = node.tag.replace(_CORE, "!!")
        line, column = place_of(node)
        raise YamlError(line, f"a value of the kind {tag:.60} is not taken", column)
    try:
        return make(text)
    except ValueError:
        line, column = place_of(node)
        what = f"{text[:40]!r} is no {_KINDS.get(kind, kind)}"
        raise YamlError(line, what, column) from None


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(text: str) -> float | str:
    number = float(text)
    if number - number != 0:
        raise ValueError  # not finite: JSON has no such number
    return number


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "merge": str,
    "null": lambda text: None,
    "bool": _truth,
    "int": _integer,
    "float": _float,
}


class _Constructor(SafeConstructor):
    """Makes values of nodes: texts, numbers, dates, lists and maps, and nothing else."""

    yaml_constructors = {
        tag: make
        for tag, make in SafeConstructor.yaml_constructors.items()
        if tag is None or tag.removeprefix(_CORE) in {"null", "str", "seq", "map", *_KINDS}
    } | {f"{_CORE}value": SafeConstructor.construct_yaml_str}

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
        except ConstructorError as bad:
            if isinstance(bad.problem, str) and bad.problem.startswith("could not determine"):
                tag = node.tag.replace(_CORE, "!!")
                raise YamlError(
                    line_of(node), f"a value of the kind {tag:.60} is not taken"
                ) from bad
            raise
        except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError) as bad:
            kind = node.tag.removeprefix(_CORE)
            raise YamlError(
                line_of(node), f"{str(node.value)[:40]!r} is no {_KINDS.get(kind, kind)}"
            ) from bad
        if type(value) is int and abs(value) >= MAX_INTEGER:
            raise YamlError(line_of(node), "a number below 2^63 was expected")
        return value


def compose(text: str, most: int = MOST_VALUES) -> yaml.Node | None:
    """The nodes of a document of at most `most` values; None if it is empty. Raises YamlError."""
    with _in_words(text):
        return _Composer(text, most).get_single_node()


@contextmanager
def _in_words(text: str) -> Iterator[None]:
    """What libyaml finds wrong in `text` is a YamlError with a line."""
    if text.startswith("%") + text.count("\n%") > MAX_DIRECTIVES:
        raise YamlError(1, f"at most {MAX_DIRECTIVES} lines with directives (%)")
    try:
        yield
    except ReaderError as bad:
        raise YamlError(
            text.encode(errors="replace").count(b"\n", 0, bad.position) + 1, bad.reason
        ) from None
    except UnicodeEncodeError as bad:
        raise YamlError(text.count("\n", 0, bad.start) + 1, bad.reason) from None
    except yaml.MarkedYAMLError as bad:
        raise _marked(bad) from None


def construct(node: yaml.Node) -> Any:
    """What `node` says, as plain Python values. Raises YamlError."""
    try:
        return _Constructor().construct_document(node)
    except yaml.MarkedYAMLError as bad:
        raise _marked(bad) from None


def duplicates(node: yaml.Node) -> Iterator[tuple[int, str, int]]:
    """Keys that a map has twice: the line, the key, the line of the first. Merge keys (`<<`) may be
    there twice. Ask before `construct`, which puts the merged keys into the map."""
    waiting, seen = [node], {id(node)}
    while waiting:
        here = waiting.pop()
        first: dict[tuple[str, str], int] = {}
        parts: list[yaml.Node] = []
        if isinstance(here, yaml.MappingNode):
            for key, value in here.value:
                parts += (key, value)
                if isinstance(key, yaml.ScalarNode) and key.tag != f"{_CORE}merge":
                    name = (key.tag, key.value)
                    if name in first:
                        yield line_of(key), key.value, first[name]
                    first.setdefault(name, line_of(key))
        elif isinstance(here, yaml.SequenceNode):
            parts = here.value
        waiting += [part for part in parts if id(part) not in seen]
        seen.update(map(id, parts))


def read_yaml(text: str, most: int = MOST_VALUES) -> Any:
    """The value that a document of at most `most` values is. Raises KernelError EINVAL."""
    try:
        node = compose(text, most)
        return None if node is None else construct(node)
    except YamlError as bad:
        raise KernelError(errno.EINVAL, f"line {bad.line}: not YAML: {bad.what}") from None


def write_yaml(value: Any) -> str:
    """A value as a document, its keys in their order: by libyaml in 25 µs, where PyYAML's own
    writer takes 250. They write the same but for texts that libyaml escapes (😀, a BOM) or breaks
    elsewhere once something is escaped, or does not take (half of a pair of surrogates): those are
    left to the other."""
    with suppress(UnicodeEncodeError):
        text = _written(value, yaml.CSafeDumper)
        if "\\" not in text:
            return text
    return _written(value, yaml.SafeDumper)


def _written(value: Any, by: type[yaml.CSafeDumper | yaml.SafeDumper]) -> str:
    return str(yaml.dump(value, Dumper=by, sort_keys=False, allow_unicode=True))


def _marked(bad: yaml.MarkedYAMLError) -> YamlError:
    mark = bad.problem_mark or bad.context_mark
    what = str(bad.problem or bad.context)
    return YamlError(mark.line + 1, what, mark.column + 1) if mark else YamlError(1, what)
