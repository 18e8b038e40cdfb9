"""Which task goes to which worker. A task waits here from the moment it may be done; whatever makes
room for one (a worker that comes, a task that ends, another configuration) has the first ones
assigned, in a transaction of its own, soon after that of the cause.

Tasks that require the same are one line, by priority and number. Workers are asked about lines, not
about tasks: so a thousand tasks that nobody is capable of cost as much as one.
"""

from __future__ import annotations

import errno
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from agentfs.base.clock import Timer
from agentfs.base.due_heap import DueHeap
from agentfs.base.errors import KernelError
from agentfs.model.names import INIT_NAME
from agentfs.store.events import ConfigChanged
from agentfs.store.ground import Ground
from agentfs.tasks.matching import fits, unmatched
from agentfs.tasks.model import Task, TaskState, TaskWorker, WorkerKind, WorkerState
from agentfs.tasks.policy import LEAST_LOADED, Candidate, Router
from agentfs.tasks.settings import TaskSettings
from agentfs.tasks.task_table import TaskTable
from agentfs.tasks.workers import Workers

__all__ = ["Dispatcher"]

log = logging.getLogger(__name__)

STEP = 0.004
"""Seconds of one batch of assignments: the last one may begin just before its end."""

PAUSE = 0.005
"""Seconds for everybody else between two of them."""

RETRY = 1.0
"""Seconds after which a task is tried again that could not be handed over."""

PATIENCE = 10.0
"""Seconds that the mind has to say who is to do a task."""


@dataclass(slots=True, eq=False)
class _Line:
    """Tasks that the same workers may do. `workers` are those that fit, active or not."""

    requirements: dict[str, object]
    uid: int
    operator: bool
    program: bool
    tasks: DueHeap[Task] = field(default_factory=DueHeap)
    workers: set[str] = field(default_factory=set)

    def takes(self, worker: TaskWorker) -> bool:
        """Whether a worker may do these: it is capable, and is the operator's, or works for the
        same user, or the task is the operator's."""
        if self.program:
            return False
        same = self.operator or worker.ownership.owner == INIT_NAME
        if not same and worker.ownership.uid != self.uid:
            return False
        return fits(self.requirements, capable(worker, self.requirements))


Hand = Callable[[Task, TaskWorker | None], object]
Refuse = Callable[[Task, KernelError], object]

PASSING = frozenset({errno.EAGAIN, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE})
"""Errors of handing a task over that may be over in a moment."""


