"""The system call that a client is in, beyond what FUSE says of its request.

A FUSE request does not tell which call it is part of. /proc/TID/syscall does, as long as the thread
waits for our answer. To look there needs the right to trace the thread. Root has it. Another user
has it for programs of its own, unless Yama (kernel.yama.ptrace_scope) keeps it to its descendants.
"""

from __future__ import annotations

import platform
import time

import trio

from agentfs.mount.proc import system_call, threads
from agentfs.mount.watch import EVENTS

__all__ = ["is_closing", "looks", "may_be_closing", "may_watch"]

# The numbers of calls (asm/unistd*.h): of a 64-bit program, and for the first two sets of a 32-bit
# one as well. No number stands for another call there that takes a path. Other machines we do not
# know.
_MACHINE = platform.machine()
# inotify_add_watch, whose third argument says for what; fanotify_mark, which divides it otherwise.
_WATCHING = {
    "x86_64": {254, 292},
    "aarch64": {27, 317},
}.get(_MACHINE, set())
_MARKING = {
    "x86_64": {301, 339},
    "aarch64": {263, 367},
}.get(_MACHINE, set())
# stat, lstat, newfstatat and statx; stat, lstat, stat64, lstat64, fstatat64 and statx.
_LOOKING = {
    "x86_64": {4, 6, 262, 332, 106, 107, 195, 196, 300, 383},
    "aarch64": {79, 291, 195, 196, 327, 397},
}.get(_MACHINE, set())
# Calls that close descriptors: close, dup2, dup3, close_range, execve, execveat, exit, exit_group,
# and io_uring_enter.
_CLOSING = {
    "x86_64": frozenset((b"3", b"33", b"292", b"436", b"59", b"322", b"60", b"231", b"426")),
    "aarch64": frozenset((b"57", b"24", b"436", b"221", b"281", b"93", b"94", b"426")),
}.get(_MACHINE, frozenset())

# A caller that just handed us its request is not asleep yet, as a rule for some µs; under load it
# may have to wait for a processor, and then nobody but itself waits longer.
PAUSES_SECONDS = (0.0, 0.0002, 0.001, 0.005, 0.02, 0.1, 0.3)
# The same for threads of others, for which somebody else waits.
OTHERS_PAUSES_SECONDS = PAUSES_SECONDS[:5]


async def may_watch(tid: int) -> int:
    """The events (see `mount.watch`) of a watch that the thread, which waits for our answer, may be
    adding; all of them if in doubt: it cannot be seen from here, we may not look, or it never falls
    asleep. 25 µs.

    Not seen are dnotify, which nobody uses any more, and the rules of Linux's audit.
    """
    call = await _call(tid) if _WATCHING else None
    if call is None or call[0] in _MARKING:
        return EVENTS
    return call[3] & EVENTS if call[0] in _WATCHING else 0


async def looks(tid: int) -> bool:
    """Whether the thread, which waits for our answer, only asks what a path is (stat, lstat,
    statx), and opens nothing; no if in doubt. 25 µs."""
    call = await _call(tid)
    return call is not None and call[0] in _LOOKING


async def _call(tid: int) -> tuple[int, ...] | None:
    """The number of the call that a thread is in, and its arguments; None if nobody says."""
    for pause in PAUSES_SECONDS:
        try:
            words = system_call(tid)
        except OSError:
            return None
        if words != [b"running"]:
            break
        await trio.sleep(pause)
    # number, six arguments, stack, program counter. A worker of io_uring has the number of
    # whatever call it was made in, and no stack.
    if len(words) != 9 or not words[0].isdigit() or int(words[7], 16) == 0:
        return None
    return int(words[0]), *(int(word, 16) for word in words[1:7])


# -- closing: asked in a thread of its own ---------------------------------------------------------


def may_be_closing(pid: int) -> bool:
    """Whether some thread of the process is in a call that closes descriptors; yes if in doubt."""
    for pause in OTHERS_PAUSES_SECONDS:
        calls = {_word(thread) for thread in threads(pid)}
        if b"" in calls or calls & _CLOSING or not _CLOSING:
            return True
        if b"running" not in calls:
            return False
        time.sleep(pause)
    return False


def is_closing(pid: int) -> bool:
    """Whether some thread of the process is in such a call now; no if in doubt."""
    return any(_word(thread) in _CLOSING for thread in threads(pid))


def _word(tid: int) -> bytes:
    """The number of the call that a thread is in; `running` if it runs, empty if nobody says."""
    try:
        words = system_call(tid)
    except OSError:
        return b""
    return words[0] if words else b""
