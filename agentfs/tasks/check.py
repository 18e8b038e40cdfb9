"""Faults of tasks and workers in a store."""

from __future__ import annotations

from collections.abc import Iterator

from agentfs.store.rows import UNREADABLE, StoreRows, read_record
from agentfs.tasks.deliberation import KIND as JUDGEMENTS
from agentfs.tasks.deliberation import Deliberation
from agentfs.tasks.model import Task, TaskState, TaskWorker, WorkerKind
from agentfs.tasks.task_table import KIND, LAST_TASK

__all__ = ["NUMBERS", "faults"]

NUMBERS = (LAST_TASK,)
"""Meta values that are numbers."""


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    workers: dict[str, TaskWorker] = {}
    for name, record in rows.records("worker"):
        try:
            worker = workers[name] = TaskWorker.read(name, record)
        except UNREADABLE as bad:
            yield f"worker {name}: {bad!r}"
            continue
        if worker.ownership.owner not in rows.agents:
            yield f"worker {name}: there is no agent {worker.ownership.owner}, who owns it"
        if worker.agent and worker.agent not in rows.agents:
            yield f"worker {name}: there is no agent {worker.agent}"
    judged: dict[int, Deliberation] = {}
    for key, record in rows.records(JUDGEMENTS):
        try:
            number, deliberation = Deliberation.read(key, record)
            rule = deliberation.rule
        except UNREADABLE as bad:
            yield f"judgement of task {key}: {bad!r}"
            continue
        judged[number] = deliberation
        if deliberation.votes.keys() - deliberation.questions.keys():
            yield f"judgement of task {number}: rule {rule.name} has votes of nobody who was asked"
    messages = _assignments(rows)
    values = {number for (number,) in rows.read("SELECT task FROM task_values")}
    last = rows.number(LAST_TASK) or 0
    for number, task in _tasks(rows):
        if isinstance(task, str):
            yield task
            continue
        what = f"task {number}"
        if number not in values:
            yield f"{what}: its input is gone"
        values.discard(number)
        if number > last:
            yield f"{what}: the last one has number {last}"
        if (task.state is TaskState.PENDING or task.judged) and number not in judged:
            yield f"{what}: it waits for a judgement, and nobody makes one"
        if not task.state.final:
            yield from (f"{what}: {fault}" for fault in _open_faults(task, workers, messages))
    yield from (f"there is no task {number}, whose input is kept" for number in sorted(values))
    for number, (mailbox, _, text) in messages.items():
        if text not in ("cancelled-task", ""):
            yield f"message {number:012d} in {mailbox} assigns {text}, which is not assigned so"


def _tasks(rows: StoreRows) -> Iterator[tuple[int, Task | str]]:
    """Every task by number, or what is wrong with its record."""
    found = [(key, record, False) for key, record in rows.records(KIND)]
    query = "SELECT id, record FROM ended_tasks"
    found += [(str(number), read_record(text), True) for number, text in rows.read(query)]
    seen: set[str] = set()
    for key, record, ended in found:
        try:
            task = Task.read(int(key), record)
        except UNREADABLE as bad:
            yield 0, f"task {key}: {bad!r}"
            continue
        if task.state.final is not ended or key in seen:
            yield 0, f"task {key}: it is {task.state.value}, and among those that are not"
            continue
        seen.add(key)
        yield task.id, task


def _assignments(rows: StoreRows) -> dict[int, tuple[str, str, str]]:
    """The messages of type task that are in a mailbox: mailbox, state, the task's number."""
    query = (
        "SELECT seq, mailbox, state, substr(coalesce(long_contents.content, messages.content),"
        " 1, 1000) FROM messages LEFT JOIN long_contents USING (seq)"
        " WHERE state IN ('new', 'cur', 'dead') AND (mailbox LIKE 'workers/%'"
        " OR record LIKE '%\"unlisted\":true%')"
    )
    found = {}
    for seq, mailbox, state, start in rows.read(query):
        head = bytes(start or b"").partition(b"\n\n")[0].decode(errors="replace").split("\n")
        if "Type: assigned-task" in head:
            number = next((line[6:] for line in head if line.startswith("Task: ")), "")
            found[seq] = mailbox, state, f"task {number}"
    return found


def _open_faults(
    task: Task, workers: dict[str, TaskWorker], messages: dict[int, tuple[str, str, str]]
) -> Iterator[str]:
    """Whether it is where its state says, with the message and the worker that go with it."""
    mailbox, state, name = messages.pop(task.message, ("", "", ""))
    if not task.under_way:
        if mailbox:
            yield f"it is {task.state.value}, and its message {task.message} is in {mailbox}"
        return
    if task.run:
        return
    if not mailbox:
        yield f"it is {task.state.value}, and its message {task.message} is in no mailbox"
    elif name != f"task {task.id}":
        yield f"message {task.message} assigns {name}"
    elif (state == "cur") is not (task.state is TaskState.RUNNING):
        yield f"it is {task.state.value}, and its message {task.message} is in {state}/"
    worker = workers.get(task.worker)
    if worker is None:
        yield f"there is no worker {task.worker}, who has it"
    elif worker.kind is not WorkerKind.POOL and mailbox and mailbox != worker.mailbox:
        yield f"its message is in {mailbox}, and its worker is {task.worker}"
