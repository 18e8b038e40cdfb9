"""Assignments as mail: the message of a task lies in its worker's mailbox, and what becomes of the
message becomes of the task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial

from agentfs.base.clock import rfc3339
from agentfs.mail.mail import Mail
from agentfs.mail.mailbox import Mailbox
from agentfs.mail.message import Draft, Message, Priority, Relation
from agentfs.mail.routing import relation
from agentfs.model.principal import INIT, Principal
from agentfs.model.process import Process
from agentfs.process.supervisor import Supervisor
from agentfs.process.table import ProcessTable
from agentfs.rights.ownership import Access
from agentfs.tasks.model import PREFIX, Task, TaskWorker, WorkerKind
from agentfs.tasks.workers import Workers

__all__ = ["TaskMail"]

Moved = Callable[[int, Message, str, str], object]


class TaskMail:
    """Sends assignments, takes them back, and owns the mailboxes of workers that are programs."""

    def __init__(
        self,
        table: ProcessTable,
        supervisor: Supervisor,
        mail: Mail,
        workers: Workers,
    ) -> None:
        self._table = table
        self._supervisor = supervisor
        self._mail = mail
        self._workers = workers
        mail.owners.add(PREFIX, self)

    # -- for tasks, inside a transaction -----------------------------------------------------------

    def has_room(self, worker: TaskWorker) -> bool:
        """Whether an assignment may be sent; an inbox can be full of other mail."""
        return worker.kind is not WorkerKind.AGENT or not self._mail.is_full(worker.agent)

    def send(self, task: Task, worker: TaskWorker, given: str, moved: Moved) -> int:
        """Let `worker` have the task, whose input is the JSON `given`; the number of the message.
        `moved(task, message, place, reason)` is told where that goes."""
        deadline = task.deadline or None
        body = {
            "task": task.id,
            "attempt": task.attempt,
            "description": task.description,
            "input": json.loads(given),
            "requirements": task.requirements,
            "priority": task.priority,
            "key": task_key(task),
            "deadline": deadline,
        }
        headers = [
            ("Type", "assigned-task"),
            ("Task", str(task.id)),
            ("Attempt", str(task.attempt)),
            *([("Deadline", rfc3339(deadline))] if deadline else []),
            ("Content-Type", "application/json"),
        ]
        draft = Draft(
            worker.mailbox,
            json.dumps(body, ensure_ascii=False).encode(errors="backslashreplace") + b"\n",
            headers,
            _urgency(task.priority),
            on_purpose=True,
        )
        sender = self._table.by_name(task.submitter)
        found = relation(sender, self._table.by_name(worker.agent) if worker.agent else None)
        message = self._mail.accept(worker.mailbox, task.submitter, draft, found, unlisted=True)
        self.follow(task.id, message.seq, moved)
        return message.seq

    def follow(self, task: int, message: int, moved: Moved) -> None:
        """Tell `moved` of each change of the message's place."""
        self._mail.boxes.follow(message, partial(moved, task))

    def find(self, task: Task) -> Message | None:
        """The message of its assignment, if that is in a mailbox."""
        message = self._mail.archive.find(task.message) if task.message else None
        return message if message is not None and message.folder in ("new", "cur", "dead") else None

    def take_out(self, task: Task, reason: str = "") -> None:
        """The assignment is over: its message is in no mailbox any more."""
        if not task.message:
            return
        message = self.find(task)
        self._mail.boxes.unfollow(task.message)
        if message is None:
            return
        pid = message.claimed_by
        if message.through is not None:
            message.through.settled = True
        self._mail.delivery.done(message, reason)
        self._mail.delivery.rest(pid)

    def tell_cancelled(self, task: Task, worker: TaskWorker, words: str) -> None:
        """Its worker, which has claimed it, is to stop; some are stopped."""
        body = {"task": task.id, "attempt": task.attempt, "cancelled": words}
        headers = [("Type", "cancelled-task"), ("Task", str(task.id))]
        draft = Draft(
            worker.mailbox,
            json.dumps(body, ensure_ascii=False).encode(errors="backslashreplace") + b"\n",
            headers,
            Priority.HIGH,
            on_purpose=True,
        )
        if self.has_room(worker):
            self._mail.accept(worker.mailbox, task.submitter, draft, Relation.OTHER, unlisted=True)
        process = self._table.by_name(worker.agent) if worker.stops else None
        if process is not None:
            self._supervisor.renew(process, f"task {task.id} was {words}")

    def forget(self, worker: TaskWorker) -> None:
        """The worker is no more, and its mailbox goes with it."""
        if worker.kind is WorkerKind.PROGRAM:
            self._mail.remove(worker.mailbox)

    def waits(self, worker: TaskWorker) -> bool:
        """Whether a program waits for its tasks."""
        return worker.kind is not WorkerKind.POOL and worker.mailbox in self._mail.boxes.waiters

    # -- what delivery asks ------------------------------------------------------------------------

    def check_exists(self, name: str) -> None:
        self._workers.get(_worker(name))

    def require(self, principal: Principal, name: str) -> None:
        worker = self._workers.get(_worker(name))
        worker.ownership.require(principal, Access.TAKE, str(worker))

    def check_room(self, box: Mailbox, principal: Principal) -> None:
        """The capacity of the worker is the bound."""

    def claimant(self, name: str, actor: Process) -> Process | None:
        return actor

    def never_end(self, name: str) -> Iterable[int | None]:
        return (INIT,)


def task_key(task: Task) -> str:
    """The same for all attempts: what a worker does twice it can see from that."""
    return f"task-{task.id}"


def _worker(name: str) -> str:
    return name.partition("/")[2]


def _urgency(priority: int) -> Priority:
    """The priority of a task as that of a message."""
    if priority >= 7:
        return Priority.HIGH
    return Priority.NORMAL if priority >= 4 else Priority.LOW
