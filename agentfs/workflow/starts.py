"""The start of a run: whether it may be, and its first commit (T0)."""

from __future__ import annotations

import errno
import hashlib
from collections import OrderedDict
from typing import Any, Protocol

from agentfs.base.errors import KernelError
from agentfs.library.settings import WorkflowSettings
from agentfs.manifests.inherit import narrowed
from agentfs.manifests.plan import Plan
from agentfs.model.capability import CapabilitySet, Ceiling
from agentfs.model.process import Limits, OnLimit, Process
from agentfs.process.light import Light
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Action
from agentfs.store.ground import Ground
from agentfs.workflow.engine import Engine
from agentfs.workflow.events import RunStarted
from agentfs.workflow.journal import encode
from agentfs.workflow.model import Run, RunState, Start
from agentfs.workflow.retry import Copied
from agentfs.workflow.values import EVALUATION

__all__ = ["Plans", "Starts", "wanted"]

DIGESTS = 256
"""Plans whose digests are kept: to make one takes as long as to start a run."""

MOST_QUEUED = 10_000
"""Runs of a pipeline that may be queued, unless it says otherwise."""

LONGEST_KEY = 255
"""Bytes of a key: of a request, or of a signal, which is the name of a file."""


class Plans(Protocol):
    """Where plans come from: the library."""

    def plan_now(self, name: str, version: int | None = None, environment: str = "") -> Plan:
        """The plan of a pipeline; None is its newest version. Raises ENOENT."""

    def hooked(self, plan: Plan) -> Plan:
        """A plan of another origin, with the hooks that are in effect."""


