"""Faults of groups of agents, of projects, and of their seeds in a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.projects import seed
from agentfs.projects.groups import AgentGroup, AgentGroups
from agentfs.projects.projects import ACTIVE, Project, Projects
from agentfs.projects.seed import Seed, SeedState
from agentfs.projects.spec import read_spec
from agentfs.store.rows import UNREADABLE, StoreRows

__all__ = ["NUMBERS", "faults"]

NUMBERS = (seed.LAST,)
"""Meta values that are numbers."""

UNSOUND = (*UNREADABLE, KernelError)
"""Exceptions of reading a record that is not what it should be."""


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    for name, record in rows.records(AgentGroups.KIND):
        yield from (f"group {name}: {fault}" for fault in _group(rows, name, record))
    projects: dict[str, Project] = {}
    for name, record in rows.records(Projects.KIND):
        try:
            project = projects[name] = Project.read(name, record)
            read_spec(project.spec)
        except UNSOUND as bad:
            yield f"project {name}: its record cannot be read: {bad!r}"
            continue
        found = _agents(rows, project.ownership.owner, project.members)
        yield from (f"project {name}: {fault}" for fault in found)
    for agent, record in rows.records(ACTIVE):
        active = projects.get(record.get("project", ""))
        if active is None or not active.has(agent):
            yield f"agent {agent}: it is no member of the project that it works on"
    yield from _seeds(rows, projects)


def _seeds(rows: StoreRows, projects: dict[str, Project]) -> Iterator[str]:
    last, known = rows.number(seed.LAST), set()
    for key, record in rows.records(seed.KIND):
        try:
            found = Seed.read(int(key), record)
            read_spec(found.spec)
        except UNSOUND as bad:
            yield f"seed {key}: its record cannot be read: {bad!r}"
            continue
        known.add(key)
        if last is not None and found.number > last:
            yield f"seed {key}: the last one has number {last} only"
        if found.project not in projects:
            yield f"seed {key}: there is no project {found.project}"
        if found.maker.owner not in rows.agents:
            yield f"seed {key}: there is no agent {found.maker.owner}, who owns it"
        idle = found.due is None and not found.run and not found.task
        if found.state is SeedState.RUNNING and idle:
            yield f"seed {key}: it is running, and nothing of it is under way"
        if not found.open and found.due is not None:
            yield f"seed {key}: it has ended, and something is to come"
    for key, _ in rows.records(seed.RESULT):
        if key not in known:
            yield f"seed {key}: there is a result and no seed"


def _group(rows: StoreRows, name: str, record: dict[str, Any]) -> Iterator[str]:
    try:
        group = AgentGroup.read(name, record)
    except UNREADABLE as bad:
        yield f"its record cannot be read: {bad!r}"
        return
    yield from _agents(rows, group.ownership.owner, group.members)


def _agents(rows: StoreRows, owner: str, members: object) -> Iterator[str]:
    """Whether its owner and its members are there."""
    if owner not in rows.agents:
        yield f"there is no agent {owner}, who owns it"
    assert isinstance(members, dict | tuple)
    for member in members:
        if member not in rows.agents:
            yield f"there is no agent {member}, who is in it"
