"""Directories of links to runs: by their state, their pipeline, the thing that they are about."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING

from agentfs.providers.children import pid_of
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Link, Node, Stat
from agentfs.vfs.table import DirectoryOf
from agentfs.workflow.model import Run

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["RunLink", "RunLinks", "by_pipeline", "by_ref", "by_state", "parts_of"]

PAGE = 256
"""Runs that are asked for at once: less than a millisecond."""

Pages = Callable[[int, int], list[int]]
"""At most so many runs after one of them, in order."""


class RunLinks(DirectoryOf):
    """A directory of links to some runs: those that `pages` gives, and that `has` says yes to. `up`
    leads from it to /proc/runs."""

    PATH = "/proc/runs/by-state/STATE"
    restless = True
    stepwise = True

    def __init__(
        self, kernel: Kernel, key: Hashable, up: str, pages: Pages, has: Callable[[Run], bool]
    ) -> None:
        self.kernel = kernel
        self.key = key
        self._up = up
        self._pages = pages
        self._has = has

    def owner(self) -> Owner:
        return Owner(*self.kernel.owner, int(self.kernel.started * 1e9))

    def _link(self, run: int) -> RunLink:
        return RunLink(self, run, f"{self._up}/{run}")

    def lookup(self, name: str) -> Node:
        run = self.kernel.runs.find(pid_of(name))
        if run is None or not self._has(run):
            raise self.missing(name)
        return self._link(run.id)

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
            for run in page:
                yield str(run), self._link(run)
            last = page[-1] if page else last

    @property
    def empty(self) -> bool:
        """Whether there is none."""
        return not self._pages(0, 1)

    def has_only(self, run: int) -> bool:
        """Whether this one is the only one."""
        return self._pages(0, 2) == [run]

    # -- news --------------------------------------------------------------------------------------

    def came(self, run: int) -> Change:
        """A run is one of these now."""
        return Created(self.key, str(run), self._link(run))

    def went(self, run: int) -> Change:
        """A run is none of these any more."""
        return Removed(self.key, str(run), self._link(run).key)


class RunLink(Link):
    """A link to a run."""

    def __init__(self, links: DirectoryOf, run: int, target: str) -> None:
        self.key = links.key_of(str(run))
        self._links = links
        self._target = target

    def stat(self) -> Stat:
        owner = self._links.owner()
        return Stat(0o120777, owner.uid, owner.gid, len(self._target), owner.mtime)

    def target(self, caller: Caller) -> str:
        return self._target


def by_state(kernel: Kernel, key: Hashable, up: str, state: str) -> RunLinks:
    """The runs in this state."""
    runs = kernel.runs
    return RunLinks(
        kernel,
        key,
        up,
        lambda after, most: runs.page(after, most, state=state),
        lambda run: run.state.value == state,
    )


def by_pipeline(kernel: Kernel, key: Hashable, up: str, pipeline: str) -> RunLinks:
    """The runs of this pipeline."""
    runs = kernel.runs
    return RunLinks(
        kernel,
        key,
        up,
        lambda after, most: runs.page(after, most, pipeline=pipeline),
        lambda run: run.pipeline == pipeline,
    )


def by_ref(kernel: Kernel, key: Hashable, up: str, ref: str) -> RunLinks:
    """The runs about TYPE/ID."""
    runs = kernel.runs
    return RunLinks(
        kernel,
        key,
        up,
        lambda after, most: runs.page(after, most, ref=ref),
        lambda run: run.ref == ref,
    )


def parts_of(kernel: Kernel, key: Hashable, up: str, parent: int) -> RunLinks:
    """The runs that are parts of this one."""

    def pages(after: int, most: int) -> list[int]:
        return [run for run in kernel.runs.children(parent) if run > after][:most]

    return RunLinks(kernel, key, up, pages, lambda run: run.parent == parent)
