"""/dev/locks: names that one process has at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable, Iterator

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.providers.system_table import SystemTable
from agentfs.shared.events import LockChanged, LockReleased, LockTaken
from agentfs.shared.locks import MAX_NOTE, Lock
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.files import Basics, Owner, Value, fields
from agentfs.vfs.handles import Whole, as_text
from agentfs.vfs.node import Handle, Node, Time, is_writing
from agentfs.vfs.on import on

__all__ = ["LocksDirectory"]

KEY = ("dev", "locks")


class LocksDirectory(SystemTable):
    """/dev/locks: to make the file NAME is to take the lock (`set -C; : > /dev/locks/NAME`, which
    opens it with O_EXCL); EEXIST says that somebody has it. `rm` gives it back, and so does the end
    of the holder: of the run, if a step took it, else of the program. Each file (0644) says Holder,
    Pid, Since, and the Note that the holder wrote into it (up to 4096 bytes). Raises EPERM for who
    is not the holder, ENOSPC and EDQUOT for too many."""

    PATH = "/dev/locks"
    WHAT = "Locks that are taken, each a file; making it takes the lock."
    mode = 0o1777
    key = KEY

    def changed(self) -> Time:
        return self.kernel.locks.changed

    def find(self, name: str) -> Node | None:
        lock = self.kernel.locks.find(name)
        return None if lock is None else LockFile(self, name, lock)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.locks.names():
            found = self.find(name)
            if found is not None:
                yield name, found

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        lock = self.kernel.locks.take(caller.principal, name)
        node = LockFile(self, name, lock)
        return node, node.open(flags & ~os.O_CREAT, caller)

    def unlink(self, name: str, caller: Caller) -> None:
        self.kernel.locks.release(caller.principal, name)

    def _at(self, name: str) -> Hashable:
        return self.key_of(name)

    @on(LockTaken)
    def _taken(self, event: LockTaken) -> Iterator[Change]:
        lock = self.kernel.locks.find(event.name)
        if lock is not None:
            yield Created(self.key, event.name, LockFile(self, event.name, lock))

    @on(LockChanged)
    def _noted(self, event: LockChanged) -> Iterator[Change]:
        yield Modified(self._at(event.name))

    @on(LockReleased)
    def _released(self, event: LockReleased) -> Iterator[Change]:
        yield Removed(self.key, event.name, self._at(event.name))


class LockFile(Value):
    """/dev/locks/NAME, while somebody has it."""

    def __init__(self, folder: LocksDirectory, name: str, lock: Lock) -> None:
        super().__init__(Basics(folder.key_of(name), 0o644, self._owner_now), self._text)
        self._folder = folder
        self._locks = folder.kernel.locks
        self._name = name
        self._lock = lock

    def _owner_now(self) -> Owner:
        return Owner(self._lock.uid, self._lock.gid, self._lock.changed)

    def _text(self) -> bytes:
        lock = self._locks.find(self._name) or self._lock
        return fields(
            ("Holder", lock.holder),
            ("Pid", lock.pid),
            ("Since", rfc3339(lock.since)),
            ("Note", lock.note),
        ).encode()

    def open(self, flags: int, caller: Caller) -> Handle:
        if self._locks.find(self._name) is not self._lock:
            raise KernelError(errno.ENOENT, f"the lock {self._name} was given back")
        if not is_writing(flags):
            return super().open(flags, caller)
        if not self._locks.may_write(caller.principal, self._name):
            raise self._locks.refusal(self._name)

        async def note(data: bytes) -> None:
            self._locks.note(caller.principal, self._name, as_text(data).strip())

        return Whole(note, MAX_NOTE)
