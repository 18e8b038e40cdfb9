"""The bytes on the disk: what agents keep in memory/, in /shared and as artifacts, as pots.

Each has what the disk has left and what is held already; less, where `shares` of /etc/agentfs.yaml
says so. The last `KEPT` bytes of the disk are for the store, for logs and for the operator, whom no
pot refuses: the operator may have all that the disk has.

Changes through the tree are counted as they are made. `run` finds the bytes that programs write by
a path on the disk: every minute it looks at everything, in a thread (`quota.survey`).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import trio

from agentfs.model.principal import Principal
from agentfs.process.agents import Agents
from agentfs.quota.file_bytes import OPERATOR, Bytes
from agentfs.quota.pots import POTS
from agentfs.quota.settings import ShareSettings
from agentfs.quota.shares import Holder, Pot, Shares
from agentfs.quota.survey import Survey
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["DiskShares"]

log = logging.getLogger(__name__)

KEPT = 64 * 1024 * 1024
"""Bytes of the disk (at most an eighth of it) that agents leave in any case."""

INODES_KEPT = 0.02
"""The part of the disk's inodes that they leave."""

STALE, MUCH = 0.5, 16 * 1024 * 1024
"""Seconds, and bytes taken, after which the disk is asked again."""

LONGEST = 18
"""Digits of a number of an agent."""

ROUND = 60.0
"""Seconds between two looks at everything."""

REST = 10
"""How many times as long as a look there is none, at least."""


