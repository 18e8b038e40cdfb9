"""Artifacts as files: a version to read, or the next one to write.

A version never changes, so each is an inode of its own: Linux may keep its pages, and a program
that maps it has it whole whatever becomes of the key. The next version is written through an inode
that only its writer knows. A program that opens a version for writing is sent to look the name up
again (ESTALE, which Linux answers itself with a second attempt) and finds that inode then: were it
the reader's, O_TRUNC would cut the pages that readers have mapped. A reader is sent back in the
same way if the version is gone that it was told of a moment ago.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from agentfs.base.errors import KernelError
from agentfs.providers.artifact_handles import Glance, Reading, Writing, discreet
from agentfs.shared.artifact import Artifact, Space
from agentfs.shared.draft import ArtifactDraft
from agentfs.vfs.caller import Caller
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Attributes, File, Handle, LookUpAgain, Stat, is_writing, regular

if TYPE_CHECKING:
    from agentfs.shared.artifacts import Artifacts

__all__ = ["ArtifactDraftFile", "ArtifactFile", "Place", "Retries"]

ATTRIBUTES = ("user.mime_type", "user.owner", "user.visibility")

AGAIN_SECONDS = 1.0
MAX_AGAIN = 4096


class Place(Protocol):
    """The directory that an artifact is found in."""

    key: Hashable
    retries: Retries
    file_mode: int

    @property
    def artifacts(self) -> Artifacts: ...
    @property
    def space(self) -> Space:
        """The space of what is made here."""

    def open_to(self, caller: Caller) -> bool:
        """Whether anything in here exists for `caller`."""

    def artifact(self, name: str) -> Artifact | None:
        """The artifact that is found as `name`."""

    def owned(self, artifact: Artifact | None) -> Owner:
        """The owner of its file, and when it was stored: now, if it is not stored yet."""


class Retries:
    """Callers that were just sent to look a name up again, by thread."""

    def __init__(self) -> None:
        self._sent: dict[int, tuple[str, float]] = {}

    def send(self, caller: Caller, name: str) -> LookUpAgain:
        if len(self._sent) > MAX_AGAIN:
            self._sent.clear()
        self._sent[caller.tid] = name, time.monotonic() + AGAIN_SECONDS
        return LookUpAgain(name)

    def expected(self, caller: Caller, name: str) -> bool:
        """Whether it is `caller`'s second attempt; Linux may look the name up twice for that."""
        sent, until = self._sent.get(caller.tid, ("", 0.0))
        return sent == name and time.monotonic() < until

    def arrived(self, caller: Caller) -> None:
        self._sent.pop(caller.tid, None)


class _Entry(File):
    """Both kinds have this in common. Their entries are asked for every time."""

    timeout = 0.0

    def __init__(self, place: Place, name: str, artifact: Artifact | None) -> None:
        self.place = place
        self.name = name
        self._artifact = artifact

    @property
    def artifact(self) -> Artifact | None:
        """The record as it is now, or as it was when this was the key's content."""
        now = None if self._artifact is None else self.place.artifact(self._artifact.key)
        if now is not None and self._artifact is not None and now.serial == self._artifact.serial:
            self._artifact = now
        return self._artifact

    def stat(self) -> Stat:
        artifact = self._artifact
        size = 0 if artifact is None else artifact.size
        owner = self.place.owned(artifact)
        mode, moment = regular(self.place.file_mode), owner.mtime
        return Stat(mode, owner.uid, owner.gid, size, moment, 1, moment, moment)

    def enter(self, caller: Caller) -> None:
        if not self.place.open_to(caller):
            with discreet():
                raise KernelError(errno.ENOENT, f"there is no artifact {self.name!r} here")

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        with discreet():
            super().chattr(caller, replace(wanted, size=None))

    def getxattr(self, name: str) -> bytes:
        if name not in ATTRIBUTES:
            return super().getxattr(name)
        return self._attribute(name).encode()

    def _attribute(self, name: str) -> str:
        artifact = self.artifact
        if artifact is None:
            raise KernelError(errno.ENODATA, f"{self.name} is not stored yet")
        match name:
            case "user.mime_type":
                return artifact.content_type
            case "user.owner":
                return artifact.owner
            case _:
                return artifact.visibility.value

    def listxattr(self) -> list[str]:
        return [*super().listxattr(), *ATTRIBUTES]

    def setxattr(self, name: str, value: bytes, caller: Caller) -> None:
        with discreet():
            if name != "user.mime_type":
                raise KernelError(
                    errno.ENOTSUP, "the one attribute to set here is user.mime_type", rule="xattr"
                )
            try:
                text = value.decode("ascii").strip()
            except UnicodeDecodeError:
                raise KernelError(errno.EINVAL, "a content type is ASCII") from None
            self._set_type(caller, text)

    def removexattr(self, name: str, caller: Caller) -> None:
        with discreet():
            if name != "user.mime_type":
                super().removexattr(name, caller)
            self._set_type(caller, "")

    def _set_type(self, caller: Caller, text: str) -> None:
        artifact, space = self.artifact, self.place.space
        if artifact is not None and artifact.space != space:
            raise KernelError(
                errno.EACCES, f"{artifact.key} belongs to {artifact.owner}", rule="owner"
            )
        key = self.name if artifact is None else artifact.key
        self.place.artifacts.set_type(caller.principal, space, key, text)


