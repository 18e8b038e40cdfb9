"""The mirror: a file beside the key that has every checkpoint once more, a line each.

Somebody can put an older copy of the store in its place, with the signed head that it had then. The
mirror then has a checkpoint of records that the store does not have.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import trio

from agentfs.audit.audit_table import AuditTables
from agentfs.audit.seal import Seal
from agentfs.base.errors import KernelError
from agentfs.store.ground import Ground

__all__ = ["Mirror", "Mirroring"]

log = logging.getLogger(__name__)

TIDY_EVERY = 1000
"""New lines after which the mirror is looked through for old ones."""


class Mirror:
    """KEY.checkpoints, for the key at `key`. Every method may wait for the disk."""

    def __init__(self, key: Path) -> None:
        self.path = key.with_name(f"{key.name}.checkpoints")

    def lines(self) -> list[bytes]:
        """Its lines, oldest first; none if there is no file. A piece of a line at the end, which a
        power cut may have left, does not count. Raises what the disk says."""
        try:
            return self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as failed:
            raise KernelError.from_os(failed, f"the checkpoints, {self.path}") from None

    def append(self, lines: Iterable[str]) -> None:
        """Add all of the lines, or none. They survive a power cut when this returns. A piece of a
        line that a power cut has left is removed."""
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                whole = self._whole(descriptor)
                os.ftruncate(descriptor, whole)
                if os.pwrite(descriptor, data, whole) != len(data):
                    os.ftruncate(descriptor, whole)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as failed:
            raise KernelError.from_os(failed, f"the checkpoints, {self.path}") from None

    @staticmethod
    def _whole(descriptor: int) -> int:
        """The bytes up to the end of the last whole line."""
        size = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, 4096, max(0, size - 4096))
        return size - len(tail) + tail.rfind(b"\n") + 1

    def keep(self, wanted: Callable[[bytes], bool]) -> None:
        """Drop the lines that are not `wanted`, except the newest one."""
        lines = self.lines()
        kept = [line for line in lines[:-1] if wanted(line)] + lines[-1:]
        if len(kept) == len(lines):
            return
        fresh = self.path.with_name(f"{self.path.name}.new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(b"".join(line + b"\n" for line in kept))
                file.flush()
                os.fsync(descriptor)
            os.replace(fresh, self.path)
        except OSError as failed:
            raise KernelError.from_os(failed, f"the checkpoints, {self.path}") from None


class Mirroring:
    """Brings new checkpoints into the mirror, behind a sync of the store: so the mirror is never
    ahead of the store after a power cut. `first()` is the number of the first record that is kept.
    """

    def __init__(
        self,
        ground: Ground,
        tables: AuditTables,
        seal: Seal,
        mirror: Mirror,
        first: Callable[[], int],
    ) -> None:
        self._store = ground.store
        self._tables = tables
        self._seal = seal
        self._mirror = mirror
        self._first = first
        self._waiting: list[str] = []
        self._written = TIDY_EVERY  # lines since the mirror was looked through
        self._due = trio.Event()

    def newest(self) -> int:
        """The newest record of which the mirror has a checkpoint; 0 if there is none."""
        for line in reversed(self._mirror.lines()):
            try:
                return self._seal.read_checkpoint(line).seq
            except ValueError as bad:
                log.error("a checkpoint in %s: %s", self._mirror.path, bad)
        return 0

    def begin(self, checkpoint: str) -> None:
        """Make the mirror, with its first checkpoint, if there is none yet."""
        if not self._mirror.lines():
            self._mirror.append([checkpoint])

    def add(self, checkpoint: str) -> None:
        """Have a checkpoint mirrored soon."""
        self._waiting.append(checkpoint)
        self._due.set()

    async def run(self) -> None:
        """Mirror what comes, until cancelled."""
        self._waiting = self.missed() + self._waiting
        while True:
            await self._due.wait()
            self._due = trio.Event()
            try:
                self._store.fold()  # nobody finds a line of a record that SQLite lacks
                await self._store.sync()
            except (OSError, KernelError) as failure:
                log.warning("the store cannot be synced: %s", failure)
            else:
                await trio.to_thread.run_sync(self.write)

    def missed(self) -> list[str]:
        """The checkpoints that the last run made and had no time to mirror."""
        newest, missed = self.newest(), []
        for _, text in self._tables.checkpoints():
            with suppress(ValueError):  # `verify` says that it is none
                read = self._seal.read_checkpoint(text.encode())
                if newest < read.seq and not read.cut and text not in self._waiting:
                    missed.append(text)
        return missed

    def write(self) -> None:
        """Mirror the new checkpoints now, and wait for the disk. The store has to be synced before.
        A failure is made up for with the next checkpoint."""
        lines = list(self._waiting)
        try:
            if lines:
                self._mirror.append(lines)
                del self._waiting[: len(lines)]
                self._written += len(lines)
            if self._written >= TIDY_EVERY:
                self._mirror.keep(self._is_kept)
                self._written = 0
        except KernelError as failure:
            log.warning("checkpoints of the audit are mirrored later: %s", failure)

    def _is_kept(self, line: bytes) -> bool:
        """Whether it is of a record that is kept. A line that cannot be read stays, for
        `verify`."""
        try:
            return self._seal.read_checkpoint(line).seq >= self._first()
        except ValueError:
            return True
