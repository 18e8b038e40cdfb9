"""Tools that run as agents of their own: they hold secrets that no caller sees."""

from __future__ import annotations

import errno
import hashlib
import json
import os

import trio

from agentfs.base.errors import KernelError
from agentfs.catalog.secrets import Secrets
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.model.process import Process
from agentfs.model.spec import ProcessSpec
from agentfs.process.calls import Processes
from agentfs.process.table import ProcessTable
from agentfs.tooling.document import Definition

__all__ = ["ToolAgents", "agent_of"]

MARK, TERMS = "tool", "tool_terms"
"""In the metadata of such a process: whose it is, and what of its definition it was made with."""


def agent_of(tool: Definition) -> str:
    """The name of its agent."""
    return f"tool-{tool.name}"[:64]


class ToolAgents:
    """Their processes, which have no programs but those beside them, and what they are handed."""

    def __init__(self, table: ProcessTable, processes: Processes, secrets: Secrets) -> None:
        self._table = table
        self._processes = processes
        self._secrets = secrets
        self._operator = Principal(Kind.OPERATOR, INIT, "init", os.geteuid(), os.getegid())
        self._making = trio.Lock()

    def environment(self, tool: Definition) -> dict[str, str]:
        """What a tool gets besides: its `env`, and its secrets. Raises EACCES for one that is not
        set."""
        env = dict(tool.env)
        for variable, name in tool.secrets.items():
            if name not in self._secrets:
                raise KernelError(
                    errno.EACCES,
                    f"{tool.name} needs the secret {name}, and it is not set: agentfs secret set"
                    f" {name}",
                    rule="secret",
                )
            env[variable] = self._secrets.get(name)
        return env

    def secrets_of(self, tool: Definition) -> list[str]:
        """The secrets that it has."""
        return [self._secrets.get(name) for name in tool.secrets.values() if name in self._secrets]

    async def process_of(self, tool: Definition) -> Process:
        """The process of its agent, made if there is none. Raises EEXIST if another agent has its
        name, and what a spawn raises."""
        async with self._making:
            name, terms = agent_of(tool), _terms(tool)
            found = self._table.by_name(name)
            if found is not None:
                if found.metadata.get(MARK) != tool.name:
                    raise KernelError(
                        errno.EEXIST,
                        f"{tool.name} is to run as the agent {name}, and there is another of that"
                        " name",
                    )
                if found.metadata.get(TERMS) == terms:
                    return found
                self._end(found)
            spec = ProcessSpec.model_validate(
                {
                    "name": name,
                    "role": "worker",
                    "user": tool.user,
                    "caps": None if tool.caps is None else list(tool.caps),
                    "deny": list(tool.deny),
                    "limits": dict(tool.limits),
                    "prompt": f"Runs the tool {tool.name}, with its secrets.",
                    "metadata": {MARK: tool.name, TERMS: terms},
                }
            )
            return await self._processes.spawn(self._operator, INIT, spec)

    def at_work(self, tool: Definition) -> Process | None:
        """The process of its agent, if there is one."""
        found = self._table.by_name(agent_of(tool))
        return found if found is not None and found.metadata.get(MARK) == tool.name else None

    def end(self, tool: Definition) -> None:
        """The document has it no more."""
        found = self.at_work(tool)
        if found is not None:
            self._end(found)

    def _end(self, process: Process) -> None:
        self._processes.signal(self._operator, process.pid, "KILL")


def _terms(tool: Definition) -> str:
    said = [tool.user, tool.caps, tool.deny, dict(tool.limits)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
