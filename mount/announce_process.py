"""The announcer's own process: it makes on the mount the calls that it is told to make.

It is run as a script with a socket for its standard input, the number of a descriptor to map, and
its parent's pid. Each packet is an operation, a path and a new path, separated by NUL. The map, of
8-byte numbers, says how many calls were begun, how many are over, and then the errno of the last
ones, 0 for a call that was made. So the daemon need not wait for an answer. It gets one only where
it asks for it: after `modify` and `write`, and by `ask`.

The process ends when the other end of the socket is closed, before the next call once the map says
so, and at once when its parent dies. The calls that it was told ahead are about the mount of that
parent, and on the next mount a call by the same path could be a real one. Standard library only,
as little of it as will do, and nothing of ours: it starts in 10 ms.
"""

import ctypes
import mmap
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress

UTIME_NOW = 0x3FFFFFFF
UTIME_OMIT = 0x3FFFFFFE
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
PR_SET_PDEATHSIG = 1
SIGKILL = 9
TOLD = 0
"""The socket: read(2) gives one packet of it. The modules `socket` and `signal` took a third of the
start."""
MAX_PACKET = 65536
UNKNOWN = 255
"""The errno of a failure that has none."""

BEGUN, OVER, ENDED, RESULTS = 0, 1, 2, 3
"""Where in the map is what; call N's errno is at RESULTS + N % MOST. ENDED: no call any more."""
MOST = 128
"""How many calls may be told at once."""

libc = ctypes.CDLL(None, use_errno=True)


class Timespec(ctypes.Structure):
    """As in utimensat(2)."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


ONLY_MTIME = (Timespec * 2)(Timespec(0, UTIME_OMIT), Timespec(0, UTIME_NOW))


opened: list[int] = []
"""The files that `write` opened and `close` closes."""


def modify(path: bytes, _: bytes) -> None:
    """IN_MODIFY. With the access time set too it would be IN_ATTRIB (tried).

    The stat first: it has Linux ask for the attributes, see the change and drop the cached pages.
    The attributes that come back from utimensat are taken over without looking at the pages.
    """
    os.lstat(path)
    if libc.utimensat(AT_FDCWD, path, ONLY_MTIME, AT_SYMLINK_NOFOLLOW):
        raise OSError(ctypes.get_errno(), "utimensat")


def write(path: bytes, _: bytes) -> None:
    """IN_OPEN, IN_MODIFY; IN_CLOSE_WRITE by `close`.

    Opened before it is modified, because Linux asks for the attributes then, too. Closed by a call
    of its own, because that may wait for a writer, for which nobody else is to wait. A reader of a
    FIFO would take the close for the end. So the file is looked at through O_PATH: it cannot have
    become a FIFO by the time it is opened. EACCES: not root, and nobody may write it.
    """
    found = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if stat.S_ISREG(os.fstat(found).st_mode):
            with suppress(PermissionError):
                opened.append(os.open(f"/proc/self/fd/{found}", os.O_WRONLY))
    finally:
        os.close(found)
    modify(path, b"")


def close(_: bytes, __: bytes) -> None:
    """IN_CLOSE_WRITE, for a file that was written."""
    while opened:
        os.close(opened.pop())


def create(path: bytes, _: bytes) -> None:
    """IN_CREATE, IN_OPEN, IN_CLOSE_WRITE."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def drop(path: bytes, _: bytes) -> None:
    """Have Linux ask for a name that it has, and hear that there is no such file: it forgets it."""
    with suppress(FileNotFoundError):
        os.lstat(path)


def hang_up(path: bytes, _: bytes) -> None:
    """Be the other end of a FIFO for a moment. A program that waits for one in open(2) goes on, and
    finds that it is gone again: end of file, or EPIPE."""
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


CALLS: dict[bytes, Callable[[bytes, bytes], object]] = {
    b"modify": modify,
    b"write": write,
    b"close": close,
    b"create": create,
    b"mknod": lambda path, _: os.mknod(path, stat.S_IFREG | 0o600),  # IN_CREATE alone
    b"mkdir": lambda path, _: os.mkdir(path),
    b"symlink": lambda path, _: os.symlink(b"announced", path),
    b"mkfifo": lambda path, _: os.mkfifo(path),
    b"unlink": lambda path, _: os.unlink(path),
    b"rmdir": lambda path, _: os.rmdir(path),
    b"rename": os.rename,
    b"drop": drop,
    b"hangup": hang_up,
}


def main() -> None:
    """Make calls until there is nobody to tell."""
    libc.prctl(PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != int(sys.argv[2]):  # it died before
        sys.exit()
    progress = memoryview(mmap.mmap(int(sys.argv[1]), 8 * (RESULTS + MOST))).cast("Q")
    number = 0
    while (packet := os.read(TOLD, MAX_PACKET)) and not progress[ENDED]:
        operation, path, new_path = packet.split(b"\0")
        if operation != b"ask":
            number += 1
            progress[BEGUN] = number
            try:
                CALLS[operation](path, new_path)
                result = 0
            except OSError as failure:
                result = failure.errno or UNKNOWN
            progress[RESULTS + number % MOST] = result
            progress[OVER] = number
        if operation in (b"ask", b"modify", b"write"):
            try:
                os.write(TOLD, b".")
            except OSError:
                sys.exit()


if __name__ == "__main__":
    main()
