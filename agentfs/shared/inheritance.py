"""Artifacts whose owner is gone belong to the agent above it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from agentfs.model.names import INIT_NAME
from agentfs.model.process import Process
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.shared.artifact import MAX_KEY, Artifact, Visibility, space_of
from agentfs.shared.artifact_table import ArtifactTable
from agentfs.shared.artifacts import told
from agentfs.shared.events import ArtifactPassed
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Inheritance"]


class Inheritance(Part):
    """Hands artifacts on; the limit on their number does not hold here, or some would be lost."""

    def __init__(
        self, ground: Ground, artifacts: ArtifactTable, table: ProcessTable, agents: Agents
    ) -> None:
        self._events = ground.events
        self._artifacts = artifacts
        self._table = table
        self._agents = agents

    def agent_removed(self, name: str) -> None:
        """Everything goes to the parent of its last process, or else to the agent that
        defined it, or else to init."""
        self._pass(self._artifacts.owned(name), name, self._heir(name))

    def process_ended(self, process: Process) -> None:
        """Its children have another parent now. That parent gets the artifacts that the subtree may
        read: else nobody could read them any more."""
        subtree = self._artifacts.space((Visibility.SUBTREE.value, process.name)).values()
        if subtree:
            above = (up.name for up in self._table.ancestors(process.pid) if up.state.alive)
            self._pass(subtree, process.name, next(above, INIT_NAME))

    def _heir(self, name: str) -> str:
        agent = self._agents.get(name)
        last = None if agent.pid is None else self._table.find(agent.pid)
        parent = None if last is None else self._table.find(last.ppid)
        if parent is not None and parent.name != name and self._agents.find(parent.name):
            return parent.name
        if agent.creator != name and self._agents.made(agent.creator, agent):
            return agent.creator
        return INIT_NAME

    def _pass(self, artifacts: Iterable[Artifact], name: str, heir: str) -> None:
        to = self._agents.get(heir)
        for artifact in artifacts:
            space = space_of(artifact.visibility, heir, to.uid)
            key = artifact.key
            if space != artifact.space:
                key = self._free(space, key, name)
            passed = replace(artifact, owner=heir, uid=to.uid, gid=to.gid, key=key)
            self._artifacts.put(passed)
            self._events.emit(ArtifactPassed(*told(passed), name, artifact.key, artifact.space))

    def _free(self, space: tuple[str, str], key: str, name: str) -> str:
        """The key, or `KEY.NAME` if the heir has one of its own, or `KEY.NAME.2` …"""
        number, suffix, found = 1, "", key
        while self._artifacts.find(space, found) is not None:
            suffix = f".{name}" if number == 1 else f".{name}.{number}"
            short = key.encode()[: MAX_KEY - len(suffix)].decode(errors="ignore")
            found, number = short + suffix, number + 1
        return found
