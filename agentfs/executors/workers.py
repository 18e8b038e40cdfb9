"""Workers that the kernel starts by itself for the functions of a pipeline with `code`.

They are programs of a light process: a child of whoever started the run, with what the run may and
its limits. So a worker serves runs of one plan, of one starter, and with the same capabilities, and
no others. The first step starts one; more are started while steps wait and all are busy; those that
have had nothing to do for a while end.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

import agentfs
from agentfs.base.alarm import Alarm
from agentfs.base.errors import KernelError
from agentfs.executors.desk import StepDesk
from agentfs.executors.events import PoolCreated, PoolRemoved
from agentfs.executors.line import PoolLine
from agentfs.executors.pools import Pool, Pools
from agentfs.executors.settings import PoolSettings
from agentfs.machine.step_program import StepProgram
from agentfs.manifests.plan import Plan
from agentfs.model.process import Process, ProcessKind
from agentfs.process.capabilities import ceiling_below
from agentfs.process.light import Light
from agentfs.process.step_files import NODE, run_folder, step_files
from agentfs.process.table import ProcessTable
from agentfs.rights.ownership import Ownership
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import keep_item
from agentfs.workflow.model import Step

__all__ = ["CodeWorkers"]

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-I", "-m", "agentfs.steps")
"""`-I`: neither the folder it starts in nor its environment says where modules are."""

READS = (sys.prefix, sys.base_prefix, str(Path(agentfs.__path__[0]).parent))
"""What Python and this package are in."""

CODE, PLAN = "code", "plan"
"""What the `metadata` of their process says: the folder, and the digest of the plan."""

KEPT = 64
"""Digests of plans that are kept."""

LOOK = 0.2
"""Seconds between two looks at a group that has something to do."""

LONG = 0.2
"""Seconds that a worker has a step before another worker is of use."""

LAST_GRACE = 5.0
"""Seconds that a worker has to see that there is nothing to do any more, or that a step is over."""

MOST_FAILURES = 3
"""Workers in a row that end without having taken a step; then the steps that wait fail."""

FIRST_PAUSE = 0.2
"""Seconds before the next is started after one that failed; twice that after each further one."""

LAST_WORDS = 500
"""Characters of a failed worker's log that the steps say."""


@dataclass(slots=True, eq=False)
class CodeGroup:
    """The workers of one plan, starter and set of capabilities, and the pool that they work at.
    `working` has the pids of their processes, `taken` how many steps had been taken when each
    started; `used` is when there was something to do last (seconds, monotonic)."""

    process: Process
    pool: Pool
    key: Hashable
    alarm: Alarm
    used: float
    working: dict[int, int] = field(default_factory=dict)
    starting: bool = False
    started: int = 0
    failures: int = 0
    closed: bool = False

    @property
    def line(self) -> PoolLine:
        """The line of its pool."""
        return self.pool.line


