"""Manifests: `kind: System` documents, checked whole before anything starts.

Every fault of a document is reported at once, each as `file:line:column: CODE what was expected`.
`ProcessSpec` has what a process may say; here is only what a manifest adds: names, parents,
replicas.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import ValidationError

from agentfs.base.yaml_document import DocumentError, Pair, YamlDocument, near
from agentfs.base.yaml_text import line_of
from agentfs.model.names import misshapen, reserved
from agentfs.model.process import Limits, Restart, Role, Tier
from agentfs.model.spec import NAME, ProcessSpec, SpecLimits

__all__ = ["ROOT", "Planned", "System", "load", "parse"]

ROOT = "init"
"""The parent of every process that names none: process 1."""

MAX_REPLICAS = 1000
"""One system has at most this many of one process; more is a slip of the finger."""

MOST_VALUES = 100_000
"""Values of one manifest, with what aliases repeat: a tenth of a second to read, which nobody waits
for but who starts it."""

METADATA = ("name", "namespace", "description")
OWN_KEYS = ("parent", "replicas")
SPEC_KEYS = tuple(name for name in ProcessSpec.model_fields if name != "name")
CHOICES: dict[str, tuple[str, ...]] = {
    "role": tuple(role.value for role in Role if role is not Role.KERNEL),
    "tier": tuple(tier.value for tier in Tier),
    "restart": tuple(restart.value for restart in Restart),
}
EXPECTED = {
    "string_type": "text was expected; put it in quotes",
    "int_type": "a whole number or `max` was expected",
    "greater_than_equal": "a number of at least 0 was expected",
    "list_type": "a command line (text) or a list of texts was expected",
    "dict_type": "a map was expected",
    "model_type": "a map was expected",
}
"""What pydantic calls a fault, in words for people."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One process to start. `spec` is what goes into `/proc/PPID/spawn` of `parent`."""

    name: str
    parent: str
    spec: dict[str, Any]


@dataclass(frozen=True, slots=True)
class System:
    """A checked manifest. `processes` has every parent before its children."""

    name: str
    processes: tuple[Planned, ...]


