"""The maid: looks at everything every 15 s, puts right what is not, and reports."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from agentfs.base.clock import rfc3339
from agentfs.machine.logs import rotate
from agentfs.process.settings import ProcessSettings
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged, HealthChecked
from agentfs.store.part import Part

if TYPE_CHECKING:
    from agentfs.process.supervisor import Supervisor

__all__ = ["Maid"]

log = logging.getLogger(__name__)

# Below this part of the machine's memory the report says so: then Linux starts to reclaim hard.
LOW_MEMORY = 0.05


class Maid:
    """`report` is what the last round found; `text` the same as lines for /sys/health."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.report: dict[str, Any] = {"Ok": True, "Checked": "never"}
        self.rounds = 0
        self._changed = trio.Event()
        supervisor.events.listen(self._heard, ConfigChanged)

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
            interval = self._supervisor.settings.of(ProcessSettings).maid_interval
            with trio.move_on_at(began + interval):
                await self._changed.wait()
                continue
            return

    def _heard(self, record: Record) -> None:
        if isinstance(record.event, ConfigChanged):
            self._changed.set()

    def scan(self) -> None:
        """One round. Everything but what takes time."""
        supervisor = self._supervisor
        report: dict[str, Any] = {"Ok": True, "Checked": rfc3339(supervisor.clock.now())}
        report["Reaped"] = self._reap_overdue()
        report["Orphans"] = self._adopt_orphans()
        report["Lost programs"] = self._notice_lost()
        supervisor.programs.reap_orphans(all_of_them=True)
        supervisor.programs.look()
        supervisor.programs.tidy()
        tasks = supervisor.parts.each(Part.tidy)
        faults = [f"hook {call!r} failed" for call in tasks if not self._call(call)]
        processes = list(supervisor.table)
        alive = sum(process.state.alive for process in processes)
        report["Processes"] = alive
        report["Zombies"] = len(processes) - alive
        report["Programs"] = len(supervisor.programs)
        total, available = _memory()
        report["Memory available"] = f"{available // 1024} kB of {total // 1024} kB"
        if available < LOW_MEMORY * total:
            faults.append("memory is low")
        if supervisor.store.is_full:
            faults.append("the disk of the state directory is full")
        faults += filter(None, (ask() for ask in supervisor.parts.each(Part.complaint)))
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
            supervisor.events.emit(checked)
        else:
            supervisor.events.hint(checked)  # /sys/health shows when it was checked

    @staticmethod
    def _call(call: Any) -> bool:
        try:
            call()
        except Exception:
            log.exception("a task of the maid failed")
            return False
        return True

    def _reap_overdue(self) -> int:
        """Ended processes that nobody waited for."""
        supervisor = self._supervisor
        patience = supervisor.settings.of(ProcessSettings).zombie_timeout
        now = supervisor.clock.monotonic()
        overdue = [pid for pid, at in supervisor.ended_at.items() if now - at >= patience]
        for pid in overdue:
            process = supervisor.table.find(pid)
            if process is None:
                supervisor.ended_at.pop(pid, None)
            else:
                supervisor.reap(process)
        return len(overdue)

    def _adopt_orphans(self) -> int:
        """There are none, unless something went wrong: they are adopted when their parent ends."""
        orphans = self._supervisor.table.orphans()
        for process in orphans:
            self._supervisor.adopt(process)
        return len(orphans)

    def _notice_lost(self) -> int:
        lost = self._supervisor.lost()
        for process in lost:
            self._supervisor.ended(process, None)
        stranded = self._supervisor.stranded()
        for process in stranded:
            self._supervisor.start_again(process, "found without a program")
        return len(lost) + len(stranded)

    async def clean_disk(self) -> None:
        """Rotate the logs that are too long, delete the files of removed agents."""
        supervisor = self._supervisor
        limit = supervisor.settings.of(ProcessSettings).log_size
        paths = [supervisor.agents.log_path(p.name) for p in supervisor.table if p.exec]
        await trio.to_thread.run_sync(_rotate_all, paths, limit)
        await trio.to_thread.run_sync(supervisor.agents.empty_trash, abandon_on_cancel=True)


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
