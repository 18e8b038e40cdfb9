"""/sys: figures of the system."""

from __future__ import annotations

import json

from prometheus_client.parser import text_string_to_metric_families

import agentfs
from agentfs.providers.tree import build
from tests.providers.world import World


async def test_version_and_health(world: World) -> None:
    assert await world.text("/sys/version") == f"{agentfs.__version__}\n"
    assert (await world.text("/sys/health")).startswith("Ok:\tyes\n")


async def test_stats_count_what_is_there(world: World) -> None:
    await world.mail("alice", "bob")
    stats = json.loads(await world.text("/sys/stats/system"))
    assert stats["processes"]["idle"] == 3
    assert stats["agents"] == 4
    assert stats["messages"]["waiting"] == 1


async def test_metrics_are_what_prometheus_reads(world: World) -> None:
    tree = build(world.kernel, lambda: {"requests": 41, "inodes": 7})
    metrics = tree.find("/sys/metrics")
    handle = metrics.open(0, None)  # type: ignore[attr-defined]
    text = (await handle.read(0, 1 << 20)).decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["agentfs_processes", "idle"] == 3
    assert samples["agentfs_agents",] == 4
    assert samples["agentfs_mount_requests_total",] == 41
    assert samples["agentfs_mount_inodes",] == 7
    assert samples["agentfs_uptime_seconds",] >= 0
