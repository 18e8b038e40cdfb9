"""The agent in whose name a run speaks: the one that started it."""

from __future__ import annotations

import errno

from agentfs.base.errors import KernelError
from agentfs.model.principal import Kind, Principal
from agentfs.model.process import Process
from agentfs.process.agents import Agents

__all__ = ["of_run", "starter_of"]


def of_run(process: Process) -> Principal:
    """A run as the caller of a system call."""
    return Principal(
        Kind.AGENT, process.pid, process.name, process.uid, process.gid, process.behalf
    )


def starter_of(process: Process, agents: Agents) -> Principal:
    """The agent that started a run, with the rights and the limits of the run. Raises EHOSTUNREACH
    once that agent is removed."""
    name = process.agent
    if agents.find(name) is None:
        raise KernelError(errno.EHOSTUNREACH, f"{name}, who started {process.name}, is no more")
    return Principal(Kind.AGENT, process.pid, name, process.uid, process.gid)
