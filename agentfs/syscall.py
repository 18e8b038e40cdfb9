"""The gate: the steps that every system call of the kernel walks, in one order, in one place.

    identity     the principal, told by the operating system, acts for a living process
    permission   the role table (and later rules and capabilities) allow the action
    limits       rate, budget, quota
    transaction  the change, in memory and in the store, whole or not at all
    events       what happened, after the commit

There is no checkpoint between the first check and the commit.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agentfs.errors import KernelError
from agentfs.process.model import Process
from agentfs.security.policy import Action, Policy
from agentfs.security.principal import Principal
from agentfs.storage.store import Store

__all__ = ["Gate"]


class Gate:
    """Opened once for every system call."""

    def __init__(self, store: Store, policy: Policy, find: Callable[[int], Process | None]) -> None:
        self._store = store
        self._find = find
        self.policy = policy
        self.calls = 0

    def actor(self, principal: Principal) -> Process:
        """The living process that `principal` acts for. Raises EACCES if there is none."""
        process = None if principal.pid is None else self._find(principal.pid)
        if process is None or not process.state.alive:
            raise KernelError(
                errno.EACCES,
                f"{principal.name} is no agent of this system and may not change anything in it",
                rule="identity",
            )
        return process

    @contextmanager
    def enter(self, principal: Principal, action: Action | None = None) -> Iterator[Process]:
        """Identity, permission and limits of one system call, then its transaction.

        Yields the acting process. Everything inside the block is one atomic change; raising a
        KernelError in it refuses the call. `action` None: the caller checks what it needs.
        """
        self.calls += 1
        actor = self.actor(principal)
        if action is not None:
            self.policy.require(actor, action)
        with self._store.transaction():
            yield actor
