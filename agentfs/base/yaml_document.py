"""YAML documents that people write, read with their line numbers.

`agentfs.base.yaml_text` gives nodes that know their lines; here they become maps, and every fault
found on the way is kept, so that all of them are reported at once as
`file:line: what was expected`; those of a manifest as `file:line:column: CODE what was expected`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from agentfs.base.yaml_text import (
    MOST_VALUES,
    YamlError,
    compose,
    compose_all,
    construct,
    line_of,
    place_of,
    plain,
)

__all__ = ["Diagnostic", "DocumentError", "Pair", "Severity", "YamlDocument", "near"]

Pair = tuple[yaml.Node, yaml.Node]
"""A key of a map and its value."""

Severity = Literal["error", "warning", "info"]

NOT_YAML = "E001"
TWICE = "E002"
SHAPE = "E003"
MISSING = "E004"
UNKNOWN = "E005"
VALUE = "E007"
"""Codes of faults that any document may have; `agentfs.manifests.diagnose` has the rest."""


MOST_LIKE = 200
"""Names that a wrong one is compared with."""

HINT = re.compile(r" \((did you mean [^)]*\?)\)")


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing found in a document. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    code: str
    what: str
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.code} {self.what}"

    def record(self) -> dict[str, Any]:
        """As JSON; a question for what may be meant instead is apart, as `hint`."""
        hint = HINT.search(self.what)
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "code": self.code,
            "severity": self.severity,
            "message": HINT.sub("", self.what),
            "hint": hint[1] if hint else "",
        }


class DocumentError(Exception):
    """A document that is refused. `faults`: one line each, in the order of the document;
    `diagnostics` has those of a manifest."""

    def __init__(self, faults: list[str], diagnostics: Iterable[Diagnostic] = ()) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
        self.diagnostics = tuple(diagnostics)


def near(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, if there is one near. Of very many only those with the
    same first letter are looked at: each takes some microseconds."""
    by_lower = {each.lower(): each for each in known}
    if len(by_lower) > MOST_LIKE:
        first = name[:1].lower()
        like = [each for each in by_lower if each.startswith(first)][:MOST_LIKE]
        by_lower = {each: by_lower[each] for each in like}
    found = difflib.get_close_matches(name.lower()[:80], by_lower, n=1)
    return f" (did you mean {by_lower[found[0]]}?)" if found else ""


class YamlDocument:
    """One text: its nodes, and what was found so far.

    A `manifest` is read by YAML's core schema, has any number of documents, and its faults have
    columns and codes. A context manager: text inside it that is not YAML raises DocumentError.
    """

    def __init__(
        self, text: str, file: str, most: int = MOST_VALUES, *, manifest: bool = False
    ) -> None:
        self._text = text
        self._file = file
        self._most = most
        self._manifest = manifest
        self._found: dict[Diagnostic, None] = {}

    def __enter__(self) -> YamlDocument:
        return self

    def __exit__(self, kind: object, bad: BaseException | None, trace: object) -> None:
        if isinstance(bad, YamlError):
            self.fault((bad.line, bad.column), f"not YAML: {bad.what}", NOT_YAML)
            raise self.refusal() from None

    def root(self) -> yaml.Node | None:
        """The node of the whole document; None if there is nothing in it."""
        return compose(self._text, self._most)

    def roots(self) -> list[yaml.Node]:
        """The nodes of all documents of a manifest, without those that are empty."""
        return compose_all(self._text, self._most)

    def content(self, node: yaml.Node) -> Any:
        """What `node` says, as plain Python values."""
        return plain(node) if self._manifest else construct(node)

    def fault(self, where: yaml.Node | int | tuple[int, int], what: str, code: str = VALUE) -> None:
        """Keep a fault, at a node, in a line, or at a line and a column (from 1)."""
        self._keep(where, what, code, "error")

    def note(
        self,
        where: yaml.Node | int | tuple[int, int],
        what: str,
        code: str,
        severity: Severity,
    ) -> None:
        """Keep something that is no fault."""
        self._keep(where, what, code, severity)

    def _keep(
        self,
        where: yaml.Node | int | tuple[int, int],
        what: str,
        code: str,
        severity: Severity,
    ) -> None:
        if isinstance(where, yaml.Node):
            line, column = place_of(where)
        elif isinstance(where, int):
            line, column = where, 1
        else:
            line, column = where
        self._found[Diagnostic(self._file, line, column, code, what, severity)] = None

    @property
    def sound(self) -> bool:
        return not any(each.severity == "error" for each in self._found)

    @property
    def diagnostics(self) -> list[Diagnostic]:
        """Everything found so far, in the order of the document."""
        return sorted(self._found, key=lambda each: (each.line, each.column))

    def refusal(self) -> DocumentError:
        """All faults found so far."""
        faults = [each for each in self.diagnostics if each.severity == "error"]
        if self._manifest:
            return DocumentError([str(each) for each in faults], faults)
        in_order = sorted(
            (each for each in self._found if each.severity == "error"), key=lambda each: each.line
        )
        lines = dict.fromkeys(f"{self._file}:{each.line}: {each.what}" for each in in_order)
        return DocumentError(list(lines), in_order)

    def map(self, node: yaml.Node, what: str, known: Collection[str] | None) -> dict[str, Pair]:
        """The keys of a map, each with its two nodes, merge keys (`<<`) followed.

        Duplicate keys are faults, and so are unknown ones, unless `known` is None.
        """
        if not isinstance(node, yaml.MappingNode):
            self.fault(node, f"{what}: a map was expected", SHAPE)
            return {}
        own: dict[str, Pair] = {}
        merged: dict[str, Pair] = {}
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    merged = self.map(source, f"{what}, <<", known) | merged
            elif not isinstance(key, yaml.ScalarNode):
                self.fault(key, f"{what}: a name was expected as key", SHAPE)
            elif key.value in own:
                before = line_of(own[key.value][0])
                twice = f"{what}: `{key.value}` is there twice, first in line {before}"
                self.fault(key, twice, TWICE)
            elif known is not None and key.value not in known:
                wanted = f"one of {', '.join(known)} was expected{near(key.value, known)}"
                self.fault(key, f"{what}: unknown key `{key.value}`, {wanted}", UNKNOWN)
            else:
                own[key.value] = (key, value)
        return merged | own

    def text(self, node: yaml.Node, what: str) -> str | None:
        """The text of a scalar, even if YAML would read a number or a date. Anything else, or an
        empty text, is a fault, and gives None."""
        said = isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:null"
        if said and node.value:
            return str(node.value)
        self.fault(node, f"{what}: a text was expected", SHAPE)
        return None

    def required(
        self, node: yaml.Node, keys: dict[str, Pair], key: str, what: str
    ) -> yaml.Node | None:
        """The value of a key that must be there. If it is not, that is a fault, and gives None."""
        if key in keys:
            return keys[key][1]
        if isinstance(node, yaml.MappingNode):
            self.fault(node, f"{what}: the key `{key}` was expected", MISSING)
        return None
