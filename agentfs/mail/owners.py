"""The owner of a mailbox: an agent here; the queues are owners of theirs."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Protocol

from agentfs.base.errors import KernelError
from agentfs.mail.inboxes import check_share, unasked
from agentfs.mail.mailbox import Mailbox
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.store.ground import Ground

__all__ = ["AgentMail", "MailboxOwner", "Owners"]


class MailboxOwner(Protocol):
    """Answers questions about one kind of mailbox. `name` is that of the mailbox."""

    def check_exists(self, name: str) -> None:
        """ENOENT if there is none."""

    def require(self, principal: Principal, name: str) -> None:
        """EACCES unless `principal` may take messages out of it."""

    def check_room(self, box: Mailbox, principal: Principal) -> None:
        """Raise if one more message of `principal` may not wait in it: ENOSPC if it is full, EDQUOT
        if `principal` has its share of it."""

    def claimant(self, name: str, actor: Process) -> Process | None:
        """The process whose end returns what `actor` claims; None: nobody's does."""

    def never_end(self, name: str) -> Iterable[int | None]:
        """The pids (None: no process) whose claims are returned after `claim_timeout`."""


class AgentMail:
    """The inboxes of agents. A claimed message belongs to the agent's living process, also if
    somebody else claimed it for the agent."""

    def __init__(self, ground: Ground, table: ProcessTable, agents: Agents) -> None:
        self._settings = ground.settings
        self._table = table
        self._agents = agents
        self._unasked = 0
        self._of: object = None  # the settings from which that follows

    def check_exists(self, name: str) -> None:
        self._agents.get(name)

    def require(self, principal: Principal, name: str) -> None:
        if not principal.acts_for(name):
            raise KernelError(
                errno.EACCES, f"the mail of {name} is not for {principal.name}", rule="private"
            )

    def check_room(self, box: Mailbox, principal: Principal) -> None:
        if self._of is not self._settings.now:
            self._of = self._settings.now
            self._unasked = unasked(box, self._agents, self._settings)
        if len(box.new) >= self._unasked:
            check_share(box, principal, self._agents, self._settings)

    def claimant(self, name: str, actor: Process) -> Process | None:
        return self._table.by_name(name)

    def never_end(self, name: str) -> Iterable[int | None]:
        return (None,)


class Owners:
    """The owner of each mailbox, by its name: agents own those without a slash, and of the others
    the part before the slash tells."""

    def __init__(self, agents: AgentMail) -> None:
        self.agents = agents
        self._others: dict[str, MailboxOwner] = {}

    def add(self, prefix: str, owner: MailboxOwner) -> None:
        """`owner` owns the mailboxes whose names begin with `prefix` and a slash."""
        self._others[prefix] = owner

    def of(self, name: str) -> MailboxOwner:
        """The owner of the mailbox called `name`."""
        return self._others[name.partition("/")[0]] if "/" in name else self.agents
