"""Directories of artifacts: of one agent, of one user, of everybody, and the view of a subtree.

The content of a directory depends on who asks, and Linux keeps what it was told for everybody. So
each is at a place of its own, its entries are kept for no time, and they are looked up by whoever
they are for: for anybody else they do not exist.
"""

# ruff: noqa: S108  # paths of the tree, not of the machine
from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.model.principal import Kind
from agentfs.providers.artifact_handles import discreet
from agentfs.providers.artifacts import ArtifactDraftFile, ArtifactFile, Retries
from agentfs.providers.system_table import SystemTable
from agentfs.shared.artifact import Artifact, Space, Visibility, check_key
from agentfs.shared.events import (
    ArtifactEvent,
    ArtifactPassed,
    ArtifactRemoved,
    ArtifactRenamed,
    ArtifactStored,
)
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Moved, Removed
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Directory, Handle, Node
from agentfs.vfs.table import Table

if TYPE_CHECKING:
    from agentfs.kernel import Kernel
    from agentfs.providers.agents import AgentDirectory
    from agentfs.shared.artifacts import Artifacts

__all__ = ["ARTIFACTS", "GlobalDirectory", "PrivateDirectory", "SubtreeDirectory", "UserDirectory"]


ARTIFACTS = (ArtifactStored, ArtifactRemoved, ArtifactRenamed, ArtifactPassed)
"""The events that change what is in these directories."""


class _KeyDirectory(Table):
    """The artifacts of one space, for those to whom it is open."""

    gated = True
    mode = 0o700
    file_mode = 0o600

    def __init__(self, kernel: Kernel, space: Space) -> None:
        self.kernel = kernel
        self.space = space
        self.key = ("shm", *space)
        self.retries = Retries()

    @property
    def artifacts(self) -> Artifacts:
        return self.kernel.artifacts

    def open_to(self, caller: Caller) -> bool:
        """Whether anything in here exists for `caller`."""
        return caller.principal.pid is not None and caller.principal.name == self.space[1]

    def artifact(self, name: str) -> Artifact | None:
        return self.artifacts.table.find(self.space, name)

    def all(self) -> dict[str, Artifact]:
        """Every artifact in here by key."""
        return self.artifacts.table.space(self.space)

    def owned(self, artifact: Artifact | None) -> Owner:
        if artifact is None:
            owner = self.owner()
            return Owner(owner.uid, owner.gid, int(self.kernel.clock.now() * 1e9))
        return Owner(artifact.uid, artifact.gid, int(artifact.stored * 1e9))

    # -- look-ups --------------------------------------------------------------------------------

    def find(self, name: str) -> Node | None:
        artifact = self.artifact(name)
        if artifact is not None:
            return ArtifactFile(self, artifact)
        draft = self.artifacts.table.drafted(self.space, name)
        return None if draft is None else ArtifactDraftFile(self, name, None, draft)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name, artifact in self.all().items():
            yield name, ArtifactFile(self, artifact)

    def listing(self, caller: Caller) -> Iterable[tuple[str, Node]]:
        return self.entries() if self.open_to(caller) else ()

    def reach(self, name: str, caller: Caller) -> Node:
        if not self.open_to(caller):
            raise self.missing(name)
        artifact = self.artifact(name)
        if artifact is not None and self.retries.expected(caller, name):
            return ArtifactDraftFile(self, name, artifact)
        if artifact is None:
            draft = self.artifacts.table.drafted(self.space, name)
            if draft is not None and draft.principal.name != caller.principal.name:
                raise self.missing(name)
        return self.lookup(name)

    # -- changes ---------------------------------------------------------------------------------

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        with discreet():
            existing = self.artifact(name)
            if existing is not None and flags & os.O_EXCL:
                raise KernelError(errno.EEXIST, f"there is {name!r} already")
            check_key(name)
            node = ArtifactDraftFile(self, name, existing)
            return node, node.open(flags, caller)

    def _own(self, name: str) -> None:
        """EACCES for what is only seen here."""
        artifact = self.artifact(name)
        if artifact is not None and artifact.space != self.space:
            raise KernelError(
                errno.EACCES,
                f"{name} belongs to {artifact.owner}, who alone removes and renames it",
                rule="owner",
            )

    def unlink(self, name: str, caller: Caller) -> None:
        with discreet():
            self._own(name)
            self.artifacts.remove(caller.principal, self.space, name)

    def rename(
        self, name: str, target: Directory, new_name: str, flags: int, caller: Caller
    ) -> None:
        with discreet():
            if target.key != self.key:
                raise KernelError(errno.EXDEV, "an artifact cannot move: copy it")
            self._own(name)
            self.artifacts.rename(caller.principal, self.space, name, new_name, flags)

    def changes(self, event: ArtifactEvent) -> Iterator[Change]:
        """The changes in here that an event means."""
        if isinstance(event, ArtifactPassed) and event.old_space == event.space:
            return
        if isinstance(event, ArtifactPassed) and event.old_space == self.space:
            yield self._gone(event.old)
        if event.space != self.space:
            return
        if isinstance(event, ArtifactRemoved):
            yield self._gone(event.name)
            return
        artifact = self.artifact(event.name)
        if artifact is None:
            return
        node = ArtifactFile(self, artifact)
        if isinstance(event, ArtifactRenamed):
            yield Moved(self.key, event.old, self.key, event.name, node)
        else:
            yield Created(self.key, event.name, node)

    def _gone(self, name: str) -> Change:
        return Removed(self.key, name, ArtifactFile.gone(self, name))


