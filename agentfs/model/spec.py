"""The definition of an agent as people write it: YAML or JSON, checked whole, refused by line."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from agentfs.base.errors import KernelError
from agentfs.base.models import read_model
from agentfs.model.capability import canonical, canonical_tool

__all__ = [
    "NAME",
    "Maximum",
    "NamedLimits",
    "ProcessSpec",
    "SpecLimits",
    "parse_spec",
    "seconds",
]

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""The letters of an agent's name, and how many it has."""

MAX_METADATA = 4096
"""Bytes of `metadata` as JSON: it is part of the record of a process, which is written with every
change of state."""

MAX_NAMES = 64
"""How many tools and capabilities a definition may list; a glob stands for any number."""

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: object) -> float:
    """A duration as the tree writes it (`90s`, `10m`, `2h`, `7d`, or plain seconds), in seconds.

    Raises ValueError.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)?", str(text).strip())
    if match is None or isinstance(text, bool):
        raise ValueError("a duration like 90s, 10m, 2h or 7d was expected")
    return float(match[1]) * UNITS[match[2] or "s"]


def _command(given: object) -> object:
    """A string is run by the shell, a list as it is."""
    if isinstance(given, str):
        return ["/bin/sh", "-c", given]
    return given


Duration = Annotated[float, BeforeValidator(seconds)]


def _none_for_max(given: object) -> object:
    return None if given == "max" else given


Maximum = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_none_for_max)]
Cost = Annotated[
    Annotated[float, Field(ge=0, allow_inf_nan=False)] | None, BeforeValidator(_none_for_max)
]


GroupPath = Annotated[str, AfterValidator(lambda path: path.strip("/"))]


class NamedLimits(BaseModel):
    """Every limit by its name; `max` is none."""

    max_children: Maximum = None
    max_concurrent_tasks: Maximum = None
    timeout_seconds: Maximum = None
    max_tokens_per_hour: Maximum = None
    max_tokens_total: Maximum = None
    max_context_tokens: Maximum = None
    max_llm_calls: Maximum = None
    max_tool_calls: Maximum = None
    max_cost_usd: Cost = None
    messages_per_minute: Maximum = None
    max_memory_mb: Maximum = None
    max_cpu_seconds: Maximum = None
    max_pids: Maximum = None
    calls_per_minute: Maximum = None
    spawns_per_minute: Maximum = None
    signals_per_minute: Maximum = None
    claims_per_minute: Maximum = None
    artifacts_per_minute: Maximum = None
    llm_calls_per_minute: Maximum = None
    tool_calls_per_minute: Maximum = None


class SpecLimits(NamedLimits):
    """Limits as a spec names them; what is left out has its default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    max_children: Maximum = 10
    max_concurrent_tasks: Maximum = 5
    timeout_seconds: Maximum = 300
    max_tokens_per_hour: Maximum = 100_000
    max_tokens_total: Maximum = 1_000_000
    max_context_tokens: Maximum = 128_000
    max_pids: Maximum = 1024


def _named(check: Callable[[str], str]) -> Callable[[str], str]:
    """`check`, as pydantic wants it: a ValueError for what it refuses."""

    def validate(name: str) -> str:
        try:
            return check(name)
        except KernelError as bad:
            raise ValueError(bad.reason) from None

    return validate


Names = Annotated[
    list[Annotated[str, AfterValidator(_named(canonical))]], Field(max_length=MAX_NAMES)
]
Tools = Annotated[
    list[Annotated[str, AfterValidator(_named(canonical_tool))]], Field(max_length=MAX_NAMES)
]


def _group_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError("a name like backend was expected: 1 to 64 of A-Z a-z 0-9 . _ -")
    return name


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ValueError("an absolute path was expected, without ..")
    return os.path.normpath(path)


def _short(metadata: dict[str, str]) -> dict[str, str]:
    size = len(json.dumps(metadata))
    if size > MAX_METADATA:
        raise ValueError(f"at most {MAX_METADATA} bytes were expected, as JSON it has {size}")
    return metadata


class ProcessSpec(BaseModel):
    """What `/proc/PID/spawn` and `/agents/NAME/spec.yaml` take.

    `tools`: those that it is to call; the spawn is refused if it may not. `caps`: the capabilities
    that it has of its parent's; all of them if it is left out, none for `[]`. `deny`: those that it
    and everything below it never has. `read`: files and folders of the machine that it may read
    although it is denied `host_read`. `budget`: tokens by tier, reserved from the parent's; for a
    tier that is left out it draws on what its parent draws on. `group`: a group of /sys/cgroup
    (`team/a`) instead of its parent's; "" is none. `restart_notice`: whether it is told by mail
    that its program was started again. `prompt`: its work in words, for its program to read.
    `groups`: names of what it belongs to, and `metadata`: anything else by name; both are there to
    be read, and grant nothing.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = ""
    exec: Annotated[list[str], BeforeValidator(_command)] = []
    role: Literal["kernel", "daemon", "agent", "architect", "lead", "worker", "task"] = "agent"
    tier: Literal["strategic", "tactical", "operational"] | None = None
    model: str | None = None
    restart: Literal["always", "on-failure", "never"] | None = None
    heartbeat: Duration = 0.0
    restart_notice: bool = True
    env: dict[str, str] = {}
    cwd: str | None = None
    user: str | None = None
    tools: Tools = []
    limits: SpecLimits = SpecLimits()
    on_limit: Literal["raise", "skip", "stop"] = "raise"
    caps: Names | None = None
    deny: Names = []
    read: Annotated[
        list[Annotated[str, AfterValidator(_absolute)]], Field(max_length=MAX_NAMES)
    ] = []
    budget: dict[Literal["strategic", "tactical", "operational"], Annotated[int, Field(ge=0)]] = {}
    group: GroupPath | None = None
    prompt: str = ""
    groups: Annotated[
        list[Annotated[str, AfterValidator(_group_name)]], Field(max_length=MAX_NAMES)
    ] = []
    metadata: Annotated[dict[str, str], AfterValidator(_short)] = {}

    def told(self) -> bytes:
        """What it says, as JSON, for the one who approves it."""
        return json.dumps(self.model_dump(exclude_unset=True), indent=1).encode()


def parse_spec(text: str) -> ProcessSpec:
    """Read a definition. Raises EINVAL with every fault in the reason."""
    spec = read_model(text, ProcessSpec, "definition")
    if spec is None:
        raise KernelError(
            errno.EINVAL, "a definition is a map of keys: `name:`, `exec:`, `role:` …"
        )
    return spec
