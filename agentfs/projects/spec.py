"""`spec.yaml` of a project: what its seeds have to reach, and who does each of their phases."""

from __future__ import annotations

import enum
import errno
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from agentfs.base.errors import KernelError
from agentfs.base.models import read_model
from agentfs.manifests.plan import Plan

__all__ = [
    "DEFAULT",
    "LONGEST",
    "Phase",
    "ProjectSpec",
    "pipeline_name",
    "pipeline_of",
    "read_spec",
]

LONGEST = 16 * 1024
"""Bytes of it: every seed keeps the one that it was planted under."""

DEFAULT = """\
# What the seeds of this project have to reach, and what does each of their phases. A valid write
# holds for the seeds that are planted after it.
#
# description  for people
# ambiguity    0 to 1: a goal that the interview finds less clear waits for an answer (0.2)
# threshold    0 to 1: the score that is enough (0.8)
# evolutions   how often a line of seeds may evolve (3)
# phases       interview, seed, execute, evaluate, evolve: each a node as in a pipeline, or a task
#
# The input of a phase is {project, seed, goal, criteria, generation, feedback}, for evaluate and
# evolve with {result}, for evolve with {evaluation}. Its output is expected to be:
#
#   interview  {ambiguity, questions, goal, criteria}, or a number: the ambiguity
#   seed       {goal, criteria}, or a list: the criteria
#   execute    the result
#   evaluate   {score, passed, words}, or a number: the score; a program that ends with 1 says no
#   evolve     {goal, criteria}, or a text: the goal of the child
#
# If a phase is left out: interview and seed change nothing, execute and evaluate wait for a member
# to say the result and the score, and evolve gives the same goal to the child, with the evaluation
# as feedback.
#
# phases:
#   execute: {agent: writer, prompt: "{{ input.goal }} {{ input.feedback }}"}
#   evaluate: {program: ./check.sh}
description: ""
"""


class Phase(enum.Enum):
    """The phases of a seed, in their order."""

    INTERVIEW = "interview"
    SEED = "seed"
    EXECUTE = "execute"
    EVALUATE = "evaluate"
    EVOLVE = "evolve"


Part = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ProjectSpec(BaseModel):
    """The whole of it. `phases`: each a node in short or long form without a name, or `task`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: Annotated[str, Field(max_length=4096)] = ""
    ambiguity: Part = 0.2
    threshold: Part = 0.8
    evolutions: Annotated[int, Field(strict=True, ge=0, le=100)] = 3
    phases: dict[Phase, Annotated[dict[str, Any], Field(min_length=1)]] = {}

    def task(self, phase: Phase) -> dict[str, Any] | None:
        """What a phase asks of a worker; None if no task does it."""
        found = self.phases.get(phase, {}).get("task")
        return found if isinstance(found, dict) else None


def read_spec(text: str) -> ProjectSpec:
    """Read it. Raises EINVAL with every fault in the reason, EFBIG."""
    if len(text.encode("utf-8", "surrogatepass")) > LONGEST:
        raise KernelError(errno.EFBIG, f"spec.yaml has at most {LONGEST} bytes")
    spec = read_model(text, ProjectSpec, "document") or ProjectSpec()
    for phase, node in spec.phases.items():
        if "task" in node and (set(node) != {"task"} or not isinstance(node["task"], dict)):
            raise KernelError(
                errno.EINVAL,
                f"phases.{phase.value}: `task` stands alone, and is a map of requirements, priority"
                " and timeout",
            )
        if "name" in node or "metadata" in node:
            raise KernelError(
                errno.EINVAL, f"phases.{phase.value}: it has no name: it is called {phase.value}"
            )
    return spec


def pipeline_name(phase: Phase) -> str:
    """What the run of a phase says as its pipeline; there is no document of that name."""
    return f"seed.{phase.value}"


def pipeline_of(phase: Phase, node: dict[str, Any]) -> str:
    """The manifest of the one node that does a phase."""
    name = phase.value
    named = {"metadata": {"name": name}} if "kind" in node else {"name": name}
    manifest = {
        "kind": "Pipeline",
        "metadata": {"name": pipeline_name(phase)},
        "spec": {"nodes": [named | node], "output": f"{{{{ nodes.{name} }}}}"},
    }
    return json.dumps(manifest)


def is_program(plan: Plan) -> bool:
    """Whether the one node of it is a program: its exit code is an answer."""
    return [node.kind for node in plan.graph.nodes] == ["program"]
