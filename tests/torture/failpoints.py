"""Daemons that die where they are told to: `python -m tests.torture.failpoints` is a hatchery whose
daemons take `--panel FILE` and `--failpoint SITE:COUNT` besides their own arguments.

Nothing of this is in the product. In the daemon that is to die, the functions that write, commit,
announce, start programs or answer are wrapped after the fork; every passage is a *hit*, and at hit
COUNT of SITE the daemon kills itself with SIGKILL, in the middle of whatever it does. SITE is one
of `SITES`, or `any`. The panel is a page of memory shared with whoever tortures: how many hits
there were, where the daemon fell, by how much its clock is wrong, and how fast it is.
"""

from __future__ import annotations

import argparse
import functools
import mmap
import os
import signal
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import hatchery
from tests.torture.pace import arm_clock

__all__ = ["ANY", "SITES", "Panel", "arm"]

ANY = "any"

SITES = {
    "begin": "a transaction begins in the store",
    "write": "a statement of a transaction was made",
    "commit": "a transaction is committed: not yet",
    "committed": "a transaction was committed, and nobody knows yet",
    "told": "what follows a commit (events, timers, wake-ups) was done in part",
    "rollback": "a transaction is rolled back",
    "log": "a transaction is written to the log: not yet",
    "logged": "a transaction was written to the log, and nobody knows yet",
    "drop": "a file of the log is emptied, whose content a synced checkpoint has in the database",
    "checkpoint": "SQLite's log is folded into the database, in a thread",
    "file": "a file beside the store was linked, renamed or removed",
    "fsync": "something was synced",
    "invalidate": "Linux is told that an inode changed",
    "announce": "the announcing process is told to make a call",
    "announced": "the announcing process has made it",
    "launch": "a program is started: not yet",
    "launched": "a program was started, and nothing of it is stored yet",
    "signal": "a program was sent a signal",
    "request": "a request arrived",
    "reply": "a request is answered: not yet",
}
"""Where a daemon can be made to fall, and what that is the moment of."""


class Panel:
    """The page that is shared. `fell` is the site where the daemon died, empty if it has not."""

    _LAYOUT = struct.Struct("=dQ32sd")

    def __init__(self, path: Path | str) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(descriptor, self._LAYOUT.size)
        self.path = os.fspath(path)
        self._page = mmap.mmap(descriptor, self._LAYOUT.size)
        os.close(descriptor)

    def _read(self) -> tuple[float, int, bytes, float]:
        offset, hits, fell, rate = self._LAYOUT.unpack_from(self._page)
        return offset, hits, fell, rate

    @property
    def offset(self) -> float:
        """Seconds that the daemon's wall clock is ahead of the machine's."""
        return self._read()[0]

    @offset.setter
    def offset(self, seconds: float) -> None:
        struct.pack_into("=d", self._page, 0, seconds)

    @property
    def hits(self) -> int:
        return self._read()[1]

    @hits.setter
    def hits(self, count: int) -> None:
        struct.pack_into("=Q", self._page, 8, count)

    @property
    def fell(self) -> str:
        return self._read()[2].rstrip(b"\0").decode()

    @fell.setter
    def fell(self, site: str) -> None:
        struct.pack_into("=32s", self._page, 16, site.encode())

    @property
    def rate(self) -> float:
        """How many times as fast the daemon's clock is as the machine's."""
        return self._read()[3] or 1.0

    @rate.setter
    def rate(self, times: float) -> None:
        struct.pack_into("=d", self._page, 48, times)

    def clear(self) -> None:
        """For the next daemon; the clock stays as it is."""
        self.hits, self.fell = 0, ""


def arm(panel: Panel, site: str = "", count: int = 0) -> None:
    """Wrap what the daemon in this process calls. Without a site the hits are only counted."""
    if site and site != ANY and site not in SITES:
        raise ValueError(f"there is no failpoint {site}; there are: {', '.join(SITES)}")
    left = count

    def hit(here: str) -> None:
        nonlocal left
        panel.hits += 1
        if site in (here, ANY):
            left -= 1
            if left == 0:
                panel.fell = here
                os.kill(os.getpid(), signal.SIGKILL)

    arm_clock(panel)
    _arm_store(hit)
    _arm_files(hit)
    _arm_programs(hit)
    _arm_mount(hit)


def _wrap(owner: Any, name: str, hit: Callable[[str], None], before: str, after: str = "") -> None:
    """Hit `before` and `after` around `owner.name`, a function; an empty one is none."""
    call = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            hit(before)
        result = call(*args, **kwargs)
        if after:
            hit(after)
        return result

    setattr(owner, name, wrapped)


