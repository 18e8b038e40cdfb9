"""/projects: what several agents work on, with a memory that they share."""

from __future__ import annotations

import errno
import stat as st
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentfs.base.errors import KernelError
from agentfs.projects.events import (
    ProjectActivated,
    ProjectChanged,
    ProjectCreated,
    ProjectLeft,
    ProjectRemoved,
    SeedChanged,
    SeedCreated,
    SeedRemoved,
)
from agentfs.projects.projects import Project
from agentfs.projects.seed import SeedState
from agentfs.projects.spec import read_spec
from agentfs.providers.described import Described
from agentfs.providers.devices import Devices
from agentfs.providers.ends import Readers
from agentfs.providers.host import HostNode, HostTree
from agentfs.providers.queue_folders import each
from agentfs.providers.seeds import SeedDirectory, SeedsDirectory
from agentfs.providers.system_table import SystemTable
from agentfs.rights.policy import Action
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import control, directory, document, live, value
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Attributes, Directory, Node, Stat, Time
from agentfs.vfs.on import on
from agentfs.vfs.table import AddedRows, key_in

if TYPE_CHECKING:
    from agentfs.kernel import Kernel
    from agentfs.providers.agents import AgentDirectory

__all__ = ["ActiveRows", "ProjectDirectory", "ProjectsDirectory"]

COMMANDS = "add NAME…, remove NAME…, activate, deactivate or remove"

CHANGED = (ProjectChanged,)


class SharedMemory(HostTree):
    """/projects/NAME/memory: real files of all members, under the rules on files."""

    def __init__(self, kernel: Kernel, project: Project, devices: Devices) -> None:
        self._kernel = kernel
        self._project = project
        counted = kernel.projects.memory(project.name)
        place = kernel.projects.memory_dir(project.name)
        super().__init__(place, self._may_use, devices, counted)

    def _may_use(self, caller: Caller) -> None:
        self._kernel.projects.require_member(caller.principal, self._project)
        self._kernel.capabilities.require(caller.principal, "memory")

    def may_read(self, caller: Caller, paths: list[str]) -> None:
        self._ask(caller, Action.READ_FILE, paths)

    def may_write(self, caller: Caller, paths: list[str]) -> None:
        self._ask(caller, Action.WRITE_FILE, paths)

    def changing(
        self, caller: Caller, *nodes: HostNode | None, made: Iterable[str] = ()
    ) -> list[str]:
        paths = super().changing(caller, *nodes, made=made)
        self._kernel.audit.require_room(caller.principal)
        return paths

    def changed(self, caller: Caller, what: str, path: str, to: str = "") -> None:
        self._kernel.file_changes.add(
            caller.principal, what, self._named(path), self._named(to) if to else ""
        )

    def may_move(self, caller: Caller, old: str, new: str) -> None:
        rules = self._kernel.rules
        rules.move_folder(caller.principal, self._named(old), self._named(new))

    def _ask(self, caller: Caller, action: Action, paths: list[str]) -> None:
        self._kernel.rules.file(caller.principal, action, map(self._named, paths))

    def _named(self, path: str) -> str:
        """As rules name it."""
        memory = f"/projects/{self._project.name}/memory"
        return f"{memory}/{path}" if path else memory


