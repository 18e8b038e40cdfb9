"""Programs: the processes of the operating system that do the work of ours.

Starts, signals, watches and reaps them. The supervisor decides what follows from an end.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import trio

from agentfs.base.errors import KernelError
from agentfs.machine import network, orphans
from agentfs.machine.census import Census
from agentfs.machine.cgroups import ControlGroups
from agentfs.machine.confine import Confinement, mechanisms
from agentfs.machine.fork_client import ForkServer
from agentfs.machine.grants import Grants
from agentfs.machine.kin import Kin
from agentfs.machine.launch import Launch, Terms, become_subreaper
from agentfs.machine.listeners import Listeners
from agentfs.machine.measures import Measures
from agentfs.machine.proc import (
    UNTOLD,
    code_of_zombie,
    exit_code,
    is_stopped,
    lost_exit_code,
    mark_of,
    read_stat,
    read_status,
)
from agentfs.machine.reapers import Reapers
from agentfs.machine.rlimits import below
from agentfs.machine.sidecar import Sidecar
from agentfs.machine.slots import Slots
from agentfs.machine.step_program import StepProgram
from agentfs.model.process import Process, ProcessKind, State

__all__ = ["Program", "Programs"]

log = logging.getLogger(__name__)

# A launch waits for a fork and an exec. More at once gain nothing, and one that hangs in a dead
# network file system must not use up the threads that others need.
LAUNCHES_AT_ONCE = 32

KILL_ROUNDS = 100
"""How often what was forked meanwhile is killed at once; mostly nothing was."""

LAUNCHES_OF_ONE = 8
"""Of these, at most so many are of children of one process: launches that hang keep its own later
ones waiting, and nobody else's."""

LAUNCH_SECONDS = 10.0
"""How long a launch may take, once it has a thread: its executable may be on a dead network file
system, or leased."""

# Descriptors that a launch has for a moment: log, folder, groups, order, report, what confines it.
OF_A_LAUNCH = 12

OWN = 1 / 8
"""The part of RLIMIT_NOFILE that programs leave, for what the operator does: each takes one of our
descriptors for good. Clients' open files leave a quarter (`agentfs.providers.descriptors`)."""

# A program that is looked at may be in execve: some µs, if it does not close a file of this tree
# there, and the machine is not busy.
EXECVE_SECONDS = 0.01


HOLD_ROUNDS = 3
"""How often we look for more of a program that is to stand still: it may fork meanwhile."""


@dataclass(slots=True, eq=False)
class Program:
    """A program at work for process `pid`. With `os_start`, `ospid` is unmistakable.

    `ours`: it is our child. `attached`: somebody else started it. `offset`: where in the log its
    output begins. `origin`: the control group that an attached one came from. `confined`: what it
    is really kept from. `held`: we have it stand still for a moment, which is no state of its
    process; `stilled`: what we stopped for that, where there is no control group. `beside`: it is a
    sidecar, and not the one that makes the process live.
    """

    pid: int
    ospid: int
    os_start: int
    pidfd: int
    ours: bool = True
    attached: bool = False
    offset: int = 0
    origin: str = ""
    confined: tuple[str, ...] = ()
    held: bool = False
    stilled: dict[int, None] = field(default_factory=dict)
    beside: bool = False


