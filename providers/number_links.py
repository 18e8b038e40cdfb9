"""Directories of links to what is numbered: runs, tasks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING

from agentfs.providers.children import pid_of
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Link, Node, Stat
from agentfs.vfs.table import DirectoryOf

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["PAGE", "NumberLink", "NumberLinks", "Pages"]

PAGE = 256
"""Numbers that are asked for at once: less than a millisecond."""

Pages = Callable[[int, int], list[int]]
"""At most so many of them after one, in order."""


class NumberLinks(DirectoryOf):
    """A directory of links to some of what is numbered: what `pages` gives, and `has` says yes to.
    `up` leads from it to where they are."""

    restless = True
    stepwise = True

    def __init__(
        self, kernel: Kernel, key: Hashable, up: str, pages: Pages, has: Callable[[int], bool]
    ) -> None:
        self.kernel = kernel
        self.key = key
        self._up = up
        self._pages = pages
        self._has = has

    def owner(self) -> Owner:
        return Owner(*self.kernel.owner, int(self.kernel.started * 1e9))

    def _link(self, number: int) -> NumberLink:
        return NumberLink(self, number, f"{self._up}/{number}")

    def lookup(self, name: str) -> Node:
        number = pid_of(name)
        if not self._has(number):
            raise self.missing(name)
        return self._link(number)

    def glance(self, name: str) -> Node:
        return self._link(int(name))  # a name of ours

    def names_now(self, caller: Caller) -> Iterator[str]:
        last, page = 0, [0]
        while page:
            page = self._pages(last, PAGE)
            yield from map(str, page)
            last = page[-1] if page else last

    def entries(self) -> Iterator[tuple[str, Node]]:
        last, page = 0, [0]
        while page:
            page = self._pages(last, PAGE)
            for number in page:
                yield str(number), self._link(number)
            last = page[-1] if page else last

    @property
    def empty(self) -> bool:
        """Whether there is none."""
        return not self._pages(0, 1)

    def has_only(self, number: int) -> bool:
        """Whether this one is the only one."""
        return self._pages(0, 2) == [number]

    # -- news --------------------------------------------------------------------------------------

    def came(self, number: int) -> Change:
        """It is one of these now."""
        return Created(self.key, str(number), self._link(number))

    def went(self, number: int) -> Change:
        """It is none of these any more."""
        return Removed(self.key, str(number), self._link(number).key)


class NumberLink(Link):
    """A link to one of them."""

    def __init__(self, links: DirectoryOf, number: int, target: str) -> None:
        self.key = links.key_of(str(number))
        self._links = links
        self._target = target

    def stat(self) -> Stat:
        owner = self._links.owner()
        return Stat(0o120777, owner.uid, owner.gid, len(self._target), owner.mtime)

    def target(self, caller: Caller) -> str:
        return self._target
