"""Values in memory that are put back if the transaction under way fails.

Each is called before the change. Tables of records do it by themselves: see `Records`.
"""

from __future__ import annotations

from collections.abc import MutableMapping, MutableSet
from typing import TypeVar

from agentfs.base.windows import Window
from agentfs.store.store import Store

__all__ = ["add_to", "keep_fields", "keep_item", "keep_member"]

K = TypeVar("K")
V = TypeVar("V")


def keep_fields(store: Store, thing: object, *fields: str) -> None:
    """These fields of `thing` are about to change."""
    before = [(field, getattr(thing, field)) for field in fields]

    def undo() -> None:
        for field, value in before:
            setattr(thing, field, value)

    store.on_rollback(undo)


def keep_item(store: Store, table: MutableMapping[K, V], key: K) -> None:
    """`table[key]` is about to change, to come or to go."""
    if key in table:
        before = table[key]
        store.on_rollback(lambda: table.__setitem__(key, before))
    else:
        store.on_rollback(lambda: table.pop(key, None))


def keep_member(store: Store, members: MutableSet[V], member: V) -> None:
    """`member` is about to come or to go."""
    undo = members.add if member in members else members.discard
    store.on_rollback(lambda: undo(member))


def add_to(store: Store, window: Window, now: float, amount: int) -> None:
    """Count `amount` in `window`, which the transaction takes back if it fails."""
    window.add(now, amount)
    store.on_rollback(lambda: window.take_back(amount))
