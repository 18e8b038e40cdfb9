"""Who may do what. Every call asks the policy, which also says which rule has decided.

It looks, in this order, at an explicit `deny` in the role's table, at the rule of /etc/acl.yaml
that decides, if one matches, and at the rest of the role's table. Then it looks whether both are of
one user, or, for mail, whether they know each other.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from agentfs.base.content import Content
from agentfs.base.errors import ApprovalError, KernelError
from agentfs.model.capability import CapabilitySet
from agentfs.model.names import INIT_NAME
from agentfs.model.process import Agent, Process, Role, Tier
from agentfs.rights import acl as acls
from agentfs.rights import roles as tables
from agentfs.rights.acl import Acl, Approval, Rule
from agentfs.rights.role_capabilities import CapabilityHolder, RoleCapabilities
from agentfs.rights.roles import Action, RoleEntry, Roles, Verdict
from agentfs.store.part import Part, Parts

__all__ = [
    "PRIVATE",
    "STRANGERS",
    "Action",
    "ActionTarget",
    "Decision",
    "Policy",
    "across_users",
    "outermost",
]

CROSSING = frozenset({Action.KILL, Action.MANAGE_TREE, Action.READ_PROCESS})
"""The actions on processes that stay within one user. Mail does so too, except between agents that
are acquainted."""

STRANGERS = "strangers"
"""The rule that keeps mail from another user's agent."""

OF_ONESELF = frozenset({Action.KILL, Action.READ_PROCESS})
"""Every process may do these to itself, unless that is denied by name."""

PRIVATE = frozenset({"sent", "spec.yaml"})
"""The files that `read_process` shows to others only where a rule says so, whatever the role's
table says."""


class ActionTarget(Protocol):
    """The process that an action is done to, or an agent that has none."""

    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer. `rule` names what has decided; if the answer is no, `errno` and `reason` say why.
    `approval` is what the rule asks for before an allowed action happens."""

    allowed: bool
    rule: str
    errno: int = 0
    reason: str = ""
    approval: Approval | None = None

    def refusal(self) -> KernelError:
        """The error of an answer that is no."""
        return KernelError(self.errno, self.reason, rule=self.rule)


ITSELF = Decision(True, "itself")


def _never() -> bool:
    return False


class Policy:
    """Begins with the defaults; `use_roles` and `use_acl` put the documents of /etc in effect.
    Where a rule wants an approval, one of `parts` says whether it is there. `find` gives a process
    by its pid."""

    def __init__(
        self,
        find: Callable[[int], Process | None] = lambda pid: None,
        parts: Parts | None = None,
    ) -> None:
        self._find = find
        self._parts = Parts() if parts is None else parts
        self.use_roles(Roles())
        self.use_acl(Acl())

    def use_roles(self, roles: Roles) -> None:
        """Put other tables of roles and tiers in effect."""
        self.roles: Mapping[Role, RoleEntry] = roles.entries
        self.models: Mapping[Tier, str] = roles.models
        self._capabilities = RoleCapabilities(
            {role: entry.capabilities for role, entry in roles.entries.items()}
        )
        self._yes = {
            (role, action): Decision(True, _table_rule(role, action))
            for role in roles.entries
            for action in Action
        }

    def use_acl(self, acl: Acl) -> None:
        """Put other rules in effect."""
        self.acl = acl
        self._granted = {
            rule.number: Decision(True, rule.name, approval=rule.approval) for rule in acl.rules
        }

    # -- actions ---------------------------------------------------------------------------------

    def decide(
        self,
        actor: Process,
        action: Action,
        path: str = "",
        target: ActionTarget | None = None,
        *,
        answers: Callable[[], bool] = _never,
    ) -> Decision:
        """Whether `actor` may do it. `path` names what it is done to, agents by their names.
        `target` is that agent or process, if it is one. `answers` says whether `target` wrote to
        `actor` before; it is asked only if that decides. 1 µs, whatever the number of rules."""
        said = self.roles[actor.role].actions[action]
        if said is Verdict.DENY:
            return self._table_says_no(actor, action, errno.EPERM, path)
        rule = self.acl.deciding(actor, action, path) if self.acl.rules else None
        if rule is not None:
            if not rule.allow:
                return _rule_says_no(actor, action, rule)
            found = self._granted[rule.number]
        elif target is not None and action in OF_ONESELF and target.name == actor.name:
            return ITSELF
        elif action is Action.READ_PROCESS and _is_private(actor, path):
            return _private(actor, path)
        elif said is Verdict.ALLOW or _holds(said, actor, target):
            found = self._yes[actor.role, action]
        else:
            return self._table_says_no(actor, action, errno.EACCES, path)
        if target is None or target.uid == actor.uid:
            return found
        if action is Action.SEND and path.startswith("/agents/") and rule is None:
            known = self._acquainted(actor, target) or answers()
            return found if known else _strangers(actor, target, path)
        if action not in CROSSING:
            return found
        if rule is not None and action is Action.READ_PROCESS:
            return found
        return self._across_users(actor, target) or found

    def require(
        self,
        actor: Process,
        action: Action,
        path: str = "",
        target: ActionTarget | None = None,
        *,
        what: bytes = b"",
        about: str = "",
    ) -> None:
        """Raise unless `decide` says yes and nobody has still to approve it: EPERM for an explicit
        deny and for another user's process, EACCES for what nothing allows. `what` and `about` are
        the content that is to be approved."""
        decision = self.permit(actor, action, path, target)
        self.approved(actor, action, path, decision, what, about)

    def permit(
        self,
        actor: Process,
        action: Action,
        path: str = "",
        target: ActionTarget | None = None,
    ) -> Decision:
        """As `require`, before there is a content that could be approved. `approved` has to
        follow."""
        decision = self.decide(actor, action, path, target)
        if not decision.allowed:
            raise decision.refusal()
        return decision

    def approved(
        self,
        actor: Process,
        action: Action,
        path: str,
        decision: Decision,
        what: bytes | Content = b"",
        about: str = "",
    ) -> None:
        """Raise ApprovalError if the decision needs an approval that is not there; inside a
        transaction one that is there is used up. Process 1 is the operator, who need not ask."""
        wanted = decision.approval
        if wanted is None or actor.role is Role.KERNEL:
            return
        needed = ApprovalError(
            f"{actor.name} may {action.words} here once {wanted.by} approves",
            rule=decision.rule,
            pid=actor.pid,
            agent=actor.agent,
            user=actor.user,
            action=action.value,
            path=path,
            by=wanted.by,
            timeout=wanted.timeout,
            content=what if isinstance(what, Content) else Content.of(what, about),
        )
        if not any(approved(needed) for approved in self._parts.each(Part.is_approved)):
            raise needed

    def _acquainted(self, actor: Process, target: ActionTarget) -> bool:
        """Whether mail passes between these agents of two users without a rule: one is the
        operator, or the other's parent, or both are within one group of /sys/cgroup."""
        if isinstance(target, Agent):
            target = (target.pid and self._find(target.pid)) or target
        if actor.role is Role.KERNEL or target.name == INIT_NAME:
            return True
        if not isinstance(target, Process):
            return False
        if target.ppid == actor.pid or actor.ppid == target.pid:
            return True
        return bool(actor.group) and outermost(actor.group) == outermost(target.group)

    def same_user(self, actor: Process, target: ActionTarget) -> None:
        """Raise EPERM unless both run as one user or `actor` is process 1."""
        no = self._across_users(actor, target)
        if no is not None:
            raise no.refusal()

    def _across_users(self, actor: Process, target: ActionTarget) -> Decision | None:
        if actor.role is Role.KERNEL or actor.uid == target.uid:
            return None
        reason = f"{target.name} is another user's, {actor.name} runs as {actor.user}"
        return Decision(False, "same user", errno.EPERM, reason)

    def _table_says_no(self, actor: Process, action: Action, number: int, path: str) -> Decision:
        match self.roles[actor.role].actions[action]:
            case Verdict.OWN_CHILDREN:
                may = "may only kill its own children"
            case Verdict.PARENT:
                parent = self._find(actor.ppid)
                whom = f"its parent {parent.name}" if parent else "its parent"
                owned = path.startswith("/dev/")
                may = f"may only write to {f'what {whom} owns' if owned else whom}"
            case Verdict.OWN:
                may = "may only read what is its own"
            case _:
                may = f"may not {action.words}"
        reason = f"{actor.name} is {_a(actor.role.value)} and {may}"
        return Decision(False, _table_rule(actor.role, action), number, reason)

    # -- capabilities ----------------------------------------------------------------------------

    def role_capabilities(self, role: Role) -> CapabilitySet:
        """What processes of a role have at most."""
        return self._capabilities.of_role(role)

    def capabilities(self, process: CapabilityHolder) -> CapabilitySet:
        """What `process` has at this moment."""
        return self._capabilities.effective(process)

    def require_capability(self, actor: CapabilityHolder, capability: str) -> None:
        """Raise EACCES unless `actor` has the capability, EPERM if it is denied to it."""
        self._capabilities.require(actor, capability)


