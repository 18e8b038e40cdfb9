"""What a run gets from the levels above it: Config, System, process, Pipeline, request.

Of settings the nearest level wins. Limits are the minimum of all levels, capabilities what all have
in common, denials all of them: a lower level can only narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agentfs.manifests.plan import Breaker, Plan, Rate, Retry
from agentfs.model.capability import PLAIN, canonical
from agentfs.model.globs import Effort, TooMuchError, meet, reduced

__all__ = ["Level", "NodePolicy", "Settled", "common_caps", "narrowed", "settle"]

MOST_EFFORT = 20_000
"""Steps of a microsecond that comparing globs of tools may take."""


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """What a policy says; parts that it is not about are None."""

    name: str
    retry: Retry | None = None
    timeout: float | None = None  # seconds
    rate: Rate | None = None
    breaker: Breaker | None = None
    limits: dict[str, float | None] = field(default_factory=dict)
    on_limit: str = ""


@dataclass(frozen=True, slots=True)
class Level:
    """What one level says. `name` is how `config` calls it: `pipeline review`. `settings` are those
    of which the nearest wins; `limits` has None for no limit."""

    name: str
    limits: dict[str, float | None] = field(default_factory=dict)
    caps: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    deadline: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    policies: tuple[NodePolicy, ...] = ()
    ports: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_request(cls, request: Mapping[str, Any] | None) -> Level:
        """What a run was asked to be limited to, as its record has it."""
        said = request or {}
        caps = said.get("caps")
        return cls(
            "request",
            dict(said.get("limits") or {}),
            None if caps is None else tuple(caps),
            deadline=said.get("deadline"),
        )

    def limited(self) -> dict[str, float | None]:
        """Its limits, with those of its policies."""
        found: dict[str, float | None] = {}
        for limits in (*(policy.limits for policy in self.policies), self.limits):
            for name, most in limits.items():
                found[name] = _least(found[name], most) if name in found else most
        return found


@dataclass(frozen=True, slots=True)
class Settled:
    """What several levels say together, and which of them it is from."""

    limits: dict[str, float | None]
    caps: tuple[str, ...] | None
    deny: tuple[str, ...]
    deadline: float | None
    settings: dict[str, Any]
    policies: tuple[NodePolicy, ...]
    ports: dict[str, Any]
    origin: dict[str, tuple[Any, str]]

    def policy(self, part: str) -> NodePolicy | None:
        """The nearest policy that is about `part`: retry, timeout, rate, breaker."""
        about = (each for each in reversed(self.policies) if getattr(each, part) is not None)
        return next(about, None)


def _least(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def common_caps(one: Iterable[str], other: Iterable[str]) -> tuple[str, ...]:
    """What two declared lists have in common: a glob of tools is met by what it means. Names are
    canonical; what would take too long to compare is left out."""
    first, second = _spread(one), _spread(other)
    plain = [name for name in PLAIN if name in first and name in second]
    globs: list[str] = []
    effort = Effort(MOST_EFFORT)
    try:
        for left in sorted(first):
            for right in sorted(second):
                if left.startswith("tool:") and right.startswith("tool:"):
                    globs += meet(left[5:], right[5:], effort)
    except TooMuchError:
        pass
    return (*plain, *(f"tool:{glob}" for glob in reduced(globs)))


def _spread(names: Iterable[str]) -> set[str]:
    found = {canonical(name) for name in names}
    return {*PLAIN, "tool:*"} if "*" in found else found


def settle(levels: Iterable[Level]) -> Settled:
    """All levels, the outermost first."""
    limits: dict[str, float | None] = {}
    caps: tuple[str, ...] | None = None
    deny: dict[str, None] = {}
    deadline: float | None = None
    settings: dict[str, Any] = {}
    policies: list[NodePolicy] = []
    ports: dict[str, Any] = {}
    origin: dict[str, tuple[Any, str]] = {}
    for level in levels:
        for name, most in level.limited().items():
            if name not in limits or _least(limits[name], most) != limits[name]:
                limits[name] = _least(limits.get(name), most)
                origin[f"limits.{name}"] = (limits[name], level.name)
        if level.caps is not None:
            both = level.caps if caps is None else common_caps(caps, level.caps)
            if both != caps:
                caps = both
                origin["caps"] = (list(caps), level.name)
        for name in level.deny:
            if name not in deny:
                deny[name] = None
                origin[f"deny.{name}"] = (True, level.name)
        if level.deadline is not None and (deadline is None or level.deadline < deadline):
            deadline = level.deadline
            origin["deadline"] = (deadline, level.name)
        for name, value in level.settings.items():
            settings[name] = value
            origin[name] = (value, level.name)
        for policy in level.policies:
            policies.append(policy)
            if policy.on_limit and "on_limit" not in level.settings:
                settings["on_limit"] = policy.on_limit
                origin["on_limit"] = (policy.on_limit, level.name)
            origin[f"policies.{policy.name}"] = (policy.name, level.name)
        for name, port in level.ports.items():
            ports[name] = port
            origin[f"ports.{name}"] = (port, level.name)
    return Settled(limits, caps, tuple(deny), deadline, settings, tuple(policies), ports, origin)


def narrowed(plan: Plan, *levels: Level) -> Plan:
    """The plan with what further levels say: of a System, its process, a request. It is never wider
    than before. Policies and settings of nodes stay as they were compiled."""
    own = Level(
        "",
        plan.limits,
        plan.caps,
        plan.deny,
        plan.deadline,
        {"on_limit": plan.on_limit} if plan.on_limit else {},
        ports=plan.ports,
    )
    settled = settle((own, *levels))
    origin = {name: said for name, said in settled.origin.items() if said[1]}
    return replace(
        plan,
        limits=settled.limits,
        caps=settled.caps,
        deny=settled.deny,
        deadline=settled.deadline,
        on_limit=settled.settings.get("on_limit", ""),
        ports=settled.ports,
        origin=plan.origin | origin,
    )