class Starts:
    """Starts runs, inside the transaction of its caller."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        light: Light,
        engine: Engine,
        plans: Plans,
    ) -> None:
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._table = table
        self._light = light
        self._engine = engine
        self._journal = engine.journal
        self._plans = plans
        self._digests: OrderedDict[int, tuple[Plan, str]] = OrderedDict()

    def begin(self, starter: Process, start: Start) -> Run:
        plan = self._plans.plan_now(start.pipeline, start.version, start.environment)
        if start.levels:
            plan = narrowed(plan, *start.levels)
        self._gate.policy.require_capability(starter, "spawn_children")
        text = self._input_text(plan, start.input)
        self.may_start(starter, plan.name, text)
        if start.key:
            known = self._known(plan, start, text)
            if known is not None:
                return known
        return self.make(starter, plan, start, text)

    def begin_plan(self, starter: Process, plan: Plan, start: Start) -> Run:
        """As `begin`, of a plan that has no document: nobody is asked whether it may be started."""
        text = self._input_text(plan, start.input)
        return self.make(starter, self._plans.hooked(plan), start, text)

    def may_start(self, starter: Process, pipeline: str, text: str = "") -> None:
        """Raise EACCES or EPERM unless runs of a pipeline may be started in the name of a process;
        `text` is the input, which somebody may have to approve."""
        agent, path = self._table.agent_of(starter), f"/etc/pipelines/{pipeline}"
        self._gate.policy.require(agent, Action.SPAWN, path, what=text.encode())
        self._gate.policy.require_capability(starter, "spawn_children")

    def _input_text(self, plan: Plan, value: Any) -> str:
        self._engine.steps.check(plan.input_schema, value, "the input")
        try:
            text = encode(value)
        except (TypeError, ValueError, RecursionError) as bad:
            raise KernelError(errno.EINVAL, f"the input is no JSON value: {bad}") from None
        most = self._settings.of(WorkflowSettings).max_input
        if len(text.encode()) > most:
            raise KernelError(
                errno.EMSGSIZE,
                f"the input has {len(text.encode())} bytes, {most} are allowed: put it into"
                " a file, and pass its path",
                rule="workflows.max_input",
            )
        return text

    def _known(self, plan: Plan, start: Start, text: str) -> Run | None:
        """The run that this request has started before. Raises EEXIST, EINVAL."""
        if len(start.key.encode("utf-8", "surrogateescape")) > LONGEST_KEY:
            raise KernelError(errno.EINVAL, f"a key has at most {LONGEST_KEY} bytes")
        known = self._journal.by_key(plan.name, start.key)
        if known is not None and known.input_hash != _hash(text):
            raise KernelError(
                errno.EEXIST,
                f"run {known.id} of {plan.name} has the key {start.key!r} and another input",
                rule="key",
            )
        return known and (self._engine.open.find(known.id) or known)

    def make(
        self, starter: Process, plan: Plan, start: Start, text: str, copied: Copied | None = None
    ) -> Run:
        """T0."""
        agent = self._table.agent_of(starter)
        self._check_open(agent.name)
        group = self._group(plan, start)
        queued = self._is_queued(plan, group)
        parent = self._engine.open.find(start.parent.run) if start.parent else None
        if parent is not None:
            self._check_depth(parent)
        process = self._enter(starter, plan, start)
        now = self._clock.now()
        deadlines = [now + each for each in (plan.deadline, start.deadline) if each]
        if parent is not None and parent.deadline:
            deadlines.append(parent.deadline)
        run = Run(
            id=process.pid,
            pipeline=plan.name,
            version=plan.version,
            plan_hash=self.digest(plan),
            created=now,
            starter=agent.name,
            origin=process.pid,
            state=RunState.QUEUED if queued else RunState.RUNNING,
            key=start.key,
            ref_type=start.ref[0],
            ref_id=start.ref[1],
            started=0.0 if queued else now,
            deadline=min(deadlines, default=0.0),
            group=group,
            sync=start.sync,
            on_parent_end=start.on_parent_end or plan.on_parent_end,
            environment=start.environment,
            request=_request(start),
            input_hash=_hash(text) if start.key else "",
            uid=process.uid,
            gid=process.gid,
        )
        if start.parent is not None and parent is not None:
            run.parent, run.depth = parent.id, parent.depth + 1
            run.parent_node, run.parent_attempt = start.parent.path, start.parent.attempt
        if copied is not None:
            run.origin, run.retry_of = copied.origin, copied.source
        self._engine.enter(run, plan, text, copied)
        self._events.emit(RunStarted(run.id, run.id, run.pipeline, run.starter, run.ref))
        return run

    def _check_open(self, starter: str) -> None:
        limits, runs = self._settings.of(WorkflowSettings), self._engine.open
        if len(runs) >= limits.max_open:
            raise KernelError(
                errno.EAGAIN,
                f"{len(runs)} runs are open, as many as there may be",
                rule="workflows.max_open",
            )
        if runs.count_of(starter) >= limits.max_open_of_one:
            raise KernelError(
                errno.EAGAIN,
                f"{starter} has {runs.count_of(starter)} open runs, as many as it may have",
                rule="workflows.max_open_of_one",
            )

    def _check_depth(self, parent: Run) -> None:
        most = self._settings.of(WorkflowSettings).max_depth
        if parent.depth + 1 > most:
            raise KernelError(
                errno.ELOOP,
                f"run {parent.id} is a sub-run of a sub-run … {parent.depth} deep: {most} are"
                " allowed",
                rule="workflows.max_depth",
            )

    def _group(self, plan: Plan, start: Start) -> str:
        """The value of the concurrency key of a run."""
        rule = plan.concurrency
        if rule is None:
            return ""
        ambient = start.input if isinstance(start.input, dict) else {}
        names = ambient | {"input": start.input, "nodes": {}, "state": {}, "ctx": {}}
        try:
            value = self._engine.values.rendered(rule.key, names)
        except EVALUATION as bad:
            raise KernelError(errno.EINVAL, f"concurrency.key: {bad}") from None
        return f"run:{value if isinstance(value, str) else encode(value)}"

    def _is_queued(self, plan: Plan, group: str) -> bool:
        """Whether one more run has to wait. Raises ECANCELED, EAGAIN."""
        runs, rule = self._engine.open, plan.concurrency
        full = False
        if rule is not None and runs.count_at_work(plan.name, group) >= rule.limit:
            if rule.on_full == "skip":
                raise KernelError(
                    errno.ECANCELED,
                    f"{rule.limit} runs of {plan.name} are at work on"
                    f" {group.removeprefix('run:') or 'it'} already",
                    rule="concurrency",
                )
            if rule.on_full == "replace":
                for number in runs.at_work(plan.name, group)[: 1 - rule.limit or None]:
                    old = runs.find(number)
                    if old is not None:
                        self._engine.close(old, RunState.CANCELLED, "a newer run took its place")
            full = runs.count_at_work(plan.name, group) >= rule.limit
        if plan.max_runs is not None:
            full = full or runs.count_at_work(plan.name) >= plan.max_runs
            full = full or runs.count_queued(plan.name) > 0
        most = MOST_QUEUED if plan.max_queued is None else plan.max_queued
        if full and runs.count_queued(plan.name) >= most:
            raise KernelError(
                errno.EAGAIN,
                f"{runs.count_queued(plan.name)} runs of {plan.name} are queued, as many as may be",
                rule="max_queued",
            )
        return full

    def _enter(self, starter: Process, plan: Plan, start: Start) -> Process:
        """The entry of a run in the process table."""
        ceiling = start.ceiling
        if start.caps is not None:
            grant = CapabilitySet.of(start.caps)
            roles = () if ceiling is None else ceiling.roles
            ceiling = Ceiling(roles, grant if ceiling is None else ceiling.grant & grant)
        return self._light.begin_run(
            starter,
            plan.name,
            caps=plan.caps,
            deny=plan.deny,
            limits=_limits(plan.limits, start.limits or {}),
            ceiling=ceiling,
            on_limit=OnLimit(plan.on_limit or "raise"),
        )

    def digest(self, plan: Plan) -> str:
        known = self._digests.get(id(plan))
        if known is None or known[0] is not plan:
            known = self._digests[id(plan)] = plan, plan.digest()
            if len(self._digests) > DIGESTS:
                self._digests.popitem(last=False)
        return known[1]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _request(start: Start) -> dict[str, Any] | None:
    """What a start asked for that narrows it, as JSON."""
    request: dict[str, Any] = {}
    for name in ("deadline", "limits"):
        value = getattr(start, name)
        if value is not None:
            request[name] = value
    if start.caps is not None:
        request["caps"] = list(start.caps)
    if start.ceiling is not None:
        request["ceiling"] = start.ceiling.record()
    return request or None


def wanted(request: dict[str, Any]) -> dict[str, Any]:
    """The same, of a `Start`."""
    wanted = dict(request)
    if "caps" in wanted:
        wanted["caps"] = tuple(wanted["caps"])
    if "ceiling" in wanted:
        wanted["ceiling"] = Ceiling.from_record(wanted["ceiling"])
    return wanted


def _limits(plan: dict[str, float | None], asked: dict[str, float | None]) -> Limits:
    """The least of both, each by itself. Raises EINVAL for one that there is not."""
    least: dict[str, Any] = {}
    for name, most in (*plan.items(), *asked.items()):
        if name not in Limits.__slots__:
            known = ", ".join(Limits.__slots__)
            raise KernelError(errno.EINVAL, f"limits: there is no {name!r}: {known}")
        if most is None:
            continue
        if isinstance(most, bool) or not isinstance(most, int | float) or most < 0:
            raise KernelError(errno.EINVAL, f"limits: {name}: {most!r} is no number from 0")
        least[name] = min(most, least.get(name, most))
    return Limits.none_but(**least)
