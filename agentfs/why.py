"""Why a process does not get on: what it waits for, since when, or what stands in its way.

One line a process, as /proc/PID/wchan is on Linux: `KIND SINCE DETAIL`. It is put together from
what the rest of the kernel knows; what only an event tells is kept here.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.approvals.approvals import Approvals
from agentfs.approvals.events import ApprovalAsked, ApprovalDecided
from agentfs.approvals.request import ApprovalState
from agentfs.audit.events import CallRefused
from agentfs.base.clock import Timer, rfc3339
from agentfs.base.text import one_line
from agentfs.mail.events import (
    MessageArrived,
    MessageClaimed,
    MessageDone,
    MessageGivenUp,
    MessageReturned,
)
from agentfs.mail.mail import Mail
from agentfs.mail.stalls import Stalls
from agentfs.model.principal import INIT
from agentfs.model.process import Process, ProcessKind, State
from agentfs.process.events import (
    AgentResumed,
    AgentStalled,
    ProcessChanged,
    ProcessExited,
    ProcessReaped,
    ProcessRestarted,
    ProcessSpawned,
    ShownStateChanged,
    StateChanged,
    WhyChanged,
)
from agentfs.process.settings import ProcessSettings
from agentfs.process.step_files import ATTEMPT, NODE, run_of
from agentfs.process.supervisor import Supervisor
from agentfs.process.table import ProcessTable
from agentfs.process.waits import Wait, Waits
from agentfs.quota.events import BudgetChanged, LimitChanged, TaskTimedOut, UseRecorded
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["MOMENT", "PEOPLE", "Why"]

MOMENT = 0.1
"""Seconds after which what changed is announced, all of it at once: mail under load changes why a
process waits thousands of times a second."""

PEOPLE = frozenset({"approval", "budget", "limit", "full"})
"""The kinds in which somebody has to do something before it gets on: its state is `waiting`."""

NAMED = 5
"""Steps of a run that are named."""

LONGEST = 200
"""Characters of a line of output, or of a reason."""

_FIRST = {"model": 1, "tool": 2, "ask": 3, "queue": 4}
_LAST = {"mail": 1, "topic": 2, "overheard": 3, "end": 4}
_REFUSED = {"EDQUOT": "limit", "EAGAIN": "limit", "ENOSPC": "full"}
_GOES_ON = (UseRecorded, ProcessRestarted, BudgetChanged, LimitChanged)


@dataclass(slots=True)
class _Refusals:
    """The same refusal, so many times since `since`, with nothing done in between."""

    kind: str
    rule: str
    since: float
    reason: str = ""
    count: int = 0


class Why(Part):
    """Of every process. `of(process)` is cheap: a read of a file, not of the store."""

    def __init__(
        self,
        ground: Ground,
        table: ProcessTable,
        supervisor: Supervisor,
        mail: Mail,
        stalls: Stalls,
        approvals: Approvals,
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._timers = ground.timers
        self._settings = ground.settings
        self._table = table
        self._supervisor = supervisor
        self._mail = mail
        self._stalls = stalls
        self._approvals = approvals
        self.waits = Waits(ground, self.look)
        self._refused: dict[int, _Refusals] = {}
        self._timed_out: dict[int, tuple[float, str]] = {}
        self._stopped: dict[int, tuple[float, str]] = {}
        self._ended: dict[int, tuple[float, int, str]] = {}  # the last end of its program
        self._silent: dict[int, float] = {}
        self._told: dict[int, str] = {}
        self._shown: dict[int, str] = {}  # the word in the place of that of the table
        self._changed: set[int] = set()
        self._timer: Timer | None = None
        ground.events.listen(
            self._heard,
            *(StateChanged, ProcessChanged, ProcessExited, ProcessRestarted, ProcessSpawned),
            *(ProcessReaped, ApprovalAsked, ApprovalDecided, CallRefused, TaskTimedOut),
            *(AgentStalled, AgentResumed, UseRecorded, BudgetChanged, LimitChanged),
        )
        ground.events.listen(self._mail_waits, MessageArrived, MessageReturned, MessageGivenUp)
        ground.events.listen(self._works, MessageClaimed, MessageDone)

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests."""
        tables = ("_refused", "_timed_out", "_stopped", "_ended", "_silent", "_told", "_shown")
        return {name[1:]: len(getattr(self, name)) for name in tables}

    # -- the line ----------------------------------------------------------------------------------

    def of(self, process: Process) -> str:
        """`KIND SINCE DETAIL`: a word, a time (RFC 3339), and what it is about."""
        wait = self.wait(process)
        return f"{wait.kind} {rfc3339(wait.since)} {one_line(wait.detail)}".rstrip()

    def state(self, process: Process) -> str:
        """The word for its state: that of the table, but `waiting` where somebody else has to do
        something, and `hung` after a task that was taken from it."""
        if process.state in (State.IDLE, State.RUNNING) and process.pid != INIT:
            kind = self.wait(process).kind
            if kind in PEOPLE:
                return "waiting"
            if kind == "hung":
                return kind
        return process.state.value

    def wait(self, process: Process) -> Wait:
        """What stands in its way most."""
        if not process.state.alive:
            return Wait("ended", process.ended, _ending(process.exit_code, process.output))
        for look in (
            self._stop,
            self._ending,
            self._restart,
            self._approval,
            self._waits_first,
            self._refusal,
            self._work,
            self._hung,
            self._silence,
            self._waits_last,
        ):
            found = look(process)
            if found is not None:
                return found
        if process.light:
            return self._of_run(process)
        since = process.changed / 1e9
        if process.ospid is None:
            return Wait("none", since, "it has no program: a person reads its mail, or nobody yet")
        return Wait("program", since, "its program runs, and waits for nothing here")

    def _of_run(self, process: Process) -> Wait:
        """What a run is at, or what a step is for."""
        if process.kind is ProcessKind.STEP:
            node, attempt = process.metadata[NODE], process.metadata[ATTEMPT]
            words = f"node {node} of run {run_of(process)}, attempt {attempt}"
            return Wait("program", process.started, words)
        below = self._table.live_children(process.pid)
        steps = [child.metadata[NODE] for child in below if child.kind is ProcessKind.STEP]
        if not steps:
            return Wait("run", process.started, f"/proc/runs/{process.pid}/nodes says for what")
        more = f", and {len(steps) - NAMED} more" if len(steps) > NAMED else ""
        return Wait("run", process.started, f"programs of {', '.join(steps[:NAMED])}{more}")

    def _stop(self, process: Process) -> Wait | None:
        if process.state is not State.SLEEPING:
            return None
        since, who = self._stopped.get(process.pid, (process.changed / 1e9, ""))
        return Wait("stopped", since, f"by {who}" if who else "")

    def _ending(self, process: Process) -> Wait | None:
        if not process.stopping:
            return None
        return Wait("ending", process.changed / 1e9, process.reason or "it was asked to end")

    def _restart(self, process: Process) -> Wait | None:
        if process.state is not State.BLOCKED or not process.exec or process.ospid is not None:
            return None
        since, code, line = self._ended.get(process.pid, (process.changed / 1e9, 0, ""))
        restarts = self._supervisor.restarts
        due = restarts.due(process.pid)
        end = _ending(code, line) if process.pid in self._ended else ""
        if due is None:
            parent = self._table.name_of(process.ppid)
            return Wait("restart", since, f"when {parent} is ready{': ' if end else ''}{end}")
        most = self._settings.of(ProcessSettings).restart_attempts
        attempt = f"{restarts.attempts(process.pid)}/{most} at {rfc3339(due)}"
        return Wait("restart", since, f"{attempt}: {end}" if end else attempt)

    def _approval(self, process: Process) -> Wait | None:
        for request in self._approvals.waiting(process.name):
            if request.state is ApprovalState.PENDING:
                detail = f"{request.name} by {request.by} until {rfc3339(request.deadline)}"
                return Wait("approval", request.asked, f"{detail}: {request.action} {request.path}")
        return None

    def _parked(self, process: Process, order: dict[str, int]) -> Wait | None:
        waits = [wait for wait in self.waits.of(process.pid) if wait.kind in order]
        return min(waits, key=lambda wait: order[wait.kind], default=None)

    def _waits_first(self, process: Process) -> Wait | None:
        return self._parked(process, _FIRST)

    def _waits_last(self, process: Process) -> Wait | None:
        return self._parked(process, _LAST)

    def _refusal(self, process: Process) -> Wait | None:
        found = self._refused.get(process.pid)
        if found is None or self._waits_since(process.pid, found):
            return None
        detail = f"{found.reason}, refused {found.count} time{'s' * (found.count != 1)}"
        return Wait(found.kind, found.since, detail)

    def _waits_since(self, pid: int, refused: _Refusals) -> bool:
        """Whether it waits for mail since it was refused: then it has let that be."""
        waits = self.waits.of(pid)
        return any(wait.kind == "mail" and wait.since >= refused.since for wait in waits)

    def _work(self, process: Process) -> Wait | None:
        claims = self._mail.delivery.tasks.of(process.pid)
        if not claims:
            return None
        first = claims[0]
        detail = f"{first.id} from {first.sender} (attempt {first.attempt})"
        if first.mailbox != process.name:
            detail += f" of {first.mailbox}"
        if len(claims) > 1:
            detail += f", and {len(claims) - 1} more"
        return Wait("working", first.claimed_at, detail)

    def _hung(self, process: Process) -> Wait | None:
        found = self._timed_out.get(process.pid)
        if found is None or self.waits.of(process.pid):
            return None
        return Wait("hung", *found)

    def _silence(self, process: Process) -> Wait | None:
        if not self._stalls.is_stalled(process.pid):
            return None
        count = self._mail.mailbox(process.name).waiting
        since = self._silent.get(process.pid, process.changed / 1e9)
        return Wait("silent", since, f"{count} waiting for it")

    # -- what happens ------------------------------------------------------------------------------

    def program_ended(self, process: Process, code: int) -> None:
        line = self._supervisor.output(process)
        self._ended[process.pid] = (self._clock.now(), code, line)

    def _heard(self, record: Record) -> None:
        event, pid = record.event, record.pid
        match event:
            case ProcessReaped():
                self._forget(event.pid)
                return
            case CallRefused(pid=int() as pid, errno=code, reason=reason, rule=rule):
                self._count_refusal(pid, code, reason, rule)
            case TaskTimedOut(id=number, seconds=seconds):
                words = f"{number} was taken from it after {seconds} s, and it did nothing since"
                self._timed_out[event.pid] = (record.time, words)
            case AgentStalled(seconds=seconds):
                self._silent[event.pid] = record.time - seconds
            case StateChanged(new="sleeping"):
                acting = self._store.acting
                self._stopped[event.pid] = (record.time, "" if acting is None else acting.name)
            case _ if isinstance(event, _GOES_ON) and pid is not None:
                self._refused.pop(pid, None)
                if isinstance(event, ProcessRestarted):
                    self._timed_out.pop(pid, None)
        if pid is not None:
            self.look(pid)

    def _mail_waits(self, record: Record) -> None:
        if record.pid is not None:
            self.look(record.pid)

    def _works(self, record: Record) -> None:
        """It takes its mail, and finishes it."""
        pid = record.pid
        if pid is not None:
            self._refused.pop(pid, None)
            self._timed_out.pop(pid, None)
            self.look(pid)

    def refusal_repeated(self, pid: int, code: str, reason: str, rule: str) -> None:
        self._count_refusal(pid, code, reason, rule)
        self.look(pid)

    def _count_refusal(self, pid: int, code: str, reason: str, rule: str) -> None:
        kind = _REFUSED.get(code)
        if kind is None or (code == "EAGAIN" and not rule):
            return
        kind = "budget" if rule == "budget" else kind
        found = self._refused.get(pid)
        if found is None or (found.kind, found.rule) != (kind, rule):
            found = self._refused[pid] = _Refusals(kind, rule, self._clock.now())
        found.count += 1
        found.reason = one_line(reason)[:LONGEST]

    def _forget(self, pid: int) -> None:
        for table in (self._refused, self._timed_out, self._stopped, self._ended, self._silent):
            table.pop(pid, None)
        self._told.pop(pid, None)
        self._shown.pop(pid, None)
        self._changed.discard(pid)

    # -- telling -----------------------------------------------------------------------------------

    def look(self, pid: int) -> None:
        """Something about process `pid` changed: see in a moment what it waits for now."""
        if pid in self._changed:
            return  # the timer runs
        self._changed.add(pid)
        if self._timer is None or not self._timer.active:
            self._timer = self._timers.call_later(MOMENT, self._tell)

    def _tell(self) -> None:
        changed, self._changed = self._changed, set()
        for pid in changed:
            process = self._table.find(pid)
            if process is None:
                continue
            text = self.of(process)
            if self._told.get(pid) != text:
                self._told[pid] = text
                self._events.hint(WhyChanged(pid, process.name))
            word = self.state(process)
            shown = word if word != process.state.value else ""
            if self._shown.get(pid, "") != shown:
                self._shown[pid] = shown
                self._events.hint(ShownStateChanged(pid, process.name))


def _ending(code: int | None, output: str) -> str:
    """An exit code, and the last line that was written."""
    lines = output.split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    words = "an unknown code" if code is None or code < 0 else f"code {code}"
    return f"{words}: {one_line(last.strip())[:LONGEST]}" if last else words
