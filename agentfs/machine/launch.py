"""Starting one program: what it is to be and to have becomes an order to the fork server, whose
child does it all (`agentfs.machine.fork_server`). For a thread, which waits for the exec.

The executable and the folder may lie on our own mount, so the child can need the event loop before
it has executed anything. Hence no vfork (it would hold the interpreter's lock until the exec), and
hence `Launch.ospid`, which the child itself writes into shared memory, so that its calls can be
told from a stranger's while the thread still waits.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import mmap
import os
import pwd
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentfs.base.errors import KernelError
from agentfs.machine import fork_server, network, seccomp
from agentfs.machine.confine import FREE, Cell, Confinement
from agentfs.machine.fork_client import ForkServer
from agentfs.machine.own_program import own_program
from agentfs.machine.readable import SYSTEM, named_files, of_program
from agentfs.machine.rlimits import Limit
from agentfs.machine.unstarted import why_not
from agentfs.model.process import Process

__all__ = ["NICE", "Launch", "Terms", "become_subreaper"]

log = logging.getLogger(__name__)

INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR")
"""What a program gets of the daemon's environment, and every LC_*."""

STEPS = {
    fork_server.GROUP: "its control group",
    fork_server.USER: "its user",
    fork_server.NETWORK: "a network of its own",
    fork_server.CELL: "its limits",
}
"""What a program could not enter, by the step that failed."""

TRIES = 3
"""Fork servers that may die before they have forked for a launch."""

PR_SET_CHILD_SUBREAPER = 36

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

    def __init__(
        self,
        process: Process,
        mountpoint: str,
        log_path: Path,
        terms: Terms,
        server: ForkServer,
    ) -> None:
        self.pid = process.pid
        self._server = server
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
        # What the child says and is told; shared with it while there may be one that starts.
        self._shared: mmap.mmap | bytearray = bytearray(fork_server.ORDER)
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
        return self._head()[0]

    @property
    def began(self) -> int:
        """The child's start time, as it says itself: while it is in execve nobody else can ask for
        that without waiting, and on a busy machine that is no moment."""
        return self._head()[1]

    def _head(self) -> tuple[int, int, int, int]:
        pid, began, step, number = fork_server.HEAD.unpack_from(self._shared, 0)
        return pid, began, step, number

    def abandon(self) -> None:
        """Nobody waits for it any more: end its child, now or when there is one. The thread reaps
        it; if that is through already, it is an orphan for us to reap."""
        with self._lock:  # or it is reaped, and its number another's
            self._shared[fork_server.ABANDONED] = 1
            if self.ospid:
                _end(self.ospid)

    def _is_abandoned(self, child: int) -> bool:
        """Whether nobody wants this child, which has executed its program, or was killed before: it
        is ended then. One looks like the other from here."""
        with self._lock:
            if not self._shared[fork_server.ABANDONED]:
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
        except ValueError as failure:
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
            with network.inside() as (listener, space):
                child = self._fork(written, home, entries, cell, in_network=space)
            self.listener = listener
            return child
        with closing(network.Handover()) as handover:
            child = self._fork(written, home, entries, cell, make_network=handover.childs)
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
        *,
        in_network: int | None = None,
        make_network: int | None = None,
    ) -> int:
        """Have the fork server do it; the child's pid once it has executed the program."""
        process, env = self._process, self._environment()
        executable, command = self._command(env)
        other = os.geteuid() == 0 and process.uid != os.geteuid()
        given, output, errors = self._stdio
        below = [os.path.relpath(str(self._home), self._mountpoint)] if self._in_tree else []
        order = _Order()
        order.say(
            home=order.give(home),
            folders=[*map(_as_bytes, (*below, *filter(None, [self._cwd])))],
            entries=[*map(order.give, entries)],
            nice=NICE,
            in_network=order.give(in_network),
            make_network=order.give(make_network),
            user=(process.uid, process.gid, _groups(process)) if other else None,
            cell=None if cell is None else _cell_words(cell, order),
            limits=[*self._limits, *self._forks()],
            stdio=(
                order.give(given),
                order.give(written if output is None else output),
                order.give(written if errors is None else errors),
            ),
            third=order.give(self._third),
            files=_candidates(executable or command[0], env["PATH"]),
            words=[*map(_as_bytes, command)],
            environment=_checked(env),
        )
        child = self._begun(order)
        if self._is_abandoned(child):
            raise self._is_not_wanted()
        self._check_steps(child)
        return child

    def _begun(self, order: _Order) -> int:
        """The pid of the child, once it has executed something or ended."""
        for _ in range(TRIES):
            with order.file() as file, self._sharing(file):
                ours, childs = os.pipe2(os.O_CLOEXEC)
                try:
                    self._server.order([file, childs, *order.given])
                finally:
                    os.close(childs)
                    with open(ours, "rb", buffering=0) as report:
                        report.read(1)  # until nobody holds the other end
            pid, _, step, _ = self._head()
            if pid or step:
                return pid
            if self._shared[fork_server.ABANDONED]:
                raise self._is_not_wanted()
        raise KernelError(
            errno.EAGAIN,
            f"{self._process.name} cannot be started: the process that forks programs was killed"
            f" {TRIES} times, try again",
        )

    def _is_not_wanted(self) -> KernelError:
        text = f"nobody waits for {self._process.name} any more"
        return KernelError(errno.ECANCELED, text)

    @contextmanager
    def _sharing(self, file: int) -> Iterator[None]:
        """The child that gets the file sees what we do, and we what it says."""
        mapped = mmap.mmap(file, fork_server.ORDER)
        with self._lock:
            mapped[fork_server.ABANDONED] = self._shared[fork_server.ABANDONED]
            self._shared = mapped
        try:
            yield
        finally:
            with self._lock:
                self._shared = bytearray(mapped)

    def _check_steps(self, child: int) -> None:
        """Raises OSError with the errno of the exec or the fork, KernelError with that of what went
        before the exec."""
        _, _, step, number = self._head()
        if not step:
            return
        if child:
            with suppress(ChildProcessError):
                os.waitpid(child, 0)
        if step in (fork_server.EXECUTE, fork_server.FORK):
            raise OSError(number, os.strerror(number))
        where = STEPS.get(step, self._cwd or str(self._home or "/"))
        raise KernelError(
            number, f"{self._process.name} cannot enter {where}: {os.strerror(number)}"
        )

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


