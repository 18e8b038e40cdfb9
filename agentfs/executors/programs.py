"""Nodes of kind `program`: each attempt is a program of the machine, below the run's process.

It reads the node's input as JSON, its output is the node's output, and what it writes to stderr is
the node's log. Its command is as the manifest has it: values go into arguments and variables of the
environment, and never become a shell's text.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.executors.program_output import last_words, read_output
from agentfs.library.settings import WorkflowSettings
from agentfs.machine.step_program import SHELL, StepProgram
from agentfs.manifests.plan import PlanNode
from agentfs.model.process import Process
from agentfs.process.light import Light
from agentfs.process.step_files import ATTEMPT, NODE, StepFiles, artifacts_of, run_of, step_files
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground
from agentfs.store.later import when_there_is_room
from agentfs.store.part import Part
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step, StepRef

__all__ = ["AGAIN", "ProgramSteps"]

log = logging.getLogger(__name__)

AGAIN = 75
"""The exit code of a program that asks to be done again: EX_TEMPFAIL of sysexits(3)."""

LOOK = 0.05
"""Seconds between two looks at the outputs of programs: meanwhile a disk takes some 100 MB."""

PASSING = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENOMEM, errno.ENOSPC, errno.ETIMEDOUT})
"""Errors of a start that may be over in a moment."""

LONGEST_ERROR = 63 * 1024
"""Bytes of a program's stderr that are in the error of its node."""

AT_ONCE = 64 * 1024
"""Bytes that are read and written in the event loop; more are a thread's."""


@dataclass(slots=True, eq=False)
class _Attempt:
    """One that is under way. `failed`: (kind, words), if we end it for a reason of ours."""

    step: Step
    files: StepFiles
    cancelled: bool = False
    failed: tuple[str, str] | None = None
    ended: trio.Event = field(default_factory=trio.Event)


