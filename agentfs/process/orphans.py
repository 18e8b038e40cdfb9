"""What programs leave behind: children of theirs that lost their parents to us, the sub-reaper.

Never the daemon's own helpers, which share its session, nor what is `watched`, by OS pid.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Container
from contextlib import suppress

from agentfs.process.proc import all_pids, is_in_execve, read_stat

__all__ = ["kill_strays", "reap", "reap_all"]


def reap(watched: Container[int]) -> None:
    """Reap those that have ended, up to the first that is not our matter."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or not _reap(found.si_pid, watched):
            return


def reap_all(watched: Container[int]) -> None:
    """Reap those that have ended. Looks at every process of the machine, 10 µs each."""
    us = os.getpid()
    for ospid in all_pids():
        stat = read_stat(ospid)
        if stat is not None and stat.ppid == us and stat.ended:
            _reap(ospid, watched)


def _reap(ospid: int, watched: Container[int]) -> bool:
    stat = read_stat(ospid)
    if ospid in watched or stat is None or stat.session == os.getsid(0):
        return False
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, ospid, os.WEXITED | os.WNOHANG)
    return True


def kill_strays(session: int, pid: int, mountpoint: str, watched: Container[int]) -> None:
    """Without control groups: SIGKILL to what is in the session of a program or below it, and to
    orphans that still say they are process `pid`'s, each with all below it.

    Costs 10 µs a process of the machine.
    """
    ours = os.getsid(0)
    children: dict[int, list[int]] = {}
    doomed: list[int] = []
    for ospid in all_pids():
        stat = read_stat(ospid)
        if stat is None or ospid in watched or stat.session == ours:
            continue
        children.setdefault(stat.ppid, []).append(ospid)
        orphan = stat.ppid == os.getpid() and _says_it_is(ospid, pid, mountpoint)
        if stat.session == session or orphan:
            doomed.append(ospid)
    doomed += children.get(session, ())
    seen = set(doomed)
    for ospid in doomed:  # grows while it is walked
        with suppress(ProcessLookupError, PermissionError):
            os.kill(ospid, signal.SIGKILL)
        doomed += [child for child in children.get(ospid, ()) if child not in seen]
        seen.update(children.get(ospid, ()))


def _says_it_is(ospid: int, pid: int, mountpoint: str) -> bool:
    """Whether the environment of an orphan is that of process `pid`'s programs."""
    if is_in_execve(ospid):
        return False
    with suppress(OSError), open(f"/proc/{ospid}/environ", "rb") as file:
        said = file.read().split(b"\0")
        return b"AGENT_PID=%d" % pid in said and b"AGENTFS=" + os.fsencode(mountpoint) in said
    return False
