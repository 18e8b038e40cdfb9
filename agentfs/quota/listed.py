"""Pots whose things are in a table of their own, which knows how many each agent has."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sized

from agentfs.model.names import INIT_NAME
from agentfs.model.process import Agent
from agentfs.quota.pots import PotKind
from agentfs.quota.settings import ShareSettings
from agentfs.quota.shares import LARGEST, Holder, Pot

__all__ = ["Listed"]


class Listed(Pot):
    """`lists()` are the things of each agent, by name, or how many those are; `total()` says how
    many there are together; `find` gives the agent of a name. Nothing is added to it or given back.
    """

    __slots__ = ("_find", "_lists", "_total")

    def __init__(
        self,
        kind: PotKind,
        size: Callable[[], int],
        terms: Callable[[], ShareSettings],
        lists: Callable[[], Mapping[str, Sized | int]],
        total: Callable[[], int],
        find: Callable[[str], Agent | None],
    ) -> None:
        super().__init__(kind, size, terms)
        self._lists = lists
        self._total = total
        self._find = find

    @property
    def used(self) -> int:
        return self._total()

    @property
    def operators(self) -> int:
        return _number(self._lists().get(INIT_NAME, 0))

    def held(self, holder: Holder) -> int:
        return _number(self._lists().get(INIT_NAME if holder.operator else holder.name, 0))

    def held_by_user(self, uid: int) -> int:
        """Costs a look at everybody who has something: asked only where most is taken."""
        found = ((each, self._find(name)) for name, each in self._lists().items())
        return sum(_number(each) for each, agent in found if agent is not None and agent.uid == uid)

    def largest(self) -> list[tuple[Holder, int]]:
        counts = ((name, _number(each)) for name, each in self._lists().items())
        most = heapq.nlargest(LARGEST, counts, key=lambda each: each[1])
        shown = {INIT_NAME: "operator"}
        return [(Holder(shown.get(name, name), 0), count) for name, count in most if count]

    def __len__(self) -> int:
        return sum(1 for each in self._lists().values() if _number(each))


def _number(each: Sized | int) -> int:
    return each if isinstance(each, int) else len(each)
