"""The fork server as the daemon sees it: started with the first program, and again whenever it has
ended; ended with the daemon, by its channel."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Collection
from contextlib import suppress

from agentfs.machine import fork_server

__all__ = ["ForkServer"]

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-I", "-S", fork_server.__file__)


class ForkServer:
    """It takes orders, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None
        self.ospid = 0
        """Of the present one; 0 if there is none."""

    def order(self, descriptors: Collection[int]) -> None:
        """Have a child begin that has these: see `fork_server.main`. Whether one did is seen by
        what they say, as a server that dies closes them. Raises OSError if none can be started."""
        with self._lock:
            if self._channel is None:
                self._channel = self._start()
            try:
                socket.send_fds(self._channel, [b"1"], [*descriptors])
            except ConnectionError:
                self._was_killed()

    def _start(self) -> socket.socket:
        """1 ms, by vfork. It shares our session, so it is never taken for what an agent has left
        behind, and leads a group of its own, which no terminal interrupts."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                number = str(theirs.fileno())
                child = subprocess.Popen(
                    [*COMMAND, number],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    cwd="/",
                    process_group=0,
                )
        except BaseException:
            ours.close()
            raise
        child.returncode = 0  # `reap` waits for it, and Popen must not
        self.ospid = child.pid
        weakref.finalize(self, ours.close)  # who lets go of us ends it, as the daemon's end does
        return ours

    def end(self) -> None:
        """End it; the next order starts another. Its children go on."""
        with self._lock:
            self._give_up()

    def look(self) -> None:
        """See whether it was killed: nobody else reaps it. Does not wait."""
        if self.ospid and self._lock.acquire(blocking=False):
            try:
                how = os.WEXITED | os.WNOHANG | os.WNOWAIT
                with suppress(ChildProcessError):
                    if os.waitid(os.P_PID, self.ospid, how) is None:
                        return
                self._was_killed()
            finally:
                self._lock.release()

    def _was_killed(self) -> None:
        log.warning("the fork server, process %d, was killed: there is another soon", self.ospid)
        self._give_up()

    def _give_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
            with suppress(ProcessLookupError):
                os.kill(self.ospid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.ospid, 0)
            self.ospid = 0
