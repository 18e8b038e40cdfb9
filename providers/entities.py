"""/proc/entities: things with a state, by type and id."""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

from agentfs.base.errors import KernelError
from agentfs.providers.described import Described
from agentfs.providers.proc import ProcDirectory
from agentfs.providers.system_table import SystemTable
from agentfs.rights.ownership import Access
from agentfs.triggers.entities import WantedState
from agentfs.triggers.entity_table import Entity, EntityType
from agentfs.triggers.events import (
    EntityChanged,
    EntityRegistered,
    EntityRemoved,
    EntityTypeChanged,
    EntityTypeMade,
    EntityTypeRemoved,
)
from agentfs.triggers.schedule_spec import read_json
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import document, link, message, value
from agentfs.vfs.files import Owner
from agentfs.vfs.handles import MAX_CONTROL, as_text
from agentfs.vfs.node import Attributes, Node, Stat, Time
from agentfs.vfs.on import on
from agentfs.vfs.table import Entry

__all__ = ["EntitiesDirectory"]

MOVED = (EntityChanged,)

REFUSALS = {
    "EINVAL": "no such state, or the payload lacks a field that the machine requires",
    "EPERM": "not from this state, or the guard says no",
    "EACCES": "the mode of the type, or the rules (`transition`)",
    "EBUSY": "a transition is pending",
    "ELOOP": "processes of transitions made one another, triggers.max_cascade deep",
}

WISHES = ("to", "expected", "reason", "payload")


class EntityDirectory(Described, SystemTable):
    """/proc/entities/TYPE/ID: one entity. `rmdir` removes it, with its history, once its state is
    terminal (EBUSY before)."""

    PATH = "/proc/entities/TYPE/ID"

    def __init__(self, folder: SystemTable, entity: Entity) -> None:
        super().__init__(folder)
        self._entity = entity
        self.key = self.at(entity.type, entity.id)

    @staticmethod
    def at(type_: str, name: str) -> Hashable:
        """The key of the directory of an entity."""
        return ("entity", type_, name)

    def guard(self, caller: Caller) -> None:
        kind = self.kernel.entities.get_type(self._entity.type)
        kind.ownership.require(caller.principal, Access.READ, str(kind))

    @property
    def entity(self) -> Entity:
        """The entity, looked at in every operation. ENOENT once it is removed."""
        return self.kernel.entities.get(self._entity.type, self._entity.id)

    def changed(self) -> Time:
        return self._entity.changed

    def entity_type(self) -> str:
        return "entity"

    def description(self) -> str:
        return f"{self._entity}, {self._entity.state}"

    def status(self) -> str:
        return self._entity.state

    def operations(self) -> tuple[str, ...]:
        return ("read", "watch", "exec")

    def tags(self) -> dict[str, str]:
        return {"entity_type": self._entity.type, "owner": self._entity.owner}

    @value("state", 0o666, write="go", on=MOVED, polled=True, example="PAID", errors=REFUSALS)
    def state(self) -> str:
        """The state. Write another one to have a transition there: it is done when the write
        returns, unless the machine has a process for it (see `pending`)."""
        return self._entity.state

    async def go(self, text: str, caller: Caller) -> None:
        self._transition(caller, WantedState(text))

    @value("allowed", on=MOVED, example="SHIPPED\nCANCELLED\n")
    def allowed(self) -> str:
        """The states that may follow, one a line; none if it is terminal, while a transition is
        pending, and where the type has no machine."""
        return "".join(f"{state}\n" for state in self.kernel.entities.allowed(self._entity))

    @value("history", on=MOVED, example='{"seq": 2, "from": "NEW", "to": "PAID", …}')
    def history(self) -> str:
        """What has happened, the newest 1000 lines, oldest first, one JSON object a line: seq,
        time, from (null: it was registered), to, state (what it was in afterwards), by, and, where
        there is one, reason, run and error. A transition whose process failed has a line with its
        `error`, and the state as it was."""
        lines = self.kernel.entities.table.history(self._entity)
        return "".join(f"{line}\n" for line in lines)

    @link("pending", example="../../../runs/214")
    def pending(self, caller: Caller) -> str:
        """The run of a transition that has not ended; ENOENT if there is none."""
        pending = self._entity.pending
        if pending is None:
            raise self.missing("pending")
        return f"../../../runs/{pending.run}"

    @message(
        "ctl",
        0o222,
        limit="request_limit",
        example='{"to": "PAID", "expected": "NEW", "payload": {"amount": 12}}',
        errors=REFUSALS | {"ESTALE": "it is not in the state `expected`"},
    )
    async def ctl(self, content: bytes, caller: Caller) -> None:
        """A transition as a JSON object: `to`, `expected` (the state that it has to be in),
        `reason` (a text), `payload` (an object)."""
        given = read_json(as_text(content))
        self._transition(caller, _wanted(given))

    def request_limit(self) -> int:
        """Bytes of one request."""
        return MAX_CONTROL

    def _transition(self, caller: Caller, wanted: WantedState) -> None:
        entity = self.entity
        self.kernel.entities.transition(caller.principal, entity.type, entity.id, wanted)

    def exists(self, entry: Entry) -> bool:
        return entry.name != "pending" or self._entity.pending is not None


