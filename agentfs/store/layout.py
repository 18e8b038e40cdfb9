"""The state directory: what lies in it, and what must hold before anything is written there. It
uses the standard library only, because the command line asks it before it starts a daemon.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["FILES", "FOLDERS", "SECRETS", "STORE", "TAPES", "StateError", "lay_out"]

STORE = "store.db"

SECRETS = "secrets"
"""The folder of the keys that the system keeps for others, a file each."""

TAPES = "tapes"
"""The folder of recorded and of written answers of models."""

FOLDERS = (
    *("shared", "shared/docs", "agents", "logs", "reapers", "runs", SECRETS, TAPES),
    *("projects", "checkpoints"),
)
FILES = (
    "kernel.log",
    "lock",
    "reserve",
    STORE,
    f"{STORE}-wal",
    f"{STORE}-shm",
    f"{STORE}-log0",
    f"{STORE}-log1",
    "store.mark",
    "recall.db",
    "recall.db-wal",
    "recall.db-shm",
    "audit.key",
    "audit.key.checkpoints",
)
"""Plain files, if they exist."""


class StateError(Exception):
    """A state directory that cannot be used as it is: what is wrong, and what to do about it."""


def lay_out(state: Path) -> None:
    """Make the directory and its folders where they are missing. Raises StateError if there is
    something else in their places, or somebody else's; then nothing was changed."""
    try:
        _check(state)
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        state.chmod(0o700)  # the store, all logs and all memories: no other user gets in
        for folder in FOLDERS:
            (state / folder).mkdir(exist_ok=True)
    except OSError as failed:
        where = failed.filename or state
        raise StateError(
            f"{where}: {os.strerror(failed.errno or 0)}; the state directory {state} must be on a"
            " disk that can be written to: --state DIR names another place"
        ) from None


def _check(state: Path) -> None:
    if not os.path.lexists(state):
        return
    if not state.is_dir():
        raise StateError(f"{state}: no directory; --state DIR names one for the state")
    owner = state.stat().st_uid
    if owner != os.geteuid():
        raise StateError(
            f"{state}: it belongs to user {owner}, and you are {os.geteuid()}: mount it as that"
            f" user, or make it your own with chown -R {os.geteuid()}"
        )
    if os.statvfs(state).f_flag & os.ST_RDONLY:
        raise StateError(
            f"{state}: it is on a disk that is mounted read-only; mount that for writing, or mount"
            " a copy of the directory: --state COPY"
        )
    for folder in FOLDERS:
        path = state / folder
        if os.path.lexists(path) and not stat.S_ISDIR(path.lstat().st_mode):
            raise StateError(
                f"{path}: {_kind(path)}, and a directory was expected; move it away, and if its"
                " content is on another disk, mount that there (mount --bind)"
            )
    for name in FILES:
        path = state / name
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise StateError(
                f"{path}: {_kind(path)}, and a file was expected; move it away"
                f" (agentfs doctor --state {state} says what else is wrong)"
            )


def _kind(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"a link to {os.readlink(path)}"
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a file" if stat.S_ISREG(mode) else "no file"
