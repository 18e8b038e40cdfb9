"""The desk: steps are given to workers here, and their answers taken.

A step waits in a line until a worker takes it. From then on the worker has it: the journal says who
holds the attempt, so that a worker which lost the daemon comes back to its claims. A worker that
writes an answer is about to ask for more: the next step of the line is claimed for it in the same
commit, and its next read finds it.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterable

import trio
from pydantic_core import to_json

from agentfs.base.errors import KernelError
from agentfs.executors.answers import StepAnswer, answer_of
from agentfs.executors.line import PoolLine, PoolWorker, StepClaim, WorkerProgram
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import keep_item
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step, StepRef

__all__ = ["StepDesk"]

log = logging.getLogger(__name__)

ANSWER_SECONDS = 0.004
"""How long the answers of one write are worked off; then the write was a short one, and others
have their turn."""

SLOW_SECONDS = 0.01
"""A worker that has answered has so long to ask for the step that was claimed for it, if another
one waits."""


PROGRESS_SECONDS = 1.0
"""So often at most a step says how far it is, because each time is an event; the rest is lost."""

SAID = ("fn", "service", "method")
"""What a worker is told of a node's spec."""


class StepDesk(Part):
    """All lines together."""

    def __init__(self, ground: Ground, engine: Engine) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._timers = ground.timers
        self._engine = engine
        self._where: dict[StepRef, PoolLine] = {}
        self._writing: PoolWorker | None = None  # its answer is in the transaction under way
        self._nursery: trio.Nursery | None = None
        self._watched: set[WorkerProgram] = set()
        self._unwatched: list[StepClaim] = []  # from before a task could be begun

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                unwatched, self._unwatched = self._unwatched, []
                self._watch_all(unwatched)
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # -- for the executor --------------------------------------------------------------------------

    def begin(self, step: Step, line: PoolLine) -> None:
        """In the transaction in which the attempt begins: it waits in `line`, or a worker has it
        already."""
        keep_item(self._store, self._where, step.ref)
        self._where[step.ref] = line
        worker = self._free(line)
        if worker is None or self._claim(line, step, worker) is None:
            self._engine.hold(step.ref, "")

    def start(self, step: Step, line: PoolLine, again: bool) -> None:
        """After that. `again`: an earlier daemon had begun it."""
        self._where[step.ref] = line
        claim = line.claims.get((step.ref.run, step.ref.path))
        if claim is not None and claim.step.ref == step.ref:
            if claim.worker is not None:
                claim.worker.wake()
            return
        program = WorkerProgram.read(self._engine.holder(step.ref)) if again else None
        if program is None:
            line.add(step)
            line.call()
        else:
            claim = StepClaim(step, program)
            line.put(claim)
            self._watch_all([claim])

    def cancel(self, step: Step) -> None:
        """In the transaction in which the attempt is over. The next one may begin in it, too."""
        ref = step.ref
        claim = self._drop(ref)
        if claim is not None and claim.known and claim.worker is not None:
            keep_item(self._store, claim.worker.overdue, ref)
            claim.worker.overdue[ref] = self._clock.monotonic()
        self._store.on_commit(lambda: self._forget(ref))

    def _drop(self, ref: StepRef) -> StepClaim | None:
        """Nobody has this attempt any more; who had it."""
        line = self._where.get(ref)
        claim = None if line is None else line.claims.get((ref.run, ref.path))
        if line is None or claim is None or claim.step.ref != ref:
            return None
        self._keep(line, claim)
        line.drop(claim)
        return claim

    def _forget(self, ref: StepRef) -> None:
        line = self._where.pop(ref, None)
        if line is not None:
            line.discard(ref)
            line.call()

    def line_of(self, ref: StepRef) -> PoolLine | None:
        """The line of an attempt that is under way."""
        return self._where.get(ref)

    def works_for(self, pid: int, run: int) -> bool:
        """Whether a program of process `pid` has a step of this run."""
        lines = {line for ref, line in self._where.items() if ref.run == run}
        return any(
            claim.program.pid == pid
            for line in lines
            for (number, _), claim in line.claims.items()
            if number == run
        )

    def close(self, line: PoolLine, why: str, *, again: bool = False) -> None:
        """No worker of this line will be there any more: its steps fail. `again`: another attempt
        may find another line."""
        steps = line.clear() + [claim.step for claim in line.claims.values()]
        for step in steps:
            self._fail(step.ref, why, again=again, kind="lost" if again else "error")
        line.end()

    def fail_all(self, line: PoolLine, why: str) -> None:
        """What waits in this line fails."""
        for step in line.clear():
            self._fail(step.ref, why)

    def refuse(self, ref: StepRef, refusal: KernelError) -> None:
        """An attempt that was begun has no line any more."""
        self._fail(ref, str(refusal), again=False)

    # -- for workers -------------------------------------------------------------------------------

    def join(self, line: PoolLine, program: WorkerProgram) -> PoolWorker:
        """A program has opened the line."""
        return line.join(program)

    def leave(self, worker: PoolWorker) -> None:
        """It has closed one of its files. Steps that it has not read go back into the line."""
        left = worker.line.leave(worker)
        if left:
            self._give_back(claim for claim in left if not claim.known)
            self._watch_all(claim for claim in left if claim.known)

    def take(self, worker: PoolWorker) -> list[bytes]:
        """The steps that a read of the worker gives, each as a line; none: it has to wait."""
        line = worker.line
        untold = [claim for claim in worker.claims.values() if not claim.told]
        if not untold and not worker.batches:
            self._let_go(worker)
        if worker.room > 0 and len(line):
            steps = line.first(worker.room)
            with self._store.transaction():
                claims = [self._claim(line, step, worker) for step in steps]
            for step in steps:
                line.discard(step.ref)
            untold += [claim for claim in claims if claim is not None]
        line.tell(untold, self._clock.monotonic())
        return [self._told(claim) for claim in untold]

    def _let_go(self, worker: PoolWorker) -> None:
        """It asks for the next step, and has one at a time: it has no answer to the last one."""
        for claim in tuple(worker.claims.values()):
            self._fail(claim.step.ref, "the worker asked for the next step without an answer")
        worker.overdue.clear()

    def has(self, worker: PoolWorker) -> bool:
        """Whether a read of the worker would give a step now."""
        if any(not claim.told for claim in worker.claims.values()):
            return True
        return bool(len(worker.line)) and (worker.room > 0 or not worker.batches)

    def answer(self, worker: PoolWorker, lines: list[bytes]) -> tuple[int, KernelError | None]:
        """Take answers, in one commit: how many there was time for, at least one, and the first
        refusal: EINVAL, EACCES (another's step), ESTALE (the attempt is over). The others are taken
        all the same."""
        try:
            return self._take_answers(worker, lines)
        except KernelError as failure:
            if len(lines) == 1:
                return 1, failure
            return self._take_answers(worker, lines[:1])  # one spoils all of a commit

    def _take_answers(
        self, worker: PoolWorker, lines: list[bytes]
    ) -> tuple[int, KernelError | None]:
        done, first = 0, None
        ends = time.monotonic() + ANSWER_SECONDS
        self._writing = worker
        try:
            with self._store.transaction():
                for line in lines:
                    if done and time.monotonic() > ends:
                        break
                    done += 1
                    try:
                        self._take_answer(worker, answer_of(line))
                    except KernelError as refusal:
                        first = first or refusal
        finally:
            self._writing = None
        worker.line.call()
        self._look_after(worker)
        return done, first

    def _take_answer(self, worker: PoolWorker, answer: StepAnswer) -> None:
        claim = self._claim_of(worker, answer.ref)
        if answer.outcome == "progress":
            if claim.is_news(self._clock.monotonic(), PROGRESS_SECONDS):
                self._engine.tell_progress(answer.ref, str(answer.value)[:200])
            return
        line = worker.line
        self._keep(line, claim)
        line.drop(claim)
        if answer.outcome == "back":
            self._engine.hold(answer.ref, "")
            self._store.on_commit(lambda: line.add(claim.step))
            return
        try:
            if answer.outcome == "ok":
                self._engine.succeed(answer.ref, answer.value)
            else:
                self._engine.fail(answer.ref, answer.value, again=answer.again, kind=answer.kind)
        except KernelError as refusal:
            if refusal.errno != errno.ESTALE:
                line.put(claim)
            raise
        self._store.on_commit(lambda: self._where.pop(answer.ref, None))

    def _claim_of(self, worker: PoolWorker, ref: StepRef) -> StepClaim:
        """The claim that an answer is about."""
        claim = worker.line.claims.get((ref.run, ref.path))
        if claim is None or claim.step.ref.attempt != ref.attempt:
            worker.overdue.pop(ref, None)
            number = "" if claim is None else f"; attempt {claim.step.ref.attempt} is under way"
            raise KernelError(
                errno.ESTALE, f"attempt {ref.attempt} of step {ref.run}/{ref.path} is over{number}"
            )
        if claim.program.pid != worker.program.pid or not claim.known:
            raise KernelError(
                errno.EACCES, f"step {ref.run}/{ref.path} is another worker's", rule="claim"
            )
        return claim

    # -- claims ------------------------------------------------------------------------------------

    def _free(self, line: PoolLine) -> PoolWorker | None:
        """Who gets a step at once: the worker whose answer is being taken, or one that waits."""
        writing = self._writing
        if writing is not None and writing.line is line and writing.room > 0:
            return writing
        return line.free()

    def _claim(self, line: PoolLine, step: Step, worker: PoolWorker) -> StepClaim | None:
        """Let the worker have the step, in the transaction under way; None if that is over."""
        timeout = step.node.timeout
        deadline = None if timeout is None else self._clock.now() + timeout
        if not self._hold(step.ref, str(worker.program), deadline):
            return None
        claim = StepClaim(step, worker.program, worker, deadline)
        self._keep(line, claim)
        line.put(claim)
        return claim

    def _hold(self, ref: StepRef, holder: str, deadline: float | None = None) -> bool:
        """Have the journal say who has the attempt; False if that is over."""
        try:
            self._engine.hold(ref, holder, deadline)
        except KernelError as over:
            if over.errno != errno.ESTALE:
                raise
            return False
        return True

    def _keep(self, line: PoolLine, claim: StepClaim) -> None:
        """Claims of this step are about to change, in the transaction under way."""
        ref = claim.step.ref
        keep_item(self._store, line.claims, (ref.run, ref.path))
        if claim.worker is not None:
            keep_item(self._store, claim.worker.claims, ref)

    def _look_after(self, worker: PoolWorker) -> None:
        """It may be slow to ask for what was claimed for it, while others wait."""
        if any(not claim.known for claim in worker.claims.values()) and worker.line.free():
            self._timers.call_later(SLOW_SECONDS, lambda: self._hand_on(worker))

    def _hand_on(self, worker: PoolWorker) -> None:
        if worker.line.free() is not None:
            self._give_back([claim for claim in worker.claims.values() if not claim.known])

    def _give_back(self, claims: Iterable[StepClaim]) -> None:
        """These wait again, the same attempts: nobody has begun them."""
        lines = set()
        with self._store.transaction():
            for claim in claims:
                line = self._where.get(claim.step.ref)
                if line is None:
                    continue
                lines.add(line)
                line.drop(claim)
                if self._hold(claim.step.ref, ""):
                    line.add(claim.step)
        for line in lines:
            line.call()

    def _fail(self, ref: StepRef, error: str, *, again: bool = True, kind: str = "error") -> None:
        """The attempt fails, unless it is over already."""
        try:
            with self._store.transaction():
                self._drop(ref)  # before the next attempt begins
                self._engine.fail(ref, error, again=again, kind=kind)
                self._store.on_commit(lambda: self._forget(ref))
        except KernelError as over:
            if over.errno != errno.ESTALE:
                log.error("step %s: %s", ref, over)
            self._forget(ref)

    # -- workers that are gone ---------------------------------------------------------------------

    def _watch_all(self, claims: Iterable[StepClaim]) -> None:
        """Nobody has a file open for these: fail those whose program has ended, or will have."""
        for claim in claims:
            if self._nursery is None:
                self._unwatched.append(claim)
            elif claim.program not in self._watched:
                self._watched.add(claim.program)
                self._nursery.start_soon(self._watch, claim.program)

    async def _watch(self, program: WorkerProgram) -> None:
        pidfd = program.watch()
        try:
            if pidfd is not None:
                await trio.lowlevel.wait_readable(pidfd)
        finally:
            self._watched.discard(program)
            if pidfd is not None:
                os.close(pidfd)
        for ref, line in tuple(self._where.items()):
            claim = line.claims.get((ref.run, ref.path))
            if claim is not None and claim.program == program and claim.worker is None:
                self._fail(ref, "the worker ended before it had an answer", kind="lost")

    # -- the text of a step ------------------------------------------------------------------------

    def _told(self, claim: StepClaim) -> bytes:
        step, run = claim.step, self._engine.open.find(claim.step.ref.run)
        ends = [moment for moment in (claim.deadline, run and run.deadline) if moment]
        what = {key: step.spec[key] for key in SAID if key in step.spec}
        return (
            to_json(
                {
                    "step": f"{step.ref.run}/{step.ref.path}",
                    "attempt": step.ref.attempt,
                    "run": step.ref.run,
                    "node": step.ref.path,
                    "kind": step.node.kind,
                    **what,
                    "input": step.input,
                    "key": step.key,
                    "deadline": min(ends, default=None),
                }
            )
            + b"\n"
        )
