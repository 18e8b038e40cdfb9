"""/dev/tasks: work that is to be done, by its number, and what became of it.

new        write a task, read its number       query      look for some
ID/wait    how it ended                        by-state   links, by the state
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.base.yaml_document import near
from agentfs.model.moment import count, moment
from agentfs.providers.children import pid_of
from agentfs.providers.described import Described
from agentfs.providers.ends import EndStream, Readers
from agentfs.providers.number_links import PAGE, NumberLinks
from agentfs.providers.start_request import json_value
from agentfs.providers.system_table import SystemTable
from agentfs.providers.task_request import read_task
from agentfs.tasks.events import (
    TaskAssigned,
    TaskCancelled,
    TaskChanged,
    TaskCompleted,
    TaskDead,
    TaskFailed,
    TaskProgressed,
    TaskRejected,
    TaskRemoved,
    TaskReturned,
    TaskStarted,
    TaskSubmitted,
    TaskValidated,
)
from agentfs.tasks.model import Task, TaskState
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.declare import control, document, live, stream, transaction, value
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.handles import WHOLE_WRITE, as_text
from agentfs.vfs.node import Node, StreamHandle
from agentfs.vfs.on import on
from agentfs.vfs.table import DirectoryOf

if TYPE_CHECKING:
    from agentfs.kernel import Kernel
    from agentfs.providers.dev import DevDirectory

__all__ = ["TasksByStateDirectory", "TasksDirectory", "task_info"]

ENDED = (TaskCompleted, TaskFailed, TaskRejected, TaskCancelled, TaskDead)
MOVED = (TaskSubmitted, TaskValidated, TaskAssigned, TaskStarted, TaskReturned, *ENDED)
"""The events that change the state of a task, the last ones for good."""

TOLD = (*MOVED, TaskProgressed, TaskChanged)
"""The events that change what is told of a task."""

JUDGED = (TaskValidated, TaskRejected, TaskChanged, TaskCompleted, TaskFailed)
"""The events that may come with a verdict."""

STATES = {
    TaskSubmitted: TaskState.PENDING,
    TaskValidated: TaskState.VALIDATED,
    TaskAssigned: TaskState.ASSIGNED,
    TaskStarted: TaskState.RUNNING,
    TaskReturned: TaskState.VALIDATED,
    TaskCompleted: TaskState.COMPLETED,
    TaskFailed: TaskState.FAILED,
    TaskRejected: TaskState.REJECTED,
    TaskCancelled: TaskState.CANCELLED,
    TaskDead: TaskState.DEAD,
}
"""The state of a task after an event."""

ASKED = ("state", "submitter", "worker", "group", "since", "limit")
LIMIT, MAX_LIMIT = 50, 1000
"""What a query can ask for, and how many tasks it is answered with."""

ANSWER_ERRORS = {
    "EACCES": "written: the task is not yours to answer",
    "ESTALE": "written: that attempt is over, or the task has ended",
    "EFBIG": "written: more than a megabyte",
    "EMSGSIZE": "written: more than tasks.max_result",
}


class TaskDirectory(Described):
    """/dev/tasks/ID: a task: what is to be done, how it goes, how it ended. It may be read by
    whoever may read the process of its submitter, and by its worker. A task that ended is kept for
    `tasks.retention` (7 days)."""

    PATH = "/dev/tasks/ID"
    mode = 0o555

    def __init__(self, tasks: TasksDirectory, number: int) -> None:
        self.all = tasks
        self.kernel = tasks.kernel
        self.id = number
        self.key = self.at(number)

    @staticmethod
    def at(task: int) -> Hashable:
        """The key of the directory of a task."""
        return ("task", task)

    @property
    def task(self) -> Task:
        """The task as it is now. ESTALE once it is forgotten."""
        found = self.kernel.tasks.find(self.id)
        if found is None:
            raise KernelError(errno.ESTALE, f"task {self.id} is forgotten")
        return found

    def owner(self) -> Owner:
        task = self.task
        agent = self.kernel.agents.find(task.submitter)
        gid = self.kernel.owner[1] if agent is None else agent.gid
        return Owner(task.uid, gid, int(task.changed * 1e9))

    def guard(self, caller: Caller) -> None:
        self.kernel.tasks.require_read(caller.principal, self.task)

    # -- what it says of itself --------------------------------------------------------------------

    def entity_type(self) -> str:
        return "task"

    def description(self) -> str:
        return " ".join(self.task.description.split())[:200]

    def status(self) -> str:
        return self.task.state.value

    def operations(self) -> tuple[str, ...]:
        return ("read",) if self.task.state.final else ("read", "write", "watch")

    def tags(self) -> dict[str, str]:
        task = self.task
        return {"submitter": task.submitter, "worker": task.worker, "group": task.group}

    @value("state", on=MOVED, example="running")
    def state(self) -> str:
        """pending (the guardian has not said yet), validated (it waits for a worker), assigned,
        running; completed, failed, rejected, cancelled, dead."""
        return self.task.state.value

    @live("status", example="Id:\t7\nState:\trunning\nPriority:\t5\nWorker:\tw1\n…")
    def status_file(self) -> str:
        """Id, State, Description (its first line), Priority, Submitter, Worker, Attempt,
        Max-Attempts (so many lost ones make it dead), Timeout (of an attempt, in seconds), Key,
        Group, Created, Changed, Reason (why it waits, is rejected, came back), Error."""
        task = self.task
        return fields(
            ("Id", task.id),
            ("State", task.state.value),
            ("Description", next(iter(task.description.splitlines()), "")),
            ("Priority", task.priority),
            ("Submitter", task.submitter),
            ("Worker", task.worker),
            ("Attempt", task.attempt),
            ("Max-Attempts", task.max_attempts),
            ("Timeout", "" if task.timeout is None else f"{task.timeout:g}"),
            ("Key", task.key),
            ("Group", task.group),
            ("Created", rfc3339(task.created)),
            ("Changed", rfc3339(task.changed)),
            ("Reason", self.kernel.tasks.reason(task)),
            ("Error", task.error),
        )

    @live("info", example='{"id": 7, "description": "sum up", "state": "running", …}')
    def info(self) -> str:
        """Everything but input, result and history as one JSON object. Times RFC 3339, timeout in
        seconds; null is no value."""
        return task_info(self.kernel, self.task)

    @live("reason", example="needs gpu: no worker has it")
    def reason(self) -> str:
        """Why it waits, is rejected, was cancelled, or came back; empty if there is nothing to
        say."""
        return self.kernel.tasks.reason(self.task)

    @value("description", example="sum up report.txt")
    def description_file(self) -> str:
        """What is to be done, in words."""
        return self.task.description

    @value("input", example='{"file": "report.txt"}')
    def input(self) -> str:
        """What it is to be done with, as JSON."""
        return self.kernel.tasks.input_of(self.task)

    @value("requirements", example='{"gpu": true, "cpu": "high"}')
    def requirements(self) -> str:
        """What its worker has to be capable of, as JSON: of a number as much or more, of low,
        medium and high that or more, of a list all of it, and else the same."""
        return json.dumps(self.task.requirements, ensure_ascii=False)

    @value(
        "priority",
        0o666,
        write="set_priority",
        on=(TaskChanged,),
        example="5",
        errors={"EINVAL": "no number from 0 to 9", "EPERM": "it is not yours, or it has ended"},
    )
    def priority(self) -> str:
        """0 to 9; 9 is done first, and of the same the older one. Its submitter may change it."""
        return str(self.task.priority)

    async def set_priority(self, text: str, caller: Caller) -> None:
        number = int(text) if text.isascii() and text.isdigit() and len(text) == 1 else -1
        if number < 0:
            raise KernelError(
                errno.EINVAL, f"a priority from 0 to 9 was expected, not {text!r:.80}"
            )
        self.kernel.tasks.set_priority(caller.principal, self.id, number)

    @value("worker", on=(TaskAssigned,), example="w1")
    def worker(self) -> str:
        """The worker that has it, or had it last."""
        return self.task.worker

    @value("attempt", on=(TaskAssigned,), example="1")
    def attempt(self) -> str:
        """How many workers have got it so far; 0 before the first."""
        return str(self.task.attempt)

    @value("verdict", on=JUDGED, example='{"when": "submit", "passed": true, "by": "default", …}')
    def verdict(self) -> str:
        """What the guardian said last, as JSON: passed, by (the rule, and who decided), reason."""
        verdict = self.task.verdict
        return "" if verdict is None else json.dumps(verdict, ensure_ascii=False)

    @document(
        "result",
        0o666,
        write="complete",
        check="may_answer",
        on=(TaskCompleted, TaskChanged),
        example='{"words": 7}',
        errors=ANSWER_ERRORS,
    )
    def result(self) -> str:
        """What it gave: a JSON value, or a text. Its worker writes it, and the task is
        completed."""
        result = self.kernel.tasks.result_of(self.task)
        return str(json.loads(result)) if result.startswith('"') else result

    async def complete(self, content: bytes, caller: Caller) -> None:
        self.kernel.tasks.complete(caller.principal, self.id, await _result(content))

    @document(
        "error",
        0o666,
        write="fail",
        check="may_answer",
        on=(TaskFailed, TaskAssigned),
        example="the file is empty",
        errors=ANSWER_ERRORS,
    )
    def error(self) -> str:
        """Why it has failed. Its worker writes it, and the task has failed for good."""
        return self.task.error

    async def fail(self, content: bytes, caller: Caller) -> None:
        self.kernel.tasks.fail(caller.principal, self.id, as_text(content).strip())

    def may_answer(self, caller: Caller) -> None:
        """Asked at the open: only its worker writes there."""
        self.kernel.tasks.check_answer(caller.principal, self.id)

    @value("history", on=TOLD, example='{"at": "2026-11-21T09:00:00.123Z", "state": "pending", …}')
    def history(self) -> str:
        """What became of it, one JSON object a line: at, state, by, words. The first and the newest
        49 are kept."""
        return "".join(
            f"{json.dumps(each | {'at': rfc3339(each['at'])}, ensure_ascii=False)}\n"
            for each in self.task.history
        )

    @stream("wait", 0o444, example='{"state": "completed", "error": null, "result": {"words": 7}}')
    def wait(self, caller: Caller) -> StreamHandle:
        """Blocks until it has ended, then gives state, error (why there is no result) and result as
        one JSON object."""
        return EndStream(self.all.readers, self.id, self._end, self._begin_wait(caller))

    def _end(self) -> bytes | None:
        task = self.task
        if not task.state.final:
            return None
        why = None if task.state is TaskState.COMPLETED else task.error or task.reason
        head = json.dumps({"state": task.state.value, "error": why}, ensure_ascii=False)
        result = self.kernel.tasks.result_of(task) or "null"
        return f'{head[:-1]}, "result": {result}}}\n'.encode()

    def _begin_wait(self, caller: Caller) -> Callable[[], Callable[[], None]]:
        begin = self.kernel.why.waits.begin
        return lambda: begin(caller.principal.pid, "end", f"of task {self.id}")

    @control(
        "ctl",
        0o222,
        example="cancel not needed any more",
        errors={
            "EINVAL": "another word",
            "EPERM": "it has ended, or it is not yours",
            "EACCES": "start, progress, complete, fail: you are not its worker",
            "ESTALE": "the same: that attempt is over",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands of its submitter: `cancel [WHY]`, `priority N`. Of its worker: `progress WORDS`
        (how far it is), `complete [RESULT]`, `fail WHY` (for good), `again WHY` (it goes to the
        next worker)."""
        tasks, principal = self.kernel.tasks, caller.principal
        word, _, rest = command.partition(" ")
        match word, rest.strip():
            case "cancel", why:
                tasks.cancel(principal, self.id, why)
            case "priority", number:
                await self.set_priority(number, caller)
            case "progress", words if words:
                tasks.progress(principal, self.id, words)
            case "complete", result:
                tasks.complete(principal, self.id, await _result(result.encode()))
            case "fail" | "again", why if why:
                tasks.fail(principal, self.id, why, again=word == "again")
            case _:
                raise KernelError(
                    errno.EINVAL,
                    "cancel [WHY], priority N, progress WORDS, complete [RESULT], fail WHY or"
                    f" again WHY, not {command[:100]!r}",
                )


