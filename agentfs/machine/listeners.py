"""The listening sockets of programs that have a network of their own."""

from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import Iterator, Mapping

import trio

from agentfs.machine import network
from agentfs.model.process import Process

__all__ = ["Listeners"]

log = logging.getLogger(__name__)


class Listeners(Mapping[int, socket.socket]):
    """Each by the pid of its process, from the start of the program to its end. Only that program
    and its descendants can connect to it."""

    def __init__(self) -> None:
        self._open: dict[int, socket.socket] = {}
        self._changed = trio.Event()
        self._lost: list[tuple[Process, int]] = []  # (whose, a pidfd of our own)

    def __getitem__(self, pid: int) -> socket.socket:
        return self._open[pid]

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._open))

    def __len__(self) -> int:
        return len(self._open)

    @property
    def change(self) -> trio.Event:
        """Set when one comes or goes from now on. Ask for it, and then look at them."""
        return self._changed

    async def changed(self) -> None:
        """Wait until one comes or goes. Look at them before each wait."""
        await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def began(self, pid: int, listener: socket.socket) -> None:
        """The program of `pid` has been started, and connects to this one."""
        self.ended(pid)
        self._open[pid] = listener
        self._tell()

    def ended(self, pid: int) -> None:
        """The program of `pid` has ended."""
        listener = self._open.pop(pid, None)
        if listener is not None:
            trio.lowlevel.notify_closing(listener)
            listener.close()
            self._tell()

    def lost(self, process: Process, pidfd: int) -> None:
        """The listener of this program went with the daemon that started it; see `find_lost`."""
        self._lost.append((process, os.dup(pidfd)))

    async def find_lost(self) -> None:
        """Give each program whose listener was lost another one in its network. It finds nobody
        there until then."""
        while self._lost:
            process, pidfd = self._lost.pop()
            try:
                listener = await trio.to_thread.run_sync(network.listen_again, pidfd)
            except OSError as failure:
                text = "process %d, %s, has lost the gateway of models: %s"
                log.warning(text, process.pid, process.name, failure.strerror)
            else:
                if _runs(pidfd):
                    self.began(process.pid, listener)
                else:
                    listener.close()
            finally:
                os.close(pidfd)

    def close(self) -> None:
        """The daemon ends."""
        for pid in self:
            self.ended(pid)


def _runs(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)
