"""The programs behind an open file: the one that opened it, its parent, and so on.

A shell that reads with `cat` is one reader although each `cat` is another program. So a reader is
told by the first of its line that still lives, the *loop*, and has failed if one below that failed.

What the loop started to read for it is told by name: `cat` or `timeout 5 cat` in a shell, `sh -c
"cat recv | jq"` in Python. Two reads are one after the other if both were asked for, or made in the
same way. A read was asked for if the program that the loop started has the file on its command
line: `cat agents/self/recv` has, `find . -exec cat {} +` and `grep -r` have not.
"""

from __future__ import annotations

import itertools
import os
import select
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakValueDictionary

from agentfs.machine.proc import exit_code, lost_exit_code, read_file, read_stat, thread_group

__all__ = ["WALKERS", "Lineage", "Lineages"]

# Enough for every wrapper (timeout, a pipeline, a sub-shell) between a loop and what reads for it.
MAX_GENERATIONS = 8

# A program that was just started may be in execve still, for some µs.
EXECVE_SECONDS = 0.002

WALKERS = frozenset({"fd", "fdfind", "find", "parallel", "xargs"})
"""They start programs on names that they found: nobody asked for what these read."""


class Generation:
    """One program of a line, by pid and start time. `named`: the file that was opened is on its
    command line."""

    __slots__ = ("name", "named", "ospid", "pidfd", "start")

    def __init__(self, ospid: int, start: int, name: str, named: bool) -> None:
        self.ospid = ospid
        self.start = start
        self.name = name
        self.named = named
        self.pidfd: int | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Generation):
            return NotImplemented
        return (self.ospid, self.start) == (other.ospid, other.start)

    def __hash__(self) -> int:
        return hash((self.ospid, self.start))

    def watch(self) -> None:
        """From now on its exit code can be told after it was waited for (Linux 6.15)."""
        if self.pidfd is None:
            with suppress(OSError):  # gone, or too many open files
                self.pidfd = os.pidfd_open(self.ospid)

    def __del__(self) -> None:
        if self.pidfd is not None:
            os.close(self.pidfd)

    def fate(self) -> int | None:
        """None while it runs; its exit code, or 128 + signal. 0 if the machine does not say."""
        if self.pidfd is not None:
            if _has_ended(self.pidfd):
                return lost_exit_code(self.pidfd, self.ospid, self.start) or 0
            if _command_line(self.ospid):
                return None  # it has its memory, which an exit gives back first
        found = read_stat(self.ospid)
        if found is not None and found.began(self.start) and not found.ended:
            if not found.exiting:
                return None
            return exit_code(found.status)
        code = None
        if self.pidfd is not None:
            code = lost_exit_code(self.pidfd, self.ospid, self.start)
        elif found is not None and found.start == self.start:
            code = exit_code(found.status)
        return code or 0


class Lineage:
    """The program that a thread belongs to and those it descends from, nearest first, up to and
    with the one that `is_root` (its pid is asked for), or some generations. `file` is the name of
    what was opened."""

    def __init__(self, tid: int, is_root: Callable[[int], bool], file: str = "") -> None:
        self._programs: list[Generation] = []
        self._line = b""
        ospid = thread_group(tid)
        while ospid > 1 and len(self._programs) < MAX_GENERATIONS:
            line = _command_line(ospid)
            found = read_stat(ospid, EXECVE_SECONDS, settled=bool(line))
            if found is None:
                break
            root = is_root(ospid)
            self._line = self._line if self._programs else line
            named = not root and bool(file) and os.fsencode(file) in line
            self._programs.append(Generation(ospid, found.start, found.name, named))
            if root:
                break
            ospid = found.ppid

    def watch(self) -> None:
        """Keep hold of how they end. The last is left out: with it everything ends."""
        for program in self._programs[:-1]:
            program.watch()

    def goes_on(self) -> bool:
        """Whether it is still what another look would find: it was watched, all that are watched
        run, so none has another parent, and the nearest has executed nothing since. The others
        may have: that tells nothing of why it reads."""
        watched = self._programs[:-1]
        return (
            bool(watched)
            and all(each.pidfd is not None and not _has_ended(each.pidfd) for each in watched)
            and bool(self._line)
            and _command_line(watched[0].ospid) == self._line
        )

    def failure(self) -> int:
        """The exit code of the first that failed before one that lives; 0 if none did."""
        for program in self._programs:
            code = program.fate()
            if code is None:
                return 0
            if code:
                return code
        return 0

    def continues(self, before: Lineage) -> bool:
        """Whether what this line reads comes after what `before` read: the first of `before` that
        still lives, the loop, is among us, and both reads were asked for, or made in one way."""
        loop = before._loop()
        if loop is None or loop not in self._programs:
            return False
        mine, theirs = self._below(loop), before._below(loop)
        if _was_asked(mine) and _was_asked(theirs):
            return True
        names = [program.name for program in mine]
        return names == [program.name for program in theirs] and WALKERS.isdisjoint(names)

    def follows(self, before: Lineage) -> bool:
        """Whether this line may say what became of what `before` read."""
        loop = before._loop()
        return loop is not None and loop in self._programs and not before.is_over()

    def is_over(self) -> bool:
        """Whether a walker read it that has ended: nobody asks for more, or ever did."""
        loop = self._loop()
        ended = self._programs if loop is None else self._below(loop)
        return any(program.name in WALKERS for program in ended)

    @property
    def was_asked(self) -> bool:
        """Whether any of them has the file on its command line."""
        return any(program.named for program in self._programs)

    def has_left(self) -> bool:
        """Whether what read it and the program that started that have ended."""
        if not self._programs:
            return True
        reader = self._programs[0]
        above = (program for program in self._programs if program.name != reader.name)
        parent = next(above, reader)
        return reader.fate() is not None and parent.fate() is not None

    def _loop(self) -> Generation | None:
        """The first that still lives."""
        return next((each for each in self._programs if each.fate() is None), None)

    def _below(self, loop: Generation) -> list[Generation]:
        """Those that the loop started to read for it. A program that only forked, as a shell does
        for `$( )`, is one with its parent."""
        line = self._programs[: self._programs.index(loop) + 1]
        return [each for each, above in itertools.pairwise(line) if each.name != above.name]


def _was_asked(programs: list[Generation]) -> bool:
    """Whether the loop read itself, or told what it started which file to read."""
    return not programs or programs[-1].named


def _has_ended(pidfd: int) -> bool:
    """Whether all threads of a process have: its number may be another's soon. 1 µs."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _command_line(ospid: int) -> bytes:
    with suppress(OSError):
        return read_file(f"/proc/{ospid}/cmdline")
    return b""


class Lineages:
    """The programs behind each thread that opened a file, up to the one that an agent's process
    runs (`is_agents`, by pid). They are looked up once for a program that reads on and on, and
    kept as long as something is held that was read for them.
    """

    def __init__(self, is_agents: Callable[[int], bool]) -> None:
        self._is_agents = is_agents
        self._known: WeakValueDictionary[tuple[int, str], Lineage] = WeakValueDictionary()

    def of(self, tid: int, file: str) -> Lineage:
        """Those behind thread `tid`, which opened `file`."""
        ospid = thread_group(tid)
        known = self._known.get((ospid, file))
        if known is None or not known.goes_on():
            known = self._known[ospid, file] = Lineage(ospid, self._is_agents, file)
        return known
