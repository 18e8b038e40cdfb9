"""The model that a step asks."""

from __future__ import annotations

from typing import Any

from agentfs.catalog.entries import Model
from agentfs.model.process import Process
from agentfs.quota.relayed import Relayed

__all__ = ["ModelChoice"]


class ModelChoice:
    """By what the node says, and what the process of its run may ask."""

    def __init__(self, relayed: Relayed) -> None:
        self._relayed = relayed

    def of(self, process: Process, named: Any) -> Model:
        """The model that is named; else that of the process, if it may ask it, or the first that it
        may. Raises EACCES (the capability, a key that is not set), EPERM (the tier), ENOENT."""
        offered = [model.name for model in self._relayed.offered(process)]
        usual = process.model if process.model in offered or not offered else offered[0]
        model, _ = self._relayed.require(process, str(named or usual))
        return model
