"""The kinds of file a provider declares: Value, Document, Live, Control, Transaction, Stream,
Exchange."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import replace
from typing import ClassVar, NamedTuple

from agentfs.base.errors import KernelError
from agentfs.base.text import one_line
from agentfs.vfs.caller import Caller
from agentfs.vfs.exchange import Answerer, ExchangeHandle
from agentfs.vfs.handles import (
    MAX_CONTROL,
    Edited,
    Late,
    Lines,
    Polled,
    Rendered,
    RequestHandle,
    Snapshot,
    Whole,
)
from agentfs.vfs.node import Attributes, File, Handle, Stat, StreamHandle, Time, is_writing, regular

__all__ = [
    "Basics",
    "Control",
    "Document",
    "Exchange",
    "Live",
    "Owner",
    "Stream",
    "Transaction",
    "Value",
    "fields",
]

Guard = Callable[[Caller], None]


class Owner:
    """The owner of a node and its last change: (uid, gid, mtime in ns)."""

    __slots__ = ("gid", "mtime", "uid")

    def __init__(self, uid: int, gid: int, mtime: Time) -> None:
        self.uid = uid
        self.gid = gid
        self.mtime = mtime


def fields(*pairs: tuple[str, object]) -> str:
    """How a status file reads: `Key:\\tvalue` a line, and yes or no for a truth value."""
    lines = []
    for key, value in pairs:
        shown = ("yes" if value else "no") if isinstance(value, bool) else value
        lines.append(f"{key}:\t{one_line(str(shown))}\n")
    return "".join(lines)


MOMENT = 1.0
"""Seconds for which what was rendered for a look-up is what the open after it finds."""


class Basics(NamedTuple):
    """Every kind has these. `owner` is asked each time, because the mount keeps a node for
    as long as its inode lives; `guard` is asked whenever it is used."""

    key: Hashable
    mode: int
    owner: Callable[[], Owner]
    guard: Guard | None = None


class _DeclaredFile(File):
    """A file that a provider declares."""

    def __init__(self, basics: Basics) -> None:
        self.key, self.mode, self._owned, self._guard = basics

    @property
    def owner(self) -> Owner:
        """Whose it is now."""
        return self._owned()

    def content(self) -> bytes | None:
        """The content; None if it is nothing to cache."""
        return None

    def stat(self) -> Stat:
        owner = self.owner
        content = self.content()
        size = 0 if content is None else len(content)
        time = owner.mtime
        mode = regular(self.mode)
        return Stat(mode, owner.uid, owner.gid, size, time, 1, time, time, content=content)

    def enter(self, caller: Caller) -> None:
        if self._guard is not None:
            self._guard(caller)

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        # `> file` and vim truncate what they are about to write: harmless where writing is allowed.
        super().chattr(caller, replace(wanted, size=None) if self.mode & 0o222 else wanted)


class Value(_DeclaredFile):
    """Exact size, page-cached, coherent. A write, where allowed, is parsed and applied at once.

    A program reads until the end, and Linux's page cache is of the file and not of the open file: a
    change to a longer value between its last two reads gives it a mix, `running`, newline, `d`. A
    `polled` value that is open is what it was when it was read from the start last; that costs
    60 µs more.
    """

    kind = "value"

    def __init__(
        self,
        basics: Basics,
        render: Callable[[], bytes],
        apply: Callable[[bytes, Caller], Awaitable[None]] | None = None,
        *,
        polled: bool = False,
    ) -> None:
        super().__init__(basics)
        self._render = render
        self._apply = apply
        self._polled = polled

    def content(self) -> bytes:
        return self._render()

    def open(self, flags: int, caller: Caller) -> Handle:
        if not is_writing(flags):
            return Polled(self._render) if self._polled else Rendered(self._render)
        apply = self._apply
        if apply is None:
            raise KernelError(errno.EACCES, "this value can only be read")
        return Whole(lambda data: apply(data, caller), MAX_CONTROL)


class Live(_DeclaredFile):
    """Changes all the time: rendered at each look-up, so that its size is right for whoever opens
    it then (sendfile(2), splice(2) and mmap(2) go by the size), and never cached.

    `late` instead of `render`: the content may be waited for. It is fetched at the open, and until
    then the size is 0.
    """

    kind = "live"
    fresh = True

    def __init__(
        self,
        basics: Basics,
        render: Callable[[], bytes] | None = None,
        late: Callable[[], Awaitable[bytes]] | None = None,
    ) -> None:
        super().__init__(basics)
        self._render = render
        self._late = late
        self._rendered: tuple[bytes, float] = (b"", 0.0)

    def content(self) -> bytes | None:
        if self._render is None:
            return None
        try:
            self._rendered = self._render(), time.monotonic()
        except KernelError:
            self._rendered = b"", 0.0  # its open says why
        return self._rendered[0]

    def open(self, flags: int, caller: Caller) -> Handle:
        if is_writing(flags):
            raise KernelError(errno.EACCES, "this file can only be read")
        if self._late is not None:
            return Late(self._late)
        assert self._render is not None
        content, when = self._rendered
        if time.monotonic() - when > MOMENT:  # opened again, without a look-up
            content = self._render()
        return Snapshot(content)


class Control(_DeclaredFile):
    """Write-only commands. `whole`: one write is one request (a message, say), not lines.

    A caller that may read it all the same (root) finds it empty, so that `tar` and `grep -r` end in
    peace.
    """

    kind = "control"

    def __init__(
        self,
        basics: Basics,
        run: Callable[[str, Caller], Awaitable[None]] | None = None,
        whole: Callable[[bytes, Caller], Awaitable[None]] | None = None,
        limit: Callable[[], int] = lambda: MAX_CONTROL,
        sync: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(basics)
        self._run = run
        self._whole = whole
        self._limit = limit
        self._sync = sync

    def open(self, flags: int, caller: Caller) -> Handle:
        if not is_writing(flags):
            return Snapshot(b"")
        handle: Handle
        if self._whole is not None:
            whole = self._whole
            handle = Whole(lambda data: whole(data, caller), self._limit())
        else:
            run = self._run
            assert run is not None
            handle = Lines(lambda command: run(command, caller))
        if self._sync is not None:
            handle.fsync = self._sync  # type: ignore[method-assign, assignment]  # the store's
        return handle


class Transaction(_DeclaredFile):
    """Write a request, read the reply on the same handle."""

    kind = "transaction"

    def __init__(
        self,
        basics: Basics,
        serve: Callable[[bytes, Caller], Awaitable[bytes]],
        limit: Callable[[], int] = lambda: MAX_CONTROL,
    ) -> None:
        super().__init__(basics)
        self._serve = serve
        self._limit = limit

    def open(self, flags: int, caller: Caller) -> Handle:
        return RequestHandle(lambda data: self._serve(data, caller), self._limit())


class Stream(_DeclaredFile):
    """Records that come in their own time; reading waits for them. Where the mode lets somebody
    write, what is written goes to the handle: commands, or records that wait for room."""

    kind = "stream"
    takes = fresh = True

    def __init__(
        self,
        basics: Basics,
        open_stream: Callable[[Caller], StreamHandle],
        *,
        apart: bool = False,
        commands: bool = False,
    ) -> None:
        super().__init__(basics)
        self._open = open_stream
        self._commands = commands
        if apart:
            self.apart, self.timeout = True, 0.0

    def open(self, flags: int, caller: Caller) -> Handle:
        if is_writing(flags) and not self.mode & 0o222:
            raise KernelError(errno.EACCES, "this stream can only be read")
        if self._commands and flags & os.O_ACCMODE == os.O_WRONLY:
            raise KernelError(
                errno.EACCES, "open it for both: what is written is about what is read"
            )
        handle = self._open(caller)
        handle.packets = bool(flags & os.O_DIRECT)
        handle.patient = not flags & os.O_NONBLOCK
        return handle


class Exchange(_DeclaredFile):
    """Write a request, read its answer on the same handle as it comes; and so on. It is opened for
    both: nobody could read the answer of a request that was written to it alone."""

    kind = "exchange"
    takes = fresh = True

    def __init__(self, basics: Basics, answerer: Callable[[Caller], Answerer]) -> None:
        super().__init__(basics)
        self._answerer = answerer

    def open(self, flags: int, caller: Caller) -> Handle:
        if flags & os.O_ACCMODE != os.O_RDWR:
            raise KernelError(
                errno.EACCES,
                "open it for both: the answer is read where the request was written (exec 3<>FILE;"
                " echo REQUEST >&3; cat <&3)",
                rule="open for both",
            )
        handle = ExchangeHandle(self._answerer(caller), caller.memory())
        handle.patient = not flags & os.O_NONBLOCK
        return handle


class Document(_DeclaredFile):
    """A whole text: read like a value, replaced when the writer closes it.

    `check` is asked when it is opened for writing: the error is that of open(2) then. `EXCESS` is
    the errno of a text that is too large.
    """

    kind = "document"
    EXCESS: ClassVar[int] = errno.EFBIG

    def __init__(
        self,
        basics: Basics,
        render: Callable[[], bytes],
        apply: Callable[[bytes, Caller], Awaitable[None]],
        sync: Callable[[], Awaitable[None]] | None = None,
        check: Guard | None = None,
    ) -> None:
        super().__init__(basics)
        self._render = render
        self._apply = apply
        self._sync = sync
        self._check = check

    def content(self) -> bytes:
        return self._render()

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        """A caller that may write it may say what mode and owner the next one shall have, as
        install(1) and `rsync -a` do; it stays as it is."""
        if self._check is None:
            super().chattr(caller, wanted)
        else:
            self._check(caller)

    def open(self, flags: int, caller: Caller) -> Handle:
        if not is_writing(flags):
            return Rendered(self._render)
        return self._opened(b"" if flags & os.O_TRUNC else self._render(), flags, caller)

    def open_successor(self, flags: int, caller: Caller) -> Handle:
        """Open what will replace it: empty; this stays in force until that is closed."""
        return self._opened(b"", flags, caller)

    def _opened(self, content: bytes, flags: int, caller: Caller) -> Handle:
        if self._check is not None:
            self._check(caller)
        return Edited(
            caller.memory(),
            content,
            lambda written: self._apply(written, caller),
            sync=self._sync,
            append=bool(flags & os.O_APPEND),
            excess=self.EXCESS,
        )
