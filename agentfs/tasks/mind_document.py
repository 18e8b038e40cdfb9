"""`/etc/mind.yaml`: how the worker of a task is chosen among those that fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ModelWrapValidatorHandler, model_validator

from agentfs.base.models import Fault, check_whole, read_model
from agentfs.model.spec import seconds
from agentfs.store.live_document import Form
from agentfs.tasks.own_agent import OwnAgentForm
from agentfs.tasks.rules import Command

__all__ = ["FORM", "MindDocument"]

DEFAULT = """\
# Which worker gets a task, of those that fit and have room. A valid write takes effect with the
# next task that is assigned.
#
# policy   least-loaded  the one with the least to do for its capacity
#          first-fit     the first one by its name
#          round-robin   the one whose turn was longest ago
#          program       `program`, a list of words, gets {task, workers} as JSON on its input, and
#                        prints names of workers, the best first, one a line or as a JSON list
#          model         `model`, a name of /dev/llm, is asked the same
# timeout  of the program or the model (at most 10s, which it is if it is left out)
#
# A program and a model only propose: a worker that does not fit, has no room or is not there is
# skipped, and without a proposal in time it is least-loaded. They run as the agent `mind`, with
# `user`, `caps`, `deny` and `limits` as tools of /etc/tools.yaml.
policy: least-loaded
"""


PATIENCE = 10.0
"""Seconds: a task that waits for a proposal takes up the room of one that could be done."""


class MindDocument(OwnAgentForm):
    """The whole document."""

    policy: Literal["least-loaded", "first-fit", "round-robin", "program", "model"] = "least-loaded"
    program: Command | None = None
    model: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    timeout: Annotated[float, BeforeValidator(seconds), Field(gt=0, le=PATIENCE)] = PATIENCE

    @model_validator(mode="wrap")
    @classmethod
    def _whole(cls, given: Any, check: ModelWrapValidatorHandler[MindDocument]) -> MindDocument:
        return check_whole(cls.__name__, given, check, _between(given))


def _between(given: Any) -> Iterator[Fault]:
    """Where the keys do not fit together."""
    if not isinstance(given, dict):
        return
    policy = given.get("policy", "least-loaded")
    for key in ("program", "model"):
        if key in given and policy != key:
            yield (key,), f"`{key}` is for `policy: {key}`, and the policy is {policy}"
        elif key not in given and policy == key:
            yield ("policy",), f"`policy: {key}` needs `{key}`"
    if "timeout" in given and policy not in ("program", "model"):
        yield ("timeout",), f"nobody is asked by `policy: {policy}`"


def parse(text: str) -> MindDocument:
    """What a document says. Raises EINVAL that names every fault."""
    return read_model(text, MindDocument, "document") or MindDocument()


FORM: Form[MindDocument] = Form("mind.yaml", parse, lambda: DEFAULT)
