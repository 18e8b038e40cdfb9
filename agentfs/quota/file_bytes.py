"""The bytes of the files in one directory and below it, by their owners, in a pot of
`quota.shares`.

A file counts with the bytes that it takes on the disk, and with `LEAST` at least; everything else
counts with `LEAST`. It counts as long as it has a name or is open. Changes through the tree are
told as they are made; `correct` finds what was written by the path on the disk, of which nobody
tells.

In memory/ all bytes are the agent's. In /shared the bytes of a file are its maker's, whose mark is
an attribute of the file; the bytes that others add are theirs. So an agent that lets others write
to its file pays nothing for that, and they pay nothing for what was there. `MARK` holds
`MAKER [OTHER:BYTES ...]`: each is the number of an agent, which is never used again, `u` and a uid,
or `o` for the operator. Links, pipes, and everything on a disk without attributes have no mark:
they are their user's. A file that could have a mark and has none is its user's as well; if that is
the daemon's user, the operator has put it there.
"""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from agentfs.model.principal import Principal
from agentfs.quota.shares import Holder, Pot

__all__ = ["LEAST", "MARK", "OPERATOR", "Bytes", "Makers", "taken"]

LEAST = 4096
"""Bytes: what most file systems need for a directory, and about that for a name and an inode."""

MARK = "user.agentfs.held"

OPERATOR = "o"

MOST_OTHERS = 32
"""How many of them are told apart in one file; the bytes of further ones are its maker's."""


def taken(found: os.stat_result) -> int:
    """Bytes that something counts with."""
    return max(LEAST, found.st_blocks * 512) if st.S_ISREG(found.st_mode) else LEAST


class Makers:
    """The owners of the bytes of one file: its maker, and `others` with the bytes that they have
    added. `changed`: its mark on the disk is not up to date."""

    __slots__ = ("changed", "maker", "others")

    def __init__(self, maker: str, others: dict[str, int] | None = None) -> None:
        self.maker = maker
        self.others = others or {}
        self.changed = False

    @classmethod
    def read(cls, path: str | int, uid: int, *, follow: bool = True) -> Makers:
        """The owners that the mark of a file on the disk names; the file belongs to `uid`."""
        with suppress(ValueError):
            try:
                said = os.getxattr(path, MARK, follow_symlinks=follow)
            except OSError as failure:
                if failure.errno == errno.ENODATA and uid == os.geteuid():
                    return cls(OPERATOR)
            else:
                maker, *others = said.decode("ascii").split()
                pairs = (other.split(":") for other in others)
                return cls(maker, {mark: abs(int(number)) for mark, number in pairs})
        return cls(f"u{uid}")

    def write(self, path: str | int, *, follow: bool = True) -> None:
        """Mark the file, if its disk keeps attributes."""
        others = (f"{mark}:{number}" for mark, number in self.others.items())
        with suppress(OSError):
            os.setxattr(
                path, MARK, " ".join((self.maker, *others)).encode(), follow_symlinks=follow
            )
        self.changed = False

    def split(self, total: int) -> Iterator[tuple[str, int]]:
        """How many of the file's `total` bytes belong to each owner: (mark, bytes)."""
        for mark, number in self.others.items():
            number = min(number, total)
            total -= number
            yield mark, number
        yield self.maker, total

    def change(self, mark: str, change: int) -> Iterator[tuple[str, int]]:
        """`mark` made the file grow, or shrink, by `change` bytes: (mark, change) of each owner
        that this concerns. The bytes that came last go first."""
        if change > 0:
            if mark != self.maker and (mark in self.others or len(self.others) < MOST_OTHERS):
                self.others[mark] = self.others.get(mark, 0) + change
                self.changed = True
                yield mark, change
            else:
                yield self.maker, change
            return
        for other in reversed(tuple(self.others)):
            number = min(self.others[other], -change)
            change += number
            self.others[other] -= number
            if not self.others[other]:
                del self.others[other]
            self.changed = True
            yield other, -number
        yield self.maker, change


