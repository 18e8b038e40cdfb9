"""Nodes that a tool does: `{tool: weather, arguments: {city: "{{ input.city }}"}}`.

The run's process calls it, as a program of it would through /lib/tools/NAME/call: the same
capability, the same counts and limits, and the program of the tool has what the run has.
"""

from __future__ import annotations

import errno
import json
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.executors.replies import plain_value
from agentfs.executors.replying import read_reply
from agentfs.executors.starters import of_run
from agentfs.executors.tasks import StepTasks
from agentfs.model.process import OnLimit
from agentfs.store.ground import Ground
from agentfs.tooling.tooling import Tooling
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step

__all__ = ["ToolNodes", "call_tool"]

MOST = 64 * 1024 * 1024
"""Bytes of a result."""

SKIPPED = b"skipped "
"""A call of a process that is to skip what is beyond its limits answers so, and the rule."""


class ToolNodes:
    """The output is the result: a JSON value if it is one, else text."""

    def __init__(self, ground: Ground, engine: Engine, tooling: Tooling) -> None:
        self._tooling = tooling
        self.nodes = StepTasks(ground.store, engine, "tool", self._call, self._may_call)

    def _may_call(self, step: Step) -> None:
        self._tooling.may_use(of_run(step.process), str(step.spec["tool"]))

    async def _call(self, step: Step) -> Any:
        given = step.spec.get("arguments")
        name = str(step.spec["tool"])
        return await call_tool(self._tooling, step, name, step.input if given is None else given)


async def call_tool(tooling: Tooling, step: Step, name: str, given: Any) -> Any:
    """The result of a tool that the run calls: a JSON value if it is one, else text."""
    arguments = json.dumps(given, ensure_ascii=False).encode()
    principal = of_run(step.process)
    result = await read_reply(lambda reply: tooling.call(principal, name, arguments, reply), MOST)
    if step.process.on_limit is OnLimit.SKIP and result.startswith(SKIPPED):
        raise KernelError(errno.EDQUOT, result.decode().strip(), rule="limit")
    return plain_value(result.decode("utf-8", "replace"))
