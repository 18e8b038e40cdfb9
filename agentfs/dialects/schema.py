"""The schema of a tool's arguments, as every provider takes it. One schema that a provider does not
take is a 400 for the whole request, with all its other tools.

What is made is for the model. A rule that cannot be said is left out, and an argument of which only
some branches speak has what they say: so arguments are checked against the schema that was given.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["fit", "fit_name"]

Schema = dict[str, Any]

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""Anthropic's rule for the names of arguments."""

TOOL_NAME = 64
"""Characters of a tool's name (OpenAI; letters, digits, _ and -)."""

MAX_DEPTH = 16
MAX_SCHEMAS = 2_000
"""Beyond these a schema becomes {}, which takes anything: definitions that use each other grow to
any size when they are written out."""

TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
OTHER_TYPES = {
    "str": "string",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "dict": "object",
    "map": "object",
}

TEXTS = ("title", "description", "format")
NUMBERS = ("minimum", "maximum", "multipleOf")
COUNTS = (
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
)
FREE = ("default", "examples")
"""Keywords with any value; all others are left out, but for those that `_Fitting` knows."""


def fit(schema: object) -> Schema:
    """The schema for providers: an object on top with its `properties`; no `$schema`, no `$ref`,
    and on top none of anyOf, oneOf, allOf, enum and not (OpenAI's rule).

    Raises ValueError with words if no arguments can be given by name.
    """
    fitting = _Fitting(schema if isinstance(schema, dict) else {})
    return fitting.top()


def fit_name(name: str) -> str:
    """The name of a tool, as every provider takes it; two names stay two."""
    fitted = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if fitted == name and 0 < len(name) <= TOOL_NAME:
        return name
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{fitted[: TOOL_NAME - 9]}_{mark}"


BESIDE = {*TEXTS[:2], *FREE, "$schema", "$id", "$comment", "$defs", "definitions", "deprecated"}
"""Keywords that are no rules: beside a reference they replace those of what it names."""


class _Fitting:
    """One schema on its way: references are written out."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = MAX_SCHEMAS

    def top(self) -> Schema:
        given = self._resolved(self._root, ())[0]
        kinds = _types(given.get("type"), nullable=False)
        if kinds and "object" not in kinds:
            raise ValueError(f"the arguments of a tool are an object, and not of type {kinds[0]}")
        properties, required = self._flat(given, (), 0)
        if bad := [name for name in required if not NAME.fullmatch(name)]:
            raise ValueError(f"the argument {bad[0]!r} has to be named with {NAME.pattern}")
        fitting = {name: value for name, value in properties.items() if NAME.fullmatch(name)}
        closed = given.get("additionalProperties") is False and len(fitting) == len(properties)
        made: Schema = {"type": "object"}
        made |= {key: given[key] for key in TEXTS[:2] if isinstance(given.get(key), str)}
        made["properties"] = fitting
        if required:
            made["required"] = required
        if closed and not _branches(given) and not given.get("patternProperties"):
            made["additionalProperties"] = False
        return made

    def _flat(
        self, given: Mapping[str, Any], path: tuple[str, ...], depth: int
    ) -> tuple[Schema, list[str]]:
        """The properties of an object and all its branches, and those that each requires."""
        properties = self._properties(given, path, depth)
        required = _required(given)
        for keyword, branches in _branches(given).items():
            if depth >= MAX_DEPTH or self._left <= 0:
                break
            needed: list[list[str]] = []
            for branch in branches:
                resolved, inner = self._resolved(branch, path)
                more, needs = self._flat(resolved, inner, depth + 1)
                for name, schema in more.items():
                    properties[name] = _either(properties.get(name), schema)
                needed.append(needs)
            if keyword == "allOf":
                required += [name for needs in needed for name in needs]
            elif keyword in ("anyOf", "oneOf") and needed:
                required += [name for name in needed[0] if all(name in n for n in needed)]
        required = list(dict.fromkeys(required))
        for name in required:
            properties.setdefault(name, {})
        return properties, required

    def _properties(self, given: Mapping[str, Any], path: tuple[str, ...], depth: int) -> Schema:
        properties = given.get("properties")
        if not isinstance(properties, dict):
            return {}
        return {
            name: self._schema(value, path, depth + 1)
            for name, value in properties.items()
            if isinstance(name, str) and value is not False
        }

    def _schema(self, value: object, path: tuple[str, ...], depth: int) -> Schema:
        """A schema below the top. `path` has the references that lead here."""
        self._left -= 1
        if not isinstance(value, dict) or depth > MAX_DEPTH or self._left <= 0:
            return {}
        given, path = self._resolved(value, path)
        made: Schema = {key: given[key] for key in TEXTS if isinstance(given.get(key), str)}
        kinds = _types(given.get("type"), nullable=given.get("nullable") is True)
        if kinds:
            made["type"] = kinds[0] if len(kinds) == 1 else kinds
        made |= _values(given)
        for keyword in ("anyOf", "oneOf", "allOf"):
            if isinstance(given.get(keyword), list) and given[keyword]:
                made[keyword] = [self._schema(one, path, depth + 1) for one in given[keyword]]
        if "array" in kinds or "items" in given or "prefixItems" in given:
            made["items"] = self._items(given, path, depth)
        if "object" in kinds or "properties" in given:
            made |= self._object(given, path, depth)
        return made

    def _items(self, given: Mapping[str, Any], path: tuple[str, ...], depth: int) -> Schema:
        """OpenAI wants `items` in every array; and one schema, no list of them."""
        if "prefixItems" in given or isinstance(given.get("items"), list):
            return {}
        return self._schema(given.get("items"), path, depth + 1)

    def _object(self, given: Mapping[str, Any], path: tuple[str, ...], depth: int) -> Schema:
        made: Schema = {}
        properties = self._properties(given, path, depth)
        required = _required(given)
        if properties or required:
            made["properties"] = properties | {
                name: {} for name in required if name not in properties
            }
        if required:
            made["required"] = required
        more = given.get("additionalProperties")
        if isinstance(more, dict):
            made["additionalProperties"] = self._schema(more, path, depth + 1)
        elif isinstance(more, bool) and not given.get("patternProperties"):
            made["additionalProperties"] = more
        return made

    def _resolved(
        self, value: object, path: tuple[str, ...]
    ) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """A schema with what its `$ref` names, and the references behind which it stands."""
        given: Mapping[str, Any] = value if isinstance(value, dict) else {}
        while isinstance(reference := given.get("$ref"), str):
            rest = {name: inner for name, inner in given.items() if name != "$ref"}
            if reference in path:
                return rest, path  # it is within itself
            if rules := {name: inner for name, inner in rest.items() if name not in BESIDE}:
                notes = {name: inner for name, inner in rest.items() if name in BESIDE}
                return {**notes, "allOf": [{"$ref": reference}, rules]}, path
            path = (*path, reference)
            given = {**self._at(reference), **rest}
        return given, path

    def _at(self, reference: str) -> Mapping[str, Any]:
        """What a reference within the schema names; {} for all others."""
        if reference != "#" and not reference.startswith("#/"):
            return {}
        at: object = self._root
        for step in reference.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(at, dict):
                at = at.get(step)
            elif isinstance(at, list) and step.isdecimal() and int(step) < len(at):
                at = at[int(step)]
            else:
                return {}
        return at if isinstance(at, dict) else {}


def _branches(given: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What an object says beside its own properties, by keyword."""
    found: dict[str, list[Any]] = {}
    for keyword in ("allOf", "anyOf", "oneOf"):
        if isinstance(given.get(keyword), list):
            found[keyword] = given[keyword]
    for keyword in ("if", "then", "else"):
        if isinstance(given.get(keyword), dict):
            found[keyword] = [given[keyword]]
    if isinstance(given.get("dependentSchemas"), dict):
        found["dependentSchemas"] = [*given["dependentSchemas"].values()]
    return found


