"""The nodes that call hooks: see `agentfs.manifests.hooks`, which adds them to plans."""

from __future__ import annotations

import errno
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.executors.tasks import StepTasks
from agentfs.executors.tools import call_tool
from agentfs.store.ground import Ground
from agentfs.tooling.tooling import Tooling
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step

__all__ = ["HookNodes"]

MAY_SAY = {
    "pre-run": frozenset({"veto", "input"}),
    "pre-node": frozenset({"veto", "input"}),
    "post-node": frozenset({"output"}),
    "post-run": frozenset[str](),
}


class HookNodes:
    """The output is what the engine is to do: `veto`, `input`, `output`; with `failed` the hook has
    failed, and that is ignored."""

    def __init__(self, ground: Ground, engine: Engine, tooling: Tooling) -> None:
        self._tooling = tooling
        self._steps = engine.steps
        self.nodes = StepTasks(ground.store, engine, "hook", self._call)

    async def _call(self, step: Step) -> dict[str, Any]:
        spec, words = step.spec, f"hook {step.spec['tool']}: "
        try:
            said = await self._asked(step)
        except KernelError as failure:
            if spec["on_failure"] == "ignore":
                return {"failed": failure.reason}
            said = {"veto": f"it failed: {failure.reason}"}
        if "veto" not in said:
            return said
        if spec["on"] == "pre-node":
            return {
                "veto": f"EPERM: {words}{said['veto']}"
            }  # the node fails by it, and not the hook
        raise KernelError(errno.EPERM, f"{words}{said['veto']}")

    async def _asked(self, step: Step) -> dict[str, Any]:
        """What the tool wants. Raises KernelError if it has failed, or says what it may not."""
        on, seconds = step.spec["on"], step.spec["timeout"]
        said: Any = None
        with trio.move_on_after(seconds) as scope:
            said = await call_tool(self._tooling, step, step.spec["tool"], step.input)
        if scope.cancelled_caught:
            raise KernelError(errno.ETIMEDOUT, f"it did not answer in {seconds:g} s")
        may = MAY_SAY[on]
        if on.startswith("post-"):  # tools that only look may say anything
            return {key: said[key] for key in may if key in said} if isinstance(said, dict) else {}
        if said in (None, ""):
            return {}
        if not isinstance(said, dict) or not may.issuperset(said):
            raise KernelError(errno.EINVAL, "it answered with more than `veto` or `input`")
        if on == "pre-run" and "input" in said:
            self._steps.check(step.plan.input_schema, said["input"], "the input that it gives")
        return said
