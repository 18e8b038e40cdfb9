"""The limits of processes as they are read and set, and what each process uses of them.

Other modules enforce them: see `process.ceilings`.
"""

from __future__ import annotations

import errno
import logging
import re
from dataclasses import replace
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.machine.programs import Programs
from agentfs.model.principal import INIT, Principal
from agentfs.model.process import Process
from agentfs.process.ceilings import NAMES, Ceilings
from agentfs.process.events import ProcessReparented
from agentfs.process.grants import OF_PROGRAMS
from agentfs.process.table import ProcessTable
from agentfs.quota.events import LimitChanged
from agentfs.rights.gate import Gate
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["NONE", "ProcessLimits", "shown"]

log = logging.getLogger(__name__)

NONE = "max"
"""How no limit is written."""

_WHOLE, _DOLLARS = re.compile(r"[0-9]{1,18}"), re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")


def shown(number: float | None) -> str:
    """A limit or a use of one as files show it: plain decimal, with 6 places at most."""
    if number is None:
        return NONE
    return str(number) if isinstance(number, int) else f"{number:.6f}".rstrip("0").rstrip(".")


def _parse(name: str, text: str) -> int | float | None:
    """Raises EINVAL."""
    if text == NONE:
        return None
    dollars = name == "max_cost_usd"
    if not (_DOLLARS if dollars else _WHOLE).fullmatch(text):
        kind = "an amount in dollars, like 2.50" if dollars else "a whole number"
        raise KernelError(errno.EINVAL, f"{name}: {kind}, or {NONE}, was expected, not {text!r}")
    return float(text) if dollars else int(text)


class ProcessLimits(Part):
    """The system call that sets one, and the numbers."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        ceilings: Ceilings,
        programs: Programs,
    ) -> None:
        self._parts = ground.parts
        self._events = ground.events
        self._gate = gate
        self._table = table
        self._ceilings = ceilings
        self._programs = programs
        self._general = self._generally()
        self._events.listen(self._heard, LimitChanged, ProcessReparented, ConfigChanged)

    def set(self, principal: Principal, pid: int, name: str, text: str) -> None:
        """Set the limit `name` of process `pid` itself: a number, or `max`. It may be below what is
        used already: then nothing more is let through. ESRCH, EINVAL; EPERM unless it is lowered by
        the process, its parent or the operator, or raised by its parent or the operator."""
        with self._gate.enter(principal):
            process = self._table.get(pid)
            limit = _parse(name, text)
            self._require(principal, process, name, limit)
            if limit == getattr(process.limits, name):
                return
            changed: dict[str, Any] = {name: limit}
            self._table.update(process, limits=replace(process.limits, **changed))
            self._events.emit(LimitChanged(pid, process.name, name, limit))

    def _require(
        self, principal: Principal, process: Process, name: str, limit: float | None
    ) -> None:
        if process.pid == INIT:
            raise KernelError(
                errno.EPERM,
                "process 1 has no limit but that on its children, which is"
                " processes.max_children_of_init of /etc/agentfs.yaml",
                rule="limits",
            )
        if not process.state.alive:
            raise KernelError(
                errno.ESRCH, f"process {process.pid}, {process.name}, is {process.state.value}"
            )
        if principal.is_operator or principal.pid == process.ppid:
            return
        if principal.pid != process.pid:
            raise KernelError(
                errno.EPERM,
                f"the limits of {process.name} are set by itself, its parent and the operator, not"
                f" by {principal.name}",
                rule="limits",
            )
        now = getattr(process.limits, name)
        if now is not None and (limit is None or limit > now):
            raise KernelError(
                errno.EPERM,
                f"{process.name} may lower its {name}; only its parent and the operator raise it",
                rule="limits",
            )

    # -- what is used ------------------------------------------------------------------------------

    def used(self, process: Process, name: str) -> int | float:
        """The amount that counts against the limit `name` of `process` now, in the limit's unit,
        with what open calls hold. Each part tells of the limits whose uses it counts."""
        for usage in self._parts.each(Part.usage):
            used = usage(process, name)
            if used is not None:
                return used
        raise KeyError(name)

    def usage(self, process: Process, limit: str) -> float | None:
        """The amounts that the machine counts, or the table of processes."""
        match limit:
            case "max_children":
                return self._table.count_live_children(process.pid)
            case "max_memory_mb":
                return round(self._programs.measures.usage(process).memory_mb, 2)
            case "max_cpu_seconds":
                return round(self._programs.measures.usage(process).cpu_seconds, 2)
            case "max_pids":
                return self._programs.measures.tasks(process)
        return None

    def status(self, process: Process) -> str:
        """A line for each limit: its name, what is used, what holds, and where that comes from."""
        lines, ceilings = [], self._ceilings.decisive(process, NAMES)
        for name in NAMES:
            limit, source = ceilings.get(name, (None, "-"))
            lines.append(f"{name} {shown(self.used(process, name))} {shown(limit)} {source}\n")
        return "".join(lines)

    # -- programs ----------------------------------------------------------------------------------

    def _generally(self) -> tuple[int | float | None, ...]:
        """The limits on programs that the configuration has for every process."""
        return tuple(self._ceilings.general(name) for name in OF_PROGRAMS)

    def _heard(self, record: Record) -> None:
        match record.event:
            case LimitChanged(pid=pid, limit=name) if name in OF_PROGRAMS:
                self._apply(pid)
            case ProcessReparented(pid=pid):
                self._apply(pid)
            case ConfigChanged() if self._general != self._generally():
                self._general = self._generally()
                self._apply(INIT)

    def _apply(self, pid: int) -> None:
        """Put the limits of now in effect for the programs of `pid` and of everything below it."""
        process = self._table.find(pid)
        for each in [] if process is None else [process, *self._table.descendants(pid)]:
            if each.ospid is None or each.pid == INIT or not each.state.alive:
                continue
            try:
                measures = self._programs.measures
                measures.apply_limits(each, measures.limits_of(each))
            except (KernelError, OSError) as refused:  # it holds from the next start on
                log.warning("process %d, %s: %s", each.pid, each.name, refused)
