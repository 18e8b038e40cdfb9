"""What queues and topics have in common: things by name that one agent owns and others use."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from agentfs.base.clock import Clock, change_time
from agentfs.base.errors import KernelError
from agentfs.model.names import INIT_NAME
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.rights.ownership import Access, Ownership
from agentfs.rights.policy import Action
from agentfs.store.event import Event
from agentfs.store.event_log import EventLog
from agentfs.store.part import Part
from agentfs.store.store import Store

__all__ = ["Registry"]

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Shared(Protocol):
    """One of those things. `changed` (ns): when its owner or mode did last, or more. `removed`: it
    is no more, even if there is one of its name again."""

    name: str
    ownership: Ownership
    changed: int
    removed: bool

    def record(self) -> dict[str, Any]:
        """What the store keeps of it."""


Thing = TypeVar("Thing", bound=Shared)


class Registry(Part, Generic[Thing]):
    """All of one kind, by name. They outlive the agent that owns them: init has them then, and
    not the next agent of that name. `changed` (ns) is when one came or went last."""

    KIND: ClassVar[str]
    """What they are called, in words and in the store."""
    FOLDER: ClassVar[str]
    """Where they are in the tree."""

    def __init__(
        self,
        gate: Gate,
        table: ProcessTable,
        agents: Agents,
        store: Store,
        events: EventLog,
        clock: Clock,
    ) -> None:
        self._gate = gate
        self._table = table
        self._agents = agents
        self._store = store
        self._events = events
        self._clock = clock
        self._by_name: dict[str, Thing] = {}
        self.changed = int(clock.now() * 1e9)

    def find(self, name: str) -> Thing | None:
        return self._by_name.get(name)

    def get(self, name: str) -> Thing:
        """Raises ENOENT."""
        found = self._by_name.get(name)
        if found is None:
            raise KernelError(errno.ENOENT, f"there is no {self.KIND} {name!r}")
        return found

    def __iter__(self) -> Iterator[str]:
        """The names, sorted."""
        return iter(sorted(self._by_name))

    def __len__(self) -> int:
        return len(self._by_name)

    def chmod(self, principal: Principal, name: str, mode: int) -> None:
        """Change the mode bits. ENOENT; EPERM unless the owner agent or the operator asks."""
        with self._gate.enter(principal):
            thing = self.get(name)
            self._update(thing, ownership=thing.ownership.with_mode(principal, mode, str(thing)))

    # -- for the kinds, inside a transaction -----------------------------------------------------

    def _changed(self, name: str) -> Event:
        """The event that says that one has changed."""
        raise NotImplementedError

    def _check_new(
        self, principal: Principal, actor: Process, name: str, mode: int, most: int
    ) -> Ownership:
        """Whose a new one is. EINVAL, EEXIST, EACCES, ENOSPC (there are `most` already), EDQUOT
        (the share of its maker)."""
        path, what = f"{self.FOLDER}/{name}", f"make a {self.KIND}".encode()
        self._gate.policy.require(actor, Action.SEND, path, what=what)
        if not NAME.fullmatch(name) or name in (".", ".."):
            raise KernelError(
                errno.EINVAL,
                f"{name!r} is no name for a {self.KIND}: 1 to 64 of A-Z a-z 0-9 . _ - were"
                " expected",
                rule="name",
            )
        if name in self._by_name:
            raise KernelError(errno.EEXIST, f"there is a {self.KIND} {name!r} already")
        ownership = Ownership.of(principal, mode)
        if len(self._by_name) >= most:
            raise KernelError(
                errno.ENOSPC,
                f"there are {most} {self.KIND}s already",
                rule=f"{self.KIND}s.max_{self.KIND}s",
            )
        self._gate.check_making(actor.name, f"{self.KIND}s", 1)
        return ownership

    def _admit(
        self,
        principal: Principal,
        actor: Process,
        thing: Thing,
        what: bytes | None = None,
        about: str = "",
    ) -> None:
        """ESTALE once it is removed; EACCES unless `principal` may send to it. Nobody is asked to
        approve it before there is something (`what`) to send."""
        owner = self._table.by_name(thing.ownership.owner)
        path = f"{self.FOLDER}/{thing.name}"
        decision = self._gate.policy.permit(actor, Action.SEND, path, owner)
        if what is not None:
            self._gate.policy.approved(actor, Action.SEND, path, decision, what, about)
        if thing.removed:
            raise KernelError(errno.ESTALE, f"{thing} was removed")
        thing.ownership.require(principal, Access.SEND, str(thing))

    def _add(self, thing: Thing) -> None:
        self._store.on_rollback(lambda: self._by_name.pop(thing.name))
        self._by_name[thing.name] = thing
        self._touch()
        self._store.put_record(self.KIND, thing.name, thing.record())

    def _discard(self, thing: Thing) -> None:
        self._store.on_rollback(lambda: self._by_name.__setitem__(thing.name, thing))
        del self._by_name[thing.name]
        self._touch()
        self._store.delete_record(self.KIND, thing.name)

    def _update(self, thing: Thing, **fields: Any) -> None:
        fields["changed"] = change_time(self._clock.now(), thing.changed)
        before = {field: getattr(thing, field) for field in fields}
        self._store.on_rollback(lambda: self._set(thing, before))
        self._set(thing, fields)
        self._store.put_record(self.KIND, thing.name, thing.record())
        self._events.emit(self._changed(thing.name))

    @staticmethod
    def _set(thing: Thing, fields: dict[str, Any]) -> None:
        for field, new in fields.items():
            setattr(thing, field, new)

    def _touch(self) -> None:
        self.changed = change_time(self._clock.now(), self.changed)

    def agent_removed(self, name: str) -> None:
        init = self._agents.get(INIT_NAME)
        for thing in self._by_name.values():
            if thing.ownership.owner == name:
                owned = replace(thing.ownership, owner=INIT_NAME, uid=init.uid, gid=init.gid)
                self._update(thing, ownership=owned)
