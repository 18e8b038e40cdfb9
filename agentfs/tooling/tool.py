"""A tool as an agent is shown it."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.dialects.schema import fit, fit_name
from agentfs.tooling.document import Definition

__all__ = ["Tool", "named", "tools_of"]

MOST_WORDS = 16 * 1024
"""Characters of a description: all of it is in every request to a model."""

MAX_SCHEMA = 64 * 1024
"""Bytes of a schema, as JSON."""

MOST_TOOLS = 500
"""Of one server."""

ANYTHING: Mapping[str, Any] = {"type": "object", "properties": {}}
"""What a tool takes of which nobody knows more."""


@dataclass(frozen=True, slots=True)
class Tool:
    """`name` is that below /lib/tools, `original` what its server calls it; `schema` as it was
    given: arguments are checked against that."""

    name: str
    definition: Definition
    description: str
    schema: Mapping[str, Any]
    original: str = ""

    def shown(self) -> dict[str, Any]:
        """`{"name", "description", "parameters"}`, as every provider takes it."""
        try:
            parameters = fit(self.schema)
        except ValueError:
            parameters = dict(ANYTHING)
        return {"name": self.name, "description": self.description, "parameters": parameters}

    def help(self) -> str:
        """What it does, what it takes and how it is called, for a person or a model."""
        shown = self.shown()["parameters"]
        required = shown.get("required", ())
        lines = [self.description or f"{self.name} does not say what it does."]
        for name, said in shown["properties"].items():
            kind = said.get("type", "anything")
            kind = kind if isinstance(kind, str) else " or ".join(kind)
            need = "" if name in required else ", optional"
            words = " ".join(str(said.get("description", "")).split())
            lines.append(f"  {name} ({kind}{need}){': ' if words else ''}{words}")
        place = f"/lib/tools/{self.name}/call"
        example = json.dumps({name: f"<{name}>" for name in required}, ensure_ascii=False)
        lines.append(f"Call it: exec 3<>{place}; echo '{example}' >&3; cat <&3; exec 3>&-")
        return "\n".join(lines) + "\n"


def named(definition: Definition, said: object) -> Tool:
    """A tool of the document, with what its program says of itself: `{"description",
    "parameters"}`, or a schema alone. Raises EREMOTEIO."""
    found = said if isinstance(said, dict) else {}
    schema = found.get("parameters", found.get("inputSchema", found))
    if not isinstance(schema, dict):
        raise KernelError(errno.EREMOTEIO, f"{definition.name} says no schema: a map was expected")
    schema = schema or ANYTHING
    if len(json.dumps(schema)) > MAX_SCHEMA:
        raise KernelError(errno.EREMOTEIO, f"the schema of {definition.name} has more than 64 KiB")
    about = definition.description
    if not about and schema is not said:
        about = str(found.get("description", ""))
    return Tool(definition.name, definition, about[:MOST_WORDS], schema)


def tools_of(server: Definition, said: object) -> dict[str, Tool]:
    """The tools that a server says it has, of those that the document offers, by their names here.
    What is none is left out."""
    found: dict[str, Tool] = {}
    for each in said if isinstance(said, list) else ():
        name = each.get("name") if isinstance(each, dict) else None
        schema = each.get("schema") if isinstance(each, dict) else None
        if not isinstance(name, str) or not isinstance(schema, dict) or not server.offers(name):
            continue
        if len(json.dumps(schema)) > MAX_SCHEMA or len(found) >= MOST_TOOLS:
            continue
        ours = fit_name(f"{server.name}_{name}")
        about = str(each.get("description", ""))[:MOST_WORDS]
        found.setdefault(ours, Tool(ours, server, about, schema, original=name))
    return found
