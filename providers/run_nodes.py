"""/proc/runs/ID/nodes: the nodes of a run, and the iterations of those that repeat others.

A node is found by its path in the run: `fetch`, or `loop/3/fetch` for the node `fetch` in iteration
3 of `loop`, which is nodes/loop/items/3/fetch in the tree.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.process.step_files import step_files
from agentfs.providers.described import Described
from agentfs.providers.log import LogHandle
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import directory, file, value
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.node import Directory, File, Handle, Node, Stat, is_writing
from agentfs.vfs.table import DirectoryOf, Entry, key_in
from agentfs.workflow.model import NodeRow

if TYPE_CHECKING:
    from agentfs.manifests.plan import Graph, PlanNode
    from agentfs.providers.runs import RunDirectory

__all__ = ["NodesDirectory", "RunNodeDirectory"]

CHANGING = ("state", "status", "attempt", "input", "output", "error")
"""The files of a node that its changes of state change."""


class NodesDirectory(DirectoryOf):
    """/proc/runs/ID/nodes: a directory for each node of the plan, begun or not. Those of one
    iteration, nodes/N/items/I, are the same."""

    PATH = "/proc/runs/ID/nodes"
    mode = 0o555

    def __init__(
        self, run: RunDirectory, key: Hashable, prefix: str, graphs: tuple[Graph, ...]
    ) -> None:
        self.run = run
        self.key = key
        self._prefix = prefix
        self._graphs = graphs

    def owner(self) -> Owner:
        return self.run.owner()

    def guard(self, caller: Caller) -> None:
        self.run.guard(caller)

    def _node(self, node: PlanNode) -> RunNodeDirectory:
        return RunNodeDirectory(self.run, f"{self._prefix}{node.name}", node)

    def lookup(self, name: str) -> Node:
        for graph in self._graphs:
            found = graph.by_name.get(name)
            if found is not None:
                return self._node(found)
        raise self.missing(name)

    def entries(self) -> Iterator[tuple[str, Node]]:
        seen: set[str] = set()
        for graph in self._graphs:
            for node in graph.nodes:
                if node.name not in seen:  # two branches may have one of the same name
                    seen.add(node.name)
                    yield node.name, self._node(node)


class RunNodeDirectory(Described):
    """/proc/runs/ID/nodes/N: one node of a run."""

    PATH = "/proc/runs/ID/nodes/N"
    mode = 0o555

    def __init__(self, run: RunDirectory, path: str, node: PlanNode) -> None:
        self.run = run
        self.path = path
        self.kernel = run.kernel
        self._node = node
        self.key = self.at(run.id, path)

    @staticmethod
    def at(run: int, path: str) -> Hashable:
        """The key of the directory of a node."""
        return ("run node", run, path)

    @staticmethod
    def keys_changed(run: int, path: str) -> Iterator[Hashable]:
        """The keys of what changes when the node changes its state."""
        node = RunNodeDirectory.at(run, path)
        yield node
        yield from (key_in(node, name) for name in CHANGING)

    @property
    def row(self) -> NodeRow:
        """How it stands; one that has not begun has no row in the journal."""
        found = self.kernel.runs.node(self.run.id, self.path)
        return NodeRow(self.run.id, self.path) if found is None else found

    def owner(self) -> Owner:
        owner = self.run.owner()
        row = self.row
        changed = max(row.began, row.ended, self.run.run.created)
        return Owner(owner.uid, owner.gid, int(changed * 1e9))

    def guard(self, caller: Caller) -> None:
        self.run.guard(caller)

    def exists(self, entry: Entry) -> bool:
        if entry.name == "items":
            return bool(self._node.bodies)
        return super().exists(entry)

    # -- what it says of itself --------------------------------------------------------------------

    def entity_type(self) -> str:
        return "node"

    def status(self) -> str:
        return self.row.state.value

    def tags(self) -> dict[str, str]:
        return {"kind": self._node.kind, "run": str(self.run.id)}

    @value("state", polled=True, example="running")
    def state(self) -> str:
        """pending, running, waiting (for somebody's answer), backoff (until the next attempt);
        completed, failed, skipped, cancelled."""
        return self.row.state.value

    @value("status", example="Name:\tfetch\nKind:\tprogram\nState:\trunning\nAttempt:\t1\n…\n")
    def status_file(self) -> str:
        """Name, Kind, State, Attempt, Attempts (at most), Began, Ended, Due (when it goes on by
        itself), Deadline (of this attempt), Waits (the key of the signal), Reason (of a skip)."""
        row = self.row
        return fields(
            ("Name", self._node.name),
            ("Kind", self._node.kind),
            ("State", row.state.value),
            ("Attempt", row.attempt),
            ("Attempts", self._node.retry.attempts),
            *(
                (name, rfc3339(when) if when else "")
                for name, when in (
                    ("Began", row.began),
                    ("Ended", row.ended),
                    ("Due", row.due),
                    ("Deadline", row.deadline),
                )
            ),
            ("Waits", row.wait),
            ("Reason", row.reason),
        )

    @value("attempt", example="1")
    def attempt(self) -> str:
        """The number of the attempt, from 1; 0 if none has begun."""
        return str(self.row.attempt)

    @value("input", example='{"city": "Paris"}')
    def input(self) -> str:
        """What it was given, as JSON; empty before it begins."""
        return self.kernel.runs.node_input(self.run.id, self.path)

    @value("output", example='{"temperature": 21}')
    def output(self) -> str:
        """What it gave, as JSON; empty if it has not completed. More than 64 KiB are a file:
        `{"$artifact": NAME, "size": …, "sha256": …}`."""
        return self.kernel.runs.node_output(self.run.id, self.path)

    @value("error", example="timeout: the program ran for 60 s")
    def error(self) -> str:
        """Why the last attempt failed; empty if none did."""
        row = self.row
        return f"{row.kind}: {row.error}" if row.error and row.kind else row.error

    @file("log", 0o444)
    def log(self) -> Node:
        """What the program of the last attempt wrote to its standard error. Empty for nodes that
        are no programs."""
        return StepLogFile(self)

    @directory("items", 0o555)
    def items(self) -> Directory:
        """Where a node repeats others, or chooses: a directory for each iteration that has begun,
        with its nodes."""
        return ItemsDirectory(self, tuple(graph for _, graph in self._node.bodies))


class ItemsDirectory(DirectoryOf):
    """/proc/runs/ID/nodes/N/items: the iterations that have begun, by number from 0. The one
    iteration of an `if` or a `switch` is 0."""

    PATH = "/proc/runs/ID/nodes/N/items"
    mode = 0o555
    restless = True
    stepwise = True

    def __init__(self, node: RunNodeDirectory, graphs: tuple[Graph, ...]) -> None:
        self.key = node.key_of("items")
        self._node = node
        self._graphs = graphs

    def owner(self) -> Owner:
        return self._node.owner()

    def guard(self, caller: Caller) -> None:
        self._node.guard(caller)

    def _iteration(self, number: int) -> NodesDirectory:
        prefix = f"{self._node.path}/{number}/"
        return NodesDirectory(self._node.run, self.key_of(str(number)), prefix, self._graphs)

    def _begun(self) -> list[int]:
        return self._node.kernel.runs.iterations(self._node.run.id, self._node.path)

    def lookup(self, name: str) -> Node:
        plain = name.isascii() and name.isdigit() and str(int(name[:9])) == name
        node = self._node
        if not plain or node.kernel.runs.node(node.run.id, f"{node.path}/{name}") is None:
            raise self.missing(name)
        return self._iteration(int(name))

    def glance(self, name: str) -> Node:
        return self._iteration(int(name))

    def names_now(self, caller: Caller) -> Iterator[str]:
        return map(str, self._begun())

    def entries(self) -> Iterator[tuple[str, Node]]:
        for number in self._begun():
            yield str(number), self._iteration(number)


class StepLogFile(File):
    """/proc/runs/ID/nodes/N/log: a real file that the program writes, behind the tree's back."""

    timeout = 0.0

    def __init__(self, node: RunNodeDirectory) -> None:
        self.key = node.key_of("log")
        self._node = node

    def _path(self) -> str:
        node = self._node
        files = step_files(node.kernel.state_dir, node.run.id, node.path, node.row.attempt)
        return os.fspath(files.log)

    def stat(self) -> Stat:
        owner = self._node.owner()
        size, time = 0, owner.mtime
        try:
            found = os.stat(self._path())
            size, time = found.st_size, found.st_mtime_ns
        except FileNotFoundError:
            pass  # it is no program, or it has not begun
        return Stat(0o100444, owner.uid, owner.gid, size, time, 1, time, time)

    def enter(self, caller: Caller) -> None:
        self._node.guard(caller)

    def open(self, flags: int, caller: Caller) -> Handle:
        if is_writing(flags) or flags & os.O_TRUNC:
            raise KernelError(errno.EACCES, "the log is written by the node's program only")
        return LogHandle(self._path(), caller.descriptor())