def _either(one: Schema | None, other: Schema) -> Schema:
    """What two branches say of one argument."""
    if one is None or one == other:
        return other
    if set(one) == {"anyOf"}:
        return one if other in one["anyOf"] else {"anyOf": [*one["anyOf"], other]}
    return {"anyOf": [one, other]}


def _required(given: Mapping[str, Any]) -> list[str]:
    required = given.get("required")
    names: Iterable[object] = required if isinstance(required, list) else ()
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _types(value: object, nullable: bool) -> list[str]:
    names = value if isinstance(value, list) else [value]
    texts = [OTHER_TYPES.get(name, name) for name in names if isinstance(name, str)]
    kinds = list(dict.fromkeys(name for name in texts if name in TYPES))
    if len(kinds) != len(dict.fromkeys(texts)):
        return []  # one of them is no type of JSON: anything may come
    if nullable and kinds and "null" not in kinds:
        kinds.append("null")
    return kinds


def _values(given: Mapping[str, Any]) -> Schema:
    """The rules for texts, numbers and choices."""
    made: Schema = {key: given[key] for key in FREE if key in given and _is_json(given[key])}
    made |= {key: given[key] for key in NUMBERS if _is_number(given.get(key))}
    made |= {key: given[key] for key in COUNTS if _is_count(given.get(key))}
    for keyword, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        limit = given.get(keyword)
        if limit is True and plain in made:  # as drafts before 6 say it
            made[keyword] = made.pop(plain)
        elif _is_number(limit):
            made[keyword] = limit
    choices = given.get("enum")
    if "const" in given:
        choices = [given["const"]]
    if isinstance(choices, list) and choices and _is_json(choices):
        made["enum"] = choices
    pattern = given.get("pattern")
    # llama.cpp takes no other ones, and no look-around.
    if isinstance(pattern, str) and re.fullmatch(r"\^(?!.*\(\?).*\$", pattern):
        made["pattern"] = pattern
    if isinstance(given.get("uniqueItems"), bool):
        made["uniqueItems"] = given["uniqueItems"]
    return made


def _is_json(value: object) -> bool:
    """Functions have defaults that are no JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
