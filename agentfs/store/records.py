"""Tables: the records of one kind, in memory by key and in the store at once; and other values in
memory that are put back if the transaction under way fails."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping, MutableSet
from functools import partial
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from agentfs.base.buckets import TokenBuckets
from agentfs.base.windows import Window
from agentfs.store.store import Store

__all__ = [
    "Index",
    "Records",
    "add_to",
    "keep_fields",
    "keep_item",
    "keep_member",
    "keep_value",
    "reread",
    "take_from",
]

K = TypeVar("K")
T = TypeVar("T")
G = TypeVar("G")

EMPTY: Mapping[Any, Any] = MappingProxyType({})


class Index(dict[G, dict[K, T]], Generic[G, K, T]):
    """Items of a table by what they have in common, each group by key, in the order in which they
    came; a group is there while something is in it. To look at: its table changes it."""

    def of(self, group: G) -> Mapping[K, T]:
        """What is in a group."""
        return self.get(group, EMPTY)

    def add(self, group: G, key: K, item: T) -> None:
        self.setdefault(group, {})[key] = item

    def discard(self, group: G, key: K) -> None:
        items = self[group]
        del items[key]
        if not items:
            del self[group]


class _Follower(NamedTuple):
    """It is told what comes and goes, and of a change of `fields`, or of any where it is empty."""

    entered: Callable[[Any, Any], object]
    left: Callable[[Any, Any], object]
    fields: frozenset[str]


def _refuse() -> NoReturn:
    raise TypeError("a table of records is changed by put, drop and change")


class Records(dict[K, T], Generic[K, T]):
    """All items of a kind by key: a dict that only the methods here change. Every change is part of
    the transaction under way, or is one of its own; where that fails, the change is undone in
    memory as well, newest first.

    `read(key, record)` makes key and item of a record, and `write(item)` a record of an item, whose
    key is `name(key)` in the store. Nothing is read before `load`.

        table = Records(store, "entry", lambda pid, record: (int(pid), Entry(**record)), asdict)
        by_agent = table.index(lambda entry: entry.agent, "agent")
        table.load()
    """

    def __init__(
        self,
        store: Store,
        kind: str,
        read: Callable[[str, dict[str, Any]], tuple[K, T]],
        write: Callable[[T], Mapping[str, Any]],
        name: Callable[[K], str] = str,
    ) -> None:
        super().__init__()
        self._store = store
        self._transaction = store.transaction()  # it is always the same
        self._kind = kind
        self._read = read
        self._write = write
        self._name = name
        self._followers: list[_Follower] = []

    def load(self) -> None:
        """Read everything from the store, instead of what is in memory."""
        for key in tuple(self):
            self._exchange(key, None)
        for name, record in self._store.records(self._kind):
            key, item = self._read(name, record)
            self._exchange(key, item)

    # Methods, each of them: what is a name of another method, the compiled build does not see.

    def __setitem__(self, key: K, item: T) -> NoReturn:
        _refuse()

    def __delitem__(self, key: K) -> NoReturn:
        _refuse()

    def __ior__(self, other: Any) -> NoReturn:  # type: ignore[misc]
        _refuse()

    def clear(self) -> NoReturn:
        _refuse()

    def pop(self, *_: Any) -> NoReturn:
        _refuse()

    def popitem(self) -> NoReturn:
        _refuse()

    def setdefault(self, *_: Any) -> NoReturn:
        _refuse()

    def update(self, *_: Any, **__: Any) -> NoReturn:
        _refuse()

    # -- indexes ---------------------------------------------------------------------------------

    def index(self, group: Callable[[T], G | None], *fields: str) -> Index[G, K, T]:
        """The items by `group(item)`, from now on; those of group None are in none. `fields` are
        those that it depends on: all, if none is named."""
        index: Index[G, K, T] = Index()

        def entered(key: K, item: T) -> None:
            where = group(item)
            if where is not None:
                index.add(where, key, item)

        def left(key: K, item: T) -> None:
            where = group(item)
            if where is not None:
                index.discard(where, key)

        self.follow(entered, left, fields)
        return index

    def follow(
        self,
        entered: Callable[[K, T], object],
        left: Callable[[K, T], object],
        fields: Collection[str] = (),
    ) -> None:
        """Call `entered(key, item)` for everything that comes into the table from now on, and
        `left(key, item)` for what goes; both around a change of `fields` (of any field, if none is
        named), and in a rollback, too. Neither may raise."""
        self._followers.append(_Follower(entered, left, frozenset(fields)))

    # -- changes ---------------------------------------------------------------------------------

    def put(self, key: K, item: T) -> None:
        """Have `item` at `key`, in the place of what is there."""
        with self._transaction:
            self._place(key, item)
            self._save(key, item)

    def drop(self, key: K) -> T | None:
        """Have nothing at `key` any more; returns what was there."""
        item = self.get(key)
        if item is not None:
            with self._transaction:
                self._place(key, None)
                self._store.delete_record(self._kind, self._name(key))
        return item

    def change(self, key: K, **fields: Any) -> None:
        """Set fields of the item at `key`."""
        item = self[key]
        with self._transaction:
            self._set(key, item, fields)
            self._save(key, item)

    # -- changes of which the store knows nothing before `save` -----------------------------------

    def place(self, key: K, item: T) -> None:
        """As `put`, in memory alone."""
        with self._transaction:
            self._place(key, item)

    def set(self, key: K, **fields: Any) -> None:
        """As `change`, in memory alone."""
        with self._transaction:
            self._set(key, self[key], fields)

    def save(self, key: K) -> None:
        """Store the item at `key` as it is."""
        with self._transaction:
            self._save(key, self[key])

    # -- their parts -----------------------------------------------------------------------------

    def _save(self, key: K, item: T) -> None:
        self._store.put_record(self._kind, self._name(key), self._write(item))

    def _place(self, key: K, item: T | None) -> None:
        before = self.get(key)
        self._store.on_rollback(lambda: self._exchange(key, before))
        self._exchange(key, item)

    def _exchange(self, key: K, item: T | None) -> None:
        before = self.get(key)
        if before is not None:
            for follower in self._followers:
                follower.left(key, before)
        if item is None:
            super().pop(key, None)
            return
        super().__setitem__(key, item)
        for follower in self._followers:
            follower.entered(key, item)

    def _set(self, key: K, item: T, fields: dict[str, Any]) -> None:
        before = {field: getattr(item, field) for field in fields}
        self._store.on_rollback(lambda: self._assign(key, item, before))
        self._assign(key, item, fields)

    def _assign(self, key: K, item: T, fields: dict[str, Any]) -> None:
        concerned: list[Callable[[K, T], object]] = []
        for entered, left, depends in self._followers:
            if not depends or not depends.isdisjoint(fields):
                left(key, item)
                concerned.append(entered)
        for field, value in fields.items():
            setattr(item, field, value)
        for entered in concerned:
            entered(key, item)


# -- values beside tables: each is called before, or instead of, the change ----------------------


def keep_fields(store: Store, thing: object, *fields: str) -> None:
    """These fields of `thing` are about to change."""
    before = [*map(partial(getattr, thing), fields)]

    def undo() -> None:
        for field, value in zip(fields, before, strict=True):
            setattr(thing, field, value)

    store.on_rollback(undo)


def keep_value(store: Store, put_back: Callable[[T], object], before: T) -> None:
    """A value is about to change that is `before` now: if the transaction fails, `put_back` gets
    it. It is `keep_fields` for what every transaction comes by."""
    store.on_rollback(lambda: put_back(before))


def keep_item(store: Store, table: MutableMapping[K, T], key: K) -> None:
    """`table[key]` is about to change, to come or to go."""
    if key in table:
        before = table[key]
        store.on_rollback(lambda: table.__setitem__(key, before))
    else:
        store.on_rollback(lambda: table.pop(key, None))


def reread(store: Store, read: Callable[[], object]) -> None:
    """Rows are about to change of which there is a copy in memory: if the transaction fails,
    `read()` makes the copy anew."""
    store.on_rollback(read)


def keep_member(store: Store, members: MutableSet[T], member: T) -> None:
    """`member` is about to come or to go."""
    undo = members.add if member in members else members.discard
    store.on_rollback(lambda: undo(member))


def add_to(store: Store, window: Window, now: float, amount: int) -> None:
    """Count `amount` in `window`, which the transaction takes back if it fails."""
    window.add(now, amount)
    store.on_rollback(lambda: window.take_back(amount))


def take_from(
    store: Store, buckets: TokenBuckets, name: str, count: int, burst: int, per_minute: int
) -> float:
    """Take `count` tokens, as `TokenBuckets.take`; the transaction gives them back if it fails."""
    wait = buckets.take(name, count, burst, per_minute)
    if not wait:
        store.on_rollback(lambda: buckets.give_back(name, count))
    return wait
