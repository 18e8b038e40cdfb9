"""The operator's own rules, on top of the roles: `/etc/acl.yaml`, and which rule decides."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from functools import lru_cache

import yaml

from agentfs.base.yaml_document import Pair, YamlDocument, near
from agentfs.model.process import Process, Role
from agentfs.model.spec import seconds
from agentfs.rights.patterns import (
    covers_below,
    matcher,
    parts,
    path_matcher,
    reaches_below,
    weight,
)
from agentfs.rights.roles import Action
from agentfs.store.live_document import Form, checked

__all__ = ["DEFAULT", "FILE", "FORM", "Acl", "Approval", "Rule"]

FILE = "acl.yaml"

DEFAULT = """\
# Rules on top of the roles. A valid write takes effect at once.
#
# - {effect: deny, role: worker, action: send, path: /agents/boss/inbox}
# - {effect: allow, agent: alice, action: kill, path: /agents/test-*}
# - {effect: allow, user: bob, action: spawn, approval: {by: operator, timeout: 10m}}
#
# What is left out is any. agent, user and path may have * (in a path: within a component; ** goes
# across). Of the rules that match, the most specific decides; of equals, the one that denies.
rules: []
"""

_WILD = frozenset("*?[")

# Answers that are kept: about the pairs of a sender and a receiver in a busy system.
KEPT = 16_384


@dataclass(frozen=True, slots=True)
class Approval:
    """An allowed action waits for the approval of `by`, for at most `timeout` seconds."""

    by: str = "operator"
    timeout: float = 600.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. A condition that is None matches anything. `number` counts from 1, and `text` is
    the rule on one line."""

    number: int
    allow: bool
    text: str
    user: str | None = None
    role: Role | None = None
    agent: str | None = None
    action: Action | None = None
    path: str | None = None
    approval: Approval | None = None

    @property
    def name(self) -> str:
        """The name by which a refusal calls it."""
        return f"{FILE}: rule {self.number}"

    @property
    def order(self) -> tuple[object, ...]:
        """The sort key: of all rules that match, the one that decides comes first. That is the most
        specific one, by agent, user, role, path and action in this order of weight; of equally
        specific ones the strictest."""
        weights = (
            weight(self.agent),
            weight(self.user),
            (2 if self.role else 0, 0),
            weight(self.path),
            (2 if self.action else 0, 0),
        )
        specific = tuple((-exact, -length) for exact, length in weights)
        return specific, self.allow, self.approval is None, self.number


class _Compiled:
    """A rule with its conditions as functions; None matches anything."""

    __slots__ = ("agent", "path", "role", "rule", "user")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.role = rule.role
        self.user = matcher(rule.user)
        self.agent = matcher(rule.agent)
        self.path = None if rule.path is None else path_matcher(rule.path)

    def concerns(self, role: Role, user: str, agent: str) -> bool:
        """Whether the rule is about such an actor."""
        return (
            (self.role is None or self.role is role)
            and (self.user is None or bool(self.user(user)))
            and (self.agent is None or bool(self.agent(agent)))
        )


