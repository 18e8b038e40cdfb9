"""/agents/NAME/memory: the durable files of an agent, in a real directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.base.within import is_directory
from agentfs.process.events import AgentChanged
from agentfs.providers.host import HostDirectory, HostTree
from agentfs.recall.events import MemoryExpired, MemoryStored
from agentfs.recall.follower import NOTES
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import directory
from agentfs.vfs.node import Directory
from agentfs.vfs.on import on
from agentfs.vfs.table import AddedRows, Entry

if TYPE_CHECKING:
    from agentfs.providers.agents import AgentDirectory

__all__ = ["MemoryRows"]


class MemoryRows(AddedRows):
    """The memory of an agent."""

    INTO = "/agents/NAME"
    KEPT = True

    def __init__(self, agent: AgentDirectory) -> None:
        super().__init__(agent)
        self._kernel = agent.kernel
        self._agent = agent
        self._folder = self._kernel.agents.memory_dir(agent.name)
        self._tree: HostTree | None = None

    def _may_use(self, caller: Caller) -> None:
        self.private_guard(caller)
        self._kernel.capabilities.require(caller.principal, "memory")

    def exists(self, entry: Entry) -> bool:
        # A person may have removed it from the state directory.
        return is_directory(os.fspath(self._folder))

    @directory("memory", 0o700, private=True)
    def memory(self) -> Directory:
        """Its own durable files: a real directory. Needs the capability `memory`."""
        if self._tree is None:
            devices = self._agent.agents.devices
            counted = self._kernel.disk.memory(self._agent.name)
            self._tree = HostTree(self._folder, self._may_use, devices, counted)
        return self._tree.root

    @on(MemoryStored)
    def _stored(self, event: MemoryStored) -> Iterator[Change]:
        notes = self._notes()
        if notes is None or self._tree is None:
            return
        if event.first:
            yield Created(self._tree.root.key, NOTES, notes)
        with suppress(KernelError):  # it is gone again
            name = f"{event.note}.md"
            yield Created(notes.key, name, notes.lookup(name))

    @on(MemoryExpired)
    def _expired(self, event: MemoryExpired) -> Iterator[Change]:
        notes = self._notes()
        if notes is None or self._tree is None:
            return
        name = f"{event.note}.md"
        gone = self._tree.known(notes, name)
        if gone is not None:
            yield Removed(notes.key, name, gone.key)
        yield Modified(notes.key)

    def _notes(self) -> HostDirectory | None:
        """The directory of notes, in which something has changed; None if nobody looked here."""
        if self._tree is None:
            return None
        self._tree.stale()
        with suppress(KernelError):
            found = self._tree.root.lookup(NOTES)
            return found if isinstance(found, HostDirectory) else None
        return None

    @on(AgentChanged)
    def _changes(self, event: AgentChanged) -> Iterator[Change]:
        # Its files may have another owner now.
        if self._tree is not None:
            yield Modified(self._tree.root.key)
