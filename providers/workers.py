"""/dev/workers: who does tasks, and what each is capable of.

new             register                 NAME/recv        the next task, and the answer to it
NAME/heartbeat  say that it lives        NAME/tasks       links to what it has
"""

from __future__ import annotations

import errno
import json
import stat as st
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.providers.maildir import Mailroom
from agentfs.providers.number_links import NumberLinks
from agentfs.providers.queue_folders import each
from agentfs.providers.recv import Recv
from agentfs.providers.start_request import json_value
from agentfs.providers.system_table import SystemTable
from agentfs.providers.task_request import read_answer, read_worker
from agentfs.rights.ownership import Access
from agentfs.tasks.events import (
    TaskAssigned,
    TaskCancelled,
    TaskCompleted,
    TaskDead,
    TaskFailed,
    TaskReturned,
    WorkerChanged,
    WorkerLost,
    WorkerRecovered,
    WorkerRegistered,
    WorkerRemoved,
)
from agentfs.tasks.model import TaskWorker, WorkerKind
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import control, directory, live, message, stream, transaction, value
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.handles import MAX_CONTROL, WHOLE_WRITE, as_text
from agentfs.vfs.node import Attributes, Directory, Node, Stat, StreamHandle, Time
from agentfs.vfs.on import on
from agentfs.vfs.table import Entry, Table

if TYPE_CHECKING:
    from agentfs.kernel import Kernel
    from agentfs.providers.dev import DevDirectory

__all__ = ["WorkersDirectory"]

DONE = (TaskCompleted, TaskFailed, TaskCancelled, TaskDead, TaskReturned)
"""After these a worker has one task less, if it had it."""


class WorkerRoom(Mailroom):
    """The mailbox of a worker."""

    def __init__(self, kernel: Kernel, worker: TaskWorker, key: Hashable) -> None:
        self.worker = worker
        super().__init__(kernel, worker.mailbox, key)

    def require_alive(self) -> None:
        if self.worker.removed:
            raise KernelError(errno.ENOENT, f"{self.worker} was removed")


class TaskRecv(Recv):
    """An open `recv` of a worker: the next task, and what is written is the answer to it: a line of
    JSON; or a word, as of any other message."""

    def _waits(self) -> Callable[[], None]:
        return self._begin_wait("work", f"of worker {self._name.partition('/')[2]}")

    def try_write(self, data: bytes) -> int | None:
        text = as_text(data)
        if not text.lstrip().startswith("{"):
            return super().try_write(data)
        tasks, worker = self._room.kernel.tasks, self._name.partition("/")[2]
        for line in filter(str.strip, text.splitlines()):
            tasks.answer(self._principal, worker, read_answer(line))
        self._base += len(data)
        return len(data)