class Acl:
    """The whole document. Answers are kept, because they depend on nothing but the question."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules = tuple(rules)
        compiled = [_Compiled(rule) for rule in sorted(self.rules, key=lambda rule: rule.order)]
        self._by_action = {
            action: [each for each in compiled if each.rule.action in (None, action)]
            for action in Action
        }
        self._find = lru_cache(KEPT)(self._look_up)
        self._of = lru_cache(KEPT)(self._look_up_those_of)

    @classmethod
    def parse(cls, text: str) -> Acl:
        """Read a document. Raises EINVAL that names every fault by line."""
        return checked(text, FILE, lambda document: cls(_Reader(document).rules()))

    def named(self) -> dict[str, Rule]:
        """The agents that rules name, as actors or as those who decide, each with the first such
        rule. Names with wildcards are left out: they mean every agent that is called so."""
        found: dict[str, Rule] = {}
        for rule in self.rules:
            if rule.agent is not None and not _WILD.intersection(rule.agent):
                found.setdefault(rule.agent, rule)
            if rule.approval is not None and rule.approval.by != Approval().by:
                found.setdefault(rule.approval.by, rule)
        return found

    def about_nobody(self, known: Container[str]) -> list[str]:
        """A sentence for each rule that names an agent which is not among `known`."""
        return [
            f"rule {rule.number} speaks of {name}, and there is no such agent"
            for name, rule in self.named().items()
            if name not in known
        ]

    def deciding(self, actor: Process, action: Action, path: str) -> Rule | None:
        """The rule that decides what `actor` asks for; None if none matches. A rule about an agent
        holds for the runs of pipelines that act in its name."""
        if not self._by_action[action]:
            return None
        return self._find(action, actor.role, actor.user, actor.agent, path)

    def speaks_below(
        self, actor: Process, actions: Iterable[Action], folder: str, new: str
    ) -> Rule | None:
        """A rule that something below `folder` would come under, or get out of, if the folder was
        called `new`; None if there is none."""
        for action in actions:
            for each in self._of(action, actor.role, actor.user, actor.agent):
                path = each.rule.path
                if path is None or (covers_below(path, folder) and covers_below(path, new)):
                    continue
                if reaches_below(path, folder) or reaches_below(path, new):
                    return each.rule
        return None

    def _look_up(self, action: Action, role: Role, user: str, agent: str, path: str) -> Rule | None:
        for each in self._of(action, role, user, agent):
            if each.path is None or each.path(path):
                return each.rule
        return None

    def _look_up_those_of(
        self, action: Action, role: Role, user: str, agent: str
    ) -> tuple[_Compiled, ...]:
        return tuple(each for each in self._by_action[action] if each.concerns(role, user, agent))


FORM = Form(FILE, Acl.parse, lambda: DEFAULT)
"""Of `/etc/acl.yaml`."""


# -- reading the document --------------------------------------------------------------------------


class _Reader:
    """Reads the rules of one document, and notes its faults."""

    KEYS = ("effect", "user", "role", "agent", "action", "path", "approval")

    def __init__(self, document: YamlDocument) -> None:
        self._document = document

    def rules(self) -> list[Rule]:
        root = self._document.root()
        if root is None:
            return []
        keys = self._document.map(root, "the document", ("rules",))
        node = self._document.required(root, keys, "rules", "the document")
        if node is None or _is_null(node):
            return []
        if not isinstance(node, yaml.SequenceNode):
            self._document.fault(node, "rules: a list was expected")
            return []
        return [self._rule(number, each) for number, each in enumerate(node.value, 1)]

    def _rule(self, number: int, node: yaml.Node) -> Rule:
        what = f"rule {number}"
        keys = self._document.map(node, what, self.KEYS)
        self._document.required(node, keys, "effect", what)
        effect = self._one_of(keys, "effect", what, ("allow", "deny"))
        role = self._one_of(keys, "role", what, [role.value for role in Role])
        action = self._one_of(keys, "action", what, [action.value for action in Action])
        approval = self._approval(keys["approval"][1], what) if "approval" in keys else None
        if approval is not None and effect == "deny":
            self._document.fault(keys["approval"][0], f"{what}: nobody can approve what is denied")
        return Rule(
            number,
            effect == "allow",
            _one_line({key: value for key, (_, value) in keys.items()}),
            user=self._name(keys, "user", what),
            role=Role(role) if role else None,
            agent=self._name(keys, "agent", what),
            action=Action(action) if action else None,
            path=self._path(keys, what),
            approval=approval,
        )

    def _one_of(
        self, keys: dict[str, Pair], key: str, what: str, known: Collection[str]
    ) -> str | None:
        if key not in keys:
            return None
        node = keys[key][1]
        text = self._document.text(node, f"{what}: {key}")
        if text is None or text in known:
            return text
        wanted = f"one of {', '.join(known)} was expected{near(text, known)}"
        self._document.fault(node, f"{what}: {key}: {wanted}")
        return None

    def _name(self, keys: dict[str, Pair], key: str, what: str) -> str | None:
        """A name, with wildcards or without; None if any name matches."""
        text = self._document.text(keys[key][1], f"{what}: {key}") if key in keys else None
        if text is not None and "/" in text:
            self._document.fault(keys[key][1], f"{what}: {key}: a name has no slash")
        return None if text == "*" else text

    def _path(self, keys: dict[str, Pair], what: str) -> str | None:
        if "path" not in keys:
            return None
        text = self._document.text(keys["path"][1], f"{what}: path")
        if text is None or text in ("**", "/**"):
            return None
        if not text.startswith("/") or {"", ".", ".."} & set(parts(text)):
            self._document.fault(
                keys["path"][1],
                f"{what}: path: a path from the root of the tree was expected, like"
                " /agents/NAME/inbox, without empty components, . and ..",
            )
        return text

    def _approval(self, node: yaml.Node, what: str) -> Approval:
        what = f"{what}: approval"
        keys = self._document.map(node, what, ("by", "timeout"))
        by = self._document.text(keys["by"][1], f"{what}: by") if "by" in keys else None
        timeout = Approval().timeout
        if "timeout" in keys:
            given = self._document.text(keys["timeout"][1], f"{what}: timeout")
            try:
                timeout = seconds(given)
            except ValueError as bad:
                timeout = 0.0
                self._document.fault(keys["timeout"][1], f"{what}: timeout: {bad}")
            else:
                if timeout <= 0:
                    self._document.fault(keys["timeout"][1], f"{what}: timeout: more than 0")
        return Approval(by or Approval().by, timeout)


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _one_line(values: dict[str, yaml.Node]) -> str:
    """The rule as it was given, on one line."""

    def text(node: yaml.Node) -> str:
        if isinstance(node, yaml.MappingNode):
            return "{" + ", ".join(f"{k.value}: {text(v)}" for k, v in node.value) + "}"
        return str(node.value) if isinstance(node, yaml.ScalarNode) else "…"

    return "{" + ", ".join(f"{key}: {text(node)}" for key, node in values.items()) + "}"
