"""Open artifacts: a version that is read, or the next one while it is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from agentfs.base.errors import ApprovalError, KernelError
from agentfs.providers import disk
from agentfs.providers.disk import reported
from agentfs.shared.draft import ArtifactDraft
from agentfs.vfs.node import Handle

if TYPE_CHECKING:
    from agentfs.shared.artifacts import Artifacts

__all__ = ["Glance", "Reading", "Writing", "discreet"]

# Bytes up to which the version before is copied at once; more takes longer than a thread.
COPIED_AT_ONCE = 1 << 20


@contextmanager
def discreet() -> Iterator[None]:
    """Refusals in this block are told to the caller alone: they name a key."""
    try:
        yield
    except KernelError as refusal:
        refusal.discreet = True
        raise


class Reading(Handle):
    """A version, open. It goes on reading it when it is replaced or removed."""

    direct = False

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def read(self, offset: int, size: int) -> bytes:
        with reported("reading"):
            return await disk.read_at(self._descriptor, offset, size)

    async def fsync(self) -> None:
        with reported("syncing"):
            await trio.to_thread.run_sync(os.fsync, self._descriptor)

    def release(self) -> None:
        os.close(self._descriptor)


class Glance(Handle):
    """All that is written so far, for the agent that writes it."""

    def __init__(self, draft: ArtifactDraft) -> None:
        self._draft = draft

    async def read(self, offset: int, size: int) -> bytes:
        descriptor = self._draft.descriptor
        if descriptor is None:
            return b""
        with reported("reading"):
            return await disk.read_at(descriptor, offset, size)


class Writing(Glance):
    """The next version, open: what is written is the content of the key when it is closed."""

    followed = whole = True

    def __init__(self, artifacts: Artifacts, draft: ArtifactDraft, flags: int) -> None:
        super().__init__(draft)
        self._artifacts = artifacts
        self._append = bool(flags & os.O_APPEND)
        self._separating = trio.Lock()

    async def write(self, offset: int, data: bytes) -> int:
        draft = self._draft
        with discreet():
            draft.check()
            self._artifacts.allot(draft)
            async with self._separating:
                if not draft.separate and draft.size > COPIED_AT_ONCE:
                    await trio.to_thread.run_sync(draft.separate_now)
            return draft.write(draft.size if self._append else offset, data)

    def truncate(self, size: int) -> None:
        """ftruncate(2)."""
        with discreet():
            self._artifacts.allot(self._draft)
            self._draft.truncate(size)

    @property
    def unflushed(self) -> bool:
        return self._draft.changed or self._draft.failed

    async def flush(self) -> None:
        draft = self._draft
        with discreet():
            try:
                draft.check()
                while draft.changed and self._artifacts.to_examine(draft):
                    await trio.to_thread.run_sync(draft.examination())
                self._artifacts.commit(draft)
            except ApprovalError:
                raise  # it is stored once that was given
            except KernelError:
                draft.give_up()
                raise

    async def fsync(self) -> None:
        descriptor = self._draft.descriptor
        if descriptor is not None:
            with reported("syncing"):
                await trio.to_thread.run_sync(os.fsync, descriptor)
        await self._artifacts.sync()

    def release(self) -> None:
        self._artifacts.finish(self._draft)