def _wanted(given: object) -> WantedState:
    """What is written to `ctl`. EINVAL."""
    if not isinstance(given, dict):
        raise KernelError(errno.EINVAL, 'a JSON object was expected: {"to": "PAID"}')
    unknown = [name for name in given if name not in WISHES]
    if unknown:
        known = ", ".join(WISHES)
        raise KernelError(errno.EINVAL, f"{unknown[0][:64]!r}: one of {known} was expected")
    given = {name: wish for name, wish in given.items() if wish is not None}
    for name in ("to", "expected", "reason"):
        if not isinstance(given.get(name, ""), str):
            raise KernelError(errno.EINVAL, f"{name}: a text was expected")
    if "to" not in given or not isinstance(given.get("payload", {}), dict):
        wrong = "payload: an object" if "to" in given else "to: the name of a state"
        raise KernelError(errno.EINVAL, f"{wrong} was expected")
    return WantedState(**given)


class EntityTypeDirectory(SystemTable):
    """/proc/entities/TYPE: the entities of one type. `mkdir` registers one, in the initial state of
    the machine; the directory's mode says who may look at them (r), and register and change them
    (w), asked of the agent;
    its owner and the operator may change that, and the machine. `rmdir` removes it when it is
    empty."""

    PATH = "/proc/entities/TYPE"
    stepwise = True

    def __init__(self, folder: SystemTable, kind: EntityType) -> None:
        super().__init__(folder)
        self._type = kind
        self.key = self.at(kind.name)

    @staticmethod
    def at(name: str) -> Hashable:
        """The key of the directory of a type."""
        return ("entities", name)

    def owner(self) -> Owner:
        kind = self._type
        return Owner(kind.ownership.uid, kind.ownership.gid, kind.changed)

    def stat(self) -> Stat:
        return replace(super().stat(), mode=0o040000 | self._type.ownership.mode)

    def guard(self, caller: Caller) -> None:
        self._type.ownership.require(caller.principal, Access.READ, str(self._type))

    @document(
        "machine",
        write="set_machine",
        check="may_change",
        on=(EntityTypeChanged,),
        example="initial: NEW\ntransitions: {NEW: [PAID, CANCELLED], PAID: [SHIPPED]}\n",
        errors={
            "EINVAL": "not such a document (every fault with its line), or an entity is in a state"
            " that it does not have; nothing changes",
            "EPERM": "you are neither its owner nor the operator",
        },
    )
    def machine(self) -> str:
        """Which states there are, and what leads from one to another, as YAML: `initial`;
        `transitions`, of each state a list of states, or of `{to: STATE, guard: EXPRESSION}`;
        `states`, of each `on_enter` (a pipeline), `requires` (fields of the payload), `terminal`;
        `on_transition`, for `A -> B` a pipeline. A transition with a pipeline is done once that
        has completed; the pipeline runs for the type's maker. Empty: any state may follow any."""
        return self._type.text

    def may_change(self, caller: Caller) -> None:
        self._type.ownership.require_owner(caller.principal, f"change the machine of {self._type}")

    async def set_machine(self, content: bytes, caller: Caller) -> None:
        self.kernel.entities.set_machine(caller.principal, self._type.name, as_text(content))

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        super().chattr(caller, replace(wanted, mode=None))
        if wanted.mode is not None:
            self.kernel.entities.chmod(caller.principal, self._type.name, wanted.mode)

    def names_now(self, caller: Caller) -> Iterator[str]:
        yield from self.TABLE
        yield from self.kernel.entities.table.ids(self._type.name)

    def find(self, name: str) -> Node | None:
        entity = self.kernel.entities.table.find(self._type.name, name)
        return None if entity is None else EntityDirectory(self, entity)

    def more(self) -> Iterator[tuple[str, Node]]:
        for entity in self.kernel.entities.table.of_type(self._type.name):
            yield entity.id, EntityDirectory(self, entity)

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        entity = self.kernel.entities.register(caller.principal, self._type.name, name)
        return EntityDirectory(self, entity)

    def rmdir(self, name: str, caller: Caller) -> None:
        self.kernel.entities.remove(caller.principal, self._type.name, name)