def _wrap_async(
    owner: Any, name: str, hit: Callable[[str], None], before: str, after: str = ""
) -> None:
    call = getattr(owner, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            hit(before)
        try:
            return await call(*args, **kwargs)
        finally:  # an error is an answer, too
            if after:
                hit(after)

    setattr(owner, name, wrapped)


def _arm_store(hit: Callable[[str], None]) -> None:
    from agentfs.kernel import Kernel
    from agentfs.store import store

    class Connection(sqlite3.Connection):
        """Hits around the statements that make a transaction."""

        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            verb = sql.split(None, 1)[0]
            before = {"BEGIN": "begin", "COMMIT": "commit", "ROLLBACK": "rollback"}.get(verb, "")
            if before:
                hit(before)
            cursor = super().execute(sql, *values)
            if verb == "COMMIT":
                hit("committed")
            elif verb in ("INSERT", "UPDATE", "DELETE"):
                hit("write")
            return cursor

        def executemany(self, sql: str, values: Any) -> sqlite3.Cursor:
            cursor = super().executemany(sql, values)
            hit("write")
            return cursor

    connect = sqlite3.connect

    def armed(path: Any, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        if os.fspath(path).endswith("store.db"):  # whoever opens another database is left alone
            kwargs["factory"] = Connection
        return connect(path, *args, **kwargs)

    sqlite3.connect = armed  # type: ignore[assignment]
    begin = Kernel.__init__

    def begun(kernel: Kernel, *args: Any, **kwargs: Any) -> None:
        begin(kernel, *args, **kwargs)

        def between() -> None:
            told = functools.partial(hit, "told")
            calls = kernel.store._commit
            calls[:] = [each for call in calls for each in (call, told)]

        kernel.store.prepare(between)

    Kernel.__init__ = begun  # type: ignore[method-assign]
    _wrap(store, "_checkpoint", hit, "checkpoint", "checkpoint")
    _arm_log(hit)


def _arm_log(hit: Callable[[str], None]) -> None:
    """By its calls of the system: in the compiled build nobody can come between its methods."""
    pwrite, ftruncate = os.pwrite, os.ftruncate

    def is_log(file: int) -> bool:
        return os.readlink(f"/proc/self/fd/{file}").endswith(("store.db-log0", "store.db-log1"))

    def written(file: int, *what: Any) -> int:
        ours = is_log(file)
        if ours:
            hit("log")
        count = pwrite(file, *what)
        if ours:
            hit("logged")
        return count

    def cut(file: int, length: int) -> None:
        emptied = not length and is_log(file) and os.fstat(file).st_size
        if emptied:
            hit("drop")
        ftruncate(file, length)
        if emptied:
            hit("drop")

    os.pwrite, os.ftruncate = written, cut  # type: ignore[assignment]


def _arm_files(hit: Callable[[str], None]) -> None:
    from agentfs.machine.datasync import DataSync

    for name in ("link", "rename", "replace", "unlink"):
        _wrap(os, name, hit, "", "file")
    for name in ("fsync", "fdatasync"):
        _wrap(os, name, hit, "", "fsync")
    _wrap_async(DataSync, "__call__", hit, "", "fsync")


def _arm_programs(hit: Callable[[str], None]) -> None:
    from agentfs.machine.launch import Launch

    _wrap(Launch, "run", hit, "launch", "launched")
    _wrap(signal, "pidfd_send_signal", hit, "", "signal")
    _wrap(os, "killpg", hit, "", "signal")


def _arm_mount(hit: Callable[[str], None]) -> None:
    import pyfuse3

    from agentfs.mount.announcer import Announcer
    from agentfs.mount.operations import Operations

    for owner in Operations.__mro__[:-1]:
        for name, method in tuple(vars(owner).items()):
            if hasattr(method, "__wrapped__") and not name.startswith("_"):  # made by `handler`
                _wrap_async(owner, name, hit, "request", "reply")
    _wrap(Announcer, "_packet", hit, "announce")
    _wrap(Announcer, "_made", hit, "", "announced")
    _wrap(pyfuse3, "invalidate_inode", hit, "invalidate")


def _run(words: list[str], **how: Any) -> int:
    from agentfs.tools import daemon

    parser = argparse.ArgumentParser(prog="tests.torture.failpoints", allow_abbrev=False)
    parser.add_argument("--panel")
    parser.add_argument("--failpoint", default="")
    given, rest = parser.parse_known_args(words)
    if given.panel:
        site, _, count = given.failpoint.partition(":")
        arm(Panel(given.panel), site, int(count or 0))
    return daemon.main(rest, **how)


if __name__ == "__main__":
    hatchery.main(_run)
