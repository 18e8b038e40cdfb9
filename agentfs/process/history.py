"""The processes that have ended within a week: the code of each, and the last line it wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentfs.base.clock import rfc3339
from agentfs.process.events import ProcessExited
from agentfs.process.table import ProcessTable
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["KEPT", "MOST", "History"]

KIND = "ended"
KEPT = 7 * 86_400.0
"""Seconds that an end is kept."""

MOST = 1000
"""Ends that are kept, the newest: some 300 KB."""


class History(Part):
    """The newest ends. Written when a process has ended, dropped by the maid or for newer ones."""

    def __init__(self, ground: Ground, table: ProcessTable) -> None:
        self._store = ground.store
        self._table = table
        self._clock = ground.clock
        kept = [(int(key), record) for key, record in self._store.records(KIND)]
        self._ends: dict[int, dict[str, Any]] = dict(sorted(kept))
        ground.events.listen(self._heard, ProcessExited)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Those that are not too old, by pid."""
        oldest = rfc3339(self._clock.now() - KEPT)
        return iter([end for end in self._ends.values() if end["ended"] > oldest])

    def __len__(self) -> int:
        return len(self._ends)

    def _heard(self, record: Record) -> None:
        process = None if record.pid is None else self._table.find(record.pid)
        if process is None or process.light:  # what a run did is in its own directory
            return
        lines = [line for line in process.output.split("\n") if line.strip()]
        last = f": {lines[-1].strip()[:200]}" if lines else ""
        code = process.exit_code
        words = "an unknown code" if code is None or code < 0 else f"code {code}"
        end = {
            "pid": process.pid,
            "ppid": process.ppid,
            "agent": process.name,
            "role": process.role.value,
            "tier": process.tier.value,
            "restarts": process.restarts,
            "started": rfc3339(process.started),
            "ended": rfc3339(process.ended),
            "code": code,
            "why": f"{words}{last}",
        }
        with self._store.transaction():
            self._store.put_record(KIND, str(process.pid), end)
            if len(self._ends) >= MOST:
                self._drop(next(iter(self._ends)))
            self._ends[process.pid] = end

    def _drop(self, pid: int) -> None:
        self._store.delete_record(KIND, str(pid))
        del self._ends[pid]

    def tidy(self) -> None:
        """Drop what is too old, a batch at once."""
        oldest = rfc3339(self._clock.now() - KEPT)
        old = [pid for pid, end in self._ends.items() if end["ended"] <= oldest][:200]
        if old:
            with self._store.transaction():
                for pid in old:
                    self._drop(pid)
