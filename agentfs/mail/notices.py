"""Notices: what the kernel tells an agent of its own process, and a parent of its child, by mail.

A program that is started again finds exactly one notice of it, behind its other mail: the one that
an earlier start left unread is replaced. One on which the program failed comes as the next attempt,
and after two of them is a dead letter; while that lies there, no other is sent. So a worker that
takes every message for a job fails twice, and not for ever. Programs that went on running while the
daemon was away were not restarted, and get none.
"""

from __future__ import annotations

import logging
import os

from agentfs.mail.mail import Mail
from agentfs.mail.message import Message
from agentfs.model.names import INIT_NAME
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.model.process import Process
from agentfs.store.part import Part

__all__ = ["Notices"]

log = logging.getLogger(__name__)

RESTARTED = "restart-notice"
ATTEMPTS = 2  # on which a program may fail
KERNEL = Principal(Kind.OPERATOR, INIT, INIT_NAME, os.geteuid(), os.getegid())


class Notices(Part):
    """Sends them, inside the transaction of what they tell of."""

    def __init__(self, mail: Mail) -> None:
        self._mail = mail

    def program_restarts(self, process: Process, reason: str) -> None:
        """The program of `process` is about to be started again."""
        if not process.restart_notice or self._find(process.name, "dead"):
            return
        attempt = 1
        for old in self._find(process.name, "new"):
            if old.attempt > ATTEMPTS:
                self._mail.delivery.give_up(old, f"{process.name} failed on it {ATTEMPTS} times")
                return
            attempt = max(attempt, old.attempt)
            self._mail.delivery.acknowledge(KERNEL, process.name, "new", old.file)
        number = process.restarts + 1
        self._tell(
            process.name,
            f"Your program is started again: {reason}. This is restart {number}.\n",
            [("Type", RESTARTED), ("Restarts", str(number))],
            attempt=attempt,
            last=True,
        )

    def process_given_up(self, process: Process, parent: Process, reason: str) -> None:
        """`process` has failed too often and is dead; `parent` may do something about it."""
        self._tell(
            parent.name,
            f"{process.name}, process {process.pid}: {reason}.\n",
            [("Type", "escalation"), ("Severity", "error")],
        )

    def _tell(
        self,
        name: str,
        text: str,
        headers: list[tuple[str, str]],
        *,
        attempt: int = 1,
        last: bool = False,
    ) -> None:
        told = self._mail.notify(name, text.encode(), headers, attempt=attempt, last=last)
        if told is None:
            log.warning("the inbox of %s is full, it is not told: %s", name, text.strip())

    def _find(self, name: str, folder: str) -> list[Message]:
        """The restart notices in `new` or `dead`. Messages of the kernel's own are no entry of
        `sent`."""
        return [
            message
            for message in self._mail.mailbox(name).folder(folder).values()
            if message.sender == INIT_NAME
            and message.unlisted
            and f"\nType: {RESTARTED}\n".encode() in self._head(message)
        ]

    def _head(self, message: Message) -> bytes:
        head, _, _ = self._mail.content(message).partition(b"\n\n")
        return b"\n" + head + b"\n"