class WorkerDirectory(Table):
    """/dev/workers/NAME: a worker. Its mode says who may take its tasks (r), beside its owner.
    `rmdir` removes it; its tasks go to others."""

    PATH = "/dev/workers/NAME"
    mode = 0o755

    def __init__(self, workers: WorkersDirectory, worker: TaskWorker) -> None:
        self._workers = workers
        self._worker = worker
        self.kernel = workers.kernel
        self.key = self.at(worker.name)

    @staticmethod
    def at(name: str) -> Hashable:
        """The key of the directory of a worker."""
        return ("worker", name)

    def owner(self) -> Owner:
        who = self._worker.ownership
        return Owner(who.uid, who.gid, self._worker.changed)

    def stat(self) -> Stat:
        found = super().stat()
        found.mode = st.S_IFDIR | 0o555 | 0o200
        return found

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        super().chattr(caller, replace(wanted, mode=None))
        if wanted.mode is not None:
            self.kernel.workers.chmod(caller.principal, self._worker.name, wanted.mode)

    def exists(self, entry: Entry) -> bool:
        if entry.name == "recv":
            return self._worker.kind is WorkerKind.PROGRAM
        return super().exists(entry)

    def node(self, entry: Entry) -> Node:
        made = super().node(entry)
        if entry.name == "recv":
            setattr(made, "mode", each(self._worker.ownership.mode, 0o4, 0o6))  # noqa: B010
        return made

    @live("status", example="Name:\tw1\nKind:\tprogram\nState:\tactive\nTasks:\t1\n…")
    def status(self) -> str:
        """Name, Kind (agent, program, pool), Agent, Pool, Owner, Mode, State (active, or lost: it
        gets nothing), Heartbeat (the last sign of life), Tasks (how many it has), Capacity (how
        many it may have)."""
        worker = self._worker
        return fields(
            ("Name", worker.name),
            ("Kind", worker.kind.value),
            ("Agent", worker.agent),
            ("Pool", worker.pool),
            ("Owner", worker.ownership.owner),
            ("Mode", f"{worker.ownership.mode:04o}"),
            ("State", worker.state.value),
            ("Heartbeat", rfc3339(worker.heartbeat)),
            ("Tasks", len(self._tasks())),
            ("Capacity", worker.capacity),
        )

    @value("state", on=(WorkerLost, WorkerRecovered), example="active")
    def state(self) -> str:
        """active, or lost: nothing was heard of it, or its process has ended."""
        return self._worker.state.value

    @live("info", example='{"name": "w1", "kind": "program", "state": "active", …}')
    def info(self) -> str:
        """The same as one JSON object, with `capabilities`, and `tasks` as a list of numbers."""
        worker = self._worker
        return json.dumps(
            {
                "name": worker.name,
                "kind": worker.kind.value,
                "agent": worker.agent or None,
                "pool": worker.pool or None,
                "owner": worker.ownership.owner,
                "mode": f"{worker.ownership.mode:04o}",
                "state": worker.state.value,
                "heartbeat": rfc3339(worker.heartbeat),
                "tasks": self._tasks(),
                "capacity": worker.capacity,
                "capabilities": worker.capabilities,
            },
            ensure_ascii=False,
        )

    def _tasks(self) -> list[int]:
        return sorted(self.kernel.tasks.table.by_worker.of(self._worker.name))

    @value(
        "capabilities",
        0o644,
        write="set_capabilities",
        on=(WorkerChanged,),
        example='{"gpu": true, "cpu": "high", "memory": 8}',
        errors={"EINVAL": "no JSON object, or not such values", "EPERM": "it is not yours"},
    )
    def capabilities(self) -> str:
        """What it is capable of, as JSON: numbers, texts, true or false, and lists of them."""
        return json.dumps(self._worker.capabilities, ensure_ascii=False)

    async def set_capabilities(self, text: str, caller: Caller) -> None:
        self.kernel.workers.change(
            caller.principal, self._worker.name, capabilities=await json_value(text)
        )

    @message(
        "heartbeat",
        0o222,
        limit="heartbeat_limit",
        example="alive",
        errors={"EACCES": "it is not yours", "ENOENT": "it was removed"},
    )
    async def heartbeat(self, content: bytes, caller: Caller) -> None:
        """Write anything to say that it lives; one that is lost gets tasks again by that. A program
        from outside beats at least every `tasks.heartbeat_timeout` (120 s), unless it waits in
        `recv`; of one that is an agent's the kernel knows that it lives."""
        self.kernel.workers.heartbeat(caller.principal, self._worker.name)

    def heartbeat_limit(self) -> int:
        return MAX_CONTROL

    @stream(
        "recv",
        0o666,
        known_as="mailbox",
        on=(WorkerChanged,),
        errors={
            "EACCES": "it is not yours",
            "EAGAIN": "O_NONBLOCK, and no task waits",
            "EINVAL": "written: no such answer",
            "ESTALE": "written: that attempt is over; or the worker was removed",
        },
    )
    def recv(self, caller: Caller) -> StreamHandle:
        """The next task: a message of Type `assigned-task` with one line of JSON: task, attempt,
        description, input, requirements, priority, key, deadline. It is being done from then on,
        and comes back if its reader dies. The answer is written to the same handle, a line of JSON:
        `{task, attempt, ok: RESULT}`, `{task, attempt, error: WORDS, again: true}` (another worker
        may try), `{task, attempt, progress: WORDS}`; or to /dev/tasks/ID/result. To ask for the
        next one without an answer is to fail it. A message of Type `cancelled-task` says that
        nobody wants a task any more."""
        room = self._workers.room(self._worker)
        self._worker.ownership.require(caller.principal, Access.TAKE, str(self._worker))
        return TaskRecv(room, caller)

    @directory("tasks", 0o555)
    def tasks(self) -> Directory:
        """Links to the tasks that it has."""
        return self._links()

    def _links(self) -> WorkerTasks:
        def pages(after: int, most: int) -> list[int]:
            return [task for task in self._tasks() if task > after][:most]

        key = self.key_of("tasks")
        return WorkerTasks(self.kernel, key, "../../../tasks", pages, lambda n: n in self._tasks())

    @control(
        "ctl",
        0o222,
        example="capacity 8",
        errors={"EINVAL": "another word, or no number", "EPERM": "it is not yours"},
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: `capacity N` (so many tasks at a time), `remove`."""
        workers, name = self.kernel.workers, self._worker.name
        match command.split():
            case ["capacity", number] if number.isascii() and number.isdigit() and len(number) < 6:
                workers.change(caller.principal, name, capacity=int(number))
            case ["remove"]:
                workers.remove(caller.principal, name)
            case _:
                raise KernelError(errno.EINVAL, f"capacity N or remove, not {command[:100]!r}")

    @on(TaskAssigned)
    def _came(self, event: TaskAssigned) -> Iterator[Change]:
        yield self._links().came(event.task)

    @on(*DONE)
    def _went(self, event: Any) -> Iterator[Change]:
        yield self._links().went(event.task)


class WorkerTasks(NumberLinks):
    """The tasks of a worker."""

    PATH = "/dev/workers/NAME/tasks"


class WorkersDirectory(SystemTable):
    """/dev/workers: a directory for each worker. `rmdir` removes one; its tasks go to others."""

    PATH = "/dev/workers"
    WHAT = "Who does tasks: a directory for each worker."
    EACH = WorkerDirectory
    key = ("dev", "workers")
    mode = 0o777

    def __init__(self, above: DevDirectory) -> None:
        super().__init__(above)
        self._rooms: dict[str, WorkerRoom] = {}

    def changed(self) -> Time:
        return self.kernel.workers.changed

    @transaction(
        "new",
        0o666,
        limit="new_limit",
        example='{"name": "w1", "capabilities": {"cpu": "high", "memory": 8}}',
        errors={
            "EINVAL": "a field that is not one of these, or not what it has to be",
            "EEXIST": "there is a worker of that name that is not yours",
            "ENOENT": "there is no such agent, or pool",
            "EPERM": "only the operator registers others than itself",
            "ENOSPC": "workers.max_workers are registered",
        },
    )
    async def new(self, request: bytes, caller: Caller) -> str:
        """Register: write its name, or YAML or JSON with name, capabilities, capacity (tasks at a
        time; 4), and `agent` (its tasks come to that inbox) or `pool` (they are steps of workflow
        workers; `fn` of the requirements, or the capabilities, names the function); without these
        it is a program that reads `recv`. on_cancel (of an agent: `stop` ends its program), mode
        (who else may take its tasks). The reply is its name."""
        return (
            f"{self.kernel.workers.register(caller.principal, await read_worker(request)).name}\n"
        )

    def new_limit(self) -> int:
        return WHOLE_WRITE

    def room(self, worker: TaskWorker) -> WorkerRoom:
        """The mailbox of a worker, for its files."""
        found = self._rooms.get(worker.name)
        if found is None or found.worker is not worker:
            found = WorkerRoom(self.kernel, worker, WorkerDirectory.at(worker.name))
            self._rooms[worker.name] = found
        return found

    def find(self, name: str) -> Node | None:
        worker = self.kernel.workers.find(name)
        return None if worker is None else WorkerDirectory(self, worker)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.workers:
            worker = self.kernel.workers.find(name)
            if worker is not None:
                yield name, WorkerDirectory(self, worker)

    def rmdir(self, name: str, caller: Caller) -> None:
        self.kernel.workers.remove(caller.principal, name)

    def each(self, key: Any) -> WorkerDirectory:
        worker = self.kernel.workers.find(key[1])
        assert worker is not None
        return WorkerDirectory(self, worker)

    def concerned(self, event: Any) -> Sequence[Hashable]:
        found = self.kernel.workers.find(event.worker)
        return () if found is None else (WorkerDirectory.at(found.name),)

    @on(WorkerRegistered)
    def _registered(self, event: WorkerRegistered) -> Iterator[Change]:
        worker = self.kernel.workers.find(event.worker)
        if worker is not None:
            yield Created(self.key, event.worker, WorkerDirectory(self, worker))

    @on(WorkerRemoved)
    def _removed(self, event: WorkerRemoved) -> Iterator[Change]:
        self._rooms.pop(event.worker, None)
        yield Removed(self.key, event.worker, WorkerDirectory.at(event.worker), is_directory=True)

    @on(WorkerChanged)
    def _changed(self, event: WorkerChanged) -> Iterator[Change]:
        yield Modified(WorkerDirectory.at(event.worker))
