"""`agentfs up`: put what a file of manifests has into /etc, start its systems, show what they say,
end when they end.

After mounting, all of it is file operations: documents into `/etc/KIND`, requests into
`/etc/systems/NAME/run`, specs of programs into `/proc/PPID/spawn`, `/proc/PID/wait` for the ends,
`/agents/NAME/log` for what is said, `TERM` into `/proc/PID/ctl` to end the rest.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

import click

from agentfs.base.yaml_document import DocumentError
from agentfs.manifests.system import ROOT, Planned
from agentfs.tools.assignments import assignment
from agentfs.tools.manifest_files import Piece, read_pieces
from agentfs.tools.placing import existing, place
from agentfs.tools.system_progress import SystemProgress, start_system
from agentfs.tools.tree import CHUNK, ToolError, Tree, TreeError, encoded

__all__ = ["run"]

POLL = 0.1
"""Seconds between two looks at the logs."""

PATIENCE = 15.0
LAST_WORDS = 2.0  # seconds
"""Seconds from TERM until what has not ended is killed: the kernel's own grace is 10."""

INTERRUPTED = 130


def run(
    manifest: str,
    directory: str | None,
    state: str | None,
    env: tuple[str, ...],
    *,
    detach: bool,
    audit_key: str | None = None,
    check: bool = False,
    given: str = "{}",
) -> int:
    """Do it all; the exit code. Raises ToolError."""
    try:
        there = _looked_at(directory) if check else existing(directory)
        pieces = read_pieces(manifest, Tree(there) if there else None, whole=check)
    except DocumentError as bad:
        for fault in bad.faults:
            click.echo(fault, err=True)
        return 1
    if check:
        return 0
    extra = dict(assignment(text) for text in env)
    planned = [each for piece in pieces if piece.system for each in piece.system.processes]
    systems = [piece for piece in pieces if piece.folder == "systems" and not piece.system]
    if extra and not planned:
        raise ToolError("--env is for processes that are programs; a run has its input")
    if there is None and directory is None and not planned and not systems:
        raise ToolError("no tree is mounted here; name the DIR of one, or `agentfs mount DIR`")
    with _interruptible(), place(directory, state, audit_key, detach=detach) as tree:
        session = _Session(tree)
        try:
            for piece in pieces:
                if piece.system is None:
                    put(tree, piece)
            for piece in systems:
                session.run(piece, given)
            for each in planned:
                session.start(each, extra)
            if detach and (planned or systems):
                click.echo(tree.root)
                return 0
            return session.follow()
        except (ToolError, OSError, KeyboardInterrupt) as failed:
            session.end()
            if isinstance(failed, KeyboardInterrupt):
                return INTERRUPTED
            if isinstance(failed, BrokenPipeError):
                _mute()
                return 1
            raise


def _looked_at(directory: str | None) -> str | None:
    """The tree whose documents count for a check: none, if several are mounted."""
    try:
        return existing(directory)
    except ToolError:
        return None


