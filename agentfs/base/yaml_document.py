"""YAML documents that people write, read with their line numbers.

`agentfs.base.yaml_text` gives nodes that know their lines; here they become maps, and every fault
found on the way is kept, so that all of them are reported at once as
`file:line: what was expected`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any

import yaml

from agentfs.base.yaml_text import MOST_VALUES, YamlError, compose, construct, line_of

__all__ = ["DocumentError", "Pair", "YamlDocument", "near"]

Pair = tuple[yaml.Node, yaml.Node]
"""A key of a map and its value."""


class DocumentError(Exception):
    """A document that is refused. `faults`: `file:line: what was expected`, by line."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def near(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, if there is one near."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[found[0]]}?)" if found else ""


class YamlDocument:
    """One document: its nodes, and the faults found so far.

    A context manager: text inside it that is not YAML raises DocumentError.
    """

    def __init__(self, text: str, file: str, most: int = MOST_VALUES) -> None:
        self._text = text
        self._file = file
        self._most = most
        self._faults: list[tuple[int, str]] = []

    def __enter__(self) -> YamlDocument:
        return self

    def __exit__(self, kind: object, bad: BaseException | None, trace: object) -> None:
        if isinstance(bad, YamlError):
            self.fault(bad.line, f"not YAML: {bad.what}")
            raise self.refusal() from None

    def root(self) -> yaml.Node | None:
        """The node of the whole document; None if there is nothing in it."""
        return compose(self._text, self._most)

    def content(self, node: yaml.Node) -> Any:
        """What `node` says, as plain Python values."""
        return construct(node)

    def fault(self, where: yaml.Node | int, what: str) -> None:
        """Keep a fault, at a node or in a line (from 1)."""
        self._faults.append((where if isinstance(where, int) else line_of(where), what))

    @property
    def sound(self) -> bool:
        return not self._faults

    def refusal(self) -> DocumentError:
        """Everything found so far."""
        in_order = sorted(dict.fromkeys(self._faults), key=lambda fault: fault[0])
        return DocumentError([f"{self._file}:{line}: {what}" for line, what in in_order])

    def map(self, node: yaml.Node, what: str, known: Collection[str] | None) -> dict[str, Pair]:
        """The keys of a map, each with its two nodes, merge keys (`<<`) followed.

        Duplicate keys are faults, and so are unknown ones, unless `known` is None.
        """
        if not isinstance(node, yaml.MappingNode):
            self.fault(node, f"{what}: a map was expected")
            return {}
        own: dict[str, Pair] = {}
        merged: dict[str, Pair] = {}
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    merged = self.map(source, f"{what}, <<", known) | merged
            elif not isinstance(key, yaml.ScalarNode):
                self.fault(key, f"{what}: a name was expected as key")
            elif key.value in own:
                before = line_of(own[key.value][0])
                self.fault(key, f"{what}: `{key.value}` is there twice, first in line {before}")
            elif known is not None and key.value not in known:
                wanted = f"one of {', '.join(known)} was expected{near(key.value, known)}"
                self.fault(key, f"{what}: unknown key `{key.value}`, {wanted}")
            else:
                own[key.value] = (key, value)
        return merged | own

    def text(self, node: yaml.Node, what: str) -> str | None:
        """The text of a scalar, even if YAML would read a number or a date. Anything else, or an
        empty text, is a fault, and gives None."""
        said = isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:null"
        if said and node.value:
            return str(node.value)
        self.fault(node, f"{what}: a text was expected")
        return None

    def required(
        self, node: yaml.Node, keys: dict[str, Pair], key: str, what: str
    ) -> yaml.Node | None:
        """The value of a key that must be there. If it is not, that is a fault, and gives None."""
        if key in keys:
            return keys[key][1]
        if isinstance(node, yaml.MappingNode):
            self.fault(node, f"{what}: the key `{key}` was expected")
        return None