class ProgramSteps(Part):
    """Starts the programs, and reports their ends. An attempt holds a slot from its commit to the
    end of its program."""

    kinds = frozenset({"program"})

    def __init__(self, ground: Ground, gate: Gate, light: Light, engine: Engine) -> None:
        self._state_dir = ground.state_dir
        self._store = ground.store
        self._settings = ground.settings
        self._timers = ground.timers
        self._gate = gate
        self._light = light
        self._engine = engine
        self._attempts: dict[StepRef, _Attempt] = {}
        self._nursery: trio.Nursery | None = None
        self._queued: list[tuple[_Attempt, bool]] = []
        self._working = trio.Event()

    def __len__(self) -> int:
        """The slots that are taken."""
        return len(self._attempts)

    async def run(self) -> None:
        """Start programs, and look how much they write, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                queued, self._queued = self._queued, []
                for attempt, again in queued:
                    nursery.start_soon(self._do, attempt, again)
                while True:
                    await self._working.wait()
                    await trio.sleep(LOOK)
                    self._look()
            finally:
                self._nursery = None

    # -- what the engine asks for ------------------------------------------------------------------

    def room(self, node: PlanNode) -> int:
        """The slots that are free."""
        return max(0, self._settings.of(WorkflowSettings).max_programs - len(self._attempts))

    def begin(self, step: Step) -> None:
        """Raises EINVAL for a command or a variable that no program can be given, EACCES or EPERM
        if the run's starter may not start programs, EAGAIN if its agent starts too many."""
        command = _command(step)
        _environment(step)
        self._light.check_program(step.process, command)
        self._gate.check_launch(step.process.agent)

    def start(self, step: Step, again: bool) -> None:
        """Start its program, or take up the one that was started."""
        ref = step.ref
        attempt = _Attempt(step, step_files(self._state_dir, ref.run, ref.path, ref.attempt))
        self._attempts[ref] = attempt
        self._working.set()
        if self._nursery is None:
            self._queued.append((attempt, again))
        else:
            self._nursery.start_soon(self._do, attempt, again)

    def cancel(self, step: Step) -> None:
        """TERM for its program and all that it has started, KILL after the grace period."""
        attempt = self._attempts.get(step.ref)
        if attempt is None or attempt.cancelled:
            return
        self._store.on_commit(partial(self._note_cancelled, attempt))
        process = self._light.find_step(step.ref.run, step.ref.path, step.ref.attempt)
        if process is not None:
            self._light.cancel_step(process)

    def due(self, step: Step) -> None:
        """A program does not wait for anything that falls due."""

    @staticmethod
    def _note_cancelled(attempt: _Attempt) -> None:
        attempt.cancelled = True

    # -- the begin ---------------------------------------------------------------------------------

    async def _do(self, attempt: _Attempt, again: bool) -> None:
        """See to it that a program does the attempt. Its end is told by `step_ended`."""
        try:
            if not (again and await self._taken_up(attempt)):
                await self._begin(attempt)
        except Exception:  # one step that cannot be told of must not end all others
            log.exception("the program of step %s", attempt.step.ref)
            self._over(attempt)

    async def _begin(self, attempt: _Attempt) -> None:
        try:
            await self._start(attempt)
        except KernelError as failure:
            self._over(attempt)
            if not self._light.closing:
                passing = failure.errno in PASSING
                self._tell(attempt, partial(self._fail, attempt, failure.reason, again=passing))

    def _tell(self, attempt: _Attempt, tell: Callable[[], object]) -> None:
        """Tell the engine how it ended, as soon as the store has room for that."""
        when_there_is_room(self._timers, tell, f"the program of step {attempt.step.ref} ended")

    async def _start(self, attempt: _Attempt) -> None:
        step, ref = attempt.step, attempt.step.ref
        before = self._attempts.get(StepRef(ref.run, ref.path, ref.attempt - 1))
        if before is not None:  # it was cancelled, and has its grace period
            await before.ended.wait()
        run = step.process
        given = _given(step)
        make = partial(attempt.files.make, given or b"", run.uid, run.gid)
        if given is not None and len(given) > AT_ONCE:
            await trio.to_thread.run_sync(make)
        else:
            make()
        if attempt.cancelled:
            self._over(attempt)
            return
        process = await self._light.start_step(
            run, ref.path, ref.attempt, self._program(attempt, given is not None)
        )
        if attempt.cancelled:
            self._light.cancel_step(process)

    def _program(self, attempt: _Attempt, reads: bool) -> StepProgram:
        step, files = attempt.step, attempt.files
        return StepProgram(
            exec=_command(step),
            env=_environment(step),
            cwd=str(step.spec.get("cwd") or step.plan.code),
            input=files.input if reads else None,
            output=files.output,
            code=files.code,
            home=artifacts_of(self._state_dir, step.ref.run),
            in_tree=f"proc/runs/{step.ref.run}/artifacts",
            reads=tuple(step.spec.get("reads", ())),  # no manifest has that key: see agent_loops
        )

    async def _taken_up(self, attempt: _Attempt) -> bool:
        """Whether an earlier daemon has started it; then see to what became of it."""
        await self._light.wait_for_tree()
        if attempt.ended.is_set():
            return True  # its end was told meanwhile, and its files are gone
        ref = attempt.step.ref
        process = self._light.find_step(ref.run, ref.path, ref.attempt)
        if process is not None:
            if process.ospid and not attempt.step.node.once and _is_shut_out(process):
                attempt.failed = (
                    "lost",
                    "the daemon was started again, and it is kept from the tree",
                )
                self._light.cancel_step(process, grace=0.0)
            return True
        if not attempt.files.folder.exists():
            return False
        self._over(attempt)
        self._tell(attempt, partial(self._report, attempt, attempt.files.exit_code()))
        return True

    # -- the end -----------------------------------------------------------------------------------

    def step_ended(self, process: Process, code: int | None, *, lost: bool) -> None:
        """Before the engine has asked for it again, nothing: then its files say how it ended."""
        ref = StepRef(run_of(process), process.metadata[NODE], int(process.metadata[ATTEMPT]))
        attempt = self._attempts.get(ref)
        self._store.on_commit(partial(self._light.forget_log, process))
        if attempt is None:
            return
        self._store.on_commit(partial(self._over, attempt))
        if attempt.cancelled:
            return
        if lost and self._light.closing:  # we have ended it: the next daemon makes another attempt
            attempt.files.code.unlink(missing_ok=True)
        elif attempt.failed is not None:
            kind, words = attempt.failed
            self._fail(attempt, words, again=kind == "lost", kind=kind)
        elif process.reason.startswith("limit: "):
            self._fail(attempt, process.reason.removeprefix("limit: "), again=False, kind="limit")
        else:
            self._report(attempt, None if lost else code)

    def _over(self, attempt: _Attempt) -> None:
        """Its slot is free."""
        if self._attempts.get(attempt.step.ref) is attempt:
            del self._attempts[attempt.step.ref]
            attempt.ended.set()
            if not self._attempts:
                self._working = trio.Event()
            self._engine.freed(self)

    def _report(self, attempt: _Attempt, code: int | None) -> None:
        """Tell the engine how it ended; of a long output after it was read."""
        if code is None:
            self._fail(
                attempt,
                "its program ended with the daemon, or was lost: nobody knows how far it came",
                kind="lost",
            )
        elif code:
            self._fail(
                attempt, _words(code, attempt.files), kind="again" if code == AGAIN else "error"
            )
        elif (size := _size(attempt.files)) > self._most:
            self._fail(attempt, _too_much(self._most), again=False, kind="size")
        elif self._nursery is None or (size <= AT_ONCE and attempt.files.output.exists()):
            self._succeed(attempt, self._reading(attempt))
        else:
            attempt.files.note(code)
            nursery = self._nursery
            with self._store.transaction():
                self._store.on_commit(lambda: nursery.start_soon(self._succeed_later, attempt))

    def _reading(self, attempt: _Attempt) -> Callable[[], Any]:
        """A call that reads the output."""
        ref = attempt.step.ref
        name = f"{ref.path.replace('/', '%')}.output"
        kept = artifacts_of(self._state_dir, ref.run) / name
        shown = f"/proc/runs/{ref.run}/artifacts/{name}"
        return partial(read_output, attempt.files.output, _form(attempt.step), kept, shown)

    async def _succeed_later(self, attempt: _Attempt) -> None:
        try:
            value = await trio.to_thread.run_sync(self._reading(attempt))
        except KernelError as failure:
            read: Callable[[], Any] = partial(_raise, failure)
        else:
            read = partial(_given_value, value)
        try:
            self._tell(attempt, partial(self._succeed, attempt, read))
        except Exception:
            log.exception("the output of step %s", attempt.step.ref)

    def _succeed(self, attempt: _Attempt, read: Callable[[], Any]) -> None:
        try:
            value = read()
        except KernelError as failure:
            kind = "schema" if failure.errno == errno.EINVAL else "error"
            self._fail(attempt, failure.reason, again=kind == "error", kind=kind)
            return
        with _unless_over(), self._store.transaction():
            self._engine.succeed(attempt.step.ref, value)
            self._store.on_commit(attempt.files.keep_log)

    def _fail(
        self, attempt: _Attempt, words: str, *, again: bool = True, kind: str = "error"
    ) -> None:
        with _unless_over(), self._store.transaction():
            self._engine.fail(attempt.step.ref, words, again=again, kind=kind)
            self._store.on_commit(attempt.files.keep_log)

    # -- how much they write -----------------------------------------------------------------------

    @property
    def _most(self) -> int:
        return self._settings.of(WorkflowSettings).max_output

    def _look(self) -> None:
        """End the programs that have written more than an output may have."""
        for attempt in tuple(self._attempts.values()):
            if attempt.failed is None and _size(attempt.files) > self._most:
                ref = attempt.step.ref
                process = self._light.find_step(ref.run, ref.path, ref.attempt)
                if process is not None:
                    attempt.failed = "size", _too_much(self._most)
                    self._light.cancel_step(process, grace=0.0)


