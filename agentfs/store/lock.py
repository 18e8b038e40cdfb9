"""The lock of a state directory: two daemons on one state would destroy it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentfs.store.layout import StateError

__all__ = ["only_daemon"]


# A process that is killed in a call to the kernel ends when that returns.
DYING_SECONDS = 10.0


def _taken(descriptor: int) -> bool:
    """Take the lock; False if another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as failed:
        if failed.errno != errno.EWOULDBLOCK:
            raise
        return False
    return True


def _is_dying(owner: str) -> bool:
    """Whether a process has been killed and is not gone: it has no memory any more, or a signal
    that it cannot catch waits for it."""
    try:
        status = Path(f"/proc/{int(owner)}/status").read_text()
    except FileNotFoundError:
        return True  # it has just gone
    except (OSError, ValueError):
        return False
    if "\nVmSize:" not in status:
        return True
    waiting = status.partition("\nShdPnd:")[2].split("\n")[0]
    return bool(int(waiting or "0", 16) & 1 << (signal.SIGKILL - 1))


@contextmanager
def only_daemon(state: Path) -> Iterator[None]:
    """Hold the lock of the state directory. Raises StateError if another process has it.

    A process that was killed has it until its last thread is gone; we wait for that.
    """
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + DYING_SECONDS
        while not _taken(descriptor):
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            if not _is_dying(owner) or time.monotonic() > deadline:
                raise StateError(f"{state}: in use by another daemon, process {owner}")
            time.sleep(0.01)
        with suppress(OSError):  # a full disk is no hindrance: it is a word for people
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
