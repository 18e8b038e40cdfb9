"""/agents/NAME/log: a real file that the agent's programs write, behind the tree's back."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import trio
from inotify_simple import INotify, flags

from agentfs.base.errors import KernelError
from agentfs.providers import disk
from agentfs.providers.agents import AgentDirectory
from agentfs.providers.descriptors import Descriptor
from agentfs.quota.shares import Charge
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Modified
from agentfs.vfs.declare import file
from agentfs.vfs.node import File, Handle, Node, Stat, is_writing
from agentfs.vfs.table import AddedRows, key_in

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["LogFile", "LogRows", "LogWatcher"]


PAUSE = 0.01
"""Seconds between two looks: a program may write a thousand times in it."""


class LogFile(File):
    """/agents/NAME/log."""

    # Growth is announced by the LogWatcher; this is for where inotify is not to be had.
    timeout = 1.0

    def __init__(self, agent: AgentDirectory) -> None:
        self.key = self.at(agent.name)
        self._agent = agent

    @staticmethod
    def at(agent: str) -> Hashable:
        """The key of the log of an agent."""
        return key_in(AgentDirectory.at(agent), "log")

    def _path(self) -> str:
        return os.fspath(self._agent.kernel.agents.log_path(self._agent.name))

    def stat(self) -> Stat:
        owner = self._agent.owner()
        size, time = 0, owner.mtime
        try:
            found = os.stat(self._path())
            size, time = found.st_size, found.st_mtime_ns
        except FileNotFoundError:
            pass  # nothing ever ran
        return Stat(0o100640, owner.uid, owner.gid, size, time, 1, time, time)

    def open(self, flags: int, caller: Caller) -> Handle:
        if is_writing(flags) or flags & os.O_TRUNC:
            raise KernelError(errno.EACCES, "the log is written by the agent's programs only")
        shown = self._agent.process or self._agent.agent
        self._agent.kernel.rules.read_process(caller.principal, shown, "log")
        return LogHandle(self._path(), caller.descriptor())


class LogRows(AddedRows):
    """The entry of an agent that shows it."""

    INTO = "/agents/NAME"

    @file("log", 0o640)
    def log(self) -> Node:
        """What its processes wrote to stdout and stderr, appended, rotated."""
        return LogFile(self.directory)


class LogHandle(Handle):
    """An open log; one that does not exist yet is empty and looked for again."""

    def __init__(self, path: str, charge: Charge) -> None:
        self._path = path
        self._charge = charge
        self._descriptor: Descriptor | None = None

    async def read(self, offset: int, size: int) -> bytes:
        with disk.reported("reading the log"):
            if self._descriptor is None:
                try:
                    found = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                except FileNotFoundError:
                    return b""
                self._descriptor = Descriptor(found, self._charge)
            return await disk.read_at(self._descriptor.number, offset, size)

    def release(self) -> None:
        self._descriptor = None
        self._charge.release()


class LogWatcher:
    """Says when a log grows: the programs write the real file, behind the tree's back."""

    def __init__(self, kernel: Kernel) -> None:
        self._folder = os.fspath(kernel.state_dir / "logs")

    async def run(self, notify: Callable[[Change], object]) -> None:
        """Call `notify` with a change for each agent whose log changed, until cancelled."""
        with INotify() as watch:
            watch.add_watch(self._folder, flags.MODIFY | flags.CREATE | flags.MOVED_TO)
            while True:
                await trio.lowlevel.wait_readable(watch.fileno())
                names = {event.name for event in watch.read(timeout=0)}
                for name in sorted(names):
                    if name.endswith(".log"):
                        notify(Modified(LogFile.at(name[:-4])))
                await trio.sleep(PAUSE)
