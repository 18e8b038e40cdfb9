"""Notes as files: making one whole, and removing one. In the event loop: the store's own disk."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from agentfs.base.errors import KernelError
from agentfs.base.within import open_within
from agentfs.recall import files
from agentfs.recall.follower import NOTES
from agentfs.recall.index import Stamp

__all__ = ["keep", "make_folder", "remove", "take_back"]

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW


def make_folder(root: str, uid: int, gid: int) -> os.stat_result | None:
    """Have the directory of notes in a memory, for this owner; None if it was there. Raises
    KernelError: what the disk says, and EXDEV, ENOTDIR if something else is in its place."""
    try:
        with files.home(root) as here:
            try:
                os.mkdir(NOTES, 0o700, dir_fd=here)
            except FileExistsError:
                os.close(open_within(here, NOTES, _FOLDER))
                return None
            _give(NOTES, here, uid, gid)
            return os.stat(NOTES, dir_fd=here, follow_symlinks=False)
    except OSError as failure:
        raise _refusal(failure) from None


def keep(root: str, name: str, content: bytes, uid: int, gid: int) -> os.stat_result:
    """Make the note `name`, which is not there, with mode 0600 and this owner: all of it, or
    nothing. Raises KernelError."""
    unfinished = f".{name}.new"
    try:
        with files.home(root) as above, files.folder(above, NOTES.encode()) as here:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with suppress(FileNotFoundError):
                os.unlink(unfinished, dir_fd=here)  # a daemon ended in the midst of it
            made = os.open(unfinished, flags, 0o600, dir_fd=here)
            try:
                left = memoryview(content)
                while left:
                    left = left[os.write(made, left) :]
                _give(unfinished, here, uid, gid)
                os.rename(unfinished, name, src_dir_fd=here, dst_dir_fd=here)
            except OSError:
                os.unlink(unfinished, dir_fd=here)
                raise
            finally:
                os.close(made)
            return os.stat(name, dir_fd=here, follow_symlinks=False)
    except OSError as failure:
        raise _refusal(failure) from None


def take_back(root: str, name: str) -> None:
    """The note was not kept after all."""
    with suppress(OSError), files.home(root) as above, files.folder(above, NOTES.encode()) as here:
        os.unlink(name, dir_fd=here)


def remove(root: str, name: str, row: str) -> os.stat_result | None:
    """Remove a note if it is still as a row of the index has it; what it was, None if it was not
    removed. Raises OSError."""
    with files.home(root) as above, files.folder(above, NOTES.encode()) as here:
        found = os.stat(name, dir_fd=here, follow_symlinks=False)
        if not Stamp.of(found).fits(row):
            return None
        os.unlink(name, dir_fd=here)
        return found


def _give(name: str, folder: int, uid: int, gid: int) -> None:
    if os.geteuid() == 0:
        os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)


def _refusal(failure: OSError) -> KernelError:
    if failure.errno == errno.EXDEV:
        return KernelError(
            errno.EXDEV,
            "another disk is mounted at memory/ or memory/notes: write the note there as a file",
        )
    if failure.errno in (errno.ENOTDIR, errno.ELOOP):
        return KernelError(errno.ENOTDIR, "memory/notes is no directory: move it away")
    return KernelError.from_os(failure, "the note cannot be kept")
