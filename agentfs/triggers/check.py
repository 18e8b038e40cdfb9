"""Faults of schedules, entities and systems in a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.base.yaml_document import DocumentError
from agentfs.manifests.system_plan import SystemPlan
from agentfs.store.rows import UNREADABLE, StoreRows
from agentfs.triggers import entity_table, schedule_table, system_table
from agentfs.triggers.entity_table import Entity, EntityType
from agentfs.triggers.schedule_table import Scheduled, ScheduleState
from agentfs.triggers.system_table import SystemRun

__all__ = ["NUMBERS", "faults"]

NUMBERS = (schedule_table.LAST,)
"""Meta values that are numbers."""

UNSOUND = (*UNREADABLE, OSError, KernelError, DocumentError)
"""Exceptions of reading a record that is not what it should be."""


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    open_ones = _open(rows)
    yield from _schedules(rows, open_ones)
    yield from _entities(rows, open_ones)
    yield from _systems(rows, open_ones)


def _open(rows: StoreRows) -> set[int]:
    """The runs and systems that have not ended."""
    final = ("completed", "failed", "cancelled", "timed_out")
    found = {int(number) for number, state in rows.read("SELECT id, state FROM runs")
             if state not in final}  # fmt: skip
    systems = rows.records(system_table.KIND)
    return found | {int(key) for key, record in systems if record.get("state") not in final}


def _schedules(rows: StoreRows, open_ones: set[int]) -> Iterator[str]:
    last = rows.number(schedule_table.LAST)
    for key, record in rows.records(schedule_table.KIND):
        what = f"schedule {key}"
        try:
            schedule = Scheduled.from_record(int(key), record)
            for moment in (schedule.next, schedule.until, schedule.made):
                rfc3339(moment or 0.0)
        except UNSOUND as bad:
            yield f"{what}: its record cannot be read: {bad!r}"
            continue
        if last is not None and schedule.number > last:
            yield f"{what}: the last one has number {last} only"
        if schedule.state.final and (schedule.next is not None or schedule.waiting):
            yield f"{what}: it has ended, and something is to come"
        if schedule.state is ScheduleState.ACTIVE and not schedule.open:
            yield f"{what}: it is active, and nothing of it is under way"
        for run in schedule.open:
            if run not in open_ones:
                yield f"{what}: run {run} is not under way"


def _entities(rows: StoreRows, open_ones: set[int]) -> Iterator[str]:
    types: dict[str, EntityType] = {}
    for name, record in rows.records(entity_table.TYPE):
        try:
            types[name] = EntityType.from_record(name, record)
        except UNSOUND as bad:
            yield f"entity type {name}: its record cannot be read: {bad!r}"
    newest: dict[tuple[str, str], tuple[int, int]] = {}
    counted = "SELECT type, id, count(*), max(seq) FROM entity_history GROUP BY type, id"
    for type_, name, count, seq in rows.read(counted):
        newest[type_, name] = (count, seq)
    for key, record in rows.records(entity_table.ENTITY):
        try:
            entity = Entity.from_record(key, dict(record))
        except UNSOUND as bad:
            yield f"entity {key}: its record cannot be read: {bad!r}"
            continue
        yield from (f"entity {key}: {fault}" for fault in _entity(entity, types, open_ones))
        if newest.pop(entity.key, (0, 0)) != (entity.seq, entity.seq):
            yield f"entity {key}: its history does not have {entity.seq} lines"
    for type_, name in newest:
        yield f"entity {type_}/{name}: there is a history and no entity"


def _entity(entity: Entity, types: dict[str, EntityType], open_ones: set[int]) -> Iterator[str]:
    kind = types.get(entity.type)
    if kind is None:
        yield f"there is no type {entity.type}"
        return
    pending = entity.pending
    for state in [entity.state, *([] if pending is None else [pending.to])]:
        if kind.machine is not None and state not in kind.machine.states:
            yield f"its machine has no state {state}"
    if pending is not None and pending.run not in open_ones:
        yield f"run {pending.run} of its transition is not under way"


def _systems(rows: StoreRows, open_ones: set[int]) -> Iterator[str]:
    plans: dict[str, Any] = dict(rows.records(system_table.PLAN))
    for key, record in rows.records(system_table.KIND):
        try:
            plan = SystemPlan.from_record(plans.pop(key))
            system = SystemRun.from_record(int(key), plan, record)
        except UNSOUND as bad:
            yield f"system {key}: its record cannot be read: {bad!r}"
            continue
        if not system.state.final and system.ending is None and not rows.lives(system.id):
            yield f"system {key}: its process is not alive"
        if system.settled > system.passes:
            yield f"system {key}: {system.settled} passes have ended of {system.passes}"
        for name, number in system.running().items():
            if system.state.final:
                yield f"system {key}: it has ended, and {name} runs"
            elif number not in open_ones and not rows.lives(number):
                yield f"system {key}: {name} is not under way"
    yield from (f"system {key}: there is a plan and no system" for key in plans)
