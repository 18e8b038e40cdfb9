"""Capabilities as values: their names, sets of them, and what such sets have in common.

A set has what several lists allow at once, without what is denied. Lists of tools stay apart: what
`tool:web_*` and `tool:*_get` have in common is a list of globs that grows with every wildcard, so
each list is asked whether a tool is in it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.model.globs import Effort, TooMuchError, covers, matches, meet, reduced

__all__ = [
    "DEFAULTS",
    "EVERYTHING",
    "IMPLIED",
    "NEEDS",
    "NOTHING",
    "VOCABULARY",
    "CapabilitySet",
    "Ceiling",
    "canonical",
    "canonical_tool",
]

TOOL_PREFIX = "tool:"
"""Before the name of a tool it is the capability to call it."""

VOCABULARY = {
    "spawn_children": "start processes of its own (also called spawner)",
    "kill_processes": "signal other processes, as far as its role lets it",
    "manage_tree": "give processes another parent",
    "shell_exec": "start programs other than its own; tools that run commands",
    "network_access": "use the network of the machine",
    "file_write": "change files in /shared and of the machine; tools that write files",
    "file_read": "open files in /shared",
    "host_read": "read files of the machine; everybody may to whom it is not denied by name",
    "budget_allocate": "hand out of its budget",
    "escalate": "put something before its parent",
    "broadcast": "write to everybody at once",
    "llm": "call models",
    "memory": "use its own durable files",
    "datastore.read": "read what is in shared memory",
    "datastore.write": "store, replace and remove in shared memory",
    "tool:GLOB": "call the tools of these names; * stands for any text",
    "secret": "have and read the environment of its definition",
}
"""Every name, and what it lets a process do. `*` alone is all of them."""

IMPLIED = frozenset({"host_read"})
"""Capabilities that a process has without their being named, unless they are denied by name. Lists
that are older than such a capability would otherwise close programs off from what they read."""

PLAIN = tuple(name for name in VOCABULARY if name != "tool:GLOB" and name not in IMPLIED)
ALIASES = {"spawner": "spawn_children"}

TOOL = re.compile(r"[A-Za-z0-9._/:-]{1,64}")
GLOB = re.compile(r"[A-Za-z0-9._/:*-]{1,64}")
MAX_WILDCARDS = 4  # in one glob: what two have in common grows with each of them

NEEDS = {
    "shell_exec": "shell_exec",
    "bash": "shell_exec",
    "terminal": "shell_exec",
    "file_write": "file_write",
    "write_file": "file_write",
}
"""Tools that do what a capability of its own is for. That one lets them be called, and `tool:` does
not, as in HiveKernel's tool validation."""

_ALL_ROLES = ("llm", "memory", "tool:*", "datastore.read")
_WORKING = ("spawn_children", "kill_processes", "shell_exec", "network_access")
_FILES = ("file_write", "file_read")
_KEPT = ("datastore.write", "secret")

DEFAULTS: dict[str, tuple[str, ...]] = {
    "kernel": ("*",),
    "daemon": (
        *_WORKING,
        "manage_tree",
        "file_read",
        "budget_allocate",
        "escalate",
        "broadcast",
        *_ALL_ROLES,
        *_KEPT,
    ),
    "agent": (*_WORKING, *_FILES, "budget_allocate", "escalate", *_ALL_ROLES, *_KEPT),
    "architect": (*_FILES, "escalate", *_ALL_ROLES, *_KEPT),
    "lead": (*_WORKING, *_FILES, "budget_allocate", "escalate", *_ALL_ROLES, *_KEPT),
    "worker": (*_WORKING, *_FILES, "escalate", *_ALL_ROLES, *_KEPT),
    "task": ("file_read", "escalate", *_ALL_ROLES),
}
"""What each role has at most, unless /etc/roles.yaml says otherwise. It is HiveKernel's table, with
the names of workflows in it, and with commands for every role but architect and task, because here
programs are shell scripts and people's programs, too."""


