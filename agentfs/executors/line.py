"""The line at one pool: steps that wait for a worker, the workers, and who has which step.

It is in memory only, and knows no store: the rows of the journal say which attempts have begun and
who holds them, and the line is made from them again when the daemon starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from agentfs.machine.proc import mark_of, thread_group
from agentfs.workflow.model import Step, StepRef

__all__ = ["PoolLine", "PoolWorker", "StepClaim", "WorkerProgram"]

Place = tuple[int, str]
"""A step, whatever its attempt: the run and the path of the node."""


class WorkerProgram(NamedTuple):
    """A program that works: the process that it acts for, its number on the machine, and what tells
    it from a later one of that number."""

    pid: int
    ospid: int
    mark: int

    def __str__(self) -> str:
        return f"{self.pid}:{self.ospid}:{self.mark}"

    @classmethod
    def read(cls, text: str) -> WorkerProgram | None:
        """That which gave this text; None for any other text."""
        parts = text.split(":")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            return None
        return cls(*map(int, parts))

    @classmethod
    def of(cls, pid: int, tid: int) -> WorkerProgram:
        """The program that thread `tid` belongs to, which acts for process `pid`."""
        ospid = thread_group(tid)
        return cls(pid, ospid, _mark(ospid))

    def watch(self) -> int | None:
        """A descriptor that can be read once it has ended; None if it has."""
        try:
            pidfd = os.pidfd_open(self.ospid)
        except OSError:
            return None
        if mark_of(pidfd) == self.mark:
            return pidfd
        os.close(pidfd)
        return None


def _mark(ospid: int) -> int:
    with suppress(OSError):
        pidfd = os.pidfd_open(ospid)
        try:
            return mark_of(pidfd)
        finally:
            os.close(pidfd)
    return 0


class StepClaim:
    """One attempt that somebody has, until `deadline`. `worker` is None while its program has
    nothing open; `told`: the program has read it, at `since` (seconds, monotonic), since it opened
    the line; `known`: it has, or may have, read it at all; `heard`: when it said last how far it
    is."""

    __slots__ = ("deadline", "heard", "known", "program", "since", "step", "told", "worker")

    def __init__(
        self,
        step: Step,
        program: WorkerProgram,
        worker: PoolWorker | None = None,
        deadline: float | None = None,
    ) -> None:
        self.step = step
        self.program = program
        self.worker = worker
        self.deadline = deadline
        self.told = False
        self.known = worker is None
        self.since = 0.0
        self.heard = float("-inf")

    def is_news(self, now: float, seconds: float) -> bool:
        """It says how far it is: whether the last time is so long ago that this is told."""
        if now < self.heard + seconds:
            return False
        self.heard = now
        return True


class PoolWorker:
    """One program at a line, through however many open files. `size` is the most steps that it has
    at a time; `batches`: it said how many, so it may have more than one. `overdue` are attempts
    that are over, since when (seconds, monotonic), and that it may still be at. `files` are open,
    and `parked` calls of them that wait."""

    __slots__ = (
        "batches",
        "claims",
        "files",
        "line",
        "overdue",
        "parked",
        "program",
        "size",
        "wakers",
    )

    def __init__(self, line: PoolLine, program: WorkerProgram) -> None:
        self.line = line
        self.program = program
        self.size = 1
        self.batches = False
        self.files = 0
        self.parked = 0
        self.claims: dict[StepRef, StepClaim] = {}
        self.overdue: dict[StepRef, float] = {}
        self.wakers: set[Callable[[], object]] = set()

    @property
    def room(self) -> int:
        """How many more steps it may have."""
        return self.size - len(self.claims) - len(self.overdue)

    def take(self, number: int) -> None:
        """From now on it has up to so many steps at a time."""
        self.size, self.batches = number, True

    def hangs(self, since: float) -> bool:
        """Whether an attempt of it was over before `since`, and it may still be at that."""
        return any(moment < since for moment in self.overdue.values())

    def wake(self) -> None:
        """There may be something for it."""
        for waker in tuple(self.wakers):
            waker()


class PoolLine:
    """One line. Steps wait by run, and the runs take turns. `owner`: only programs below this
    process work here, if it is not 0."""

    def __init__(self, name: str, owner: int = 0) -> None:
        self.name = name
        self.owner = owner
        self.workers: dict[WorkerProgram, PoolWorker] = {}
        self.claims: dict[Place, StepClaim] = {}
        self._waiting: dict[int, list[Step]] = {}
        self._idle: dict[PoolWorker, None] = {}  # those with a call that waits, the longest first
        self._polled: set[Callable[[], object]] = set()
        self._count = 0
        self.taken = 0  # steps, since it is there
        self.closed = False

    # -- steps that wait ---------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many steps wait."""
        return self._count

    def add(self, step: Step) -> None:
        """A step waits for a worker from now on."""
        self._waiting.setdefault(step.ref.run, []).append(step)
        self._count += 1

    def first(self, number: int) -> list[Step]:
        """The steps whose turn it is: those of the runs in turns, each run's in their order."""
        found: list[Step] = []
        queues = [iter(steps) for steps in self._waiting.values()]
        while queues and len(found) < number:
            heads = [(queue, next(queue, None)) for queue in queues]
            found += [step for _, step in heads if step is not None]
            queues = [queue for queue, step in heads if step is not None]
        return found[:number]

    def discard(self, ref: StepRef) -> None:
        """It does not wait any more."""
        steps = self._waiting.get(ref.run)
        found = steps and next((step for step in steps if step.ref == ref), None)
        if steps and found:
            steps.remove(found)
            self._count -= 1
            del self._waiting[ref.run]
            if steps:
                self._waiting[ref.run] = steps  # behind the others

    def clear(self) -> list[Step]:
        """Take everything that waits."""
        found = [step for steps in self._waiting.values() for step in steps]
        self._waiting.clear()
        self._count = 0
        return found

    # -- claims ------------------------------------------------------------------------------------

    def put(self, claim: StepClaim) -> None:
        """Somebody has a step from now on."""
        ref = claim.step.ref
        self.claims[ref.run, ref.path] = claim
        if claim.worker is not None:
            claim.worker.claims[ref] = claim

    def tell(self, claims: list[StepClaim], now: float) -> None:
        """The workers of these have read them."""
        self.taken += len(claims)
        for claim in claims:
            claim.told = claim.known = True
            claim.since = now

    def drop(self, claim: StepClaim) -> None:
        """Nobody has it any more."""
        ref = claim.step.ref
        if self.claims.get((ref.run, ref.path)) is claim:
            del self.claims[ref.run, ref.path]
        if claim.worker is not None:
            claim.worker.claims.pop(ref, None)

    # -- workers -----------------------------------------------------------------------------------

    def join(self, program: WorkerProgram) -> PoolWorker:
        """The program has opened the line once more; its claims are told to it again."""
        worker = self.workers.get(program)
        if worker is None:
            worker = self.workers[program] = PoolWorker(self, program)
            for claim in self.claims.values():
                if claim.program == program:
                    claim.worker, claim.told = worker, False
                    worker.claims[claim.step.ref] = claim
        worker.files += 1
        return worker

    def leave(self, worker: PoolWorker) -> list[StepClaim]:
        """One of its files is closed. Its claims, if that was the last."""
        worker.files -= 1
        if worker.files:
            return []
        del self.workers[worker.program]
        left = list(worker.claims.values())
        for claim in left:
            claim.worker = None
        return left

    def park(self, worker: PoolWorker) -> None:
        """A call of it waits."""
        worker.parked += 1
        self._idle.setdefault(worker)

    def unpark(self, worker: PoolWorker) -> None:
        """One waits no more."""
        worker.parked -= 1
        if not worker.parked:
            self._idle.pop(worker, None)

    def free(self) -> PoolWorker | None:
        """A worker that waits and may have one more step."""
        return next((worker for worker in self._idle if worker.room > 0), None)

    def poll(self, waker: Callable[[], object]) -> None:
        """Call `waker()` once when a step waits."""
        self._polled.add(waker)

    def unpoll(self, waker: Callable[[], object]) -> None:
        self._polled.discard(waker)

    def call(self) -> None:
        """Wake as many workers as there are steps for; those that poll, all of them."""
        if not self._count:
            return
        left = self._count
        for worker in [worker for worker in self._idle if worker.room > 0]:
            if left <= 0:
                break
            left -= worker.room
            worker.wake()
        polled, self._polled = self._polled, set()
        for waker in polled:
            waker()

    def end(self) -> None:
        """Nothing comes any more: everybody is to look."""
        self.closed = True
        for worker in tuple(self.workers.values()):
            worker.wake()
        polled, self._polled = self._polled, set()
        for waker in polled:
            waker()
