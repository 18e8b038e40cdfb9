"""How much may wait in the inbox of an agent, and of whom: each inbox is a pot of messages."""

from __future__ import annotations

from agentfs.config import Settings
from agentfs.errors import ShareError
from agentfs.ipc.mailbox import Mailbox
from agentfs.process.agents import Agents
from agentfs.process.names import INIT_NAME
from agentfs.resources.shares import FLOOR, Holder, Pot
from agentfs.security.principal import Principal

__all__ = ["check_room"]


class _Inbox(Pot):
    """What waits in one inbox at the moment, by sender. Made to ask one question."""

    __slots__ = ("_agents", "_name", "_senders")

    def __init__(self, box: Mailbox, agents: Agents, settings: Settings) -> None:
        super().__init__(
            "inbox",
            f"messages that wait in the inbox of {box.name}",
            lambda: settings.now.messages.max_waiting,
            "messages.max_waiting",
            lambda: settings.now.shares,
        )
        self._name = box.name
        self._agents = agents
        self._senders = box.senders
        self.used = box.waiting
        self.operators = box.senders.get(INIT_NAME, 0)

    def held(self, holder: Holder) -> int:
        return self._senders.get(holder.name, 0)

    def left(self, holder: Holder) -> int:
        """The operator's reserve is beyond the size."""
        size, reserve = self.bounds()
        left = size - self.used
        return max(left, max(1, reserve) - self.operators) if holder.operator else left

    def is_used_up(self, holder: Holder, left: int) -> ShareError:
        words = f"the inbox of {self._name} is full: {self.used} messages wait in it"
        return self.refusal(self.scarce, words, holder, 0, rule=self.setting)

    def held_by_user(self, uid: int) -> int:
        """Costs a look at every sender: asked only where most of the inbox is taken."""
        find = self._agents.find
        found = ((count, find(name)) for name, count in self._senders.items())
        return sum(count for count, agent in found if agent is not None and agent.uid == uid)


def check_room(box: Mailbox, principal: Principal, agents: Agents, settings: Settings) -> None:
    """Raise ShareError, EDQUOT or ENOSPC, if one more message of `principal` may not wait in the
    inbox `box`. If it is full, the operator has as many as its reserve all the same."""
    waiting, most = box.waiting, settings.now.messages.max_waiting
    if waiting < most and waiting < FLOOR:
        return
    agent = agents.find(principal.name)
    uid = principal.uid if agent is None else agent.uid
    operator = principal.is_operator
    holder = Holder(principal.name, uid, agent=not operator, operator=operator)
    _Inbox(box, agents, settings).check(holder)