def canonical(given: str) -> str:
    """A name or tool glob as it is kept. Raises EINVAL for one that there is not."""
    name = ALIASES.get(given, given)
    if name == "*" or name in PLAIN or name in IMPLIED:
        return name
    domain, colon, glob = name.partition(":")
    if domain != "tool" or not colon:
        known = ", ".join(VOCABULARY)
        raise KernelError(errno.EINVAL, f"there is no capability {given!r}: {known}, or * for all")
    if not GLOB.fullmatch(glob) or glob.count("*") > MAX_WILDCARDS:
        raise KernelError(
            errno.EINVAL,
            f"{given!r}: after `tool:` comes a name, 1 to 64 of A-Z a-z 0-9 . _ - / :, with * for"
            f" any text, at most {MAX_WILDCARDS} times",
        )
    return "tool:" + re.sub(r"\*+", "*", glob)


def canonical_tool(given: str) -> str:
    """The name of one tool. Raises EINVAL."""
    if not TOOL.fullmatch(given):
        raise KernelError(
            errno.EINVAL,
            f"{given!r} is no name of a tool: 1 to 64 of A-Z a-z 0-9 . _ - / : were expected",
        )
    return given


def _tools(names: Iterable[str]) -> list[str]:
    """The globs among `names`, without the `tool:` before them."""
    return [name[5:] for name in names if name.startswith("tool:")]


@dataclass(frozen=True)
class CapabilitySet:
    """What a process may. Made with `of`; compared by what it was made of.

    `names` are the plain ones. `tools` are lists of globs: a tool has to match one of each list.
    `denied` is taken away from both.
    """

    names: frozenset[str]
    tools: tuple[tuple[str, ...], ...]
    denied: frozenset[str] = frozenset()

    @cached_property
    def _hash(self) -> int:
        return hash((self.names, self.tools, self.denied))

    def __hash__(self) -> int:
        return self._hash  # asked for with every call that needs a capability

    @classmethod
    def of(cls, allowed: Iterable[str], denied: Iterable[str] = ()) -> CapabilitySet:
        """A declared list: names and tool globs, `*` for all. Raises EINVAL for unknown ones."""
        names = {canonical(name) for name in allowed}
        if "*" in names:
            names = {*PLAIN, "tool:*"}
        return cls(
            frozenset(name for name in names if name in PLAIN),
            (tuple(reduced(_tools(names))),),
            frozenset(),
        ).without(denied)

    def __and__(self, other: CapabilitySet) -> CapabilitySet:
        """What both allow, and neither denies."""
        lists = list(dict.fromkeys(self.tools + other.tools))
        tools = tuple(
            each
            for each in lists
            if not any(_implies(strict, each) for strict in lists if strict is not each)
        )
        return CapabilitySet(self.names & other.names, tools, self.denied | other.denied)

    def within(self, other: CapabilitySet) -> bool:
        """Whether everything that this allows is allowed by `other`. Where lists of tools cannot be
        compared it says no."""
        if any(self.allows(name) and not other.allows(name) for name in (*PLAIN, *IMPLIED)):
            return False
        if "*" in self.denied or () in self.tools:
            return True  # it has no tools
        if not all(any(_implies(mine, theirs) for mine in self.tools) for theirs in other.tools):
            return False
        mine = self._denied_tools
        return all(any(covers(no, glob) for no in mine) for glob in other._denied_tools)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "names": sorted(self.names),
            "tools": [list(each) for each in self.tools],
            "denied": sorted(self.denied),
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> CapabilitySet:
        """The set that gave this record."""
        tools = tuple(tuple(each) for each in record["tools"])
        return cls(frozenset(record["names"]), tools, frozenset(record["denied"]))

    def without(self, denied: Iterable[str]) -> CapabilitySet:
        """The same without these. Raises EINVAL for unknown ones."""
        names = frozenset(canonical(name) for name in denied)
        return CapabilitySet(self.names, self.tools, self.denied | names)

    def allows(self, name: str) -> bool:
        """Whether capability `name` is in it; `tool:NAME` asks for one tool."""
        if self.denies(name):
            return False
        if not name.startswith(TOOL_PREFIX):
            return name in self.names or name in IMPLIED
        tool = name.removeprefix(TOOL_PREFIX)
        if tool in NEEDS:
            return NEEDS[tool] in self.names
        return all(any(matches(glob, tool) for glob in each) for each in self.tools)

    def denies(self, name: str) -> bool:
        """Whether `name` is denied by name, and not just left out."""
        if name in self.denied or "*" in self.denied:
            return True
        if not name.startswith(TOOL_PREFIX):
            return False
        tool = name.removeprefix(TOOL_PREFIX)
        if NEEDS.get(tool) in self.denied:
            return True
        return any(matches(glob, tool) for glob in self._denied_tools)

    @cached_property
    def _denied_tools(self) -> tuple[str, ...]:
        return tuple(reduced(_tools(self.denied)))

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """What it allows, in as few lines as a person needs: plain names; `-NAME` for what is
        denied of `IMPLIED`; `tool:GLOB`; and `-tool:GLOB` for tools among them that are denied.
        Lists that have too much in common to be written out follow as `& tool:GLOB …`: a tool has
        to be in each."""
        if "*" in self.denied:
            return ()
        lines = [name for name in PLAIN if name in self.names and name not in self.denied]
        lines += [f"-{name}" for name in sorted(IMPLIED & self.denied)]
        effort = Effort(MOST_EFFORT)
        common, rest = ["*"], []
        for each in self.tools:
            try:
                common = _common(common, each, effort)
            except TooMuchError:
                rest.append("& " + " ".join(f"tool:{glob}" for glob in each))
        denied = self._denied_tools
        common = [glob for glob in common if not any(covers(no, glob) for no in denied)]
        less = [no for no in denied if any(_touch(no, glob, effort) for glob in common)]
        tools = [f"tool:{glob}" for glob in common] + [f"-tool:{no}" for no in less]
        return (*lines, *tools, *(rest if common else ()))


