"""People and agents who are asked about a task: one who approves, or a quorum. Nobody is asked
about a task, or a result, of their own."""

from __future__ import annotations

from agentfs.approvals.approvals import Approvals
from agentfs.approvals.request import OPERATOR, ApprovalState
from agentfs.base.content import Content
from agentfs.base.errors import ApprovalError, KernelError
from agentfs.model.principal import INIT
from agentfs.process.table import ProcessTable
from agentfs.store.ground import Ground
from agentfs.tasks.consensus import SILENT, YES, Consensus, needed
from agentfs.tasks.deliberation import Deliberation
from agentfs.tasks.model import Task
from agentfs.tasks.policy import Judgement, Moment
from agentfs.tasks.task_table import TaskTable
from agentfs.tasks.view import SeenTask
from agentfs.tasks.workers import Workers

__all__ = ["Panel"]


class Panel:
    """Asks them, and reads their answers. Inside a transaction."""

    def __init__(
        self,
        ground: Ground,
        rows: TaskTable,
        workers: Workers,
        table: ProcessTable,
        approvals: Approvals,
        consensus: Consensus,
    ) -> None:
        self._clock = ground.clock
        self._rows = rows
        self._workers = workers
        self._table = table
        self._approvals = approvals
        self._consensus = consensus

    def _interested(self, task: Task, when: str) -> str:
        """The agent whose task, or result, it is."""
        worker = self._workers.find(task.worker) if when == Moment.RESULT.value else None
        if worker is None:
            return task.submitter
        return worker.agent or worker.ownership.owner

    def _text(self, pending: Deliberation, task: Task) -> bytes:
        of_result = pending.when == Moment.RESULT.value
        if of_result:
            head = f"Is the result of task {task.id} right, which {task.worker} gives?"
        else:
            head = f"May task {task.id} of {task.submitter} be done?"
        text = f"{head}\n\n{SeenTask(task, self._rows, result=of_result).text()}"
        return text.encode("utf-8", "surrogatepass")

    # -- one who approves --------------------------------------------------------------------------

    def ask_approver(self, pending: Deliberation, task: Task) -> int:
        """The number of a request in /dev/approvals. Raises EAGAIN, and EDQUOT, if the agent whose
        task it is waits for too many decisions, ENOSPC while the audit is full."""
        rule, name = pending.rule, self._interested(task, pending.when)
        process = self._table.by_name(name) or self._table.get(INIT)
        others = [each for each in rule.by if each != name]
        wanted = ApprovalError(
            f"rule {rule.name} of /etc/guardian.yaml needs an approval",
            rule=f"guardian.yaml: {rule.name}",
            pid=process.pid,
            agent=name,
            user=process.user,
            action="complete the task" if pending.when == Moment.RESULT.value else "run the task",
            path=f"/dev/tasks/{task.id}",
            by=", ".join(others) or OPERATOR,
            timeout=rule.timeout,
            content=Content.of(self._text(pending, task)),
        )
        return self._approvals.file(wanted).id

    def is_decided(self, pending: Deliberation) -> bool:
        """Whether somebody has decided the request, or nobody will."""
        request = self._approvals.find(pending.request)
        return request is None or request.state is not ApprovalState.PENDING

    def decision(self, pending: Deliberation) -> Judgement:
        """What was decided; an approval is used up by that."""
        rule, request = pending.rule, self._approvals.find(pending.request)
        if request is None:
            return rule.no("the request for an approval is no more")
        if request.agreed:
            if request.state is ApprovalState.APPROVED:
                self._approvals.use(request.id)
            return rule.yes(request.who)
        if request.state is ApprovalState.REJECTED:
            return rule.no(request.reason or "it was not approved", request.who)
        if request.state is ApprovalState.EXPIRED:
            return rule.no(f"nobody decided request {request.name} in time")
        return rule.no(f"request {request.name} was withdrawn")

    # -- a quorum ----------------------------------------------------------------------------------

    def ask_quorum(
        self, pending: Deliberation, task: Task
    ) -> tuple[dict[str, int], dict[str, str]] | Judgement:
        """The questions to the voters, by name, and the votes of those who cannot be asked; or the
        verdict, if there are too few. Raises EAGAIN if nobody can be asked now."""
        self._consensus.check_room()
        rule, name = pending.rule, self._interested(task, pending.when)
        voters = [each for each in rule.voters if each != name]
        if needed(rule, voters) > len(voters) or not voters:
            words = f"{rule.quorum} of the voters had to agree, and but for {name} there are"
            return rule.no(f"{words} {len(voters)}")
        text, deadline = self._text(pending, task), self._clock.now() + rule.timeout
        questions, votes = dict[str, int](), dict[str, str]()
        for voter in voters:
            try:
                questions[voter] = self._consensus.ask(voter, task.id, text, deadline)
            except KernelError as failure:
                questions[voter], votes[voter] = 0, f"{SILENT}: {failure.reason}"
        return questions, votes

    def votes(self, pending: Deliberation) -> dict[str, str]:
        """What was answered by now, by the voters' names."""
        votes = dict(pending.votes)
        for voter, question in pending.questions.items():
            if voter not in votes and (vote := self._consensus.vote(question)):
                votes[voter] = vote
        return votes

    @staticmethod
    def outcome(pending: Deliberation) -> Judgement | None:
        """The verdict of a quorum, as soon as no vote can change it."""
        rule, votes = pending.rule, pending.votes
        voters = tuple(pending.questions)
        most = needed(rule, voters)
        words = {voter: vote.replace(":", " ").split(" ")[0] for voter, vote in votes.items()}
        yes = [voter for voter, word in words.items() if word == YES]
        by = ", ".join(f"{voter} {word}" for voter, word in words.items())
        if len(yes) >= most:
            return rule.yes(by)
        if len(voters) - (len(votes) - len(yes)) >= most:
            return None
        no = "; ".join(f"{voter}: {vote}" for voter, vote in votes.items() if voter not in yes)
        return rule.no(f"{most} had to agree, and {len(yes)} did: {no}", by)

    def dismiss(self, pending: Deliberation) -> None:
        """Nobody who was asked need answer any more."""
        if pending.request:
            self._approvals.withdraw(pending.request, "nobody waits for it any more")
        for question in filter(None, pending.questions.values()):
            self._consensus.withdraw(question)
