"""The tasks of groups: a member that does them is at work, and has done its part once it has done
all that it was given.

Events come after their commit: after a death in between, `take_up` sees what became of the tasks.
"""

from __future__ import annotations

from agentfs.projects.groups import AgentGroup, AgentGroups, MemberState
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.tasks.events import (
    TaskAssigned,
    TaskCancelled,
    TaskCompleted,
    TaskDead,
    TaskFailed,
    TaskRejected,
)
from agentfs.tasks.model import Task, TaskState
from agentfs.tasks.tasks import Tasks
from agentfs.tasks.workers import Workers

__all__ = ["GroupTasks"]

TOLD = (TaskAssigned, TaskCompleted, TaskFailed, TaskDead, TaskCancelled, TaskRejected)


MOST = 10_000
"""The newest tasks of a group that are looked at."""


class GroupTasks(Part):
    """It has no state of its own."""

    def __init__(self, ground: Ground, groups: AgentGroups, tasks: Tasks, workers: Workers) -> None:
        self._store = ground.store
        self._groups = groups
        self._tasks = tasks
        self._workers = workers
        ground.events.listen(self._heard, *TOLD)

    def take_up(self) -> None:
        """The daemon may have ended between the end of a task and this."""
        with self._store.transaction():
            for name in self._groups:
                group = self._groups.get(name)
                for agent in [*group.members]:
                    self._look(group, agent)

    def _heard(self, record: Record) -> None:
        task = self._tasks.find(record.event.task)  # type: ignore[attr-defined]  # each has it
        group = None if task is None or not task.group else self._groups.find(task.group)
        if task is None or group is None:
            return
        with self._store.transaction():
            agent = self._agent(task)
            if agent in group.members:
                self._look(group, agent)
            self._groups.changed_beside(group)

    def _look(self, group: AgentGroup, agent: str) -> None:
        """Let a member be as far as its tasks say, if it was given any."""
        member = group.members[agent]
        own = [
            task
            for task in self._tasks.table.newest(MOST, group=group.name)
            if self._agent(task) == agent
        ]
        if any(task.under_way for task in own):
            if member.state is not MemberState.RUNNING:
                self._groups.begun(group, agent)
            return
        over = [task for task in own if task.state.final and task.ended >= member.since]
        if over and not member.state.final:
            failed = [task for task in over if task.state is not TaskState.COMPLETED]
            words = "" if not failed else _words(failed[0])
            self._groups.ended(group, agent, failed=bool(failed), words=words)

    def _agent(self, task: Task) -> str:
        """The agent that does it, or has done it; empty if none does."""
        worker = self._workers.find(task.worker)
        return "" if worker is None else worker.agent


def _words(task: Task) -> str:
    why = task.error or task.reason
    return f"task {task.id} is {task.state.value}" + (f": {why}" if why else "")
