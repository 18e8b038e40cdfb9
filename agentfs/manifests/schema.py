"""JSON Schema (draft 2020-12) at the edges of runs and nodes, at a cost that is known before.

jsonschema-rs compiles and checks: 15 ns a keyword, and regular expressions in linear time. The cost
of a check is bounded here before either: how often each keyword is looked at is counted through
`$ref` and `allOf`, which can double it at every step.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from agentfs.base.yaml_document import near
from agentfs.manifests.fuel import LARGEST, EvaluationError, Fuel, weigh

__all__ = ["Schema", "schema_document"]

MOST_COST = 100_000
"""Keywords that are looked at once for a value, `$ref`s followed."""

MOST_STEPS = 6_000
"""Schemas that are visited to find that out: below 20 ms."""

MOST_WORK = 1_000_000
"""Keywords that are looked at in one check, at 15 ns each."""

MOST_MATCHING = 6_000_000
"""States times characters of a regular expression: 3.3 ns each at worst, measured with
`[01]*1[01]{500}2`."""

MOST_TOLD = 3
"""Faults of a value that are told at once."""

LONGEST_SHOWN = 60

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

_PATTERNS = jsonschema_rs.RegexOptions(size_limit=1 << 18, dfa_size_limit=1 << 18)
"""No look-around and no back-references, so no backtracking. Bytes of a compiled expression."""

_SAME_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else"})
"""Keywords whose schemas are about the same value."""

_KNOWN = _SAME_PLACE | frozenset(
    {
        "$anchor", "$comment", "$defs", "$id", "$ref", "$schema", "additionalProperties", "const",
        "contains", "contentEncoding", "contentMediaType", "contentSchema", "default",
        "definitions", "dependentRequired", "dependentSchemas", "deprecated", "description", "enum",
        "example", "examples", "exclusiveMaximum", "exclusiveMinimum", "format", "items",
        "maxContains", "maxItems", "maxLength", "maxProperties", "maximum", "minContains",
        "minItems", "minLength", "minProperties", "minimum", "multipleOf", "pattern",
        "patternProperties", "prefixItems", "properties", "propertyNames", "readOnly", "required",
        "title", "type", "unevaluatedItems", "unevaluatedProperties", "uniqueItems", "writeOnly",
    }
)  # fmt: skip

_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")

_FLAT = {
    "any": {},
    "bool": {"type": "boolean"},
    "dict": {"type": "object"},
    "float": {"type": "number"},
    "int": {"type": "integer"},
    "list": {"type": "array"},
    "none": {"type": "null"},
    "str": {"type": "string"},
}
"""hexDAG's names of types, and JSON's in lower case."""


def schema_document(declared: Any) -> Any:
    """The JSON Schema of what a manifest declares. A schema is one as it is; hexDAG's flat map of
    names to types (`{name: str, score: "int | None"}`) is an object that needs all of them, apart
    from those that may be null. Raises ValueError."""
    if not isinstance(declared, dict) or not declared or _KNOWN & declared.keys():
        return declared
    if not all(isinstance(each, str) for each in declared.values()):
        return declared
    types = {name: [*_flat_types(name, text)] for name, text in declared.items()}
    needed = [name for name, kinds in types.items() if {"type": "null"} not in kinds]
    fields = {
        name: kinds[0] if len(kinds) == 1 else {"anyOf": kinds} for name, kinds in types.items()
    }
    return {"type": "object", "properties": fields, "required": needed}


def _flat_types(name: str, text: str) -> Iterator[dict[str, Any]]:
    for word in text.split("|"):
        kind = word.strip()
        known = _FLAT.get(kind.lower()) if kind.lower() in _FLAT else None
        if known is None and kind in _TYPES:
            known = {"type": kind}
        if known is None:
            raise ValueError(
                f"`{name}`: there is no type `{kind[:40]}`{near(kind[:40], [*_FLAT, *_TYPES])}"
            )
        yield known


class Schema:
    """A schema, compiled. Raises ValueError with words, each fault with its path in the schema."""

    __slots__ = ("_cost", "_validator")

    def __init__(self, document: Any) -> None:
        self._cost = _Counting(document).of_document()
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                document, offline=True, pattern_options=_PATTERNS, mask=_MASK
            )
        except jsonschema_rs.ValidationError as bad:
            raise ValueError(f"{_path(bad.instance_path)}: {_words(bad)}") from None
        except ValueError as bad:
            raise ValueError(f"$: {bad}") from None

    def check(self, value: Any) -> str:
        """ "" if the value fits; else what does not, with its path: `$.items[3].name: …`."""
        try:
            values, characters = weigh(value, Fuel(size=LARGEST))
        except EvaluationError:
            return "$: it is too large or too deep to be checked; let a program do that"
        if self._cost.once + values * self._cost.each > MOST_WORK:
            return f"$: {values:,} values are too many for this schema; let a program check them"
        if characters * self._cost.patterns > MOST_MATCHING:
            return f"$: {characters:,} characters are too many for these patterns"
        try:
            faults = list(itertools.islice(self._validator.iter_errors(value), MOST_TOLD + 1))
        except ValueError as bad:
            return f"$: {bad}"
        told = [f"{_path(bad.instance_path)}: {_words(bad)}" for bad in faults[:MOST_TOLD]]
        if len(faults) > MOST_TOLD:
            told.append("and more")
        return "; ".join(told)


_MASK = "the value"


def _words(bad: jsonschema_rs.ValidationError) -> str:
    words = bad.message
    if bad.kind.name in ("pattern", "format") and "regex" in words:
        words = "is no regular expression here (there is no look-around, and no back-reference)"
    instance = getattr(bad, "instance", None)
    if isinstance(instance, str | int | float | None) and words.startswith(_MASK):
        shown = json.dumps(instance, ensure_ascii=False)
        if len(shown) <= LONGEST_SHOWN:
            words = shown + words.removeprefix(_MASK)
    return words if len(words) <= 400 else f"{words[:200]} … {words[-200:]}"


def _path(parts: Iterable[str | int]) -> str:
    steps = (f"[{part}]" if isinstance(part, int) else f".{part[:LONGEST_SHOWN]}" for part in parts)
    return "$" + "".join(steps)


Place = tuple[int, ...]
"""Schemas that are about one value, by their ids, sorted; one may be there more than once."""


@dataclass(frozen=True, slots=True)
class _Cost:
    """Keywords that are looked at once, those for each value of lists and maps of any size, and
    states of regular expressions for each character."""

    once: int = 0
    each: int = 0
    patterns: int = 0

    def with_one(self, inner: _Cost) -> _Cost:
        return _Cost(
            self.once + inner.once,
            max(self.each, inner.each),
            max(self.patterns, inner.patterns),
        )

    def with_any(self, inner: _Cost) -> _Cost:
        return _Cost(
            self.once, max(self.each, inner.once, inner.each), max(self.patterns, inner.patterns)
        )


class _Counting:
    """What a schema costs: once, and for each value of a list or map of any size.

    Two schemas about one value (of an `allOf`, say) are counted together, and so are what they say
    of its fields. A place that comes again below itself is a recursion, and counts for each value.
    One that doubles never comes to the same place again, so the steps end it.
    """

    def __init__(self, document: Any) -> None:
        self._document = document
        self._schemas: dict[int, Any] = {}
        self._paths: dict[int, str] = {}
        self._known: dict[Place, _Cost] = {}
        self._open: set[Place] = set()
        self._again: set[Place] = set()
        self._steps = 0

    def of_document(self) -> _Cost:
        """Raises ValueError."""
        try:
            return self._of((self._seen(self._document, "$"),))
        except RecursionError:
            raise ValueError("$: schemas are too deep within each other") from None

    def _step(self, steps: int = 1) -> None:
        self._steps += steps
        if self._steps > MOST_STEPS:
            raise ValueError(
                "$: this schema costs too much: it is too large, or refers to itself too often"
            )

    def _seen(self, schema: Any, path: str) -> int:
        key = id(schema)
        if key not in self._schemas:
            self._step()
            self._schemas[key] = schema
            self._paths[key] = path
            _check_keywords(schema, path)
        return key

    def _of(self, place: Place) -> _Cost:
        if place in self._known:
            return self._known[place]
        if place in self._open:
            self._again.add(place)
            return _Cost()
        self._open.add(place)
        flat = _Flat()
        for key in place:
            self._flatten(key, flat)
        cost = _Cost(flat.cost, 0, max(flat.matching, flat.matching_names))
        for inner in flat.fixed():
            self._step(len(inner))
            cost = cost.with_one(self._of(tuple(sorted(inner))))
        for inner in flat.repeated():
            self._step(len(inner))
            cost = cost.with_any(self._of(tuple(sorted(inner))))
        if max(cost.once, cost.each) > MOST_COST:
            raise ValueError(f"{self._paths[place[0]]}: this schema costs too much")
        self._open.discard(place)
        if place in self._again:
            cost = cost.with_any(cost)
        self._known[place] = cost
        return cost

    def _flatten(self, key: int, flat: _Flat) -> None:
        """Add what a schema says of its value, with all schemas about the same value."""
        stack = [key]
        while stack:
            key = stack.pop()
            schema, path = self._schemas[key], self._paths[key]
            self._step()
            flat.cost += 1
            if not isinstance(schema, dict):
                continue
            fields: dict[str, int] = {}
            for word, said in schema.items():
                flat.cost += 1
                inside = f"{path}.{word}"
                if word == "$ref":
                    stack.append(self._target(said, path))
                elif word in _SAME_PLACE:
                    stack.extend(self._inner(said, inside))
                elif word == "dependentSchemas":
                    stack.extend(self._members(said, inside).values())
                elif word == "properties":
                    fields = self._members(said, inside)
                elif word == "patternProperties":
                    members = self._members(said, inside)
                    flat.patterns.extend(members.values())
                    flat.matching_names += sum(self._pattern(each) for each in members)
                elif word == "propertyNames":
                    flat.names.extend(self._inner(said, inside))
                elif word == "prefixItems":
                    for at, each in enumerate(self._inner(said, inside)):
                        flat.prefix[at].append(each)
                elif word in ("items", "contains", "unevaluatedItems"):
                    flat.items.extend(self._inner(said, inside))
                elif word in ("additionalProperties", "unevaluatedProperties"):
                    known = frozenset(schema.get("properties") or ())
                    flat.others.append((known, self._inner(said, inside)))
                elif word == "pattern":
                    flat.matching += self._pattern(said)
                elif word in ("$defs", "definitions"):
                    self._members(said, inside)
                elif word in ("enum", "required", "const"):
                    flat.cost += len(said) if isinstance(said, list | dict | str) else 1
            flat.cost += len(fields)
            for name, each in fields.items():
                flat.fields[name].append(each)

    def _pattern(self, pattern: Any) -> int:
        self._step(10)
        return states(pattern) if isinstance(pattern, str) else 0

    def _inner(self, said: Any, path: str) -> list[int]:
        if isinstance(said, list):
            return [self._seen(each, f"{path}[{at}]") for at, each in enumerate(said)]
        return [self._seen(said, path)]

    def _members(self, said: Any, path: str) -> dict[str, int]:
        if not isinstance(said, dict):
            return {}
        return {name: self._seen(each, f"{path}.{name}") for name, each in said.items()}

    def _target(self, reference: Any, path: str) -> int:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise ValueError(
                f"{path}.$ref: only references inside, like #/$defs/NAME, are followed"
            )
        found = self._document
        for part in reference[2:].split("/") if len(reference) > 1 else ():
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdecimal() and int(part[:9]) < len(found):
                found = found[int(part[:9])]
            else:
                known = found if isinstance(found, dict) else ()
                raise ValueError(
                    f"{path}.$ref: there is no {reference[:80]}{near(part[:40], known)}"
                )
        return self._seen(found, f"${reference[1:].replace('/', '.')}")


class _Flat:
    """All that is said of one value: by how much, and of what is in it."""

    def __init__(self) -> None:
        self.cost = 0
        self.matching = 0
        self.matching_names = 0
        self.fields: dict[str, list[int]] = defaultdict(list)
        self.patterns: list[int] = []
        self.others: list[tuple[frozenset[str], list[int]]] = []
        self.names: list[int] = []
        self.prefix: dict[int, list[int]] = defaultdict(list)
        self.items: list[int] = []

    def fixed(self) -> Iterator[list[int]]:
        """The schemas of each field or item that is there at most once."""
        for name, keys in self.fields.items():
            others = [key for known, rest in self.others if name not in known for key in rest]
            yield keys + self.patterns + others
        for keys in self.prefix.values():
            yield keys

    def repeated(self) -> Iterator[list[int]]:
        """The schemas of fields and items that may be there in any number."""
        rest = self.patterns + [key for _known, keys in self.others for key in keys]
        for keys in (rest, self.names, self.items):
            if keys:
                yield keys


_ATOM = re.compile(
    r"\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*\]?|\(\?[^:)]*:?|\(|\)"
    r"|\{(?P<least>\d*)(?P<open>,)?(?P<most>\d*)\}|.",
    re.DOTALL,
)


def states(pattern: str) -> int:
    """How many states a regular expression may be in at once, at most. 1 if it begins with `^` and
    nothing in it is repeated without end: such a one is in few."""
    sizes, last, endless = [0], 0, not pattern.startswith("^")
    for atom in _ATOM.finditer(pattern):
        word = atom[0]
        if word.startswith("("):
            sizes.append(0)
        elif word == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif atom["least"]:
            times = int((atom["most"] or atom["least"])[:9])
            sizes[-1] += last * max(0, times - 1)
            endless = endless or bool(atom["open"] and not atom["most"])
        elif word in "*+?|":  # behind `|` nothing is bound to the beginning
            endless = endless or word != "?"
        else:
            last = 1 if len(word) == 1 and word != "." else 4
            sizes[-1] += last
    return max(1, sum(sizes)) if endless else 1


def _check_keywords(schema: Any, path: str) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise ValueError(f"{path}: a schema, a map, was expected")
    for word in schema:
        if word not in _KNOWN and not str(word).startswith("x-"):
            raise ValueError(
                f"{path}: there is no keyword `{str(word)[:40]}`{near(str(word)[:40], _KNOWN)}"
            )
    if schema.get("$schema", _DIALECT).rstrip("#") != _DIALECT:
        raise ValueError(f"{path}.$schema: {_DIALECT} was expected")
    if "$id" in schema and path != "$":
        raise ValueError(f"{path}.$id: only the whole schema may have one")
    said = schema.get("type", [])
    for kind in said if isinstance(said, list) else [said]:
        if kind not in _TYPES:
            raise ValueError(
                f"{path}.type: there is no type `{str(kind)[:40]}`{near(str(kind)[:40], _TYPES)}"
            )
