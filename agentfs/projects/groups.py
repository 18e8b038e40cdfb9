"""Groups of agents that do something together: who is in one, how far each of them is, and the wait
for all. `@NAME` is the address of all members.

A member has begun once it has a living process, and has done its part when that has ended for good,
or when it says so. Its part stays done, whatever becomes of the agent's next process.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.mail.mail import Mail
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.model.spec import ProcessSpec
from agentfs.process.agents import Agents
from agentfs.process.failure import ended_how
from agentfs.process.supervisor import UNKNOWN
from agentfs.process.table import ProcessTable
from agentfs.projects.events import (
    AgentGroupChanged,
    AgentGroupCreated,
    AgentGroupMemberCompleted,
    AgentGroupRemoved,
)
from agentfs.projects.members import Membership
from agentfs.projects.settings import ProjectSettings
from agentfs.quota.made import Made
from agentfs.rights.gate import Gate
from agentfs.rights.ownership import Access, Ownership
from agentfs.shared.registry import Registry
from agentfs.store.ground import Ground

__all__ = ["AgentGroup", "AgentGroups", "Member", "MemberState"]

LONGEST = 1024
"""Characters that a member may say about its part."""


class MemberState(enum.Enum):
    """How far a member is. One that is final stays, until somebody says `again`."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        return self in (MemberState.COMPLETED, MemberState.FAILED)


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `words` are its own, or say how its program or its task ended; `since` is when
    it came, or began anew: the time in seconds."""

    state: MemberState
    words: str = ""
    since: float = 0.0

    def record(self) -> list[str | float]:
        """As JSON."""
        return [self.state.value, self.words, self.since]


@dataclass(slots=True, eq=False)
class AgentGroup:
    """One group. `changed` (ns): when its mode, owner or members did last. Only `AgentGroups`
    changes its fields."""

    name: str
    ownership: Ownership
    changed: int
    members: dict[str, Member] = field(default_factory=dict)
    removed: bool = False

    def __str__(self) -> str:
        return f"group {self.name}"

    @property
    def finished(self) -> bool:
        """Whether every member has done its part, and there is one."""
        return bool(self.members) and all(each.state.final for each in self.members.values())

    def count(self, state: MemberState) -> int:
        """How many members are so far."""
        return sum(each.state is state for each in self.members.values())

    def record(self) -> dict[str, Any]:
        """Its record in the store."""
        members = {name: each.record() for name, each in self.members.items()}
        return self.ownership.record() | {"changed": self.changed, "members": members}

    @classmethod
    def read(cls, name: str, record: dict[str, Any]) -> AgentGroup:
        members = {
            each: Member(MemberState(state), words, since)
            for each, (state, words, since) in record["members"].items()
        }
        return cls(name, Ownership.from_record(record), record["changed"], members)


class AgentGroups(Registry[AgentGroup]):
    """All groups of agents by name, and the system calls on them. Loads itself from the store."""

    KIND = "agent_group"
    FOLDER = "/dev/tasks/groups"
    CHANGED = AgentGroupChanged

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        agents: Agents,
        mail: Mail,
        made: Made,
    ) -> None:
        super().__init__(ground, gate, table, agents, made, AgentGroup.read)
        self._membership = Membership(ground, agents)
        self._codes: dict[int, int] = {}  # by process: how its last program ended
        mail.broadcasts.keep_groups(self)

    # -- who may -----------------------------------------------------------------------------------

    @staticmethod
    def belongs(principal: Principal, group: AgentGroup) -> bool:
        """Whether it is a member, the owner, or the operator."""
        member = principal.is_agent and principal.agent in group.members
        return member or group.ownership.owned_by(principal)

    def of(self, agent: str) -> list[str]:
        """The names of those that an agent is in, or owns, sorted."""
        return [
            name
            for name in self
            if agent in self._by_name[name].members or agent == self._by_name[name].ownership.owner
        ]

    def may_read(self, principal: Principal, group: AgentGroup) -> None:
        """Raise EACCES unless `principal` belongs to it, or the mode lets it."""
        if not self.belongs(principal, group):
            group.ownership.require(principal, Access.READ, str(group))

    def receivers(self, principal: Principal, name: str) -> Iterable[str]:
        """To whom a message to it goes. Raises ENOENT; EACCES unless `principal` belongs to it, or
        the mode lets it write."""
        group = self.get(name)
        if not self.belongs(principal, group):
            group.ownership.require(principal, Access.SEND, str(group))
        return tuple(group.members)

    # -- system calls ------------------------------------------------------------------------------

    def create(self, principal: Principal, name: str, mode: int) -> AgentGroup:
        """Make one with exactly these mode bits, without members. EINVAL, EEXIST, EACCES, ENOSPC,
        EDQUOT."""
        with self._gate.enter(principal) as actor:
            most = self._settings.of(ProjectSettings).max_groups
            ownership = self._check_new(principal, actor, name, mode, most)
            group = AgentGroup(name, ownership, int(self._clock.now() * 1e9))
            self._add(group)
            self._events.emit(AgentGroupCreated(name, ownership.owner))
            return group

    def remove(self, principal: Principal, name: str) -> None:
        """Remove one; its members stay agents. ENOENT; EPERM unless the owner agent or the operator
        asks."""
        with self._gate.enter(principal):
            group = self.get(name)
            group.ownership.require_owner(principal, f"remove {group}")
            self._discard(group)
            self._store.on_commit(lambda: self._end(group))
            self._events.emit(AgentGroupRemoved(name, principal.agent))

    @staticmethod
    def _end(group: AgentGroup) -> None:
        group.removed = True

    def set_members(self, principal: Principal, name: str, names: Iterable[str]) -> None:
        """Let these be its members; those that were stay as far as they are. ENOENT (the group, an
        agent), ENOSPC, EPERM unless the owner agent or the operator asks."""
        with self._gate.enter(principal):
            group = self.get(name)
            group.ownership.require_owner(principal, f"change the members of {group}")
            wanted = self._membership.checked(names)
            self._put(group, {each: group.members.get(each) or self._new(each) for each in wanted})

    def leave(self, principal: Principal, name: str, agent: str) -> None:
        """Take one member out. ENOENT; EPERM unless the member itself, the owner agent or the
        operator asks."""
        with self._gate.enter(principal):
            group = self._of_member(principal, name, agent, "take it out")
            self._put(group, {each: it for each, it in group.members.items() if each != agent})

    def finish(
        self, principal: Principal, name: str, agent: str, *, failed: bool, words: str = ""
    ) -> None:
        """A member has done its part, or has not managed to. ENOENT; EINVAL (too many words); EPERM
        unless the member itself, the owner agent or the operator asks."""
        with self._gate.enter(principal):
            group = self._of_member(principal, name, agent, "say so")
            if len(words) > LONGEST or "\n" in words:
                raise KernelError(errno.EINVAL, f"one line of at most {LONGEST} characters")
            self.ended(group, agent, failed=failed, words=words)

    def again(self, principal: Principal, name: str, agent: str) -> None:
        """A member begins anew. ENOENT, EPERM as `finish`."""
        with self._gate.enter(principal):
            group = self._of_member(principal, name, agent, "say so")
            self._put(group, group.members | {agent: self._new(agent)})

    def _of_member(self, principal: Principal, name: str, agent: str, doing: str) -> AgentGroup:
        group = self.get(name)
        if agent not in group.members:
            raise KernelError(errno.ENOENT, f"{agent} is no member of {group}")
        if not principal.acts_for(agent):
            group.ownership.require_owner(principal, f"{doing} for {agent}")
        return group

    # -- how far they are --------------------------------------------------------------------------

    def spawned(self, process: Process, spec: ProcessSpec) -> None:
        """A member has begun."""
        for group in self._with(process):
            if group.members[process.name].state is MemberState.PENDING:
                self.begun(group, process.name)

    def program_ended(self, process: Process, code: int) -> None:
        """Perhaps it is started again: the process says whether it is over."""
        self._codes[process.pid] = code

    def process_ended(self, process: Process) -> None:
        """A member has done its part, if its program ended well."""
        code = self._codes.pop(process.pid, UNKNOWN)
        words = ended_how(None if code == UNKNOWN else code)
        for group in self._with(process):
            if not group.members[process.name].state.final:
                self.ended(group, process.name, failed=code != 0, words=words if code else "")

    def agent_removed(self, name: str) -> None:
        """It is in no group any more."""
        super().agent_removed(name)
        for group in self._by_name.values():
            if name in group.members:
                rest = {each: it for each, it in group.members.items() if each != name}
                self._put(group, rest)

    def _with(self, process: Process) -> list[AgentGroup]:
        """Those that the agent of a process is in."""
        if process.light:
            return []
        return [each for each in self._by_name.values() if process.name in each.members]

    def _new(self, agent: str) -> Member:
        process = self._table.by_name(agent)
        alive = process is not None and process.state.alive
        state = MemberState.RUNNING if alive else MemberState.PENDING
        return Member(state, since=self._clock.now())

    def begun(self, group: AgentGroup, agent: str) -> None:
        """A member is at work, inside a transaction."""
        member = replace(group.members[agent], state=MemberState.RUNNING, words="")
        self._put(group, group.members | {agent: member})

    def ended(self, group: AgentGroup, agent: str, *, failed: bool, words: str) -> None:
        """It has done its part, or has not managed to, inside a transaction."""
        state = MemberState.FAILED if failed else MemberState.COMPLETED
        member = replace(group.members[agent], state=state, words=words[:LONGEST])
        self._put(group, group.members | {agent: member})
        self._events.emit(AgentGroupMemberCompleted(group.name, agent, state.value))

    def changed_beside(self, group: AgentGroup) -> None:
        """Something else of it has changed, inside a transaction: its tasks."""
        self._update(group)

    def _put(self, group: AgentGroup, members: dict[str, Member]) -> None:
        self._update(group, members=members)
