"""The lock of a state directory: two daemons on one state would destroy it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentfs.storage.layout import StateError

__all__ = ["only_daemon"]


@contextmanager
def only_daemon(state: Path) -> Iterator[None]:
    """Hold the lock of the state directory. Raises StateError if another process has it."""
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failed:
            if failed.errno != errno.EWOULDBLOCK:
                raise
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip()
            raise StateError(f"{state}: in use by another daemon, process {owner}") from None
        with suppress(OSError):  # a full disk is no hindrance: it is a word for people
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