async def _result(content: bytes) -> Any:
    """What somebody wrote as a result: a JSON value, or a text without its last newline."""
    text = as_text(content).removesuffix("\n")
    try:
        return await json_value(text) if text.strip() else None
    except KernelError:
        return text


def task_info(kernel: Kernel, task: Task) -> str:
    """`info` of a task."""
    return json.dumps(
        {
            "id": task.id,
            "description": task.description,
            "state": task.state.value,
            "submitter": task.submitter,
            "priority": task.priority,
            "requirements": task.requirements,
            "worker": task.worker or None,
            "attempt": task.attempt,
            "max_attempts": task.max_attempts,
            "timeout": task.timeout,
            "key": task.key or None,
            "group": task.group or None,
            "program": task.program,
            "run": task.run or None,
            "verdict": task.verdict,
            "reason": kernel.tasks.reason(task) or None,
            "error": task.error or None,
            "created": rfc3339(task.created),
            "changed": rfc3339(task.changed),
            "ended": rfc3339(task.ended) if task.ended else None,
        },
        ensure_ascii=False,
    )


def _query(text: str, now: float) -> dict[str, Any]:
    """What a query says, by name. Raises EINVAL."""
    given: dict[str, Any] = {}
    for word in text.split():
        name, _, asked = word.partition("=")
        if name not in ASKED or not asked or name in given:
            raise KernelError(
                errno.EINVAL,
                "a query is state=STATE submitter=NAME worker=NAME group=NAME since=WHEN limit=N,"
                f" each at most once, not {word[:100]!r}{near(name, ASKED)}",
            )
        given[name] = asked
    states = [each.value for each in TaskState]
    if "state" in given:
        state = given["state"]
        if state not in states:
            raise KernelError(
                errno.EINVAL,
                f"a state is one of {', '.join(states)}, not {state[:80]!r}{near(state, states)}",
            )
        given["state"] = TaskState(state)
    if "since" in given:
        given["since"] = moment("since", given["since"], now)
    given["limit"] = count(given["limit"], MAX_LIMIT) if "limit" in given else LIMIT
    return given


