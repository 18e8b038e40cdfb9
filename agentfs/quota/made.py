"""The things that agents have made, and for whom they count: definitions, queues, topics, groups.

A thing counts for the agent that made it. Once that agent is removed, it counts for the one for
whom the agent's definition counted: so nobody gets more room by making things through children that
it then removes. After a restart of the daemon, things that removed agents have left count for
nobody, but queues and topics for the operator, who has them then. Reminders, questions and requests
for an approval go with their agent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized

from agentfs.base.windows import MINUTE
from agentfs.process.agents import Agents
from agentfs.process.events import AgentDefined, AgentRemoved
from agentfs.quota.listed import Listed
from agentfs.quota.pots import POTS
from agentfs.quota.shares import Charge, Holder, Shares
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["DEFINITIONS", "GROUPS", "Made"]

DEFINITIONS, GROUPS, LAUNCHES = "definitions", "groups", "launches"
"""Names of pots that other modules need."""


class Made(Part):
    """The charges of all that was made, by pot and name. Services tell it of what they make; of
    definitions it hears itself."""

    def __init__(self, ground: Ground, shares: Shares, agents: Agents) -> None:
        self._store = ground.store
        self._timers = ground.timers
        self._shares = shares
        self._agents = agents
        self._charges: dict[str, dict[str, Charge]] = {}
        found = [agents.get(name) for name in agents]
        names = {agent.id: agent.name for agent in found}
        for agent in found:
            self.note(DEFINITIONS, agent.name, names.get(agent.creator_id))
        ground.events.listen(self._heard, AgentDefined, AgentRemoved)

    def count_in(
        self, pot: str, lists: Callable[[], Mapping[str, Sized | int]], total: Callable[[], int]
    ) -> None:
        """Divide what waits in a table of its own, too: `lists()` are the things of each agent, or
        how many those are, `total()` says how many there are together."""
        shares, kind = self._shares, POTS[pot]
        size, find = shares.configured(kind), self._agents.find
        shares.put(Listed(kind, size, shares.terms, lists, total, find))

    def check_making(self, maker: str, kind: str, count: int) -> None:
        """Raise ShareError if agent `maker` may not have so many more things of a kind."""
        self._shares.pots[kind].check(self._shares.agent(maker), count)

    def check_launch(self, maker: str) -> None:
        """Agent `maker` starts a program: it counts for a minute. Raises ShareError if that is more
        than its share; to the operator nobody says no."""
        pot, holder = self._shares.pots[LAUNCHES], self._shares.agent(maker)
        if not holder.operator:
            pot.check(holder)
        self._timers.call_later(MINUTE, Charge(pot, holder, 1).release)

    def note(self, pot: str, name: str, maker: str | None) -> None:
        """There is such a thing, which counts for agent `maker`, or for nobody."""
        holder = self._shares.nobody if maker is None else self._shares.agent(maker)
        charges = self._charges.setdefault(pot, {})
        charges[name] = Charge(self._shares.pots[pot], holder, 1)

    def add(self, pot: str, name: str, maker: str) -> None:
        """Agent `maker` makes something in the transaction under way."""
        self._store.on_commit(lambda: self.note(pot, name, maker))

    def remove(self, pot: str, name: str) -> None:
        """It is removed in the transaction under way."""
        self._store.on_commit(lambda: self._drop(pot, name))

    def _drop(self, pot: str, name: str) -> None:
        charge = self._charges.get(pot, {}).pop(name, None)
        if charge is not None:
            charge.release()

    def _heard(self, record: Record) -> None:
        match record.event:
            case AgentDefined(agent=name):
                agent = self._agents.find(name)
                self.note(DEFINITIONS, name, None if agent is None else agent.creator)
            case AgentRemoved(agent=name):
                self._drop(DEFINITIONS, name)

    def agent_removed(self, name: str) -> None:
        """The things that it has made count for the holder for whom its definition counted."""
        holder = self._shares.agent(name)
        its_own = self._charges.get(DEFINITIONS, {}).get(name)
        heir = self._shares.operator if its_own is None else its_own.holder
        if any(self._shares.pots[pot].held(holder) for pot in self._charges):
            self._store.on_commit(lambda: self._move(holder, heir))

    def _move(self, holder: Holder, heir: Holder) -> None:
        for kind, charges in self._charges.items():
            pot = self._shares.pots[kind]
            if pot.held(holder):
                for name, charge in charges.items():
                    if charge.holder is holder:
                        charges[name] = Charge(pot, heir, 1)
                        charge.release()
