"""The kinds of file a provider declares: Value, Document, Live, Control, Transaction, Stream."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Hashable

from agentfs.errors import KernelError
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import (
    File,
    Handle,
    Stat,
    StreamHandle,
    Time,
    is_writing,
    regular,
)

__all__ = [
    "MAX_CONTROL",
    "Control",
    "Document",
    "Live",
    "Owner",
    "Stream",
    "Transaction",
    "Value",
    "as_text",
]

MAX_CONTROL = 64 * 1024
"""Bytes that one command, value or request may have; more is EMSGSIZE."""

WHOLE_WRITE = 255 * 4096
"""Bytes of one write(2) that reach us in one piece, for certain: Linux splits what touches more
than 256 pages (tried: 1,048,000 bytes from an unaligned buffer arrive as two writes). A longer
piece may be the first half of something, so where one write is one message it is EMSGSIZE."""

MAX_DOCUMENT = 1024 * 1024
"""Bytes of a document; more is EFBIG."""

Guard = Callable[[Caller], None]
Owned = Callable[[], "Owner"]


class Owner:
    """Who owns a node and when it changed last: (uid, gid, mtime in ns)."""

    __slots__ = ("gid", "mtime", "uid")

    def __init__(self, uid: int, gid: int, mtime: Time) -> None:
        self.uid = uid
        self.gid = gid
        self.mtime = mtime


def as_text(data: bytes) -> str:
    """What was written, as text. Raises EINVAL if it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as bad:
        raise KernelError(errno.EINVAL, f"not UTF-8 text at byte {bad.start}") from None


class _DeclaredFile(File):
    """What all kinds have in common: key, mode, owner and a guard."""

    def __init__(self, key: Hashable, mode: int, owner: Owned, guard: Guard | None) -> None:
        self.key = key
        self.mode = mode
        self._owned = owner
        self._guard = guard

    @property
    def owner(self) -> Owner:
        """Asked anew each time: the mount keeps a node for as long as its inode lives."""
        return self._owned()

    def content(self) -> bytes | None:
        """What it reads as; None if that is nothing to cache."""
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

    def chattr(
        self,
        caller: Caller,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        times: tuple[Time | None, Time | None] = (None, None),
    ) -> None:
        # `> file` and vim truncate what they are about to write: harmless where writing is allowed.
        writable = self.mode & 0o222
        if mode is not None and mode & 0o7777 == self.mode:
            mode = None
        owner = self.owner
        if uid == owner.uid:
            uid = None
        if gid == owner.gid:
            gid = None
        super().chattr(
            caller, mode=mode, uid=uid, gid=gid, size=None if writable else size, times=times
        )


class _Rendered(Handle):
    """Bytes that a function renders.

    The mount reads it only where it does not have them already: with the attributes it told Linux
    the size of certain bytes, and those are what it serves.
    """

    direct = False

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render

    async def read(self, offset: int, size: int) -> bytes:
        return self._render()[offset : offset + size]


