"""Whether a store is whole, asked before it is opened for writing, so that nothing gets worse.

SQLite checks a page only when it uses it, and if its log was cut, takes the rest for all that there
was; with ours it is the same. So all pages are looked through here, and the logs have to reach as
far as the mark beside them says (`StoreMark`).
"""

from __future__ import annotations

import errno
import mmap
import os
import sqlite3
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from agentfs.base.errors import KernelError
from agentfs.machine.proc import boot_id
from agentfs.store.layout import StateError
from agentfs.store.log import log_files
from agentfs.store.migrations import LATEST
from agentfs.store.replay import lacking

__all__ = ["LAST_EVENT", "StoreMark", "is_full", "look_through", "require_whole", "taking_up"]

# Seconds that looking through the pages may take. 1.7 GB a second were measured where they are in
# memory: a start with 100,000 messages (144 MB) takes 0.09 s longer. `agentfs doctor` has no limit.
PATIENCE = 2.0

# Steps of SQLite's virtual machine between two looks at the clock: 0.1 ms.
STEPS = 1000


LAST_EVENT = "event_seq"
"""The meta value with the number of the last event."""


NUMBER = 20
"""The length of the number in a mark, with blanks before it."""

UNREADABLE = (sqlite3.Error, ValueError, LookupError, TypeError, AttributeError, AssertionError)
"""Exceptions of reading a record that is not what it should be."""


class StoreMark:
    """STORE.mark, beside a store: the number of the last event that was committed, and in which
    life of the machine. It is written behind every commit, and never synced. After kill -9 it is
    behind the store by one commit at most; after a power cut either may have got further.

    It is written through memory that it shares with Linux: that takes 0.3 µs, and pwrite(2) 1.5.
    Its blocks are set aside before; where that cannot be, it is pwrite(2).
    """

    def __init__(self, store: Path) -> None:
        self.path = store.with_suffix(".mark")
        self._boot = boot_id()
        self._descriptor = -1
        self._shared: mmap.mmap | None = None

    def read(self) -> tuple[int, bool]:
        """Its number (0: none), and whether the machine ran on ever since."""
        try:
            number, life = self.path.read_text("ascii").split()
            return int(number), life == self._boot
        except (OSError, ValueError):
            return 0, False

    def write(self, number: str) -> None:
        """Say that event `number` was committed. If the disk refuses, the mark stays behind, which
        does no harm."""
        if self._shared is not None:
            self._shared[:NUMBER] = b"%20s" % number.encode()
            return
        with suppress(OSError):
            if self._descriptor < 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._descriptor = os.open(self.path, flags, 0o600)
            text = f"{number:>{NUMBER}} {self._boot}\n".encode()
            os.pwrite(self._descriptor, text, 0)
            os.posix_fallocate(self._descriptor, 0, len(text))
            self._shared = mmap.mmap(self._descriptor, len(text))  # has a descriptor of its own
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def require_whole(store: Path) -> str:
    """Raise StateError unless the store can be used as it is, or there never was one. Returns a
    warning, or nothing."""
    state = store.parent
    try:
        known, same_boot = StoreMark(store).read()
        if not store.exists() or store.stat().st_size == 0:
            _require_new(store, known)
            return ""
        found = look_through(store, PATIENCE)
    except (sqlite3.Error, OSError) as failure:
        raise StateError(f"{store}: {_words(failure)}; {_advice(state)}") from None
    if isinstance(found, str):
        raise StateError(f"{store}: {found}; {_advice(state)}")
    if found >= known:
        return ""
    lost = (
        f"a log of the store, {store}-wal, -log0 or -log1, was cut or damaged: it ends with event"
        f" {found}, and {known} had been committed"
    )
    if same_boot:
        raise StateError(f"{lost}; put it back, or {_advice(state)}")
    return f"{lost}. The machine was started again meanwhile: what was not synced is lost"


def _require_new(store: Path, known: int) -> None:
    """Raise StateError if there is a trace of a store that is gone."""
    state = store.parent
    logs = (store.with_name(f"{store.name}-wal"), *log_files(store))
    traces = [str(log) for log in logs if log.exists() and log.stat().st_size]
    with suppress(OSError):
        traces += [entry.path for entry in os.scandir(state / "agents")][:3]
    if known or traces:
        raise StateError(
            f"{store}: it is {'empty' if store.exists() else 'gone'}, and there was one"
            f" ({', '.join(traces) or f'{known} events'}); put it back from a copy, or"
            f" {_advice(state)}"
        )


def look_through(store: Path, patience: float | None = None) -> int | str:
    """The number of the last event, or what is wrong, in words. Reads every page, for at most
    `patience` seconds. Raises sqlite3.Error if nothing can be read."""
    with open(store, "rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            return "it is no database, or its first page was overwritten"
    with closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True)) as database:
        (schema,) = database.execute("PRAGMA user_version").fetchone()
        if schema > LATEST:
            return (
                f"it is of a newer release, with schema {schema}, and this one knows up to"
                f" {LATEST}: use that release"
            )
        if not schema:
            return 0
        began = time.monotonic()
        if patience is not None:
            database.set_progress_handler(lambda: time.monotonic() - began > patience, STEPS)
        try:
            lines = [row[0] for row in database.execute("PRAGMA quick_check(3)")]
        except sqlite3.OperationalError as failure:
            if failure.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
        else:
            if lines != ["ok"]:
                return f"the database is damaged ({'; '.join(' '.join(lines).splitlines())})"
        database.set_progress_handler(None, 0)
        row = database.execute("SELECT value FROM meta WHERE key = ?", (LAST_EVENT,)).fetchone()
        last = "0" if row is None else row[0]
        last = lacking(database, store).metas.get(LAST_EVENT, last)
    try:
        return int(last)
    except ValueError:
        return f"the number of its last event is {last!r}"


@contextmanager
def taking_up(store: Path) -> Iterator[None]:
    """A failure inside it is the store's fault: StateError says where, in one line."""
    try:
        yield
    except KernelError as bad:
        raise StateError(f"{store.parent}: {bad.reason}") from bad
    except UNREADABLE as bad:
        at = traceback.extract_tb(bad.__traceback__)[-1]
        said = f"{type(bad).__name__}: {bad}, {os.path.basename(at.filename)}:{at.lineno}"
        raise StateError(
            f"{store}: what is in it cannot be taken up ({said}); {_advice(store.parent)}"
        ) from bad


def is_full(failure: BaseException | None) -> bool:
    """Whether a full disk is the first cause of `failure`."""
    if isinstance(failure, BaseExceptionGroup):
        return any(is_full(each) for each in failure.exceptions)
    if failure is None:
        return False
    if isinstance(failure, sqlite3.Error):
        # SQLite says SQLITE_IOERR where its index of the log (STORE-shm) finds no room.
        code = getattr(failure, "sqlite_errorcode", 0) & 0xFF
        return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    if isinstance(failure, (OSError, KernelError)) and failure.errno == errno.ENOSPC:
        return True
    return is_full(failure.__cause__ or failure.__context__)


def _advice(state: Path) -> str:
    return f"agentfs doctor --state {state} --repair saves what can be saved"


def _words(failure: Exception) -> str:
    if isinstance(failure, OSError):
        return os.strerror(failure.errno or 0)
    return f"it cannot be read ({failure})"