def put(tree: Tree, piece: Piece) -> None:
    """Have a document in its folder of /etc. Raises ToolError with the lines of the file."""
    path = f"etc/{piece.folder}/{piece.name}.yaml"
    try:
        tree.write(path, encoded(piece.text), os.O_CREAT)
        version = tree.read(f"etc/{piece.folder}/{piece.name}/version")
    except TreeError as refused:
        words = str(refused).removeprefix(f"{tree.path(path)}: ")
        told = re.compile(rf"(?m)^{re.escape(piece.name)}\.yaml:(\d+):")
        if told.search(words) is None:
            raise
        raise ToolError(
            told.sub(lambda match: f"{piece.file}:{int(match[1]) + piece.line}:", words)
        ) from None
    click.echo(f"{piece.folder}/{piece.name}: version {version}", err=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """TERM and HUP end it as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _mute() -> None:
    """Nobody reads us any more: what is still to be flushed goes nowhere, and says nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass(slots=True)
class _Started:
    """A process that runs for us. `log_from`: where its log ended before."""

    name: str
    pid: int
    top: bool
    log_from: int
    followed: bool = False
    ended: bool = False
    held: bytes = b""  # the beginning of a line whose end is still to come


End = tuple[_Started, int | TreeError | None]


class _Session:
    """The processes that were started, and how each of them ended."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._started: list[_Started] = []
        self._systems: list[SystemProgress] = []
        self._ends: queue.SimpleQueue[End] = queue.SimpleQueue()
        self._codes: list[int] = []
        self._width = 0

    def run(self, piece: Piece, given: str) -> None:
        """Start a system of runs."""
        system = start_system(self._tree, piece.name, given, scheduled=piece.scheduled)
        self._systems.append(system)
        click.echo(f"{piece.name} is /{system.folder}", err=True)

    def start(self, planned: Planned, env: dict[str, str]) -> None:
        """Start one process below its parent, which has been started before it."""
        pids = {each.name: str(each.pid) for each in self._started} | {ROOT: "self"}
        spec = planned.spec
        if env:
            spec = spec | {"env": spec.get("env", {}) | env}
        log_from = self._log_size(planned.name)
        try:
            reply = self._tree.ask(
                f"proc/{pids[planned.parent]}/spawn",
                encoded(json.dumps(spec, ensure_ascii=False)),
            )
        except TreeError as refused:
            raise ToolError(f"{planned.name} cannot be started: {refused}") from None
        process = _Started(planned.name, int(reply), planned.parent == ROOT, log_from)
        self._started.append(process)
        self._width = max(self._width, len(planned.name))

    def follow(self) -> int:
        """Show what is said until every top-level process has ended for good, and every system of
        runs; then end the rest.

        The first exit code of a top-level process that is not 0, else 0.
        """
        for process in self._started:
            process.followed = True
            threading.Thread(target=self._wait_for, args=(process,), daemon=True).start()
        while any(process.top and not process.ended for process in self._started):
            self._turn()
        self._codes += [system.follow() for system in self._systems]
        self._systems.clear()
        self.end()
        return next((code for code in self._codes if code), 0)

    def end(self) -> None:
        """Ask everything that still runs to end, and wait for it; kill what does not. A second
        interrupt kills at once."""
        for system in self._systems:
            system.cancel()
        try:
            self._tell(self._living(), "TERM")
            self._await_ends(time.monotonic() + PATIENCE)
        except KeyboardInterrupt:
            pass  # do not wait any longer
        except BrokenPipeError:
            _mute()
        running = {process.pid for process in self._started if not process.ended}
        self._tell([pid for pid in self._living() if pid in running], "kill-branch")
        with suppress(BrokenPipeError):
            self._logs(last=True)

    def _await_ends(self, deadline: float) -> None:
        pids = {process.pid for process in self._started if not process.ended}
        while pids.intersection(self._living()) and time.monotonic() < deadline:
            self._turn()
        # The threads that wait for them say how they ended a moment later.
        deadline = time.monotonic() + LAST_WORDS
        while any(process.followed and not process.ended for process in self._started):
            if time.monotonic() >= deadline:
                return
            self._turn()

    def _living(self) -> list[int]:
        """The pids of what was started and of everything below it, parents first."""
        ours = {process.pid for process in self._started}
        try:
            processes = self._tree.processes()
        except TreeError:
            return []  # the tree is gone, and everything with it
        found = []
        for status in processes:
            if int(status["Pid"]) in ours or int(status["PPid"]) in ours:
                ours.add(int(status["Pid"]))
                if status["State"] not in ("zombie", "dead"):
                    found.append(int(status["Pid"]))
        return found

    def _tell(self, pids: list[int], command: str) -> None:
        for pid in pids:
            with suppress(TreeError):  # it ended meanwhile, or ends already
                self._tree.write(f"proc/{pid}/ctl", f"{command}\n".encode())

    # -- ends ------------------------------------------------------------------------------------

    def _wait_for(self, process: _Started) -> None:
        """In a thread of its own: reading `wait` takes as long as the process lives."""
        try:
            text = self._tree.read(f"proc/{process.pid}/wait")
            self._ends.put((process, int(text) if text else None))
        except TreeError as failed:
            gone = failed.errno in (errno.ENOENT, errno.ESRCH, errno.ESTALE)
            self._ends.put((process, None if gone else failed))

    def _turn(self) -> None:
        """Wait a little for something to end; show what was said meanwhile."""
        try:
            process, how = self._ends.get(timeout=POLL)
        except queue.Empty:
            self._logs()
            return
        self._logs()
        process.ended = True
        if isinstance(how, TreeError):
            raise how
        words = "ended; its exit code is lost" if how is None else f"exited with code {how}"
        click.echo(f"{process.name} {words}", err=True)
        if process.top:
            self._codes.append(1 if how is None else how)

    # -- logs ------------------------------------------------------------------------------------

    def _log_size(self, name: str) -> int:
        try:
            return os.stat(self._tree.path(f"agents/{name}/log")).st_size
        except FileNotFoundError:
            return 0
        except OSError as failed:
            raise self._tree.failure(f"agents/{name}/log", failed) from None

    def _logs(self, *, last: bool = False) -> None:
        """Print the new lines of every log, each with the name before it."""
        for process in self._started:
            lines = (process.held + self._new(process)).splitlines(keepends=True)
            whole = not lines or lines[-1].endswith(b"\n") or last
            process.held = b"" if whole else lines.pop()
            prefix = f"{process.name:{self._width}} | ".encode()
            for line in lines:
                sys.stdout.buffer.write(prefix + line.removesuffix(b"\n") + b"\n")
        sys.stdout.buffer.flush()

    def _new(self, process: _Started) -> bytes:
        """The new part of a log; all of it if it was truncated meanwhile."""
        try:
            with open(self._tree.path(f"agents/{process.name}/log"), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size < process.log_from:
                    process.log_from = 0
                file.seek(process.log_from)
                data = file.read(CHUNK) or b""
        except OSError:
            return b""  # nothing was written yet, or the tree is gone: `wait` says so
        process.log_from += len(data)
        return data