def _holds(said: Verdict, actor: Process, target: ActionTarget | None) -> bool:
    """Whether `target` is one of those for whom the table allows it."""
    if not isinstance(target, Process):
        return False
    match said:
        case Verdict.OWN_CHILDREN:
            return target.ppid == actor.pid
        case Verdict.PARENT:
            return target.pid in (actor.ppid, actor.pid)
        case _:
            return False


def across_users(uids: Iterable[int]) -> str:
    """A sentence for the operator about agents of several users; empty if all `uids` are one."""
    users = len(set(uids))
    if users < 2:
        return ""
    return (
        f"there are agents of {users} users: they write to each other only where a rule of"
        f" /etc/{acls.FILE} allows `send`, as parent and child, in one group of /sys/cgroup, or to"
        " answer (docs/permissions.md, Mail across users)"
    )


def outermost(group: str) -> str:
    """The outermost group of /sys/cgroup that `group` lies in."""
    return group.partition("/")[0]


def _strangers(actor: Process, target: ActionTarget, path: str) -> Decision:
    allow = f"{{effect: allow, agent: {actor.name}, action: send, path: {path}}}"
    reason = (
        f"{target.name} is another user's, {actor.name} runs as {actor.user}: they are neither"
        f" parent and child nor in one group, {target.name} has not written to {actor.name}, and no"
        f" rule of /etc/{acls.FILE} allows it; this one would: {allow}"
    )
    return Decision(False, STRANGERS, errno.EACCES, reason)


def _is_private(actor: Process, path: str) -> bool:
    return path.rpartition("/")[2] in PRIVATE and actor.role is not Role.KERNEL


def _private(actor: Process, path: str) -> Decision:
    reason = f"{path} is private, and {actor.name} is not named by a rule of /etc/{acls.FILE}"
    return Decision(False, "private", errno.EACCES, reason)


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _table_rule(role: Role, action: Action) -> str:
    return f"{tables.FILE}: {role.value} {action.value}"


def _rule_says_no(actor: Process, action: Action, rule: Rule) -> Decision:
    reason = f"{actor.name} may not {action.words} here: rule {rule.number} of /etc/{acls.FILE}"
    return Decision(False, rule.name, errno.EPERM, f"{reason} says {rule.text}")
