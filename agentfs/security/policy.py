"""Who may do what: the role table. Custom rules and capabilities join it here later."""

from __future__ import annotations

import enum
import errno

from agentfs.errors import KernelError
from agentfs.process.model import Process, Role

__all__ = ["Action", "Policy"]


class Action(enum.Enum):
    """What the role table speaks of."""

    SPAWN = "spawn"
    KILL = "kill"
    SEND = "send"
    READ_ARTIFACT = "read artifact"
    WRITE_ARTIFACT = "write artifact"
    ESCALATE = "escalate"
    READ_PROCESS = "read process"
    MANAGE = "manage tree"


_EVERYTHING = frozenset(Action)
_WORKING = frozenset(
    {
        Action.SPAWN,
        Action.KILL,  # their own children: `Policy.require_kill`
        Action.SEND,
        Action.READ_ARTIFACT,
        Action.WRITE_ARTIFACT,
        Action.ESCALATE,
        Action.READ_PROCESS,
    }
)

ROLES: dict[Role, frozenset[Action]] = {
    Role.KERNEL: _EVERYTHING,
    Role.DAEMON: _EVERYTHING,
    Role.LEAD: _EVERYTHING - {Action.MANAGE},
    Role.AGENT: _WORKING,
    Role.WORKER: _WORKING,
    Role.ARCHITECT: frozenset(
        {Action.SEND, Action.READ_ARTIFACT, Action.WRITE_ARTIFACT, Action.ESCALATE}
    ),
    Role.TASK: frozenset({Action.SEND, Action.READ_ARTIFACT, Action.ESCALATE, Action.READ_PROCESS}),
}
"""The table of design/kernel.md, Permissions. What is not in it is denied."""

OWN_CHILDREN_ONLY = frozenset({Role.AGENT, Role.WORKER})


class Policy:
    """Answers with silence (yes) or a KernelError (no)."""

    def require(self, actor: Process, action: Action) -> None:
        """Raise EACCES unless the role of `actor` allows `action`."""
        if action not in ROLES[actor.role]:
            raise KernelError(
                errno.EACCES,
                f"{actor.name} has role {actor.role.value}, which may not {action.value}",
                rule=f"role {actor.role.value}",
            )

    def require_kill(self, actor: Process, target: Process) -> None:
        """Raise unless `actor` may signal `target`: EPERM for another user's process, EACCES
        where the role says no. Anything may signal itself."""
        if actor.pid == target.pid:
            return
        if target.role is Role.KERNEL:
            raise KernelError(errno.EPERM, "process 1 cannot be signalled", rule="init")
        self.require(actor, Action.KILL)
        if actor.role in OWN_CHILDREN_ONLY and target.ppid != actor.pid:
            raise KernelError(
                errno.EACCES,
                f"{actor.name} has role {actor.role.value}, which may only signal its own children",
                rule=f"role {actor.role.value}",
            )
        self.same_user(actor, target)

    def same_user(self, actor: Process, target: Process) -> None:
        """Raise EPERM unless both run as one user or `actor` is process 1."""
        if actor.role is not Role.KERNEL and actor.uid != target.uid:
            raise KernelError(
                errno.EPERM,
                f"{target.name} belongs to user {target.user}, {actor.name} to {actor.user}",
                rule="same user",
            )

    def require_capability(self, actor: Process, capability: str) -> None:
        """Capabilities beyond the roles are not in force yet: yes."""

    def require_budget(self, parent: Process, tier: str, tokens: int | None) -> None:
        """Budgets are not in force yet: yes."""

    def require_seat(self, parent: Process) -> None:
        """Groups are not in force yet: yes."""
