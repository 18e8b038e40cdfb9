"""The programs behind an open file: the one that opened it, its parent, and so on.

A shell that reads with `cat` is one reader although each `cat` is another program. So a reader is
told by the first of its line that still lives, and has failed if one below that failed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from agentfs.process.proc import exit_code, lost_exit_code, read_stat, thread_group

__all__ = ["Lineage"]

# Enough for every wrapper (timeout, a pipeline, a sub-shell) between a loop and what reads for it.
MAX_GENERATIONS = 8


class Program:
    """One program that the machine runs or ran, by pid and start time."""

    __slots__ = ("ospid", "pidfd", "start")

    def __init__(self, ospid: int, start: int) -> None:
        self.ospid = ospid
        self.start = start
        self.pidfd: int | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Program):
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
        found = read_stat(self.ospid)
        if found is not None and found.start == self.start and not found.ended:
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
    with the one that `is_root` (its pid is asked for), or some generations."""

    def __init__(self, tid: int, is_root: Callable[[int], bool]) -> None:
        self._programs: list[Program] = []
        ospid = thread_group(tid)
        while ospid > 1 and len(self._programs) < MAX_GENERATIONS:
            found = read_stat(ospid)
            if found is None:
                break
            self._programs.append(Program(ospid, found.start))
            if is_root(ospid):
                break
            ospid = found.ppid

    def watch(self) -> None:
        """Keep hold of how they end. The last is left out: with it everything ends."""
        for program in self._programs[:-1]:
            program.watch()

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
        still lives is among us. If none lives, nobody else can come after it."""
        for program in before._programs:
            if program.fate() is None:
                return program in self._programs
        return True
