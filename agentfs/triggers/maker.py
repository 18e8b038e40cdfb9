"""The maker of a thing that starts runs by itself: a schedule, an entity, a system.

What such a thing starts is its maker's doing, long after the maker's process has ended, and is
never more than the maker might when it made it. So a maker is kept as a value, with its ceiling and
its limits. While the agent has a process, what is started is started for that one, and its limits
and budgets hold as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentfs.model.capability import Ceiling
from agentfs.model.names import INIT_NAME
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.model.process import Limits, Process, Restart, Role, Tier
from agentfs.process.agents import Agents
from agentfs.process.capabilities import ceiling_below
from agentfs.process.ceilings import NAMES, OWN_ONLY, Ceilings
from agentfs.process.table import ProcessTable
from agentfs.quota.made import Made
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Action

__all__ = ["Maker", "TriggerMakers"]


@dataclass(frozen=True, slots=True)
class Maker:
    """Who made it, as that process was then. `owner` is whose it is now: the same agent, or init
    once that is removed. `number` is the agent's; `ceiling` is that of its children, `limits` are
    those that held for it."""

    name: str
    owner: str
    number: int
    role: Role
    tier: Tier
    uid: int
    gid: int
    user: str
    ceiling: Ceiling | None
    limits: dict[str, int | float]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "owner": self.owner,
            "number": self.number,
            "role": self.role.value,
            "tier": self.tier.value,
            "uid": self.uid,
            "gid": self.gid,
            "user": self.user,
            "ceiling": None if self.ceiling is None else self.ceiling.record(),
            "limits": self.limits,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Maker:
        """The maker that gave this record."""
        ceiling = record["ceiling"]
        return cls(
            **{
                **record,
                "role": Role(record["role"]),
                "tier": Tier(record["tier"]),
                "ceiling": None if ceiling is None else Ceiling.from_record(ceiling),
            }
        )

    @property
    def is_operator(self) -> bool:
        return self.role is Role.KERNEL


class TriggerMakers:
    """Makes makers of processes, and finds the process that acts for one. It has no state."""

    def __init__(
        self,
        gate: Gate,
        table: ProcessTable,
        agents: Agents,
        ceilings: Ceilings,
        made: Made,
    ) -> None:
        self._gate = gate
        self._table = table
        self._agents = agents
        self._ceilings = ceilings
        self.made = made
        """What they have made is counted there."""

    def of(self, process: Process) -> Maker:
        """`process` makes something now. A step of a run makes it for the run's agent."""
        agent = self._agents.find(process.agent)
        limits = {
            name: limit
            for name in NAMES
            if name != OWN_ONLY and (limit := self._ceilings.effective(process, name)) is not None
        }
        return Maker(
            process.agent,
            process.agent,
            agent.id if agent is not None else 0,
            process.role,
            process.tier,
            process.uid,
            process.gid,
            process.user,
            ceiling_below(process),
            {} if process.role is Role.KERNEL else limits,
        )

    def heir(self, maker: Maker) -> Maker:
        """The same, now that its agent is removed: it is init's, and may no more than before."""
        init = self._agents.get(INIT_NAME)
        return replace(maker, owner=INIT_NAME, uid=init.uid, gid=init.gid)

    def process(self, maker: Maker) -> Process:
        """The process that what it starts belongs to: the agent's, or process 1."""
        agent = self._agents.find(maker.name)
        if agent is not None and agent.id == maker.number:
            process = self._table.by_name(maker.name)
            if process is not None and process.state.alive:
                return process
        return self._table.get(INIT)

    def principal(self, maker: Maker) -> Principal:
        """In whose name that is."""
        process = self.process(maker)
        kind = Kind.OPERATOR if process.pid == INIT else Kind.AGENT
        return Principal(kind, process.pid, process.name, process.uid, process.gid)

    def operator(self) -> Principal:
        """Process 1, in whose name the kernel ends what others have started."""
        init = self._table.get(INIT)
        return Principal(Kind.OPERATOR, INIT, init.name, init.uid, init.gid)

    def permit(self, maker: Maker, action: Action, path: str) -> None:
        """Raise EACCES or EPERM unless the maker may still do it: by the rules as they are now,
        whether or not it has a process."""
        self._gate.policy.permit(self._actor(maker), action, path)

    def require_capability(self, maker: Maker, capability: str) -> None:
        """Raise EACCES or EPERM unless the maker has it, by what it had then and the roles now."""
        self._gate.policy.require_capability(self._actor(maker), capability)

    @staticmethod
    def owns(principal: Principal, maker: Maker) -> bool:
        """Whether what `maker` has made is the caller's."""
        return principal.is_operator or (principal.is_agent and principal.agent == maker.owner)

    def require_read(self, principal: Principal, maker: Maker) -> None:
        """Raise EACCES or EPERM unless `principal` may see what is done for `maker`: as with the
        maker's process."""
        if not self.owns(principal, maker):
            actor, path = self._gate.actor(principal), f"/agents/{maker.name}/info"
            self._gate.policy.permit(actor, Action.READ_PROCESS, path, self._actor(maker))

    def _actor(self, maker: Maker) -> Process:
        process = self.process(maker)
        return process if maker.is_operator or process.pid != INIT else _shade(maker)


def _shade(maker: Maker) -> Process:
    """A process that is no more, as far as rules ask about it."""
    return Process(
        pid=0,
        ppid=INIT,
        name=maker.name,
        role=maker.role,
        tier=maker.tier,
        model="",
        uid=maker.uid,
        gid=maker.gid,
        user=maker.user,
        node="",
        restart=Restart.NEVER,
        started=0.0,
        ceiling=maker.ceiling,
        limits=Limits.none_but(),
    )
