"""An ask: a question that waits for its answer, as it is kept. Its life is in `asks`."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass, field
from typing import Any

from agentfs.base.errors import KernelError

__all__ = ["Ask", "AskState"]


class AskState(enum.Enum):
    """All but the first are final."""

    OPEN = "open"
    ANSWERED = "answered"
    CANCELLED = "cancelled"  # by its asker; it is not kept any longer
    EXPIRED = "expired"  # nobody answered in time
    FAILED = "failed"  # nobody can answer any more


@dataclass(slots=True, eq=False)
class Ask:
    """A question of agent `asker`. `id` is the number of its first message.

    `questions` has, for each message that put it to somebody, the mailbox that it went to; `to`
    names them for people. `apart`: the answer is read from the ask alone, and nobody is told how
    it ends. `severity` and `pid` say that it is an escalation, and of which process. Times
    are wall clock, in seconds, 0 for never; `changed` is for st_mtime, in ns.
    """

    id: int
    asker: str
    asked: float
    deadline: float
    questions: dict[int, str] = field(default_factory=dict)
    to: str = ""
    apart: bool = False
    state: AskState = AskState.OPEN
    closed: float = 0.0
    answer: int = 0  # the number of the message that is the answer
    reason: str = ""  # why there is none
    severity: str = ""
    pid: int = 0
    changed: int = 0
    ticket: int = 0  # its place among the deadlines

    @property
    def key(self) -> str:
        """Its name: that of the question."""
        return f"{self.id:012d}"

    @property
    def open(self) -> bool:
        return self.state is AskState.OPEN

    def check(self) -> None:
        """Raise why there is no answer and will be none: ETIMEDOUT, ECANCELED, EHOSTUNREACH."""
        match self.state:
            case AskState.EXPIRED:
                raise KernelError(errno.ETIMEDOUT, f"nobody answered {self.key}: {self.reason}")
            case AskState.CANCELLED:
                raise KernelError(errno.ECANCELED, f"{self.key} was cancelled")
            case AskState.FAILED:
                raise KernelError(
                    errno.EHOSTUNREACH, f"nobody can answer {self.key}: {self.reason}"
                )

    def record(self) -> dict[str, Any]:
        """The record in the store."""
        return {
            "asker": self.asker,
            "asked": self.asked,
            "deadline": self.deadline,
            "questions": {str(seq): mailbox for seq, mailbox in self.questions.items()},
            "to": self.to,
            "apart": self.apart,
            "state": self.state.value,
            "closed": self.closed,
            "answer": self.answer,
            "reason": self.reason,
            "severity": self.severity,
            "pid": self.pid,
            "changed": self.changed,
        }

    @classmethod
    def from_record(cls, key: str, record: dict[str, Any]) -> Ask:
        """Raises ValueError, TypeError, KeyError for what is none."""
        typed = record | {
            "state": AskState(record["state"]),
            "questions": {int(seq): name for seq, name in record["questions"].items()},
        }
        return cls(id=int(key), **typed)
