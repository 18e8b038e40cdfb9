"""Starting systems: what is written to /etc/systems/NAME/run, by the `init` of the document."""

from __future__ import annotations

import errno
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.library.library import Library
from agentfs.model.principal import Principal
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Action
from agentfs.triggers.entities import Entities
from agentfs.triggers.maker import TriggerMakers
from agentfs.triggers.schedule_spec import read_spec_of
from agentfs.triggers.schedules import Schedules
from agentfs.triggers.system_runs import SystemRuns
from agentfs.triggers.system_table import SystemRun
from agentfs.workflow.model import Start

__all__ = ["Systems"]


class Systems:
    """The system calls on systems. `runs` has those that were started."""

    def __init__(
        self,
        gate: Gate,
        library: Library,
        makers: TriggerMakers,
        runs: SystemRuns,
        schedules: Schedules,
        entities: Entities,
    ) -> None:
        self._gate = gate
        self._library = library
        self._makers = makers
        self._schedules = schedules
        self._entities = entities
        self.runs = runs
        self.table = runs.table

    def run(self, principal: Principal, start: Start) -> int:
        """Start a system, as `init` of its document says; its number in /proc/systems, or in
        /proc/scheduled. ENOENT, EINVAL (the input), EACCES and EPERM
        (`spawn` on /etc/systems/NAME, the capability spawn_children), EEXIST (the key), EAGAIN."""
        name = start.pipeline
        plan = self._library.system(name, start.version, start.environment)
        with self._gate.enter(principal, "spawns") as actor:
            what = f"run system {name}".encode()
            self._gate.policy.require(actor, Action.SPAWN, f"/etc/systems/{name}", what=what)
            self._gate.policy.require_capability(actor, "spawn_children")
            for type_, machine in plan.machines.items():
                self._entities.declare(principal, type_, machine)
            if plan.init.type == "schedule":
                fields = {"deadline": start.deadline, "limits": start.limits, "caps": start.caps}
                given_fields = {key: value for key, value in fields.items() if value is not None}
                spec = read_spec_of(
                    {
                        "system": name,
                        "input": start.input,
                        "environment": start.environment,
                        **plan.init.timing,
                        **given_fields,
                    }
                )
                return self._schedules.make(principal, spec).number
            return self.runs.begin(self._makers.of(actor), plan, start).id

    def control(self, principal: Principal, number: int, command: str) -> None:
        """`cancel [WHY]`, `pause` or `resume`. ENOENT; EPERM unless the owner or the operator asks,
        or if it has ended; EINVAL."""
        with self._gate.enter(principal, "signals"):
            system = self._owned(principal, number)
            verb, _, rest = command.strip().partition(" ")
            match verb:
                case "cancel":
                    words = f"cancelled by {principal.name}"
                    self.runs.cancel(number, f"{words}: {rest}" if rest else words)
                case "pause" | "resume" if not rest:
                    self.runs.pause(system, verb == "pause")
                case _:
                    known = "cancel [WHY], pause or resume"
                    raise KernelError(errno.EINVAL, f"{known} was expected, not {command[:60]!r}")

    def set_value(self, principal: Principal, number: int, pipe: str, value: Any) -> None:
        """Have a pipe give other fields. EPERM once the process that it leads to has begun, and
        unless the owner or the operator asks; EINVAL; EFBIG."""
        with self._gate.enter(principal):
            system = self._owned(principal, number)
            if not isinstance(value, dict):
                raise KernelError(errno.EINVAL, "a JSON object was expected: fields of the input")
            self.runs.set_value(system, pipe, value)

    def may_read(self, principal: Principal, system: SystemRun) -> None:
        """Raise EACCES or EPERM unless `principal` may see what it works on: as with the process of
        its maker."""
        self._makers.require_read(principal, system.maker)

    def _owned(self, principal: Principal, number: int) -> SystemRun:
        system = self.runs.get(number)
        if not self._makers.owns(principal, system.maker):
            raise KernelError(
                errno.EPERM,
                f"only {system.maker.owner} and the operator may control system {number}, not"
                f" {principal.name}",
                rule="owner",
            )
        if system.state.final:
            raise KernelError(errno.EPERM, f"system {number} has ended: it is {system.state.value}")
        return system
