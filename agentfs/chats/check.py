"""Faults of the conversations in a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentfs.base.clock import rfc3339
from agentfs.chats.chat_table import KIND, TURNS, Chat, ChatTurn, turn_key
from agentfs.store.rows import UNREADABLE, StoreRows

__all__ = ["faults"]


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    turns = dict(rows.records(TURNS))
    for key, record in rows.records(KIND):
        yield from (f"chat {key}: {fault}" for fault in _chat(key, record, rows, turns))
    yield from (f"turn {key} of a chat: there is no such chat, or turn of it" for key in turns)


def _chat(
    key: str, record: dict[str, Any], rows: StoreRows, turns: dict[str, dict[str, Any]]
) -> Iterator[str]:
    try:
        chat = Chat(**record)
        if key != f"{chat.agent}/{chat.name}":
            yield f"its record is that of {chat.agent}/{chat.name}"
        if chat.agent not in rows.agents:
            yield f"there is no agent {chat.agent}"
        size = 0
        for number in range(1, chat.turns + 1):
            said = turns.pop(turn_key(chat.agent, chat.name, number), None)
            if said is None:
                yield f"its turn {number} is missing"
                continue
            turn = ChatTurn(**said)
            rfc3339(turn.time)
            if not turn.answer:
                yield f"its turn {number} has no answer"
            size += turn.size
        if size != chat.size:
            yield f"{size} bytes were said in it, and it has {chat.size}"
    except (*UNREADABLE, OSError) as bad:
        yield f"its record cannot be read: {bad!r}"