class Programs:
    """All programs that are watched, by OS pid.

    `launching` counts the starts under way; `launch_of` tells whose a child is that has not
    executed anything yet. `mechanisms` says what of a confinement this machine can see to,
    `measures` what programs use, `groups` and `kin` whose each is. `listeners` has the sockets of
    those whose network is their own. `reapers` are those of earlier daemons.
    """

    def __init__(
        self, mountpoint: str, instance_id: str, grants: Grants, reapers: Reapers | None = None
    ) -> None:
        self._mountpoint = str(mountpoint)
        self._grants = grants
        self.reapers = Reapers() if reapers is None else reapers
        self.mechanisms = mechanisms()
        self._in_tree = False
        self._watched: dict[int, Program] = {}
        self._launches: set[Launch] = set()
        self._early: dict[int, bool] = {}  # children, not watched yet, that stopped or went on
        self._adopted: list[tuple[Program, Process]] = []  # that may stand still
        self.generation = 0  # counts the programs that came or went
        self._launched = trio.Event()
        self._fork_server = ForkServer()
        self._limiter = trio.CapacityLimiter(LAUNCHES_AT_ONCE)
        self._slots = Slots(self._limiter, LAUNCHES_OF_ONE)
        self.groups = ControlGroups(instance_id)
        self.kin = Kin()
        self.listeners = Listeners()
        self._models_port = network.PORT
        self.measures = Measures(self.groups, self.kin, grants)
        become_subreaper()

    def enter_tree(self) -> None:
        """The tree is mounted: from now on a memory is entered by its path there."""
        self._in_tree = True

    def moved(self, mountpoint: str) -> None:
        """Programs that start from now on find the tree at another path."""
        self._mountpoint = mountpoint

    def set_models_port(self, port: int) -> None:
        """Programs that start from now on, and have the network, find the gateway of models at this
        port of the loopback."""
        self._models_port = port

    @property
    def mode(self) -> str:
        """How a program's process is told: "cgroup", or by "ancestry"."""
        return "cgroup" if self.groups.available else "ancestry"

    def __len__(self) -> int:
        return len(self._watched)

    def __iter__(self) -> Iterator[Program]:
        """Those that make their processes live."""
        return iter([program for program in self._watched.values() if not program.beside])

    def beside(self, pid: int) -> list[Program]:
        """The sidecars of process `pid`."""
        return [each for each in self._watched.values() if each.beside and each.pid == pid]

    # -- whose a program is ----------------------------------------------------------------------

    def is_that_of(self, process: Process, ospid: int, mark: int) -> bool:
        """Whether the OS process `ospid`, told by `mark` (see `parent_of`), is the program of
        `process`, and not one that came by its number later."""
        program = self._watched.get(ospid)
        if program is None or program.pidfd < 0:
            return False
        return mark == (mark_of(program.pidfd) or process.os_start)

    def served_by(self, ospid: int, mark: int) -> int | None:
        """The process that has the OS process `ospid`, told by `mark`, as a sidecar."""
        program = self._watched.get(ospid)
        if program is None or not program.beside:
            return None
        return program.pid if mark == (mark_of(program.pidfd) or program.os_start) else None

    def find(self, ospid: int | None) -> Program | None:
        """The watched program with this OS pid."""
        return None if ospid is None else self._watched.get(ospid)

    @property
    def launching(self) -> int:
        return len(self._launches)

    def launch_of(self, ospid: int) -> int | None:
        """The process that the child `ospid`, or our own thread of this id, is being started for:
        what is to be executed may lie in the tree."""
        for launch in self._launches:
            if ospid in (launch.ospid, launch.thread):
                return launch.pid
        return None

    async def wait_launched(self) -> None:
        """Wait until one of the launches under way is over."""
        if self._launches:
            await self._launched.wait()

    def pid_of_cgroup(self, text: str) -> int | None:
        """The process whose control group /proc/TID/cgroup names."""
        return self.groups.pid_of(text)

    def pid_of_thread(self, tid: int) -> int | None:
        """The process in whose control group a thread is; None if in none, or it is gone."""
        if not self.groups.available:
            return None
        try:
            with open(f"/proc/{tid}/cgroup") as file:
                return self.pid_of_cgroup(file.read())
        except OSError:
            return None

    def _require_descriptors(self, name: str) -> None:
        """Raise EMFILE if one more program would take those that we need: without any no caller can
        be told, and no program be ended."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            lowest = os.dup(0)  # that is free: all below are taken
        except OSError as failure:
            raise KernelError.from_os(failure, f"cannot watch {name}") from failure
        os.close(lowest)
        launches = min(len(self._launches) + 1, LAUNCHES_AT_ONCE)
        if lowest + OF_A_LAUNCH * launches > most * (1 - OWN):
            raise KernelError(
                errno.EMFILE,
                f"{name} cannot be watched: the daemon may have {most:,} files open",
                rule="open files",
            )

    # -- start and watch -------------------------------------------------------------------------

    async def start(self, process: Process, log_path: Path, home: Path) -> Program:
        """Start `process.exec` in its `cwd`, relative to its memory (`home` on the disk), or to `/`
        for one that may not use that. The caller has to `wait` for it.

        Raises KernelError with the errno of the fork, of the exec or of the folder; ETIMEDOUT after
        `LAUNCH_SECONDS`. Not cancelled once the thread has it.
        """
        terms = self._terms(process, home, self._grants.confinement(process))
        own = self._models(process, terms.held) | self._definition(process)
        return await self._start(process, log_path, replace(terms, env=own))

    async def start_step(self, process: Process, step: StepProgram, log_path: Path) -> Program:
        """Start the program of a step, with all that holds for `process`. A shell waits for it,
        unless it may execute nothing but itself. Else as `start`."""
        wanted = self._grants.confinement(process)
        held = self.mechanisms.holds(wanted)
        terms = self._terms_in(process, held, step.home, Path(self._mountpoint, step.in_tree))
        place = terms.home or step.home
        env = self._models(process, held) | dict(step.env) | {"STEP": os.fspath(place.parent)}
        with ExitStack() as opened:
            given = None if step.input is None else _open(opened, step.input, os.O_RDONLY)
            output = _open(opened, step.output, os.O_WRONLY | os.O_APPEND)
            third = _open(opened, step.code, os.O_WRONLY | os.O_APPEND) if wanted.execute else None
            terms = replace(terms, env=env, stdio=(given, output, None), third=third)
            seen = step.of(process, waited=wanted.execute)
            return await self._start(seen, log_path, terms)

    async def start_beside(
        self, process: Process, sidecar: Sidecar, log_path: Path, home: Path
    ) -> Program:
        """Start a program beside that of `process`, with all that holds for that. It ends with it.
        Else as `start`. It reaches no models where that has a network of its own for them."""
        wanted = replace(self._grants.confinement(process), models=False)
        terms = self._terms(process, home, wanted)
        terms = replace(terms, env=sidecar.env, stdio=sidecar.stdio)
        program = await self._start(sidecar.of(process), log_path, terms)
        program.beside = True
        return program

    def _terms(self, process: Process, home: Path, wanted: Confinement) -> Terms:
        """What holds for a program of `process`, whose memory is `home` on the disk: that of a run
        are its artifacts."""
        held = self.mechanisms.holds(wanted)
        if process.light:
            run = process.pid if process.kind is ProcessKind.RUN else process.ppid
            in_tree = Path(self._mountpoint, "proc/runs", str(run), "artifacts")
            return self._terms_in(process, held, home, in_tree)
        in_tree = Path(self._mountpoint, "agents", process.name, "memory")
        terms = self._terms_in(process, held, home, in_tree)
        return terms if self._grants.may_use_memory(process) else replace(terms, home=None)

    def _terms_in(self, process: Process, held: Confinement, disk: Path, in_tree: Path) -> Terms:
        """The same for one whose home is `disk`, and `in_tree` in the tree."""
        return Terms(
            home=in_tree if self._in_tree else disk,
            disk=disk,
            in_tree=in_tree,
            held=held,
            limits=tuple(self.measures.limits_at_start(process)),
            forks=self.measures.forks_at_start(process),
        )

    async def _start(self, process: Process, log_path: Path, terms: Terms) -> Program:
        self._require_descriptors(process.name)
        launch = Launch(process, self._mountpoint, log_path, terms, self._fork_server)
        group = (lambda: self.measures.open_group(process)) if self.groups.available else None
        self._launches.add(launch)
        self.generation += 1
        try:
            try:
                ospid, offset = await self._run(launch, group, process)
            except BaseException:
                self._launches.discard(launch)
                if group is not None:
                    self._leave_group(process.pid)
                raise
            if launch.listener is not None:
                self.listeners.began(process.pid, launch.listener)
            program = self._watch(process, ospid, launch.began, offset)
            program.confined = launch.held.kept_from
            return program
        finally:
            self._launches.discard(launch)
            self._launched.set()
            self._launched = trio.Event()
            self.reap_orphans()

    def _models(self, process: Process, held: Confinement) -> dict[str, str]:
        """The variables that say where the models are, if it may use them."""
        if not self._grants.may_use_models(process):
            return {}
        return network.variables(network.PORT if held.models else self._models_port)

    def _definition(self, process: Process) -> dict[str, str]:
        """The variables of its definition that its program is handed."""
        if self._grants.may_have_secrets(process):
            return process.env
        if process.env:
            names = ", ".join(sorted(process.env))
            text = "process %d, %s, is not handed %s: it has no capability `secret`"
            log.warning(text, process.pid, process.name, names)
        return {}

    async def _run(
        self, launch: Launch, group: Callable[[], list[int]] | None, process: Process
    ) -> tuple[int, int]:
        """`launch.run` in a thread, within its time. A launch that comes through later ends its
        program itself; as long as it hangs it counts as one of `LAUNCHES_AT_ONCE`."""
        loop = trio.lowlevel.current_trio_token()

        def begun() -> None:
            scope.shield = True
            scope.deadline = trio.current_time() + LAUNCH_SECONDS

        def run() -> tuple[int, int]:
            with suppress(trio.RunFinishedError):
                loop.run_sync_soon(begun)
            return launch.run(group)

        with trio.CancelScope() as scope:
            try:
                # A turn is used as a limiter is; trio says that such objects will do.
                turn = cast(trio.CapacityLimiter, self._slots.turn(process.ppid))
                return await trio.to_thread.run_sync(run, limiter=turn, abandon_on_cancel=True)
            except trio.Cancelled:
                launch.abandon()
                if scope.cancel_called and not launch.ospid:
                    self._fork_server.end()  # it stands still: the launches that wait for it too
                raise
        raise KernelError(
            errno.ETIMEDOUT,
            f"{process.name} cannot be started: exec did not start within {LAUNCH_SECONDS:g} s",
        )

    def _watch(self, process: Process, ospid: int, start: int, offset: int) -> Program:
        """Take up our new child. Raises EMFILE or ENOMEM, after ending it."""
        try:
            pidfd = os.pidfd_open(ospid)
        except OSError as failure:
            self.listeners.ended(process.pid)
            os.killpg(ospid, signal.SIGKILL)
            os.waitpid(ospid, 0)
            raise KernelError.from_os(failure, f"cannot watch {process.name}") from failure
        program = Program(process.pid, ospid, start, pidfd, offset=offset)
        if not self.groups.available:
            self.kin.begin(ospid)
        self._watched[ospid] = program
        self.generation += 1
        return program

    def adopt(self, process: Process) -> Program | None:
        """Watch the program of `process` that an earlier daemon started; None if it has ended: with
        which code says `code_of`."""
        if process.ospid is None:
            return None
        program = Program(process.pid, process.ospid, process.os_start, -1, ours=False)
        program.attached = process.attached
        try:
            program.pidfd = os.pidfd_open(program.ospid)
        except OSError:
            return None
        # After the pidfd: it cannot become another one now.
        stat = read_stat(program.ospid, EXECVE_SECONDS)
        ours = stat is not None and stat.ppid == os.getpid()
        if stat is None or not stat.began(process.os_start) or (stat.ended and not ours):
            os.close(program.pidfd)
            return None
        if self.groups.available:
            with suppress(OSError):
                self.groups.gather(program.pid, program.ospid)
        elif not program.attached:
            self.kin.begin(program.ospid)
        if not (ours or process.attached or self.reapers.has(stat.ppid)):
            text = "process %d, %s, has outlived its reaper: what its program leaves behind is told"
            log.warning(text + " by control groups alone", process.pid, process.name)
        program.ours = ours
        self._watched[program.ospid] = program
        if not process.attached:
            self._adopted.append((program, process))
            if "models" in process.confined:
                self.listeners.lost(process, program.pidfd)
        self.generation += 1
        return program

    def code_of(self, process: Process) -> int | None:
        """How the program of `process`, which an earlier daemon started, has ended; None if nobody
        knows. Its reaper says how before Linux forgets it."""
        if process.ospid is None:
            return None
        code = code_of_zombie(process.ospid, process.os_start)
        return self.reapers.code_of(process.ospid, process.os_start) if code is None else code

    def release_adopted(self) -> None:
        """Let those go on that an earlier daemon held, or that stood still while this one started:
        not before there is somebody to look after their logs."""
        adopted, self._adopted = self._adopted, []
        for program, process in adopted:
            if self._watched.get(program.ospid) is program:
                self._let_go_on(program, stay=process.state is State.SLEEPING)

    def attach(self, pid: int, ospid: int) -> Program:
        """Watch a program that was started elsewhere as that of process `pid`. Raises ESRCH, and
        EMFILE if too many are watched."""
        self._require_descriptors(f"program {ospid}")
        try:
            pidfd = os.pidfd_open(ospid)
        except OSError as failure:
            raise KernelError(errno.ESRCH, f"there is no program {ospid}") from failure
        stat = read_stat(ospid, EXECVE_SECONDS)
        if stat is None or stat.ended:
            os.close(pidfd)
            raise KernelError(errno.ESRCH, f"program {ospid} has ended")
        if stat.start == UNTOLD:
            os.close(pidfd)
            raise KernelError(errno.EAGAIN, f"program {ospid} is just executing something")
        ours = stat.ppid == os.getpid()
        program = Program(pid, ospid, stat.start, pidfd, ours=ours, attached=True)
        if self.groups.available:
            with suppress(OSError):  # one that may not be moved is told by its ancestry
                program.origin = self.groups.take(pid, ospid)
        self._watched[ospid] = program
        self.generation += 1
        return program

    def detach(self, program: Program) -> None:
        """Let an attached program go its own way."""
        if self.groups.available:
            self.groups.give_back(program.pid, program.origin)
        self._release(program)

    async def wait(self, program: Program) -> int | None:
        """Wait for the end of a program, end what it left behind, reap it; its exit code, or
        128 + signal; None if the machine does not say. Cancelled, it stops watching."""
        if self._watched.get(program.ospid) is not program:
            return None  # detached before this task came to run
        try:
            await trio.lowlevel.wait_readable(program.pidfd)
        except trio.ClosedResourceError:
            return None  # detached
        except BaseException:
            self._release(program)
            raise
        try:
            self._end_leftovers(program)  # before it is reaped: its pid still names its group only
            return self._reap(program)
        finally:
            self._release(program)
            self.reap_orphans()

    def _reap(self, program: Program) -> int | None:
        if program.ours:
            with suppress(ChildProcessError):
                result = os.waitid(os.P_PIDFD, program.pidfd, os.WEXITED)
                if result is not None:
                    killed = result.si_code != os.CLD_EXITED
                    return result.si_status + 128 if killed else result.si_status
        code = lost_exit_code(program.pidfd, program.ospid, program.os_start)
        return self.reapers.code_of(program.ospid, program.os_start) if code is None else code

    def _release(self, program: Program) -> None:
        if self._watched.pop(program.ospid, None) is not None:
            self.generation += 1
            trio.lowlevel.notify_closing(program.pidfd)
            os.close(program.pidfd)
            if not program.beside:
                self.listeners.ended(program.pid)
        if self.groups.available:
            self._leave_group(program.pid)

    def _leave_group(self, pid: int) -> None:
        """Remove the control groups of a process, if nothing that is watched is in them, or is
        about to enter them."""
        inside = any(program.pid == pid for program in self._watched.values())
        if not inside and not any(launch.pid == pid for launch in self._launches):
            self.groups.remove(pid)

    def _end_leftovers(self, program: Program) -> None:
        if program.beside:
            self._kill_beside(program)
            self.kin.end(program.ospid)
            return
        self.end_beside(program.pid)
        if program.attached:
            if self.groups.available:
                self.groups.give_back(program.pid, program.origin)
        elif self.groups.available:
            self.groups.kill(program.pid)
        else:
            self._kill_strays(program)
            self.kin.end(program.ospid)

    # -- signals ---------------------------------------------------------------------------------

    def alive(self, process: Process) -> bool:
        """Whether its program runs, or is stopped: same pid, same start time."""
        stat = None if process.ospid is None else read_stat(process.ospid)
        return stat is not None and stat.began(process.os_start) and not stat.ended

    def stopped(self, program: Program) -> bool:
        """Whether it was stopped, by anybody."""
        return is_stopped(program.ospid)

    def signal(self, program: Program, signum: int) -> None:
        """Send a signal to the whole process group of a program, unless that has ended.

        An attached program that does not lead a group gets it alone: the others are not ours.
        """
        if program.ospid not in self._watched:
            return
        stat = read_stat(program.ospid)
        if stat is None or not stat.began(program.os_start):
            return
        with suppress(ProcessLookupError):
            if stat.group == program.ospid:
                os.killpg(program.ospid, signum)
            else:
                signal.pidfd_send_signal(program.pidfd, signum)

    def hold(self, program: Program) -> bool:
        """Have it and all that it started stand still until `release`, even what was stopped
        already. Without control groups what forks meanwhile may get away: call it again. False if
        it is not ours to hold."""
        if program.attached or self._watched.get(program.ospid) is not program:
            return False
        program.held = True
        if self.groups.available:
            with suppress(OSError):
                self.groups.freeze(program.pid, frozen=True)
                return True
        for _ in range(HOLD_ROUNDS):
            stopped = orphans.stop([program.ospid, *self._strays(program)])
            program.stilled.update(dict.fromkeys(stopped))
            if not stopped:
                break
        return True

    def _strays(self, program: Program, *, adopted: bool = False) -> list[int]:
        """All that it started and left, where there are no control groups."""
        known = set(self.kin.of(program.ospid))
        found = orphans.strays(
            program.ospid,
            program.pid,
            self._mountpoint,
            self._watched,
            known,
            self.reapers,
            adopted=adopted,
        )
        self.kin.saw(program.ospid, found)
        return found

    def _kill_strays(self, program: Program) -> None:
        """SIGKILL to all of those, and to what they forked meanwhile, if Linux tells of that."""
        killed: set[int] = set()
        found = set(self._strays(program))
        for _ in range(KILL_ROUNDS):
            orphans.kill(found)
            killed |= found
            forked = self.kin.of(program.ospid) if self.kin.is_told else ()
            found = {ospid for ospid in forked if ospid not in self._watched} - killed
            if not found:
                return

    def standing(self, program: Program) -> set[int]:
        """The OS pids of all that stands still with it."""
        if self.groups.available:
            return {program.ospid, *self.groups.members(program.pid)}
        return {program.ospid, *program.stilled}

    def is_still(self, program: Program) -> bool:
        """Whether all that is held with it stands still, as everybody does who waits in a call to
        the tree, or to a disk: for those, Linux does not say that a group is frozen. A thread that
        is told to freeze runs until it does, and shows as sleeping then."""
        if not self.groups.available:
            found = map(read_status, self.standing(program))
            return all(stat is None or stat.state in "TtDZX" for stat in found)
        if self.groups.is_frozen(program.pid):
            return True
        threads = map(read_status, self.groups.threads(program.pid))
        return all(stat is None or stat.state != "R" for stat in threads)

    def release(self, program: Program, *, stay: bool = False) -> None:
        """Let it go on; `stay`: it was stopped by somebody else meanwhile."""
        program.held = False
        if self.groups.available:
            with suppress(OSError):
                self.groups.freeze(program.pid, frozen=False)
        stilled, program.stilled = program.stilled, {}
        if not stay:
            orphans.go_on(stilled)
        else:  # a STOP is for its process group
            orphans.go_on(ospid for ospid in stilled if _group_of(ospid) != program.ospid)

    def _let_go_on(self, program: Program, *, stay: bool) -> None:
        """The same for one that an earlier daemon held, maybe: nobody knows what of it."""
        if not self.groups.available:
            found = [program.ospid, *self._strays(program, adopted=True)]
            program.stilled = {ospid: None for ospid in found if is_stopped(ospid)}
        elif self.stopped(program):
            program.stilled = {program.ospid: None}
        self.release(program, stay=stay)

    def terminate(self, program: Program) -> None:
        """SIGTERM, and SIGCONT so that a stopped one can act on it."""
        self.signal(program, signal.SIGTERM)
        self.signal(program, signal.SIGCONT)

    def end_beside(self, pid: int) -> None:
        """SIGKILL to the sidecars of process `pid`, and to what they started."""
        for program in self.beside(pid):
            self.kill(program)

    def end_all_beside(self) -> None:
        """The same for those of all processes."""
        for pid in {program.pid for program in self._watched.values() if program.beside}:
            self.end_beside(pid)

    def _kill_beside(self, program: Program) -> None:
        """The same for one: its group and session, and all that is known to descend from it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(program.ospid, signal.SIGKILL)
        if not self.groups.available:
            orphans.kill(set(self.kin.of(program.ospid)) - {program.ospid})

    def kill(self, program: Program) -> None:
        """SIGKILL to everything that it started, whatever group or session it hides in."""
        if program.beside:
            self._kill_beside(program)
            return
        self.signal(program, signal.SIGKILL)
        if self.groups.available:
            self.groups.kill(program.pid)
        elif not program.attached:
            self._kill_strays(program)

    def peek(self, program: Program) -> int | None:
        """The exit code of a child that has ended and was not waited for yet; else None."""
        stat = read_stat(program.ospid)
        if stat is None or not stat.ended or stat.start != program.os_start or not program.ours:
            return None
        return exit_code(stat.status)

    # -- what they leave behind --------------------------------------------------------------------

    def end_unclaimed(self, claims: Callable[[int], bool]) -> None:
        """Without control groups: end what an earlier daemon started for a process that has no
        program, as `claims` says of its pid."""
        reapers = set(self.reapers)
        if reapers and not self.groups.available:
            found = orphans.unclaimed(reapers, self._mountpoint, self._watched, claims)
            for ospid in found:
                log.warning("program %d was started for no process that there is", ospid)
                orphans.kill(below(ospid))

    def look(self) -> None:
        """Without control groups, and if Linux does not tell of forks: remember what descends from
        which program now. 20 µs a process of the machine."""
        if not (self.groups.available or self.kin.is_told):
            self.remember()

    def remember(self) -> None:
        """Remember what descends from which program now."""
        ours = [program for program in self._watched.values() if not program.attached]
        census = Census() if ours else None
        for program in ours:
            assert census is not None
            below = census.below(program.ospid)
            self.kin.saw(program.ospid, [each for each in below if each not in self._watched])

    def met(self, process: Process, ospids: Iterable[int]) -> None:
        """These descend from the program of `process`: remember them, as `look` does."""
        known = self.groups.available or self.kin.is_told or process.attached
        if process.ospid is not None and not known:
            self.kin.saw(process.ospid, ospids)

    def reap_orphans(self, *, all_of_them: bool = False) -> None:
        """Reap what ended after losing its parents to us, the sub-reaper; `all_of_them` looks at
        every process of the machine, 10 µs each. Nothing while a launch is under way, whose
        child we may not know yet."""
        self._fork_server.look()
        if not self._launches:
            orphans.reap_all(self._watched) if all_of_them else orphans.reap(self._watched)

    def stops(self) -> list[tuple[Program, bool]]:
        """Which of our children were stopped (True) or went on since the last call. The stop of a
        child that is being launched is told as soon as it is known whose the child is."""
        early, self._early = self._early, {}
        found: list[tuple[Program, bool]] = []
        for ospid, stopped in early.items():
            if ospid in self._watched:
                found.append((self._watched[ospid], stopped))
            elif self._launches:
                self._early[ospid] = stopped
        flags = os.WSTOPPED | os.WCONTINUED | os.WNOHANG
        while True:
            try:
                event = os.waitid(os.P_ALL, 0, flags)
            except ChildProcessError:
                return found
            if event is None:
                return found
            program = self._watched.get(event.si_pid)
            if program is not None:
                found.append((program, event.si_code == os.CLD_STOPPED))
            elif self._launches:
                self._early[event.si_pid] = event.si_code == os.CLD_STOPPED

    def tidy(self) -> None:
        """Remove control groups that could not be removed before."""
        if self.groups.available:
            self.groups.tidy()

    def close(self) -> None:
        """Remove what is left of the control groups, the listeners, the fork server."""
        self.listeners.close()
        self._fork_server.end()
        if self.groups.available:
            self.groups.close()


def _open(opened: ExitStack, path: Path, flags: int) -> int:
    """A descriptor of a file of ours, closed with the others. Raises KernelError."""
    try:
        found = os.open(path, flags | os.O_CLOEXEC)
    except OSError as failure:
        raise KernelError.from_os(failure, f"cannot open {path}") from failure
    opened.callback(os.close, found)
    return found


def _group_of(ospid: int) -> int:
    stat = read_status(ospid)
    return 0 if stat is None else stat.group
