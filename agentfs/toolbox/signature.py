"""The schema of a Python function, from its signature and its docstring."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["SignatureError", "converted", "described"]

SCALARS: dict[object, dict[str, Any]] = {
    str: {"type": "string"},
    bytes: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    set: {"type": "array"},
}
TEXTS = {
    "Path": "path",
    "PurePath": "path",
    "datetime": "date-time",
    "date": "date",
    "UUID": "uuid",
}
"""Classes of the standard library that are written as texts, and their `format`."""

SECTION = re.compile(r"^\s*(Args|Arguments|Parameters|Params)\s*:?\s*$", re.I)
OTHER = re.compile(r"^\s*(Returns?|Raises?|Yields?|Examples?|Notes?)\s*:?\s*$", re.I)
GOOGLE = re.compile(r"^\s+(\*{0,2}\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
SPHINX = re.compile(r"^\s*:param\s+(?:[^:]*\s)?(\w+)\s*:\s*(.*)$")


class SignatureError(Exception):
    """No arguments of JSON can be made for such a function."""


def described(function: Callable[..., Any]) -> dict[str, Any]:
    """`{"name", "description", "parameters"}`. Raises SignatureError."""
    about, of_each = _doc(inspect.getdoc(function) or "")
    properties: dict[str, Any] = {}
    required: list[str] = []
    open_ended = False
    hints = _hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
            continue
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise SignatureError(f"{name}: arguments have names, and this one takes none")
        found = dict(_schema(hints.get(name, Any)))
        if name in of_each and "description" not in found:
            found["description"] = of_each[name]
        if parameter.default is parameter.empty:
            required.append(name)
        else:
            with_default = _plain(parameter.default)
            if with_default is not None:
                found["default"] = with_default[0]
        properties[name] = found
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    parameters["additionalProperties"] = open_ended
    return {"name": function.__name__, "description": about, "parameters": parameters}


def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001  # a name that exists for type checkers only
        return {}


def _plain(value: object) -> tuple[object] | None:
    """A default as JSON, in a tuple; None if it cannot be written."""
    if isinstance(value, enum.Enum):
        value = value.value
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return None
    return (value,)


def _schema(hint: Any) -> dict[str, Any]:
    """The schema of a type; of one that nobody knows it says nothing."""
    if hint in SCALARS:
        return SCALARS[hint]
    origin, given = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        words = next((each for each in given[1:] if isinstance(each, str)), None)
        return dict(_schema(given[0])) | ({"description": words} if words else {})
    if origin is typing.Literal:
        return _one_of(given)
    if origin in (typing.Union, types.UnionType):
        return _union([_schema(each) for each in given])
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return {"type": "object", "additionalProperties": _schema(given[1]) if given else {}}
    if isinstance(origin, type) and issubclass(origin, Iterable):
        items = _schema(given[0]) if given else {}
        return {"type": "array", "items": items} if items else {"type": "array"}
    return _of_class(hint) if isinstance(hint, type) else {}


def _of_class(hint: type) -> dict[str, Any]:
    if issubclass(hint, enum.Enum):
        return _one_of([each.value for each in hint])
    if hasattr(hint, "model_json_schema"):  # pydantic
        found: dict[str, Any] = hint.model_json_schema()
        return found
    if dataclasses.is_dataclass(hint) or typing.is_typeddict(hint):
        hints = _hints(hint)
        found = {
            "type": "object",
            "properties": {name: _schema(each) for name, each in hints.items()},
        }
        needed = _needed(hint)
        return found | ({"required": needed} if needed else {})
    if hint.__name__ in TEXTS:
        return {"type": "string", "format": TEXTS[hint.__name__]}
    return {}


def _needed(hint: type) -> list[str]:
    if not dataclasses.is_dataclass(hint):
        return sorted(getattr(hint, "__required_keys__", ()))
    missing = dataclasses.MISSING
    return [
        each.name
        for each in dataclasses.fields(hint)
        if each.default is missing and each.default_factory is missing
    ]


def _one_of(values: Iterable[Any]) -> dict[str, Any]:
    values = list(values)
    kinds = {json.dumps(SCALARS.get(type(value), {}), sort_keys=True) for value in values}
    kind = SCALARS.get(type(values[0]), {}) if len(kinds) == 1 and values else {}
    return dict(kind) | {"enum": values}


def _union(parts: list[dict[str, Any]]) -> dict[str, Any]:
    if len(parts) > 1 and all(set(part) == {"type"} for part in parts):
        return {"type": list(dict.fromkeys(part["type"] for part in parts))}
    return {"anyOf": parts}


def _doc(text: str) -> tuple[str, dict[str, str]]:
    """(what the function does, what each parameter is), in the styles of Google, Sphinx, NumPy."""
    about: list[str] = []
    of_each: dict[str, str] = {}
    inside, name = "", ""
    for line in text.splitlines():
        sphinx = SPHINX.match(line)
        if sphinx:
            inside, name = "args", sphinx[1]
            of_each[name] = sphinx[2]
        elif SECTION.match(line):
            inside, name = "args", ""
        elif OTHER.match(line) or line.lstrip().startswith(":"):
            inside, name = "other", ""
        elif not inside:
            about.append(line)
        elif inside == "args":
            google, numpy = GOOGLE.match(line), re.match(r"^(\w+)\s*:\s*\S", line)
            if google and (not name or _indent(line) <= 4):
                name = google[1].lstrip("*")
                of_each[name] = google[2]
            elif numpy or re.fullmatch(r"\w+", line):
                name = re.split(r"\W", line)[0]
                of_each[name] = ""
            elif name and line.strip() and not set(line.strip()) <= set("-="):
                of_each[name] = f"{of_each[name]} {line.strip()}".strip()
    return "\n".join(about).strip(), {name: words for name, words in of_each.items() if words}


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def converted(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the types that the function asks for: enumerations, dataclasses, models of
    pydantic, paths, sets. Everything else is as JSON gives it."""
    hints = _hints(function)
    return {name: _converted(hints.get(name, Any), value) for name, value in arguments.items()}


def _converted(hint: Any, value: Any) -> Any:
    origin, given = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _converted(given[0], value)
    if origin in (typing.Union, types.UnionType):
        kinds = [each for each in given if each is not type(None)]
        return _converted(kinds[0], value) if len(kinds) == 1 and value is not None else value
    if isinstance(value, list) and isinstance(origin, type) and origin is not list:
        items = [_converted(given[0], each) if given else each for each in value]
        return origin(items) if origin in (tuple, set, frozenset) else items
    if isinstance(value, list) and origin is list:
        return [_converted(given[0], each) for each in value]
    if not isinstance(hint, type):
        return value
    if issubclass(hint, enum.Enum) or hint.__name__ == "Path":
        return hint(value)
    if hasattr(hint, "model_validate"):
        return hint.model_validate(value)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = _hints(hint)
        return hint(
            **{name: _converted(hints.get(name, Any), each) for name, each in value.items()}
        )
    if hint is bytes and isinstance(value, str):
        return value.encode()
    return hint(value) if hint in (set, tuple) and isinstance(value, list) else value
