"""Agents that the kernel makes for what works apart from every caller: a tool with secrets, the
programs that judge tasks. They have no program of their own, but those beside them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from agentfs.base.errors import KernelError
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.model.process import Process
from agentfs.model.spec import ProcessSpec
from agentfs.process.calls import Processes
from agentfs.process.table import ProcessTable

__all__ = ["OwnAgent", "OwnAgents"]


@dataclass(frozen=True, slots=True)
class OwnAgent:
    """What its process is made with. `mark` and `of` are an entry of its metadata, by which it is
    told from another agent of its name. `user`, `caps`, `deny`, `limits` and `tier` as in a
    spec."""

    name: str
    mark: str
    of: str
    prompt: str
    user: str | None = None
    caps: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    limits: Mapping[str, object] = field(default_factory=dict, hash=False)
    tier: str | None = None

    @property
    def terms(self) -> str:
        """A word for what its process is made with: another one is made for others."""
        said = [self.user, self.caps, self.deny, dict(self.limits), self.tier]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


class OwnAgents:
    """Their processes."""

    def __init__(self, table: ProcessTable, processes: Processes) -> None:
        self._table = table
        self._processes = processes
        self._operator = Principal(Kind.OPERATOR, INIT, "init", os.geteuid(), os.getegid())
        self._making = trio.Lock()

    async def process_of(self, agent: OwnAgent) -> Process:
        """The process of an agent, made if there is none. Raises EEXIST if another agent has its
        name, and what a spawn raises."""
        async with self._making:
            found = self._table.by_name(agent.name)
            if found is not None:
                if found.metadata.get(agent.mark) != agent.of:
                    raise KernelError(
                        errno.EEXIST,
                        f"{agent.of} is to run as the agent {agent.name}, and there is another of"
                        " that name",
                    )
                if found.metadata.get(f"{agent.mark}_terms") == agent.terms:
                    return found
                self._end(found)
            spec = ProcessSpec.model_validate(
                {
                    "name": agent.name,
                    "role": "worker",
                    "tier": agent.tier,
                    "user": agent.user,
                    "caps": None if agent.caps is None else list(agent.caps),
                    "deny": list(agent.deny),
                    "limits": dict(agent.limits),
                    "prompt": agent.prompt,
                    "metadata": {agent.mark: agent.of, f"{agent.mark}_terms": agent.terms},
                }
            )
            return await self._processes.spawn(self._operator, INIT, spec)

    def at_work(self, name: str, mark: str, of: str) -> Process | None:
        """The process of an agent, if there is one."""
        found = self._table.by_name(name)
        return found if found is not None and found.metadata.get(mark) == of else None

    def end(self, name: str, mark: str, of: str) -> None:
        """Nothing needs it any more."""
        found = self.at_work(name, mark, of)
        if found is not None:
            self._end(found)

    def _end(self, process: Process) -> None:
        self._processes.signal(self._operator, process.pid, "KILL")
