"""Which thread makes a read or a write, and with which flags.

pyfuse3 does not say. Several processes may share a descriptor, and fcntl(2) may change its flags.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Hashable, Iterator
from contextlib import suppress
from functools import partial

import trio

from agentfs.machine.proc import all_pids, is_in_execve, read_stat, thread_group
from agentfs.machine.promptly import promptly
from agentfs.mount import proc

__all__ = ["holding", "reading", "waiting"]

# A thread that has just sent us a request is asleep after some µs, under load later.
PAUSES_SECONDS = (0.0, 0.0002, 0.001, 0.005)

# With 1,000 descendants it takes 0.1 s.
LOOK_SECONDS = 0.2


def reading(opener: int, inode: int) -> Hashable:
    """The process that has a thread in a call on a file with this inode number: that of the thread
    `opener`, which opened it, or one that it has started. None if there is none, or if that cannot
    be told. A thread that reads stands still until we have answered, so it can be seen.

    70 µs where the opener itself reads.
    """
    return promptly(partial(_reading, opener, inode))


def _reading(opener: int, inode: int) -> Hashable:
    try:
        if _is_reading(opener, inode):
            return opener
    except PermissionError:
        return _youngest(opener, inode)
    group = thread_group(opener)
    if any(_is_reading(tid, inode) for tid in _threads(group) if tid != opener):
        return opener
    for pid in _descendants(group) if group else all_pids():
        with suppress(PermissionError):
            if any(_is_reading(tid, inode) for tid in _threads(pid)):
                return pid, _start(pid)
    return None


async def waiting(opener: int, inode: int, others: Collection[int]) -> tuple[int, int] | None:
    """Which thread makes the call that is about to wait, and the flags that its descriptor has now:
    the one that opened the file, or another of its process, or of a descendant; none of `others`,
    which wait already. None if nobody can be found.

    Looked for in a thread, and for a moment only: Linux does not show the calls of a process in
    execve(2) before that has closed its descriptors, which may be what we are to answer next.
    """
    look = partial(_waiting, opener, inode, frozenset(others))
    with trio.move_on_after(LOOK_SECONDS):
        return await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=proc.LOOKS)
    return None


def _waiting(opener: int, inode: int, others: Collection[int]) -> tuple[int, int] | None:
    for pause in PAUSES_SECONDS:
        time.sleep(pause)
        try:
            call = _call(opener)
            found = _flags(opener, call, inode)
            if found is not None and opener not in others:
                return opener, found
            if call == [b"running"] and pause < PAUSES_SECONDS[-1]:
                continue
            for tid in _relatives(opener):
                found = None if tid in others else _flags(tid, _call(tid), inode)
                if found is not None:
                    return tid, found
        except PermissionError:
            return _alone(opener, inode)
        except OSError:
            return None
    return None


def _relatives(tid: int) -> Iterator[int]:
    """The threads of its process, and of those that descend from it."""
    group = thread_group(tid)
    if group:
        yield from _threads(group)
        for pid in _descendants(group):
            yield from _threads(pid)


def _alone(tid: int, inode: int) -> tuple[int, int] | None:
    """The thread, and the flags of the one descriptor that its process has of that file; None if
    there are none, or several with different flags."""
    found: set[int] = set()
    with suppress(OSError):
        for descriptor in proc.descriptors(tid):
            flags = proc.flags_of(tid, descriptor, inode)
            found |= set() if flags is None else {flags & os.O_NONBLOCK}
    return (tid, found.pop()) if len(found) == 1 else None


def holding(pid: int, inodes: Collection[int]) -> set[int]:
    """Which of these inodes a process has open."""
    found: set[int] = set()
    with suppress(OSError):
        for descriptor in proc.descriptors(pid):
            found |= {each for each in inodes if proc.flags_of(pid, descriptor, each) is not None}
    return found


def _youngest(opener: int, inode: int) -> Hashable:
    """Where Linux shows the calls of descendants only (Yama), and the operator's programs are none:
    of the processes that hold the file, the one that the opener started last; else the opener."""
    heirs = (pid for pid in _descendants(thread_group(opener)) if holding(pid, (inode,)))
    return max(((_start(pid), pid) for pid in heirs), default=opener)


def _is_reading(tid: int, inode: int) -> bool:
    return _flags(tid, _call(tid), inode) is not None


def _call(tid: int) -> list[bytes]:
    """The call that a thread is in, as /proc/TID/syscall has it; empty if it is gone, or in
    execve(2). It may be so by the time that it is asked for its call, which then takes long."""
    if is_in_execve(tid):
        return []
    try:
        return proc.system_call(tid)
    except (FileNotFoundError, ProcessLookupError):
        return []


def _flags(tid: int, call: list[bytes], inode: int) -> int | None:
    """If a thread's call is one on a descriptor of that file, the flags of that: read(2) has it as
    its first argument, sendfile(2) as its second."""
    for word in call[1:3]:
        found = proc.flags_of(tid, int(word, 16), inode)
        if found is not None:
            return found
    return None


def _threads(pid: int) -> list[int]:
    with suppress(OSError):
        return proc.threads(pid)
    return []


def _descendants(pid: int) -> Iterator[int]:
    """Children, grandchildren and so on, nearest first."""
    line = [pid]
    for parent in line:
        with suppress(OSError):
            children = proc.children(parent) or []
            yield from children
            line += children


def _start(pid: int) -> int:
    """When a process began, in clock ticks: numbers are used again."""
    stat = read_stat(pid)
    return 0 if stat is None else stat.start
