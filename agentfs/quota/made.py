"""What agents have made, and for whom it counts: definitions, queues, topics, groups.

A thing counts for the agent that made it, and once that is removed for whom that one counted: so
nobody gets more room by making things through children that it then removes. After a restart of the
daemon what removed agents have left counts for nobody, but for queues and topics, which are the
operator's then. Reminders, questions and requests for an approval go with their agent.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sized

from agentfs.base.clock import Timers
from agentfs.base.windows import MINUTE
from agentfs.process.agents import Agents
from agentfs.process.events import AgentDefined, AgentRemoved
from agentfs.quota.events import GroupRemoved
from agentfs.quota.listed import Listed
from agentfs.quota.shares import Charge, Holder, Shares
from agentfs.shared.events import QueueCreated, QueueRemoved, TopicCreated, TopicRemoved
from agentfs.store.event_log import EventLog, Record
from agentfs.store.part import Part
from agentfs.store.settings import Settings
from agentfs.store.store import Store

__all__ = ["Made"]

DEFINITIONS, QUEUES, TOPICS, GROUPS = "definitions", "queues", "topics", "groups"
LAUNCHES = "launches"

SIZES = {
    DEFINITIONS: "shares.definitions",
    QUEUES: "queues.max_queues",
    TOPICS: "topics.max_topics",
    GROUPS: "groups.max_groups",
    "reminders": "shares.reminders",
    "asks": "shares.asks",
    "approvals": "shares.approvals",
}
"""What is divided, and the setting that says how much there is of it."""

UNITS = {
    "asks": "questions that wait for an answer",
    "approvals": "requests that wait for approval",
}

EAGAIN = frozenset({GROUPS, "asks", "approvals"})
"""Of what one more is EAGAIN, as beyond the limits that they have already."""


class Made(Part):
    """The charges of all that was made, by kind and name."""

    def __init__(
        self,
        shares: Shares,
        settings: Settings,
        store: Store,
        events: EventLog,
        agents: Agents,
        timers: Timers,
    ) -> None:
        self._shares = shares
        self._settings = settings
        self._store = store
        self._agents = agents
        self._timers = timers
        self._charges: dict[str, dict[str, Charge]] = {}
        shares.pot(
            LAUNCHES,
            "programs started within a minute",
            lambda: shares.terms().launches,
            "shares.launches",
            scarce=errno.EAGAIN,
            excess=errno.EAGAIN,
        )
        for kind in (DEFINITIONS, QUEUES, TOPICS, GROUPS):
            self._charges[kind] = {}
            scarce, excess = self._errnos(kind)
            shares.pot(kind, kind, self._size(kind), SIZES[kind], scarce=scarce, excess=excess)
        events.listen(
            self._heard,
            AgentDefined,
            AgentRemoved,
            GroupRemoved,
            QueueCreated,
            QueueRemoved,
            TopicCreated,
            TopicRemoved,
        )

    def count_in(
        self, kind: str, lists: Callable[[], Mapping[str, Sized | int]], total: Callable[[], int]
    ) -> None:
        """Divide what waits in a table of its own, too."""
        scarce, excess = self._errnos(kind)
        self._shares.pots[kind] = Listed(
            kind,
            UNITS.get(kind, kind),
            self._size(kind),
            SIZES[kind],
            self._shares.terms,
            lists=lists,
            total=total,
            find=self._agents.find,
            scarce=scarce,
            excess=excess,
        )

    def count(self, kind: str, owners: Iterable[tuple[str, str | None]]) -> None:
        """Count what there is already of a kind: (name, whose it is)."""
        for name, owner in owners:
            self._note(kind, name, owner)

    def definitions(self) -> Iterable[tuple[str, str | None]]:
        """(name, maker) of the agents that there are."""
        found = [self._agents.get(name) for name in self._agents]
        names = {agent.id: agent.name for agent in found}
        return ((agent.name, names.get(agent.creator_id)) for agent in found)

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

    def note_group(self, path: str, maker: str) -> None:
        """Agent `maker` has made a group."""
        self._note(GROUPS, path, maker)

    def _size(self, kind: str) -> Callable[[], int]:
        return lambda: self._settings.number(SIZES[kind])

    @staticmethod
    def _errnos(kind: str) -> tuple[int, int]:
        if kind in EAGAIN:
            return errno.EAGAIN, errno.EAGAIN
        return errno.ENOSPC, errno.EDQUOT

    def _note(self, kind: str, name: str, maker: str | None) -> None:
        holder = self._shares.nobody if maker is None else self._shares.agent(maker)
        self._charges[kind][name] = Charge(self._shares.pots[kind], holder, 1)

    def _drop(self, kind: str, name: str) -> None:
        charge = self._charges[kind].pop(name, None)
        if charge is not None:
            charge.release()

    def _heard(self, record: Record) -> None:
        match record.event:
            case AgentDefined(agent=name):
                agent = self._agents.find(name)
                self._note(DEFINITIONS, name, None if agent is None else agent.creator)
            case QueueCreated(name=name, owner=owner):
                self._note(QUEUES, name, owner)
            case TopicCreated(name=name, owner=owner):
                self._note(TOPICS, name, owner)
            case AgentRemoved(agent=name):
                self._drop(DEFINITIONS, name)
            case QueueRemoved(name=name):
                self._drop(QUEUES, name)
            case TopicRemoved(name=name):
                self._drop(TOPICS, name)
            case GroupRemoved(path=path):
                self._drop(GROUPS, path)

    def agent_removed(self, name: str) -> None:
        """Agent `name` is being removed."""
        holder = self._shares.agent(name)
        its_own = self._charges[DEFINITIONS].get(name)
        heir = self._shares.operator if its_own is None else its_own.holder
        if any(self._shares.pots[kind].held(holder) for kind in self._charges):
            self._store.on_commit(lambda: self._move(holder, heir))

    def _move(self, holder: Holder, heir: Holder) -> None:
        for kind, charges in self._charges.items():
            pot = self._shares.pots[kind]
            if pot.held(holder):
                for name, charge in charges.items():
                    if charge.holder is holder:
                        charges[name] = Charge(pot, heir, 1)
                        charge.release()
