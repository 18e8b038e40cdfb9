"""`agentfs mount -f`: a process in front of the reaper and the daemon, for the shell or the systemd
that started it. It ends with the daemon, and with its exit code; programs may live on, and their
reaper with them. TERM and INT are handed on. If it is killed, it takes the daemon along.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

__all__ = ["in_front_of"]

PR_SET_PDEATHSIG = 1


def in_front_of(run: Callable[[int], int]) -> int:
    """Fork, and be in front of the child until the daemon ends; its exit code, 1 if that is not
    known. The child calls `run` with the descriptor to which the daemon's pid and its exit code are
    written, one a line. For a process with one thread."""
    us = os.getpid()
    reader, writer = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            _hear_of_the_end_of(us)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            code = run(writer)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(writer)
    told = [child]  # then the daemon

    def hand_on(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(told[-1], number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with open(reader) as lines:
        told += map(int, lines.readline().split())
        said = lines.readline()
    if said:
        return int(said)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if len(told) == 1 else 1


def _hear_of_the_end_of(parent: int) -> None:
    """Get SIGUSR1 if `parent`, our parent, is killed: the reaper takes the daemon along then. It
    holds after an execve."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:
        sys.exit(1)
