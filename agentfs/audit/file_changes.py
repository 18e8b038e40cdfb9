"""The audit of changes to the files of /shared: who changed what, and at which path.

These are real files, and no transaction of the kernel changes them. A record for each change would
slow `tar x` down. So everything that one actor does within a second is one record, which is written
after that second: a crash loses no more. The paths of a record are bounded as well. The rest is
counted by directory, so that nobody can fill the audit with names.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

from agentfs.audit.audit import Audit
from agentfs.audit.events import FilesChanged
from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["FileChanges"]

WAIT = 1.0
"""Seconds from the first change of an actor to its record."""

MOST_PATHS, MOST_DIRECTORIES = 100, 30
"""The paths that one record names, and the directories for which it counts the rest. Changes beyond
those are counted for /shared as a whole. A record has about 10 KB at most, as a rule."""

PAUSE = 0.002
"""Seconds between the records of two actors, in which others have their turn."""

TOP = "/shared"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Done:
    """The changes of one actor since its last record. `paths` has what was done to each path (and
    where that was moved, or linked, to), each once and in order. `more` counts the rest by
    directory."""

    first: float
    last: float
    paths: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)
    more: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, what: str, path: str, to: str) -> None:
        known = self.paths.get((path, to))
        if known is None:
            if len(self.paths) >= MOST_PATHS:
                self._count(what, path)
                return
            known = self.paths[path, to] = {}
        known[what] = None

    def _count(self, what: str, path: str) -> None:
        directory = path.rpartition("/")[0]
        if directory not in self.more and len(self.more) >= MOST_DIRECTORIES:
            directory = TOP
        self.more.setdefault(directory, Counter())[what.partition(" ")[0]] += 1

    def event(self, pid: int | None) -> FilesChanged:
        files: list[dict[str, object]] = [
            {"path": path, "did": [*did], **({"to": to} if to else {})}
            for (path, to), did in self.paths.items()
        ]
        more: list[dict[str, object]] = [
            {"below": directory, "did": dict(did)} for directory, did in self.more.items()
        ]
        return FilesChanged(pid, files, more, rfc3339(self.first), rfc3339(self.last))


class FileChanges(Part):
    """Gathers changes, and writes their records a second later."""

    def __init__(self, ground: Ground, gate: Gate, audit: Audit) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._timers = ground.timers
        self._gate = gate
        self._audit = audit
        self._done: dict[Principal, _Done] = {}
        self._due = False

    def add(self, principal: Principal, what: str, path: str, to: str = "") -> None:
        """`principal` did `what` to `path`: `created`, `written` (opened for writing, or cut),
        `removed`, `renamed` or `linked` (`to`), `mode MODE`, `owner UID:GID`, `attributes`."""
        now = self._clock.now()
        done = self._done.get(principal)
        if done is None:
            done = self._done[principal] = _Done(now, now)
            if not self._due:
                self._due = True
                self._timers.call_later(WAIT, self._write)
        done.last = now
        done.add(what, path, to)

    def _write(self) -> None:
        """Write the record of the actor that has waited longest."""
        self._due = False
        if not self._done:
            return
        principal = next(iter(self._done))
        written = self._record(principal)
        if self._done:
            self._due = True
            first = next(iter(self._done.values())).first
            age = self._clock.now() - first
            self._timers.call_later(max(PAUSE, WAIT - age) if written else WAIT, self._write)

    def _record(self, principal: Principal) -> bool:
        done = self._done.pop(principal)
        try:
            with self._store.transaction():
                self._gate.attribute(principal)
                self._audit.note(done.event(principal.pid))
        except KernelError as failure:  # a full disk: it goes into a later one
            log.warning("changes of %s in /shared are recorded later: %s", principal.name, failure)
            self._done[principal] = done
            return False
        return True

    def flush(self) -> None:
        """Write everything now: the system ends."""
        for principal in list(self._done):
            self._record(principal)
