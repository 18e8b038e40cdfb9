"""Projects: what several agents work on, with a memory that they share.

A project has an owner and a mode, as a queue has: who may read it sees its specification and how
its seeds come on. Its memory, and the planting of seeds, are for its members alone, whatever the
mode says; the owner is one.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.projects.events import (
    ProjectActivated,
    ProjectChanged,
    ProjectCreated,
    ProjectLeft,
    ProjectRemoved,
)
from agentfs.projects.members import Membership
from agentfs.projects.settings import ProjectSettings
from agentfs.projects.spec import DEFAULT, read_spec
from agentfs.quota.disk_shares import DiskShares
from agentfs.quota.file_bytes import Bytes
from agentfs.quota.made import Made
from agentfs.rights.gate import Gate
from agentfs.rights.ownership import Access, Ownership
from agentfs.shared.registry import Registry
from agentfs.store.ground import Ground
from agentfs.store.records import Records

__all__ = ["ACTIVE", "FOLDER", "Project", "Projects"]

ACTIVE = "active_project"
"""The records in the store of the projects that agents work on, by agent."""

FOLDER = "projects"
"""Below the state directory it has a folder for each project, and in that its memory."""

GONE, LEFT = ".removed-", ".left-"
"""Before a name they begin that of a folder there which is being removed, and of one that nobody
has removed although there is no such project: what the daemon was about to do when it was killed,
or what a store that was mended does not know any more."""


@dataclass(slots=True, eq=False)
class Project:
    """One project. `members`: without the owner. `spec` is its document as it was written.
    `changed` (ns): when one of these did last. Only `Projects` changes its fields."""

    name: str
    ownership: Ownership
    changed: int
    members: tuple[str, ...] = ()
    spec: str = DEFAULT
    removed: bool = False

    def __str__(self) -> str:
        return f"project {self.name}"

    def record(self) -> dict[str, Any]:
        """Its record in the store."""
        own = {"changed": self.changed, "members": list(self.members), "spec": self.spec}
        return self.ownership.record() | own

    @classmethod
    def read(cls, name: str, record: dict[str, Any]) -> Project:
        own = Ownership.from_record(record)
        return cls(name, own, record["changed"], tuple(record["members"]), record["spec"])

    def has(self, agent: str) -> bool:
        """Whether an agent is a member."""
        return agent == self.ownership.owner or agent in self.members


class Projects(Registry[Project]):
    """All projects by name, and the system calls on them. Loads itself from the store."""

    KIND = "project"
    FOLDER = "/projects"
    CHANGED = ProjectChanged

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        agents: Agents,
        disk: DiskShares,
        made: Made,
    ) -> None:
        super().__init__(ground, gate, table, agents, made, Project.read)
        self._membership = Membership(ground, agents)
        self._disk = disk
        self._folder = ground.state_dir / FOLDER
        self._active = Records[str, str](
            ground.store,
            ACTIVE,
            lambda agent, record: (agent, record["project"]),
            lambda name: {"project": name},
        )
        self._active.load()
        self._to_sweep = trio.Event()
        for name in self._by_name:
            self.memory(name)

    # -- what is there -----------------------------------------------------------------------------

    def memory_dir(self, name: str) -> Path:
        """The real directory of the memory that the members share."""
        return self._folder / name / "memory"

    def memory(self, name: str) -> Bytes:
        """What is in it; made if it is not there."""
        place = self.memory_dir(name)
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o1777)  # the state directory is the daemon's alone
        return self._disk.beside_shared(place)

    def active(self, agent: str) -> str:
        """The project that an agent works on; empty if it has named none."""
        return self._active.get(agent, "")

    def of(self, agent: str) -> Iterator[str]:
        """The names of those that an agent is a member of, sorted."""
        return (name for name in self if self._by_name[name].has(agent))

    # -- who may -----------------------------------------------------------------------------------

    @staticmethod
    def belongs(principal: Principal, project: Project) -> bool:
        """Whether it is a member, or the operator."""
        member = principal.is_agent and project.has(principal.agent)
        return member or principal.is_operator

    def may_read(self, principal: Principal, project: Project) -> None:
        """Raise EACCES unless `principal` is a member, or the mode lets it."""
        if not self.belongs(principal, project):
            project.ownership.require(principal, Access.READ, str(project))

    def require_member(self, principal: Principal, project: Project) -> None:
        """Raise EACCES unless `principal` is a member, or the operator; ESTALE once the project is
        removed."""
        if project.removed:
            raise KernelError(errno.ESTALE, f"{project} was removed")
        if not self.belongs(principal, project):
            raise KernelError(
                errno.EACCES,
                f"{principal.name} is no member of {project}: its owner,"
                f" {project.ownership.owner}, may add it",
                rule="member",
            )

    # -- system calls ------------------------------------------------------------------------------

    def create(self, principal: Principal, name: str, mode: int) -> Project:
        """Make one with exactly these mode bits. EINVAL, EEXIST, EACCES, ENOSPC, EDQUOT."""
        with self._gate.enter(principal) as actor:
            most = self._settings.of(ProjectSettings).max_projects
            ownership = self._check_new(principal, actor, name, mode, most)
            if name.startswith("."):
                raise KernelError(
                    errno.EINVAL, f"{name!r}: a project begins with no full stop", rule="name"
                )
            self._put_aside(name, LEFT)
            self.memory(name)
            project = Project(name, ownership, int(self._clock.now() * 1e9))
            self._add(project)
            self._events.emit(ProjectCreated(name, ownership.owner))
            return project

    def write(self, principal: Principal, name: str, text: str) -> None:
        """Give it another document, which was checked. ENOENT; EPERM unless the owner agent or the
        operator asks; EINVAL, EFBIG."""
        with self._gate.enter(principal):
            project = self.get(name)
            project.ownership.require_owner(principal, f"write the specification of {project}")
            read_spec(text)
            self._update(project, spec=text)

    def set_members(self, principal: Principal, name: str, names: Iterable[str]) -> None:
        """Let these be its members, beside the owner. ENOENT (the project, an agent), ENOSPC, EPERM
        unless the owner agent or the operator asks."""
        with self._gate.enter(principal):
            project = self.get(name)
            project.ownership.require_owner(principal, f"change the members of {project}")
            wanted = self._membership.checked(names)
            self._keep(project, tuple(each for each in wanted if each != project.ownership.owner))

    def leave(self, principal: Principal, name: str, agent: str) -> None:
        """Take one member out. ENOENT; EPERM unless the member itself, the owner agent or the
        operator asks, and for the owner."""
        with self._gate.enter(principal):
            project = self.get(name)
            if not principal.acts_for(agent):
                project.ownership.require_owner(principal, f"take {agent} out of {project}")
            if agent not in project.members:
                owner = agent == project.ownership.owner
                raise KernelError(
                    errno.EPERM if owner else errno.ENOENT,
                    f"{agent} is {'the owner' if owner else 'no member'} of {project}",
                )
            self._keep(project, tuple(each for each in project.members if each != agent))

    def activate(self, principal: Principal, agent: str, name: str) -> None:
        """Let an agent work on a project, of which it is a member; with an empty name on none.
        ENOENT; EACCES unless the agent itself or the operator asks, and for who is no member."""
        with self._gate.enter(principal):
            if not principal.acts_for(agent):
                raise KernelError(
                    errno.EACCES,
                    f"{agent} says itself what it works on, not {principal.name}",
                    rule="private",
                )
            self._agents.get(agent)
            before = self.active(agent)
            if name:
                project = self.get(name)
                if not project.has(agent):
                    raise KernelError(
                        errno.EACCES, f"{agent} is no member of {project}", rule="member"
                    )
                self._active.put(agent, name)
                self._events.emit(ProjectActivated(name, agent))
            elif before:
                self._deactivate(agent)

    def remove(self, principal: Principal, name: str, *, force: bool = False) -> None:
        """Remove one; its seeds go by `Seeds.remove_project`. ENOENT; EPERM unless the owner agent
        or the operator asks; ENOTEMPTY if there is something in its memory, unless by `force`: then
        that goes, too."""
        with self._gate.enter(principal):
            project = self.get(name)
            project.ownership.require_owner(principal, f"remove {project}")
            place = self.memory_dir(name)
            if not force and os.listdir(place):
                raise KernelError(
                    errno.ENOTEMPTY,
                    f"there are files in the memory of {project}; `remove` in its ctl drops them",
                    rule="project in use",
                )
            for agent in [*self._active]:
                if self._active[agent] == name:
                    self._deactivate(agent)
            self._discard(project)
            self._store.on_commit(lambda: self._end(project))
            self._events.emit(ProjectRemoved(name, principal.agent))

    def _end(self, project: Project) -> None:
        """Its folder has another name at once: the next project of its name has an empty one."""
        project.removed = True
        self._disk.place_removed(self.memory_dir(project.name))
        self._put_aside(project.name, GONE)
        self._to_sweep.set()

    def _put_aside(self, name: str, mark: str) -> None:
        place = self._folder / name
        if place.exists():
            place.rename(self._folder / f"{mark}{name}-{self._clock.now():.6f}")

    async def run(self) -> None:
        """Remove the folders of projects that were removed, now or by an earlier daemon."""
        while True:
            self._to_sweep = trio.Event()
            await trio.to_thread.run_sync(_sweep, self._folder, abandon_on_cancel=True)
            await self._to_sweep.wait()

    def agent_removed(self, name: str) -> None:
        """It is a member of nothing any more; what it owned is init's."""
        super().agent_removed(name)
        if self.active(name):
            self._deactivate(name)
        for project in self._by_name.values():
            if name in project.members:
                rest = tuple(each for each in project.members if each != name)
                self._update(project, members=rest)

    def _keep(self, project: Project, members: tuple[str, ...]) -> None:
        self._update(project, members=members)
        for agent in [*self._active]:
            if self._active[agent] == project.name and not project.has(agent):
                self._deactivate(agent)

    def _deactivate(self, agent: str) -> None:
        name = self._active[agent]
        self._active.drop(agent)
        self._events.emit(ProjectLeft(name, agent))


def _sweep(folder: Path) -> None:
    for place in folder.iterdir():
        if place.name.startswith(GONE):
            shutil.rmtree(place, ignore_errors=True)
