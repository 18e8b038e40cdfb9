"""The process table: every process of the system, found by pid, name, program and parent.

In memory, written through to the store in the same transaction. Fields of a process change here and
nowhere else; the caller knows what a change means.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

from agentfs.base.clock import change_time
from agentfs.base.errors import KernelError
from agentfs.model.principal import INIT
from agentfs.model.process import Process, ProcessKind, Role, State, check_transition
from agentfs.process.events import ChildrenChanged, ProcessReparented, StateChanged
from agentfs.store.ground import Ground
from agentfs.store.records import Records
from agentfs.store.store import PROCESSES

__all__ = ["ProcessTable"]

WORKING = frozenset({State.IDLE, State.RUNNING})
INDEXED = frozenset({"ppid", "name", "state", "ospid", "group"})


class ProcessTable:
    """Loads itself from the store. Look-ups are O(1), children O(children)."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._by_pid = Records(ground.store, PROCESSES, _read, Process.record)
        self._by_pid.follow(self._index, self._unindex, INDEXED)
        self._children: dict[int, dict[int, None]] = {}
        self._live_children: dict[int, int] = {}
        self._alive: dict[str, int] = {}
        self._programs: dict[int, int] = {}
        self._members: dict[str, dict[int, None]] = {}
        self._by_pid.load()
        self.find: Callable[[int], Process | None] = self._by_pid.get
        """The process of a pid. Like the next one it is a dict's own method, as every call asks."""
        self.pid_of: Callable[[str], int | None] = self._alive.get
        """The pid of the living process of an agent."""
        self._last = int(ground.store.meta("last_pid", "0"))
        ground.events.complete_with(self.pid_of, self.name_of)

    # -- look-ups --------------------------------------------------------------------------------

    def get(self, pid: int) -> Process:
        """Raises ESRCH."""
        process = self._by_pid.get(pid)
        if process is None:
            raise KernelError(errno.ESRCH, f"there is no process {pid}")
        return process

    def by_name(self, name: str) -> Process | None:
        """The living process of agent `name`."""
        pid = self._alive.get(name)
        return None if pid is None else self._by_pid[pid]

    def name_of(self, pid: int) -> str | None:
        """The agent of process `pid`."""
        process = self._by_pid.get(pid)
        return None if process is None else process.name

    def by_ospid(self, ospid: int) -> Process | None:
        """The living process whose program the machine knows as `ospid`; compare `os_start` too.

        Never process 1: what descends from the daemon is not thereby `init`.
        """
        pid = self._programs.get(ospid)
        return None if pid is None else self._by_pid[pid]

    def __iter__(self) -> Iterator[Process]:
        """All of them; the table may change meanwhile."""
        return iter(tuple(self._by_pid.values()))

    def __len__(self) -> int:
        return len(self._by_pid)

    def sizes(self) -> dict[str, int]:
        """How many entries each index has, for tests and /sys/stats/system."""
        return {
            "processes": len(self._by_pid),
            "parents": len(self._children),
            "live parents": len(self._live_children),
            "alive": len(self._alive),
            "programs": len(self._programs),
            "groups": len(self._members),
        }

    # -- the tree --------------------------------------------------------------------------------

    def children(self, pid: int) -> list[Process]:
        """By age, ended ones included."""
        return [self._by_pid[child] for child in sorted(self._children.get(pid, ()))]

    def live_children(self, pid: int) -> list[Process]:
        return [child for child in self.children(pid) if child.state.alive]

    def agent_of(self, process: Process) -> Process:
        """The process in whose name `process` acts: itself, or for a run or a step the nearest one
        above it that is an agent's."""
        if process.kind is ProcessKind.AGENT:
            return process
        above = (up for up in self.ancestors(process.pid) if up.kind is ProcessKind.AGENT)
        return next(above, self._by_pid[INIT])

    def accounts(self, process: Process) -> list[Process]:
        """The processes that count what `process` uses: itself, and for a run or a step the runs
        above it and the agent's process that started them. Their limits are for all that is done
        for them, and nobody has more by starting runs. Process 1 counts nothing."""
        found = [process]
        while process.kind is not ProcessKind.AGENT:
            above = self._by_pid.get(process.ppid)
            if above is None or above.pid == INIT:
                break
            found.append(above)
            process = above
        return found

    def count_live_children(self, pid: int) -> int:
        """Those that are agents': runs and steps do not count. O(1), unlike the list of them."""
        return self._live_children.get(pid, 0)

    def members(self, group: str) -> list[Process]:
        """The living processes of a group, not of those below it, by age."""
        return [self._by_pid[pid] for pid in sorted(self._members.get(group, ()))]

    def count_members(self, group: str) -> int:
        """O(1), unlike the list of them."""
        return len(self._members.get(group, ()))

    def orphans(self) -> list[Process]:
        """Those whose parent is not in the table, or has ended; never process 1."""
        found: list[Process] = []
        for pid in self._children:
            parent = self._by_pid.get(pid)
            if parent is None or not parent.state.alive:
                found += self.children(pid)
        return [process for process in found if process.pid != INIT]

    def ancestors(self, pid: int) -> Iterator[Process]:
        """The parent of `pid`, its parent, and so on to process 1."""
        process = self._by_pid.get(pid)
        while process is not None and process.ppid:
            process = self._by_pid.get(process.ppid)
            if process is not None:
                yield process

    def descendants(self, pid: int) -> list[Process]:
        """Everything below `pid`, level by level, so that reversed it is bottom-up."""
        found = self.children(pid)
        for process in found:  # grows while it is walked
            found += self.children(process.pid)
        return found

    # -- changes: inside a transaction, or in one of their own -----------------------------------

    def next_pid(self) -> int:
        """A pid that was never used. One that is not used after all is lost."""
        self._last += 1
        with self._store.transaction():
            self._store.set_meta("last_pid", str(self._last))
        return self._last

    def add(self, process: Process) -> None:
        """Take up a new process. Emits nothing: it may still fail to start."""
        self._touch(process)
        self._by_pid.put(process.pid, process)

    def remove(self, pid: int) -> None:
        """Drop a process. Raises ESRCH."""
        self.get(pid)
        self._by_pid.drop(pid)

    def update(self, process: Process, **fields: Any) -> None:
        """Set `fields` of `process`."""
        changed = change_time(self._clock.now(), process.changed)
        self._by_pid.change(process.pid, changed=changed, **fields)

    def set_state(
        self, process: Process, new: State, *, force: bool = False, **fields: Any
    ) -> None:
        """Make `process` be `new`, and set `fields` with it. Raises EPERM unless the transition
        is legal; `force` is for a program that was found in another state than we knew."""
        if not force:
            check_transition(process.state, new)
        old = process.state
        with self._store.transaction():
            self.update(process, state=new, **fields)
            if old is not new:
                self._events.emit(StateChanged(process.pid, process.name, old.value, new.value))

    def follow(self, pid: int | None, state: State) -> None:
        """Let a state follow what its program was seen to do: between idle and running, as mail
        is claimed and acknowledged. One that is blocked or stopped, or is no more, stays so."""
        process = None if pid is None else self._by_pid.get(pid)
        if process is None or process.state is state:
            return
        if process.state in WORKING and state.alive:
            self.set_state(process, state)

    def move(self, process: Process, parent: int) -> None:
        """Make `process` a child of `parent`, by right or because its own parent ended."""
        old = process.ppid
        with self._store.transaction():
            self.update(process, ppid=parent)
            self._events.emit(ProcessReparented(process.pid, process.name, old, parent))
            if process.kind is not ProcessKind.RUN:
                self.children_changed(old, process.pid, added=False)
                self.children_changed(parent, process.pid, added=True)

    def children_changed(self, pid: int, child: int, *, added: bool) -> None:
        """Say that `pid` gained or lost a child: it shows in its `children` and `status`."""
        parent = self._by_pid.get(pid)
        if parent is not None:
            self._touch(parent)
        self._events.emit(ChildrenChanged(pid, child, added))

    # -- indexes ---------------------------------------------------------------------------------

    def _touch(self, process: Process) -> None:
        """Move `changed` strictly forward: the page cache goes by it."""
        process.changed = change_time(self._clock.now(), process.changed)

    def _index(self, pid: int, process: Process) -> None:
        parent = process.ppid
        self._children.setdefault(parent, {})[pid] = None
        if process.state.alive:
            self._alive[process.name] = pid
            self._members.setdefault(process.group, {})[pid] = None
            if process.kind is ProcessKind.AGENT:
                self._live_children[parent] = self._live_children.get(parent, 0) + 1
            if process.ospid is not None and process.role is not Role.KERNEL:
                self._programs[process.ospid] = pid

    def _unindex(self, pid: int, process: Process) -> None:
        siblings = self._children.get(process.ppid, {})
        siblings.pop(pid, None)
        if not siblings:
            self._children.pop(process.ppid, None)
        if process.state.alive and process.kind is ProcessKind.AGENT:
            self._live_children[process.ppid] -= 1
            if not self._live_children[process.ppid]:
                del self._live_children[process.ppid]
        if self._alive.get(process.name) == pid:
            del self._alive[process.name]
        members = self._members.get(process.group, {})
        members.pop(pid, None)
        if not members:
            self._members.pop(process.group, None)
        if process.ospid is not None and self._programs.get(process.ospid) == pid:
            del self._programs[process.ospid]


def _read(pid: str, record: dict[str, Any]) -> tuple[int, Process]:
    return int(pid), Process.from_record(record)
