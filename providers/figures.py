"""/sys/stats/system and /sys/metrics: the figures of the whole system."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from agentfs.base.build import build
from agentfs.model.process import State
from agentfs.providers.system_table import SystemTable
from agentfs.vfs.declare import live
from agentfs.vfs.table import AddedRows

if TYPE_CHECKING:
    from agentfs.providers.sys import SysDirectory

__all__ = ["FigureRows", "MountFigures", "StatsDirectory"]

MountFigures = Callable[[], Mapping[str, int]]
"""Gives the statistics of the mount that serves the tree."""

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


class StatsDirectory(SystemTable):
    """/sys/stats: figures of the system, and of each agent."""

    PATH = "/sys/stats"
    WHAT = "Figures of the system, and of each agent."
    key = ("stats",)

    def __init__(self, above: SysDirectory) -> None:
        super().__init__(above)
        self._figures = SystemFigures(above)

    @live("system", example='{"processes": {"idle": 10, …}, "agents": 12, …}')
    def system(self) -> str:
        """The system's figures as one JSON object: processes by state, agents, messages waiting and
        claimed, events, system calls, refusals and commits since the start, calls and restarts of
        the gateway, and the mount's own."""
        return json.dumps(self._figures.read())

    @live(
        "kernel",
        example='{"state": "running", "version": "0.1.0", "build": "pure", "boot": "5f0c…"}',
    )
    def kernel_file(self) -> str:
        """state (running, or faulty: /sys/health says how), version,
        build (pure, or compiled) and boot_id, as JSON."""
        healthy = self.kernel.maid.report.items()
        state = "faulty" if dict(healthy).get("Ok") is False else "running"
        said = {"state": state, "version": self.kernel.version, "build": build()}
        return json.dumps(said | {"boot": self.kernel.events.boot})

    @live("workers", example='{"total": 5, "active": 4, "lost": 1}')
    def workers(self) -> str:
        """How many workers there are, and how many are active and lost, as JSON."""
        counts = self.kernel.workers.counts()
        return json.dumps({"total": sum(counts.values())} | counts)

    @live("tasks", example='{"total": 12, "by_status": {"pending": 0, "validated": 3, …}}')
    def tasks(self) -> str:
        """How many tasks there are, and how many are in each state, as JSON."""
        counts = self.kernel.tasks.counts()
        return json.dumps({"total": sum(counts.values()), "by_status": counts})

    @live("uptime", example="3600.214")
    def uptime(self) -> str:
        """Seconds since the daemon started."""
        return f"{self._figures.uptime():.3f}"


class FigureRows(AddedRows):
    """The same figures for who collects them."""

    INTO = "/sys"

    def __init__(self, directory: SysDirectory) -> None:
        super().__init__(directory)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Kernel(SystemFigures(directory)))

    @live("metrics", example='agentfs_processes{state="idle"} 10.0\n…')
    def metrics(self) -> bytes:
        """The figures of `stats/system` in Prometheus text format, and how long each kind of
        request, and each other step of the event loop, held it: `agentfs_loop_held_seconds`."""
        return generate_latest(self._registry)


class SystemFigures:
    """The figures of the whole system."""

    def __init__(self, directory: SysDirectory) -> None:
        self.kernel = directory.kernel
        self._of_mount = directory.figures

    def uptime(self) -> float:
        """Seconds since the daemon started."""
        return max(0.0, self.kernel.clock.now() - self.kernel.started)

    def read(self) -> dict[str, Any]:
        """All figures of this moment."""
        kernel, gateway = self.kernel, self.kernel.gateway
        states = [process.state for process in kernel.table]
        waiting = claimed = dead = 0
        for name in kernel.agents:
            box = kernel.mail.mailbox(name)
            waiting += len(box.new)
            claimed += len(box.cur)
            dead += len(box.dead)
        return {
            "uptime": round(self.uptime(), 3),
            "processes": {state.value: states.count(state) for state in State},
            "agents": len(kernel.agents),
            "messages": {"waiting": waiting, "claimed": claimed, "dead": dead},
            "events": kernel.events.last,
            "calls": kernel.gate.calls,
            "refusals": kernel.refusals.count,
            "commits": kernel.store.commits,
            "timers": len(kernel.timers),
            "gateway": {"calls": gateway.calls, "restarts": gateway.restarts},
            "mount": dict(self._of_mount()),
        }


class _Kernel(Collector):
    """The figures as Prometheus collects them: read at the moment they are asked for."""

    def __init__(self, figures: SystemFigures) -> None:
        self._figures = figures
        self._watchdog = figures.kernel.watchdog

    def collect(self) -> Iterator[Metric]:
        figures = self._figures.read()
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
        gateway = figures["gateway"]
        yield GaugeMetricFamily(
            "agentfs_gateway_calls", "calls of models in flight", value=gateway["calls"]
        )
        yield CounterMetricFamily(
            "agentfs_gateway_restarts",
            "how often the gateway was started again",
            value=gateway["restarts"],
        )
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
