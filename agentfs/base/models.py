"""Documents that are checked against a pydantic model: every fault at once, each with its line."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from agentfs.base.errors import KernelError
from agentfs.base.yaml_text import MOST_VALUES, YamlError, compose, construct, duplicates, line_of

__all__ = ["Fault", "check_whole", "matching", "read_model", "validated"]

M = TypeVar("M", bound=BaseModel)

Fault = tuple[tuple[str | int, ...], str]
"""Where something is wrong, and what was expected there."""

MOST_FAULTS = 20
"""Faults that are told at once: enough to begin with."""


EXPECTED = {
    "model_type": "a map of keys was expected",
    "dict_type": "a map was expected",
    "string_type": "text was expected; put it in quotes",
    "extra_forbidden": "there is no such key",
}
"""Plainer words for some of pydantic's faults."""


def matching(pattern: re.Pattern[str], wanted: str) -> AfterValidator:
    """For a text that matches a pattern as a whole; of another it says that `wanted` was
    expected."""

    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{wanted} was expected")
        return text

    return AfterValidator(check)


def check_whole(whole: str, given: Any, check: Callable[[Any], M], between: Iterable[Fault]) -> M:
    """For a validator that wraps a model: what `check(given)` makes, if that finds no fault, and
    nothing is wrong `between` its parts; else ValidationError with both."""
    made, found = None, []
    try:
        made = check(given)
    except ValidationError as bad:
        found = [_detail(fault["loc"], fault["msg"], fault["type"]) for fault in bad.errors()]
    found += [_detail(where, words) for where, words in between]
    if found or made is None:
        raise ValidationError.from_exception_data(whole, found)
    return made


def _detail(where: tuple[str | int, ...], words: str, kind: Any = "value") -> InitErrorDetails:
    error = PydanticCustomError(kind, "{said}", {"said": words})
    return InitErrorDetails(type=error, loc=where, input=None)


def read_model(text: str, model: type[M], whole: str, most: int = MOST_VALUES) -> M | None:
    """What the document `text`, a YAML text of at most `most` values, says; None if it is empty.

    Raises EINVAL: `line N: WHERE: what was expected` for each fault, where `whole` stands for the
    document itself. If keys are there twice, they are the only faults that are told.
    """
    try:
        node = compose(text, most)
        twice = [] if node is None else _twice(node)
        given = None if node is None else construct(node)
    except YamlError as bad:
        raise KernelError(errno.EINVAL, f"line {bad.line}: not YAML: {bad.what}") from None
    if node is None or given is None:
        return None
    if twice:
        raise KernelError(errno.EINVAL, _told(twice))
    try:
        return model.model_validate(given)
    except ValidationError as bad:
        said = [f"line {_line(node, path)}: {words}" for path, words in _faults(bad, whole)]
        raise KernelError(errno.EINVAL, _told(said)) from None


def validated(given: object, model: type[M], whole: str) -> M:
    """The same of a value that was read already, as JSON: `WHERE: what was expected`."""
    try:
        return model.model_validate(given)
    except ValidationError as bad:
        said = [words for _, words in _faults(bad, whole)]
        raise KernelError(errno.EINVAL, _told(said)) from None


def _faults(bad: ValidationError, whole: str) -> Iterator[Fault]:
    """Each fault: where, and in words."""
    for fault in bad.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(map(str, fault["loc"])) or whole
        words = EXPECTED.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
        yield fault["loc"], f"{where}: {words}"


def _told(faults: list[str]) -> str:
    more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
    return "; ".join(faults[:MOST_FAULTS] + more)


def _twice(node: yaml.Node) -> list[str]:
    """Keys that are there twice: nobody knows which of the two values was meant."""
    return [
        f"line {line}: `{key:.60}` is there twice, first in line {first}"
        for line, key, first in sorted(duplicates(node))
    ]


def _line(node: yaml.Node, path: Sequence[int | str]) -> int:
    """The line of the node at `path` below `node`, or of the nearest one above it. Since the map
    was constructed, merged keys are a part of it."""
    line = line_of(node)
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = [pair for pair in node.value if pair[0].value == str(step)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            found = [(each, each) for each in node.value[step : step + 1]]
        else:
            found = []
        if not found:
            break
        key, node = found[-1]
        line = line_of(key)
    return line
