"""/agents/NAME/{remember,recall}: notes that an agent keeps, and finds again."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import trio

from agentfs.base.errors import KernelError
from agentfs.recall.query import MOST_BYTES
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import exchange, file
from agentfs.vfs.exchange import Answerer, PendingReply
from agentfs.vfs.files import Basics, Transaction
from agentfs.vfs.handles import Gathered
from agentfs.vfs.node import Handle, Node
from agentfs.vfs.table import AddedRows

if TYPE_CHECKING:
    from agentfs.providers.agents import AgentDirectory

__all__ = ["RecallRows"]


class RecallRows(AddedRows):
    """What an agent remembers."""

    INTO = "/agents/NAME"

    def __init__(self, agent: AgentDirectory) -> None:
        super().__init__(agent)
        self.name = agent.name
        self.memories = agent.kernel.memories
        self._key = agent.key_of("remember")

    def may_use(self, caller: Caller) -> None:
        """Raise EACCES for anybody but the agent, who needs the capability, and the operator."""
        self.memories.check(caller.principal, self.name)

    @file(
        "remember",
        0o600,
        kind="Transaction",
        private=True,
        example="Type: fact\nTags: deploy\nExpires: 90d\n\nProd is deployed on Tuesdays.\n",
        errors={
            "EINVAL": "a header that there is not, or that cannot be read; no text",
            "EMSGSIZE": "more than memory.max_note bytes (256 KiB)",
            "EDQUOT": "it has its share of the disk",
            "EACCES": "another agent, or no capability `memory`",
        },
    )
    def remember(self) -> Node:
        """Write a note: headers if you like (`Type`: one word, as fact, episode, knowledge, skill,
        preference; `Tags`; `Expires`: a date, or a duration), a blank line, and the text. It is
        kept as the plain file memory/notes/ID.md when the file is closed, or when its path is
        read on the same handle. Once it has expired, it is removed."""
        return _RememberFile(self)

    @exchange(
        "recall",
        0o600,
        private=True,
        errors={
            "EINVAL": "nothing is asked for; a header that there is not",
            "EMSGSIZE": "more than 64 KiB, or 256 words",
            "EACCES": "another agent, or no capability `memory`",
        },
    )
    def recall(self, caller: Caller) -> Answerer:
        """Write words, read what was found in the text files of memory/, the best first: a line of
        JSON each, with `path`, `line`, `snippet`, `score`, `type` and `tags`. Words have no syntax.
        Headers and a blank line before them narrow it: `Type`, `Tags`, `Limit` (10). With `Type` or
        `Tags` alone, the newest."""
        return _Recalling(self, caller)


class _RememberFile(Transaction):
    """The file `remember`."""

    def __init__(self, rows: RecallRows) -> None:
        super().__init__(Basics(rows._key, 0o600, rows.owner, rows.may_use), _never)
        self._rows = rows

    def open(self, flags: int, caller: Caller) -> Handle:
        self._rows.may_use(caller)
        return _Remembering(self._rows, caller)


async def _never(request: bytes, caller: Caller) -> bytes:
    raise AssertionError("its handle keeps what is written")


class _Remembering(Gathered):
    """A note that is being written: kept at the end, or when somebody reads its path. A bad header
    is refused while it is written: a shell does not look at what close(2) says."""

    whole = False

    def __init__(self, rows: RecallRows, caller: Caller) -> None:
        super().__init__(caller.memory(), append=True)
        self._rows = rows
        self._principal = caller.principal
        self._looked = False
        self._path = b""

    def limit(self) -> int:
        return self._rows.memories.limit()

    def too_large(self) -> KernelError:
        return KernelError(
            errno.EMSGSIZE, f"a note has at most {self.limit():,} bytes", rule="memory.max_note"
        )

    def look(self, content: bytearray) -> None:
        ended = content.find(b"\n\n")
        if not self._looked and ended >= 0:
            self._looked = True
            opening = content[: ended + 2].decode("utf-8", "replace")
            self._rows.memories.read(f"{opening}text".encode())

    async def take(self, content: bytes) -> None:
        path = self._rows.memories.remember(self._principal, self._rows.name, content)
        self._path, self._looked = f"{path}\n".encode(), False
        self._content.truncate(0)

    async def keep(self, content: bytes) -> None:
        self._changed = True  # more may be written: the end keeps it, or a read

    async def read(self, offset: int, size: int) -> bytes:
        await self.flush()
        path, self._path = self._path[:size], self._path[size:]
        return path


class _Recalling(Answerer):
    """Behind an open `recall`."""

    def __init__(self, rows: RecallRows, caller: Caller) -> None:
        rows.may_use(caller)
        self._rows = rows
        self._principal = caller.principal

    def limit(self) -> int:
        return MOST_BYTES

    def ask(self, request: bytes, reply: PendingReply) -> None:
        scope = trio.CancelScope()
        reply.on_cancel(scope.cancel)
        self._rows.memories.begin(lambda: self._answer(request, reply, scope))

    async def _answer(self, request: bytes, reply: PendingReply, scope: trio.CancelScope) -> None:
        memories, name = self._rows.memories, self._rows.name
        try:
            with scope:
                await reply.wanted()
                for hit in await memories.recall(self._principal, name, request):
                    await reply.put(f"{hit.json()}\n".encode())
        except KernelError as refusal:
            reply.end(refusal)
            return
        reply.end()
