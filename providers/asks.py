"""/agents/NAME/asks: the questions of an agent, each a directory as long as it is kept."""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from agentfs.asks.ask import Ask
from agentfs.asks.asks import Asks
from agentfs.asks.events import (
    AskAnswered,
    AskDropped,
    AskExpired,
    AskFailed,
    AskOpened,
    Escalated,
)
from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.mail.message import number_of
from agentfs.mail.settings import MessageSettings
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.declare import stream, transaction, value
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.node import Node, StreamHandle
from agentfs.vfs.on import on
from agentfs.vfs.table import Table

if TYPE_CHECKING:
    from agentfs.providers.agents import AgentDirectory

__all__ = ["AsksDirectory"]

SHOWN = (AskAnswered, AskExpired, AskFailed, Escalated)
"""The events that `status` shows; `id` says of which question."""


class AskDirectory(Table):
    """/agents/NAME/asks/ID: a question and its answer."""

    PATH = "/agents/NAME/asks/ID"
    mode = 0o700

    def __init__(self, folder: AsksDirectory, ask: Ask) -> None:
        self.folder = folder
        self.asks = folder.asks
        self.ask = ask
        self.key = self.at(ask.id)

    @staticmethod
    def at(number: int) -> Hashable:
        """The key of the directory of a question."""
        return ("ask", number)

    def owner(self) -> Owner:
        owner = self.folder.owner()
        return Owner(owner.uid, owner.gid, self.ask.changed)

    def guard(self, caller: Caller) -> None:
        self.folder.guard(caller)

    @value(
        "status",
        0o400,
        on=SHOWN,
        private=True,
        example="Id:\t000000000042\nTo:\tbob\nState:\topen\n…",
    )
    def status(self) -> str:
        """Id, To (all that it was put to), Asked, Deadline, State (open, answered, cancelled,
        expired or failed), Answered (when), Answer (the id of the message), Severity (of an
        escalation), Reason (why there is no answer). Times RFC 3339; empty where there is none."""
        ask = self.ask
        return fields(
            ("Id", ask.key),
            ("To", ask.to),
            ("Asked", rfc3339(ask.asked)),
            ("Deadline", rfc3339(ask.deadline)),
            ("State", ask.state.value),
            ("Answered", rfc3339(ask.closed) if ask.answer else ""),
            ("Answer", f"{ask.answer:012d}" if ask.answer else ""),
            ("Severity", ask.severity),
            ("Reason", ask.reason),
        )

    @value("question", 0o400, private=True, example="Message-ID: <000000000042@here>\nFrom: …")
    def question(self) -> bytes:
        """The message that asks, whole."""
        return self.asks.question(self.ask)

    @stream(
        "answer",
        0o400,
        private=True,
        example="Message-ID: <000000000043@here>\nFrom: …",
        errors={
            "ETIMEDOUT": "nobody answered before the deadline",
            "ECANCELED": "the question was cancelled",
            "EHOSTUNREACH": "nobody can answer any more: a dead letter, a removed agent",
            "ESTALE": "the answer is not kept any more",
        },
    )
    def answer(self, caller: Caller) -> StreamHandle:
        """The message that answers, whole, then end of file: blocks until there is one, or until it
        is certain that there will be none. It can be read again, and by several readers."""
        waits = self.folder.agent.kernel.why.waits
        detail = f"{self.ask.key} to {self.ask.to}"
        return AnswerStream(
            self.asks, self.ask, lambda: waits.begin(caller.principal.pid, "ask", detail)
        )

    def unlink(self, name: str, caller: Caller) -> None:
        """`rm -r` does this before `rmdir`: the files go with the directory."""
        if name not in self.TABLE:
            raise self.missing(name)


