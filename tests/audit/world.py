"""A kernel that runs nothing, on a clock that a test moves: what it does is in its audit."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from agentfs.audit.settings import AuditSettings
from agentfs.audit.verify import verify
from agentfs.base.clock import ManualClock
from agentfs.kernel import Kernel
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.process.events import AgentDefined
from tests.world import put_process

__all__ = ["ALICE", "BOB", "STRANGER", "System", "edit"]

ALICE = Principal(Kind.AGENT, 2, "alice", 1000, 100)
BOB = Principal(Kind.AGENT, 3, "bob", 1001, 100)
STRANGER = Principal(Kind.STRANGER, None, "a stranger", 1002, 100)


class System:
    """A kernel with processes of alice and bob. Its first record is of how it is configured."""

    def __init__(self, folder: Path, *, every: int = 4, key: Path | None = None) -> None:
        self._path = folder / "store.db"
        self.key = key or folder / "audit.key"
        self.closed = False
        self.clock = ManualClock()
        kernel = self.kernel = Kernel(folder, "/run/agents", self.clock, key)
        self.timers, self.store, self.events = kernel.timers, kernel.store, kernel.events
        self.settings, self.gate, self.audit = kernel.settings, kernel.gate, kernel.audit
        self.refusals = kernel.refusals
        with self.store.transaction():
            if self.settings.of(AuditSettings).checkpoint_every != every:
                self.settings.replace(f"audit: {{checkpoint_every: {every}}}")
            if kernel.table.find(INIT) is None:
                kernel.supervisor.boot()
                for name in ("alice", "bob"):
                    put_process(kernel, name)

    @property
    def path(self) -> Path:
        """Of the store, with everything in it."""
        if not self.closed:
            self.store.fold()
        return self._path

    def define(self, *names: str, by: Principal | None = None) -> None:
        """A change for each name, one of the kernel's own without a principal."""
        for name in names:
            self.clock.advance(1)
            if by is None:
                self.events.emit(AgentDefined(name))
            else:
                with self.gate.enter(by):
                    self.events.emit(AgentDefined(name))

    def records(self) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.path)) as connection:
            rows = connection.execute("SELECT record FROM audit ORDER BY seq").fetchall()
        return [json.loads(row[0]) for row in rows]

    def close(self) -> None:
        """As the kernel ends; once."""
        if not self.closed:
            self.closed = True
            self.audit.checkpoint()
            self.store.close()
            self.kernel.programs.close()
            self.audit.mirror()

    def verdict(self) -> str:
        return str(verify(self.path, self.key))


def edit(system: System, *statements: str | tuple[str, tuple[object, ...]]) -> None:
    """Change the store, as somebody could who can write its file."""
    with closing(sqlite3.connect(system.path)) as connection, connection:
        for statement in statements:
            words = statement if isinstance(statement, tuple) else (statement, ())
            connection.execute(*words)
