"""What each role may do, and the tiers that it can be of: `/etc/roles.yaml`."""

from __future__ import annotations

import enum
import errno
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import yaml

from agentfs.base.errors import KernelError
from agentfs.base.yaml_document import Pair, YamlDocument
from agentfs.model.capability import DEFAULTS, IMPLIED, canonical
from agentfs.model.process import Role, Tier
from agentfs.store.live_document import Form, checked

__all__ = ["FILE", "FORM", "Action", "RoleEntry", "Roles", "Verdict"]

FILE = "roles.yaml"


class Action(enum.Enum):
    """An action that rules are about. A path says what it is done to."""

    __hash__ = object.__hash__  # members are one of a kind, and are looked up at every call

    SPAWN = "spawn"
    KILL = "kill"
    SEND = "send"
    READ_ARTIFACT = "read_artifact"
    WRITE_ARTIFACT = "write_artifact"
    ESCALATE = "escalate"
    READ_PROCESS = "read_process"
    MANAGE_TREE = "manage_tree"
    READ_FILE = "read_file"
    WRITE_FILE = "write_file"
    TRANSITION = "transition"

    @property
    def words(self) -> str:
        """The action as words of a sentence."""
        return self.value.replace("_", " ")


class Verdict(enum.Enum):
    """What the table says about a role and an action."""

    ALLOW = "allow"
    DENY = "deny"
    """Denied with EPERM, whatever /etc/acl.yaml says."""
    NONE = "-"
    """Denied with EACCES, unless a rule of /etc/acl.yaml allows it."""
    OWN_CHILDREN = "own-children"
    PARENT = "parent"
    """Its parent, what its parent owns, and itself."""
    OWN = "own"


CONDITIONS = {
    Action.KILL: Verdict.OWN_CHILDREN,
    Action.SEND: Verdict.PARENT,
    Action.READ_PROCESS: Verdict.OWN,
}
"""The only verdict of that kind that each of these actions can have."""

_ALL = dict.fromkeys(Action, Verdict.ALLOW)
_WORKING = _ALL | {Action.KILL: Verdict.OWN_CHILDREN, Action.MANAGE_TREE: Verdict.NONE}

ACTIONS: dict[Role, dict[Action, Verdict]] = {
    Role.KERNEL: _ALL,
    Role.DAEMON: _ALL,
    Role.AGENT: _WORKING,
    Role.ARCHITECT: _ALL
    | dict.fromkeys((Action.SPAWN, Action.KILL, Action.MANAGE_TREE), Verdict.NONE),
    Role.LEAD: _ALL | {Action.MANAGE_TREE: Verdict.NONE},
    Role.WORKER: _WORKING,
    Role.TASK: dict.fromkeys(Action, Verdict.NONE)
    | {
        Action.SPAWN: Verdict.DENY,
        Action.SEND: Verdict.PARENT,
        Action.READ_ARTIFACT: Verdict.ALLOW,
        Action.ESCALATE: Verdict.ALLOW,
        Action.READ_PROCESS: Verdict.OWN,
        Action.READ_FILE: Verdict.ALLOW,
    },
}
"""The actions of each role, unless a document says otherwise (docs/permissions.md, Rules)."""


@dataclass(frozen=True)
class RoleEntry:
    """One role. Its processes have at most `capabilities`, and can be of one of `tiers`."""

    actions: Mapping[Action, Verdict]
    capabilities: tuple[str, ...]
    tiers: tuple[Tier, ...]

    @classmethod
    def default(cls, role: Role) -> RoleEntry:
        tiers = tuple(t for t in Tier if (role, t) != (Role.TASK, Tier.STRATEGIC))
        return cls(ACTIONS[role], DEFAULTS[role.value], tiers)


WRITABLE = tuple(role for role in Role if role is not Role.KERNEL)
"""The roles that the document is about. Process 1 is the operator, who writes the document: nothing
in it takes anything away from process 1."""


@dataclass(frozen=True)
class Roles:
    """The whole document. `models` has the model that a process of each tier uses, unless its spec
    names another."""

    entries: Mapping[Role, RoleEntry] = field(
        default_factory=lambda: {role: RoleEntry.default(role) for role in Role}
    )
    models: Mapping[Tier, str] = field(default_factory=lambda: {tier: tier.model for tier in Tier})

    @classmethod
    def parse(cls, text: str) -> Roles:
        """Read a document. Everything that is left out has its default. Raises EINVAL that names
        every fault by line."""
        return checked(text, FILE, lambda document: _Reader(document).roles())

    @cached_property
    def text(self) -> str:
        """A document that leaves nothing out."""
        roles = {
            role.value: {
                "actions": {action.value: said.value for action, said in table.actions.items()},
                "tiers": [tier.value for tier in table.tiers],
                "capabilities": list(table.capabilities),
            }
            for role, table in self.entries.items()
            if role in WRITABLE
        }
        tiers = {tier.value: {"model": model} for tier, model in self.models.items()}
        return HEAD + str(
            yaml.safe_dump(
                {"tiers": tiers, "roles": roles},
                sort_keys=False,
                default_flow_style=None,
                width=96,
            )
        )


