"""Tools that run as agents of their own: they hold secrets that no caller sees."""

from __future__ import annotations

import errno

from agentfs.base.errors import KernelError
from agentfs.catalog.secrets import Secrets
from agentfs.model.process import Process
from agentfs.process.calls import Processes
from agentfs.process.table import ProcessTable
from agentfs.tooling.document import Definition
from agentfs.tooling.own_agents import OwnAgent, OwnAgents

__all__ = ["ToolAgents", "agent_of"]

MARK = "tool"
"""In the metadata of such a process: whose it is."""


def agent_of(tool: Definition) -> str:
    """The name of its agent."""
    return f"tool-{tool.name}"[:64]


class ToolAgents:
    """Their processes, and what they are handed."""

    def __init__(self, table: ProcessTable, processes: Processes, secrets: Secrets) -> None:
        self._agents = OwnAgents(table, processes)
        self._secrets = secrets

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
        return await self._agents.process_of(
            OwnAgent(
                agent_of(tool),
                MARK,
                tool.name,
                f"Runs the tool {tool.name}, with its secrets.",
                user=tool.user,
                caps=tool.caps,
                deny=tool.deny,
                limits=tool.limits,
            )
        )

    def at_work(self, tool: Definition) -> Process | None:
        """The process of its agent, if there is one."""
        return self._agents.at_work(agent_of(tool), MARK, tool.name)

    def end(self, tool: Definition) -> None:
        """The document has it no more."""
        self._agents.end(agent_of(tool), MARK, tool.name)
