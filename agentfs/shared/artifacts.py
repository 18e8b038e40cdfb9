"""Shared memory: the system calls on artifacts, and the rules for those who read and change them.

The content of every version is a file of its own, `artifacts/SERIAL` in the state directory. It is
written beside the others and never changed after its record is committed: a reader that has a
version open goes on reading it whole. A file that no record names was left by a killed daemon; the
next daemon removes it. In memory an artifact is its record.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import trio

from agentfs.base.content import Content
from agentfs.base.errors import KernelError
from agentfs.model.principal import Kind, Principal
from agentfs.process.table import ProcessTable
from agentfs.quota.disk_shares import DiskShares
from agentfs.quota.shares import Charge
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Action
from agentfs.shared.artifact import Artifact, Space, Visibility, check_key, check_type
from agentfs.shared.artifact_table import ArtifactTable
from agentfs.shared.draft import ArtifactDraft
from agentfs.shared.events import ArtifactChanged, ArtifactRemoved, ArtifactRenamed, ArtifactStored
from agentfs.shared.settings import ArtifactSettings
from agentfs.store.ground import Ground

__all__ = ["Artifacts", "told"]

RENAME_NOREPLACE = 1


class Artifacts:
    """The system calls. `table` has the artifacts."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        processes: ProcessTable,
        disk: DiskShares,
        table: ArtifactTable,
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._processes = processes
        self._disk = disk
        self.table = table

    # -- reading ---------------------------------------------------------------------------------

    def may_read(self, principal: Principal, artifact: Artifact) -> bool:
        """Whether it exists for `principal`."""
        match artifact.visibility:
            case Visibility.PRIVATE:
                return principal.pid is not None and principal.agent == artifact.owner
            case Visibility.SUBTREE:
                if principal.pid is None:
                    return False
                above = self._processes.ancestors(principal.pid)
                return principal.agent == artifact.owner or any(
                    up.name == artifact.owner for up in above
                )
            case Visibility.USER:
                return principal.kind is not Kind.STRANGER and principal.uid == artifact.uid
            case Visibility.GLOBAL:
                return True

    def open(self, principal: Principal, artifact: Artifact) -> int:
        """A descriptor of its content, the caller's to close. ENOENT if it may not be read,
        EACCES for a role that reads none, or without the capability `datastore.read`."""
        if not self.may_read(principal, artifact):
            raise _missing(artifact.key)
        if principal.pid is not None:
            actor = self._gate.actor(principal)
            path = shm_path(artifact.space, artifact.key)
            self._gate.policy.require(actor, Action.READ_ARTIFACT, path, what=b"read")
            self._gate.policy.require_capability(actor, "datastore.read")
        return self._open(artifact)

    def _open(self, artifact: Artifact) -> int:
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # nobody's lease is waited for
            return os.open(self.table.path(artifact.serial), flags)
        except FileNotFoundError:
            raise _missing(artifact.key) from None
        except OSError as failure:
            raise KernelError.from_os(failure, f"opening {artifact.key}") from failure

    # -- writing ---------------------------------------------------------------------------------

    def check_write(self, principal: Principal, space: Space, key: str) -> Artifact | None:
        """The artifact that would be replaced. EACCES for a role that stores none, without the
        capability `datastore.write`, and for another's space or key. Nobody is asked to approve
        what is not there yet."""
        return self._replaceable(principal, space, key)

    def _replaceable(
        self, principal: Principal, space: Space, key: str, what: bytes | Content | None = None
    ) -> Artifact | None:
        actor, path = self._gate.actor(principal), shm_path(space, key)
        decision = self._gate.policy.permit(actor, Action.WRITE_ARTIFACT, path)
        self._gate.policy.require_capability(actor, "datastore.write")
        self._own_space(principal, space)
        existing = self.table.find(space, key)
        if existing is not None and not principal.acts_for(existing.owner):
            raise KernelError(
                errno.EACCES,
                f"{key} belongs to {existing.owner}: only {existing.owner} and the operator may"
                f" replace or remove it, not {principal.name}",
                rule="owner",
            )
        if what is not None:
            self._gate.policy.approved(actor, Action.WRITE_ARTIFACT, path, decision, what)
        return existing

    @staticmethod
    def _own_space(principal: Principal, space: Space) -> None:
        visibility, whose = space
        own = {"user": str(principal.uid), "global": ""}.get(visibility, principal.agent)
        if whose != own:
            raise KernelError(
                errno.EACCES, f"this is {whose}'s, and you are {principal.name}", rule="private"
            )

    def draft(
        self, principal: Principal, space: Space, key: str, begin: Artifact | None = None
    ) -> ArtifactDraft:
        """Begin to write `key`, with the content of `begin` or with none.

        Raises what `check_write` does, EINVAL for a wrong key, ENOSPC for one too many. Its bytes
        are the owner's, also if the operator writes, who is not refused. The caller hands it to
        `finish` in the end.
        """
        old = self.check_write(principal, space, key)
        if old is None:
            check_key(key)
            self._check_count(principal.agent)
        most = self._settings.of(ArtifactSettings).max_size
        owner = principal.agent if old is None else old.owner
        charge = Charge(self._disk.artifacts, self._disk.owner(owner, principal.uid), 0)
        draft = ArtifactDraft(self.table.folder, principal, space, key, most, charge)
        if begin is not None:
            draft.begin_with(self._open(begin))
        self.table.add_draft(draft)
        return draft

    def _check_count(self, owner: str) -> None:
        most = self._settings.of(ArtifactSettings).max_artifacts
        if self.table.count(owner) >= most:
            raise KernelError(
                errno.ENOSPC,
                f"{owner} has {most} artifacts already",
                rule="artifacts.max_artifacts",
            )

    def allot(self, draft: ArtifactDraft) -> None:
        """Let the draft have a file of its own, if it has none."""
        if not draft.serial:
            draft.allot(self.table.next_serial())

    def to_examine(self, draft: ArtifactDraft) -> bool:
        """Whether somebody has to approve it first, for whom it was not examined yet."""
        actor, path = self._gate.actor(draft.principal), shm_path(draft.space, draft.key)
        decision = self._gate.policy.decide(actor, Action.WRITE_ARTIFACT, path)
        return decision.approval is not None and draft.content is None

    def commit(self, draft: ArtifactDraft, what: bytes = b"") -> Artifact | None:
        """Make what was written the content of its key, at once and whole; None if nothing is to
        be. Raises what `check_write` does, or what a write failed with; the old content stays.
        `what` is approved of one that was not examined."""
        if draft.dropped or not draft.changed:
            return None
        draft.check()
        with self._gate.enter(draft.principal, "artifacts"):
            principal, space, key = draft.principal, draft.space, draft.key
            old = self._replaceable(principal, space, key, draft.content or what)
            if old is None:
                self._check_count(principal.agent)
            self.allot(draft)
            draft.separate_now()
            artifact = Artifact(
                serial=draft.serial,
                visibility=draft.visibility,
                owner=old.owner if old else principal.agent,
                uid=old.uid if old else principal.uid,
                gid=old.gid if old else principal.gid,
                key=key,
                type=draft.type if draft.type is not None else old.type if old else "",
                size=draft.size,
                stored=self._clock.now(),
            )
            path = self.table.path(artifact.serial)
            draft.path.rename(path)
            self._store.on_rollback(lambda: path.rename(draft.path))
            if old is not None:
                self._discard(old)
            self.table.put(artifact)
            self._store.on_commit(lambda: draft.committed(artifact))
            self._events.emit(ArtifactStored(*told(artifact)))
        return artifact

    def finish(self, draft: ArtifactDraft) -> None:
        """Nobody writes it any more; what was not committed is gone."""
        self.table.remove_draft(draft)
        draft.discard()

    def remove(self, principal: Principal, space: Space, key: str) -> None:
        """Remove an artifact, and what is being written to it. ENOENT; EACCES as `check_write`."""
        with self._gate.enter(principal):
            old = self._replaceable(principal, space, key, b"remove")
            if old is not None:
                self._discard(old)
                self._events.emit(ArtifactRemoved(*told(old)))
            elif self.table.drafted(space, key) is None:
                raise _missing(key)
            self._store.on_commit(lambda: self.table.drop_drafts(space, key))

    def _discard(self, old: Artifact) -> None:
        self.table.drop(old)
        self._store.on_commit(lambda: self.table.path(old.serial).unlink(missing_ok=True))

    def rename(
        self, principal: Principal, space: Space, key: str, new: str, flags: int = 0
    ) -> None:
        """Give it another key; what had that one is gone. `flags` as of renameat2(2): EEXIST for a
        taken key with RENAME_NOREPLACE, EINVAL for others. ENOENT; EACCES as `check_write`."""
        with self._gate.enter(principal):
            if flags & ~RENAME_NOREPLACE:
                raise KernelError(errno.EINVAL, "artifacts cannot be exchanged")
            old, target = (
                self._replaceable(principal, space, key, f"rename to {new}".encode()),
                self._replaceable(principal, space, new, f"rename from {key}".encode()),
            )
            if old is None and self.table.drafted(space, key) is None:
                raise _missing(key)
            check_key(new)
            if target is not None and flags & RENAME_NOREPLACE:
                raise KernelError(errno.EEXIST, f"there is {new!r} already")
            if key == new:
                return
            if target is not None:
                self._discard(target)
                if old is None:
                    self._events.emit(ArtifactRemoved(*told(target)))
            if old is not None:
                renamed = replace(old, key=new)
                self.table.put(renamed)
                self._events.emit(ArtifactRenamed(*told(renamed), key))
            self._store.on_commit(lambda: self.table.drop_drafts(space, new))
            self._store.on_commit(lambda: self.table.move_drafts(space, key, new))

    def set_type(self, principal: Principal, space: Space, key: str, content_type: str) -> None:
        """Say what its content is; empty: guess it. EINVAL; ENOENT; EACCES as `check_write`."""
        with self._gate.enter(principal):
            if content_type:
                check_type(content_type)
            old = self._replaceable(principal, space, key, f"type {content_type}".encode())
            draft = self.table.drafted(space, key)
            if old is not None:
                changed = replace(old, type=content_type)
                self.table.put(changed)
                self._events.emit(ArtifactChanged(*told(changed)))
            elif draft is not None:
                draft.set_type(content_type)
            else:
                raise _missing(key)

    async def sync(self) -> None:
        """Make the names of all contents, and every record, survive a power cut."""
        await trio.to_thread.run_sync(_sync_folder, self.table.folder)
        await self._store.sync()


def told(artifact: Artifact) -> tuple[str, str, str, Space, str]:
    """The first fields of an `ArtifactEvent`."""
    public = artifact.key if artifact.visibility is Visibility.GLOBAL else ""
    return artifact.owner, artifact.visibility.value, public, artifact.space, artifact.key


def shm_path(space: Space, key: str) -> str:
    """Its path, as rules name it."""
    return f"/dev/shm/{space[0]}/{key}"  # noqa: S108  # of the tree, not of the machine


def _missing(key: str) -> KernelError:
    return KernelError(errno.ENOENT, f"there is no artifact {key!r} here")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
