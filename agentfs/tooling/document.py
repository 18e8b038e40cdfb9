"""/etc/tools.yaml: the tools that agents of this system may call."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from agentfs.base.models import matching, read_model
from agentfs.model.globs import matches
from agentfs.model.spec import NAME as USER_NAME
from agentfs.model.spec import NamedLimits, Names, seconds
from agentfs.store.live_document import Form

__all__ = ["FILE", "FORM", "Definition", "parse"]

FILE = "tools.yaml"
"""The document's name in /etc."""

DEFAULT = """\
# The tools that agents of this system may call, at /lib/tools/NAME. A valid write takes effect at
# once; an invalid one is refused (EINVAL) and changes nothing. `agentfs tool add` writes it, too.
#
#   weather: {exec: [/usr/local/bin/weather, --json], schema: {type: object, properties: {}}}
#   area: {python: /srv/tools/area.py:area}
#   github: {mcp: [github-mcp, stdio], run_as: tool, secrets: {GITHUB_TOKEN: github}}
#   docs: {mcp: https://docs.example/mcp}
tools: {}
"""

MOST_VALUES = 50_000
"""Of the document: schemas have many."""

MAX_SCHEMA = 64 * 1024
"""Bytes of a declared schema, as JSON."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""What every provider takes as the name of a function."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
SECRET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FUNCTION = re.compile(r"(/[^:\0]*\.py|[A-Za-z_][\w.]*):([A-Za-z_][\w.]*)")
URL = re.compile(r"https?://[^\s/?#@]+(?:[/?][^\s#]*)?")


def _command(words: list[str]) -> list[str]:
    if not words or not words[0]:
        raise ValueError("a list of words was expected, the program first")
    if "/" in words[0] and not words[0].startswith("/"):
        raise ValueError("the program: an absolute path was expected, or a name to be looked up")
    if any("\0" in word for word in words):
        raise ValueError("no word may have a zero byte in it")
    return words


def _absolute(path: str) -> str:
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise ValueError("an absolute path was expected, without ..")
    return os.path.normpath(path)


def _short(schema: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(schema))
    if size > MAX_SCHEMA:
        raise ValueError(f"at most {MAX_SCHEMA} bytes were expected, as JSON it has {size}")
    if schema.get("type", "object") != "object":
        raise ValueError("`type: object` was expected: arguments have names")
    return schema


Command = Annotated[list[str], Field(max_length=256), AfterValidator(_command)]
Name = Annotated[str, matching(NAME, "a name like weather: 1 to 64 of A-Z a-z 0-9 _ -")]
Variable = Annotated[str, matching(VARIABLE, "the name of a variable")]
SecretName = Annotated[str, matching(SECRET, "the name of a secret of /etc/secrets")]
Function = Annotated[
    str, matching(FUNCTION, "/PATH/FILE.py:FUNCTION (absolute), or MODULE:FUNCTION,")
]
Url = Annotated[str, matching(URL, "http:// or https://, and a host,")]
Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
Schema = Annotated[dict[str, Any], AfterValidator(_short)]


class _Limits(NamedLimits):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Entry(BaseModel):
    """One tool: exactly one of `exec`, `python` and `mcp` says what it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exec: Command | None = None
    python: Function | None = None
    mcp: Command | Url | None = None
    description: Annotated[str, Field(max_length=10_000)] = ""
    schema_: Schema | Literal["--schema"] | None = Field(default=None, alias="schema")
    tools: list[str] | None = None
    run_as: Literal["caller", "tool"] = "caller"
    secrets: dict[Variable, SecretName] = {}
    env: dict[Variable, str] = {}
    headers: dict[str, str] = {}
    timeout: Duration | None = None
    start_timeout: Duration | None = None
    read: list[Annotated[str, AfterValidator(_absolute)]] = []
    user: Annotated[str, matching(USER_NAME, "the name of a user")] | None = None
    caps: Names | None = None
    deny: Names = []
    limits: _Limits | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> _Entry:
        faults = []
        if sum(each is not None for each in (self.exec, self.python, self.mcp)) != 1:
            faults.append("one of `exec`, `python` and `mcp` was expected, and no other")
        if self.run_as == "caller":
            kept = ("secrets", "user", "caps", "deny", "limits")
            faults += [
                f"`{key}` needs `run_as: tool`" for key in kept if key in self.model_fields_set
            ]
        if self.mcp is None:
            only = ("tools", "headers", "start_timeout")
            faults += [f"`{key}` is for `mcp`" for key in only if key in self.model_fields_set]
        elif self.schema_ is not None:
            faults.append("`schema`: an MCP server says itself what its tools take")
        if self.headers and not isinstance(self.mcp, str):
            faults.append("`headers` are for an MCP server with a URL")
        if self.schema_ == "--schema" and self.exec is None:
            faults.append("`schema: --schema` is for `exec`")
        if faults:
            raise ValueError("; ".join(faults))
        return self


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tools: Annotated[dict[Name, _Entry], Field(max_length=1000)] = {}


