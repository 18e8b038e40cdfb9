"""/agents/NAME/chats: conversations with models that are kept."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import trio

from agentfs.chats.chat_table import Chat
from agentfs.chats.events import ChatChanged, ChatDeleted, ChatMade, ChatTurned
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import document, exchange, live, value
from agentfs.vfs.exchange import Answerer
from agentfs.vfs.files import Owner
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Node
from agentfs.vfs.on import on
from agentfs.vfs.table import Table, key_in

if TYPE_CHECKING:
    from agentfs.providers.agents import AgentDirectory

__all__ = ["ChatDirectory", "ChatsDirectory"]

AT_ONCE = 50
"""Turns of a transcript that are read before others have their turn: a millisecond."""


class ChatDirectory(Table):
    """/agents/NAME/chats/ID: a conversation. `rm` of `model` and `system` puts back what they were
    at the beginning, and of `transcript` forgets all that was said; the files stay. So `rm -r`
    removes a chat, as `rmdir` does."""

    PATH = "/agents/NAME/chats/ID"
    mode = 0o700

    def __init__(self, folder: ChatsDirectory, chat: Chat) -> None:
        self._folder = folder
        self._chat = chat
        self._chats = folder.chats
        self.key = self.at(folder.key, chat.name)

    @staticmethod
    def at(folder: Hashable, name: str) -> Hashable:
        """The key of a chat in the directory with that key."""
        return (folder, name)

    @property
    def chat(self) -> Chat:
        """The chat. ESTALE once it is removed."""
        self._chats.kept.check(self._chat)
        return self._chat

    def owner(self) -> Owner:
        owner = self._folder.owner()
        return Owner(owner.uid, owner.gid, self.chat.changed)

    def guard(self, caller: Caller) -> None:
        self._folder.guard(caller)

    @value(
        "model",
        0o600,
        write="set_model",
        on=(ChatChanged,),
        private=True,
        example="sonnet",
        errors={
            "ENOENT": "no such model, or nobody answers for it",
            "EPERM": "it is above your tier",
            "EACCES": "the capability llm; its key is not set",
        },
    )
    def model(self) -> str:
        """The model that is asked; another one may go on with the conversation. At first that of
        the process that made the chat."""
        return self.chat.model

    async def set_model(self, text: str, caller: Caller) -> None:
        self._chats.set_model(caller.principal, self.chat, text)

    @document(
        "system",
        0o600,
        write="set_system",
        on=(ChatChanged,),
        private=True,
        example="You review patches.",
        errors={"EFBIG": "more than 64 KiB"},
    )
    def system(self) -> str:
        """Words that the model is told before everything else; empty at first."""
        return self.chat.system

    async def set_system(self, content: bytes, caller: Caller) -> None:
        self._chats.kept.set_system(caller.principal, self.chat, as_text(content))

    @exchange(
        "ask",
        0o600,
        private=True,
        errors={
            "EBUSY": "another open file asks something already",
            "EMSGSIZE": "chats.max_conversation, chats.max_turns, or the model's context",
            "ESTALE": "the chat was removed",
        },
    )
    def ask(self, caller: Caller) -> Answerer:
        """Write a prompt, read its answer, as in /dev/llm; the model is told all that was said
        before. A turn is kept once its answer is whole, with what has come of it if the rest is
        given up or fails, and before the reader sees its end."""
        return self._chats.go_on(caller.principal, self.chat)

    @live("transcript", 0o400, private=True, example="2026-11-21T09:00:00.123Z user\n\tHow?\n…")
    async def transcript(self) -> bytes:
        """All that was said: a line with the time (RFC 3339) and `user`, or the model, and ` (cut)`
        if that was not its whole answer; below it the words, each line after a tab."""
        parts: list[str] = []
        for part in self._chats.kept.transcript(self.chat):
            parts.append(part)
            if len(parts) % AT_ONCE == 0:
                await trio.lowlevel.cancel_shielded_checkpoint()
        return "".join(parts).encode()

    def unlink(self, name: str, caller: Caller) -> None:
        kept, principal, chat = self._chats.kept, caller.principal, self.chat
        if name == "model":
            kept.set_model(principal, chat, self._chats.usual(principal))
        elif name == "system":
            kept.set_system(principal, chat, "")
        elif name == "transcript":
            kept.forget(principal, chat)
        elif name not in self.TABLE:
            raise self.missing(name)


class ChatsDirectory(Table):
    """/agents/NAME/chats: `mkdir ID` begins a conversation, which survives programs and the daemon,
    and `rmdir ID`, or `rm -r`, removes it. **EINVAL**: the name is not 1 to 64 of `A-Z a-z 0-9 . _
    -`. **EDQUOT**: it has `chats.max_chats`."""

    PATH = "/agents/NAME/chats"
    WHAT = "Its conversations with models that are kept."
    PRIVATE = True
    KEPT = True
    EACH = ChatDirectory
    mode = 0o700

    def __init__(self, agent: AgentDirectory) -> None:
        self.agent = agent
        self.name = agent.name
        self.key = agent.key_of("chats")
        self.chats = agent.kernel.chats

    def owner(self) -> Owner:
        agent = self.agent.owner()
        changed = self.chats.kept.table.changed(self.name)
        return Owner(agent.uid, agent.gid, max(agent.mtime, changed))

    def guard(self, caller: Caller) -> None:
        self.agent.private_guard(caller)

    def find(self, name: str) -> Node | None:
        chat = self.chats.kept.table.find(self.name, name)
        return None if chat is None else ChatDirectory(self, chat)

    def more(self) -> Iterator[tuple[str, Node]]:
        for chat in self.chats.kept.table.of(self.name).values():
            yield chat.name, ChatDirectory(self, chat)

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        return ChatDirectory(self, self.chats.make(caller.principal, self.name, name))

    def rmdir(self, name: str, caller: Caller) -> None:
        found = self.find(name)
        if not isinstance(found, ChatDirectory):
            raise self.missing(name)
        self.chats.kept.remove(caller.principal, found.chat)

    def concerned(self, event: Any) -> Sequence[Hashable]:
        return (ChatDirectory.at(self.key, event.chat),)

    @on(ChatMade)
    def _made(self, event: ChatMade) -> Iterator[Change]:
        found = self.find(event.chat)
        if isinstance(found, ChatDirectory):
            found.remember()
            yield Created(self.key, event.chat, found)

    @on(ChatDeleted)
    def _deleted(self, event: ChatDeleted) -> Iterator[Change]:
        key = ChatDirectory.at(self.key, event.chat)
        yield Removed(self.key, event.chat, key, is_directory=True)

    @on(ChatTurned, ChatChanged)
    def _turned(self, event: ChatTurned | ChatChanged) -> Iterator[Change]:
        chat = ChatDirectory.at(self.key, event.chat)
        yield Modified(key_in(chat, "transcript"))
        yield Modified(chat)
