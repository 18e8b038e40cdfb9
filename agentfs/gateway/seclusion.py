"""What the gateway does before it is told a key: nobody but root may look into it.

Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress

__all__ = ["seclude"]

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38


def seclude(parent: int, uid: int = -1, gid: int = -1) -> None:
    """Become user `uid` (-1: stay who we are), be closed to neighbours of that user, leave no core,
    and die with the daemon, which is process `parent`.

    A user that this name space does not have cannot be become: we stay who we are. A process that
    is not dumpable has its `environ`, `mem` and `fd` in /proc for root alone, and cannot be traced.
    The change of the user takes the signal for the parent's end away, so that is asked for last.
    Exits if the daemon is gone by then.
    """
    if uid >= 0:
        with suppress(OSError):
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in (
        (PR_SET_DUMPABLE, 0),
        (PR_SET_NO_NEW_PRIVS, 1),
        (PR_SET_PDEATHSIG, signal.SIGKILL),
    ):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    if os.getppid() != parent:
        sys.exit()
