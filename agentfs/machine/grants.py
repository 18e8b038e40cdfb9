"""What the programs of a process may do and use, as this room has to know it."""

from __future__ import annotations

from typing import Protocol

from agentfs.machine.confine import Confinement
from agentfs.machine.rlimits import Bounds
from agentfs.model.process import Process

__all__ = ["Grants"]


class Grants(Protocol):
    """Rules and limits are others' matter: they are asked whenever a program starts."""

    def confinement(self, process: Process) -> Confinement:
        """What the programs of `process` may do."""

    def may_use_memory(self, process: Process) -> bool:
        """Whether they may use the agent's memory."""

    def may_use_models(self, process: Process) -> bool:
        """Whether they may call models."""

    def may_have_secrets(self, process: Process) -> bool:
        """Whether they are handed the `env` of the definition."""

    def bounds(self, process: Process) -> Bounds:
        """How much they may use together."""
