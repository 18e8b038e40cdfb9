"""A task under judgement, as it is kept: who has to agree yet, and what was answered."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from agentfs.tasks.model import Task, TaskState
from agentfs.tasks.policy import Moment
from agentfs.tasks.rules import GuardianRule

__all__ = ["KIND", "Deliberation"]

KIND = "judgement"
"""The records in the store, by the number of the task."""


@dataclass(slots=True, eq=False)
class Deliberation:
    """One task of `submitter`. `attempt` is that whose result is judged. The first of `rules` is
    being asked, since `since` (wall clock, seconds), if `asked`; those after it have to agree, too.
    They are as the document had them when the judgement began. `agreed` says who has agreed by now.

    `request` is the number of the request for an approval; `questions` are those of the voters, by
    name, and `votes` what they answered.
    """

    task: int
    submitter: str
    when: str
    attempt: int
    since: float
    rules: list[dict[str, Any]]
    asked: bool = False
    agreed: list[str] = field(default_factory=list)
    request: int = 0
    questions: dict[str, int] = field(default_factory=dict)
    votes: dict[str, str] = field(default_factory=dict)

    @property
    def rule(self) -> GuardianRule:
        """The one that is being asked."""
        return GuardianRule(**self.rules[0])

    def is_of(self, task: Task | None) -> bool:
        """Whether the task is as it was when this began, and waits for it."""
        if task is None or task.state.final or task.attempt != self.attempt:
            return False
        of_result = self.when == Moment.RESULT.value
        return task.judged if of_result else task.state is TaskState.PENDING

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @staticmethod
    def read(_: str, record: dict[str, Any]) -> tuple[int, Deliberation]:
        """The judgement that gave this record."""
        return record["task"], Deliberation(**record)
