"""The files of a memory, as the index and a query read them: in threads, without following a link
or leaving the disk. Text has at most `LARGEST` bytes, and no NUL in it; all else is left out.
"""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from agentfs.base.within import open_within
from agentfs.recall.index import Stamp
from agentfs.recall.settings import LARGEST

__all__ = ["DEEPEST", "Text", "below", "folder", "home", "read"]

Entered = Callable[[int, bytes], object]

DEEPEST = 64
"""Levels of directories that are looked into."""

_GONE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.EACCES, errno.ENXIO, errno.ESTALE}
)
"""It is not there, is a link or another disk, or nobody may read it."""

_GARBAGE = 0.1
"""The part of a text that may be no UTF-8."""

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class Text:
    """A file that was read; `text` None: there is nothing in it to find."""

    stamp: Stamp
    text: str | None


@contextmanager
def home(path: str) -> Iterator[int]:
    """The directory of a memory. Raises OSError: EXDEV if another disk is mounted there."""
    parent, name = os.path.split(path)
    above = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = open_within(above, name, _FOLDER)
    finally:
        os.close(above)
    try:
        yield found
    finally:
        os.close(found)


@contextmanager
def folder(root: int, path: bytes) -> Iterator[int]:
    """The directory at a path below `root`, which itself is the empty path. Raises OSError."""
    here = os.dup(root)
    try:
        for name in path.split(b"/") if path else ():
            below = open_within(here, os.fsdecode(name), _FOLDER)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def read(root: int, path: bytes) -> Text | None:
    """The file at a path below `root`; None if there is no regular file. Raises OSError if it
    cannot be read at the moment."""
    above, _, name = path.rpartition(b"/")
    try:
        with folder(root, above) as here:
            found = open_within(here, os.fsdecode(name), _FILE)
    except OSError as failure:
        if failure.errno in _GONE:
            return None
        raise
    try:
        about = os.fstat(found)
        if not st.S_ISREG(about.st_mode):
            return None
        stamp = Stamp.of(about)
        if about.st_size > LARGEST:
            return Text(stamp, None)
        with suppress(OSError):  # its disk is broken there
            return Text(stamp, _text(os.pread(found, LARGEST + 1, 0)))
        return Text(stamp, None)
    finally:
        os.close(found)


def _text(content: bytes) -> str | None:
    if len(content) > LARGEST or b"\0" in content:
        return None
    text = content.decode("utf-8", "replace")
    if not text.isascii() and text.count("\ufffd") > _GARBAGE * len(text):
        return None
    return text


def below(root: int, path: bytes, entered: Entered) -> Iterator[tuple[bytes, Stamp]]:
    """The regular files below a directory, as they are found. `entered(descriptor, path)` is told
    of each directory before it is listed. Raises OSError if not all of them can be seen."""
    with _if_there(), folder(root, path) as here:
        yield from _walk(here, path, entered, path.count(b"/") + bool(path))


@contextmanager
def _if_there() -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        if failure.errno not in _GONE:
            raise


def _walk(here: int, path: bytes, entered: Entered, depth: int) -> Iterator[tuple[bytes, Stamp]]:
    entered(here, path)
    listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
    try:
        with os.scandir(listing) as entries:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    finally:
        os.close(listing)
    for name, is_folder in names:
        inner = os.path.join(path, os.fsencode(name))
        with _if_there():
            found = open_within(here, name, _FOLDER if is_folder else os.O_PATH | os.O_NOFOLLOW)
            try:
                about = os.fstat(found)
                if st.S_ISREG(about.st_mode):
                    yield inner, Stamp.of(about)
                elif is_folder and depth < DEEPEST:
                    yield from _walk(found, inner, entered, depth + 1)
            finally:
                os.close(found)