@contextmanager
def _unless_over() -> Iterator[None]:
    """An answer for an attempt that is over changes nothing."""
    try:
        yield
    except KernelError as failure:
        if failure.errno != errno.ESTALE:
            raise


def _command(step: Step) -> tuple[str, ...]:
    """The words of the command. Raises EINVAL."""
    program, args = step.node.spec["program"], step.spec.get("args") or ()
    given = tuple(_text(value, "args") for value in args)
    if isinstance(program, str):
        return (SHELL, "-c", program, "sh", *given)
    return (*map(str, program), *given)


def _environment(step: Step) -> dict[str, str]:
    """The variables that its program gets. Raises EINVAL."""
    ref = step.ref
    given = {name: _text(value, "env") for name, value in (step.spec.get("env") or {}).items()}
    for name in given:
        if not name or "=" in name or "\0" in name:
            raise KernelError(errno.EINVAL, f"env: {name!r} cannot name a variable")
    return given | {
        "RUN": str(ref.run),
        "NODE": ref.path,
        "ATTEMPT": str(ref.attempt),
        "STEP_KEY": step.key,
    }


def _text(value: Any, where: str) -> str:
    """A value as a program is given it: text as it is, anything else as JSON. Raises EINVAL."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        if "\0" not in text:
            os.fsencode(text)
            return text
    except UnicodeEncodeError:
        pass
    raise KernelError(errno.EINVAL, f"{where}: {text[:100]!r} cannot be given to a program")


def _given(step: Step) -> bytes | None:
    """The text that its program reads; None if there is nothing to read."""
    form = step.spec.get("stdin", "json")
    if form == "none":
        return None
    if form == "text" and isinstance(step.input, str):
        return step.input.encode(errors="surrogatepass")
    try:
        return (json.dumps(step.input, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return (json.dumps(step.input) + "\n").encode()


def _form(step: Step) -> str:
    return str(step.spec.get("output", "auto"))


def _size(files: StepFiles) -> int:
    try:
        return files.output.stat().st_size
    except OSError:
        return 0


def _is_shut_out(process: Process) -> bool:
    """Whether its program may use no tree but the one of the daemon that started it."""
    return not {"write", "read"}.isdisjoint(process.confined)


def _words(code: int, files: StepFiles) -> str:
    """How a program has failed: its code, and the end of what it wrote to stderr."""
    said = last_words(files.log, LONGEST_ERROR)
    try:
        name = f" ({signal.Signals(code - 128).name})" if code > 128 else ""
    except ValueError:
        name = ""
    return f"exit code {code}{name}" + (f": {said}" if said else "")


def _too_much(most: int) -> str:
    return f"its output has more than the {most:,} bytes that it may have (workflows.max_output)"


def _raise(failure: KernelError) -> Any:
    raise failure


def _given_value(value: Any) -> Any:
    return value
