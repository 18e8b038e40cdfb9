"""/sys/audit: who changed what and who was refused, for the operator.

The modes would keep other users out without asking us, and then nobody would know that they tried.
So the gate is the look-up: entries are kept for no time, and who is not the operator is refused
there, which is a record itself.
"""

from __future__ import annotations

import errno
import sqlite3
from typing import TYPE_CHECKING

import trio

from agentfs.audit.audit_table import beside, page
from agentfs.audit.query import Query, line
from agentfs.base.errors import KernelError
from agentfs.providers.system_table import SystemTable
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import control, file, live, transaction
from agentfs.vfs.files import fields
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import File, Handle, Node, Stat, is_writing, regular
from agentfs.vfs.table import Entry

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["AuditDirectory"]

# Records fetched at once for a reader of the log: about 200 KB, 1 ms in a thread.
PAGE = 500


class AuditDirectory(SystemTable):
    """/sys/audit: for the operator only (EACCES), and who else tries is in it."""

    PATH = "/sys/audit"
    WHAT = "Who changed what, and who was refused."
    gated = True
    key = ("sys", "audit")

    def guard(self, caller: Caller) -> None:
        if not caller.principal.is_operator:
            raise KernelError(
                errno.EACCES,
                f"only the operator may see the audit, and you are {caller.principal.name}",
                rule="operator",
            )

    def admit(self, name: str, caller: Caller) -> None:
        self.guard(caller)

    def node(self, entry: Entry) -> Node:
        node = super().node(entry)
        node.timeout = 0.0
        return node

    @file(
        "log",
        0o400,
        example='{"actor":{…,"name":"alice"},"changes":[{…,"type":"message_arrived"}],"seq":41,…}',
        errors={"EACCES": "only the operator may"},
    )
    def log(self) -> Node:
        """Every record that is kept, oldest first, one JSON object a line; it ends at the end.
        `seq` counts from 1, `time` is RFC 3339, `actor` who did it: `kind` (agent, operator, user,
        stranger, kernel), `name`, `pid`, `uid` and `gid`; `changes` are the events of one
        transaction, as /dev/events has them, and a refusal is one of type `call_refused`. `hash` is
        SHA-256 over the hash before and the rest of the line as canonical JSON."""
        return AuditLogFile(self, (self.key, "log"))

    @live("head", 0o400, example="Seq:\t4711\nHash:\t9f86d081884c…\nSignature:\t2c26b46b68ff…\n")
    def head(self) -> str:
        """Number, hash and signature of the newest record, to be noted elsewhere. Empty if there is
        none."""
        words = self.kernel.audit.head().split()
        return fields(*zip(("Seq", "Hash", "Signature"), words, strict=False))

    @live("verify", 0o400, example="ok 4711 records, head 4711 9f86d081884c…\n")
    async def verify(self) -> bytes:
        """Checks all of it, which takes 5 s for a million records: `ok N records, head SEQ HASH`,
        or `bad:` and what is wrong first: the record and why."""
        return f"{await self.kernel.audit.verify()}\n".encode()

    @transaction(
        "query",
        0o600,
        example="agent=alice type=call_refused since=2h limit=20",
        errors={"EINVAL": "no such query", "EACCES": "only the operator may"},
    )
    async def query(self, request: bytes, caller: Caller) -> bytes:
        """Write what is looked for, read the newest records that are so, oldest first, as in `log`:
        `agent=NAME` (who acted, or whom a change names), `type=TYPE` (of a change), `since=WHEN`
        and `until=WHEN` (a date, or a duration: so long ago), `limit=N` (100, at most 10,000)."""
        query = Query.parse(as_text(request), self.kernel.clock.now())
        try:
            return await trio.to_thread.run_sync(query.answer, self.kernel.audit.path)
        except sqlite3.Error as failure:
            raise _unreadable(failure) from None

    @control(
        "ctl",
        0o200,
        example="cut 4711",
        errors={
            "EINVAL": "not `cut SEQ`, or there is no such record, or it is the newest one",
            "EACCES": "only the operator may",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: `cut SEQ` (forget the records up to number SEQ, once they were exported; a
        signed checkpoint stands for them, and who did it is a record)."""
        words = command.split()
        if len(words) != 2 or words[0] != "cut" or not (words[1].isascii() and words[1].isdigit()):
            raise KernelError(errno.EINVAL, f"cut SEQ, not {command[:100]!r}")
        self.kernel.audit.cut(caller.principal, int(words[1][:19]))


class AuditLogFile(File):
    """/sys/audit/log. Its size is 0, as in Linux's /proc: it grows while it is read."""

    timeout = 0.0

    def __init__(self, directory: AuditDirectory, key: object) -> None:
        self.key = key
        self._directory = directory

    def stat(self) -> Stat:
        owner = self._directory.owner()
        return Stat(regular(0o400), owner.uid, owner.gid, 0, owner.mtime)

    def enter(self, caller: Caller) -> None:
        self._directory.guard(caller)

    def open(self, flags: int, caller: Caller) -> Handle:
        if is_writing(flags):
            raise KernelError(errno.EACCES, "the audit is written by the kernel only")
        return AuditLogHandle(self._directory.kernel)


class AuditLogHandle(Handle):
    """The records that were there when it was opened, fetched page by page in a thread."""

    seekable = False

    def __init__(self, kernel: Kernel) -> None:
        self._path = kernel.audit.path
        self._through = kernel.audit.seq
        self._after = 0
        self._buffer = b""
        self._connection: sqlite3.Connection | None = None
        self._turn = trio.Lock()

    async def read(self, offset: int, size: int) -> bytes:
        async with self._turn:
            while len(self._buffer) < size and self._after < self._through:
                try:
                    self._buffer += await trio.to_thread.run_sync(self._fetch)
                except sqlite3.Error as failure:
                    raise _unreadable(failure) from None
            data, self._buffer = self._buffer[:size], self._buffer[size:]
            return data

    def _fetch(self) -> bytes:
        if self._connection is None:
            self._connection = beside(self._path)
        rows = page(self._connection, self._after, self._through, PAGE)
        self._after = rows[-1][0] if rows else self._through
        return b"".join(line(record, digest) for _, record, digest in rows)

    def release(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _unreadable(failure: sqlite3.Error) -> KernelError:
    return KernelError(errno.EIO, f"the audit cannot be read: {failure}")
