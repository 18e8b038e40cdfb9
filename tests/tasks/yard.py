"""A system with tasks and workers: the real kernel, without a mount, on a clock of the test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentfs.mail.message import Message
from agentfs.model.principal import Principal
from agentfs.tasks.model import Task, TaskAnswer, TaskRequest, TaskWorker, WorkerRequest
from agentfs.tasks.policy import Judgement, Moment
from tests.world import OPERATOR, World

__all__ = ["OPERATOR", "Asked", "Yard"]


class Asked:
    """A guardian that passes everything; tests override `begin`."""

    def begin(self, task: Task, when: Moment) -> Judgement | None:
        return Judgement(True, "test")

    def check_change(self, task: Task, **changes: Any) -> None:
        """Whatever it is."""

    def waits_for(self, task: int) -> str:
        return "a test"


class Yard(World):
    """Its calls are the operator's unless `by` names an agent."""

    def __init__(self, state: Path, **settings: int | str) -> None:
        super().__init__(state)
        if settings:
            said = ", ".join(f"{name}: {value}" for name, value in settings.items())
            self.configure(f"tasks: {{{said}}}\n")

    def configure(self, text: str) -> None:
        """Write /etc/agentfs.yaml."""
        self.settings.replace(text)

    def who(self, by: str) -> Principal:
        return self.principal(by) if by else OPERATOR

    def submit(self, text: str = "count", by: str = "", **more: Any) -> Task:
        request = TaskRequest(description=text, **more)
        return self.kernel.tasks.submit(self.who(by), request)

    def register(self, name: str, by: str = "", **more: Any) -> TaskWorker:
        return self.kernel.workers.register(self.who(by), WorkerRequest(name=name, **more))

    def task(self, task: Task) -> Task:
        """As it is now."""
        return self.kernel.tasks.get(task.id)

    def state_of(self, task: Task) -> str:
        return self.task(task).state.value

    def take(self, worker: str, by: str = "") -> Message | None:
        """One read of a worker's `recv`; if it is an agent, of that one's own."""
        found = self.kernel.workers.get(worker)
        return self.mail.receiving.claim_next(self.who(by or found.agent), found.mailbox)

    def claim(self, worker: str, by: str = "") -> dict[str, Any]:
        """The same; what the task that it got says, empty if there was none."""
        message = self.take(worker, by)
        found: dict[str, Any] = {} if message is None else json.loads(self.body(message))
        return found

    def answer(self, worker: str, task: int, attempt: int, by: str = "", **said: Any) -> None:
        """Write a line to its `recv`."""
        line = TaskAnswer.model_validate({"task": task, "attempt": attempt, **said})
        self.kernel.tasks.answer(self.who(by), worker, line)

    def told(self) -> list[str]:
        """The types of the events of tasks and workers since the last call."""
        kinds = [e.type for e in self.seen if e.type.startswith(("task_", "worker_"))]
        self.seen.clear()
        return kinds

    def wait(self, seconds: float) -> None:
        """Let so much time go by, with everything that is due in it."""
        ends = self.clock.monotonic() + seconds
        while (wait := self.timers.run_due()) <= (left := ends - self.clock.monotonic()):
            self.clock.advance(min(max(wait, 0.001), left))
        self.clock.advance(ends - self.clock.monotonic())
        self.timers.run_due()