class AsksDirectory(Table):
    """/agents/NAME/asks: `rmdir` or `rm -r` of an entry cancels the question."""

    PATH = "/agents/NAME/asks"
    WHAT = "Its questions that wait for an answer, and those that were answered or never will be."
    PRIVATE = True
    EACH = AskDirectory
    mode = 0o700

    def __init__(self, agent: AgentDirectory) -> None:
        self.agent = agent
        self.name = agent.name
        self.asks = agent.kernel.asks
        self.key = agent.key_of("asks")

    def owner(self) -> Owner:
        return self.agent.owner()

    def guard(self, caller: Caller) -> None:
        self.agent.private_guard(caller)

    @transaction(
        "new",
        0o600,
        private=True,
        limit="limit",
        example="To: bob\nReply-By: 10m\n\nWhere is the report?",
        errors={
            "EINVAL": "no `To`, no text, a malformed header, or a deadline that is not ahead",
            "ENOENT": "there is no such agent",
            "EACCES": "the role or the routing rule says no",
            "EAGAIN": "messages.max_open_asks wait for an answer already",
            "EMSGSIZE": "more than messages.max_size bytes",
            "ENOSPC": "the receiver's inbox is full",
            "EDQUOT": "you have your share of what waits in that inbox",
        },
    )
    async def new(self, request: bytes, caller: Caller) -> str:
        """Ask: write headers (`To: NAME`, and `Reply-By`, else messages.reply_timeout), a blank
        line and a text in one write; read the id back. The answer comes to `ID/answer` and nowhere
        else. A message with `Reply-By` that is sent in any other way is a question too; its answer
        comes to the inbox as well."""
        return f"{self.asks.ask(caller.principal, self.name, request).key}\n"

    def limit(self) -> int:
        return self.agent.kernel.settings.of(MessageSettings).max_size

    def find(self, name: str) -> Node | None:
        ask = self._ask(name)
        return None if ask is None else AskDirectory(self, ask)

    def more(self) -> Iterator[tuple[str, Node]]:
        for _, ask in sorted(self.asks.of(self.name).items()):
            yield ask.key, AskDirectory(self, ask)

    def _ask(self, name: str) -> Ask | None:
        ask = self.asks.find(number_of(name))
        return ask if ask is not None and ask.asker == self.name else None

    def rmdir(self, name: str, caller: Caller) -> None:
        if name in self.TABLE:
            raise self._fixed(f"remove {name}")
        ask = self._ask(name)
        if ask is None:
            raise self.missing(name)
        self.asks.cancel(caller.principal, self.name, ask.id)

    def concerned(self, event: Any) -> Sequence[Hashable]:
        return (AskDirectory.at(int(event.id)),)

    @on(AskOpened)
    def _opened(self, event: AskOpened) -> Iterator[Change]:
        ask = self._ask(event.id)
        if ask is not None:
            opened = AskDirectory(self, ask)
            opened.remember()
            yield Created(self.key, event.id, opened)

    @on(AskDropped)
    def _dropped(self, event: AskDropped) -> Iterator[Change]:
        yield Removed(self.key, event.id, AskDirectory.at(int(event.id)), is_directory=True)


class AnswerStream(StreamHandle):
    """An open `answer`: waits for it, gives it, ends."""

    seekable = True

    def __init__(
        self, asks: Asks, ask: Ask, wait: Callable[[], Callable[[], None]] = lambda: lambda: None
    ) -> None:
        super().__init__()
        self._wait = wait
        self._waited: list[Callable[[], None]] = []
        self._asks = asks
        self._ask = ask
        self._content: bytes | None = None
        self._offset = 0  # of the read that is served
        self._unsubscribe = asks.on_end(ask, self.wake)

    def _ended(self) -> bool:
        self._asks.expire_due()
        return not self._ask.open or self._asks.find(self._ask.id) is not self._ask

    def begin_read(self, offset: int, who: Callable[[], Hashable]) -> None:
        self._offset = offset

    def try_read(self, size: int) -> bytes | None:
        if self._content is None:
            if not self._ended():
                return None
            self._ask.check()
            self._content = self._answer()
        chunk = self._content[self._offset : self._offset + size]
        self._offset += len(chunk)
        return chunk

    def _answer(self) -> bytes:
        try:
            return self._asks.answer(self._ask)
        except KernelError:
            raise KernelError(errno.ESTALE, f"{self._ask.key} is not kept any more") from None

    def ready(self) -> bool:
        return self._ended()

    def parked(self) -> None:
        self._waited.append(self._wait())

    def unparked(self) -> None:
        self._waited.pop()()

    def release(self) -> None:
        self._unsubscribe()
