"""How much may wait in the inbox of an agent, and of whom: each inbox is a pot of messages."""

from __future__ import annotations

from agentfs.base.errors import ShareError
from agentfs.mail.mailbox import Mailbox
from agentfs.mail.settings import MessageSettings
from agentfs.model.principal import Principal
from agentfs.process.agents import Agents
from agentfs.quota.listed import Listed
from agentfs.quota.pots import FLOOR, PotKind
from agentfs.quota.settings import ShareSettings
from agentfs.quota.shares import Holder
from agentfs.store.settings import Settings

__all__ = ["check_share", "unasked"]


class _Inbox(Listed):
    """The messages that wait in one inbox at the moment, by sender. Made to ask one question."""

    __slots__ = ("_name",)

    def __init__(self, box: Mailbox, agents: Agents, settings: Settings) -> None:
        super().__init__(
            PotKind(
                "inbox", f"messages that wait in the inbox of {box.name}", "messages.max_waiting"
            ),
            lambda: settings.of(MessageSettings).max_waiting,
            lambda: settings.of(ShareSettings),
            lists=lambda: box.senders,
            total=lambda: box.waiting,
            find=agents.find,
        )
        self._name = box.name

    def unasked(self) -> int:
        size, reserve = self.bounds()
        terms = self._terms()
        return max(min(FLOOR, size), int(min(terms.agent, terms.user) * (size - reserve)))

    def left(self, holder: Holder) -> int:
        """The operator's reserve is beyond the size."""
        size, reserve = self.bounds()
        left = size - self.used
        return max(left, max(1, reserve) - self.operators) if holder.operator else left

    def is_used_up(self, holder: Holder, left: int) -> ShareError:
        words = f"the inbox of {self._name} is full: {self.used} messages wait in it"
        refusal = self.refusal(self.kind.scarce, words, holder, 0)
        refusal.rule = self.kind.setting
        return refusal


def check_share(box: Mailbox, principal: Principal, agents: Agents, settings: Settings) -> None:
    """Raise ShareError, EDQUOT or ENOSPC, if one more message of `principal` may not wait in the
    inbox `box`. If it is full, the operator has as many as its reserve all the same."""
    agent = agents.find(principal.agent)
    uid = principal.uid if agent is None else agent.uid
    operator = principal.is_operator
    holder = Holder(principal.agent, uid, agent=not operator, operator=operator)
    _Inbox(box, agents, settings).check(holder)


def unasked(box: Mailbox, agents: Agents, settings: Settings) -> int:
    """As long as fewer messages than this wait in an inbox, `check_share` refuses nobody: all of
    them together are no more than one sender may have. Of fewer than `FLOOR` each may have all that
    there is room for. It depends on the settings alone."""
    return _Inbox(box, agents, settings).unasked()
