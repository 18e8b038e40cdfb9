"""What the programs of each process may do and use, by its capabilities and its limits."""

from __future__ import annotations

from agentfs.machine.confine import Confinement
from agentfs.machine.rlimits import Bounds
from agentfs.model.process import Process
from agentfs.process.ceilings import Ceilings
from agentfs.rights.policy import Policy

__all__ = ["OF_PROGRAMS", "ProgramGrants"]

OF_PROGRAMS = ("max_memory_mb", "max_cpu_seconds", "max_pids")
"""The limits that the machine sees to, in the order of `Bounds`."""


class ProgramGrants:
    """The `machine.grants.Grants` of this system."""

    def __init__(self, policy: Policy, ceilings: Ceilings) -> None:
        self._policy = policy
        self._ceilings = ceilings

    def confinement(self, process: Process) -> Confinement:
        return Confinement.of(self._policy.capabilities(process).allows)

    def may_use_memory(self, process: Process) -> bool:
        return self._policy.capabilities(process).allows("memory")

    def may_use_models(self, process: Process) -> bool:
        return self._policy.capabilities(process).allows("llm")

    def may_have_secrets(self, process: Process) -> bool:
        return self._policy.capabilities(process).allows("secret")

    def bounds(self, process: Process) -> Bounds:
        return Bounds(*(self._ceilings.whole(process, name) for name in OF_PROGRAMS))
