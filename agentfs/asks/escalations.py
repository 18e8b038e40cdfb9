"""Escalations: a process puts something before its parent; without an answer it goes further up.

An escalation is an ask that goes on: to the parent, and each time nobody replied in time to the
next living ancestor, up to process 1. The first reply is the answer. Acknowledging is none: a loop
around `recv` does that with everything.
"""

from __future__ import annotations

import enum
import errno

from agentfs.asks.ask import Ask
from agentfs.asks.asks import Asks
from agentfs.asks.events import Escalated
from agentfs.asks.settings import EscalationSettings
from agentfs.base.errors import KernelError
from agentfs.mail.headers import mail_date
from agentfs.mail.mail import Mail
from agentfs.mail.message import Draft, Message, Priority
from agentfs.mail.routing import relation
from agentfs.model.names import INIT_NAME
from agentfs.model.principal import INIT, Principal
from agentfs.model.process import Process
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Action
from agentfs.store.ground import Ground

__all__ = ["Escalations", "Severity"]


class Severity(enum.Enum):
    """How bad it is."""

    INFO = "info"  # stays with the parent
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"  # to the parent and to process 1 at once

    @property
    def priority(self) -> Priority:
        """That of the message that says so."""
        return _PRIORITIES[self]


_PRIORITIES = {
    Severity.INFO: Priority.LOW,
    Severity.WARNING: Priority.NORMAL,
    Severity.ERROR: Priority.HIGH,
    Severity.CRITICAL: Priority.CRITICAL,
}


class Escalations:
    """The way up. An escalation that waits for its answer is among the asks of its agent."""

    def __init__(
        self, ground: Ground, gate: Gate, table: ProcessTable, mail: Mail, asks: Asks
    ) -> None:
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._table = table
        self._mail = mail
        self._asks = asks
        asks.pass_on(self._onward)

    def escalate(self, principal: Principal, pid: int, severity: str, text: str) -> Ask:
        """Put `text` before the parent of process `pid`. ESRCH (it is not alive, or has no
        parent), EACCES (another's process, or the role), EINVAL, EMSGSIZE, EAGAIN (too many are
        open), ENOSPC (every inbox above it is full)."""
        self._asks.expire_due()
        with self._gate.enter(principal) as actor:
            process = self._table.get(pid)
            if actor.pid not in (pid, INIT):
                raise KernelError(
                    errno.EACCES,
                    f"{actor.name} may not escalate for {process.name}",
                    rule="private",
                )
            if process.light:
                raise KernelError(
                    errno.EPERM,
                    f"{process.name} is a {process.kind.value} of a pipeline: a node `approval:`"
                    " asks somebody",
                    rule=process.kind.value,
                )
            if not process.state.alive or pid == INIT:
                raise KernelError(errno.ESRCH, f"nobody is above {process.name}")
            parent = next(each for each in self._table.ancestors(pid) if each.state.alive)
            path = f"/agents/{parent.name}"
            what = f"{severity} {text}".encode()
            self._gate.policy.require(process, Action.ESCALATE, path, parent, what=what)
            self._gate.policy.require_capability(process, "escalate")
            try:
                grade = Severity(severity)
            except ValueError:
                names = ", ".join(each.value for each in Severity)
                raise KernelError(errno.EINVAL, f"the severity is one of {names}") from None
            if not text.strip():
                raise KernelError(errno.EINVAL, "an escalation has a text: SEVERITY TEXT")
            self._mail.check_size(len(text.encode()))
            above = self._next(process, told=set())
            if above is None:
                raise KernelError(
                    errno.ENOSPC, f"every inbox above {process.name} is full", rule="escalation"
                )
            return self._begin(process, grade, text, above)

    def _begin(self, process: Process, grade: Severity, text: str, above: str) -> Ask:
        wait = self._patience(grade, above)
        message = self._send(process.name, above, grade, text, wait)
        ask = self._asks.open(message, wait, severity=grade.value, pid=process.pid)
        self._tell(ask, above)
        if grade is Severity.CRITICAL and above != INIT_NAME and not self._mail.is_full(INIT_NAME):
            message = self._send(process.name, INIT_NAME, grade, text, wait, ask)
            self._asks.put_to(ask, message, wait)
            self._tell(ask, INIT_NAME)
        return ask

    def _onward(self, ask: Ask) -> bool:
        """Nobody answered: put it before the next one up. False: there is none, or no need."""
        if ask.severity not in (Severity.WARNING.value, Severity.ERROR.value):
            return False
        told = set(ask.to.split(", "))
        process = self._table.find(ask.pid) or self._table.by_name(ask.to.rpartition(", ")[2])
        above = self._next(process, told)
        if above is None:
            return False
        grade = Severity(ask.severity)
        wait = self._patience(grade, above)
        text = self._asks.question(ask).partition(b"\n\n")[2].decode()
        message = self._send(ask.asker, above, grade, text, wait, ask)
        self._asks.put_to(ask, message, wait)
        self._tell(ask, above)
        return True

    def _next(self, process: Process | None, told: set[str]) -> str | None:
        """The nearest living ancestor that was not told and whose inbox has room."""
        line = [] if process is None else list(self._table.ancestors(process.pid))
        names = [each.name for each in line if each.state.alive] or [INIT_NAME]
        return next((n for n in names if n not in told and not self._mail.is_full(n)), None)

    def _patience(self, grade: Severity, receiver: str) -> float:
        """Until when `receiver` may answer before something else happens, wall clock."""
        limits = self._settings.of(EscalationSettings)
        match grade:
            case Severity.WARNING if receiver != INIT_NAME:
                wait = limits.warning_timeout
            case Severity.ERROR if receiver != INIT_NAME:
                wait = limits.error_timeout
            case _:
                wait = limits.last_timeout
        return self._clock.now() + wait

    def _send(
        self,
        sender: str,
        receiver: str,
        grade: Severity,
        text: str,
        wait: float,
        ask: Ask | None = None,
    ) -> Message:
        headers = [
            ("Auto-Submitted", "auto-generated"),
            ("Type", "escalation"),
            ("Severity", grade.value),
            ("Escalated-From", sender),
            ("Reply-By", mail_date(int(wait))),
        ]
        if ask is not None:
            headers.append(("Escalated-Past", ask.to))
            headers.append(("Escalation-Id", self._mail.threads.name(ask.id)))
        draft = Draft(receiver, text.encode(), headers, grade.priority)
        found = relation(self._table.by_name(sender), self._table.by_name(receiver))
        return self._mail.accept(receiver, sender, draft, found)

    def _tell(self, ask: Ask, to: str) -> None:
        self._events.emit(Escalated(ask.pid, ask.asker, ask.severity, to, ask.key))
