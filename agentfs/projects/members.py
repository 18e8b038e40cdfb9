"""Lists of agents, as people write them: the members of a group, or of a project."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from agentfs.base.errors import KernelError
from agentfs.process.agents import Agents
from agentfs.projects.settings import ProjectSettings
from agentfs.store.ground import Ground

__all__ = ["Membership"]


class Membership:
    """What may be a list of members."""

    def __init__(self, ground: Ground, agents: Agents) -> None:
        self._settings = ground.settings
        self._agents = agents

    def checked(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names, each once, in their order. Raises ENOENT for one that no agent has, ENOSPC for
        too many."""
        found = tuple(dict.fromkeys(names))
        most = self._settings.of(ProjectSettings).max_members
        if len(found) > most:
            raise KernelError(
                errno.ENOSPC, f"{len(found)} members: {most} may be", rule="projects.max_members"
            )
        for name in found:
            if self._agents.find(name) is None:
                raise KernelError(errno.ENOENT, f"there is no agent {name!r}")
        return found
