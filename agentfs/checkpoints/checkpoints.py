"""Checkpoints of the whole system: made, listed, removed, and gone back to."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from agentfs.base.errors import KernelError
from agentfs.checkpoints import lasting, swap, verify
from agentfs.checkpoints.events import CheckpointCreated, CheckpointRemoved, SystemRolledBack
from agentfs.checkpoints.freezing import Freezing
from agentfs.checkpoints.making import CHECKPOINTS, FOLDERS, Making, mounted_below, remove_tree
from agentfs.checkpoints.settings import CheckpointSettings
from agentfs.mail.mail import Mail
from agentfs.model.names import INIT_NAME
from agentfs.model.principal import Principal
from agentfs.process.agents import Agents
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground
from agentfs.store.opening import is_full
from agentfs.store.part import Part
from agentfs.store.records import Records, keep_item

__all__ = ["Checkpoints", "SystemCheckpoint"]

log = logging.getLogger(__name__)

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

TYPE = "rollback"
"""The type of the message that each agent gets."""


@dataclass(frozen=True, slots=True)
class SystemCheckpoint:
    """The figures of one.

    created: seconds since 1970.
    by: the name of the one who made it.
    event: the number of the last event that is in it.
    pause: the seconds for which everybody stood still.
    files, bytes: how many files, and how long they are together; `copied` of those bytes were
        copied for it, the others it has in common with the one before.
    store: the bytes of the copy of the store.
    left_out: paths below the state directory where something was mounted.
    """

    name: str
    created: float
    by: str
    event: int
    pause: float
    files: int
    bytes: int
    copied: int
    store: int
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, facts: dict[str, Any]) -> SystemCheckpoint:
        """That of the facts in its folder. Raises KeyError."""
        values = {name: facts[name] for name in cls.__slots__ if name != "left_out"}
        return cls(**values, left_out=tuple(facts["left_out"]))


class Checkpoints(Part):
    """All of them, by name. They are what lies in their folder; the records in the store say which
    of them were told of. One is made, removed or gone back to at a time."""

    def __init__(
        self, ground: Ground, gate: Gate, agents: Agents, mail: Mail, freezing: Freezing
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._state = ground.state_dir
        self._folder = ground.state_dir / CHECKPOINTS
        self._gate = gate
        self._agents = agents
        self._mail = mail
        self._freezing = freezing
        self._told = Records(
            ground.store,
            lasting.KIND,
            lambda name, record: (name, record["created"]),
            lambda created: {"created": created},
        )
        self._found: dict[str, SystemCheckpoint] = {}
        self._busy = ""
        self._number = itertools.count()
        self._asked = trio.Event()
        self.changed = int(ground.clock.now() * 1e9)
        """In ns, for st_mtime."""

    # -- look-ups --------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        """The names, the oldest first."""
        return iter(sorted(self._found, key=lambda name: (self._found[name].created, name)))

    def __len__(self) -> int:
        return len(self._found)

    def find(self, name: str) -> SystemCheckpoint | None:
        return self._found.get(name)

    def get(self, name: str) -> SystemCheckpoint:
        """Raises ENOENT."""
        found = self._found.get(name)
        if found is None:
            raise KernelError(errno.ENOENT, f"there is no checkpoint {name!r}")
        return found

    # -- one run of the daemon -------------------------------------------------------------------

    def load(self) -> None:
        self._told.load()
        for place in verify.places(self._state):
            try:
                self._found[place.name] = SystemCheckpoint.of(verify.facts_of(place))
            except (OSError, ValueError, KeyError, TypeError) as bad:
                log.error("checkpoint %s cannot be read: %s", place.name, bad)

    def take_up(self) -> None:
        """Tell what happened to checkpoints and was not told, and of a way back."""
        with self._store.transaction():
            for name in set(self._told) - set(self._found):
                self._told.drop(name)
                self._events.emit(CheckpointRemoved(name))
            for name in sorted(set(self._found) - set(self._told)):
                self._tell(self._found[name])
            self._tell_of_rollback()

    def _tell(self, made: SystemCheckpoint) -> None:
        self._told.put(made.name, made.created)
        self._events.emit(CheckpointCreated(made.name, made.files, made.pause))

    def _tell_of_rollback(self) -> None:
        """Once after a way back: everybody has a message of it."""
        text = self._store.meta(lasting.ROLLED_BACK)
        if not text:
            return
        plan = json.loads(text)
        self._store.set_meta(lasting.ROLLED_BACK, "")
        self._events.emit(SystemRolledBack(plan["name"], plan["last"]))
        made = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(plan["created"]))
        words = (
            f"The system is again what it was at checkpoint {plan['name']}, made at {made} UTC."
            " What happened since has not happened; what was used since stays used.\n"
        )
        headers = [("Type", TYPE), ("Checkpoint", plan["name"])]
        for name in self._agents:
            if name == INIT_NAME or self._mail.notify(name, words.encode(), headers) is not None:
                continue
            log.warning("%s cannot be told that the system was rolled back", name)

    async def run(self) -> None:
        """Remove what is left of others, by and by."""
        with suppress(OSError):
            for left in self._folder.glob(".*"):
                await trio.to_thread.run_sync(remove_tree, left)

    # -- system calls ----------------------------------------------------------------------------

    async def create(self, principal: Principal, name: str) -> SystemCheckpoint:
        """Make one. Raises EACCES for anybody but the operator, EINVAL, EEXIST, EBUSY while another
        is made or a folder of the state is a mount, ENOSPC, and EDQUOT for one too many."""
        self._require_operator(principal)
        self._check_new(name)
        with self._doing(f"checkpoint {name} is being made"):
            last = [*self][-1:]
            earlier = self._folder / last[0] if last else None
            making = Making(self._state, self._unfinished("new"), earlier)
            try:
                made = await self._make(making, principal, name)
                self._keep(principal, making, made)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(remove_tree, making.place)
                raise
        return made

    def _check_new(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise KernelError(
                errno.EINVAL,
                f"{name!r} is no name for a checkpoint: 1 to 64 of A-Z a-z 0-9 . _ - were expected,"
                " and a letter or a digit first",
            )
        if name in self._found or (self._folder / name).exists():
            raise KernelError(errno.EEXIST, f"there is a checkpoint {name!r}")
        most = self._settings.of(CheckpointSettings).most
        if len(self._found) >= most:
            raise KernelError(
                errno.EDQUOT,
                f"there are {most} checkpoints already, which is checkpoints.most: remove some",
                rule="checkpoints.most",
            )

    async def _make(self, making: Making, principal: Principal, name: str) -> SystemCheckpoint:
        await self._on_disk(making.begin)
        if mounted := sorted(making.outside & set(FOLDERS)):
            raise KernelError(
                errno.EBUSY,
                f"{self._state / mounted[0]} is a mount of its own: it cannot be in a checkpoint",
            )
        began = time.monotonic()
        with ExitStack() as opened:
            async with self._freezing.everybody():
                created, event = self._clock.now(), self._events.last
                copy = opened.enter_context(self._store.copy_to(making.store))
                await self._on_disk(making.settle)
            pause = time.monotonic() - began
            await self._on_disk(copy.write)
        facts = {
            "name": name,
            "created": created,
            "by": principal.name,
            "event": event,
            "pause": round(pause, 4),
        }
        return SystemCheckpoint.of(await self._on_disk(partial(making.finish, facts)))

    def _keep(self, principal: Principal, making: Making, made: SystemCheckpoint) -> None:
        """It is there from now on."""
        place = self._folder / made.name
        with self._renamed(making.place, place), self._gate.enter(principal):
            keep_item(self._store, self._found, made.name)
            self._found[made.name] = made
            self._touch()
            self._tell(made)

    async def remove(self, principal: Principal, name: str) -> None:
        """Remove one. Raises EACCES, ENOENT, EBUSY."""
        self._require_operator(principal)
        self.get(name)
        with self._doing(f"checkpoint {name} is being removed"):
            place, gone = self._folder / name, self._unfinished("gone")
            with self._renamed(place, gone), self._gate.enter(principal):
                keep_item(self._store, self._found, name)
                del self._found[name]
                self._touch()
                self._told.drop(name)
                self._events.emit(CheckpointRemoved(name))
            await trio.to_thread.run_sync(remove_tree, gone)

    async def rollback(self, principal: Principal, name: str) -> None:
        """Decide that the system goes back to one; `asked` says when the daemon has to. Everything
        is ready then. Raises EACCES, ENOENT, EBUSY, EIO if it is damaged, ENOSPC."""
        self._require_operator(principal)
        made = self.get(name)
        with self._doing(f"the system is rolled back to {name}"):
            if mounted := sorted(mounted_below(self._state)):
                raise KernelError(
                    errno.EBUSY, f"something is mounted at {self._state / mounted[0]}: unmount it"
                )
            place = self._folder / name
            try:
                await self._require_whole(name)
                await self._on_disk(lambda: swap.begin(self._state, place))
                self._gate.actor(principal)
                plan = {"name": name, "created": made.created, "by": principal.name}
                await self._on_disk(lambda: swap.decide(self._state, plan))
            except BaseException:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(swap.give_up, self._state)
                raise
        self._busy = f"the system is being rolled back to {name}"
        self._freezing.close_tree()
        self._asked.set()

    async def verify(self, principal: Principal, name: str) -> None:
        """Read all of one. Raises EACCES, ENOENT, and EIO if it is damaged."""
        self._require_operator(principal)
        self.get(name)
        await self._require_whole(name)

    async def _require_whole(self, name: str) -> None:
        bad = await self._on_disk(lambda: next(verify.faults(self._folder / name), ""))
        if bad:
            raise KernelError(errno.EIO, f"checkpoint {name} is damaged: {bad}")

    @property
    def grace(self) -> float:
        """Seconds that programs have to end before a rollback kills them."""
        return self._settings.of(CheckpointSettings).grace

    async def asked(self) -> None:
        """Wait until the system is to be rolled back."""
        await self._asked.wait()

    # -- their parts -----------------------------------------------------------------------------

    def _require_operator(self, principal: Principal) -> None:
        if not principal.is_operator:
            raise KernelError(
                errno.EACCES,
                "checkpoints are the operator's: everybody's mail and files are in them",
                rule="checkpoints",
            )
        self._gate.actor(principal)

    def _touch(self) -> None:
        self.changed = max(int(self._clock.now() * 1e9), self.changed + 1)

    def _unfinished(self, what: str) -> Path:
        return self._folder / f".{what}-{next(self._number)}-{time.time_ns()}"

    @contextmanager
    def _renamed(self, place: Path, new: Path) -> Iterator[None]:
        """A folder has another name from here on, unless the block fails. A crash within it is told
        of by the next start, which finds what is there."""
        try:
            place.rename(new)
        except OSError as failure:
            raise KernelError.from_os(failure, f"{place} cannot be renamed") from None
        try:
            yield
        except BaseException:
            new.rename(place)
            raise

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        """One thing at a time. Raises EBUSY."""
        if self._busy:
            raise KernelError(errno.EBUSY, self._busy)
        self._busy = what
        try:
            yield
        finally:
            self._busy = ""

    async def _on_disk(self, work: Callable[[], T]) -> T:
        """Do it in a thread. Raises KernelError ENOSPC, or what else the disk says."""
        try:
            return await trio.to_thread.run_sync(work)
        except (OSError, sqlite3.Error) as failure:
            if isinstance(failure, OSError) and failure.errno != errno.ENOSPC:
                raise KernelError.from_os(failure, "a checkpoint") from failure
            number = errno.ENOSPC if is_full(failure) else errno.EIO
            raise KernelError(number, f"the disk of the state directory: {failure}") from failure
