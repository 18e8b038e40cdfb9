"""What programs leave behind: children of theirs that lost their parents to us, the sub-reaper, or
to the reaper of an earlier daemon.

Never the daemon's own helpers, which share its session, nor what is `watched`, by OS pid.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from functools import partial

from agentfs.machine.proc import all_pids, is_in_execve, read_file, read_status
from agentfs.machine.promptly import promptly

__all__ = ["go_on", "kill", "reap", "reap_all", "stop", "strays", "unclaimed"]


def reap(watched: Container[int]) -> None:
    """Reap those that have ended, up to the first that is not our matter."""
    while (ended := _first_ended()) is not None and _reap(ended, watched):
        pass


def reap_all(watched: Container[int]) -> None:
    """Reap those that have ended. If any child has, it looks at every process of the machine, 10 µs
    each."""
    if _first_ended() is None:
        return
    us = os.getpid()
    for ospid in all_pids():
        stat = read_status(ospid)
        if stat is not None and stat.ppid == us and stat.ended:
            _reap(ospid, watched)


def _first_ended() -> int | None:
    """A child that has ended and is not reaped yet; None if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def _reap(ospid: int, watched: Container[int]) -> bool:
    stat = read_status(ospid)
    if ospid in watched or stat is None or stat.session == os.getsid(0):
        return False
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, ospid, os.WEXITED | os.WNOHANG)
    return True


def strays(
    session: int,
    pid: int,
    mountpoint: str,
    watched: Container[int],
    known: Container[int],
    reapers: Iterable[int] = (),
    *,
    adopted: bool = False,
) -> list[int]:
    """Without control groups: what is in the session of a program or below it, what is `known` to
    descend from it, and orphans that still say they are process `pid`'s, each with all below it.
    Orphans are ours or an earlier daemon's: one of `reapers` has those. `adopted`: they may have
    any other parent, too.

    Costs 10 µs a process of the machine; with `adopted` 20.
    """
    ours, parents = os.getsid(0), {os.getpid(), *reapers}
    children: dict[int, list[int]] = {}
    found: list[int] = []
    for ospid in all_pids():
        stat = read_status(ospid)
        if stat is None or ospid in watched or stat.session == ours:
            continue
        children.setdefault(stat.ppid, []).append(ospid)
        orphan = (adopted or stat.ppid in parents) and _says_it_is(ospid, mountpoint) == pid
        if stat.session == session or orphan or ospid in known:
            found.append(ospid)
    found += children.get(session, ())
    seen = set(found)
    for ospid in found:  # grows while it is walked
        found += [child for child in children.get(ospid, ()) if child not in seen]
        seen.update(children.get(ospid, ()))
    return list(dict.fromkeys(found))


def kill(ospids: Iterable[int]) -> None:
    """SIGKILL to all of these."""
    for ospid in ospids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(ospid, signal.SIGKILL)


def stop(ospids: Iterable[int]) -> list[int]:
    """SIGSTOP to those that run; which they were."""
    stopped: list[int] = []
    for ospid in ospids:
        stat = read_status(ospid)
        if stat is not None and stat.state not in "TtZX":
            with suppress(ProcessLookupError, PermissionError):
                os.kill(ospid, signal.SIGSTOP)
                stopped.append(ospid)
    return stopped


def go_on(ospids: Iterable[int]) -> None:
    """SIGCONT to all of these."""
    for ospid in ospids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(ospid, signal.SIGCONT)


def unclaimed(
    reapers: Container[int], mountpoint: str, watched: Container[int], claims: Callable[[int], bool]
) -> list[int]:
    """Without control groups: what `reapers` of earlier daemons have that says it is a program of a
    process of ours, and none of such a process: `claims` says whether there is one."""
    found = []
    for ospid in all_pids():
        stat = read_status(ospid)
        if stat is not None and stat.ppid in reapers and ospid not in watched:
            pid = _says_it_is(ospid, mountpoint)
            if pid is not None and not claims(pid):
                found.append(ospid)
    return found


def _says_it_is(ospid: int, mountpoint: str) -> int | None:
    """The process of which an orphan is, by its environment."""
    if is_in_execve(ospid):
        return None
    lines = promptly(partial(read_file, f"/proc/{ospid}/environ"))
    with suppress(ValueError):
        said = dict(line.partition(b"=")[::2] for line in (lines or b"").split(b"\0"))
        if said.get(b"AGENTFS") == os.fsencode(mountpoint):
            return int(said.get(b"AGENT_PID", b""))
    return None
