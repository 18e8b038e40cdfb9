"""The rows of tasks. Those that are open are in memory; those that have ended are asked of the
store. Input and result, which may be long, have a row of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from heapq import nlargest
from typing import Any

from agentfs.quota.made import Made
from agentfs.store.ground import Ground
from agentfs.store.records import Records, keep_item
from agentfs.tasks.model import Task, TaskState

__all__ = ["KIND", "LAST_TASK", "TaskTable"]

KIND = "task"
"""The records of open tasks in the store, by number."""

LAST_TASK = "last_task"
"""The meta value that says the number of the newest task: none is used twice."""


class TaskTable:
    """All tasks. Changes belong inside a transaction of the store and are undone with it."""

    def __init__(self, ground: Ground, made: Made) -> None:
        self._store = ground.store
        self.open = Records(ground.store, KIND, _read, Task.record)
        """The open ones, by number. To look at."""
        self.by_submitter = self.open.index(lambda task: task.submitter, "submitter")
        self.by_state = self.open.index(lambda task: task.state, "state")
        self.by_run = self.open.index(lambda task: task.run or None, "run")
        self.by_worker = self.open.index(
            lambda task: task.worker if task.under_way else None, "state", "worker", "judged"
        )
        """Those that each worker has now."""
        self.by_group = self.open.index(lambda task: task.group or None, "group")
        self._under_way = self.open.index(
            lambda task: "" if task.under_way else None, "state", "judged"
        )
        self._by_key = self.open.index(
            lambda task: (task.submitter, task.key) if task.key else None, "submitter", "key"
        )
        self._ended: dict[TaskState, int] = {}
        made.count_in("tasks", lambda: self.by_submitter, lambda: len(self.open))

    def load(self) -> None:
        """Read the open ones from the store, and how many have ended."""
        self.open.load()
        query = "SELECT state, count(*) FROM ended_tasks GROUP BY state"
        self._ended = {TaskState(state): count for state, count in self._store.read(query)}

    # -- looking -----------------------------------------------------------------------------------

    def find(self, number: int) -> Task | None:
        """A task, open or ended."""
        task = self.open.get(number)
        if task is not None:
            return task
        query = "SELECT id, submitter, record FROM ended_tasks WHERE id = ?"
        return _row(self._store.read(query, (number,)).fetchone())

    def by_key(self, submitter: str, key: str) -> Task | None:
        """The task that was submitted under this key."""
        found = next(iter(self._by_key.of((submitter, key)).values()), None)
        if found is not None:
            return found
        query = (
            "SELECT id, submitter, record FROM ended_tasks"
            " WHERE submitter = ? AND key = ? AND key != ''"
        )
        return _row(self._store.read(query, (submitter, key)).fetchone())

    def input_of(self, number: int) -> str:
        """What a task was given, as JSON."""
        return self._value(number, "input")

    def result_of(self, number: int) -> str:
        """What it has given, as JSON; empty if it has given nothing."""
        return self._value(number, "result")

    def _value(self, number: int, which: str) -> str:
        query = f"SELECT {which} FROM task_values WHERE task = ?"  # noqa: S608
        row = self._store.read(query, (number,)).fetchone()
        return "" if row is None or row[0] is None else str(row[0])

    def counts(self) -> dict[TaskState, int]:
        """How many tasks are in each state."""
        return {
            state: self._ended.get(state, 0) if state.final else len(self.by_state.of(state))
            for state in TaskState
        }

    def count_under_way(self) -> int:
        """How many are assigned or running, without those whose result is judged."""
        return len(self._under_way.of(""))

    def page(self, after: int, most: int, state: TaskState | None = None) -> list[int]:
        """Tasks with a number above `after`, in order; those of a state, if one is named."""
        found: list[int] = []
        if state is None or not state.final:
            there = self.open if state is None else self.by_state.of(state)
            found += sorted(number for number in there if number > after)[:most]
        if state is None or state.final:
            wheres = ("id > ?",) if state is None else ("id > ?", "state = ?")
            values = (after,) if state is None else (after, state.value)
            query = f"SELECT id FROM ended_tasks WHERE {' AND '.join(wheres)} ORDER BY id LIMIT ?"  # noqa: S608
            found += [number for (number,) in self._store.read(query, (*values, most))]
        return sorted(found)[:most]

    def newest(
        self,
        limit: int,
        state: TaskState | None = None,
        submitter: str = "",
        worker: str = "",
        group: str = "",
        since: float = 0.0,
    ) -> list[Task]:
        """The newest tasks that are so, newest first, at most `limit`."""

        def wanted(task: Task) -> bool:
            return (
                state in (None, task.state)
                and submitter in ("", task.submitter)
                and worker in ("", task.worker)
                and group in ("", task.group)
                and task.created >= since
            )

        there = self.open if state is None else self.by_state.of(state)
        found = nlargest(limit, (number for number in there if wanted(self.open[number])))
        tasks = [self.open[number] for number in found]
        wheres = {
            "state = ?": None if state is None else state.value,
            "submitter = ?": submitter or None,
            "in_group = ?": group or None,
            "json_extract(record, '$.worker') = ?": worker or None,
            "json_extract(record, '$.created') >= ?": since or None,
        }
        given = {where: value for where, value in wheres.items() if value is not None}
        query = (
            f"SELECT id, submitter, record FROM ended_tasks"  # noqa: S608
            f" WHERE {' AND '.join(given) or 'true'} ORDER BY id DESC LIMIT ?"
        )
        for row in self._store.read(query, (*given.values(), limit)).fetchall():
            task = _row(row)
            assert task is not None
            tasks.append(task)
        return nlargest(limit, tasks, key=lambda task: task.id)

    # -- changes -----------------------------------------------------------------------------------

    def next_number(self) -> int:
        """The number of a new task."""
        return self._store.next_number(LAST_TASK)

    def add(self, task: Task, given: str) -> None:
        """Have a new one, with its input as JSON. The next change stores it, or `save`."""
        self.open.place(task.id, task)
        self._store.write("INSERT INTO task_values VALUES (?, ?, NULL)", (task.id, given))

    def change(self, task: Task, **fields: Any) -> None:
        """Set fields of an open task."""
        self.open.change(task.id, **fields)

    def save(self, task: Task) -> None:
        """Store an open task as it is."""
        self.open.save(task.id)

    def put_result(self, task: Task, result: str | None) -> None:
        """Keep its result, as JSON; None: it has none."""
        self._store.write("UPDATE task_values SET result = ? WHERE task = ?", (result, task.id))

    def end(self, task: Task, **fields: Any) -> None:
        """Set the last fields of a task: it is in a final state from now on."""
        self.open.set(task.id, **fields)
        self.open.drop(task.id)
        self._count(task.state, 1)
        self._store.write(
            "INSERT INTO ended_tasks VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                task.id,
                task.state.value,
                task.submitter,
                task.key,
                task.group,
                task.ended,
                json.dumps(task.record()),
            ),
        )

    def ended_before(self, when: float, most: int) -> Iterator[Task]:
        """Some that ended before that time, the oldest first."""
        query = (
            "SELECT id, submitter, record FROM ended_tasks WHERE ended < ? ORDER BY ended LIMIT ?"
        )
        for row in self._store.read(query, (when, most)).fetchall():
            task = _row(row)
            if task is not None:
                yield task

    def forget(self, task: Task) -> None:
        """Drop one that has ended, for good."""
        self._count(task.state, -1)
        self._store.write("DELETE FROM ended_tasks WHERE id = ?", (task.id,))
        self._store.write("DELETE FROM task_values WHERE task = ?", (task.id,))

    def pass_on(self, submitter: str, heir: str) -> None:
        """Of what ended, let all that was `submitter`'s be `heir`'s: the next agent of that name is
        another one."""
        self._store.write(
            "UPDATE ended_tasks SET submitter = ?, key = '' WHERE submitter = ?", (heir, submitter)
        )

    def _count(self, state: TaskState, by: int) -> None:
        keep_item(self._store, self._ended, state)
        self._ended[state] = self._ended.get(state, 0) + by


def _read(key: str, record: dict[str, Any]) -> tuple[int, Task]:
    return int(key), Task.read(int(key), record)


def _row(row: tuple[int, str, str] | None) -> Task | None:
    if row is None:
        return None
    number, submitter, text = row
    task = Task.read(number, json.loads(text))
    if task.submitter != submitter:  # it was passed on
        task.submitter, task.key = submitter, ""
    return task
