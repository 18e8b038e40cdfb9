"""Starting one program: fork, its control group, its user, its folder, its limits and confinement,
exec. For a thread.

The executable and the folder may lie on our own mount, so the child can need the event loop before
it has executed anything. Hence no vfork (it would hold the interpreter's lock until the exec: a
`preexec_fn` makes CPython fork), and hence `Launch.ospid`, which the child itself writes into
shared memory, so that its calls can be told from a stranger's while the thread still waits.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentfs.base.errors import KernelError
from agentfs.machine import network
from agentfs.machine.confine import FREE, Cell, Confinement
from agentfs.machine.own_program import own_program
from agentfs.machine.proc import own_stat
from agentfs.machine.readable import SYSTEM, named_files, of_program
from agentfs.machine.rlimits import Limit, lay_on
from agentfs.machine.unstarted import why_not
from agentfs.model.process import Process

__all__ = ["NICE", "Launch", "Terms", "become_subreaper"]

log = logging.getLogger(__name__)

INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR")
"""What a program gets of the daemon's environment, and every LC_*."""

SHARED = struct.Struct("=qqq")  # the child's pid, the step that failed, its errno
BEGAN = struct.Struct("=q")  # after these: the child's start time
ABANDONED = SHARED.size + BEGAN.size  # where it says, in a byte, that nobody wants the child
ENTER_GROUP, ENTER_FOLDER, ENTER_CELL, ENTER_NETWORK = 1, 2, 3, 4
STEPS = {
    ENTER_GROUP: "its control group",
    ENTER_NETWORK: "a network of its own",
    ENTER_CELL: "its limits",
}
PR_SET_CHILD_SUBREAPER = 36

THIRD = 3
"""The descriptor of `Terms.third`. In the daemon this one is taken since its first moment, so
`Popen` has nothing of its own there."""

NICE = os.getpriority(os.PRIO_PROCESS, 0)
"""The niceness that the daemon was started with: programs have the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Where a program begins, and what it may do. Without a `home` it begins in `/`; `disk` says
    where on the disk the home is, and `in_tree` where in the tree, mounted or not. `env`: what it
    gets of its definition's. `forks` finds more limits, which takes a moment. `stdio`: the
    descriptors that its input, output and errors are; None is nothing to read, and the log.
    `third`: what it has as its descriptor 3."""

    home: Path | None = None
    disk: Path | None = None
    in_tree: Path | None = None
    held: Confinement = FREE
    limits: tuple[Limit, ...] = ()
    forks: Callable[[], Iterable[Limit]] = tuple
    env: Mapping[str, str] = field(default_factory=dict)
    stdio: tuple[int | None, int | None, int | None] = (None, None, None)
    third: int | None = None


