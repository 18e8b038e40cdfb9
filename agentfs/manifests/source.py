"""The text of a manifest as values that know where they stand, and readers that collect faults.

A value that a macro has made stands where the macro is invoked; its own line is said in words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

from agentfs.base.yaml_document import DocumentError, Severity, YamlDocument, near
from agentfs.base.yaml_text import YamlError, compose_all, line_of, place_of, plain
from agentfs.model.spec import NAME, UNITS

__all__ = ["LONGEST", "MOST_VALUES", "Located", "ManifestText", "duration"]

LONGEST = 1 << 20
"""Bytes of a manifest: a thousand nodes of a kilobyte each."""

MOST_VALUES = 100_000
"""Values of one manifest, with what aliases repeat: a tenth of a second to read, in a thread."""

MOST_FAULTS = 200
"""Faults that are told of one manifest."""

LONGEST_DURATION = 86_400.0 * 3_660
"""Seconds: ten years."""

_MERGE = "tag:yaml.org,2002:merge"
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)")
_VARIABLE = re.compile(r"\$\{([A-Z_][A-Z0-9_]*)(?::([^}]*))?\}")


def duration(given: object) -> float:
    """`90s`, `10m`, `1d12h`, or plain seconds, in seconds. Raises ValueError."""
    text = "" if isinstance(given, bool) else str(given).strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        seconds = float(text)
    elif text and _PART.sub("", text) == "":
        seconds = sum(float(number) * UNITS[unit] for number, unit in _PART.findall(text))
    else:
        raise ValueError("a duration like 90s, 10m, 2h or 1d12h was expected")
    if seconds > LONGEST_DURATION:
        raise ValueError("at most ten years were expected")
    return seconds


@dataclass(frozen=True, slots=True)
class Located:
    """A value and its place. `at` is where it is told to stand, if that is elsewhere: then `via`
    says what it really is a part of."""

    value: Any
    node: yaml.Node
    at: tuple[int, int] | None = None
    via: str = ""

    @property
    def place(self) -> tuple[int, int]:
        """The line and the column, from 1."""
        return self.at or place_of(self.node)

    @property
    def suffix(self) -> str:
        return f" ({self.via}, line {line_of(self.node)})" if self.via else ""

    def made(self, value: Any) -> Located:
        """Another value in the same place."""
        return replace(self, value=value)

    def child(self, key: str | int) -> Located:
        """A part of a map or list."""
        return replace(self, value=self.value[key], node=_below(self.node, key) or self.node)

    def key(self, key: str) -> Located:
        """The key itself, for what is to be said of it."""
        found = _key_of(self.node, key)
        return replace(self, value=key, node=found or self.node)

    def parts(self) -> dict[str, Located]:
        """The parts of a map, in the order of its keys."""
        nodes: dict[str, yaml.Node] = {}
        for key, node in _pairs(self.node):
            nodes.setdefault(key.value, node)
        return {
            key: replace(self, value=value, node=nodes.get(key, self.node))
            for key, value in self.value.items()
        }

    def items(self) -> Iterator[Located]:
        """The parts of a list."""
        return (self.child(number) for number in range(len(self.value)))


def _pairs(node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """The pairs of a map; what is merged into it comes last."""
    if not isinstance(node, yaml.MappingNode):
        return
    merged: list[yaml.Node] = []
    for key, value in node.value:
        if key.tag == _MERGE:
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
        else:
            yield key, value
    for each in merged:
        yield from _pairs(each)


def _below(node: yaml.Node, key: str | int) -> yaml.Node | None:
    if isinstance(key, int):
        if isinstance(node, yaml.SequenceNode) and key < len(node.value):
            found: yaml.Node = node.value[key]
            return found
        return None
    return next((value for name, value in _pairs(node) if name.value == key), None)


def _key_of(node: yaml.Node, key: str) -> yaml.Node | None:
    return next((name for name, _ in _pairs(node) if name.value == key), None)


class ManifestText:
    """One text, and everything that is found in it. Readers give None for what they refuse."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.document = YamlDocument(text, file, MOST_VALUES, manifest=True)
        self._text = text
        self._faults = 0

    def roots(self) -> list[Located]:
        """All documents of the text. Raises DocumentError for what is not YAML, or too large."""
        if len(self._text) > LONGEST or len(self._text.encode(errors="replace")) > LONGEST:
            self.document.fault(1, f"a document has at most {LONGEST} bytes", "E008")
            raise self.document.refusal()
        with self.document as document:
            found = [Located(plain(node), node) for node in document.roots()]
        for root in found:
            self._tell_twice(root.node)
        return found

    def _tell_twice(self, node: yaml.Node) -> None:
        """Keys that are there twice, at any depth."""
        waiting, seen = [node], {id(node)}
        while waiting:
            here = waiting.pop()
            first: dict[str, int] = {}
            parts: list[yaml.Node] = []
            if isinstance(here, yaml.MappingNode):
                for key, value in here.value:
                    parts.append(value)
                    if key.tag == _MERGE:
                        continue
                    if key.value in first:
                        what = f"`{key.value}` is there twice, first in line {first[key.value]}"
                        self.document.fault(key, what, "E002")
                    first.setdefault(key.value, line_of(key))
            elif isinstance(here, yaml.SequenceNode):
                parts = here.value
            waiting += [part for part in parts if id(part) not in seen]
            seen.update(map(id, parts))

    def rendered(self, text: str, at: Located, via: str) -> Located | None:
        """The value of a text that a macro has made of its `nodes_raw`."""
        try:
            nodes = compose_all(text, MOST_VALUES)
            values = [plain(node) for node in nodes]
        except YamlError as bad:
            self.fault(at, f"{via}, line {bad.line} of what it gives: not YAML: {bad.what}", "E001")
            return None
        if len(nodes) != 1:
            self.fault(at, f"{via}: a list of nodes was expected, it gives nothing", "E003")
            return None
        return Located(values[0], nodes[0], at.place, f"{via} as it is filled in")

    # -- what is found ---------------------------------------------------------------------------

    def fault(self, where: Located, what: str, code: str = "E007") -> None:
        """Keep a fault. Raises DocumentError if there are too many of them by now."""
        self.document.fault(where.place, f"{what}{where.suffix}", code)
        self._faults += 1
        if self._faults > MOST_FAULTS:
            raise self.refusal()

    def warn(self, where: Located, what: str, code: str) -> None:
        """Keep something that is no fault."""
        severity: Severity = "info" if code.startswith("I") else "warning"
        self.document.note(where.place, f"{what}{where.suffix}", code, severity)

    @property
    def sound(self) -> bool:
        return self.document.sound

    def told(self) -> list[str]:
        """All faults, without the name of the text."""
        found = (each for each in self.document.diagnostics if each.severity == "error")
        return [each.what for each in found]

    def refusal(self) -> DocumentError:
        """All faults; of very many those that were found first."""
        whole = self.document.refusal()
        if self._faults <= MOST_FAULTS:
            return whole
        more = f"{self.file}:1:1: E008 there are more faults than these {MOST_FAULTS}"
        return DocumentError([*whole.faults[:MOST_FAULTS], more], whole.diagnostics[:MOST_FAULTS])

    # -- readers ---------------------------------------------------------------------------------

    def map(
        self, value: Located, what: str, known: Collection[str] | None = None
    ) -> dict[str, Located]:
        """The parts of a map by key; unknown keys are faults, unless `known` is None."""
        if not isinstance(value.value, dict):
            self.fault(value, f"{what}: a map was expected", "E003")
            return {}
        found = value.parts()
        for key in [] if known is None else [key for key in found if key not in known]:
            hint = near(key, known or ())
            wanted = hint or f", one of {', '.join(known or ())} was expected"
            self.fault(value.key(key), f"{what}: unknown key `{key}`{wanted}", "E005")
            del found[key]
        return found

    def many(self, value: Located, what: str) -> list[Located] | None:
        """The parts of a list."""
        if isinstance(value.value, list):
            return list(value.items())
        self.fault(value, f"{what}: a list was expected", "E003")
        return None

    def required(
        self, value: Located, keys: dict[str, Located], key: str, what: str
    ) -> Located | None:
        """The part of a map that must be there."""
        if key in keys:
            return keys[key]
        if isinstance(value.value, dict):
            self.fault(value, f"{what}: the key `{key}` was expected", "E004")
        return None

    def text(self, value: Located, what: str) -> str | None:
        """A text; a number or a truth is one, too. An empty one is a fault."""
        given = value.value
        if isinstance(given, bool):
            return "true" if given else "false"
        if isinstance(given, int | float) or (isinstance(given, str) and given):
            return str(given)
        self.fault(value, f"{what}: a text was expected", "E003")
        return None

    def name(self, value: Located, what: str) -> str | None:
        """A name as of a node or a document."""
        given = value.value
        text = str(given) if isinstance(given, str | int) and not isinstance(given, bool) else ""
        if NAME.fullmatch(text) and text not in (".", ".."):
            return text
        self.fault(value, f"{what}: a name was expected: 1 to 64 of A-Z a-z 0-9 . _ -", "E103")
        return None

    def names(self, value: Located, what: str) -> list[Located]:
        """A name, or a list of names."""
        parts = list(value.items()) if isinstance(value.value, list) else [value]
        return [each for each in parts if self.text(each, what) is not None]

    def texts(self, value: Located, what: str) -> list[str] | None:
        """A text or a list of texts."""
        parts = list(value.items()) if isinstance(value.value, list) else [value]
        found = [self.text(each, what) for each in parts]
        texts = [each for each in found if each is not None]
        return texts if len(texts) == len(found) else None

    def flag(self, value: Located, what: str) -> bool | None:
        if isinstance(value.value, bool):
            return value.value
        if str(value.value).lower() in ("true", "false"):
            return str(value.value).lower() == "true"
        self.fault(value, f"{what}: true or false was expected", "E003")
        return None

    def count(self, value: Located, what: str, least: int = 1, most: int = 10**9) -> int | None:
        """A whole number from `least` to `most`."""
        given = value.value
        if isinstance(given, str) and re.fullmatch(r"\d{1,10}", given):
            given = int(given)
        if type(given) is int and least <= given <= most:
            return given
        bound = f"of at least {least}" if type(given) is not int or given < least else ""
        bound = bound or f"of at most {most}"
        self.fault(value, f"{what}: a whole number {bound} was expected")
        return None

    def number(self, value: Located, what: str) -> float | None:
        """A number of at least 0."""
        given = value.value
        if isinstance(given, str) and re.fullmatch(r"\d{1,10}(\.\d{1,10})?", given):
            given = float(given)
        if isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given < 1e15:
            return float(given)
        self.fault(value, f"{what}: a number of at least 0 was expected")
        return None

    def seconds(self, value: Located, what: str) -> float | None:
        """A duration, in seconds."""
        try:
            return duration(value.value)
        except ValueError as bad:
            self.fault(value, f"{what}: {bad}")
            return None

    def choice(self, value: Located, what: str, choices: Iterable[str]) -> str | None:
        """One of several words."""
        known = tuple(choices)
        given = value.value
        if isinstance(given, str) and given in known:
            return given
        hint = near(given, known) if isinstance(given, str) else ""
        self.fault(value, f"{what}: one of {', '.join(known)} was expected{hint}")
        return None

    # -- ${VARIABLE} -----------------------------------------------------------------------------

    def substituted(
        self, value: Located, variables: dict[str, str], leave: Collection[str] = ()
    ) -> Located:
        """`${NAME}` and `${NAME:default}` in every text, except below the keys `leave`."""
        return value.made(self._substituted(value, variables, frozenset(leave)))

    def _substituted(self, value: Located, variables: dict[str, str], leave: frozenset[str]) -> Any:
        given = value.value
        if isinstance(given, dict):
            return {
                key: each.value if key in leave else self._substituted(each, variables, leave)
                for key, each in value.parts().items()
            }
        if isinstance(given, list):
            return [self._substituted(each, variables, leave) for each in value.items()]
        if not isinstance(given, str) or "${" not in given:
            return given

        def insert(match: re.Match[str]) -> str:
            name, instead = match[1], match[2]
            if name in variables:
                return variables[name]
            if instead is None:
                hint = near(name, variables)
                self.fault(value, f"${{{name}}}: there is no such variable{hint}", "E111")
                return match[0]
            return instead

        return _VARIABLE.sub(insert, given)