class Bytes:
    """The bytes below one directory, `root`. `mark` gives the mark of a principal, `holder` the
    holder that a mark stands for. `marks`: files are marked with their makers; else everything
    belongs to `holder("")`."""

    def __init__(
        self,
        root: str,
        pot: Pot,
        holder: Callable[[str], Holder],
        mark: Callable[[Principal], str] | None = None,
    ) -> None:
        self.root = root
        self.marks = mark is not None
        self.mark = mark or (lambda principal: "")
        self._pot = pot
        self._holder = holder
        self._named: dict[Holder, int] = {}
        self._nameless: dict[Holder, int] = {}
        self._changes: dict[Holder, int] = {}  # bytes that came and went, all in all
        self._closed = False

    # -- changes ---------------------------------------------------------------------------------

    def check(self, principal: Principal, amount: int = LEAST) -> None:
        """Raise ShareError unless `principal`, who writes, may have `amount` more in here. The
        operator may have what the disk has."""
        if not principal.is_operator:
            self._pot.check(self._holder(self.mark(principal)), amount)

    def changed(
        self, part: Makers, principal: Principal, change: int, *, named: bool = True
    ) -> None:
        """A file grew or shrank by `change` bytes. `named`: it has a name; else it is only open."""
        for whose, number in part.change(self.mark(principal), change):
            self._add(self._named if named else self._nameless, whose, number)

    def made(self, part: Makers, total: int) -> None:
        """Something was made."""
        self._add(self._named, part.maker, total)

    def removed(self, part: Makers, total: int, *, is_open: bool) -> None:
        """The last name of something is gone."""
        for mark, number in part.split(total):
            self._add(self._named, mark, -number)
            if is_open:
                self._add(self._nameless, mark, number)

    def opened(self, part: Makers, total: int) -> None:
        """A file without a name is open again."""
        for mark, number in part.split(total):
            self._add(self._nameless, mark, number)

    def closed(self, part: Makers, total: int) -> None:
        """A file without a name is open no more."""
        for mark, number in part.split(total):
            self._add(self._nameless, mark, -number)

    def _add(self, table: dict[Holder, int], mark: str, change: int) -> None:
        if not self._closed:
            holder = self._holder(mark)
            self._changes[holder] = self._changes.get(holder, 0) + abs(change)
            self._move(table, holder, change)

    def _move(self, table: dict[Holder, int], holder: Holder, change: int) -> None:
        """Never below nothing: a directory counts the same however large it has become."""
        held = table.get(holder, 0)
        change = max(change, -held)
        table[holder] = held + change
        if not table[holder]:
            del table[holder]
        if change > 0:
            self._pot.add(holder, change)
        elif change:
            self._pot.give(holder, -change)

    # -- what was found on the disk ----------------------------------------------------------------

    def now(self) -> dict[Holder, tuple[int, int]]:
        """For `correct`, before the walk: the bytes that have a name, and how many have changed."""
        holders = {*self._named, *self._changes}
        return {each: (self._named.get(each, 0), self._changes.get(each, 0)) for each in holders}

    def correct(
        self,
        found: Iterable[tuple[str, int]],
        before: dict[Holder, tuple[int, int]],
        *,
        whole: bool,
    ) -> None:
        """A walk over everything (`whole`), or over a part, has found so many bytes of each mark.
        It may or may not have seen the changes that were made meanwhile, so as much of the
        difference is left to the next walk."""
        if self._closed:
            return
        seen: dict[Holder, int] = {}
        for mark, number in found:
            holder = self._holder(mark)
            seen[holder] = seen.get(holder, 0) + number
        for holder in {*seen, *self._named}:
            held, changes = before.get(holder, (0, 0))
            unsure = self._changes.get(holder, 0) - changes
            wrong = seen.get(holder, 0) - held
            if wrong > unsure:
                self._move(self._named, holder, wrong - unsure)
            elif wrong < -unsure and whole:
                self._move(self._named, holder, wrong + unsure)
        self._changes = {each: self._changes.get(each, 0) for each in self._named}

    def close(self) -> None:
        """Its directory is gone: everything is given back."""
        for table in (self._named, self._nameless):
            for holder in tuple(table):
                self._move(table, holder, -table[holder])
        self._closed = True
