"""Open files of the declared kinds: what reading, writing and closing one does."""

from __future__ import annotations

import errno
import time
from collections.abc import Awaitable, Callable

import trio

from agentfs.base.errors import ApprovalError, KernelError
from agentfs.quota.shares import Charge
from agentfs.vfs.node import Handle
from agentfs.vfs.written import Written

__all__ = [
    "MAX_CONTROL",
    "MAX_DOCUMENT",
    "WHOLE_WRITE",
    "Edited",
    "Gathered",
    "Late",
    "Lines",
    "Polled",
    "Rendered",
    "RequestHandle",
    "Snapshot",
    "Whole",
    "as_text",
]

MAX_CONTROL = 64 * 1024
"""Bytes that one command, value or request may have; more is EMSGSIZE."""

WHOLE_WRITE = 255 * 4096
"""Bytes of one write(2) that reach us in one piece, for certain: Linux splits what touches more
than 256 pages (tried: 1,048,000 bytes from an unaligned buffer arrive as two writes). A longer
piece may be the first half of something, so where one write is one message it is EMSGSIZE."""

STEP_SECONDS = 0.004
"""How long the commands of one write run before others have their turn."""

MAX_DOCUMENT = 1024 * 1024
"""Bytes of a document; more is EFBIG."""


def as_text(data: bytes) -> str:
    """Written bytes as text. Raises EINVAL if it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as bad:
        raise KernelError(errno.EINVAL, f"not UTF-8 text at byte {bad.start}") from None


class Rendered(Handle):
    """Bytes that a function renders.

    The mount reads it only where it does not have them already: with the attributes it told Linux
    the size of certain bytes, and those are what it serves.
    """

    direct = False

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render

    async def read(self, offset: int, size: int) -> bytes:
        return self._render()[offset : offset + size]

    def snapshot(self) -> Snapshot:
        """The bytes of this moment, which no later change reaches."""
        return Snapshot(self._render())


class Snapshot(Handle):
    """Bytes rendered once, at open."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def kept(self) -> int:
        return len(self._content)

    async def read(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]


