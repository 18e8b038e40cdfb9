"""/dev/approvals: what waits for somebody's approval, and the answers."""

from __future__ import annotations

import errno
import re
from collections.abc import Hashable, Iterator, Sequence

from agentfs.approvals.approvals import Approvals
from agentfs.approvals.events import ApprovalAsked, ApprovalDecided, ApprovalDropped
from agentfs.approvals.request import ApprovalRequest
from agentfs.base.clock import rfc3339
from agentfs.base.errors import ApprovalError, KernelError
from agentfs.providers.system_table import SystemTable
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.declare import control, value
from agentfs.vfs.files import fields
from agentfs.vfs.node import Awaited, Node, Time
from agentfs.vfs.on import on

__all__ = ["ApprovalsDirectory", "AwaitedDecision"]

SHOWN = (ApprovalDecided,)
ASKED = (ApprovalAsked,)

SHA256 = re.compile("[0-9A-Fa-f]{64}")


class ApprovalDirectory(SystemTable):
    """/dev/approvals/ID: what is asked for, and the decision."""

    PATH = "/dev/approvals/ID"

    def __init__(self, folder: ApprovalsDirectory, request: ApprovalRequest) -> None:
        super().__init__(folder)
        self.asked = request
        self.key = self.at(request.id)

    @staticmethod
    def at(number: int) -> Hashable:
        """The key of the directory of a request."""
        return ("approval", number)

    def changed(self) -> Time:
        return self.asked.changed

    def private_guard(self, caller: Caller) -> None:
        if not self.kernel.approvals.may_see(caller.principal, self.asked):
            raise KernelError(
                errno.EACCES,
                f"this is between {self.asked.agent} and {self.asked.by}, and you are"
                f" {caller.principal.name}",
                rule="private",
            )

    @value(
        "request",
        private=True,
        on=ASKED,
        example="Id:\t000001\nAgent:\talice\nAction:\tspawn\n…",
    )
    def request(self) -> str:
        """Id, Agent, Pid, User, Action, Path, Rule (which wants the approval), By (who decides:
        `operator`, or an agent), Asked, Size (of `body`, all of it, in bytes), SHA256 (of what is
        asked for). For who asks, who decides and the operator."""
        asked = self.asked
        return fields(
            ("Id", asked.name),
            ("Agent", asked.agent),
            ("Pid", asked.pid),
            ("User", asked.user),
            ("Action", asked.action),
            ("Path", asked.path),
            ("Rule", asked.rule),
            ("By", asked.by),
            ("Asked", rfc3339(asked.asked)),
            ("Size", asked.size),
            ("SHA256", asked.sha256),
        )

    @value("body", private=True, on=ASKED, example="Pay 100 EUR.")
    def body(self) -> bytes:
        """What is asked for: the first 4096 bytes of the message, the record or the definition (as
        JSON), the signal, the command. For a message that says more than a body, its headers come
        first, and an empty line; then they are part of the hash."""
        asked = self.asked
        return (f"{asked.about}\n".encode() if asked.about else b"") + asked.content

    @value("status", on=SHOWN, example="State:\tpending\nDeadline:\t2026-11-21T09:10:00.000Z\n…")
    def status(self) -> str:
        """State (pending, approved, rejected, expired, withdrawn or used), Deadline (while pending:
        when it is rejected; approved: when that is void unless it was used), Decided (by whom;
        empty: by nobody), Reason."""
        asked = self.asked
        return fields(
            ("State", asked.state.value),
            ("Deadline", rfc3339(asked.deadline)),
            ("Decided", asked.who),
            ("Reason", asked.reason),
        )

    @control(
        "decision",
        0o222,
        example="reject not on a Friday",
        errors={
            "EINVAL": "neither `approve [SHA256]` nor `reject REASON`",
            "ESTALE": "the SHA256 is not that of what is asked for now",
            "ENOENT": "it is not yours to decide",
            "EPERM": "you ask for it yourself, or it is decided already",
        },
    )
    async def decision(self, command: str, caller: Caller) -> None:
        """Commands: approve, `approve SHA256` (only what has that hash), `reject REASON`. For the
        operator, and the agent that the rule names. An approval lets one such call through, with
        this content."""
        verb, _, rest = command.partition(" ")
        rest = rest.strip()
        if verb not in ("approve", "reject") or (
            verb == "approve" and rest and not SHA256.fullmatch(rest)
        ):
            raise KernelError(errno.EINVAL, "`approve [SHA256]` or `reject REASON` was expected")
        decide = self.kernel.approvals.decide
        if verb == "approve":
            decide(caller.principal, self.asked.id, approve=True, sha256=rest)
        else:
            decide(caller.principal, self.asked.id, approve=False, reason=rest)


class ApprovalsDirectory(SystemTable):
    """/dev/approvals: a directory for each request, pending ones and those decided lately."""

    PATH = "/dev/approvals"
    WHAT = "What waits for somebody's approval: a directory for each request."
    EACH = ApprovalDirectory
    key = ("approvals",)

    def _request(self, name: str) -> ApprovalRequest | None:
        if not (name.isascii() and name.isdigit() and len(name) <= 18):
            return None
        request = self.kernel.approvals.find(int(name))
        return request if request is not None and request.name == name else None

    def find(self, name: str) -> Node | None:
        request = self._request(name)
        return None if request is None else ApprovalDirectory(self, request)

    def more(self) -> Iterator[tuple[str, Node]]:
        for request in self.kernel.approvals:
            yield request.name, ApprovalDirectory(self, request)

    def concerned(self, event: ApprovalAsked | ApprovalDecided) -> Sequence[Hashable]:
        request = self._request(event.id)
        return () if request is None else (ApprovalDirectory.at(request.id),)

    @on(ApprovalAsked)
    def _asked(self, event: ApprovalAsked) -> Iterator[Change]:
        request = self._request(event.id)
        if request is not None:
            asked = ApprovalDirectory(self, request)
            asked.remember()
            yield Created(self.key, event.id, asked)

    @on(ApprovalDropped)
    def _dropped(self, event: ApprovalDropped) -> Iterator[Change]:
        key = ApprovalDirectory.at(int(event.id))
        yield Removed(self.key, event.id, key, is_directory=True)


class AwaitedDecision(Awaited):
    """The decision that a call waits for."""

    def __init__(self, approvals: Approvals, needed: ApprovalError) -> None:
        super().__init__()
        self._approvals = approvals
        self._request = approvals.file(needed)
        self._unsubscribe = approvals.on_decision(self._request, self.wake)

    def try_read(self, size: int) -> bytes | None:
        return b"" if self._approvals.check(self._request) else None

    def ready(self) -> bool:
        return not self._request.state.open

    def give_up(self) -> None:
        self._unsubscribe()
        self._approvals.give_up(self._request)

    def release(self) -> None:
        self._unsubscribe()
