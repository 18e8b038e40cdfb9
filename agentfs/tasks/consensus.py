"""A quorum that decides about a task: its members are asked by mail, each for one word."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence

from agentfs.asks.ask import AskState
from agentfs.asks.asks import Asks
from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.mail.mail import Mail
from agentfs.mail.message import Draft, Relation
from agentfs.mail.notices import KERNEL
from agentfs.model.names import INIT_NAME
from agentfs.tasks.rules import GuardianRule

__all__ = ["Consensus", "needed"]

YES, NO, SILENT = "yes", "no", "silent"
"""The first word of a vote as it is kept."""

LONGEST = 64 * 1024
"""Bytes of a task in a message to a voter; the rest is in /dev/tasks."""

LONGEST_WORDS = 200
"""Characters of a voter's words that are kept."""


def needed(rule: GuardianRule, voters: Sequence[str]) -> int:
    """So many of `voters`, those who may vote, have to say yes."""
    if rule.quorum == "all":
        return len(voters)
    if rule.quorum == "majority":
        return len(voters) // 2 + 1
    return int(rule.quorum)


class Consensus:
    """Puts questions of process 1 to voters, and reads their answers. Inside a transaction."""

    def __init__(self, mail: Mail, asks: Asks) -> None:
        self._mail = mail
        self._asks = asks

    def check_room(self) -> None:
        """Raise EAGAIN if process 1 waits for too many answers already."""
        self._asks.check_room(INIT_NAME)

    def ask(self, voter: str, task: int, text: bytes, deadline: float) -> int:
        """The number of a question to a voter: `text` is what it is about. Raises ENOENT (there is
        no such agent), ENOSPC (its inbox is full), EAGAIN, and nothing is changed then."""
        self._mail.owners.of(voter).check_exists(voter)
        if self._mail.is_full(voter):
            raise KernelError(errno.ENOSPC, f"the inbox of {voter} is full")
        self.check_room()
        cut = text[:LONGEST]
        if len(cut) < len(text):
            cut += f"\n…\nThe whole task is in /dev/tasks/{task}/info.\n".encode()
        when = rfc3339(deadline)
        head = f"Reply `yes` or `no`, and then why, by {when}. Silence is a no.\n\n"
        draft = Draft(
            voter,
            head.encode() + cut,
            [("Auto-Submitted", "auto-generated"), ("Type", "vote-request"), ("Task", str(task))],
            reply_by=deadline,
            answer_apart=True,
        )
        return self._mail.accept(voter, INIT_NAME, draft, Relation.SYSTEM).seq

    def vote(self, question: int) -> str:
        """What was answered: `yes` and words, `no` and words, or `silent`, if nobody will; "" as
        long as somebody may."""
        ask = self._asks.find(question)
        if ask is None:
            return SILENT
        if ask.open:
            return ""
        if ask.state is not AskState.ANSWERED:
            return SILENT
        said = self._asks.answer(ask).partition(b"\n\n")[2].decode(errors="replace")
        word, _, words = " ".join(said.split()).partition(" ")
        if re.sub(r"\W", "", word).lower() == YES:
            return f"{YES} {words[:LONGEST_WORDS]}".rstrip()
        words = words if re.sub(r"\W", "", word).lower() == NO else f"{word} {words}"
        return f"{NO} {words[:LONGEST_WORDS]}".rstrip()

    def withdraw(self, question: int) -> None:
        """Nobody waits for the answer any more; it is dropped."""
        ask = self._asks.find(question)
        if ask is not None:
            self._asks.cancel(KERNEL, INIT_NAME, question)