class DiskShares(Part):
    """The pots. `memory(name)` are the bytes of one agent's memory/, `shared` those of /shared.
    `rounds` counts the looks at everything."""

    def __init__(self, ground: Ground, shares: Shares, agents: Agents) -> None:
        self._state = ground.state_dir
        self._settings = ground.settings
        self._clock = ground.clock
        self._shares = shares
        self._agents = agents
        self._numbers: dict[str, str] = {}  # the agents' names by their marks
        self._last = 0  # the number of the latest agent when these were looked up
        self._looked, self._held, self._left = -STALE, 0, 0
        self._pots: list[Pot] = []
        self._memory = self._pot("memory")
        self.artifacts = self._pot("artifacts")
        self._shared = self._pot("shared")
        root = os.fspath(self._state / "shared")
        self.shared = Bytes(root, self._shared, self._holder, self._mark)
        self._beside: dict[str, Bytes] = {}  # by directory
        self._own: dict[str, dict[str, Bytes]] = {}  # by agent and directory
        self.rounds = 0

    def _pot(self, name: str) -> Pot:
        def size() -> int:
            most: int | None = getattr(self._settings.of(ShareSettings), name)
            disk = pot.used + self.left()
            return disk if most is None else min(most, disk)

        pot = Pot(POTS[name], size, self._shares.terms)
        self._shares.put(pot)
        self._pots.append(pot)
        return pot

    def left(self) -> int:
        """Bytes of the disk that agents may still take, all together."""
        now, held = self._clock.monotonic(), sum(pot.used for pot in self._pots)
        if now - self._looked >= STALE or abs(held - self._held) >= MUCH:
            disk = os.statvfs(self._state)
            kept = min(KEPT, disk.f_blocks * disk.f_frsize // 8)
            self._left = disk.f_bavail * disk.f_frsize - kept
            if disk.f_files and disk.f_favail < INODES_KEPT * disk.f_files:
                self._left = 0
            self._looked, self._held = now, held
        return max(0, self._left - (held - self._held))

    def room(self, principal: Principal) -> int | None:
        """Bytes that `principal` may still write, into its memory/ or /shared; None for the
        operator: as many as the disk has."""
        if principal.is_operator:
            return None
        holder = self._shares.holder(principal)
        return max(self._memory.room(holder), self._shared.room(holder))

    # -- whose something is ----------------------------------------------------------------------

    def memory(self, name: str) -> Bytes:
        """Those of agent `name`."""
        return self._of(name, self._agents.memory_dir(name))

    def beside_mail(self, name: str) -> Bytes:
        """The files that mail programs keep in its inbox: they are in the same pot."""
        return self._of(name, self._agents.beside_mail(name))

    def beside_shared(self, place: Path) -> Bytes:
        """The files of several agents in `place`: they are in the pot of /shared."""
        root = os.fspath(place)
        if root not in self._beside:
            self._beside[root] = Bytes(root, self._shared, self._holder, self._mark)
        return self._beside[root]

    def place_removed(self, place: Path) -> None:
        """Those are gone."""
        counted = self._beside.pop(os.fspath(place), None)
        if counted is not None:
            counted.close()

    def of_run(self, starter: str, place: Path) -> Bytes:
        """What the steps of a run leave in `place`: it is in the same pot of whoever started it."""
        return self._of(starter, place)

    def run_removed(self, place: Path) -> None:
        """The same is gone."""
        for here in self._own.values():
            counted = here.pop(os.fspath(place), None)
            if counted is not None:
                counted.close()

    def _of(self, name: str, place: Path) -> Bytes:
        root, here = os.fspath(place), self._own.setdefault(name, {})
        if root not in here:
            here[root] = Bytes(root, self._memory, lambda mark: self._shares.agent(name))
        return here[root]

    def agent_removed(self, name: str) -> None:
        """Its own directories go, and what it had in them with them."""
        for counted in self._own.pop(name, {}).values():
            counted.close()

    def owner(self, name: str, uid: int) -> Holder:
        """The holder of an artifact that belongs to this owner."""
        if self._agents.find(name) is not None:
            return self._shares.agent(name)
        return self._shares.user(uid)

    def _mark(self, principal: Principal) -> str:
        if principal.is_operator:
            return OPERATOR
        agent = self._agents.find(principal.agent) if principal.is_agent else None
        return f"u{principal.uid}" if agent is None else str(agent.id)

    def _holder(self, mark: str) -> Holder:
        if mark == OPERATOR:
            return self._shares.operator
        if mark[:1] == "u" and mark[1:].isdecimal():
            return self._shares.user(int(mark[1:]))
        name = self._numbered(mark)
        return self._shares.nobody if name is None else self._shares.agent(name)

    def _numbered(self, mark: str) -> str | None:
        """The agent with this number; None if it was removed. Files outlive many agents: an agent
        that is gone is not looked for again."""
        name = self._numbers.get(mark)
        if name is not None:
            agent = self._agents.find(name)
            if agent is not None and str(agent.id) == mark:
                return name
        elif not mark.isdecimal() or len(mark) > LONGEST or int(mark) <= self._last:
            return None
        everybody = filter(None, map(self._agents.find, self._agents))
        self._numbers = {str(agent.id): agent.name for agent in everybody}
        self._last = self._agents.last_id
        return self._numbers.get(mark)

    # -- the look at everything --------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            began = trio.current_time()
            for shared in (self.shared, *self._beside.values()):
                await self.look(shared)
            for name in {*self._agents, *self._own}:
                if self._agents.find(name) is not None:  # by now
                    self.memory(name)
                    if self._agents.beside_mail(name).is_dir():
                        self.beside_mail(name)
                for counted in tuple(self._own.get(name, {}).values()):
                    await self.look(counted)
            self.rounds += 1
            await trio.sleep(max(ROUND, REST * (trio.current_time() - began)))

    async def look(self, counted: Bytes) -> None:
        """Put right what is counted of one directory."""
        survey, before = Survey(counted.root, marks=counted.marks), counted.now()
        try:
            await trio.to_thread.run_sync(survey.run, abandon_on_cancel=True)
        except OSError as failure:
            log.warning("nobody knows how much is in %s: %s", counted.root, failure.strerror)
            return
        except trio.Cancelled:
            survey.stop()
            raise
        counted.correct(survey.found.items(), before, whole=survey.whole)
