"""The next version of an artifact, while somebody writes it: a file of its own beside the others.

Nobody else sees it before it is committed. Until something is written there is no file: what it
begins with is read from the version before.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from agentfs.base.content import Content
from agentfs.base.errors import KernelError, ShareError
from agentfs.model.principal import Principal
from agentfs.quota.shares import Charge
from agentfs.shared.artifact import LEAST, Artifact, Space, Visibility

__all__ = ["UNFINISHED", "ArtifactDraft"]

UNFINISHED = ".new"
"""How the file name of a draft ends."""

OWN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class ArtifactDraft:
    """Only `Artifacts` makes one; every write is checked against `max_size`, and what it has is
    held by the holder of `charge`, besides what the version before holds.

    `key` follows a renaming. `changed`: there is something to commit. `dropped`: its name was
    removed or given to something else, so nothing will come of it. `type` is None for that of the
    version before.
    """

    def __init__(
        self,
        folder: Path,
        principal: Principal,
        space: Space,
        key: str,
        max_size: int,
        charge: Charge,
    ) -> None:
        self.folder = folder
        self.principal = principal
        self.visibility = Visibility(space[0])
        self.space = space
        self.key = key
        self.max_size = max_size
        self._charge = charge
        self.type: str | None = None
        self.changed = False
        self.dropped = False
        self.serial = 0
        self._base: int | None = None
        self._own: int | None = None
        self._failure: KernelError | None = None
        self._changes = 0
        self._examined: tuple[int, Content] | None = None

    @property
    def path(self) -> Path:
        """Its file, once there is one."""
        return self.folder / f"{self.serial:012d}{UNFINISHED}"

    def begin_with(self, descriptor: int) -> None:
        """Let it have the content of an open file, which is the draft's to close from now on."""
        self._base = descriptor

    def allot(self, serial: int) -> None:
        """Give it the number of its file, before the first write."""
        self.serial = serial

    def change(self) -> None:
        """There is something to commit, even if nothing is written."""
        self.changed = True

    def drop(self) -> None:
        """Its name was removed or given to something else."""
        self.dropped = True

    def rename(self, key: str) -> None:
        """It is for another key."""
        self.key = key

    def set_type(self, content_type: str) -> None:
        """Its content has this type."""
        self.type = content_type

    @property
    def separate(self) -> bool:
        """Whether it has a file of its own already."""
        return self._own is not None

    @property
    def size(self) -> int:
        """Bytes."""
        descriptor = self._base if self._own is None else self._own
        return 0 if descriptor is None else os.fstat(descriptor).st_size

    @property
    def descriptor(self) -> int | None:
        """A descriptor to read it from; None if it is empty."""
        return self._base if self._own is None else self._own

    def hold(self, size: int) -> None:
        """Have room for `size` bytes in all. Raises ShareError; nothing can be committed then. The
        operator may have what the disk has."""
        held, size = self._charge, max(size, LEAST)
        if size <= held.amount:
            return
        if not self.principal.is_operator:
            try:
                held.pot.check(held.holder, size - held.amount)
            except ShareError as failure:
                raise self._fail(failure) from None
        self._charge = Charge(held.pot, held.holder, size)
        held.release()

    def separate_now(self, keep: int | None = None) -> None:
        """Make the file, with the first `keep` bytes (None: all) of the version before.

        Takes 0.5 ms a MiB; may run in a thread. Raises what the disk says: ENOSPC.
        """
        if self._own is not None:
            return
        try:
            own = os.open(self.path, OWN_FLAGS, 0o600)
            try:
                if self._base is not None:
                    _copy(self._base, own, keep)
            except BaseException:
                os.close(own)
                self.path.unlink()
                raise
        except OSError as failure:
            raise self._fail(KernelError.from_os(failure, f"writing {self.key}")) from failure
        self._own = own

    def write(self, offset: int, data: bytes) -> int:
        """pwrite(2), whole. Raises EFBIG, EDQUOT, ENOSPC; nothing can be committed after that."""
        self.check()
        self._changes += 1
        if offset + len(data) > self.max_size:
            raise self._fail(_too_big(self.key, self.max_size))
        self.hold(max(self.size, offset + len(data)))
        self.separate_now()
        assert self._own is not None
        done, view = 0, memoryview(data)
        try:
            while done < len(data):
                done += os.pwrite(self._own, view[done:], offset + done)
        except OSError as failure:
            raise self._fail(KernelError.from_os(failure, f"writing {self.key}")) from failure
        self.changed = True
        return done

    def truncate(self, size: int) -> None:
        """ftruncate(2). Raises EFBIG, EDQUOT, ENOSPC."""
        self.check()
        self._changes += 1
        if size > self.max_size:
            raise self._fail(_too_big(self.key, self.max_size))
        self.hold(size)
        self.separate_now(keep=size)
        assert self._own is not None
        try:
            os.ftruncate(self._own, size)
        except OSError as failure:
            raise self._fail(KernelError.from_os(failure, f"cutting {self.key}")) from failure
        self.changed = True

    @property
    def content(self) -> Content | None:
        """The content as the one who approves it sees it; None until it was examined as it is."""
        if self._examined is None or self._examined[0] != self._changes:
            return None
        return self._examined[1]

    def examination(self) -> Callable[[], None]:
        """A call that finds out `content`, for a thread: 1 ms a MiB. Raises what the disk says."""
        changes, about = self._changes, f"Type: {self.type}\n" if self.type else ""
        descriptor = None if self.descriptor is None else os.dup(self.descriptor)

        def examine() -> None:
            try:
                self._examined = changes, Content.of_file(descriptor, about)
            except OSError as failure:
                raise KernelError.from_os(failure, f"reading {self.key}") from failure
            finally:
                if descriptor is not None:
                    os.close(descriptor)

        return examine

    def check(self) -> None:
        """Raise what an earlier write failed with: half a content never replaces a whole one."""
        if self._failure is not None:
            raise self._failure

    @property
    def failed(self) -> bool:
        """Whether a write failed."""
        return self._failure is not None

    def give_up(self) -> None:
        """It was refused, and the one who closed it knows: nothing comes of it any more."""
        self.discard()
        self.dropped, self._failure = True, None

    def _fail(self, failure: KernelError) -> KernelError:
        self._failure = failure
        return failure

    def committed(self, artifact: Artifact) -> None:
        """Its file is `artifact`'s content now: what is written next is another version."""
        if self._base is not None:
            os.close(self._base)
        self._base, self._own = self._own, None
        self._charge.release()
        self.serial = 0
        self.key, self.type, self.changed = artifact.key, None, False

    def discard(self) -> None:
        """Nothing of it is wanted any more."""
        if self._own is not None:
            self.path.unlink(missing_ok=True)
        for descriptor in (self._own, self._base):
            if descriptor is not None:
                os.close(descriptor)
        self._own = self._base = None
        self._charge.release()
        self.serial = 0
        self.changed = False


def _too_big(key: str, limit: int) -> KernelError:
    return KernelError(
        errno.EFBIG, f"{key}: an artifact has at most {limit} bytes", rule="artifacts.max_size"
    )


def _copy(source: int, target: int, most: int | None) -> None:
    """The first `most` bytes of `source`, within Linux."""
    left = os.fstat(source).st_size if most is None else min(most, os.fstat(source).st_size)
    offset = 0
    while left:
        try:
            count = os.copy_file_range(source, target, left, offset, offset)
        except OSError as failure:
            if failure.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            count = os.pwrite(target, os.pread(source, min(left, 1 << 20), offset), offset)
        if not count:
            return
        offset += count
        left -= count
