"""The gateway's process, as its parent sees it: started, watched, ended.

It shares the session of the daemon, so that it is never taken for what an agent has left behind,
and leads a process group of its own, which is ended with it: a model that runs on this machine is
in there. Where the daemon is root it becomes a user that nobody else is.
"""

from __future__ import annotations

import logging
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio

import agentfs
from agentfs.machine.cgroups import ControlGroups
from agentfs.models.line import GatewayLine

__all__ = ["COMMAND", "END_SECONDS", "Worker", "own_user"]

log = logging.getLogger("agentfs.gateway")

COMMAND = (sys.executable, "-P", "-m", "agentfs.gateway")

GROUP = "gateway"
"""Of its control group, beside those of processes."""

INHERITED = frozenset(
    {
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "PATH",
        "PYTHONPATH",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TZ",
    }
)
"""Of our environment; it is told everything else."""

END_SECONDS = 2.0
"""For ending by itself, once the channel is closed."""

LINE_MOST = 2000
"""Bytes of what it says on standard error, a line."""

# systemd's list of users (UIDS-GIDS) has nobody in here.
USERS = range(60_578, 61_184)


class Worker:
    """One run of it. `last_words` is the last line that it said on standard error."""

    def __init__(self, process: subprocess.Popen[bytes], ours: socket.socket, said: int) -> None:
        self.ospid = process.pid
        self.channel = GatewayLine(ours)
        self.last_words = ""
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._said = said

    @classmethod
    async def start(cls, tapes: Path, instance: str, groups: ControlGroups) -> Worker:
        """Start it in the folder of `tapes`, which it may write. Raises OSError."""
        uid = await trio.to_thread.run_sync(_whom, tapes, instance)
        worker = cls._start(tapes, uid)
        if groups.available:
            with trio.CancelScope(shield=True), suppress(OSError):
                await trio.to_thread.run_sync(groups.house, GROUP, worker.ospid)
        return worker

    @classmethod
    def _start(cls, tapes: Path, uid: int) -> Worker:
        """1 ms, by vfork. In the loop's own thread: Linux ends the child with its parent's thread,
        which others of ours are not there for."""
        said, written = os.pipe()
        os.set_blocking(said, False)
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            os.close(said)
            os.close(written)
            raise
        try:
            process = subprocess.Popen(
                [*COMMAND, *map(str, (theirs.fileno(), os.getpid(), uid, uid))],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                pass_fds=[theirs.fileno()],
                cwd=tapes,
                env={name: text for name, text in os.environ.items() if name in INHERITED},
                process_group=0,
            )
        except BaseException:
            ours.close()
            os.close(said)
            raise
        finally:
            theirs.close()
            os.close(written)
        try:
            return cls(process, ours, said)
        except OSError:  # no descriptor to watch it with
            process.kill()
            process.wait()
            ours.close()
            os.close(said)
            raise

    async def ended(self) -> None:
        """Wait until the process has."""
        await trio.lowlevel.wait_readable(self._pidfd)

    async def hear(self, cleaned: Callable[[str], str]) -> None:
        """Log what it says, `cleaned`, until cancelled: it has no other place for what goes wrong
        there."""
        rest = b""
        while True:
            await trio.lowlevel.wait_readable(self._said)
            more = os.read(self._said, 65_536)
            *lines, rest = (rest + more).split(b"\n")
            if len(rest) > LINE_MOST or not more:
                lines, rest = [*lines, rest], b""
            for line in filter(None, lines):
                self.last_words = cleaned(line[:LINE_MOST].decode("utf-8", "backslashreplace"))
                log.warning("%s", self.last_words)
            if not more:
                return

    async def stop(self, groups: ControlGroups, cleaned: Callable[[str], str]) -> str:
        """Have it end, by itself for a moment, then for good, and everything that it started. How
        it ended; what it says meanwhile is logged, `cleaned`."""
        self.channel.close()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(END_SECONDS):
                await self.ended()
                await self._hear_out(cleaned)
            with suppress(ProcessLookupError):
                os.killpg(self.ospid, signal.SIGKILL)
            if groups.available:
                await trio.to_thread.run_sync(groups.clear, GROUP)
            with trio.move_on_after(END_SECONDS):  # SIGKILL waits for a disk that hangs
                await self.ended()
                while not self._reap():  # noqa: ASYNC110  # what it started is a child of ours now
                    await trio.sleep(0.01)
            if groups.available:
                await trio.to_thread.run_sync(groups.clear, GROUP)
        os.close(self._pidfd)
        os.close(self._said)
        return self._how()

    def _how(self) -> str:
        code = self._process.returncode
        if code is None:
            return "it does not end"
        words = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{words}: {self.last_words}" if self.last_words and code else words

    async def _hear_out(self, cleaned: Callable[[str], str]) -> None:
        with trio.move_on_after(0.1):
            await self.hear(cleaned)

    def _reap(self) -> bool:
        """Wait for what has ended in its process group; whether that was all."""
        self._process.poll()  # it takes its code, which is ours to tell
        while True:
            try:
                found = os.waitid(os.P_PGID, self.ospid, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return True
            if found is None:
                return False


def _whom(tapes: Path, instance: str) -> int:
    """Whom it becomes, who then has the folder of tapes; -1: it stays who we are. For a thread: the
    list of users may be far away."""
    uid = own_user(instance)
    if uid >= 0:
        try:
            for path in (tapes, *tapes.iterdir()):
                if path.lstat().st_uid != uid:
                    os.chown(path, uid, uid, follow_symlinks=False)
        except OSError as failure:
            log.warning("it runs as root: %s: %s", tapes, failure.strerror)
            return -1
    return uid


def own_user(instance: str) -> int:
    """Whom it is to become: a user that has no account, another one for each system as far as
    there are enough; -1: nobody else. Where our code or the interpreter is in a folder that others
    may not enter, it could not import what it needs."""
    if os.geteuid() != 0 or not all(
        map(_is_open, (sys.prefix, agentfs.__path__[0], trio.__path__[0]))
    ):
        return -1
    first = zlib.crc32(instance.encode()) % len(USERS)
    users: tuple[int, ...] = (*USERS[first:], *USERS[:first])
    for uid in users:
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid
    return -1


def _is_open(path: str) -> bool:
    """Whether everybody may get to a folder and list it."""
    real = Path(path).resolve()
    return all(os.stat(one).st_mode & stat.S_IXOTH for one in (real, *real.parents))
