"""Starting what a schedule or an entity is to start, for whoever has made that."""

from __future__ import annotations

import errno
from dataclasses import replace

from agentfs.base.errors import KernelError
from agentfs.base.yaml_document import near
from agentfs.library.library import Library
from agentfs.manifests.plan import Plan
from agentfs.manifests.system_plan import Init
from agentfs.rights.policy import Action
from agentfs.store.ground import Ground
from agentfs.triggers.maker import Maker, TriggerMakers
from agentfs.triggers.system_runs import SystemRuns
from agentfs.workflow.model import Start
from agentfs.workflow.runs import Runs

__all__ = ["RunLauncher"]


class RunLauncher:
    """It starts runs of pipelines, and systems. They belong to the maker's process, and may no more
    than the maker might; that the maker may start them at all has been asked by then."""

    def __init__(
        self,
        ground: Ground,
        library: Library,
        runs: Runs,
        systems: SystemRuns,
        makers: TriggerMakers,
    ) -> None:
        self._store = ground.store
        self._library = library
        self._runs = runs
        self._systems = systems
        self._makers = makers

    def check(self, maker: Maker, kind: str, name: str) -> None:
        """Raise ENOENT if there is no such document."""
        if self._library.find(kind, name) is None:
            known = near(name, self._library.names(kind))
            raise KernelError(errno.ENOENT, f"there is no {kind.removesuffix('s')} {name!r}{known}")

    def start(self, maker: Maker, kind: str, start: Start) -> int:
        """Start it, as part of the transaction under way; its number, a pid. Raises what
        `Runs.start` does."""
        if self._store.acting is None:
            self._store.act_for(self._makers.principal(maker))
        if kind == "systems":
            plan = self._library.system(start.pipeline, start.version, start.environment)
            once = replace(plan, init=Init())
            return self._systems.begin(maker, once, start).id
        return self._runs.start_for(self._makers.process(maker), _bounded(maker, start)).id

    def start_plan(self, maker: Maker, plan: Plan, start: Start) -> int:
        """The same of a plan that no document has."""
        path = f"/etc/pipelines/{plan.name}"
        self._makers.permit(maker, Action.SPAWN, path)
        self._makers.require_capability(maker, "spawn_children")
        if self._store.acting is None:
            self._store.act_for(self._makers.principal(maker))
        process = self._makers.process(maker)
        return self._runs.start_plan(process, plan, _bounded(maker, start)).id

    def cancel(self, number: int, why: str) -> None:
        """End a run, or a system."""
        if self._systems.table.find(number) is not None:
            self._systems.cancel(number, why)
        else:
            self._runs.cancel(self._makers.operator(), number, why)

    def is_open(self, number: int) -> bool:
        """Whether it has not ended."""
        system = self._systems.table.find(number)
        if system is not None:
            return not system.state.final
        run = self._runs.find(number)
        return run is not None and not run.state.final


def _bounded(maker: Maker, start: Start) -> Start:
    """What is started may no more than its maker."""
    limits: dict[str, float | None] = {**maker.limits}
    for name, most in (start.limits or {}).items():
        own = limits.get(name)
        if most is not None:
            limits[name] = most if own is None else min(most, own)
    return replace(start, limits=limits or None, ceiling=maker.ceiling)
