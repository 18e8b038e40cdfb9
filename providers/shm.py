"""Shared memory in the tree: /dev/shm, whose names lead the caller to its own directories, and
/agents/NAME/shm, where those of an agent are."""

# ruff: noqa: S108  # paths of the tree, not of the machine
from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.providers.shm_folders import (
    ARTIFACTS,
    GlobalDirectory,
    PrivateDirectory,
    SubtreeDirectory,
    UserDirectory,
)
from agentfs.providers.system_table import SystemTable
from agentfs.shared.events import ArtifactEvent
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change
from agentfs.vfs.declare import directory, link
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Directory, Node
from agentfs.vfs.on import on
from agentfs.vfs.table import Table

if TYPE_CHECKING:
    from agentfs.providers.agents import AgentDirectory

__all__ = ["AgentShmDirectory", "DevShmDirectory"]


class AgentShmDirectory(Table):
    """/agents/NAME/shm: what this agent has of its own in shared memory."""

    PATH = "/agents/NAME/shm"
    WHAT = "What it has of its own in shared memory; /dev/shm leads there."
    KEPT = True

    def __init__(self, agent: AgentDirectory) -> None:
        self.key = agent.key_of("shm")
        self._agent = agent
        self._private = PrivateDirectory(agent)
        self._subtree = SubtreeDirectory(agent)

    def owner(self) -> Owner:
        return self._agent.owner()

    @directory("private", 0o700)
    def private(self) -> Directory:
        """What only this agent sees."""
        return self._private

    @directory("subtree", 0o700)
    def subtree(self) -> Directory:
        """What it sees of its line, and its descendants of it."""
        return self._subtree

    @on(*ARTIFACTS, every=True)
    def _changes(self, event: ArtifactEvent) -> Iterator[Change]:
        yield from self._private.changes(event)
        yield from self._subtree.changes(event)


class UsersDirectory(SystemTable):
    """/dev/shm/users: a directory for each user; one's own is listed."""

    PATH = "/dev/shm/users"
    key = ("shm", "users")

    def __init__(self, above: SystemTable) -> None:
        super().__init__(above)
        self._users: dict[int, UserDirectory] = {}

    def of_user(self, uid: int) -> UserDirectory:
        """The directory of one user."""
        found = self._users.get(uid)
        if found is None:
            found = self._users[uid] = UserDirectory(self, uid)
        return found

    def find(self, name: str) -> Node | None:
        plain = name.isascii() and name.isdigit() and str(int(name)) == name
        return self.of_user(int(name)) if plain and int(name) < 1 << 32 else None

    def more(self) -> Iterator[tuple[str, Node]]:
        for uid in sorted(self._users):
            yield str(uid), self._users[uid]

    def listing(self, caller: Caller) -> Iterable[tuple[str, Node]]:
        return ((str(caller.uid), self.of_user(caller.uid)),)

    def changes(self, event: ArtifactEvent) -> Iterator[Change]:
        """The changes in here that an event means."""
        for user in self._users.values():
            yield from user.changes(event)


class DevShmDirectory(SystemTable):
    """/dev/shm: shared memory: a directory of artifacts for each visibility, for the caller.
    `echo x > KEY` stores, `cat` reads, `rm` removes, `mv` within a directory gives another key,
    `ls` shows what one may read; what one may not read does not exist. A key is a file name of
    printable characters. Content of any type and of up to `artifacts.max_size` bytes (256 MiB) is
    replaced at once when the writer closes it: readers have the old one whole or the new one, and a
    writer that is killed, or fails, changes nothing. The attribute `user.mime_type` is its content
    type, guessed from the end of the key until it is set; `user.owner` and `user.visibility` can be
    read. Artifacts outlive the process that stored them; when their agent is removed, its parent
    has them, as `KEY.NAME` where it has one of that key. Tasks read and do not write (**EACCES**).
    **EINVAL**: no key, or no content type. **EFBIG**: too large. **EDQUOT**:
    the owner's share of the disk (/proc/self/limits/shares). **ENOSPC**: the disk is full, or
    `artifacts.max_artifacts` (10,000) of one agent. **EXDEV**: `mv` to another directory (the
    command copies then). **ENOTSUP**: another attribute."""

    PATH = "/dev/shm"
    WHAT = "Shared memory: a directory of artifacts for each visibility."
    key = ("shm",)

    def __init__(self, above: SystemTable) -> None:
        super().__init__(above)
        self._users = UsersDirectory(self)
        self._global = GlobalDirectory(self)

    def _home(self, caller: Caller) -> str:
        if caller.principal.pid is None:
            raise KernelError(errno.ENOENT, f"{caller.principal.name} is no agent")
        return f"../../agents/{caller.principal.name}/shm"

    @link("private", example="../../agents/alice/shm/private")
    def private(self, caller: Caller) -> str:
        """What only the caller sees. ENOENT for who is no agent."""
        return f"{self._home(caller)}/private"

    @link("user", example="users/1000")
    def user(self, caller: Caller) -> str:
        """What all agents of the caller's user see."""
        return f"users/{caller.uid}"

    @link("subtree", example="../../agents/alice/shm/subtree")
    def subtree(self, caller: Caller) -> str:
        """What the caller and its descendants see, and what those above let it see. ENOENT for who
        is no agent."""
        return f"{self._home(caller)}/subtree"

    @directory("global", 0o1777)
    def everybodys(self) -> Directory:
        """What everybody sees."""
        return self._global

    @directory("users")
    def users(self) -> Directory:
        """Where `user` leads."""
        return self._users

    @on(*ARTIFACTS)
    def _changes(self, event: ArtifactEvent) -> Iterator[Change]:
        yield from self._users.changes(event)
        yield from self._global.changes(event)
