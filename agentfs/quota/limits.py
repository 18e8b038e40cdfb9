"""The limits of processes as they are read and set, and what each process uses of them.

What enforces them is elsewhere: see `ceilings`.
"""

from __future__ import annotations

import errno
import logging
import re
from dataclasses import dataclass, replace
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.machine.programs import Programs
from agentfs.machine.rlimits import Bounds
from agentfs.mail.tasks import Tasks
from agentfs.model.principal import INIT, Principal
from agentfs.model.process import Process
from agentfs.process.ceilings import NAMES, Ceilings
from agentfs.process.events import ProcessReparented
from agentfs.process.table import ProcessTable
from agentfs.quota.events import LimitChanged
from agentfs.quota.meter import MICROS
from agentfs.quota.rates import KIND_OF, Rates
from agentfs.quota.spending import Spending
from agentfs.rights.gate import Gate
from agentfs.store.event_log import EventLog, Record
from agentfs.store.events import ConfigChanged

__all__ = ["NONE", "ProcessLimits", "shown"]

log = logging.getLogger(__name__)

NONE = "max"
"""How no limit is written."""

_WHOLE, _DOLLARS = re.compile(r"[0-9]{1,18}"), re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")
_OF_PROGRAMS = ("max_memory_mb", "max_cpu_seconds", "max_pids")


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


@dataclass(eq=False, repr=False)
class ProcessLimits:
    """The system call that sets one, and the numbers."""

    gate: Gate
    table: ProcessTable
    ceilings: Ceilings
    events: EventLog
    tasks: Tasks
    spending: Spending
    rates: Rates
    programs: Programs

    def __post_init__(self) -> None:
        self.programs.limits_of = self._of_programs
        self._general = self._generally()
        self.events.listen(self._heard, LimitChanged, ProcessReparented, ConfigChanged)

    def set(self, principal: Principal, pid: int, name: str, text: str) -> None:
        """Set the limit `name` of process `pid` itself: a number, or `max`. It may be below what is
        used already: then nothing more is let through. ESRCH, EINVAL; EPERM unless it is lowered by
        the process, its parent or the operator, or raised by its parent or the operator."""
        with self.gate.enter(principal):
            process = self.table.get(pid)
            limit = _parse(name, text)
            self._require(principal, process, name, limit)
            if limit == getattr(process.limits, name):
                return
            changed: dict[str, Any] = {name: limit}
            self.table.update(process, limits=replace(process.limits, **changed))
            self.events.emit(LimitChanged(pid, process.name, name, limit))

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
        """What counts against the limit `name` of `process` now, in the limit's unit: with what
        open calls hold. Of `timeout_seconds` the age of the oldest task, of `max_context_tokens`
        the largest call so far."""
        pid, spent = process.pid, self.spending.of(process.pid)
        match name:
            case "max_children":
                return self.table.count_live_children(pid)
            case "max_concurrent_tasks":
                return self.tasks.count(pid)
            case "timeout_seconds":
                return int(self.tasks.oldest(pid))
            case "max_tokens_per_hour":
                return self.spending.tokens_of_the_hour(pid)
            case "max_tokens_total":
                return process.tokens + spent.held_tokens
            case "max_context_tokens":
                return spent.largest
            case "max_llm_calls":
                return spent.llm_calls + spent.held_llm_calls
            case "max_tool_calls":
                return spent.tool_calls + spent.held_tool_calls
            case "max_cost_usd":
                return (spent.cost + spent.held_cost) / MICROS
            case "max_memory_mb":
                return round(self.programs.usage(process).memory_mb, 2)
            case "max_cpu_seconds":
                return round(self.programs.usage(process).cpu_seconds, 2)
            case "max_pids":
                return self.programs.tasks(process)
            case _ if name in KIND_OF:
                return self.rates.made(pid, KIND_OF[name])
        raise KeyError(name)

    def status(self, process: Process) -> str:
        """A line for each limit: its name, what is used, what holds, and where that comes from."""
        lines = []
        for name in NAMES:
            limit, source = self.ceilings.decisive(process, name) or (None, "-")
            lines.append(f"{name} {shown(self.used(process, name))} {shown(limit)} {source}\n")
        return "".join(lines)

    # -- programs ----------------------------------------------------------------------------------

    def _of_programs(self, process: Process) -> Bounds:
        return Bounds(*(self.ceilings.whole(process, name) for name in _OF_PROGRAMS))

    def _generally(self) -> tuple[int | float | None, ...]:
        """What the configuration says of programs."""
        return tuple(self.ceilings.general(name) for name in _OF_PROGRAMS)

    def _heard(self, record: Record) -> None:
        match record.event:
            case LimitChanged(pid=pid, limit=name) if name in _OF_PROGRAMS:
                self._apply(pid)
            case ProcessReparented(pid=pid):
                self._apply(pid)
            case ConfigChanged() if self._general != self._generally():
                self._general = self._generally()
                self._apply(INIT)

    def _apply(self, pid: int) -> None:
        """Have what holds now hold for the programs of `pid` and of everything below it."""
        process = self.table.find(pid)
        for each in [] if process is None else [process, *self.table.descendants(pid)]:
            if each.ospid is None or each.pid == INIT or not each.state.alive:
                continue
            try:
                self.programs.apply_limits(each, self._of_programs(each))
            except (KernelError, OSError) as refused:  # it holds from the next start on
                log.warning("process %d, %s: %s", each.pid, each.name, refused)
