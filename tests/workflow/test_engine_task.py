"""The engine's task in trio: runs go on by themselves, and those that are synced wait for the
disk."""

from __future__ import annotations

import trio

from agentfs.workflow.model import Start
from tests.workflow.lab import Lab, data, node
from tests.world import OPERATOR


async def until(what) -> None:
    for _ in range(30_000):
        if what():
            return
        await trio.sleep(0.001)
    raise AssertionError("it never is so")


async def test_runs_go_on_by_themselves_and_synced_ones_after_the_disk(
    lab: Lab, monkeypatch
) -> None:
    store, log = lab.world.store, []
    sync = store.sync

    async def synced() -> None:
        await sync()
        log.append(f"synced, {len(lab.hands.steps)} begun")

    monkeypatch.setattr(store, "sync", synced)
    lab.pipeline(data("k", 1), node("a", needs="k"), node("b", needs="a"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.engine.run)
        nursery.start_soon(lab.world.timers.run)
        plain = lab.runs.start(OPERATOR, Start("p"))
        await until(lambda: lab.hands.steps)
        assert log == []
        lab.engine.succeed(lab.hands.steps.popitem()[0], 1)
        await until(lambda: lab.hands.steps)
        lab.engine.succeed(lab.hands.steps.popitem()[0], 2)
        await until(lambda: lab.state(plain) == "completed")
        run = lab.runs.start(OPERATOR, Start("p", sync=True))
        await until(lambda: lab.hands.steps)
        assert log == ["synced, 0 begun"]
        lab.engine.succeed(lab.hands.steps.popitem()[0], 1)
        assert lab.at_work() == []
        await until(lambda: lab.hands.steps)
        assert log == ["synced, 0 begun"] * 2
        lab.engine.succeed(lab.hands.steps.popitem()[0], 2)
        await until(lambda: lab.state(run) == "completed")
        nursery.cancel_scope.cancel()


async def test_the_files_of_forgotten_runs_are_deleted_those_of_an_earlier_daemon_too(
    lab: Lab,
) -> None:
    outputs = lab.engine.outputs
    long = "x" * 100_000
    lab.world.settings.replace("workflows: {retention: 10h}\n")
    short, kept = lab.run(data("a", long), retention=60.0), lab.run(data("a", long))
    stray = outputs.folder(99) / "artifacts"
    stray.mkdir(parents=True)
    lab.advance(61)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.retention.run)
        lab.retention.tidy()
        for _ in range(6):
            lab.advance(0.1)
        await until(lambda: outputs.runs() == [kept.id])
        assert lab.runs.find(short.id) is None
        nursery.cancel_scope.cancel()


async def test_a_run_that_is_cancelled_is_waited_for_to_its_end(lab: Lab) -> None:
    lab.pipeline(node("a"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.engine.run)
        run = lab.runs.start(OPERATOR, Start("p"))
        await until(lambda: lab.hands.steps)
        lab.runs.cancel(OPERATOR, run.id)
        await until(lambda: lab.state(run) == "cancelled")
        nursery.cancel_scope.cancel()
