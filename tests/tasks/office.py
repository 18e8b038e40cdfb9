"""What tests of the guardian and the mind have in common."""

from __future__ import annotations

import json
from typing import Any

from agentfs.kernel import Kernel
from agentfs.model.principal import Principal
from agentfs.tasks.events import TaskJudged
from agentfs.tasks.guardian import Guardian
from agentfs.tasks.mind import Mind
from agentfs.tasks.model import Task, TaskRequest, WorkerRequest
from tests.world import OPERATOR, World


class Office(World):
    """A system with tasks, whose documents a test writes."""

    def guardian(self, text: str) -> None:
        """What /etc/guardian.yaml says from now on."""
        self.kernel.guardian_rules.replace(text)

    def mind(self, text: str) -> None:
        """What /etc/mind.yaml says from now on."""
        self.kernel.mind_policy.replace(text)

    def submit(self, text: str = "count", by: Principal = OPERATOR, **more: Any) -> int:
        """A new task; its number."""
        return self.kernel.tasks.submit(by, TaskRequest(description=text, **more)).id

    def register(self, name: str, by: Principal = OPERATOR, **more: Any) -> None:
        """A new worker."""
        self.kernel.workers.register(by, WorkerRequest(name=name, **more))

    def claim(self, name: str, by: Principal = OPERATOR) -> dict[str, Any]:
        """One read of a worker's `recv`."""
        message = self.mail.receiving.claim_next(by, f"workers/{name}")
        assert message is not None
        return json.loads(self.body(message))

    def finish(self, number: int, result: Any = 1) -> None:
        """Its worker gives a result."""
        self.kernel.tasks.complete(OPERATOR, number, result)

    def task(self, number: int) -> Task:
        return self.kernel.tasks.get(number)

    def state_of(self, number: int) -> str:
        return self.task(number).state.value

    def verdict(self, number: int) -> tuple[bool, str, str]:
        """Passed, by whom, and why not."""
        said = self.task(number).verdict
        assert said is not None
        return said["passed"], said["by"], said["reason"]

    def pass_time(self, seconds: float) -> None:
        """Let the clock go on, and the timers ring."""
        self.clock.advance(seconds)
        self.timers.run_due()

    def question(self, voter: str) -> int:
        """The message by which a voter is asked; its number."""
        while True:
            message = self.mail.receiving.claim_next(self.principal(voter), voter)
            assert message is not None
            if self.header(message, "Type") == "vote-request":
                return message.seq

    def reply(self, voter: str, question: int, text: str) -> None:
        """What the voter answers."""
        self.send(voter, "init", f"In-Reply-To: {question}\n\n{text}")

    def judged(self) -> list[tuple[str, bool, str]]:
        """The verdicts since the last call: when, passed, by."""
        found = [
            (event.when, event.passed, event.by)
            for event in self.seen
            if isinstance(event, TaskJudged)
        ]
        self.seen.clear()
        return found


def guardian_of(kernel: Kernel) -> Guardian:
    """The guardian of a system."""
    return next(part for part in kernel.ground.parts if isinstance(part, Guardian))


def mind_of(kernel: Kernel) -> Mind:
    """The mind of a system."""
    return next(part for part in kernel.ground.parts if isinstance(part, Mind))
