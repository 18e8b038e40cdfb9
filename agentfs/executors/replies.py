"""What an agent, or a model, has answered: text, or the JSON value that was asked for."""

from __future__ import annotations

import json
import re
from typing import Any

from agentfs.manifests.schema import Schema

__all__ = ["REPAIRS", "asked_for", "complaint", "plain_value", "read_value"]

REPAIRS = 2
"""How often an answer that does not fit is sent back with words."""

SHOWN = 2000
"""Characters of a complaint that are sent back."""

_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)\n?[ \t]*```", re.S)


def asked_for(schema: dict[str, Any]) -> str:
    """The words that ask for a value which fits `schema`."""
    text = json.dumps(schema, ensure_ascii=False)
    return f"Answer with one JSON value, and nothing else, that fits this JSON Schema:\n{text}\n"


def plain_value(text: str) -> Any:
    """An answer for which there is no schema: a JSON object or list, or the text as it is."""
    stripped = text.strip()
    if stripped[:1] in ("{", "["):
        try:
            return _loads(stripped)
        except ValueError:
            pass
    return text.removesuffix("\n")


def read_value(text: str, schema: dict[str, Any]) -> tuple[Any, str]:
    """The value in an answer, and what is wrong with it; "" if it fits. It may stand in a fenced
    block, with words around that."""
    fenced = _FENCE.search(text)
    for candidate in (text.strip(), fenced[1] if fenced else ""):
        try:
            value = _loads(candidate)
        except ValueError:
            continue
        return value, Schema(schema).check(value)
    return None, "$: it is no JSON"


def complaint(words: str, schema: dict[str, Any]) -> str:
    """What is sent back."""
    return f"That does not fit: {words[:SHOWN]}\n\n{asked_for(schema)}"


def _loads(text: str) -> Any:
    """Raises ValueError, for NaN and the like too: they are no JSON."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("too deep") from None


def _refuse(constant: str) -> Any:
    raise ValueError(constant)
