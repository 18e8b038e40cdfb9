"""Signals for all that wait: a value under a key goes to every node that waits for it, of all runs.

Ten thousand may wait, and each goes on in a commit of its own. So those that wait are written down
first, and the next daemon does the rest of them: an attempt that has its value already is over, and
does not get it again.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.library.settings import WorkflowSettings
from agentfs.model.principal import Principal
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records
from agentfs.workflow.engine import Engine
from agentfs.workflow.events import RunSignalled
from agentfs.workflow.journal import encode
from agentfs.workflow.model import StepRef
from agentfs.workflow.runs import Runs

__all__ = ["KIND", "Wake", "Wakes"]

log = logging.getLogger(__name__)

KIND = "wake"
"""The records in the store, by number."""

TURN = 0.005
"""Seconds of ends, before others have their turn."""

PAGE = 200
"""Attempts of one record: some milliseconds."""


@dataclass(frozen=True, slots=True)
class Wake:
    """`data` goes to these attempts: (run, path, attempt)."""

    key: str
    data: Any
    waiting: list[list[Any]]


class Wakes(Part):
    """All that are under way."""

    def __init__(self, ground: Ground, gate: Gate, engine: Engine, runs: Runs) -> None:
        self._store, self._events = ground.store, ground.events
        self._settings = ground.settings
        self._gate = gate
        self._engine = engine
        self._runs = runs
        self._wakes = Records(
            ground.store, KIND, lambda key, record: (int(key), Wake(**record)), asdict
        )
        self._more = trio.Event()

    def load(self) -> None:
        self._wakes.load()

    @property
    def under_way(self) -> int:
        """How many are not done."""
        return len(self._wakes)

    def keys(self) -> Iterator[str]:
        """Those that somebody waits for, in order, read on as they are taken."""
        return self._engine.journal.awaited_keys()

    def is_awaited(self, key: str) -> bool:
        """Whether somebody waits for it."""
        return bool(self._engine.journal.waiting(key, most=1))

    async def wake(self, principal: Principal, key: str, data: Any) -> int:
        """Send `data` to all that wait for `key`, as far as `principal` may signal their runs; to
        how many. Raises ENOENT if nobody waits, EACCES or EPERM if it may signal none of them, and
        EMSGSIZE."""
        most = self._settings.of(WorkflowSettings).max_input
        if len(encode(data)) > most:
            raise KernelError(errno.EMSGSIZE, f"a signal has at most {most} bytes")
        last, count = (0, ""), 0
        refusal = KernelError(errno.ENOENT, f"nobody waits for {key}")
        while page := self._engine.journal.waiting(key, last, PAGE):
            last = page[-1][:2]
            with self._gate.enter(principal) as actor:
                found: list[list[Any]] = []
                for run, path, attempt in page:
                    try:
                        self._runs.may_control(actor, self._runs.get(run), f"signal {key}")
                        found.append([run, path, attempt])
                    except KernelError as refused:
                        refusal = refused
                if found:
                    number = max(self._wakes, default=0) + 1
                    self._wakes.put(number, Wake(key, data, found))
            count += len(found)
            await trio.lowlevel.checkpoint()
        self._more.set()
        if not count:
            raise refusal
        return count

    async def run(self) -> None:
        while True:
            for number in sorted(self._wakes):
                await self._do(self._wakes[number])
                self._wakes.drop(number)
            self._more = trio.Event()
            if not self._wakes:
                await self._more.wait()

    async def _do(self, wake: Wake) -> None:
        ends = time.monotonic() + TURN
        for run, path, attempt in wake.waiting:
            ref = StepRef(run, path, attempt)
            try:
                with self._store.transaction():
                    self._engine.succeed(ref, wake.data)
                    self._events.emit(RunSignalled(run, wake.key, False))
            except KernelError as refusal:
                if refusal.errno != errno.ESTALE:
                    log.warning("%s waits on for %s: %s", ref, wake.key, refusal)
            if time.monotonic() > ends:
                await trio.lowlevel.checkpoint()
                ends = time.monotonic() + TURN