class ProjectDirectory(Described):
    """/projects/NAME: a project. Its mode says who may see what it is and how its seeds come on
    (r); its memory, and planting, are for its members: the owner, and whom it has added."""

    PATH = "/projects/NAME"
    mode = 0o755

    def __init__(self, projects: ProjectsDirectory, project: Project) -> None:
        self.projects = projects
        self._project = project
        self.kernel = projects.kernel
        self.name = project.name
        self.key = self.at(project.name)

    @staticmethod
    def at(name: str) -> Hashable:
        """The key of the directory of a project."""
        return ("project", name)

    @property
    def project(self) -> Project:
        """The project. ESTALE once it is removed."""
        if self._project.removed:
            raise KernelError(errno.ESTALE, f"{self._project} was removed")
        return self._project

    def owner(self) -> Owner:
        who = self.project.ownership
        return Owner(who.uid, who.gid, self._project.changed)

    def stat(self) -> Stat:
        found = super().stat()
        mode = self._project.ownership.mode
        # Members of other users pass here: whether they may is asked of the agent.
        found.mode = st.S_IFDIR | mode | each(mode, 0o6, 0o1) | 0o011
        return found

    def guard(self, caller: Caller) -> None:
        self.kernel.projects.may_read(caller.principal, self.project)

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        super().chattr(caller, replace(wanted, mode=None))
        if wanted.mode is not None:
            self.kernel.projects.chmod(caller.principal, self.name, wanted.mode)

    # -- what it says of itself --------------------------------------------------------------------

    def entity_type(self) -> str:
        return "project"

    def description(self) -> str:
        return " ".join(read_spec(self._project.spec).description.split())[:200]

    def operations(self) -> tuple[str, ...]:
        return ("read", "write", "watch", "exec")

    # -- files -------------------------------------------------------------------------------------

    @document(
        "spec.yaml",
        0o666,
        write="set_spec",
        check="may_change",
        on=CHANGED,
        example="description: pages on insects\nphases:\n  evaluate: {program: ./check.sh}\n",
        errors={
            "EINVAL": "not valid: the reason names every fault; the old one stays",
            "EPERM": "you are neither its owner nor the operator",
            "EFBIG": "more than 16 KiB",
        },
    )
    def spec(self) -> str:
        """What its seeds have to reach, and who does each of their phases (YAML): description,
        ambiguity, threshold, evolutions, phases. That of a new project explains all of them. A seed
        keeps the one that it was planted under."""
        return self.project.spec

    def may_change(self, caller: Caller) -> None:
        doing = f"write the specification of {self.project}"
        self.project.ownership.require_owner(caller.principal, doing)

    async def set_spec(self, content: bytes, caller: Caller) -> None:
        text = as_text(content)
        self.kernel.seeds.check_spec(read_spec(text))
        self.kernel.projects.write(caller.principal, self.name, text)

    @value(
        "members",
        0o666,
        write="set_members",
        on=CHANGED,
        example="alice\nbob\n",
        errors={
            "ENOENT": "there is no such agent",
            "EPERM": "you are neither its owner nor the operator",
            "ENOSPC": "more than projects.max_members",
        },
    )
    def members(self) -> str:
        """Who works on it, a name a line, its owner first. Writing all names at once, with blanks
        or lines between, says who does; the owner always does."""
        project = self.project
        return "".join(f"{name}\n" for name in (project.ownership.owner, *project.members))

    async def set_members(self, text: str, caller: Caller) -> None:
        self.kernel.projects.set_members(caller.principal, self.name, text.split())

    @live("status", example="Owner:\talice\nMode:\t0755\nMembers:\t2\nSeeds:\t4\nOpen:\t1\n…")
    def status_file(self) -> str:
        """Owner, Mode, Members (how many, with the owner), Seeds (how many are kept), and how many
        of these are Open, Passed and Failed."""
        project, seeds = self.project, self.kernel.seeds.table.of_project(self.name)
        return fields(
            ("Owner", project.ownership.owner),
            ("Mode", f"{project.ownership.mode:04o}"),
            ("Members", 1 + len(project.members)),
            ("Seeds", len(seeds)),
            ("Open", sum(seed.open for seed in seeds)),
            ("Passed", sum(seed.state is SeedState.PASSED for seed in seeds)),
            ("Failed", sum(seed.state is SeedState.FAILED for seed in seeds)),
        )

    @directory("memory", 0o1777)
    def memory(self) -> Directory:
        """Files of all members: a real directory. Needs membership, whatever the modes say, and the
        capability `memory`. Its bytes count as those of /shared do."""
        return self.projects.memory_of(self.project).root

    @directory("seeds", 0o555)
    def seeds(self) -> Directory:
        """A directory for each seed."""
        return SeedsDirectory(self)

    @control(
        "ctl",
        0o222,
        example="add bob",
        errors={
            "EINVAL": "another command",
            "ENOENT": "there is no such agent, or it is no member",
            "EPERM": "only the owner agent and the operator; a member may leave",
            "EACCES": "activate: you are no member",
            "ENOSPC": "more than projects.max_members",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: `add NAME…` and `remove NAME…` change the members; `activate` says that the
        caller works on it from now on (as /agents/NAME/project does), `deactivate` that it does not
        any more; `remove` alone removes the project, with its memory and its seeds."""
        projects, name, principal = self.kernel.projects, self.project.name, caller.principal
        match command.split():
            case ["add", _, *_] as words:
                projects.set_members(principal, name, [*self.project.members, *words[1:]])
            case ["remove"]:
                self.kernel.seeds.remove_project(principal, name, force=True)
            case ["remove", *names]:
                for agent in names:
                    projects.leave(principal, name, agent)
            case ["activate"]:
                projects.activate(principal, principal.agent, name)
            case ["deactivate"] if projects.active(principal.agent) == name:
                projects.activate(principal, principal.agent, "")
            case ["deactivate"]:
                raise KernelError(errno.ENOENT, f"{principal.agent} does not work on {name}")
            case _:
                raise KernelError(errno.EINVAL, f"{COMMANDS}, not {command[:100]!r}")


class ProjectsDirectory(SystemTable):
    """/projects: `mkdir` makes a project, `rmdir` removes one without files in its memory and
    without open seeds."""

    PATH = "/projects"
    WHAT = "What agents work on together: a directory for each project."
    EACH = ProjectDirectory
    mode = 0o1777
    key = ("projects",)

    def __init__(self, above: SystemTable) -> None:
        super().__init__(above)
        self._devices = Devices()
        self._memories: dict[str, tuple[Project, SharedMemory]] = {}
        told = (SeedChanged, SeedRemoved)
        self.readers = Readers(self.kernel.events, "project", *told)

    def changed(self) -> Time:
        return self.kernel.projects.changed

    def memory_of(self, project: Project) -> SharedMemory:
        """The files that its members share."""
        kept, tree = self._memories.get(project.name, (None, None))
        if tree is None or kept is not project:
            tree = SharedMemory(self.kernel, project, self._devices)
            self._memories[project.name] = (project, tree)
        return tree

    def find(self, name: str) -> Node | None:
        project = self.kernel.projects.find(name)
        return None if project is None else ProjectDirectory(self, project)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.projects:
            yield name, ProjectDirectory(self, self.kernel.projects.get(name))

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        project = self.kernel.projects.create(caller.principal, name, caller.unmasked(mode))
        return ProjectDirectory(self, project)

    def rmdir(self, name: str, caller: Caller) -> None:
        self.kernel.seeds.remove_project(caller.principal, name)

    # -- news --------------------------------------------------------------------------------------

    def each(self, key: Any) -> ProjectDirectory:
        return ProjectDirectory(self, self.kernel.projects.get(key[1]))

    def concerned(self, event: ProjectChanged) -> Sequence[Hashable]:
        return (ProjectDirectory.at(event.name),)

    @on(ProjectCreated)
    def _created(self, event: ProjectCreated) -> Iterator[Change]:
        project = self.kernel.projects.find(event.name)
        if project is not None:
            yield Created(self.key, event.name, ProjectDirectory(self, project))

    @on(ProjectRemoved)
    def _removed(self, event: ProjectRemoved) -> Iterator[Change]:
        self._memories.pop(event.name, None)
        key = ProjectDirectory.at(event.name)
        yield Removed(self.key, event.name, key, is_directory=True)

    @on(ProjectChanged)
    def _changed(self, event: ProjectChanged) -> Iterator[Change]:
        yield Modified(ProjectDirectory.at(event.name))

    @staticmethod
    def _seeds(project: str) -> Hashable:
        """The key of the directory of a project's seeds."""
        return key_in(ProjectDirectory.at(project), "seeds")

    def _seed(self, event: SeedCreated | SeedChanged) -> SeedDirectory | None:
        project = self.kernel.projects.find(event.project)
        seed = self.kernel.seeds.find(event.project, event.seed)
        if project is None or seed is None:
            return None
        return SeedDirectory(ProjectDirectory(self, project), seed)

    @on(SeedCreated)
    def _planted(self, event: SeedCreated) -> Iterator[Change]:
        node = self._seed(event)
        if node is not None:
            yield Created(self._seeds(event.project), str(event.seed), node)

    @on(SeedChanged)
    def _grown(self, event: SeedChanged) -> Iterator[Change]:
        node = self._seed(event)
        if node is not None:
            for name, entry in node.TABLE.items():
                if SeedChanged in entry.on:
                    yield Modified(node.key_of(name))

    @on(SeedRemoved)
    def _forgotten(self, event: SeedRemoved) -> Iterator[Change]:
        key = SeedDirectory.at(event.seed)
        yield Removed(self._seeds(event.project), str(event.seed), key, is_directory=True)


class ActiveRows(AddedRows):
    """The project that an agent works on."""

    INTO = "/agents/NAME"

    def __init__(self, agent: AgentDirectory) -> None:
        super().__init__(agent)
        self._kernel = agent.kernel
        self._name = agent.name

    @value(
        "project",
        0o644,
        write="set_project",
        on=(ProjectActivated, ProjectLeft),
        example="bees",
        errors={
            "ENOENT": "there is no such project",
            "EACCES": "the agent is no member of it, or you are neither the agent nor the operator",
        },
    )
    def project(self) -> str:
        """The project that it works on; empty if it has named none. Writing a name, of a project
        that it is a member of, says that it works on that one now; writing nothing but a newline,
        on none."""
        return self._kernel.projects.active(self._name)

    async def set_project(self, text: str, caller: Caller) -> None:
        self._kernel.projects.activate(caller.principal, self._name, text)
