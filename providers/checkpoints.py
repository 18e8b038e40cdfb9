"""/sys/checkpoints: the whole system as it was.

mkdir NAME     makes a checkpoint          NAME/info   its figures
rmdir NAME     removes it                  NAME/ctl    rollback, verify
"""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterator
from datetime import UTC, datetime
from functools import partial

from agentfs.base.errors import KernelError
from agentfs.checkpoints.checkpoints import SystemCheckpoint
from agentfs.checkpoints.events import CheckpointCreated, CheckpointRemoved
from agentfs.providers.system_table import SystemTable
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.declare import control, value
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.node import Node, Time
from agentfs.vfs.on import on
from agentfs.vfs.table import Table
from agentfs.vfs.waiting import wait

__all__ = ["CheckpointDirectory", "CheckpointsDirectory"]


class CheckpointDirectory(Table):
    """/sys/checkpoints/NAME: a checkpoint."""

    PATH = "/sys/checkpoints/NAME"
    mode = 0o700

    def __init__(self, folder: CheckpointsDirectory, made: SystemCheckpoint) -> None:
        self._folder = folder
        self._made = made
        self.kernel = folder.kernel
        self.key = self.at(made.name)

    @staticmethod
    def at(name: str) -> Hashable:
        """The key of the directory of a checkpoint."""
        return ("checkpoints", name)

    def owner(self) -> Owner:
        return self._folder.owned(int(self._made.created * 1e9))

    def guard(self, caller: Caller) -> None:
        self._folder.guard(caller)

    @value(
        "info",
        0o400,
        example="Name:\tgood\nCreated:\t2026-11-21T09:00:00.123Z\nBy:\tinit\nEvent:\t4711\n…",
    )
    def info(self) -> str:
        """Name, when it was Created and By whom, the last Event that is in it, the Pause in seconds
        for which everybody stood still, how many Files are in it and their Bytes, those Copied for
        it (the others it shares with the one before), the bytes of the Store, and what was
        Left-out because something else was mounted there."""
        made = self._made
        when = datetime.fromtimestamp(made.created, UTC).isoformat(timespec="milliseconds")
        return fields(
            ("Name", made.name),
            ("Created", when.replace("+00:00", "Z")),
            ("By", made.by),
            ("Event", made.event),
            ("Pause", f"{made.pause:.3f}"),
            ("Files", made.files),
            ("Bytes", made.bytes),
            ("Copied", made.copied),
            ("Store", made.store),
            ("Left-out", " ".join(made.left_out)),
        )

    @control(
        "ctl",
        0o200,
        example="rollback",
        errors={
            "EINVAL": "unknown command",
            "EACCES": "only the operator may",
            "EBUSY": "another checkpoint is being made or gone back to, or something is mounted in"
            " the state directory",
            "EIO": "the checkpoint is damaged; /proc/self/error says where",
            "ENOSPC": "there is no room for the copy that becomes the state",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: `rollback` makes the system what it was: it is decided when the write returns,
        programs end, and the next call is answered by the system as it was. Open files are stale
        then (ESTALE), programs are started by their restart policy, and each agent has a message of
        Type `rollback`. The audit, the accounting and what was used of budgets stay, and no pid and
        no number of a message comes twice. `verify` reads all of it, and raises EIO if it is
        damaged."""
        match command.split():
            case ["rollback"]:
                await self.kernel.checkpoints.rollback(caller.principal, self._made.name)
            case ["verify"]:
                await self.kernel.checkpoints.verify(caller.principal, self._made.name)
            case _:
                raise KernelError(errno.EINVAL, f"rollback or verify, not {command!r}")


class CheckpointsDirectory(SystemTable):
    """/sys/checkpoints: for the operator. `mkdir NAME` makes a checkpoint of the whole system, and
    returns when it is there; `rmdir NAME` removes one."""

    PATH = "/sys/checkpoints"
    WHAT = "The whole system as it was, and the way back."
    EACH = CheckpointDirectory
    mode = 0o700
    key = ("checkpoints",)

    def changed(self) -> Time:
        return max(super().changed(), self.kernel.checkpoints.changed)

    def guard(self, caller: Caller) -> None:
        if not caller.principal.is_operator:
            raise KernelError(
                errno.EACCES,
                f"checkpoints are the operator's, and you are {caller.principal.name}",
                rule="operator",
            )

    def find(self, name: str) -> Node | None:
        made = self.kernel.checkpoints.find(name)
        return None if made is None else CheckpointDirectory(self, made)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.checkpoints:
            yield name, CheckpointDirectory(self, self.kernel.checkpoints.get(name))

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        make = partial(self.kernel.checkpoints.create, caller.principal, name)
        return CheckpointDirectory(self, wait(make))

    def rmdir(self, name: str, caller: Caller) -> None:
        wait(partial(self.kernel.checkpoints.remove, caller.principal, name))

    @on(CheckpointCreated)
    def _created(self, event: CheckpointCreated) -> Iterator[Change]:
        made = self.kernel.checkpoints.find(event.name)
        if made is not None:
            yield Created(self.key, event.name, CheckpointDirectory(self, made))

    @on(CheckpointRemoved)
    def _removed(self, event: CheckpointRemoved) -> Iterator[Change]:
        key = CheckpointDirectory.at(event.name)
        yield Removed(self.key, event.name, key, is_directory=True)
