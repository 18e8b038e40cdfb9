"""Faults of the asks in a store, and of the threads of messages."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from agentfs.asks.ask import Ask, AskState
from agentfs.asks.ask_table import KIND, TEXTS
from agentfs.store.rows import UNREADABLE, StoreRows, read_record

__all__ = ["faults"]


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    messages: dict[int, tuple[str, dict[str, Any]]] = {}
    for seq, mailbox, text in rows.read("SELECT seq, mailbox, record FROM messages"):
        messages[seq] = mailbox, read_record(text)
    texts = {key for key, _ in rows.records(TEXTS)}
    asked: dict[int, str] = {}
    expected: set[str] = set()
    for key, record in rows.records(KIND):
        try:
            ask = Ask.from_record(key, record)
        except UNREADABLE as bad:
            yield f"ask {key}: its record cannot be read: {bad!r}"
            continue
        yield from (f"ask {key}: {fault}" for fault in _ask(ask, key, rows.agents, messages))
        expected.add(f"{key}.question")
        if ask.state is AskState.ANSWERED:
            expected.add(f"{key}.answer")
        if ask.open:
            asked |= dict.fromkeys(ask.questions, key)
    yield from (f"ask text {name}: it is missing" for name in sorted(expected - texts))
    yield from (f"ask text {name}: it belongs to no ask" for name in sorted(texts - expected))
    for seq, (_, record) in messages.items():
        yield from (f"message {seq:012d}: {fault}" for fault in _links(seq, record, asked))


def _ask(
    ask: Ask, key: str, agents: Container[str], messages: dict[int, tuple[str, dict[str, Any]]]
) -> Iterator[str]:
    if ask.key != key:
        yield f"it is called {ask.key}"
    if ask.asker not in agents:
        yield f"there is no agent {ask.asker}"
    if not ask.asked <= ask.deadline:
        yield "its answer was due before it was asked"
    if bool(ask.answer) != (ask.state is AskState.ANSWERED) or ask.state is AskState.CANCELLED:
        yield f"it is {ask.state.value}, and its answer is message {ask.answer:012d}"
    if ask.open == bool(ask.closed):
        yield f"it is {ask.state.value}, and was closed at {ask.closed}"
    if not ask.open:
        return
    if not ask.questions:
        yield "it is open, and nobody is asked"
    for seq, mailbox in ask.questions.items():
        lies, record = messages.get(seq, ("nowhere", {}))
        if lies != mailbox or record.get("sender") != ask.asker or not record.get("awaited"):
            yield f"its question {seq:012d} to {mailbox} is no message that waits for a reply"


def _links(seq: int, record: dict[str, Any], asked: Container[int]) -> Iterator[str]:
    thread = record.get("thread", [])
    if thread != sorted(set(thread)) or (thread and not 0 < thread[-1] < seq):
        yield f"it cannot follow the messages {thread}"
    # The asker may have been removed; then the message is unlisted.
    theirs = record.get("awaited") and not record.get("unlisted")
    if theirs and (record.get("lapsed") or seq not in asked):
        yield "no ask waits for a reply to it"
