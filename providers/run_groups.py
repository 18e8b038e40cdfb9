"""/proc/runs/by-state, by-pipeline and by-ref: the runs as links, in a directory for each state,
pipeline, and thing that they are about."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from agentfs.providers.run_links import RunLinks, by_pipeline, by_ref, by_state
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Node
from agentfs.vfs.on import on
from agentfs.vfs.table import DirectoryOf, key_in
from agentfs.workflow.events import RunEnded, RunRemoved, RunStarted, RunStateChanged
from agentfs.workflow.model import RunState

if TYPE_CHECKING:
    from agentfs.providers.runs import RunsDirectory
    from agentfs.workflow.runs import Runs

__all__ = ["ByPipelineDirectory", "ByRefDirectory", "ByStateDirectory"]


BEHIND_SLASH = chr(ord("/") + 1)
"""TYPE and this comes, in order, behind TYPE/ID for all ids."""


class _Groups(DirectoryOf):
    """A directory of directories of links."""

    restless = True
    stepwise = True

    def __init__(self, runs: RunsDirectory) -> None:
        self.kernel = runs.kernel
        self.key = runs.key_of(self.name_in_tree())

    def owner(self) -> Owner:
        return Owner(*self.kernel.owner, int(self.kernel.started * 1e9))

    def names_now(self, caller: Caller) -> Iterator[str]:
        return (name for name, _ in self.entries())


def _all(runs: Runs, which: str, after: str = "", at_once: int = 256) -> Iterator[str]:
    """Every pipeline, or thing, that there are runs of, after one of them, read on as needed."""
    page = runs.groups(which, after, at_once)
    while page:
        yield from page
        page = runs.groups(which, page[-1], at_once)


class ByStateDirectory(_Groups):
    """/proc/runs/by-state: a directory for each state, with links to the runs that are in it."""

    PATH = "/proc/runs/by-state"
    WHAT = "The runs by their state."

    def _of(self, state: str) -> RunLinks:
        return by_state(self.kernel, self.key_of(state), "../..", state)

    def lookup(self, name: str) -> Node:
        if name not in {state.value for state in RunState}:
            raise self.missing(name)
        return self._of(name)

    def entries(self) -> Iterator[tuple[str, Node]]:
        for state in RunState:
            yield state.value, self._of(state.value)

    @on(RunStarted)
    def _started(self, event: RunStarted) -> Iterator[Change]:
        run = self.kernel.runs.find(event.run)
        if run is not None:  # it may have gone on by now: other events say so
            at_once = run.started == run.created
            yield self._of("running" if at_once else "queued").came(event.run)

    @on(RunStateChanged, RunEnded)
    def _moved(self, event: RunStateChanged | RunEnded) -> Iterator[Change]:
        new = event.new if isinstance(event, RunStateChanged) else event.state
        if event.old != new:
            yield self._of(event.old).went(event.run)
            yield self._of(new).came(event.run)

    @on(RunRemoved)
    def _removed(self, event: RunRemoved) -> Iterator[Change]:
        yield self._of(event.state).went(event.run)


class ByPipelineDirectory(_Groups):
    """/proc/runs/by-pipeline: a directory for each pipeline that has runs, with links to them."""

    PATH = "/proc/runs/by-pipeline"
    WHAT = "The runs by their pipeline."

    def _of(self, pipeline: str) -> RunLinks:
        return by_pipeline(self.kernel, self.key_of(pipeline), "../..", pipeline)

    def lookup(self, name: str) -> Node:
        found = self._of(name)
        if found.empty:
            raise self.missing(name)
        return found

    def glance(self, name: str) -> Node:
        return self._of(name)

    def entries(self) -> Iterator[tuple[str, Node]]:
        # One at a time: the index is asked for the next one, and not read through all its runs.
        for pipeline in _all(self.kernel.runs, "pipeline", at_once=1):
            yield pipeline, self._of(pipeline)

    @on(RunStarted)
    def _started(self, event: RunStarted) -> Iterator[Change]:
        links = self._of(event.pipeline)
        if links.has_only(event.run):
            yield Created(self.key, event.pipeline, links)
        yield links.came(event.run)

    @on(RunRemoved)
    def _removed(self, event: RunRemoved) -> Iterator[Change]:
        links = self._of(event.pipeline)
        yield links.went(event.run)
        if links.empty:
            yield Removed(self.key, event.pipeline, links.key, is_directory=True)


class ByRefDirectory(_Groups):
    """/proc/runs/by-ref: TYPE/ID of each thing that runs are about, with links to them."""

    PATH = "/proc/runs/by-ref"
    WHAT = "The runs by the thing that they are about."

    def of_type(self, kind: str) -> RefTypeDirectory:
        """The things of one type."""
        return RefTypeDirectory(self, kind)

    def lookup(self, name: str) -> Node:
        found = self.of_type(name)
        if next(found.entries(), None) is None:
            raise self.missing(name)
        return found

    def glance(self, name: str) -> Node:
        return self.of_type(name)

    def entries(self) -> Iterator[tuple[str, Node]]:
        found = self.kernel.runs.groups("ref", "", 1)
        while found:
            kind = found[0].partition("/")[0]
            yield kind, self.of_type(kind)
            found = self.kernel.runs.groups("ref", f"{kind}{BEHIND_SLASH}", 1)

    def _links(self, ref: str) -> tuple[RefTypeDirectory, str, RunLinks]:
        kind, _, number = ref.partition("/")
        directory = self.of_type(kind)
        return directory, number, directory.links(number)

    @on(RunStarted)
    def _started(self, event: RunStarted) -> Iterator[Change]:
        if event.ref:
            directory, number, links = self._links(event.ref)
            if links.has_only(event.run):
                yield Created(directory.key, number, links)
            yield links.came(event.run)

    @on(RunRemoved)
    def _removed(self, event: RunRemoved) -> Iterator[Change]:
        if event.ref:
            directory, number, links = self._links(event.ref)
            yield links.went(event.run)
            if links.empty:
                yield Removed(directory.key, number, links.key, is_directory=True)


class RefTypeDirectory(DirectoryOf):
    """/proc/runs/by-ref/TYPE: the things of one type that runs are about."""

    PATH = "/proc/runs/by-ref/TYPE"
    restless = True
    stepwise = True

    def __init__(self, above: ByRefDirectory, kind: str) -> None:
        self.kernel = above.kernel
        self.key: Hashable = key_in(above.key, kind)
        self._above = above
        self._kind = kind

    def owner(self) -> Owner:
        return self._above.owner()

    def links(self, number: str) -> RunLinks:
        """The runs about one thing."""
        return by_ref(self.kernel, self.key_of(number), "../../..", f"{self._kind}/{number}")

    def lookup(self, name: str) -> Node:
        found = self.links(name)
        if found.empty:
            raise self.missing(name)
        return found

    def glance(self, name: str) -> Node:
        return self.links(name)

    def names_now(self, caller: Caller) -> Iterator[str]:
        return (name for name, _ in self.entries())

    def entries(self) -> Iterator[tuple[str, Node]]:
        prefix = f"{self._kind}/"
        for ref in _all(self.kernel.runs, "ref", prefix):
            if not ref.startswith(prefix):
                return
            number = ref.removeprefix(prefix)
            if "/" not in number:  # such an id is no file name
                yield number, self.links(number)
