"""/dev/waits: the signals that runs wait for."""

from __future__ import annotations

import errno
import json
from collections.abc import Hashable, Iterator
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.providers.system_table import SystemTable
from agentfs.vfs.caller import Caller
from agentfs.vfs.files import Basics, Control
from agentfs.vfs.handles import WHOLE_WRITE, as_text
from agentfs.vfs.node import Handle, Node

__all__ = ["WaitsDirectory", "signalled"]


class WaitFile(Control):
    """/dev/waits/KEY. It comes and goes with those who wait, and nobody is told of that."""

    timeout = 0.0


class WaitsDirectory(SystemTable):
    """/dev/waits: a file KEY (0222) for each signal that a node of a run waits for. Every write
    wakes all that wait for it, of all runs that the writer may signal (who may end a run may); the
    bytes are their output: a JSON value, or text. ENOENT: nobody waits. EACCES: for none of these.
    /proc/runs/ID/signals/KEY is for one run, and keeps what comes too early."""

    PATH = "/dev/waits"
    WHAT = "Signals that runs wait for: each a file, and a write wakes them."
    key = ("dev", "waits")
    restless = True
    stepwise = True

    def find(self, name: str) -> Node | None:
        return self._file(name) if self.kernel.wakes.is_awaited(name) else None

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.wakes.keys():  # noqa: SIM118  # it is no mapping
            yield name, self._file(name)

    def names_now(self, caller: Caller) -> Iterator[str]:
        return self.kernel.wakes.keys()

    def missing(self, name: str) -> KernelError:
        return KernelError(errno.ENOENT, f"nobody waits for {name}")

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        """A shell's `>` asks for this where there is no file."""
        raise self.missing(name)

    def _file(self, name: str) -> Node:
        async def wake(content: bytes, caller: Caller) -> None:
            await self.kernel.wakes.wake(caller.principal, name, signalled(content))

        basics = Basics(self._key(name), 0o222, self.owner)
        return WaitFile(basics, whole=wake, limit=lambda: WHOLE_WRITE)

    def _key(self, name: str) -> Hashable:
        return self.key_of(name)


def signalled(content: bytes) -> Any:
    """The value that somebody sends: JSON if it is that, else text without its last newline."""
    text = as_text(content)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.removesuffix("\n")