MOST_EFFORT = 20_000
"""Steps of about a microsecond: a look at `effective` may cost the rest of the system so much."""

MOST_LINES = 32
"""How many tool globs are written out at most."""


def _common(some: Iterable[str], others: Iterable[str], effort: Effort) -> list[str]:
    """What two lists of globs have in common. Raises TooMuchError."""
    found = reduced(part for one in some for two in others for part in meet(one, two, effort))
    effort.spend(len(found))
    if len(found) > MOST_LINES:
        raise TooMuchError
    return found


def _touch(one: str, two: str, effort: Effort) -> bool:
    """Whether the two have, or may have, a name in common."""
    try:
        return bool(meet(one, two, effort))
    except TooMuchError:
        return True


def _implies(strict: tuple[str, ...], loose: tuple[str, ...]) -> bool:
    """Whether the list `loose` allows everything that `strict` allows."""
    return all(any(covers(wide, glob) for wide in loose) for glob in strict)


EVERYTHING = CapabilitySet.of(["*"])
NOTHING = CapabilitySet.of([])

KEPT = 1024
"""Ceilings that are kept, for the next process that has the same one."""


@dataclass(frozen=True)
class Ceiling:
    """What the parent of a process had when the process was spawned; nothing widens it later.

    `roles` are those of all its ancestors then. So the table of a role, as it is now, bounds
    everything that came from a process of that role. `grant` is what the ancestors had declared and
    denied.
    """

    roles: tuple[str, ...]
    grant: CapabilitySet

    @cached_property
    def _hash(self) -> int:
        return hash((self.roles, self.grant))

    def __hash__(self) -> int:
        return self._hash

    def record(self) -> dict[str, Any]:
        """As JSON. Without what nobody narrowed: it is written with every change of a
        state."""
        record: dict[str, Any] = {"roles": list(self.roles)}
        grant = self.grant
        if grant.names != EVERYTHING.names:
            record["names"] = sorted(grant.names)
        if grant.tools != EVERYTHING.tools:
            record["tools"] = [list(each) for each in grant.tools]
        if grant.denied:
            record["denied"] = sorted(grant.denied)
        return record

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Ceiling:
        """The ceiling that gave this record."""
        names, tools = record.get("names"), record.get("tools")
        return _read(
            tuple(record["roles"]),
            None if names is None else tuple(names),
            None if tools is None else tuple(tuple(each) for each in tools),
            tuple(record.get("denied", ())),
        )


@lru_cache(maxsize=KEPT)
def _read(
    roles: tuple[str, ...],
    names: tuple[str, ...] | None,
    tools: tuple[tuple[str, ...], ...] | None,
    denied: tuple[str, ...],
) -> Ceiling:
    """One ceiling for all records that say the same."""
    grant = CapabilitySet(
        EVERYTHING.names if names is None else frozenset(names),
        EVERYTHING.tools if tools is None else tools,
        frozenset(denied),
    )
    return Ceiling(roles, grant)
