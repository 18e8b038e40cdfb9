"""Locks by name: one process has a lock, all others are told who, until it gives the lock back or
ends.

What takes a lock is the process: for a step of a run that is the run, so a lock may be taken in one
node and given back in another. An agent's locks end with the program that took them, because the
next one knows nothing of them.
"""

from __future__ import annotations

import errno
from dataclasses import asdict, dataclass
from typing import Any

from agentfs.base.clock import change_time
from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.model.process import Process, ProcessKind
from agentfs.process.table import ProcessTable
from agentfs.quota.made import Made
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Action
from agentfs.shared.events import LockChanged, LockReleased, LockTaken
from agentfs.shared.registry import NAME
from agentfs.shared.settings import LockSettings
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records

__all__ = ["KIND", "MAX_NOTE", "Lock", "Locks"]

KIND = "lock"
"""The records in the store, by name."""

MAX_NOTE = 4096
"""Bytes that a holder may write into its lock."""


@dataclass(slots=True)
class Lock:
    """Process `pid` has had it `since` a wall-clock time in seconds. `maker` is the agent for which
    it counts, `note` what the holder wrote into it, `changed` (ns) when that was."""

    holder: str
    pid: int
    maker: str
    uid: int
    gid: int
    since: float
    changed: int
    note: str = ""


def _read(name: str, record: dict[str, Any]) -> tuple[str, Lock]:
    return name, Lock(**record)


class Locks(Part):
    """All that are taken, by name. `changed` (ns) is when one came or went last."""

    def __init__(self, ground: Ground, gate: Gate, table: ProcessTable, made: Made) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._table = table
        self._held = Records(ground.store, KIND, _read, asdict)
        self._by_pid = self._held.index(lambda lock: lock.pid, "pid")
        by_maker = self._held.index(lambda lock: lock.maker, "maker")
        made.count_in("locks", lambda: by_maker, lambda: len(self._held))
        self.changed = int(ground.clock.now() * 1e9)

    def load(self) -> None:
        self._held.load()

    def take_up(self) -> None:
        """A process that ended for good holds nothing."""
        with self._store.transaction():
            for pid in tuple(self._by_pid):
                process = self._table.find(pid)
                if process is None or not process.state.alive:
                    self._release_all(pid, "its holder has ended")

    # -- looking -----------------------------------------------------------------------------------

    def find(self, name: str) -> Lock | None:
        return self._held.get(name)

    def names(self) -> list[str]:
        """Those that are taken, sorted."""
        return sorted(self._held)

    # -- system calls ------------------------------------------------------------------------------

    def take(self, principal: Principal, name: str) -> Lock:
        """Take the lock `name`. Raises EEXIST (the words say who has it), EINVAL for what is no
        name, EACCES, ENOSPC (`locks.max_locks` are taken), EDQUOT (more than its share)."""
        with self._gate.enter(principal) as actor:
            path = f"/dev/locks/{name}"
            self._gate.policy.require(actor, Action.SEND, path, what=b"take a lock")
            if not NAME.fullmatch(name) or name in (".", ".."):
                raise KernelError(
                    errno.EINVAL,
                    f"{name!r} is no name for a lock: 1 to 64 of A-Z a-z 0-9 . _ - were expected",
                    rule="name",
                )
            if name in self._held:
                raise self.refusal(name)
            most = self._settings.of(LockSettings).max_locks
            if len(self._held) >= most:
                raise KernelError(
                    errno.ENOSPC, f"{most} locks are taken already", rule="locks.max_locks"
                )
            holder = self._holder(actor)
            self._gate.check_making(actor.agent, "locks", 1)
            now = self._clock.now()
            lock = Lock(
                holder=holder.name,
                pid=holder.pid,
                maker=actor.agent,
                uid=principal.uid,
                gid=principal.gid,
                since=now,
                changed=change_time(now, 0),
            )
            self._held.put(name, lock)
            self._touch()
            self._events.emit(LockTaken(name, holder.name, holder.pid))
            return lock

    def release(self, principal: Principal, name: str) -> None:
        """Give it back. Raises ENOENT if nobody has it, EPERM unless its holder or the operator
        asks."""
        with self._gate.enter(principal) as actor:
            self._own(principal, actor, name)
            self._release(name, f"{principal.name} released it")

    def note(self, principal: Principal, name: str, text: str) -> None:
        """Keep words with it, which everybody reads. Raises as `release`, and EMSGSIZE for more
        than `MAX_NOTE` bytes."""
        if len(text.encode()) > MAX_NOTE:
            raise KernelError(errno.EMSGSIZE, f"a note has at most {MAX_NOTE} bytes")
        with self._gate.enter(principal) as actor:
            lock = self._own(principal, actor, name)
            changed = change_time(self._clock.now(), lock.changed)
            self._held.change(name, note=text, changed=changed)
            self._events.emit(LockChanged(name))

    def refusal(self, name: str) -> KernelError:
        """Why nobody else can have it now."""
        lock = self._held[name]
        return KernelError(
            errno.EEXIST,
            f"{lock.holder} (process {lock.pid}) has the lock {name}: it is free once that is"
            f" removed, or the process ends",
            rule="lock",
        )

    def may_write(self, principal: Principal, name: str) -> bool:
        """Whether it is the holder's, or the operator asks."""
        actor = self._gate.process(principal)
        lock = self._held.get(name)
        if lock is None or actor is None:
            return False
        return principal.is_operator or self._holder(actor).pid == lock.pid

    def _own(self, principal: Principal, actor: Process, name: str) -> Lock:
        lock = self._held.get(name)
        if lock is None:
            raise KernelError(errno.ENOENT, f"nobody has the lock {name}")
        if not principal.is_operator and self._holder(actor).pid != lock.pid:
            raise KernelError(
                errno.EPERM,
                f"{lock.holder} (process {lock.pid}) has the lock {name}; only that and the"
                " operator release it",
                rule="owner",
            )
        return lock

    def _holder(self, actor: Process) -> Process:
        """The process that has what `actor` takes."""
        if actor.kind is ProcessKind.STEP:
            return self._table.find(actor.ppid) or actor
        return actor

    # -- ends --------------------------------------------------------------------------------------

    def program_ended(self, process: Process, code: int) -> None:
        self._release_all(process.pid, f"the program of {process.name} has ended")

    def process_ended(self, process: Process) -> None:
        self._release_all(process.pid, f"{process.name} has ended")

    def _release_all(self, pid: int, why: str) -> None:
        for name in tuple(self._by_pid.of(pid)):
            self._release(name, why)

    def _release(self, name: str, why: str) -> None:
        lock = self._held[name]
        self._held.drop(name)
        self._touch()
        self._events.emit(LockReleased(name, lock.holder, lock.pid, why))

    def _touch(self) -> None:
        self.changed = change_time(self._clock.now(), self.changed)