class ArtifactFile(_Entry):
    """One version, to read."""

    def __init__(self, place: Place, artifact: Artifact) -> None:
        super().__init__(place, artifact.key, artifact)
        self.key = (place.key, artifact.serial)
        self._version = artifact

    @staticmethod
    def gone(place: Place, name: str) -> Hashable:
        """The key that is said to be no more where `name` is removed: that of no inode, since those
        that have the version open read on."""
        return (place.key, "removed", name)

    def open(self, flags: int, caller: Caller) -> Handle:
        artifacts, principal = self.place.artifacts, caller.principal
        with discreet():
            if is_writing(flags) or flags & os.O_TRUNC:
                artifacts.check_write(principal, self.place.space, self.name)
                raise self.place.retries.send(caller, self.name)
            try:
                return Reading(artifacts.open(principal, self._version))
            except KernelError as gone:
                now = self.place.artifact(self.name)
                if gone.errno != errno.ENOENT or now is None or now.serial == self._version.serial:
                    raise
                # Replaced since it was looked up: the new one is no less there.
                raise self.place.retries.send(caller, self.name) from None

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        super().chattr(caller, wanted)
        if wanted.size is not None:
            with discreet():
                self.place.artifacts.check_write(caller.principal, self.place.space, self.name)
                raise self.place.retries.send(caller, self.name)


class ArtifactDraftFile(_Entry):
    """A key for one caller. To a writer it is the version before at first, and then what is
    written; to a reader the content that the key has at the open."""

    apart = True

    def __init__(
        self, place: Place, name: str, artifact: Artifact | None, draft: ArtifactDraft | None = None
    ) -> None:
        super().__init__(place, name, artifact)
        self.key = (place.key, name, id(self))
        self._draft = draft

    def stat(self) -> Stat:
        stat = super().stat()
        if self._draft is not None:
            stat.size = self._draft.size
        return stat

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        # `cp -p`, `mv` and `install` give what they write the mode and the owner of another file.
        super().chattr(caller, wanted if self._draft is None else Attributes())
        if wanted.size is not None:
            self._resize(wanted.size, caller)

    def _resize(self, size: int, caller: Caller) -> None:
        with discreet():
            draft = self._begin(caller, self._artifact)
            try:
                self.place.artifacts.allot(draft)
                draft.truncate(size)
                self._artifact = (
                    self.place.artifacts.commit(draft, b"truncate to %d" % size) or self._artifact
                )
            finally:
                self.place.artifacts.finish(draft)

    def open(self, flags: int, caller: Caller) -> Handle:
        artifacts = self.place.artifacts
        with discreet():
            if is_writing(flags) or flags & os.O_TRUNC:
                cut = bool(flags & os.O_TRUNC)
                self._draft = self._begin(caller, None if cut else self._artifact)
                if cut or self._artifact is None:
                    self._draft.change()
                return Writing(artifacts, self._draft, flags)
            if self._draft is not None:
                return Glance(self._draft)
            self.place.retries.arrived(caller)
            self._artifact = self.place.artifact(self.name)
            if self._artifact is None:
                raise KernelError(errno.ENOENT, f"there is no artifact {self.name!r} here")
            return Reading(artifacts.open(caller.principal, self._artifact))

    def _begin(self, caller: Caller, begin: Artifact | None) -> ArtifactDraft:
        self.place.retries.arrived(caller)
        return self.place.artifacts.draft(caller.principal, self.place.space, self.name, begin)

    def getxattr(self, name: str) -> bytes:
        if self._draft is not None and self._draft.type and name == ATTRIBUTES[0]:
            return self._draft.type.encode()
        return super().getxattr(name)
