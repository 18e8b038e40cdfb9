"""The rules for reading and writing without a system call of the kernel: the files of /shared, and
what the tree shows of a process."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.model.principal import Kind, Principal
from agentfs.rights.policy import PRIVATE, Action, ActionTarget

if TYPE_CHECKING:
    from agentfs.rights.gate import Gate

__all__ = ["PathRules"]

FILES = (Action.READ_FILE, Action.WRITE_FILE)


class PathRules:
    """Each asks of a principal. Users of the machine that act for no process have what the file
    modes give, and see what runs as they do. Strangers, which got away from an agent, have
    nothing."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    # -- processes -------------------------------------------------------------------------------

    def read_process(self, principal: Principal, target: ActionTarget, what: str) -> None:
        """Raise EACCES or EPERM unless `principal` may see `what` of a process or agent: `info`,
        `log`, or what is private unless a rule of /etc/acl.yaml says otherwise (`PRIVATE`). The
        operator always may."""
        if principal.is_operator:
            return
        if principal.kind is Kind.USER and what not in PRIVATE:
            if principal.uid != target.uid:
                raise KernelError(
                    errno.EPERM,
                    f"{target.name} is another user's, you are {principal.name}",
                    rule="same user",
                )
            return
        path = f"/agents/{target.name}/{what}"
        actor = self._gate.actor(principal)
        self._gate.policy.require(actor, Action.READ_PROCESS, path, target, what=b"read")

    # -- files -----------------------------------------------------------------------------------

    def file(self, principal: Principal, action: Action, paths: Iterable[str]) -> None:
        """Raise EACCES or EPERM unless `principal` may read or write a file, by every name that it
        is known under."""
        if principal.kind is Kind.USER:
            return
        actor = self._gate.actor(principal)
        for path in paths:
            self._gate.policy.require(actor, action, path, what=action.words.encode())

    def move_folder(self, principal: Principal, old: str, new: str) -> None:
        """Raise EPERM if a rule speaks of what is in a folder: with another name it would come
        under other rules."""
        if principal.pid is None or principal.is_operator:
            return
        rule = self._gate.policy.acl.speaks_below(self._gate.actor(principal), FILES, old, new)
        if rule is not None:
            raise KernelError(
                errno.EPERM,
                f"{principal.name} may not rename {old}: rule {rule.number} of /etc/acl.yaml speaks"
                f" of what is in it: {rule.text}",
                rule=rule.name,
            )
