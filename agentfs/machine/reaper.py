"""The reaper: a small process above the daemon, which outlives it. Run by its path, with
`python -I -S`; it imports next to nothing, and needs 4 MiB of its own.

Linux gives a process that loses its parents to the nearest sub-reaper above it. While the daemon
lives that is the daemon. When the daemon is killed, its programs become the reaper's, and so does
whatever they leave behind later: the next daemon tells by that whose they are not
(`agentfs.machine.reapers`). How each program ends is written down before Linux is let forget it.
"""

import os
import signal
import sys
import time
from contextlib import suppress

__all__ = ["main"]

FORWARDED = (signal.SIGINT, signal.SIGTERM)
"""These ask for the end of the daemon, and the reaper's follows from that."""

AGAIN = 1.0
"""Seconds until the next try where the disk is full. Linux keeps the code as long as that."""


def main(daemon: int, path: str, front: int) -> int:
    """Be the reaper of our child `daemon`, and then of what outlives it; the daemon's exit code
    (128 + signal). Every signal is blocked already.

    `path`: the file for the ends, which the daemon makes: without it nothing is written. `front`: a
    descriptor to which the daemon's pid and its exit code are written, one a line; -1: none.
    """
    os.chdir("/")
    _say(front, daemon)
    code = _follow(daemon)
    programs = _children() - {daemon}
    os.waitid(os.P_PID, daemon, os.WEXITED)
    _say(front, code)
    if front >= 0:
        os.close(front)
    _reap(programs, path)
    if not programs or code == 0:  # it has seen to the ends of all programs itself
        with suppress(OSError):
            os.unlink(path)
    return code


def _follow(daemon: int) -> int:
    """Hand on what asks for the end until the daemon has ended; its exit code. It is not waited
    for yet: what it left is ours by then."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, there would be nothing to wait for
    while True:
        ended = os.waitid(os.P_PID, daemon, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None:
            return _code(ended)
        number = signal.sigwait({signal.SIGCHLD, signal.SIGUSR1, *FORWARDED})
        if number in FORWARDED:
            os.kill(daemon, number)
        elif number == signal.SIGUSR1:  # the process in front of us was killed
            os.kill(daemon, signal.SIGKILL)


def _children() -> set[int]:
    """Our children, those that have ended included. /proc/PID/status never waits."""
    mark = b"\nPPid:\t%d\n" % os.getpid()
    found = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/status", "rb") as file:
                    if mark in file.read():
                        found.add(int(name))
            except OSError:
                continue  # it is gone
    return found


def _reap(programs: set[int], path: str) -> None:
    """Reap whatever ends, until nobody is left. How one of `programs` ended is noted first."""
    noted: set[int] = set()
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            continue
        if ended.si_pid in programs - noted:
            noted.add(ended.si_pid)  # the number may be another's later
            _note(ended.si_pid, _code(ended), path)
        os.waitid(os.P_PID, ended.si_pid, os.WEXITED)


def _code(ended: os.waitid_result) -> int:
    """The exit code, or 128 + signal."""
    return ended.si_status + (0 if ended.si_code == os.CLD_EXITED else 128)


def _note(pid: int, code: int, path: str) -> None:
    """Write `PID START CODE`; START is when it began, in clock ticks since boot."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        start = int(stat.read().rpartition(b")")[2].split()[19])
    line = b"%d %d %d\n" % (pid, start, code)
    while True:
        try:
            with open(path, "r+b", buffering=0) as file:
                file.seek(0, os.SEEK_END)
                if file.write(line) == len(line):
                    return
            line = b"\n" + line.strip() + b"\n"  # after what was cut off
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(AGAIN)


def _say(front: int, number: int) -> None:
    if front >= 0:
        with suppress(OSError):  # nobody is there
            os.write(front, b"%d\n" % number)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
