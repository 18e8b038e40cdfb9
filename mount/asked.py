"""A request under way: what the watchdog is told of it, and who asked."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from agentfs.mount.fairness import key_of
from agentfs.vfs.caller import Caller

if TYPE_CHECKING:
    from agentfs.mount.base import Base
    from agentfs.mount.handles import OpenFile

__all__ = ["OF_DIRECTORIES", "OF_FILES", "Asked"]

# Whose first argument is a handle; that of all others is an inode.
OF_FILES = frozenset({"read", "write", "flush", "fsync", "release"})
OF_DIRECTORIES = frozenset({"readdir", "releasedir", "fsyncdir"})


class Asked:
    """One request. `resumed` and `paused` stand around each piece of it that does not wait; its
    words are made only where one took long. `key`: whom it counts for, if that is known already."""

    __slots__ = ("_args", "_began", "_operations", "caller", "key", "name", "opened")

    def __init__(self, operations: Base, name: str, args: tuple[Any, ...], key: int | None) -> None:
        self.name = name
        self.key = key
        self.caller: Caller | None = None
        self.opened: OpenFile | None = None
        self._operations = operations
        self._args = args
        self._began = 0.0

    def resumed(self) -> None:
        self._operations.asked = self
        self._began = time.monotonic()

    def paused(self) -> None:
        operations = self._operations
        held = operations.watchdog.took(self.name, self, self._began)
        if self.key is None and self.caller is not None:
            self.key = key_of(self.caller.principal)
        operations.fairness.charge(self.key, self._began, held)

    def __str__(self) -> str:
        path, caller = self._where()
        caller = self.caller or caller
        by = "" if caller is None else f" by {caller.principal.name} (thread {caller.tid})"
        return f"{self.name} of {path}{by}"

    def _where(self) -> tuple[str, Caller | None]:
        handles = self._operations.handles
        first = self._args[0] if self._args else None
        try:
            if self.opened is not None or self.name in OF_FILES:
                file = self.opened or handles.file(first)  # type: ignore[arg-type]
                return self._operations.where(file.inode), file.caller
            if self.name in OF_DIRECTORIES:
                directory = handles.directory(first)  # type: ignore[arg-type]
                return self._operations.where(directory.inode), directory.caller
            name = self._args[1] if len(self._args) > 1 else b""
            inode = self._operations.inodes.get(first)  # type: ignore[arg-type]
            text = os.fsdecode(name) if isinstance(name, bytes) and "attr" not in self.name else ""
            return self._operations.where(inode, text), None
        except Exception:  # noqa: BLE001  # it is gone since: no words are worth a fault
            return "what is gone", None
