"""The maid: looks at everything every 15 s, puts right what is not, and reports."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import trio

from agentfs.base.clock import rfc3339
from agentfs.machine.logs import rotate
from agentfs.machine.programs import Programs
from agentfs.process.agents import Agents
from agentfs.process.settings import ProcessSettings
from agentfs.process.supervisor import Supervisor
from agentfs.process.table import ProcessTable
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged, HealthChecked
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Maid"]

log = logging.getLogger(__name__)

# Below this part of the machine's memory the report says so: then Linux starts to reclaim hard.
LOW_MEMORY = 0.05


class Maid(Part):
    """`report` says what the last round found, for /sys/health; `rounds` counts them."""

    def __init__(
        self,
        ground: Ground,
        table: ProcessTable,
        agents: Agents,
        programs: Programs,
        supervisor: Supervisor,
    ) -> None:
        self._parts = ground.parts
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._table = table
        self._agents = agents
        self._programs = programs
        self._supervisor = supervisor
        self.report: dict[str, Any] = {"Ok": True, "Checked": "never"}
        self.rounds = 0
        self._changed = trio.Event()
        ground.events.listen(self._heard, ConfigChanged)

    async def run(self) -> None:
        """A round every `maid_interval`, until cancelled."""
        while True:
            await self._rest()
            try:
                await self.clean_disk()
                self.scan()
            except Exception:
                log.exception("a round of the maid failed")

    async def _rest(self) -> None:
        """Until the next round is due, by what the configuration says at the moment."""
        began = trio.current_time()
        while True:
            self._changed = trio.Event()
            interval = self._settings.of(ProcessSettings).maid_interval
            with trio.move_on_at(began + interval):
                await self._changed.wait()
                continue
            return

    def _heard(self, record: Record) -> None:
        if isinstance(record.event, ConfigChanged):
            self._changed.set()

    def scan(self) -> None:
        """One round: everything that takes no time."""
        report: dict[str, Any] = {"Ok": True, "Checked": rfc3339(self._clock.now())}
        report["Reaped"] = self._supervisor.reap_overdue()
        report["Orphans"] = self._adopt_orphans()
        report["Lost programs"] = self._supervisor.take_up_lost()
        self._programs.reap_orphans(all_of_them=True)
        self._programs.look()
        self._programs.tidy()
        tasks = self._parts.each(Part.tidy)
        faults = [f"hook {call!r} failed" for call in tasks if not self._call(call)]
        processes = list(self._table)
        alive = sum(process.state.alive for process in processes)
        report["Processes"] = alive
        report["Zombies"] = len(processes) - alive
        report["Programs"] = len(self._programs)
        total, available = _memory()
        report["Memory available"] = f"{available // 1024} kB of {total // 1024} kB"
        if available < LOW_MEMORY * total:
            faults.append("memory is low")
        if self._store.is_full:
            faults.append("the disk of the state directory is full")
        faults += filter(None, (ask() for ask in self._parts.each(Part.complaint)))
        if report["Orphans"] or report["Lost programs"]:
            faults.append("processes had to be put right")
        report["Ok"] = not faults
        if faults:
            report["Faults"] = "; ".join(faults)
            log.warning("health: %s", report["Faults"])
        news = report.get("Faults") != self.report.get("Faults")
        self.report = report
        self.rounds += 1
        checked = HealthChecked(not faults)
        if news:
            self._events.emit(checked)
        else:
            self._events.hint(checked)  # /sys/health shows when it was checked

    @staticmethod
    def _call(call: Any) -> bool:
        try:
            call()
        except Exception:
            log.exception("a task of the maid failed")
            return False
        return True

    def _adopt_orphans(self) -> int:
        """There are none, unless something went wrong: they are adopted when their parent ends."""
        orphans = self._table.orphans()
        for process in orphans:
            self._supervisor.adopt(process)
        return len(orphans)

    async def clean_disk(self) -> None:
        """Rotate the logs that are too long, delete the files of removed agents."""
        limit = self._settings.of(ProcessSettings).log_size
        paths = [self._agents.log_path(p.name) for p in self._table if p.exec]
        await trio.to_thread.run_sync(_rotate_all, paths, limit)
        await trio.to_thread.run_sync(self._agents.empty_trash, abandon_on_cancel=True)


def _rotate_all(paths: Iterable[Path], limit: int) -> None:
    for path in paths:
        rotate(path, limit)


def _memory() -> tuple[int, int]:
    """(all, available) bytes of the machine's memory."""
    sizes = {}
    with open("/proc/meminfo") as file:
        for line in file:
            name, _, rest = line.partition(":")
            sizes[name] = int(rest.split()[0]) * 1024
    return sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemFree"])
