"""The real kernel with its processes and programs; its tree is mounted nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from agentfs.base.clock import Clock, SystemClock
from agentfs.kernel import Kernel
from agentfs.model.principal import Kind, Principal
from agentfs.model.process import Process, State
from agentfs.model.spec import ProcessSpec
from agentfs.store.event import Event
from agentfs.store.event_log import Record
from agentfs.store.part import Part

OPERATOR = Principal(Kind.OPERATOR, 1, "init", os.getuid(), os.getgid())

# Time that a real program may take here for what takes milliseconds; a test that needs it fails.
PATIENCE = 20.0


def as_agent(process: Process) -> Principal:
    """The principal that a program of `process` is."""
    return Principal(
        Kind.AGENT, process.pid, process.name, process.uid, process.gid, process.behalf
    )


class Ends(Part):
    """Notes how programs end."""

    def __init__(self, ends: list[tuple[int, int]]) -> None:
        self._ends = ends

    def program_ended(self, process: Process, code: int) -> None:
        self._ends.append((process.pid, code))


class System:
    """The real kernel, and short words for what tests of processes do and look at. It is not loaded
    and runs nothing until somebody has it do so."""

    def __init__(self, state_dir: Path, clock: Clock, *, groups: bool = True) -> None:
        kernel = self.kernel = Kernel(state_dir, "/nowhere", clock)
        self.ground = kernel.ground
        self.state_dir = state_dir
        self.clock = clock
        self.store = kernel.store
        self.events = kernel.events
        self.settings = kernel.settings
        self.timers = kernel.timers
        self.table = kernel.table
        self.policy = kernel.policy
        self.gate = kernel.gate
        self.agents = kernel.agents
        self.programs = kernel.programs
        self.supervisor = kernel.supervisor
        self.maid = kernel.maid
        self.grants = kernel.grants
        self.processes = kernel.processes
        if not groups:
            self.programs.groups._base = ""
        self.ends: list[tuple[int, int]] = []
        self.ground.parts.add(Ends(self.ends))
        self.heard: list[Event] = []
        self._changed = trio.Event()
        self.events.listen(self._hear)

    def _hear(self, record: Record) -> None:
        self.heard.append(record.event)
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until `holds()`, looking at every event. Bounded by the machine's own time, as the
        loop's may stand still."""
        with fail_after_real(PATIENCE):
            while not holds():
                await self._changed.wait()

    async def all_reaped(self) -> None:
        """Wait until no program is watched any more."""
        with fail_after_real(PATIENCE):
            while len(self.programs):
                await self.supervisor.wait_program_ended()

    def of(self, kind: type[Event]) -> list[Any]:
        """The events of a kind, so far."""
        return [event for event in self.heard if isinstance(event, kind)]

    def configure(self, **processes: object) -> None:
        """Put other numbers for processes in effect."""
        lines = "".join(f"  {name}: {number}\n" for name, number in processes.items())
        self.settings.replace(f"processes:\n{lines}")

    @staticmethod
    def spec(**spec: Any) -> ProcessSpec:
        """A definition."""
        return ProcessSpec(**spec)

    async def spawn(self, name: str, parent: int = 1, **spec: Any) -> Process:
        """A child, spawned by the operator."""
        return await self.processes.spawn(OPERATOR, parent, ProcessSpec(name=name, **spec))

    async def shell(self, name: str, script: str, parent: int = 1, **spec: Any) -> Process:
        """A child that runs a shell script."""
        return await self.spawn(name, parent, exec=["/bin/sh", "-c", script], **spec)

    async def said(self, name: str, words: str) -> None:
        """Wait until the log of `name` has `words` in it."""
        path = self.agents.log_path(name)
        await eventually(lambda: words in path.read_text(errors="replace"))


def real_pause() -> None:
    """2 ms of the machine's own time, for a thread."""
    time.sleep(0.002)


async def eventually(holds: Callable[[], object]) -> None:
    """Wait for what the machine does and tells nobody: look again and again, in its own time."""
    with fail_after_real(PATIENCE):
        while not holds():
            await trio.to_thread.run_sync(real_pause)


async def gone(ospid: int) -> None:
    """Wait until the machine has no such process, or only a zombie: SIGKILL takes a moment."""
    await eventually(lambda: not alive(ospid))


def program(*command: str, **options: Any) -> subprocess.Popen[bytes]:
    """A program that no daemon started."""
    return subprocess.Popen(command, **options)


def zombie(*command: str) -> subprocess.Popen[bytes]:
    """One that has ended and was not waited for."""
    ended = program(*command)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    return ended


def collect(ospid: int) -> None:
    """Wait for a child of this process that a vanished system started."""
    with suppress(ChildProcessError):
        os.waitpid(ospid, 0)


class fail_after_real:  # noqa: N801 - as trio.fail_after
    """A `trio.fail_after` that a mock clock does not concern."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._scope = trio.CancelScope()
        self._timer: Any = None

    def __enter__(self) -> None:
        token = trio.lowlevel.current_trio_token()

        def late() -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._scope.cancel)

        self._timer = threading.Timer(self._seconds, late)
        self._timer.daemon = True
        self._timer.start()
        self._scope.__enter__()

    def __exit__(self, *failure: Any) -> None:
        self._timer.cancel()
        self._scope.__exit__(*failure)
        if self._scope.cancelled_caught:
            raise AssertionError(f"it did not happen within {self._seconds:g} s")


@asynccontextmanager
async def running(
    state_dir: Path, *, clock: Clock | None = None, keep: bool = False, groups: bool = True
) -> AsyncIterator[System]:
    """A running system: what looks after programs does. `keep`: at the end it vanishes as with
    kill -9, and programs go on."""
    system = System(state_dir, clock or SystemClock(), groups=groups)
    try:
        system.kernel.load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(system.timers.run)
            await nursery.start(system.supervisor.run)
            nursery.start_soon(system.maid.run)
            try:
                yield system
            finally:
                with trio.CancelScope(shield=True):
                    if not keep:
                        for program in system.programs:
                            system.programs.kill(program)
                        await system.all_reaped()
                        system.programs.close()
                nursery.cancel_scope.cancel()
    finally:
        system.store.close()


def alive(ospid: int) -> bool:
    """Whether the machine still runs this process: a zombie does not."""
    try:
        with open(f"/proc/{ospid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


PYTHON = sys.executable
ENDED = (State.ZOMBIE, State.DEAD)
