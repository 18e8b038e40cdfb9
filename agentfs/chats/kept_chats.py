"""Conversations that are kept: of an agent, by name. They survive the program, the daemon and a
kill -9 of either. A turn is stored whole, with its prompt and its answer, or not at all."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from functools import partial

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.chats.chat_table import Chat, ChatTable, ChatTurn
from agentfs.chats.events import ChatChanged, ChatDeleted, ChatMade, ChatTurned
from agentfs.chats.model_request import Said
from agentfs.chats.settings import ChatSettings
from agentfs.model.principal import Principal
from agentfs.process.agents import Agents
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground

__all__ = ["KeptChats", "KeptTalk"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

MOST_SYSTEM = 64 * 1024
"""Bytes that a model may be told before all."""


class KeptChats:
    """Every system call raises EACCES for anybody but the agent and the operator, and ESTALE for
    one that was removed."""

    def __init__(self, ground: Ground, gate: Gate, agents: Agents) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._agents = agents
        self.table = ChatTable(ground)
        self._busy: set[Chat] = set()

    # -- system calls ------------------------------------------------------------------------------

    def make(self, principal: Principal, agent: str, name: str, model: str) -> Chat:
        """Begin one that asks `model`. Raises EINVAL (the name), EEXIST, EDQUOT."""
        with self._gate.enter(principal):
            self._require(principal, agent)
            self._agents.get(agent)
            if not NAME.fullmatch(name):
                raise KernelError(
                    errno.EINVAL,
                    "the name of a chat is 1 to 64 letters, digits, `.`, `_` and `-`, a letter or"
                    " a digit first",
                )
            if self.table.find(agent, name) is not None:
                raise KernelError(errno.EEXIST, f"{agent} has a chat {name} already")
            most = self._settings.of(ChatSettings).max_chats
            if len(self.table.of(agent)) >= most:
                raise KernelError(
                    errno.EDQUOT,
                    f"{agent} has {most} chats: remove one",
                    rule="chats.max_chats",
                )
            chat = self.table.add(agent, name, model)
            self._events.emit(ChatMade(agent, name))
            return chat

    def remove(self, principal: Principal, chat: Chat) -> None:
        """It is no more, and nothing of what was said. An answer that is under way is not kept."""
        with self._gate.enter(principal):
            self._require(principal, chat.agent)
            self.check(chat)
            self.table.remove(chat)
            self._events.emit(ChatDeleted(chat.agent, chat.name))

    def set_model(self, principal: Principal, chat: Chat, model: str) -> None:
        """Ask `model` from now on."""
        self._change(principal, chat, model=model)

    def set_system(self, principal: Principal, chat: Chat, system: str) -> None:
        """Tell the model this before all, from now on. Raises EFBIG."""
        if len(system.encode()) > MOST_SYSTEM:
            raise KernelError(errno.EFBIG, f"at most {MOST_SYSTEM:,} bytes are told before all")
        self._change(principal, chat, system=system)

    def _change(self, principal: Principal, chat: Chat, **fields: str) -> None:
        with self._gate.enter(principal):
            self._require(principal, chat.agent)
            self.check(chat)
            self.table.change(chat, **fields)
            self._events.emit(ChatChanged(chat.agent, chat.name))

    def forget(self, principal: Principal, chat: Chat) -> None:
        """Nothing was said in it. Raises EBUSY while something is being said."""
        with self._gate.enter(principal):
            self._require(principal, chat.agent)
            self.check(chat)
            self._check_idle(chat)
            self.table.forget(chat)
            self._events.emit(ChatChanged(chat.agent, chat.name))

    def _require(self, principal: Principal, agent: str) -> None:
        if not principal.acts_for(agent):
            raise KernelError(
                errno.EACCES,
                f"the chats of {agent} are private, and you are {principal.name}",
                rule="private",
            )

    # -- what is said ------------------------------------------------------------------------------

    def check(self, chat: Chat) -> None:
        """Raise ESTALE if it was removed."""
        if self.table.find(chat.agent, chat.name) is not chat:
            raise KernelError(errno.ESTALE, f"the chat {chat.name} was removed")

    def _check_idle(self, chat: Chat) -> None:
        if chat in self._busy:
            raise KernelError(
                errno.EBUSY,
                f"something is being asked in {chat.name} already: read its answer first",
                rule="one at a time",
            )

    def begin(self, chat: Chat, prompt: str) -> None:
        """Something is about to be asked. Raises EBUSY, EMSGSIZE."""
        self.check(chat)
        self._check_idle(chat)
        full = chat.turns >= self._settings.of(ChatSettings).max_turns
        if full or self.left(chat) < len(prompt.encode()):
            raise KernelError(
                errno.EMSGSIZE,
                f"{chat.name} has {chat.turns} turns of {chat.size:,} bytes, and no room for this:"
                " begin another chat",
                rule="chats.max_conversation",
            )
        self._busy.add(chat)

    def left(self, chat: Chat) -> int:
        """The bytes for which there is room; below zero if the operator has made that smaller."""
        return self._settings.of(ChatSettings).max_conversation - chat.size

    def end(self, principal: Principal, chat: Chat, turn: ChatTurn | None) -> None:
        """That was said; None: nothing was. Raises ESTALE, and what the store says: then nothing is
        kept of it."""
        self._busy.discard(chat)
        if turn is None:
            return
        self.check(chat)
        with self._store.transaction():
            self._gate.attribute(principal)
            self.table.say(chat, turn)
            self._events.emit(ChatTurned(chat.agent, chat.name, turn.model, chat.turns))

    def now(self) -> float:
        return self._clock.now()

    def transcript(self, chat: Chat) -> Iterator[str]:
        """All that was said, a turn at a time: a line for each speaker, and below it the words,
        each line after a tab."""
        for turn in self.table.turns(chat):
            who = f"{turn.model}{'' if turn.whole else ' (cut)'}"
            yield "".join(
                f"{rfc3339(turn.time)} {speaker}\n{_indented(text)}"
                for speaker, text in (("user", turn.prompt), (who, turn.answer))
            )

    # -- what happens to agents --------------------------------------------------------------------

    def agent_removed(self, name: str) -> None:
        """Its conversations go with it."""
        with self._store.transaction():
            self.table.agent_removed(name)


def _indented(text: str) -> str:
    return "".join(f"\t{line}\n" for line in text.removesuffix("\n").split("\n"))


class KeptTalk:
    """The part of a chat that is said on one open file."""

    def __init__(self, chats: KeptChats, principal: Principal, chat: Chat) -> None:
        self._chats = chats
        self._chat = chat
        self._end = partial(chats.end, principal, chat)
        self._prompt = self._asked = ""

    @property
    def model(self) -> str:
        return self._chat.model

    @property
    def system(self) -> str:
        return self._chat.system

    def said(self) -> list[Said]:
        return [
            said
            for turn in self._chats.table.turns(self._chat)
            for said in (Said("user", turn.prompt), Said("assistant", turn.answer))
        ]

    def begin(self, prompt: str) -> None:
        self._chats.begin(self._chat, prompt)
        self._prompt, self._asked = prompt, self._chat.model

    def room(self, size: int) -> int:
        return min(size, self._chats.left(self._chat) - len(self._prompt.encode()))

    def end(self, answer: str, *, whole: bool) -> None:
        now = self._chats.now()
        turn = ChatTurn(now, self._asked, self._prompt, answer, whole) if answer else None
        self._end(turn)

    def drop(self) -> None:
        """It is kept."""