class TasksDirectory(SystemTable):
    """/dev/tasks: a directory for each task, by its number. Everybody who may send a
    message may submit."""

    PATH = "/dev/tasks"
    WHAT = "Work that is to be done: a directory for each task."
    EACH = TaskDirectory
    restless = True
    stepwise = True
    key = ("dev", "tasks")

    def __init__(self, above: DevDirectory) -> None:
        super().__init__(above)
        self.readers = Readers(self.kernel.events, "task", *ENDED, TaskRemoved)

    @transaction(
        "new",
        0o666,
        limit="new_limit",
        example='{"description": "sum up report.txt", "requirements": {"cpu": "high"}}',
        errors={
            "EINVAL": "a field that is not one of these, or not what it has to be",
            "EEXIST": "the key was used for another task",
            "EDQUOT": "you have as many open tasks as you may",
            "EAGAIN": "tasks.max_tasks are open",
            "EMSGSIZE": "the input is larger than tasks.max_input",
            "EACCES": "you are nobody here",
        },
    )
    async def new(self, request: bytes, caller: Caller) -> str:
        """Write a task, read its number: its description as a text, or YAML or JSON with
        description, input (any value), requirements (what its worker must be capable of), priority
        (0 to 9, 9 first; 5), timeout (`10m`, of one attempt), max_attempts (5), key (the same one
        again gives the same task), group, program (a list: the kernel runs it, with your
        rights)."""
        return f"{self.kernel.tasks.submit(caller.principal, await read_task(request)).id}\n"

    def new_limit(self) -> int:
        return WHOLE_WRITE

    @live("stats", example='{"pending": 0, "validated": 3, "assigned": 0, "running": 4, …}')
    def stats(self) -> str:
        """How many tasks there are in each state, as one JSON object."""
        return json.dumps(self.kernel.tasks.counts())

    @transaction(
        "query",
        0o666,
        example="state=running worker=w1 limit=50",
        errors={"EINVAL": "no such query"},
    )
    async def query(self, request: bytes, caller: Caller) -> str:
        """Write what is looked for, read the newest tasks that are so, newest first, each as its
        `info`: `state=STATE`, `submitter=NAME`, `worker=NAME`, `group=NAME`, `since=WHEN`
        (submitted: a date, or a duration: so long ago), `limit=N` (50, at most 1,000). Tasks that
        you may not read are left out."""
        asked = _query(as_text(request), self.kernel.clock.now())
        lines = []
        for task in self.kernel.tasks.table.newest(**asked):
            try:
                self.kernel.tasks.require_read(caller.principal, task)
            except KernelError:
                continue
            lines.append(f"{task_info(self.kernel, task)}\n")
        return "".join(lines)

    # -- the tasks ---------------------------------------------------------------------------------

    def find(self, name: str) -> Node | None:
        found = self.kernel.tasks.find(pid_of(name))
        return None if found is None else TaskDirectory(self, found.id)

    def glance(self, name: str) -> Node:
        return TaskDirectory(self, int(name)) if name.isdigit() else self.lookup(name)

    def names_now(self, caller: Caller) -> Iterator[str]:
        yield from self.TABLE
        yield from map(str, self._ids())

    def more(self) -> Iterator[tuple[str, Node]]:
        for number in self._ids():
            yield str(number), TaskDirectory(self, number)

    def _ids(self) -> Iterator[int]:
        page = [0]
        while page:
            page = self.kernel.tasks.table.page(page[-1], PAGE)
            yield from page

    # -- news --------------------------------------------------------------------------------------

    def each(self, key: Any) -> TaskDirectory:
        return TaskDirectory(self, key[-1])

    def concerned(self, event: Any) -> Sequence[Hashable]:
        return (TaskDirectory.at(event.task),)

    @on(TaskSubmitted)
    def _submitted(self, event: TaskSubmitted) -> Iterator[Change]:
        made = TaskDirectory(self, event.task)
        made.remember()
        yield Created(self.key, str(event.task), made)

    @on(TaskRemoved)
    def _removed(self, event: TaskRemoved) -> Iterator[Change]:
        yield Removed(self.key, str(event.task), TaskDirectory.at(event.task), is_directory=True)


