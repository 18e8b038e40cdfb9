"""Things by name that an agent owns and others use: the common part of queues, topics, pools."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from agentfs.base.clock import change_time
from agentfs.base.errors import KernelError
from agentfs.model.names import INIT_NAME
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.quota.made import Made
from agentfs.quota.pots import POTS
from agentfs.rights.gate import Gate
from agentfs.rights.ownership import Access, Ownership
from agentfs.rights.policy import Action
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records

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
        """Its record in the store."""


Thing = TypeVar("Thing", bound=Shared)


class Registry(Part, Generic[Thing]):
    """All of one kind, by name. They outlive the agent that owns them: init has them then, and
    not the next agent of that name. `changed` (ns) is when one came or went last."""

    KIND: ClassVar[str]
    """Their name, in words and in the store."""
    FOLDER: ClassVar[str]
    """Where they are in the tree."""
    CHANGED: ClassVar[type[Any]]
    """The event that says that one of this name has changed."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        agents: Agents,
        made: Made,
        read: Callable[[str, dict[str, Any]], Thing],
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._table = table
        self._agents = agents
        self._made = made
        self._pot = f"{self.KIND}s"
        self._by_name = Records[str, Thing](
            ground.store, self.KIND, lambda name, record: (name, read(name, record)), _record
        )
        self._by_name.load()
        for name, thing in self._by_name.items():
            made.note(self._pot, name, thing.ownership.owner)
        self.changed = int(ground.clock.now() * 1e9)

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

    def _check_new(
        self, principal: Principal, actor: Process, name: str, mode: int, most: int
    ) -> Ownership:
        """The ownership of a new one. EINVAL, EEXIST, EACCES, ENOSPC (there are `most` already),
        EDQUOT (the share of its maker)."""
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
                f"there are {most} {self._pot} already",
                rule=POTS[self._pot].setting,
            )
        self._gate.check_making(actor.agent, self._pot, 1)
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
        self._by_name.put(thing.name, thing)
        self._made.add(self._pot, thing.name, thing.ownership.owner)
        self._touch()

    def _discard(self, thing: Thing) -> None:
        self._by_name.drop(thing.name)
        self._made.remove(self._pot, thing.name)
        self._touch()

    def _update(self, thing: Thing, **fields: Any) -> None:
        fields["changed"] = change_time(self._clock.now(), thing.changed)
        self._by_name.change(thing.name, **fields)
        self._events.emit(self.CHANGED(thing.name))

    def _touch(self) -> None:
        self.changed = change_time(self._clock.now(), self.changed)

    def agent_removed(self, name: str) -> None:
        """The things that it owned are init's."""
        init = self._agents.get(INIT_NAME)
        for thing in self._by_name.values():
            if thing.ownership.owner == name:
                owned = replace(thing.ownership, owner=INIT_NAME, uid=init.uid, gid=init.gid)
                self._update(thing, ownership=owned)


def _record(thing: Shared) -> dict[str, Any]:
    return thing.record()
