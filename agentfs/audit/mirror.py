"""The mirror: a file beside the key that has every checkpoint once more, a line each.

Somebody can put an older copy of the store in its place, with the signed head that it had then. The
mirror then has a checkpoint of records that the store does not have.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from agentfs.base.errors import KernelError

__all__ = ["Mirror"]


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
