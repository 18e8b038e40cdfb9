"""The table of conversations that are kept. The words of their turns are in the store alone.

It has no rule who may do what. Changes belong inside a transaction of the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agentfs.base.clock import change_time
from agentfs.store.ground import Ground
from agentfs.store.records import Records

__all__ = ["KIND", "TURNS", "Chat", "ChatTable", "ChatTurn", "turn_key"]

KIND, TURNS = "chat", "chat turn"
"""The kinds of record: by `AGENT/CHAT`, and by `AGENT/CHAT/NUMBER`."""

Key = tuple[str, str]
"""Agent and name."""


@dataclass(slots=True, eq=False)
class Chat:
    """`size` counts the bytes of all that was said, in so many `turns`; `changed` is in ns."""

    agent: str
    name: str
    model: str
    changed: int
    system: str = ""
    turns: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """A prompt and its answer. `whole`: that is all of it, and not what came before it was given
    up, or failed. `time` is when it ended, wall clock, seconds."""

    time: float
    model: str
    prompt: str
    answer: str
    whole: bool

    @property
    def size(self) -> int:
        return len(self.prompt.encode()) + len(self.answer.encode())


def turn_key(agent: str, chat: str, number: int) -> str:
    """The key of a turn, counted from 1."""
    return f"{agent}/{chat}/{number:06d}"


class ChatTable:
    """All of them, by agent and name."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._chats = Records(ground.store, KIND, _read, asdict, "/".join)
        self._by_agent = self._chats.index(lambda chat: chat.agent, "agent")
        self._changed: dict[str, int] = {}

    def load(self) -> None:
        self._chats.load()

    def of(self, agent: str) -> Mapping[Key, Chat]:
        """Those of an agent."""
        return self._by_agent.of(agent)

    def find(self, agent: str, name: str) -> Chat | None:
        return self._chats.get((agent, name))

    def changed(self, agent: str) -> int:
        """When one of an agent came or went last in this run, in ns; 0 if none did."""
        return self._changed.get(agent, 0)

    def turns(self, chat: Chat) -> Iterator[ChatTurn]:
        """All that was said in one, the oldest first."""
        for number in range(1, chat.turns + 1):
            record = self._store.record(TURNS, turn_key(chat.agent, chat.name, number))
            assert record is not None, f"turn {number} of {chat.agent}/{chat.name} is lost"
            yield ChatTurn(**record)

    # -- changes -----------------------------------------------------------------------------------

    def add(self, agent: str, name: str, model: str) -> Chat:
        chat = Chat(agent, name, model, int(self._clock.now() * 1e9))
        self._chats.put((agent, name), chat)
        self._touch(agent)
        return chat

    def change(self, chat: Chat, **fields: object) -> None:
        """Set its model, or what it is told before all."""
        self._chats.change((chat.agent, chat.name), changed=self._moment(chat), **fields)

    def say(self, chat: Chat, turn: ChatTurn) -> None:
        """Something was said."""
        number = chat.turns + 1
        self._store.put_record(TURNS, turn_key(chat.agent, chat.name, number), asdict(turn))
        self.change(chat, turns=number, size=chat.size + turn.size)

    def forget(self, chat: Chat) -> None:
        """Nothing was said."""
        self._drop_turns(chat)
        self.change(chat, turns=0, size=0)

    def remove(self, chat: Chat) -> None:
        self._drop_turns(chat)
        self._chats.drop((chat.agent, chat.name))
        self._touch(chat.agent)

    def _drop_turns(self, chat: Chat) -> None:
        for number in range(1, chat.turns + 1):
            self._store.delete_record(TURNS, turn_key(chat.agent, chat.name, number))

    def _moment(self, chat: Chat) -> int:
        return change_time(self._clock.now(), chat.changed)

    def _touch(self, agent: str) -> None:
        self._changed[agent] = change_time(self._clock.now(), self.changed(agent))

    def agent_removed(self, agent: str) -> None:
        for chat in tuple(self.of(agent).values()):
            self.remove(chat)
        self._changed.pop(agent, None)


def _read(key: str, record: dict[str, Any]) -> tuple[Key, Chat]:
    chat = Chat(**record)
    return (chat.agent, chat.name), chat