class TasksByStateDirectory(DirectoryOf):
    """/dev/tasks/by-state: a directory for each state, with links to the tasks that are in it."""

    PATH = "/dev/tasks/by-state"
    WHAT = "The tasks by their state."

    def __init__(self, tasks: TasksDirectory) -> None:
        self.kernel = tasks.kernel
        self.key = tasks.key_of("by-state")
        self._owner = tasks.owner

    def owner(self) -> Owner:
        return self._owner()

    def _of(self, state: str) -> TaskLinks:
        tasks = self.kernel.tasks

        def has(number: int) -> bool:
            found = tasks.find(number)
            return found is not None and found.state.value == state

        def pages(after: int, most: int) -> list[int]:
            return tasks.table.page(after, most, TaskState(state))

        return TaskLinks(self.kernel, self.key_of(state), "../..", pages, has)

    def lookup(self, name: str) -> Node:
        if name not in {state.value for state in TaskState}:
            raise self.missing(name)
        return self._of(name)

    def entries(self) -> Iterator[tuple[str, Node]]:
        for state in TaskState:
            yield state.value, self._of(state.value)

    @on(*MOVED)
    def _moved(self, event: Any) -> Iterator[Change]:
        new = STATES[type(event)].value
        if event.old and event.old != new:
            yield self._of(event.old).went(event.task)
        if event.old != new:
            yield self._of(new).came(event.task)

    @on(TaskRemoved)
    def _removed(self, event: TaskRemoved) -> Iterator[Change]:
        yield self._of(event.old).went(event.task)


class TaskLinks(NumberLinks):
    """Links to some tasks."""

    PATH = "/dev/tasks/by-state/STATE"
