"""The tables of entities: their types, the things themselves, and what happened to each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentfs.base.clock import change_time
from agentfs.base.yaml_document import DocumentError, YamlDocument
from agentfs.manifests.machine import Machine, read_machine
from agentfs.rights.ownership import Ownership
from agentfs.store.ground import Ground
from agentfs.store.records import Records, keep_fields
from agentfs.triggers.maker import Maker

__all__ = ["ENTITY", "TYPE", "Entity", "EntityTable", "EntityType", "Pending", "parse_machine"]

TYPE, ENTITY = "entity-type", "entity"
"""The records in the store: by name, and by TYPE/ID."""

MOST_SHOWN = 1000
"""Lines of a history that are shown, in a millisecond; all are kept."""

Key = tuple[str, str]


@dataclass(slots=True, eq=False)
class EntityType:
    """Things of one kind. Without a machine (`text` is empty) they can be in any state. `maker` is
    for whom the processes of transitions run. `changed` in ns."""

    name: str
    ownership: Ownership
    maker: Maker
    text: str = ""
    machine: Machine | None = None
    changed: int = 0

    def __str__(self) -> str:
        return f"entity type {self.name}"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **self.ownership.record(),
            "maker": self.maker.record(),
            "text": self.text,
            "changed": self.changed,
        }

    @classmethod
    def from_record(cls, name: str, record: dict[str, Any]) -> EntityType:
        """The type that gave this record. Raises DocumentError for a machine that is none."""
        return cls(
            name,
            Ownership.from_record(record),
            Maker.from_record(record["maker"]),
            record["text"],
            parse_machine(record["text"]) if record["text"] else None,
            record["changed"],
        )


def parse_machine(text: str) -> Machine:
    """The machine that a document describes. Raises DocumentError with every fault."""
    with YamlDocument(text, "machine") as document:
        root = document.root()
        if root is None:
            raise DocumentError(["machine:1: a map was expected: initial, transitions, states"])
        machine = read_machine(document, root, "the machine")
        if machine is None:
            raise document.refusal()
        return machine


@dataclass(frozen=True, slots=True)
class Pending:
    """A transition under way: it is done once `run` has completed. `depth`: it was made by the
    process of a transition, and so on, so many times."""

    to: str
    run: int
    by: str
    reason: str
    depth: int


@dataclass(slots=True, eq=False)
class Entity:
    """One thing. `owner` is the agent that has registered it, `seq` the number of the last line of
    its history; `changed` in ns. Only `Entities` changes it."""

    type: str
    id: str
    state: str
    owner: str
    created: float
    pending: Pending | None = None
    seq: int = 0
    changed: int = 0

    @property
    def key(self) -> Key:
        return self.type, self.id

    def __str__(self) -> str:
        return f"{self.type} {self.id}"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        pending = self.pending
        return {
            "state": self.state,
            "owner": self.owner,
            "created": self.created,
            "seq": self.seq,
            "changed": self.changed,
            "pending": None
            if pending is None
            else {name: getattr(pending, name) for name in Pending.__slots__},
        }

    @classmethod
    def from_record(cls, key: str, record: dict[str, Any]) -> Entity:
        """The entity that gave this record."""
        type_, _, name = key.partition("/")
        pending = record.pop("pending")
        return cls(type_, name, pending=None if pending is None else Pending(**pending), **record)


class EntityTable:
    """All types by name, all entities by type and id, and their history in the store."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._types = Records[str, EntityType](
            ground.store,
            TYPE,
            lambda name, record: (name, EntityType.from_record(name, record)),
            EntityType.record,
        )
        self._all = Records[Key, Entity](
            ground.store, ENTITY, _read, Entity.record, lambda key: "/".join(key)
        )
        self._of_type = self._all.index(lambda entity: entity.type, "type")
        self._of_owner = self._all.index(lambda entity: entity.owner, "owner")
        self._of_run: dict[int, Entity] = {}
        self._all.follow(self._entered, self._left, ("pending",))
        self.changed = int(ground.clock.now() * 1e9)
        """When a type came or went last, in ns."""

    def load(self) -> None:
        """Read everything from the store."""
        self._types.load()
        self._all.load()

    # -- types -----------------------------------------------------------------------------------

    def types(self) -> list[EntityType]:
        """All of them, by name."""
        return [self._types[name] for name in sorted(self._types)]

    def find_type(self, name: str) -> EntityType | None:
        return self._types.get(name)

    def add_type(self, made: EntityType) -> None:
        made.changed = int(self._clock.now() * 1e9)
        self._types.put(made.name, made)
        self._touch()

    def change_type(self, kind: EntityType, **fields: Any) -> None:
        """Set fields of a type."""
        fields["changed"] = change_time(self._clock.now(), kind.changed)
        self._types.change(kind.name, **fields)

    def drop_type(self, kind: EntityType) -> None:
        self._types.drop(kind.name)
        self._touch()

    def _touch(self) -> None:
        keep_fields(self._store, self, "changed")
        self.changed = change_time(self._clock.now(), self.changed)

    # -- entities --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._all)

    def of_type(self, name: str) -> list[Entity]:
        """Those of a type, by id."""
        found = self._of_type.of(name)
        return [found[key] for key in sorted(found)]

    def ids(self, name: str) -> list[str]:
        """The ids of a type, in the order in which they came: 100,000 in 10 ms."""
        return [key[1] for key in self._of_type.of(name)]

    def count(self, name: str) -> int:
        """How many there are of a type."""
        return len(self._of_type.of(name))

    @property
    def of_owner(self) -> Mapping[str, Mapping[Key, Entity]]:
        """By the agent that has registered them."""
        return self._of_owner

    def find(self, type_: str, name: str) -> Entity | None:
        return self._all.get((type_, name))

    def of_run(self, number: int) -> Entity | None:
        """The one whose transition waits for this run."""
        return self._of_run.get(number)

    def waiting(self) -> list[Entity]:
        """Those whose transition waits for a run."""
        return list(self._of_run.values())

    def add(self, entity: Entity) -> None:
        entity.changed = int(self._clock.now() * 1e9)
        self._all.put(entity.key, entity)

    def change(self, entity: Entity, **fields: Any) -> None:
        """Set fields of an entity."""
        fields["changed"] = change_time(self._clock.now(), entity.changed)
        self._all.change(entity.key, **fields)

    def drop(self, entity: Entity) -> None:
        """It is no more, and its history neither."""
        self._all.drop(entity.key)
        self._store.write(
            "DELETE FROM entity_history WHERE type = ? AND id = ?", (entity.type, entity.id)
        )

    # -- history ---------------------------------------------------------------------------------

    def add_line(self, entity: Entity, line: Mapping[str, Any]) -> None:
        """One more line of its history; the number is put into it."""
        seq = entity.seq + 1
        text = json.dumps({"seq": seq, **line}, ensure_ascii=False)
        self._store.write(
            "INSERT INTO entity_history VALUES (?, ?, ?, ?)", (entity.type, entity.id, seq, text)
        )
        self.change(entity, seq=seq)

    def history(self, entity: Entity, most: int = MOST_SHOWN) -> Iterator[str]:
        """The newest lines of its history, oldest first."""
        rows = self._store.read(
            "SELECT record FROM entity_history WHERE type = ? AND id = ? AND seq > ? ORDER BY seq",
            (entity.type, entity.id, entity.seq - most),
        )
        return (record for (record,) in rows)

    # -- the index by run --------------------------------------------------------------------------

    def _entered(self, key: Key, entity: Entity) -> None:
        if entity.pending is not None:
            self._of_run[entity.pending.run] = entity

    def _left(self, key: Key, entity: Entity) -> None:
        if entity.pending is not None:
            self._of_run.pop(entity.pending.run, None)


def _read(key: str, record: dict[str, Any]) -> tuple[Key, Entity]:
    entity = Entity.from_record(key, record)
    return entity.key, entity
