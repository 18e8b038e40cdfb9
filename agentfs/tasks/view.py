"""A task as those who judge it see it: rules, programs, people, agents, models."""

from __future__ import annotations

import json
from typing import Any

from agentfs.tasks.model import Task
from agentfs.tasks.task_table import TaskTable

__all__ = ["FIELDS", "SeenTask"]

OWN = (
    *("id", "description", "requirements", "priority", "submitter", "group", "key"),
    *("attempt", "worker", "program"),
)

FIELDS = (*OWN, "input", "result")
"""What an expression may name of a task."""

LONGEST = 512 * 1024
"""Characters of JSON that an expression can look into: reading them takes 5 ms. More stays a
text."""


class SeenTask:
    """One task. Its input and its result are JSON, and may be long: they are passed on as they are,
    and only an expression looks into them."""

    def __init__(self, task: Task, table: TaskTable, *, result: bool) -> None:
        self._own = {name: getattr(task, name) for name in OWN}
        self._input = table.input_of(task.id) or "null"
        self._result = (table.result_of(task.id) if result else "") or "null"

    def scope(self) -> dict[str, Any]:
        """For expressions."""
        return self._own | {"input": _value(self._input), "result": _value(self._result)}

    def json(self) -> str:
        """For programs."""
        own = json.dumps(self._own, ensure_ascii=False)
        return f'{own[:-1]}, "input": {self._input}, "result": {self._result}}}'

    def text(self) -> str:
        """For people and agents. Nothing in a description can pass for another line of it."""
        lines = [
            f"{name}: {json.dumps(value, ensure_ascii=False)}"
            for name, value in self._own.items()
            if name != "description" and value not in (None, "", {}, [])
        ]
        lines += [f"> {line}" for line in self._own["description"].splitlines()]
        for name, value in (("input", self._input), ("result", self._result)):
            lines += [f"{name}: {value}"] if value != "null" else []
        return "\n".join([*lines, ""])


def _value(text: str) -> Any:
    return json.loads(text) if len(text) <= LONGEST else text
