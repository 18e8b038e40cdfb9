"""Entities: things with a state, a machine that says what may follow it, and a history.

A transition is one commit: the state, and a line of the history. Where the machine has a process
for it, the transition is `pending` until that run has ended; its end, the state and the history are
one commit then. If the run fails the state stays, and the history says so.
"""

from __future__ import annotations

import errno
import json
import re
from dataclasses import dataclass, replace
from typing import Any

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.base.yaml_document import DocumentError, near
from agentfs.manifests.fuel import EvaluationError
from agentfs.manifests.machine import Edge, Machine
from agentfs.model.names import INIT_NAME
from agentfs.model.principal import INIT, Principal
from agentfs.model.process import Process
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.rights.ownership import Access, Ownership
from agentfs.rights.policy import Action
from agentfs.store.ground import Ground
from agentfs.store.part import EndedWork, Part
from agentfs.triggers.entity_table import Entity, EntityTable, EntityType, Pending, parse_machine
from agentfs.triggers.events import (
    EntityChanged,
    EntityRegistered,
    EntityRemoved,
    EntityTypeChanged,
    EntityTypeMade,
    EntityTypeRemoved,
)
from agentfs.triggers.launch import Launcher
from agentfs.triggers.maker import TriggerMakers
from agentfs.triggers.settings import TriggerSettings
from agentfs.workflow.model import Start

__all__ = ["Entities", "Transition", "WantedState"]

NAME = re.compile(r"[A-Za-z0-9._@:+-]{1,128}")
STATE = re.compile(r"[A-Za-z0-9._-]{1,64}")

TYPES = "entity_types"
"""The pot that types count in."""

UNNAMED = "created"
"""The state that an entity begins in whose type has no machine."""


@dataclass(frozen=True, slots=True)
class WantedState:
    """A transition that somebody asks for. With `expected` it is made from that state only."""

    to: str
    expected: str | None = None
    reason: str = ""
    payload: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """A transition that was made, or that waits for `run` (0: for none)."""

    entity_type: str
    entity_id: str
    from_state: str
    to_state: str
    run: int = 0

    def output(self) -> dict[str, str]:
        """As a node's output."""
        return {
            "entity_type": self.entity_type,
            "entity_id": self.entity_id,
            "from_state": self.from_state,
            "to_state": self.to_state,
        }


