"""`/etc/hooks.yaml`: the tools that are called around runs and nodes, which may refuse them or give
them another input."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from agentfs.base.models import matching, read_model
from agentfs.manifests.hooks import Hook, hooked
from agentfs.manifests.plan import Plan
from agentfs.model.spec import seconds
from agentfs.store.live_document import Form, LiveDocument

__all__ = ["FORM", "HookedPlans"]

DEFAULT = """\
# Tools that are called around runs and around their nodes. A valid write takes effect with the runs
# that begin after it.
#
# on          pre-run, post-run, pre-node, post-node
# match       a glob of pipelines; for nodes also PIPELINE/NODE, or a kind of nodes, as llm;
#             all, if it is left out
# tool        the name of a tool of /lib/tools. The run calls it, with its own capabilities, limits
#             and costs. The arguments are {on, run, pipeline, starter}, and of a node {node, kind};
#             before: {input}; after: {state, output, error}, of a run {input} too
# timeout     of the call (60s if it is left out)
# on_failure  abort: the run, or the node, fails if the tool does; ignore: it goes on. If it is left
#             out: abort before a run or a node, ignore after it
#
# The tool answers with nothing, or with a JSON object. Before a run or a node: {"veto": "why"} lets
# it fail with EPERM, {"input": …} is its input from there on. After a node: {"output": …} is what
# the nodes behind it get; none is called after one whose failure fails the run. Hooks are called in
# this order, and each is a node of the run.
#
#   - {on: pre-run, match: "deploy-*", tool: freeze, timeout: 10s}
#   - {on: pre-node, match: llm, tool: redact}
#   - {on: post-run, match: "*", tool: report, on_failure: ignore}
hooks: []
"""

MOST_PLANS = 256
"""Plans with their hooks that are kept in memory."""

TOOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MATCH = re.compile(r"[A-Za-z0-9._*-]{1,128}(/[A-Za-z0-9._*-]{1,128})?")


def _of_calls(on: object) -> object:
    if on in ("pre-call", "post-call"):
        raise ValueError(
            f"{on} is not done: pre-node and post-node with `match: llm`, `tool` or `api_call` are"
            " called around the nodes that call"
        )
    return on


def _of_run(entry: _Entry) -> _Entry:
    if entry.on.endswith("-run") and "/" in entry.match:
        raise ValueError(f"{entry.on} is about pipelines, and `match: {entry.match}` about a node")
    return entry


class _Entry(BaseModel):
    """One hook."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _on(cls, given: object) -> object:
        """YAML 1.1 reads the key `on` as true."""
        if not isinstance(given, dict) or True not in given:
            return given
        return {("on" if key is True else key): value for key, value in given.items()}

    on: Annotated[
        Literal["pre-run", "post-run", "pre-node", "post-node"], BeforeValidator(_of_calls)
    ]
    match: Annotated[str, matching(MATCH, "a glob like deploy-*, deploy/send or llm")] = "*"
    tool: Annotated[str, matching(TOOL, "the name of a tool")]
    timeout: Annotated[float, BeforeValidator(seconds), Field(gt=0, le=86_400)] = 60.0
    on_failure: Literal["abort", "ignore"] | None = None

    def hook(self) -> Hook:
        """The same as a value."""
        failure = self.on_failure or ("abort" if self.on.startswith("pre-") else "ignore")
        return Hook(self.on, self.match, self.tool, self.timeout, failure)


class _Document(BaseModel):
    """The whole document."""

    model_config = ConfigDict(extra="forbid")

    hooks: Annotated[list[Annotated[_Entry, AfterValidator(_of_run)]], Field(max_length=64)] = []


def parse_hooks(text: str) -> tuple[Hook, ...]:
    """Read the document. Raises EINVAL with every fault in the reason."""
    said = read_model(text, _Document, "document") or _Document()
    return tuple(entry.hook() for entry in said.hooks)


FORM: Form[tuple[Hook, ...]] = Form("hooks.yaml", parse_hooks, lambda: DEFAULT)


class PlainPlans(Protocol):
    """Where plans come from: the library."""

    def plan_now(self, name: str, version: int | None = None, environment: str = "") -> Plan:
        """The plan of a pipeline. Raises ENOENT."""


class HookedPlans:
    """The plans of runs that begin now: those of the library with the hooks that are in effect."""

    def __init__(self, library: PlainPlans, hooks: LiveDocument[tuple[Hook, ...]]) -> None:
        self._library = library
        self._hooks = hooks
        self._made: OrderedDict[int, tuple[Plan, tuple[Hook, ...], Plan]] = OrderedDict()

    def plan_now(self, name: str, version: int | None = None, environment: str = "") -> Plan:
        """The plan of a pipeline; None is its newest version. Raises ENOENT."""
        return self.hooked(self._library.plan_now(name, version, environment))

    def hooked(self, plan: Plan) -> Plan:
        """A plan of any origin, with the hooks."""
        hooks = self._hooks.now
        if not hooks:
            return plan
        known = self._made.get(id(plan))
        if known is None or known[0] is not plan or known[1] is not hooks:
            known = self._made[id(plan)] = plan, hooks, hooked(plan, hooks)
            if len(self._made) > MOST_PLANS:
                self._made.popitem(last=False)
        return known[2]