FORM = Form(FILE, Roles.parse, cache(lambda: Roles().text), Roles)
"""Of `/etc/roles.yaml`."""

HEAD = """\
# What each role may do. A valid write takes effect at once; what is left out has its default.
# allow, deny (whatever acl.yaml says), or '-': denied unless a rule of acl.yaml allows it.
# kill can be own-children, send can be parent, read_process can be own.
"""


class _Reader:
    """Reads the roles of one document, and notes its faults."""

    def __init__(self, document: YamlDocument) -> None:
        self._document = document

    def roles(self) -> Roles:
        default = Roles()
        root = self._document.root()
        if root is None:
            return default
        keys = self._document.map(root, "the document", ("tiers", "roles"))
        entries, models = dict(default.entries), dict(default.models)
        for name, (_, node) in self._below(keys, "tiers", [tier.value for tier in Tier]).items():
            models[Tier(name)] = self._model(node, f"tiers: {name}", models[Tier(name)])
        for name, (_, node) in self._below(keys, "roles", [r.value for r in WRITABLE]).items():
            entries[Role(name)] = self._table(node, f"roles: {name}", entries[Role(name)])
        return Roles(entries, models)

    def _below(self, keys: dict[str, Pair], key: str, known: list[str]) -> dict[str, Pair]:
        return self._document.map(keys[key][1], key, known) if key in keys else {}

    def _model(self, node: yaml.Node, what: str, before: str) -> str:
        keys = self._document.map(node, what, ("model",))
        found = self._document.required(node, keys, "model", what)
        return before if found is None else self._document.text(found, f"{what}: model") or before

    def _table(self, node: yaml.Node, what: str, table: RoleEntry) -> RoleEntry:
        keys = self._document.map(node, what, ("actions", "tiers", "capabilities"))
        if "actions" in keys:
            table = replace(
                table, actions={**table.actions, **self._actions(keys["actions"][1], what)}
            )
        if "tiers" in keys:
            names = self._names(keys["tiers"][1], f"{what}: tiers")
            known = {tier.value: tier for tier in Tier}
            for found, name in names:
                if name not in known:
                    self._document.fault(found, f"{what}: one of {', '.join(known)} was expected")
            given = {name for _, name in names}
            table = replace(table, tiers=tuple(known[name] for name in known if name in given))
            if not table.tiers:
                self._document.fault(keys["tiers"][1], f"{what}: a role has a tier at least")
        if "capabilities" in keys:
            table = replace(table, capabilities=self._capabilities(keys["capabilities"][1], what))
        return table

    def _actions(self, node: yaml.Node, what: str) -> dict[Action, Verdict]:
        actions = {}
        known = [action.value for action in Action]
        for name, (_, value) in self._document.map(node, f"{what}: actions", known).items():
            action = Action(name)
            can_be = [Verdict.ALLOW, Verdict.DENY, Verdict.NONE]
            if action in CONDITIONS:
                can_be.append(CONDITIONS[action])
            text = self._document.text(value, f"{what}: {name}")
            said = next((verdict for verdict in can_be if verdict.value == text), None)
            if said is not None:
                actions[action] = said
            elif text is not None:
                expected = ", ".join(verdict.value for verdict in can_be)
                self._document.fault(value, f"{what}: {name}: one of {expected} was expected")
        return actions

    def _capabilities(self, node: yaml.Node, what: str) -> tuple[str, ...]:
        found = []
        for at, name in self._names(node, f"{what}: capabilities"):
            try:
                found.append(_granted_or_taken(name))
            except KernelError as bad:
                self._document.fault(at, f"{what}: {bad.reason}")
        return tuple(dict.fromkeys(found))

    def _names(self, node: yaml.Node, what: str) -> list[tuple[yaml.Node, str]]:
        """The texts of a list."""
        if not isinstance(node, yaml.SequenceNode):
            self._document.fault(node, f"{what}: a list was expected")
            return []
        texts = [(each, self._document.text(each, what)) for each in node.value]
        return [(each, text) for each, text in texts if text]


def _granted_or_taken(name: str) -> str:
    """A capability that a role has; with `-` before it, one that is taken away. Raises EINVAL."""
    if not name.startswith("-"):
        return canonical(name)
    if name[1:] not in IMPLIED:
        words = f"{name!r}: only {', '.join(sorted(IMPLIED))} is taken away so; leave others out"
        raise KernelError(errno.EINVAL, words)
    return name