class _Snapshot(Handle):
    """Bytes rendered once, at open."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]


class _Late(Handle):
    """Bytes rendered once, at the first read, by a function that may wait."""

    def __init__(self, render: Callable[[], Awaitable[bytes]]) -> None:
        self._render = render
        self._content: bytes | None = None

    async def read(self, offset: int, size: int) -> bytes:
        content = self._content
        if content is None:
            content = self._content = await self._render()
        return content[offset : offset + size]


class _Lines(Handle):
    """Each write is one or more newline-terminated commands, run in order.

    The error of the first that fails is the errno of write(2); those before it have run. A last
    line without a newline is a command too, so `printf TERM > ctl` does what it says.
    """

    def __init__(self, run: Callable[[str], Awaitable[None]]) -> None:
        self._run = run

    async def write(self, offset: int, data: bytes) -> int:
        if len(data) > MAX_CONTROL:
            raise KernelError(errno.EMSGSIZE, f"a command has at most {MAX_CONTROL} bytes")
        commands = [line.strip() for line in as_text(data).split("\n") if line.strip()]
        if not commands:
            raise KernelError(errno.EINVAL, "an empty command")
        for command in commands:
            await self._run(command)
        return len(data)


class _Whole(Handle):
    """Each write is applied as it is."""

    def __init__(self, apply: Callable[[bytes], Awaitable[None]], limit: int) -> None:
        self._apply = apply
        self._limit = min(limit, WHOLE_WRITE)

    async def write(self, offset: int, data: bytes) -> int:
        if len(data) > self._limit:
            raise KernelError(errno.EMSGSIZE, f"at most {self._limit} bytes in one write")
        await self._apply(data)
        return len(data)


class Value(_DeclaredFile):
    """Exact size, page-cached, coherent. A write, where allowed, is parsed and applied at once."""

    def __init__(
        self,
        key: Hashable,
        mode: int,
        owner: Owned,
        guard: Guard | None,
        render: Callable[[], bytes],
        apply: Callable[[bytes, Caller], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(key, mode, owner, guard)
        self._render = render
        self._apply = apply

    def content(self) -> bytes:
        return self._render()

    def open(self, flags: int, caller: Caller) -> Handle:
        if not is_writing(flags):
            return _Rendered(self._render)
        apply = self._apply
        if apply is None:
            raise KernelError(errno.EACCES, "this value can only be read")
        return _Whole(lambda data: apply(data, caller), MAX_CONTROL)


class Live(_DeclaredFile):
    """Changes all the time: size 0, rendered at each open, never cached (as in Linux's /proc).

    `late` instead of `render`: the content is fetched at the first read and may be waited for.
    """

    def __init__(
        self,
        key: Hashable,
        mode: int,
        owner: Owned,
        guard: Guard | None,
        render: Callable[[], bytes] | None = None,
        late: Callable[[], Awaitable[bytes]] | None = None,
    ) -> None:
        super().__init__(key, mode, owner, guard)
        self._render = render
        self._late = late

    def open(self, flags: int, caller: Caller) -> Handle:
        if is_writing(flags):
            raise KernelError(errno.EACCES, "this file can only be read")
        if self._late is not None:
            return _Late(self._late)
        assert self._render is not None
        return _Snapshot(self._render())


class Control(_DeclaredFile):
    """Write-only commands. `whole`: one write is one request (a message, say), not lines.

    Who may read it all the same (root) finds it empty, so that `tar` and `grep -r` end in peace.
    """

    def __init__(
        self,
        key: Hashable,
        mode: int,
        owner: Owned,
        guard: Guard | None,
        run: Callable[[str, Caller], Awaitable[None]] | None = None,
        whole: Callable[[bytes, Caller], Awaitable[None]] | None = None,
        limit: Callable[[], int] = lambda: MAX_CONTROL,
        sync: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(key, mode, owner, guard)
        self._run = run
        self._whole = whole
        self._limit = limit
        self._sync = sync

    def open(self, flags: int, caller: Caller) -> Handle:
        if not is_writing(flags):
            return _Snapshot(b"")
        handle: Handle
        if self._whole is not None:
            whole = self._whole
            handle = _Whole(lambda data: whole(data, caller), self._limit())
        else:
            run = self._run
            assert run is not None
            handle = _Lines(lambda command: run(command, caller))
        if self._sync is not None:
            handle.fsync = self._sync  # type: ignore[method-assign, assignment]  # the store's own sync
        return handle


class _Request(Handle):
    """A request written, its reply read, on one handle."""

    def __init__(self, serve: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._serve = serve
        self._reply = b""

    async def write(self, offset: int, data: bytes) -> int:
        if len(data) > MAX_CONTROL:
            raise KernelError(errno.EMSGSIZE, f"a request has at most {MAX_CONTROL} bytes")
        self._reply = await self._serve(data)
        return len(data)

    async def read(self, offset: int, size: int) -> bytes:
        # The offset counts the request's bytes too on a handle opened for both, so a reply is
        # read in sequence and not by position.
        reply, self._reply = self._reply[:size], self._reply[size:]
        return reply


class Transaction(_DeclaredFile):
    """Write a request, read the reply on the same handle."""

    def __init__(
        self,
        key: Hashable,
        mode: int,
        owner: Owned,
        guard: Guard | None,
        serve: Callable[[bytes, Caller], Awaitable[bytes]],
    ) -> None:
        super().__init__(key, mode, owner, guard)
        self._serve = serve

    def open(self, flags: int, caller: Caller) -> Handle:
        return _Request(lambda data: self._serve(data, caller))


class Stream(_DeclaredFile):
    """Records that come in their own time; reading waits for them."""

    def __init__(
        self,
        key: Hashable,
        mode: int,
        owner: Owned,
        guard: Guard | None,
        open_stream: Callable[[Caller], StreamHandle],
    ) -> None:
        super().__init__(key, mode, owner, guard)
        self._open = open_stream

    def open(self, flags: int, caller: Caller) -> Handle:
        if is_writing(flags):
            raise KernelError(errno.EACCES, "this stream can only be read")
        return self._open(caller)


class Edited(Handle):
    """A file's new content, gathered in memory and applied when it is closed.

    `flush` applies what was written since the last one; what `apply` raises is the error of
    close(2), and the old content stays.
    """

    def __init__(
        self,
        content: bytes,
        apply: Callable[[bytes], Awaitable[None]],
        limit: int = MAX_DOCUMENT,
        sync: Callable[[], Awaitable[None]] | None = None,
        append: bool = False,
    ) -> None:
        self._content = bytearray(content)
        self._apply = apply
        self._limit = limit
        self._changed = False
        self._sync = sync
        self._append = append

    async def read(self, offset: int, size: int) -> bytes:
        return bytes(self._content[offset : offset + size])

    async def write(self, offset: int, data: bytes) -> int:
        if self._append:
            offset = len(self._content)
        if offset + len(data) > self._limit:
            raise KernelError(errno.EFBIG, f"at most {self._limit} bytes")
        if offset > len(self._content):
            self._content.extend(bytes(offset - len(self._content)))
        self._content[offset : offset + len(data)] = data
        self._changed = True
        return len(data)

    def truncate(self, size: int) -> None:
        """Cut or extend what was written so far; to zero counts as no change yet."""
        if size > self._limit:
            raise KernelError(errno.EFBIG, f"at most {self._limit} bytes")
        del self._content[size:]
        self._content.extend(bytes(size - len(self._content)))

    @property
    def unflushed(self) -> bool:
        return self._changed

    async def flush(self) -> None:
        if self._changed:
            self._changed = False
            await self._apply(bytes(self._content))

    async def fsync(self) -> None:
        await self.flush()
        if self._sync is not None:
            await self._sync()


class Document(_DeclaredFile):
    """A whole text: read like a value, replaced when the writer closes it.

    `check` is asked when it is opened for writing: the error is that of open(2) then.
    """

    def __init__(
        self,
        key: Hashable,
        mode: int,
        owner: Owned,
        guard: Guard | None,
        render: Callable[[], bytes],
        apply: Callable[[bytes, Caller], Awaitable[None]],
        sync: Callable[[], Awaitable[None]] | None = None,
        check: Guard | None = None,
    ) -> None:
        super().__init__(key, mode, owner, guard)
        self._render = render
        self._apply = apply
        self._sync = sync
        self._check = check

    def content(self) -> bytes:
        return self._render()

    def open(self, flags: int, caller: Caller) -> Handle:
        if not is_writing(flags):
            return _Rendered(self._render)
        if self._check is not None:
            self._check(caller)
        old = b"" if flags & os.O_TRUNC else self._render()
        return Edited(
            old,
            lambda content: self._apply(content, caller),
            sync=self._sync,
            append=bool(flags & os.O_APPEND),
        )