class CodeWorkers(Part):
    """All groups."""

    def __init__(self, ground: Ground, table: ProcessTable, light: Light, pools: Pools) -> None:
        self._state_dir = ground.state_dir
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._timers = ground.timers
        self._settings = ground.settings
        self._table = table
        self._light = light
        self._pools = pools
        self._desk: StepDesk = pools.desk
        self._groups: dict[Hashable, CodeGroup] = {}
        self._all: dict[int, CodeGroup] = {}  # the closed ones, too, by the pid of their process
        self._digests: dict[int, tuple[Plan, str]] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for group in self._all.values():
                    group.alarm.set(self._clock.monotonic())
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def load(self) -> None:
        """The groups of an earlier daemon, whose workers may go on."""
        for process in tuple(self._table):
            if process.kind is ProcessKind.RUN and CODE in process.metadata:
                group = self._enter(process, self._key(process.metadata[PLAN], process))
                for child in self._table.live_children(process.pid):
                    number = child.metadata[NODE].rpartition("-")[2]
                    group.started = max(group.started, int(number))
                    group.working[child.pid] = 0

    # -- the line of a step ------------------------------------------------------------------------

    def line(self, step: Step) -> PoolLine:
        """The line for the functions of its pipeline, in the transaction in which it begins. Raises
        EINVAL for a folder that cannot be, and what `Light.begin_run` raises."""
        run = step.process
        digest = self._digest(step.plan)
        key = self._key(digest, run)
        group = self._groups.get(key)
        if group is None:
            group = self._make(step.plan, digest, key, run)
        return group.line

    def _digest(self, plan: Plan) -> str:
        """What tells plans apart; that of a large one takes a millisecond."""
        found = self._digests.get(id(plan))
        if found is None:
            if len(self._digests) >= KEPT:
                del self._digests[next(iter(self._digests))]
            found = self._digests[id(plan)] = plan, plan.digest()
        return found[1]

    def _key(self, digest: str, run: Process) -> Hashable:
        """What a group is for: the same code, for the same agent, with the same rights."""
        grant = ceiling_below(run)
        return digest, run.agent, run.uid, run.gid, run.group, grant, run.limits, run.on_limit

    def _make(self, plan: Plan, digest: str, key: Hashable, run: Process) -> CodeGroup:
        if not os.path.isabs(plan.code):
            raise KernelError(
                errno.EINVAL, f"`code` is the path of a folder from the root, not {plan.code!r}"
            )
        self._light.check_program(run, COMMAND)
        process = self._light.begin_run(
            run, f"{plan.name}.code", limits=run.limits, on_limit=run.on_limit
        )
        self._table.update(process, metadata={CODE: plan.code, PLAN: digest})
        keep_item(self._store, self._groups, key)
        keep_item(self._store, self._all, process.pid)
        group = self._enter(process, key)
        self._events.emit(PoolCreated(group.pool.name, process.agent))
        return group

    def _enter(self, process: Process, key: Hashable) -> CodeGroup:
        now = self._clock.now()
        ownership = Ownership(process.agent, process.uid, process.gid, 0o700)
        caps = self._pools.caps_of(process)
        pool = Pool(process.name, ownership, int(now * 1e9), caps, workers=process.pid)
        alarm = Alarm(self._clock, self._timers, lambda: self._look(group), self._clock.monotonic)
        group = CodeGroup(process, pool, key, alarm, self._clock.monotonic())
        self._groups[key] = self._all[process.pid] = group
        self._pools.lend(pool)
        return group

    def _leave(self, group: CodeGroup) -> None:
        if self._groups.get(group.key) is group:
            del self._groups[group.key]
        self._all.pop(group.process.pid, None)
        self._pools.take_back(group.pool)

    # -- starting workers --------------------------------------------------------------------------

    def called(self, line: PoolLine) -> None:
        """A step has come into this line."""
        group = self._all.get(line.owner)
        if group is not None:
            group.used = self._clock.monotonic()
            group.alarm.set(group.used + LOOK if group.working else group.used)

    def _look(self, group: CodeGroup) -> float | None:
        """Start another worker if that is of use; when to look again (monotonic)."""
        if self._nursery is None or group.process.pid not in self._all:
            return None
        line, now = group.line, self._clock.monotonic()
        hanging = self._end_hanging(group, now)
        if len(line) or line.claims or hanging:
            group.used = now
            if self._is_short(group) and not group.starting:
                group.starting = True
                self._nursery.start_soon(self._start, group)
            return now + LOOK
        ends = group.used + self._settings.of(PoolSettings).idle
        return self._close(group, now) if group.closed or now >= ends else ends

    def _end_hanging(self, group: CodeGroup, now: float) -> bool:
        """End workers that are still at a step which is over: they get no more, and have until the
        ends of their other steps. Whether one has such a step."""
        found = False
        for program, worker in group.line.workers.items():
            found = found or bool(worker.overdue)
            if worker.hangs(now - LAST_GRACE):
                worker.take(0)
                process = self._table.find(program.pid)
                if process is not None and not worker.claims:
                    self._light.cancel_step(process)
        return found

    def _is_short(self, group: CodeGroup) -> bool:
        """Whether another worker is of use: there is none; or there are more steps than workers,
        and these are long, or have enough."""
        line, count = group.line, len(group.working)
        if not count:
            return bool(len(line)) or any(not claim.told for claim in line.claims.values())
        if count >= self._settings.of(PoolSettings).workers:
            return False
        if len(line) + len(line.claims) <= count or len(line.workers) < count:
            return False
        long = self._clock.monotonic() - LONG
        return any(claim.told and claim.since < long for claim in line.claims.values())

    async def _start(self, group: CodeGroup) -> None:
        try:
            pause = FIRST_PAUSE * 2 ** (group.failures - 1) if group.failures else 0.0
            await trio.sleep(pause)
            await self._launch(group)
        except KernelError as failure:
            log.warning("no worker for %s: %s", group.pool.name, failure)
            if failure.errno != errno.EAGAIN:  # which goes by: it is tried again
                self._failed(group, f"no worker could be started: {failure.reason}")
        except Exception:
            log.exception("a worker for %s", group.pool.name)
            self._failed(group, "no worker could be started")
        finally:
            group.starting = False

    async def _launch(self, group: CodeGroup) -> None:
        group.started += 1
        process, path = group.process, f"worker-{group.started}"
        folder = Path(process.metadata[CODE])
        files = step_files(self._state_dir, process.pid, path, 1)
        await trio.to_thread.run_sync(files.make, b"", process.uid, process.gid)
        steps = str(self._settings.of(PoolSettings).steps)
        program = StepProgram(
            exec=(*COMMAND, str(folder), "--pool", group.pool.name, "-n", steps),
            output=files.log,
            code=files.code,
            home=folder,
            in_tree=str(folder),
            reads=(*READS, str(folder)),
        )
        taken = group.line.taken
        worker = await self._light.start_step(process, path, 1, program)
        if worker.state.alive:
            group.working[worker.pid] = taken

    # -- ends --------------------------------------------------------------------------------------

    def step_ended(self, process: Process, code: int | None, *, lost: bool) -> None:
        group = self._all.get(process.ppid)
        if group is not None:
            taken = group.working.pop(process.pid, group.line.taken)
            self._store.on_commit(partial(self._ended, group, process, taken, code))

    def _ended(self, group: CodeGroup, process: Process, taken: int, code: int | None) -> None:
        """A worker has ended. Its claims are seen to by the desk."""
        if group.closed:
            if not group.working:
                self._light.end_run(group.process, 0)
            return
        if group.line.taken > taken:
            group.failures = 0
        elif code != 0:
            words = _last_words(self._light.files(process).log)
            self._failed(group, f"its worker ended with code {code}: {words}")
        group.alarm.set(self._clock.monotonic())

    def _failed(self, group: CodeGroup, words: str) -> None:
        """One worker more has ended, or could not be started, before it took a step."""
        group.failures += 1
        if group.failures >= MOST_FAILURES:
            group.failures = 0
            self._desk.fail_all(group.line, words)

    def _close(self, group: CodeGroup, now: float) -> float | None:
        """Its workers have nothing to do: each ends when it has read the end of the file. When to
        look again."""
        if not group.closed:
            group.closed, group.used = True, now
            if self._groups.get(group.key) is group:
                del self._groups[group.key]
            group.line.end()
        if not group.working:
            self._light.end_run(group.process, 0)
            return None
        if now >= group.used + LAST_GRACE:
            for worker in [*map(self._table.find, group.working)]:
                if worker is not None:
                    self._light.cancel_step(worker)
        return now + LAST_GRACE

    def process_ended(self, process: Process) -> None:
        """The process of a group is gone, by its end or because somebody has killed it."""
        group = self._all.get(process.pid)
        if group is not None:
            self._events.emit(PoolRemoved(group.pool.name))
            self._store.on_commit(partial(self._gone, group))

    def _gone(self, group: CodeGroup) -> None:
        self._leave(group)
        self._desk.close(group.line, "the workers were ended", again=True)
        if self._nursery is not None:
            self._nursery.start_soon(_remove, run_folder(self._state_dir, group.process.pid))


async def _remove(folder: Path) -> None:
    """What workers have left."""
    await trio.to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True))


def _last_words(log: Path) -> str:
    """The end of what a worker has said, on one line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LAST_WORDS))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return " ".join(text.split())
