"""The system call in which a client waits for our answer: what it is up to, beyond what FUSE says.

A FUSE request does not tell which call it is part of; /proc/TID/syscall does, as long as the thread
waits. To look there needs the right to trace the thread: root has it; another user has it for its
own programs, unless Yama (kernel.yama.ptrace_scope) keeps it to its descendants.
"""

from __future__ import annotations

import os
import platform

import trio

__all__ = ["looks", "may_watch"]

# Of a 64-bit program, and then of a 32-bit one (asm/unistd*.h); no number stands for another call
# there that takes a path. Other machines we do not know.
_MACHINE = platform.machine()
# inotify_add_watch and fanotify_mark.
_WATCHING = {
    "x86_64": {254, 301, 292, 339},
    "aarch64": {27, 263, 317, 367},
}.get(_MACHINE, set())
# stat, lstat, newfstatat and statx; stat, lstat, stat64, lstat64, fstatat64 and statx.
_LOOKING = {
    "x86_64": {4, 6, 262, 332, 106, 107, 195, 196, 300, 383},
    "aarch64": {79, 291, 195, 196, 327, 397},
}.get(_MACHINE, set())

# A caller that just handed us its request is not asleep yet, as a rule for some µs; under load it
# may have to wait for a processor, and then nobody but itself waits longer.
PAUSES_SECONDS = (0.0, 0.0002, 0.001, 0.005, 0.02, 0.1, 0.3)


async def may_watch(tid: int) -> bool:
    """Whether the thread, which waits for our answer, may be adding a watch; yes if in doubt: it
    cannot be seen from here, we may not look, or it never falls asleep. 25 µs.

    Not seen are dnotify, which nobody uses any more, and the rules of Linux's audit.
    """
    number = await _number(tid) if _WATCHING else None
    return number is None or number in _WATCHING


async def looks(tid: int) -> bool:
    """Whether the thread, which waits for our answer, only asks what a path is (stat, lstat,
    statx), and opens nothing; no if in doubt. 25 µs."""
    return await _number(tid) in _LOOKING


async def _number(tid: int) -> int | None:
    """The number of the call that a thread is in; None if nobody says."""
    for pause in PAUSES_SECONDS:
        try:
            words = _read(tid).split()
        except OSError:
            return None
        if words != [b"running"]:
            break
        await trio.sleep(pause)
    # number, six arguments, stack, program counter. A worker of io_uring has the number of
    # whatever call it was made in, and no stack.
    if len(words) != 9 or not words[0].isdigit() or int(words[7], 16) == 0:
        return None
    return int(words[0])


def _read(tid: int) -> bytes:
    descriptor = os.open(f"/proc/{tid}/syscall", os.O_RDONLY)
    try:
        return os.read(descriptor, 256)
    finally:
        os.close(descriptor)
