"""/sys: the system's own figures."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from agentfs.base.errors import KernelError
from agentfs.model.process import State
from agentfs.providers.accounting import AccountingDirectory
from agentfs.providers.audit import AuditDirectory
from agentfs.providers.caps import SysCapsDirectory
from agentfs.providers.groups import CgroupDirectory
from agentfs.store.event import Event
from agentfs.store.events import HealthChecked
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change
from agentfs.vfs.declare import directory, live, transaction, value
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Directory
from agentfs.vfs.table import Table, modified

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["Figures", "SysDirectory"]

Figures = Callable[[], Mapping[str, int]]
"""The figures of whoever serves the tree: the mount's statistics."""

COUNTERS = frozenset(
    {
        "requests",
        "requests_deferred",
        "faults",
        "interrupts",
        "invalidations",
        "announced",
        "announcements_lost",
    }
)
"""Those of the mount's figures that only grow."""


class SysDirectory(Table):
    """/sys: version, health and figures."""

    PATH = "/sys"

    def __init__(self, kernel: Kernel, figures: Figures) -> None:
        self.kernel = kernel
        self.key = ("sys",)
        self._figures = figures
        self._audit = AuditDirectory(kernel)
        self._caps = SysCapsDirectory(kernel)
        self._accounting = AccountingDirectory(kernel)
        self._groups = CgroupDirectory(kernel)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Kernel(self))

    def owner(self) -> Owner:
        return Owner(*self.kernel.owner, int(self.kernel.started * 1e9))

    @value("version", example="0.1.0")
    def version(self) -> str:
        """The release of the kernel."""
        return self.kernel.version

    @value("boot_id", example="5f0c1d2e3a4b5c6d")
    def boot_id(self) -> str:
        """Another one with each start of the daemon."""
        return self.kernel.events.boot

    @value("health", on=(HealthChecked,), example="Ok:\tyes\nChecked:\t2026-11-21T09:00:00.123Z\n…")
    def health(self) -> str:
        """The maid's last report, `Key:\\tvalue` a line: whether all is well, when it looked, and
        what it found and put right."""
        return fields(*self.kernel.supervisor.maid.report.items())

    @live("shares", example="parked  4000  400  12  3  waiting reads and writes  bob 10, alice 2")
    def shares(self) -> str:
        """What all have together, a pot a line below a headline: how much there is of it (SIZE),
        how much of that is for the operator alone (RESERVED), how much is USED, by how many
        (HOLDERS), of what (UNIT), and the three who hold most. The operator is not bounded by what
        others hold; see resources.md."""
        return self.kernel.shares.table()

    @transaction(
        "can",
        0o666,
        example="alice send /agents/bob/inbox",
        errors={
            "EINVAL": "not AGENT ACTION PATH, or an unknown action",
            "ENOENT": "there is no such agent",
            "ESRCH": "no process of it is alive",
        },
    )
    async def can(self, request: bytes, caller: Caller) -> str:
        """Write `AGENT ACTION PATH`; read, `Key:\\tvalue` a line, whether it is allowed, and the
        rule that decides with its text; also the capability that is needed as well, whose approval,
        and why not."""
        self.kernel.gate.actor(caller.principal)
        words = as_text(request).strip().split(" ", 2)
        if len(words) != 3:
            raise KernelError(errno.EINVAL, "AGENT ACTION PATH were expected")
        return fields(*self.kernel.explanations.explain(*words).pairs())

    @directory("audit")
    def audit(self) -> Directory:
        """Who changed what, and who was refused."""
        return self._audit

    @directory("caps")
    def caps(self) -> Directory:
        """The names of capabilities, and what roles have."""
        return self._caps

    @directory("accounting")
    def accounting(self) -> Directory:
        """Who has used how much of models and tools, and what it cost."""
        return self._accounting

    @directory("cgroup", 0o777)
    def cgroup(self) -> Directory:
        """Groups of processes, and what each may use."""
        return self._groups

    @live("stats", example='{"processes": {"idle": 10, …}, "agents": 12, …}')
    def stats(self) -> str:
        """The system's figures as one JSON object: processes by state, agents, messages waiting and
        claimed, events, system calls, refusals and commits since the start, and the mount's own."""
        return json.dumps(self.read())

    @live("metrics", example='agentfs_processes{state="idle"} 10.0\n…')
    def metrics(self) -> bytes:
        """The same in Prometheus text format, and how long each kind of request, and each other
        step of the event loop, held it: `agentfs_loop_held_seconds`."""
        return generate_latest(self._registry)

    def read(self) -> dict[str, Any]:
        """All figures of this moment."""
        kernel = self.kernel
        states = [process.state for process in kernel.table]
        waiting = claimed = dead = 0
        for name in kernel.agents:
            box = kernel.mail.mailbox(name)
            waiting += len(box.new)
            claimed += len(box.cur)
            dead += len(box.dead)
        return {
            "uptime": round(max(0.0, kernel.clock.now() - kernel.started), 3),
            "processes": {state.value: states.count(state) for state in State},
            "agents": len(kernel.agents),
            "messages": {"waiting": waiting, "claimed": claimed, "dead": dead},
            "events": kernel.events.last,
            "calls": kernel.gate.calls,
            "refusals": kernel.refusals.count,
            "commits": kernel.store.commits,
            "timers": len(kernel.timers),
            "mount": dict(self._figures()),
        }

    def changes(self, event: Event) -> Iterable[Change]:
        """What an event changes in here."""
        yield from modified(SysDirectory, self.key, event)
        yield from self._caps.changes(event)
        yield from self._accounting.changes(event)
        yield from self._groups.changes(event)


class _Kernel(Collector):
    """The figures as Prometheus collects them: read at the moment they are asked for."""

    def __init__(self, directory: SysDirectory) -> None:
        self._directory = directory
        self._watchdog = directory.kernel.watchdog

    def collect(self) -> Iterator[Metric]:
        figures = self._directory.read()
        yield GaugeMetricFamily(
            "agentfs_uptime_seconds", "since the daemon started", value=figures["uptime"]
        )
        for name, label in (("processes", "state"), ("messages", "folder")):
            family = GaugeMetricFamily(f"agentfs_{name}", f"{name} by {label}", labels=[label])
            for part, number in figures[name].items():
                family.add_metric([part], number)
            yield family
        for name in ("agents", "timers"):
            yield GaugeMetricFamily(f"agentfs_{name}", name, value=figures[name])
        for name in ("events", "calls", "refusals", "commits"):
            yield CounterMetricFamily(f"agentfs_{name}", name, value=figures[name])
        for name, number in sorted(figures["mount"].items()):
            kind = CounterMetricFamily if name in COUNTERS else GaugeMetricFamily
            yield kind(f"agentfs_mount_{name}", f"{name} of the mount", value=number)
        held = HistogramMetricFamily(
            "agentfs_loop_held_seconds",
            "how long requests and other steps held the event loop, at work or blocked",
            labels=["step"],
        )
        for step, row in sorted(self._watchdog.rows.items()):
            held.add_metric([step], list(row.buckets()), row.seconds)
        yield held