class _Order:
    """What the fork server is sent: words, and descriptors that they name by their places."""

    def __init__(self) -> None:
        self.given: list[int] = []
        self._words = b""

    def give(self, descriptor: int | None) -> int | None:
        """The place of a descriptor in the order, behind its file and its report."""
        if descriptor is None:
            return None
        self.given.append(descriptor)
        return len(self.given) + 1

    def say(self, **words: object) -> None:
        self._words = json.dumps(words).encode()

    @contextmanager
    def file(self) -> Iterator[int]:
        """A new file with the words."""
        file = os.memfd_create("launch", os.MFD_CLOEXEC)
        try:
            os.pwrite(file, self._words, fork_server.ORDER)
            yield file
        finally:
            os.close(file)


def _cell_words(cell: Cell, order: _Order) -> dict[str, object]:
    return {
        "kept": cell.kept,
        "ruleset": order.give(cell.ruleset),
        "calls": cell.calls.decode("latin-1"),
        "seccomp": seccomp.number(),
        "asks": order.give(cell.asks),
    }


def _as_bytes(text: str) -> str:
    """The bytes of a text, each as a character: the child needs no encoding of ours. Raises
    ValueError for a NUL, which no argument of execve(2) can have."""
    if "\0" in text:
        raise ValueError("embedded null byte")
    return os.fsencode(text).decode("latin-1")


def _checked(env: Mapping[str, str]) -> list[tuple[str, str]]:
    for name in env:
        if "=" in name:
            raise ValueError(f"{name!r} is no name of a variable")
    return [(_as_bytes(name), _as_bytes(text)) for name, text in env.items()]


def _candidates(program: str, path: str) -> list[str]:
    """The files that a name may mean, in their order."""
    if "/" in program:
        return [_as_bytes(program)]
    return [_as_bytes(os.path.join(folder, program)) for folder in path.split(os.pathsep)]


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