class EntitiesDirectory(SystemTable):
    """/proc/entities: a directory for each type of entity. `mkdir` makes a type."""

    PATH = "/proc/entities"
    WHAT = "Things with a state, and what may follow it: a directory for each type."
    EACH = EntityTypeDirectory
    mode = 0o1777
    key = ("entities",)

    def __init__(self, above: ProcDirectory) -> None:
        super().__init__(above)

    def changed(self) -> Time:
        return self.kernel.entities.table.changed

    def find(self, name: str) -> Node | None:
        kind = self.kernel.entities.table.find_type(name)
        return None if kind is None else EntityTypeDirectory(self, kind)

    def more(self) -> Iterator[tuple[str, Node]]:
        for kind in self.kernel.entities.table.types():
            yield kind.name, EntityTypeDirectory(self, kind)

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        made = self.kernel.entities.make_type(caller.principal, name, caller.unmasked(mode))
        return EntityTypeDirectory(self, made)

    def rmdir(self, name: str, caller: Caller) -> None:
        self.kernel.entities.remove_type(caller.principal, name)

    def concerned(self, event: EntityTypeChanged) -> Sequence[Hashable]:
        return [EntityTypeDirectory.at(event.entity_type)]

    def _entity(self, type_: str, name: str) -> EntityDirectory | None:
        entity = self.kernel.entities.table.find(type_, name)
        return None if entity is None else EntityDirectory(self, entity)

    @on(EntityTypeMade)
    def _made(self, event: EntityTypeMade) -> Iterator[Change]:
        kind = self.kernel.entities.table.find_type(event.entity_type)
        if kind is not None:
            yield Created(self.key, kind.name, EntityTypeDirectory(self, kind))

    @on(EntityTypeChanged)
    def _changed(self, event: EntityTypeChanged) -> Iterator[Change]:
        yield Modified(EntityTypeDirectory.at(event.entity_type))

    @on(EntityTypeRemoved)
    def _gone(self, event: EntityTypeRemoved) -> Iterator[Change]:
        name = event.entity_type
        yield Removed(self.key, name, EntityTypeDirectory.at(name), is_directory=True)

    @on(EntityRegistered)
    def _registered(self, event: EntityRegistered) -> Iterator[Change]:
        node = self._entity(event.entity_type, event.entity)
        if node is not None:
            yield Created(EntityTypeDirectory.at(event.entity_type), event.entity, node)

    @on(EntityRemoved)
    def _removed(self, event: EntityRemoved) -> Iterator[Change]:
        folder = EntityTypeDirectory.at(event.entity_type)
        key = EntityDirectory.at(event.entity_type, event.entity)
        yield Removed(folder, event.entity, key, is_directory=True)

    @on(EntityChanged)
    def _moved(self, event: EntityChanged) -> Iterator[Change]:
        node = self._entity(event.entity_type, event.entity)
        if node is None:
            return
        for name, entry in node.TABLE.items():
            if EntityChanged in entry.on:
                yield Modified(node.key_of(name))
        if event.outcome == "pending":
            yield Created(node.key, "pending", node.node(node.TABLE["pending"]))
        elif event.run:
            yield Removed(node.key, "pending", node.key_of("pending"))