class Dispatcher:
    """The lines. `hand(task, worker)` hands a task over, inside a transaction (None: the kernel
    itself does it), and may raise; `refuse(task, failure)` is told of what will not be over soon;
    `why_not(worker)` says in words why that would be in vain for now, "" if it would not."""

    def __init__(
        self,
        ground: Ground,
        table: TaskTable,
        workers: Workers,
        hand: Hand,
        refuse: Refuse,
        why_not: Callable[[TaskWorker], str],
    ) -> None:
        self._store = ground.store
        self._settings = ground.settings
        self._timers = ground.timers
        self._table = table
        self._workers = workers
        self._hand = hand
        self._refuse = refuse
        self._why_not = why_not
        self._router: Router = LEAST_LOADED
        self._lines: dict[tuple[str, int, bool, bool], _Line] = {}
        self._asked: dict[int, tuple[Task, Timer]] = {}
        self._refused: set[int] = set()
        self._able: dict[str, dict[str, object]] = {}  # what each worker was capable of last
        self._begun = self._called = self._retries = False
        table.open.follow(self._entered, self._left, ("state", "priority", "judged"))
        ground.events.listen(lambda record: self.wake(), ConfigChanged)

    def route_by(self, router: Router) -> None:
        """Ask `router` from now on."""
        self._router = router

    # -- the lines ---------------------------------------------------------------------------------

    def _entered(self, number: int, task: Task) -> None:
        if task.state is TaskState.VALIDATED:
            key = _key(task)
            line = self._lines.get(key)
            if line is None:
                operator = task.submitter == INIT_NAME
                line = _Line(task.requirements, task.uid, operator, task.program is not None)
                line.workers = {w.name for w in self._workers.every() if line.takes(w)}
                self._lines[key] = line
            line.tasks.add(-task.priority, number, task)
            self.wake()

    def _left(self, number: int, task: Task) -> None:
        if task.state is TaskState.VALIDATED:
            key = _key(task)
            line = self._lines[key]
            line.tasks.discard(number)
            if not line.tasks:
                del self._lines[key]
            self._ask_no_more(number)
        elif task.state in (TaskState.ASSIGNED, TaskState.RUNNING):
            self.wake()

    def worker_changed(self, worker: TaskWorker) -> None:
        """It came, is capable of something else, or went."""
        there = self._workers.find(worker.name) is worker
        before = self._able.pop(worker.name, None)
        if there:
            self._able[worker.name] = worker.capabilities
        if there and before is worker.capabilities:
            self.wake()  # it was lost, or comes back
            return
        for line in self._lines.values():
            line.workers.discard(worker.name)
            if there and line.takes(worker):
                line.workers.add(worker.name)
        self.wake()

    # -- why a task waits --------------------------------------------------------------------------

    def why(self, task: Task) -> str:
        """Why a task that waits for a worker has none yet, in words."""
        line = self._lines.get(_key(task))
        if line is None or task.id not in line.tasks.items:
            return ""
        most = self._settings.of(TaskSettings).max_concurrent
        if not line.program:
            able = [w for w in self._workers.every() if w.name in line.workers]
            active = [worker for worker in able if worker.state is WorkerState.ACTIVE]
            if not able:
                return self._unfit(line)
            if not active:
                return "; ".join(f"{worker} would fit, and is lost" for worker in able)
            if not any(self._is_free(worker) for worker in active):
                return f"no worker that fits is free: {', '.join(map(self._taken, active))}"
        if self._room() <= 0:
            return f"{most} tasks are under way, as many as there may be (tasks.max_concurrent)"
        return "the mind chooses a worker" if task.id in self._asked else "it is its turn soon"

    def _taken(self, worker: TaskWorker) -> str:
        full = f"{worker.name} has {self._load(worker)} of {worker.capacity}"
        return self._why_not(worker) or full

    def _unfit(self, line: _Line) -> str:
        every = [capable(worker, line.requirements) for worker in self._workers.every()]
        return unmatched(line.requirements, every) or "all workers that fit are another user's"

    # -- assigning ---------------------------------------------------------------------------------

    def wake(self) -> None:
        """There may be room for a task."""
        if self._called or not self._begun or not self._lines:
            return
        if self._store.in_transaction:
            self._called = True
            self._store.on_end(self._go)
        else:
            self._go()

    def begin(self) -> None:
        """Everything is read: assign what can be, from now on."""
        self._begun = True
        self._able = {worker.name: worker.capabilities for worker in self._workers.every()}
        self._go()

    def _go(self) -> None:
        """Assign a batch; if that was not all, the next one follows soon."""
        self._called = True  # what this changes is looked at here
        ends, more = time.monotonic() + STEP, True
        try:
            while more and time.monotonic() < ends:
                more = self._assign_next()
        except KernelError as failure:
            log.warning("tasks wait, although there may be room: %s", failure)
            self._retry()
            more = False
        finally:
            self._called = False
        if more:
            self._timers.call_later(PAUSE, self._go)

    def _retry(self) -> None:
        """Something was in the way that nobody tells of when it is over."""
        if not self._retries:
            self._retries = True
            self._timers.call_later(RETRY, self._again)

    def _again(self) -> None:
        self._retries = False
        self._refused.clear()
        self._go()

    def _assign_next(self) -> bool:
        """Assign the first task that can be; whether there was one."""
        found = self._next() if self._lines and self._room() > 0 else None
        if found is None:
            return False
        task, candidates = found
        if not candidates:
            self._try(task, None)
            return True
        order = self._router.order(task, candidates)
        if order is None:
            timer = self._timers.call_later(PATIENCE, partial(self.proposed, task.id, ()))
            self._asked[task.id] = task, timer
        else:
            self._choose(task, order, [worker for worker, _ in candidates])
        return True

    def _room(self) -> int:
        """How many more tasks may be under way."""
        most = self._settings.of(TaskSettings).max_concurrent
        return most - self._table.count_under_way() - len(self._asked)

    def _next(self) -> tuple[Task, list[Candidate]] | None:
        """The first task that can be assigned, and the workers that are free for it; none if the
        kernel does it itself."""
        free = {worker.name for worker in self._workers.every() if self._is_free(worker)}
        best: tuple[Task, _Line] | None = None
        for line in self._lines.values():
            if not line.program and line.workers.isdisjoint(free):
                continue
            task = self._first(line)
            if task is not None and (best is None or _place(task) < _place(best[0])):
                best = task, line
        return None if best is None else (best[0], self._free(best[1], best[0]))

    def _first(self, line: _Line) -> Task | None:
        first = line.tasks.first()
        if first is None or not (self._asked or self._refused):
            return first
        if first.id not in self._asked and first.id not in self._refused:
            return first
        waiting = (t for t in line.tasks if t.id not in self._asked and t.id not in self._refused)
        return min(waiting, key=_place, default=None)

    def _free(self, line: _Line, task: Task) -> list[Candidate]:
        """The workers that could have it now, with what they have; the one that had it last only if
        there is no other."""
        free = [
            (worker, self._load(worker))
            for name in sorted(line.workers)
            if (worker := self._workers.find(name)) and self._is_free(worker)
        ]
        others = [each for each in free if each[0].name != task.worker]
        return others or free

    def _is_free(self, worker: TaskWorker) -> bool:
        if worker.state is not WorkerState.ACTIVE or self._load(worker) >= worker.capacity:
            return False
        if self._why_not(worker):
            self._retry()
            return False
        return True

    def _load(self, worker: TaskWorker) -> int:
        return len(self._table.by_worker.of(worker.name))

    def proposed(self, number: int, names: Sequence[str]) -> bool:
        """The mind has answered, or will not; whether anybody still waited for that."""
        task = self._ask_no_more(number)
        line = None if task is None else self._lines.get(_key(task))
        if task is None or line is None or number not in line.tasks.items:
            return False
        free = self._free(line, task) if self._room() > 0 else []
        if free:
            self._choose(task, names, [worker for worker, _ in free])
        self._go()
        return True

    def _ask_no_more(self, number: int) -> Task | None:
        """The task of a question to the mind that was open."""
        task, timer = self._asked.pop(number, (None, None))
        if timer is not None:
            timer.cancel()
        return task

    def _choose(self, task: Task, order: Sequence[str], candidates: list[TaskWorker]) -> None:
        """The first of the order that is a candidate; of no order the one with the least to do."""
        by_name = {worker.name: worker for worker in candidates}
        names = [name for name in order if name in by_name]
        if not names:
            loads = [(worker, self._load(worker)) for worker in candidates]
            names = list(LEAST_LOADED.order(task, loads) or ())
        self._try(task, by_name[names[0]])

    def _try(self, task: Task, worker: TaskWorker | None) -> None:
        try:
            with self._store.transaction():
                self._hand(task, worker)
        except KernelError as failure:
            if failure.errno not in PASSING:
                self._refuse(task, failure)
                return
            log.warning("task %d is not handed over for now: %s", task.id, failure)
            self._refused.add(task.id)
            self._retry()


def capable(worker: TaskWorker, required: dict[str, object]) -> dict[str, object]:
    """What a worker is capable of. Everyone has its name, and nobody another's. The functions of a
    pool are not known here, unless its worker names one."""
    has: dict[str, object] = {**worker.capabilities, "worker": worker.name}
    if worker.kind is WorkerKind.POOL and "fn" in required:
        has.setdefault("fn", required["fn"])
    return has


def _key(task: Task) -> tuple[str, int, bool, bool]:
    requirements = json.dumps(task.requirements, sort_keys=True)
    return requirements, task.uid, task.submitter == INIT_NAME, task.program is not None


def _place(task: Task) -> tuple[int, int]:
    return -task.priority, task.id