class PrivateDirectory(_KeyDirectory):
    """/agents/NAME/shm/private: the artifacts that only this agent sees; the operator sees those of
    init, and no others. For everybody else the directory is empty."""

    PATH = "/agents/NAME/shm/private"

    def __init__(self, agent: AgentDirectory) -> None:
        super().__init__(agent.kernel, (Visibility.PRIVATE.value, agent.name))
        self._agent = agent

    def owner(self) -> Owner:
        return self._agent.owner()


class SubtreeDirectory(_KeyDirectory):
    """/agents/NAME/shm/subtree: what this agent lets its descendants see, and what those above it
    let it see; of equal keys the nearest one's. All that it creates is its own, and may have the
    key of one from above. It replaces, removes and renames its own ones only (**EACCES**). For
    everybody else the directory is empty: each agent has a view of its own. When the agent's
    process ends for good, all that it stored here is its parent's."""

    PATH = "/agents/NAME/shm/subtree"

    def __init__(self, agent: AgentDirectory) -> None:
        super().__init__(agent.kernel, (Visibility.SUBTREE.value, agent.name))
        self._agent = agent

    def owner(self) -> Owner:
        return self._agent.owner()

    def artifact(self, name: str) -> Artifact | None:
        return self.artifacts.table.in_view(self._agent.name, name)

    def all(self) -> dict[str, Artifact]:
        return self.artifacts.table.view(self._agent.name)

    def owned(self, artifact: Artifact | None) -> Owner:
        # Linux lets it write over what is not its own, which makes one of its own.
        owner = super().owned(artifact)
        agent = self.owner()
        return Owner(agent.uid, agent.gid, owner.mtime)

    def changes(self, event: ArtifactEvent) -> Iterator[Change]:
        if event.space == self.space and not isinstance(event, ArtifactPassed):
            for change in super().changes(event):
                yield self._uncovered(change)
        elif event.visibility == Visibility.SUBTREE.value:
            yield from self._seen(event)

    def _uncovered(self, change: Change) -> Change:
        """Without its own one it sees the next one's."""
        if isinstance(change, Removed):
            below = self.artifact(change.name)
            if below is not None:
                return Created(self.key, change.name, ArtifactFile(self, below))
        return change

    def _seen(self, event: ArtifactEvent) -> Iterator[Change]:
        """The part that it sees of a change of another's artifact."""
        line = self.artifacts.table.line(self._agent.name)
        if event.owner not in line:
            return
        nearer = line[: line.index(event.owner)]
        names = {event.name}
        if isinstance(event, ArtifactRenamed):
            names.add(event.old)
        if isinstance(event, ArtifactPassed):
            nearer = [name for name in nearer if name != event.before]
        for name in sorted(names):
            if any(self.artifacts.table.find((self.space[0], up), name) for up in nearer):
                continue
            now = self.artifact(name)
            if now is None:
                yield self._gone(name)
            else:
                yield Created(self.key, name, ArtifactFile(self, now))


class UserDirectory(_KeyDirectory):
    """/dev/shm/users/UID: the artifacts for everybody who runs as this user. A key has one owner;
    others replace and remove it in vain (**EACCES**). Empty for other users, root included."""

    PATH = "/dev/shm/users/UID"

    def __init__(self, above: SystemTable, uid: int) -> None:
        super().__init__(above.kernel, (Visibility.USER.value, str(uid)))
        self._above = above
        self._uid = uid

    def owner(self) -> Owner:
        above = self._above.owner()
        return Owner(self._uid, above.gid, above.mtime)

    def open_to(self, caller: Caller) -> bool:
        principal = caller.principal
        return principal.kind is not Kind.STRANGER and principal.uid == self._uid


class GlobalDirectory(_KeyDirectory):
    """/dev/shm/global: the artifacts for everybody. A key has one owner; others replace and remove
    it in vain (**EACCES**)."""

    PATH = "/dev/shm/global"
    mode = 0o1777
    file_mode = 0o644

    def __init__(self, above: SystemTable) -> None:
        super().__init__(above.kernel, (Visibility.GLOBAL.value, ""))
        self._above = above

    def owner(self) -> Owner:
        return self._above.owner()

    def open_to(self, caller: Caller) -> bool:
        return True
