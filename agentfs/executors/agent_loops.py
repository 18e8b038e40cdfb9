"""Nodes of kind `agent` that name no agent: a model with tools, as a program of the run.

    - kind: agent
      metadata: {name: look}
      spec: {prompt: "What changed in {{ folder }}?", tools: [grep_*], max_steps: 9}

The program asks the model through /dev/llm and uses files and tools as any program of the run may,
so its limits and its capabilities hold for all of that.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

from agentfs.catalog.catalog import RUNNABLE
from agentfs.catalog.entries import Model
from agentfs.executors.agents import AgentNodes
from agentfs.executors.ends import beginning
from agentfs.executors.model_choice import ModelChoice
from agentfs.executors.programs import ProgramSteps
from agentfs.manifests.plan import PlanNode
from agentfs.tooling.toolbox_process import READS
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step

__all__ = ["AgentKinds"]

PYTHON = (sys.executable, "-P", "-m", "agentfs.runner.step")

STEPS = 20
TIMEOUT = 600.0
"""Calls of the model, and seconds, if the node says nothing."""


class AgentKinds:
    """Every node of kind `agent`: by mail if it names one, else by such a program."""

    kinds = frozenset({"agent"})

    def __init__(
        self, engine: Engine, by_mail: AgentNodes, programs: ProgramSteps, models: ModelChoice
    ) -> None:
        self._engine = engine
        self._by_mail = by_mail
        self._programs = programs
        self._models = models

    def room(self, node: PlanNode) -> int | None:
        return None

    def begin(self, step: Step) -> None:
        if _names_one(step):
            self._by_mail.begin(step)
        else:
            with beginning(self._engine, step):
                self._programs.begin(self._program(step))

    def start(self, step: Step, again: bool) -> None:
        if not _names_one(step):  # a question waits since the commit in which it was sent
            self._programs.start(self._program(step), again)

    def cancel(self, step: Step) -> None:
        if _names_one(step):
            self._by_mail.cancel(step)
        else:
            self._programs.cancel(step)

    def due(self, step: Step) -> None:
        """Its question has the time, and not its row."""

    def _program(self, step: Step) -> Step:
        """The same step as a program does it. Raises EACCES, ENOENT: no such model."""
        spec = step.spec
        model = self._models.of(step.process, spec.get("model"))
        tools = spec.get("tools") or []
        task: dict[str, Any] = {
            "model": model.name,
            "context": model.context,
            "system": spec.get("system_message") or "",
            "tools": [tools] if isinstance(tools, str) else list(tools),
            "steps": int(spec.get("max_steps") or STEPS),
            "timeout": step.node.timeout or TIMEOUT,
            "schema": step.node.output_schema,
        }
        command = [*PYTHON, json.dumps(task | _spoken(model))]
        form = "text" if step.node.output_schema is None else "json"
        program = {"program": command, "stdin": "text", "output": form, "reads": READS}
        prompt = spec.get("prompt", step.input)
        given = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
        node = replace(step.node, kind="program", spec=program)
        return replace(step, node=node, spec=program, input=given)


def _names_one(step: Step) -> bool:
    return bool(step.node.spec.get("agent"))


def _spoken(model: Model) -> dict[str, Any]:
    """How a program speaks with a model."""
    provider = model.provider
    speaks = ("chat",) if provider is None else provider.speaks
    return {
        "dialect": "chat" if "chat" in speaks or not speaks else speaks[0],
        "small": provider is not None and provider.where in RUNNABLE,  # or it is a tape of one
    }
