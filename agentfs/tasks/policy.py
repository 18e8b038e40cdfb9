"""What decides about tasks beside the kernel: the guardian, whether one may be; the mind, who is to
do it. They propose, and the kernel checks. Here is what they are asked, and what holds without one:
everything passes, and the worker with the least to do gets the next task.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agentfs.tasks.model import Task, TaskWorker

__all__ = ["LEAST_LOADED", "PASS_ALL", "Judge", "Judgement", "Moment", "Router"]


Candidate = tuple[TaskWorker, int]
"""A worker that could do a task, and how many it has."""


class Moment(enum.Enum):
    """What the guardian judges: the task, before a worker gets it, or its result."""

    SUBMIT = "submit"
    RESULT = "result"


@dataclass(frozen=True, slots=True)
class Judgement:
    """`by` names the rule and who decided, `reason` is in words. `again`: after a result that did
    not pass, another attempt is made."""

    passed: bool
    by: str
    reason: str = ""
    again: bool = False


class Judge(Protocol):
    """The guardian."""

    def begin(self, task: Task, when: Moment) -> Judgement | None:
        """Judge a task, inside the transaction that submits it or takes its result. None: the
        verdict comes later, by `Tasks.judged`."""

    def check_priority(self, task: Task, priority: int) -> None:
        """Raise EPERM if a task that was judged may not have this priority."""

    def waits_for(self, task: int) -> str:
        """Whom the judgement of a task waits for, in words; "" if there is none."""


class Router(Protocol):
    """The mind."""

    def order(self, task: Task, candidates: Sequence[Candidate]) -> Sequence[str] | None:
        """The names of workers for a task, the best first. `candidates` all fit and have room; with
        each is how many tasks it has. None: the answer comes later, by `Tasks.proposed`. It may
        not raise, and changes nothing in the store."""


class _PassAll:
    def begin(self, task: Task, when: Moment) -> Judgement | None:
        return Judgement(True, "default")

    def check_priority(self, task: Task, priority: int) -> None:
        """It may have any."""

    def waits_for(self, task: int) -> str:
        return ""


class _LeastLoaded:
    def order(self, task: Task, candidates: Sequence[Candidate]) -> Sequence[str] | None:
        by_load = sorted(candidates, key=lambda each: (each[1] / each[0].capacity, each[0].name))
        return [worker.name for worker, _ in by_load]


PASS_ALL: Judge = _PassAll()
LEAST_LOADED: Router = _LeastLoaded()