def load(path: str) -> System:
    """Read and check the file `path`. Raises DocumentError."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as bad:
        raise DocumentError([f"{path}: {bad.strerror}"]) from None
    except UnicodeDecodeError as bad:
        raise DocumentError([f"{path}: UTF-8 was expected: {bad.reason}"]) from None
    return parse(text, path, os.path.dirname(os.path.abspath(path)))


def parse(text: str, file: str, folder: str) -> System:
    """Check the document `text`. `file` names it in faults; relative paths begin at `folder`.

    Raises DocumentError.
    """
    with YamlDocument(text, file, MOST_VALUES, manifest=True) as document:
        return _Reader(document, folder).system()


@dataclass(slots=True)
class _Entry:
    """A process as the document has it, before replicas."""

    name: str
    node: yaml.Node
    keys: dict[str, Pair]
    given: dict[str, Any]
    parent: str = ROOT
    names: list[str] = field(default_factory=list)

    def at(self, *path: object) -> yaml.Node:
        """The node that `path` leads to, or the nearest above it; for a bad value its own."""
        pair = self.keys.get(str(path[0])) if path else None
        if pair is None:
            return self.node
        node = pair[1]
        for step in path[1:]:
            if isinstance(node, yaml.MappingNode):
                inner = [value for key, value in node.value if key.value == str(step)]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                inner = node.value[step : step + 1]
            else:
                inner = []
            if not inner:
                break
            node = inner[-1]
        return node


def _tier_of(entry: _Entry) -> Tier:
    """The tier that a process will have: its own, else the lowest. Bad values count as left out:
    they are faults of their own."""
    own = entry.given.get("tier")
    return Tier(own) if own in CHOICES["tier"] else Tier.OPERATIONAL


class _Reader:
    """One manifest on its way through the checks."""

    def __init__(self, document: YamlDocument, folder: str) -> None:
        self._document = document
        self._fault = document.fault
        self._folder = folder

    def system(self) -> System:
        roots = self._document.roots()
        if not roots:
            self._fault(1, "`kind: System` was expected, the document is empty")
            raise self._document.refusal()
        root = roots[0]
        for other in roots[1:]:
            self._fault(other, "one document was expected")
        name, entries = self._read(root)
        self._check_tree(entries)
        if not self._document.sound:
            raise self._document.refusal()
        return System(name, tuple(self._plan(entries)))

    # -- reading ---------------------------------------------------------------------------------

    def _read(self, root: yaml.Node) -> tuple[str, list[_Entry]]:
        top = self._document.map(root, "the document", ("kind", "metadata", "spec"))
        kind = self._document.required(root, top, "kind", "the document")
        if kind is not None and kind.value != "System":
            hint = near(str(kind.value), ["System"]) if isinstance(kind.value, str) else ""
            self._fault(kind, f"kind: System was expected{hint}")
        name = ""
        metadata = self._document.required(root, top, "metadata", "the document")
        if metadata is not None:
            named = self._document.required(
                metadata, self._document.map(metadata, "metadata", METADATA), "name", "metadata"
            )
            if named is not None:
                name = self._name(named, "metadata.name")
        spec = self._document.required(root, top, "spec", "the document")
        if spec is None:
            return name, []
        processes = self._document.required(
            spec, self._document.map(spec, "spec", ("processes",)), "processes", "spec"
        )
        if processes is None:
            return name, []
        found = self._document.map(processes, "spec.processes", None)
        if not found and isinstance(processes, yaml.MappingNode):
            self._fault(processes, "spec.processes: at least one process was expected")
        return name, [self._entry(label, *pair) for label, pair in found.items()]

    def _name(self, node: yaml.Node, what: str) -> str:
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        if not NAME.fullmatch(text):
            self._fault(node, f"{what}: a name was expected: 1 to 64 of A-Z a-z 0-9 . _ -")
        elif text in (".", "..") or reserved(text):
            self._fault(node, f"{what}: `{text}` is reserved, another name was expected")
        return str(text)

    def _content(self, place: str, key: str, node: yaml.Node) -> Any:
        if key in ("env", "limits") and isinstance(node, yaml.MappingNode):
            known = SpecLimits.model_fields if key == "limits" else None
            inner = self._document.map(node, place, known)
            return {name: self._document.content(value) for name, (_, value) in inner.items()}
        return self._document.content(node)

    def _entry(self, name: str, key: yaml.Node, value: yaml.Node) -> _Entry:
        self._name(key, f"process {name!r}")
        if NAME.fullmatch(name) and not reserved(name) and (why := misshapen(name)):
            self._fault(key, f"process {name!r}: {why}, another name was expected")
        empty = isinstance(value, yaml.ScalarNode) and value.tag == "tag:yaml.org,2002:null"
        keys = {} if empty else self._document.map(value, name, (*OWN_KEYS, *SPEC_KEYS))
        given = {
            each: self._content(f"{name}.{each}", each, pair[1]) for each, pair in keys.items()
        }
        entry = _Entry(name, key, keys, given)
        for each in [each for each, content in given.items() if content is None]:
            self._fault(keys[each][1], f"{name}.{each}: a value was expected")
            del given[each]
        self._check_spec(entry)
        self._check_own(entry)
        return entry

    # -- checking one process --------------------------------------------------------------------

    def _check_spec(self, entry: _Entry) -> None:
        given = {key: value for key, value in entry.given.items() if key in SPEC_KEYS}
        for key, choices in CHOICES.items():
            if key in given and given[key] not in choices:
                text = given.pop(key)
                hint = near(str(text), choices)
                self._fault(
                    entry.at(key),
                    f"{entry.name}.{key}: one of {', '.join(choices)} was expected,"
                    f" not {text!r}{hint}",
                )
        try:
            ProcessSpec.model_validate(given)
        except ValidationError as bad:
            for fault in bad.errors(include_url=False, include_context=False):
                place = ".".join([entry.name, *(str(step) for step in fault["loc"])])
                what = EXPECTED.get(fault["type"], fault["msg"].removeprefix("Value error, "))
                self._fault(entry.at(*fault["loc"]), f"{place}: {what}")
        if given.get("role") == Role.TASK.value and given.get("tier") == Tier.STRATEGIC.value:
            self._fault(entry.at("tier"), f"{entry.name}.tier: a task is never strategic")

    def _check_own(self, entry: _Entry) -> None:
        parent = entry.given.get("parent", ROOT)
        if isinstance(parent, str):
            entry.parent = parent
        else:
            self._fault(
                entry.at("parent"), f"{entry.name}.parent: the name of a process was expected"
            )
        replicas = entry.given.get("replicas")
        if replicas is None:
            entry.names = [entry.name]
        elif type(replicas) is int and 1 <= replicas <= MAX_REPLICAS:
            entry.names = [f"{entry.name}-{number}" for number in range(1, replicas + 1)]
            if not NAME.fullmatch(entry.names[-1]) and NAME.fullmatch(entry.name):
                self._fault(entry.node, f"{entry.names[-1]}: a name of at most 64 was expected")
        else:
            self._fault(
                entry.at("replicas"),
                f"{entry.name}.replicas: a whole number from 1 to {MAX_REPLICAS} was expected",
            )

    # -- checking them together ------------------------------------------------------------------

    def _check_tree(self, entries: list[_Entry]) -> None:
        owner: dict[str, _Entry] = {}
        for entry in entries:
            for name in entry.names:
                if name in owner:
                    line = line_of(owner[name].node)
                    self._fault(
                        entry.node, f"{name}: this name is taken by {owner[name].name}, line {line}"
                    )
                owner.setdefault(name, entry)
        self._check_parents(entries, owner)
        self._check_cycles(entries, owner)
        for entry in entries:
            self._check_tier(entry, owner)
        children = Counter(entry.parent for entry in entries for _ in entry.names)
        for name, count in children.items():
            if name in owner:
                self._check_children(owner[name], name, count)

    def _check_parents(self, entries: list[_Entry], owner: dict[str, _Entry]) -> None:
        replicated = {entry.name: entry.names for entry in entries if entry.name not in owner}
        for entry in entries:
            if entry.parent == ROOT or entry.parent in owner:
                continue
            what = f"{entry.name}.parent: the name of a process of this manifest was expected"
            if replicated.get(entry.parent):
                names = replicated[entry.parent]
                which = names[0] if len(names) == 1 else f"one of {names[0]} … {names[-1]}"
                self._fault(entry.at("parent"), f"{what}: {which}, not {entry.parent}")
            elif entry.parent not in replicated:
                hint = near(entry.parent, [*owner, ROOT])
                self._fault(entry.at("parent"), f"{what}, not {entry.parent!r}{hint}")

    def _check_cycles(self, entries: list[_Entry], owner: dict[str, _Entry]) -> None:
        reported: set[str] = set()
        for entry in entries:
            path: list[str] = []
            at: _Entry | None = entry
            while at is not None and at.name not in path:
                path.append(at.name)
                at = owner.get(at.parent)
            if at is entry and reported.isdisjoint(path):
                reported.update(path)
                circle = " -> ".join([*path, entry.name])
                self._fault(
                    entry.at("parent"),
                    f"{entry.name}.parent: a parent that is no descendant was expected: {circle}",
                )

    def _check_tier(self, entry: _Entry, owner: dict[str, _Entry]) -> None:
        own = entry.given.get("tier")
        above = owner.get(entry.parent)
        if own not in CHOICES["tier"] or above is None:
            return
        highest = _tier_of(above)
        if Tier(own).rank < highest.rank:
            self._fault(
                entry.at("tier"),
                f"{entry.name}.tier: at most {highest.value}, the tier of its parent"
                f" {entry.parent}, was expected, not {own}",
            )

    def _check_children(self, parent: _Entry, name: str, count: int) -> None:
        limits = parent.given.get("limits")
        given = limits if isinstance(limits, dict) else {}
        limit = given.get("max_children", Limits().max_children)
        if type(limit) is int and count > limit:
            self._fault(
                parent.at("limits", "max_children"),
                f"{name}.limits.max_children: at least {count} was expected,"
                f" so many children has it here, not {limit}",
            )

    # -- the plan --------------------------------------------------------------------------------

    def _plan(self, entries: list[_Entry]) -> Iterable[Planned]:
        """Every process, parents first, else in the order of the document."""
        started = {ROOT}
        waiting = list(entries)
        while waiting:
            ready = [entry for entry in waiting if entry.parent in started]
            waiting = [entry for entry in waiting if entry.parent not in started]
            for entry in ready:
                for name in entry.names:
                    yield Planned(name, entry.parent, self._spec(entry, name))
                started.update(entry.names)

    def _spec(self, entry: _Entry, name: str) -> dict[str, Any]:
        given = {key: value for key, value in entry.given.items() if key in SPEC_KEYS}
        cwd = os.path.normpath(os.path.join(self._folder, given.pop("cwd", "")))
        return {"name": name, **given, "cwd": cwd}