@dataclass(frozen=True, slots=True)
class Definition:
    """A tool, or a server of tools, as the document has it.

    `kind`: exec, python or mcp. `command`: the program and its arguments; of a Python function its
    file and name; nothing of a server with a `url`. `schema`: what it says itself, None if the
    document does not; `says_schema`: the program does, with `--schema`. Times in seconds, None: as
    in the settings. `apart`: it runs as an agent of its own.
    """

    name: str
    kind: Literal["exec", "python", "mcp"]
    command: tuple[str, ...] = ()
    url: str = ""
    description: str = ""
    schema: dict[str, Any] | None = field(default=None, hash=False)
    says_schema: bool = False
    offered: tuple[str, ...] = ("*",)
    apart: bool = False
    secrets: Mapping[str, str] = field(default_factory=dict, hash=False)
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    timeout: float | None = None
    start_timeout: float | None = None
    reads: tuple[str, ...] = ()
    user: str | None = None
    caps: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    limits: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def is_server(self) -> bool:
        return self.kind == "mcp"

    def offers(self, tool: str) -> bool:
        """Whether the document lets agents have this tool of the server."""
        return any(matches(glob, tool) for glob in self.offered)

    @property
    def source(self) -> str:
        """What it is, in words for a person: `exec /usr/bin/jq .`."""
        return f"{self.kind} {self.url or ' '.join(self.command)}"


def parse(text: str) -> dict[str, Definition]:
    """The tools of a document, by name. Raises EINVAL that names every fault."""
    document = read_model(text, _Document, "document", MOST_VALUES)
    return {} if document is None else {n: _read(n, e) for n, e in document.tools.items()}


def _read(name: str, entry: _Entry) -> Definition:
    url = entry.mcp if isinstance(entry.mcp, str) else ""
    if entry.python is not None:
        kind, command = "python", tuple(entry.python.rsplit(":", 1))
    elif entry.exec is not None:
        kind, command = "exec", tuple(entry.exec)
    else:
        kind, command = "mcp", () if url else tuple(entry.mcp or ())
    said = entry.schema_
    limits = {} if entry.limits is None else entry.limits.model_dump(exclude_unset=True)
    return Definition(
        name,
        kind,  # type: ignore[arg-type]  # one of the three
        command,
        url,
        description=entry.description,
        schema=said if isinstance(said, dict) else None,
        says_schema=said == "--schema",
        offered=("*",) if entry.tools is None else tuple(entry.tools),
        apart=entry.run_as == "tool",
        secrets=entry.secrets,
        env=entry.env,
        headers=entry.headers,
        timeout=entry.timeout,
        start_timeout=entry.start_timeout,
        reads=tuple(entry.read),
        user=entry.user,
        caps=None if entry.caps is None else tuple(entry.caps),
        deny=tuple(entry.deny),
        limits=limits,
    )


FORM = Form(FILE, parse, lambda: DEFAULT)