class Polled(Handle):
    """Bytes rendered at each read from the start; a read that goes on finds more of the same."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._content = b""

    @property
    def kept(self) -> int:
        return len(self._content)

    async def read(self, offset: int, size: int) -> bytes:
        if offset == 0:
            self._content = self._render()
        return self._content[offset : offset + size]


class Late(Handle):
    """Bytes rendered once, at the open, by a function that may wait."""

    def __init__(self, render: Callable[[], Awaitable[bytes]]) -> None:
        self._render = render
        self._content: bytes | None = None

    @property
    def kept(self) -> int:
        return len(self._content or b"")

    async def begin(self) -> bytes:
        if self._content is None:
            self._content = await self._render()
        return self._content

    async def read(self, offset: int, size: int) -> bytes:
        return (await self.begin())[offset : offset + size]


class Lines(Handle):
    """Each write is one or more newline-terminated commands, run in order.

    The error of the first that fails is the errno of write(2); those before it have run. A last
    line without a newline is a command too, so `printf TERM > ctl` does what it says. A write that
    is made again once a command was approved goes on with that command.
    """

    def __init__(self, run: Callable[[str], Awaitable[None]]) -> None:
        self._run = run
        self._left: tuple[bytes, list[str]] = (b"", [])  # of a write that waits for an approval

    async def write(self, offset: int, data: bytes) -> int:
        if len(data) > MAX_CONTROL:
            raise KernelError(errno.EMSGSIZE, f"a command has at most {MAX_CONTROL} bytes")
        commands = [line.strip() for line in as_text(data).split("\n") if line.strip()]
        if not commands:
            raise KernelError(errno.EINVAL, "an empty command")
        before, left = self._left
        self._left = (b"", [])
        if left and before == data:
            commands = left
        ends = time.monotonic() + STEP_SECONDS
        for number, command in enumerate(commands):
            if time.monotonic() > ends:  # thousands fit: others have their turn in between
                await trio.lowlevel.cancel_shielded_checkpoint()
                ends = time.monotonic() + STEP_SECONDS
            try:
                await self._run(command)
            except ApprovalError:
                self._left = (data, commands[number:])
                raise
        return len(data)


class Whole(Handle):
    """Each write is applied as it is."""

    def __init__(self, apply: Callable[[bytes], Awaitable[None]], limit: int) -> None:
        self._apply = apply
        self._limit = min(limit, WHOLE_WRITE)

    async def write(self, offset: int, data: bytes) -> int:
        if len(data) > self._limit:
            raise KernelError(errno.EMSGSIZE, f"at most {self._limit} bytes in one write")
        await self._apply(data)
        return len(data)


class RequestHandle(Handle):
    """A request of at most `limit` bytes written, its reply read, on one handle."""

    def __init__(
        self, serve: Callable[[bytes], Awaitable[bytes]], limit: int = MAX_CONTROL
    ) -> None:
        self._serve = serve
        self._limit = min(limit, WHOLE_WRITE)
        self._reply = b""

    async def write(self, offset: int, data: bytes) -> int:
        if len(data) > self._limit:
            raise KernelError(errno.EMSGSIZE, f"a request has at most {self._limit} bytes")
        self._reply = await self._serve(data)
        return len(data)

    async def read(self, offset: int, size: int) -> bytes:
        # The offset counts the request's bytes too on a handle opened for both, so a reply is
        # read in sequence and not by position.
        reply, self._reply = self._reply[:size], self._reply[size:]
        return reply


class Gathered(Handle):
    """Keeps in memory all that is written, until the close that ends it and calls `take`. The
    bytes count for `charge`.

    After a refusal, by `write` or by `take`, every write and close is refused until the writer
    begins anew (truncates it): else half of it would be taken for the whole.
    """

    followed = whole = True

    def __init__(self, charge: Charge, content: bytes = b"", *, append: bool = False) -> None:
        self._content = Written(charge, content)
        self._append = append
        self._changed = False
        self._refusal: KernelError | None = None
        self._sync = False  # fsync(2) was called before there was anything to sync

    def limit(self) -> int:
        """Bytes that it may have."""
        raise NotImplementedError

    def too_large(self) -> KernelError:
        """The refusal of more."""
        raise NotImplementedError

    async def take(self, content: bytes) -> None:
        """Do with the whole what it is for."""
        raise NotImplementedError

    async def keep(self, content: bytes) -> None:
        """Take it for now: it may not be the whole."""
        await self.take(content)

    async def sync(self) -> None:
        """Make what was taken survive a power cut."""

    async def read(self, offset: int, size: int) -> bytes:
        return bytes(self._content[offset : offset + size])

    def look(self, content: bytearray) -> None:
        """Refuse at once what will be refused at the close: a shell looks at what write(2) says,
        and not at what close(2) does."""

    async def write(self, offset: int, data: bytes) -> int:
        if self._refusal is None:
            self._changed = True
            try:
                self._write(offset, data)
                self.look(self._content)
            except KernelError as refusal:
                self._refusal = refusal
        if self._refusal is not None:
            raise self._refusal
        return len(data)

    def _write(self, offset: int, data: bytes) -> None:
        if self._append:
            offset = len(self._content)
        if offset + len(data) > self.limit():
            raise self.too_large()
        self._content.put(offset, data)

    def truncate(self, size: int) -> None:
        """Cut or extend what was written so far; to zero counts as no change yet."""
        if size > self.limit():
            raise self.too_large()
        self._content.truncate(size)
        self._refusal = None

    @property
    def unflushed(self) -> bool:
        return self._changed or self._refusal is not None

    def release(self) -> None:
        self._content.drop()

    async def flush(self) -> None:
        await self._give(self.take)

    async def hold(self) -> None:
        await self._give(self.keep)

    async def _give(self, take: Callable[[bytes], Awaitable[None]]) -> None:
        if self._refusal is not None:
            raise self._refusal
        if not self._changed:
            return
        self._changed = False
        try:
            await take(bytes(self._content))
        except ApprovalError:
            self._changed = True  # it is taken once that was given
            raise
        except KernelError as refusal:
            self._refusal = refusal
            raise
        if self._sync:
            await self.sync()

    async def fsync(self) -> None:
        if self._changed:
            self._sync = True  # what is not whole is nothing to keep yet
        else:
            await self.sync()


class Edited(Gathered):
    """A file's new content, applied when it is closed. An error of `apply` is that of
    close(2), and the old content stays. `excess`: the errno of too much of it."""

    def __init__(
        self,
        charge: Charge,
        content: bytes,
        apply: Callable[[bytes], Awaitable[None]],
        sync: Callable[[], Awaitable[None]] | None = None,
        append: bool = False,
        excess: int = errno.EFBIG,
    ) -> None:
        super().__init__(charge, content, append=append)
        self._apply = apply
        self._synced = sync
        self._excess = excess

    def limit(self) -> int:
        return MAX_DOCUMENT

    def too_large(self) -> KernelError:
        return KernelError(self._excess, f"at most {MAX_DOCUMENT} bytes")

    async def take(self, content: bytes) -> None:
        await self._apply(content)

    async def sync(self) -> None:
        if self._synced is not None:
            await self._synced()