class Launch:
    """A program that is being started for `process`. Once it runs, `held` says to what it is
    confined, and `listener` is the socket in its own network, if it has one: close that."""

    def __init__(self, process: Process, mountpoint: str, log_path: Path, terms: Terms) -> None:
        self.pid = process.pid
        self._process = process
        self._env = terms.env
        self._stdio = terms.stdio
        self._third = terms.third
        self._mountpoint = mountpoint
        self._log_path = log_path
        self._cwd = process.cwd
        self._home = terms.home
        self._disk = terms.disk
        self._home_in_tree = terms.in_tree
        self.held = terms.held
        self.listener: socket.socket | None = None
        self._limits = terms.limits
        self._forks = terms.forks
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)
        self.thread = -1  # the id of the thread that does it
        self._lock = threading.Lock()

    @property
    def _start(self) -> str:
        """Where the way of the child to its folder begins: a place that is not below our mount."""
        return self._mountpoint if self._in_tree else str(self._home or "/")

    @property
    def _in_tree(self) -> bool:
        return self._home is not None and self._home.is_relative_to(self._mountpoint)

    @property
    def ospid(self) -> int:
        """The child's OS pid; 0 before there is one."""
        return int(SHARED.unpack_from(self._shared, 0)[0])

    @property
    def began(self) -> int:
        """The child's start time, as it says itself: while it is in execve nobody else can ask for
        that without waiting, and on a busy machine that is no moment."""
        return int(BEGAN.unpack_from(self._shared, SHARED.size)[0])

    def abandon(self) -> None:
        """Nobody waits for it any more: end its child, now or when there is one. The thread reaps
        it; if that is through already, it is an orphan for us to reap."""
        with self._lock:  # or it is reaped, and its number another's
            self._shared[ABANDONED] = 1
            if self.ospid:
                _end(self.ospid)

    def _is_abandoned(self, child: int) -> bool:
        """Whether nobody wants this child, which has executed its program, or was killed before: it
        is ended then. Popen takes the one for the other."""
        with self._lock:
            if not self._shared[ABANDONED]:
                return False
        _end(child)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
        return True

    def run(self, group: Callable[[], list[int]] | None) -> tuple[int, int]:
        """Start it; (OS pid, size of the log before). `group` opens its control groups'
        cgroup.procs. Raises KernelError with the errno of what failed, ECANCELED if it was
        abandoned."""
        self.thread = threading.get_native_id()
        process = self._process
        descriptors: list[int] = []
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            written = os.open(self._log_path, flags, 0o640)
            descriptors.append(written)
            # By descriptor: the folders above the tree, or above the memory where there is no tree,
            # may be closed to the agent's user. Below the root of the tree only the child goes:
            # a thread of ours that waits for our own mount outlives a SIGKILL, and the mount and
            # the lock of the store with it.
            home = os.open(self._start, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            descriptors.append(home)
            entries = [] if group is None else group()
            descriptors += entries
            offset = os.fstat(written).st_size
            self._without_models_where_there_is_no_network()
            with ExitStack() as made:
                cell = self._cell(home)
                if cell is not None:
                    made.enter_context(closing(cell))
                return self._fork_in_network(written, home, entries, cell), offset
        except OSError as failure:
            number = failure.errno or errno.EIO
            words = why_not(
                number,
                process.exec,
                os.path.join(self._home or "/", self._cwd),
                self._environment()["PATH"],
                self._on_disk,
                ours=process.uid == os.geteuid(),
            )
            raise KernelError(
                number, f"{process.name} cannot be started: {words} ({os.strerror(number)})"
            ) from failure
        except (ValueError, subprocess.SubprocessError) as failure:
            raise KernelError(
                errno.EINVAL, f"cannot start {process.exec[0]!r}: {failure}"
            ) from failure
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _without_models_where_there_is_no_network(self) -> None:
        if self.held.models and not (network.made_by_us() or self._can_make_it()):
            text = "process %d, %s, has no network at all, not even the models: this needs %s"
            log.warning(text, self.pid, self._process.name, network.NEEDED)
            self.held = replace(self.held, models=False)

    def _can_make_it(self) -> bool:
        """Whether its child can make its network. Linux lets no process that changed its user write
        to its own /proc, and the maps of user name spaces are there."""
        return self._process.uid == os.geteuid() and network.made_by_children()

    def _fork_in_network(
        self, written: int, home: int, entries: list[int], cell: Cell | None
    ) -> int:
        if not self.held.models:
            return self._fork(written, home, entries, cell)
        if network.made_by_us():
            with network.inside() as listener:
                child = self._fork(written, home, entries, cell)
            self.listener = listener
            return child
        with closing(network.Handover()) as handover:
            child = self._fork(written, home, entries, cell, handover.enter)
            self.listener = handover.take()
        return child

    def _cell(self, home: int) -> Cell | None:
        """What it is confined to; None if to nothing."""
        if self.held == FREE:
            return None
        folders: list[str | int] = [self._mountpoint]
        if self._home is not None and not self._in_tree:
            folders.append(home)
        readable = [] if self.held.read else self._readable()
        return Cell(self.held, folders, [str(self._log_path)], readable)

    def _readable(self) -> list[str]:
        """What a program that may not read the machine reads of it all the same."""
        process, folder = self._process, os.path.join(self._home or "/", self._cwd)
        path, ours = self._environment()["PATH"], process.own_files
        named = [
            file
            for file in named_files(process.exec, folder)
            if (ours is None or file in ours) and self._is_outside(file) and os.path.isfile(file)
        ]
        program = process.exec[0]
        if "/" not in program:
            program = (ours is None and shutil.which(program, path=path)) or ""
        program = os.path.join(folder, program)
        if ours is None or program in named:
            named += of_program(program, path, self._is_outside)
        return [*SYSTEM, *filter(self._is_outside, (*process.reads, *named))]

    def _is_outside(self, file: str) -> bool:
        """Whether a file is neither in the tree, through which it is read and where no thread of
        ours touches it, nor in its memory, where the program says what is in it."""
        return self._on_disk(file) == os.path.normpath(file) and not file.startswith(
            f"{self._home}/"
        )

    def _command(self, env: dict[str, str]) -> tuple[str | None, Sequence[str]]:
        """(file to execute, arguments); None for the file that the first argument names."""
        command = self._process.exec
        if self.held.execute:
            return None, command
        folder = os.path.join(self._home or "/", self._cwd)
        return own_program(command, folder, env["PATH"], self._on_disk)

    def _on_disk(self, file: str) -> str:
        """Where a thread of ours may look at a file: not below our own mount, for the same reason.
        A file of the memory is on the disk too; no other file of the tree is looked at."""
        file = os.path.normpath(file)
        if self._in_tree and self._disk is not None and file.startswith(f"{self._home}/"):
            return os.path.join(self._disk, os.path.relpath(file, str(self._home)))
        return "" if file.startswith(f"{self._mountpoint}/") else file

    def _fork(
        self,
        written: int,
        home: int,
        entries: list[int],
        cell: Cell | None,
        enter_network: Callable[[], object] | None = None,
    ) -> int:
        process = self._process
        other = os.geteuid() == 0 and process.uid != os.geteuid()
        env = self._environment()
        executable, command = self._command(env)
        given, output, errors = self._stdio
        child = subprocess.Popen(
            command,
            executable=executable,
            stdin=subprocess.DEVNULL if given is None else given,
            stdout=written if output is None else output,
            stderr=written if errors is None else errors,
            env=env,
            start_new_session=True,
            user=process.uid if other else None,
            group=process.gid if other else None,
            extra_groups=_groups(process) if other else None,
            pass_fds=() if self._third is None else (THIRD,),
            preexec_fn=self._child(home, entries, enter_network, cell),
        )
        child.returncode = 0  # its end is watched for elsewhere: Popen must not wait for it
        if self._is_abandoned(child.pid):
            raise KernelError(errno.ECANCELED, f"nobody waits for {process.name} any more")
        _, step, number = SHARED.unpack_from(self._shared, 0)
        if step:
            with suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
            folder = self._cwd or str(self._home or "/")
            where = STEPS.get(step, folder)
            raise KernelError(
                int(number), f"{process.name} cannot enter {where}: {os.strerror(number)}"
            )
        return child.pid

    def _child(
        self,
        home: int,
        entries: list[int],
        enter_network: Callable[[], object] | None,
        cell: Cell | None,
    ) -> Callable[[], None]:
        """What the child does before exec: little, and without taking a lock."""
        shared, cwd, limits = self._shared, self._cwd, (*self._limits, *self._forks())
        third = self._third
        below = os.path.relpath(str(self._home), self._mountpoint) if self._in_tree else ""

        def enter() -> None:
            step = ENTER_GROUP
            let_go_of_our_mount()
            take_every_signal()
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
            SHARED.pack_into(shared, 0, os.getpid(), 0, 0)
            if shared[ABANDONED]:
                os._exit(127)
            with suppress(OSError):
                BEGAN.pack_into(shared, SHARED.size, own_stat().start)
            try:
                for entry in entries:
                    os.write(entry, b"0")
                step = ENTER_FOLDER
                os.fchdir(home)
                if below:
                    os.chdir(below)
                if cwd:
                    os.chdir(cwd)
                step = ENTER_NETWORK
                if enter_network is not None:
                    enter_network()
                step = ENTER_CELL
                if cell is not None:
                    cell.enter()
                lay_on(0, limits)
                if third is not None:  # last: what it replaces may be one of those above
                    os.dup2(third, THIRD)
            except OSError as failure:
                SHARED.pack_into(shared, 0, os.getpid(), step, failure.errno or errno.EIO)
                os._exit(127)

        return enter

    def _environment(self) -> dict[str, str]:
        process = self._process
        env = {
            name: text
            for name, text in os.environ.items()
            if name in INHERITED or name.startswith("LC_")
        }
        env.setdefault("PATH", os.defpath)
        if process.uid != os.geteuid():
            with suppress(KeyError):
                account = pwd.getpwuid(process.uid)
                env |= {"HOME": account.pw_dir, "USER": account.pw_name}
                env |= {"LOGNAME": account.pw_name, "SHELL": account.pw_shell or "/bin/sh"}
        if self._home is not None and not (self.held.write and self.held.read):
            # Where it may write and read, by a path that another user's program can go too.
            env["TMPDIR"] = str(self._home_in_tree)
            if not self.held.read:
                env["HOME"] = env["TMPDIR"]
        return (
            env
            | dict(self._env)
            | {
                "AGENTFS": self._mountpoint,
                "AGENT_NAME": process.name,
                "AGENT_PID": str(process.pid),
            }
        )


def _end(child: int) -> None:
    """SIGKILL to a child and what it started. It leads a group since before it told its pid."""
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def let_go_of_our_mount() -> None:
    """Close the device of our mount, in the child, before it touches anything on it.

    A child that waits for the mount and holds its device would keep the mount from being cut off
    when the daemon is killed in that moment, and all its users would hang for good.
    """
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                os.close(int(name))


def take_every_signal() -> None:
    """Have every signal do what it does by default, in the child, and block none.

    Programs would inherit what the daemon ignores or blocks: HUP if it was started by nohup, INT
    and QUIT by a shell's `&`. A shell could not even trap those.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _groups(process: Process) -> list[int]:
    """The supplementary groups of the user that the program runs as."""
    try:
        return os.getgrouplist(pwd.getpwuid(process.uid).pw_name, process.gid)
    except KeyError:
        return [process.gid]


def become_subreaper() -> None:
    """Have programs that lose their parents become our children, and not init's. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