class Entities(Part):
    """The system calls on entities and their types; `table` has them."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        processes: ProcessTable,
        makers: TriggerMakers,
        launcher: Launcher,
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._processes = processes
        self._makers = makers
        self._launcher = launcher
        self.table = table = EntityTable(ground)
        self._made = made = makers.made
        made.count_in("entities", lambda: table.of_owner, lambda: len(table))

    def load(self) -> None:
        """Read everything from the store."""
        self.table.load()
        for kind in self.table.types():
            self._made.note(TYPES, kind.name, kind.ownership.owner)

    def take_up(self) -> None:
        """A transition whose run is not there any more has failed: the store was repaired."""
        for entity in self.table.waiting():
            pending = entity.pending
            if pending is not None and not self._launcher.is_open(pending.run):
                with self._store.transaction():
                    self._fail(entity, pending, f"run {pending.run} was lost")

    def get_type(self, name: str) -> EntityType:
        """ENOENT if there is none."""
        found = self.table.find_type(name)
        if found is None:
            known = [kind.name for kind in self.table.types()]
            raise KernelError(errno.ENOENT, f"there is no entity type {name!r}{near(name, known)}")
        return found

    def get(self, type_: str, name: str) -> Entity:
        """ENOENT if there is none."""
        self.get_type(type_)
        found = self.table.find(type_, name)
        if found is None:
            raise KernelError(errno.ENOENT, f"there is no {type_} {name!r}")
        return found

    def allowed(self, entity: Entity) -> tuple[str, ...]:
        """The states that may follow; none while a transition is pending. Without a machine any
        may, and none is named."""
        machine = self.get_type(entity.type).machine
        return () if machine is None or entity.pending else machine.allowed(entity.state)

    # -- types -----------------------------------------------------------------------------------

    def make_type(self, principal: Principal, name: str, mode: int) -> EntityType:
        """Make a type, whose entities can be in any state until it has a machine. EINVAL, EEXIST,
        EACCES, EDQUOT."""
        with self._gate.enter(principal) as actor:
            self._gate.policy.require(
                actor, Action.TRANSITION, f"/proc/entities/{name}", what=b"make an entity type"
            )
            _check_name(name, "an entity type")
            if self.table.find_type(name) is not None:
                raise KernelError(errno.EEXIST, f"there is an entity type {name!r} already")
            self._gate.check_making(actor.agent, TYPES, 1)
            kind = EntityType(name, Ownership.of(principal, mode), self._makers.of(actor))
            self.table.add_type(kind)
            self._made.add(TYPES, name, actor.agent)
            self._events.emit(EntityTypeMade(actor.agent, name))
            return kind

    def set_machine(self, principal: Principal, name: str, text: str) -> None:
        """Give a type another machine. ENOENT; EPERM unless the owner or the operator asks; EINVAL
        with every fault, or if an entity is in a state that the new one does not have."""
        with self._gate.enter(principal):
            kind = self.get_type(name)
            kind.ownership.require_owner(principal, f"change the machine of {kind}")
            try:
                machine = parse_machine(text)
            except DocumentError as bad:
                raise KernelError(errno.EINVAL, str(bad)) from None
            for pipeline in sorted(machine.processes()):
                try:
                    self._launcher.check(kind.maker, "pipelines", pipeline)
                except KernelError as bad:
                    raise KernelError(errno.EINVAL, f"{pipeline}: {bad.reason}") from None
            self._check_states(kind, machine)
            self._update_type(kind, text=text, machine=machine)

    def declare(self, principal: Principal, name: str, machine: Any) -> None:
        """Have a type with this machine, as a System declares it. EPERM if the type is another's,
        and as `make_type` and `set_machine`."""
        text = json.dumps(machine, ensure_ascii=False)
        kind = self.table.find_type(name)
        if kind is None:
            self.make_type(principal, name, 0o755)
        if kind is None or kind.text != text:
            self.set_machine(principal, name, text)

    def _check_states(self, kind: EntityType, machine: Machine) -> None:
        """Nothing may be left in a state that there is not any more."""
        for entity in self.table.of_type(kind.name):
            states = [entity.state, *([entity.pending.to] if entity.pending else [])]
            for state in states:
                if state not in machine.states:
                    raise KernelError(
                        errno.EINVAL,
                        f"{entity} is in state {state}, or on its way there, which this machine"
                        f" does not have{near(state, machine.states)}",
                    )

    def chmod(self, principal: Principal, name: str, mode: int) -> None:
        """Change the mode of a type. ENOENT; EPERM unless the owner or the operator asks."""
        with self._gate.enter(principal):
            kind = self.get_type(name)
            ownership = kind.ownership.with_mode(principal, mode, str(kind))
            self._update_type(kind, ownership=ownership)

    def _update_type(self, kind: EntityType, **fields: Any) -> None:
        self.table.change_type(kind, **fields)
        self._events.emit(EntityTypeChanged(kind.ownership.owner, kind.name))

    def remove_type(self, principal: Principal, name: str) -> None:
        """Remove a type. ENOENT; EPERM unless the owner or the operator asks; ENOTEMPTY."""
        with self._gate.enter(principal):
            kind = self.get_type(name)
            kind.ownership.require_owner(principal, f"remove {kind}")
            if self.table.count(name):
                raise KernelError(errno.ENOTEMPTY, f"there are entities of the type {name}")
            self.table.drop_type(kind)
            self._made.remove(TYPES, name)
            self._events.emit(EntityTypeRemoved(name))

    # -- entities --------------------------------------------------------------------------------

    def register(self, principal: Principal, type_: str, name: str) -> Entity:
        """Have an entity, in its machine's initial state. ENOENT, EEXIST, EINVAL; EACCES or EPERM
        (the rules, or the mode of the type); EDQUOT or ENOSPC (so many there are)."""
        with self._gate.enter(principal) as actor:
            kind = self._admit(principal, actor, type_, name, b"register")
            _check_name(name, "an entity")
            if self.table.find(type_, name) is not None:
                raise KernelError(errno.EEXIST, f"there is a {type_} {name!r} already")
            self._gate.check_making(actor.agent, "entities", 1)
            now = self._clock.now()
            state = UNNAMED if kind.machine is None else kind.machine.initial
            entity = Entity(type_, name, state, actor.agent, now)
            self.table.add(entity)
            self._note(entity, None, state, actor.agent)
            self._events.emit(EntityRegistered(actor.agent, type_, name, state))
            return entity

    def remove(self, principal: Principal, type_: str, name: str) -> None:
        """Remove an entity and its history. ENOENT, EBUSY (its state is not terminal), EACCES."""
        with self._gate.enter(principal) as actor:
            kind = self._admit(principal, actor, type_, name, b"remove")
            entity = self.get(type_, name)
            if entity.pending is not None or (
                kind.machine is not None and not kind.machine.is_terminal(entity.state)
            ):
                raise KernelError(
                    errno.EBUSY,
                    f"{entity} is in state {entity.state}, which is not terminal: it can go on to"
                    f" {', '.join(self.allowed(entity)) or 'what is pending'}",
                )
            self.table.drop(entity)
            self._events.emit(EntityRemoved(type_, name))

    def transition(
        self, principal: Principal, type_: str, name: str, wanted: WantedState
    ) -> Transition:
        """Have an entity go on to another state: at once, or once the process that the machine has
        for it has completed. ENOENT; EACCES or EPERM (the rules, the mode of the type); EINVAL (no
        such state, or a field of the payload is missing); ESTALE (it is not in the state expected);
        EBUSY (a transition is pending); EPERM (not from this state, or the guard); ELOOP (processes
        of transitions made one another); and what the start of the run is refused with."""
        with self._gate.enter(principal) as actor:
            what = f"{wanted.to} {wanted.reason}".strip().encode()
            kind = self._admit(principal, actor, type_, name, what)
            entity = self.get(type_, name)
            edge = self._edge(kind, entity, wanted)
            old, depth = entity.state, self._depth(actor)
            process = "" if kind.machine is None else kind.machine.process(edge)
            if not process:
                self._move(entity, wanted.to, actor.agent, wanted.reason)
                return Transition(type_, name, old, wanted.to)
            run = self._launch(kind, entity, wanted, process)
            pending = Pending(wanted.to, run, actor.agent, wanted.reason, depth)
            self.table.change(entity, pending=pending)
            self._tell(entity, old, wanted.to, "pending", run, wanted.reason, actor.agent)
            return Transition(type_, name, old, wanted.to, run)

    def _admit(
        self, principal: Principal, actor: Process, type_: str, name: str, what: bytes
    ) -> EntityType:
        """The type, if `principal` may change its entities."""
        kind = self.get_type(type_)
        path = f"/proc/entities/{type_}/{name}"
        self._gate.policy.require(actor, Action.TRANSITION, path, what=what)
        kind.ownership.require(principal, Access.SEND, str(kind))
        return kind

    def _edge(self, kind: EntityType, entity: Entity, wanted: WantedState) -> Edge:
        """The transition, if it may be made now."""
        machine, to, state = kind.machine, wanted.to, entity.state
        known = STATE.fullmatch(to) if machine is None else to in machine.states
        if not known:
            states = [] if machine is None else list(machine.states)
            expected = f"one of {', '.join(states)}" if states else "1 to 64 of A-Z a-z 0-9 . _ -"
            raise KernelError(
                errno.EINVAL,
                f"{to[:64]!r} is no state of {entity}: {expected} was expected{near(to, states)}",
            )
        if wanted.expected is not None and wanted.expected != state:
            raise KernelError(
                errno.ESTALE, f"{entity} is in state {state}, not {wanted.expected[:64]}"
            )
        if entity.pending is not None:
            raise KernelError(
                errno.EBUSY,
                f"{entity} is on its way to {entity.pending.to}: run {entity.pending.run} has not"
                " ended",
            )
        if machine is None:
            return Edge(to)
        edge = machine.edges.get(state, {}).get(to)
        if edge is None:
            follow = ", ".join(machine.allowed(state))
            raise KernelError(
                errno.EPERM,
                f"{entity} cannot go from {state} to {to}: "
                + (f"{follow} may follow" if follow else f"{state} is terminal"),
                rule="machine",
            )
        self._check_payload(machine, entity, edge, wanted)
        return edge

    def _check_payload(
        self, machine: Machine, entity: Entity, edge: Edge, wanted: WantedState
    ) -> None:
        payload = wanted.payload or {}
        missing = [name for name in machine.states[edge.to].requires if payload.get(name) is None]
        if missing:
            raise KernelError(
                errno.EINVAL,
                f"a transition of {entity} to {edge.to} needs a payload with {', '.join(missing)}",
                rule="machine",
            )
        try:
            permitted = machine.permits(edge, _scope(entity, wanted) | {"input": payload})
        except EvaluationError as bad:
            raise KernelError(
                errno.EPERM, f"the guard {edge.guard!r} says nothing: {bad}", rule="guard"
            ) from None
        if not permitted:
            raise KernelError(
                errno.EPERM,
                f"the guard {edge.guard!r} keeps {entity} from going to {edge.to}",
                rule="guard",
            )

    def _launch(self, kind: EntityType, entity: Entity, wanted: WantedState, process: str) -> int:
        maker = kind.maker
        path = f"/etc/pipelines/{process}"
        self._makers.permit(maker, Action.SPAWN, path)
        self._makers.require_capability(maker, "spawn_children")
        start = Start(
            process,
            _scope(entity, wanted),
            key=f"entity/{entity.type}/{entity.id}/{entity.created}/{entity.seq + 1}",
            ref=(entity.type, entity.id),
        )
        return self._launcher.start(maker, "pipelines", start)

    def _depth(self, actor: Process) -> int:
        """How many processes of transitions are above `actor`, one having made the other. ELOOP if
        they are too many."""
        depth, above = 0, actor
        while above.pid > INIT:
            entity = self.table.of_run(above.pid)
            if entity is not None and entity.pending is not None:
                depth = entity.pending.depth + 1
                break
            found = self._processes.find(above.ppid)
            if found is None:
                break
            above = found
        most = self._settings.of(TriggerSettings).max_cascade
        if depth >= most:
            raise KernelError(
                errno.ELOOP,
                f"{depth} processes of transitions have made one another: do they go in a circle?",
                rule="triggers.max_cascade",
            )
        return depth

    # -- its end -----------------------------------------------------------------------------------

    def run_ended(self, run: EndedWork) -> None:
        """The process of a transition has ended, inside the transaction of that."""
        entity = self.table.of_run(run.id)
        pending = None if entity is None else entity.pending
        if entity is None or pending is None:
            return
        if run.state.value == "completed":
            self._move(entity, pending.to, pending.by, pending.reason, run.id)
        else:
            why = f"run {run.id} {run.state.value.replace('_', ' ')}"
            words = run.error or run.reason
            self._fail(entity, pending, f"{why}: {words}" if words else why)

    def _move(self, entity: Entity, to: str, by: str, reason: str, run: int = 0) -> None:
        old = entity.state
        self.table.change(entity, state=to, pending=None)
        self._note(entity, old, to, by, reason, run)
        self._tell(entity, old, to, "done", run, reason, by)

    def _fail(self, entity: Entity, pending: Pending, error: str) -> None:
        """The state stays."""
        self.table.change(entity, pending=None)
        self._note(entity, entity.state, pending.to, pending.by, pending.reason, pending.run, error)
        self._tell(entity, entity.state, pending.to, "failed", pending.run, error[:200], pending.by)

    def _note(
        self,
        entity: Entity,
        old: str | None,
        to: str,
        by: str,
        reason: str = "",
        run: int = 0,
        error: str = "",
    ) -> None:
        """A line of its history."""
        line: dict[str, Any] = {
            "time": rfc3339(self._clock.now()),
            "from": old,
            "to": to,
            "state": entity.state,
            "by": by,
        }
        if reason:
            line["reason"] = reason
        if run:
            line["run"] = run
        if error:
            line["error"] = error[:4096]
        self.table.add_line(entity, line)

    def _tell(
        self, entity: Entity, old: str, new: str, outcome: str, run: int, reason: str, by: str
    ) -> None:
        self._events.emit(
            EntityChanged(by, entity.type, entity.id, old, new, outcome, run, reason[:200])
        )

    def agent_removed(self, name: str) -> None:
        """Its types are init's, and their processes may no more than before; entities count for
        nobody."""
        for kind in self.table.types():
            if kind.ownership.owner == name:
                owned = replace(kind.ownership, owner=INIT_NAME)
                self._update_type(kind, ownership=owned, maker=self._makers.heir(kind.maker))
            elif kind.maker.owner == name:
                self._update_type(kind, maker=self._makers.heir(kind.maker))


def _scope(entity: Entity, wanted: WantedState) -> dict[str, Any]:
    """What the process of a transition gets: the fields of the payload, under what we say."""
    payload = wanted.payload or {}
    return {
        **payload,
        "payload": payload,
        "entity_type": entity.type,
        "entity_id": entity.id,
        "from_state": entity.state,
        "to_state": wanted.to,
        "reason": wanted.reason,
    }


def _check_name(name: str, what: str) -> None:
    if not NAME.fullmatch(name) or name in (".", "..", "machine"):
        raise KernelError(
            errno.EINVAL,
            f"{name[:64]!r} is no name for {what}: 1 to 128 of A-Z a-z 0-9 . _ @ : + - were"
            " expected",
            rule="name",
        )
