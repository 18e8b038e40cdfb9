"""Requests to a process in `/proc/PID`: commands, a child, an escalation."""

from __future__ import annotations

from agentfs.mail.settings import MessageSettings
from agentfs.model.spec import parse_spec
from agentfs.providers.process import ProcessRows
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import control, transaction
from agentfs.vfs.handles import as_text

__all__ = ["CommandRows"]


class CommandRows(ProcessRows):
    """Commands to a process, and what it asks for itself."""

    @control(
        "ctl",
        0o200,
        example="term 10s",
        errors={
            "EINVAL": "unknown command, or wrong arguments",
            "ESRCH": "reparent: no such process",
            "EACCES": "the role may not do that to this process",
            "EPERM": "process 1, another user's process, a higher tier, an illegal transition",
            "EAGAIN": "reparent: the child limit",
            "ELOOP": "reparent: to itself or to one below it",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: TERM, KILL, STOP, CONT, HUP, `term 10s` (with a grace period), kill-branch,
        `reparent PID`, idle, running, ready (its children may start), `done CODE TEXT`."""
        self._process.process  # noqa: B018  # ESTALE
        self._kernel.processes.command(caller.principal, self._pid, command)

    @transaction(
        "spawn",
        0o600,
        example="{name: bob, role: worker, exec: [python3, bob.py]}",
        errors={
            "EINVAL": "not a valid spec",
            "EACCES": "you are neither this process nor the operator; or its role may not spawn",
            "EPERM": "the tier is above its parent's; another user; the role kernel",
            "EAGAIN": "the child limit",
            "EEXIST": "the name is taken",
            "ETIMEDOUT": "its program did not start within 10 s",
        },
    )
    async def spawn(self, request: bytes, caller: Caller) -> str:
        """Write a spec (YAML or JSON): a child of this process starts. Read its pid back."""
        self._process.process  # noqa: B018  # ESTALE
        spec = parse_spec(as_text(request))
        child = await self._kernel.processes.spawn(caller.principal, self._pid, spec)
        return f"{child.pid}\n"

    @transaction(
        "escalate",
        0o600,
        limit="message_limit",
        example="error the build fails on main",
        errors={
            "EINVAL": "no severity, or no text",
            "ESRCH": "it has ended, or is process 1",
            "EACCES": "you are neither this process nor the operator; or its role may not",
            "EAGAIN": "it waits for messages.max_open_asks answers already",
            "ENOSPC": "every inbox above it is full",
        },
    )
    async def escalate(self, request: bytes, caller: Caller) -> str:
        """Write `SEVERITY TEXT` (info, warning, error or critical): the parent gets it as a message
        of `Type: escalation`, and without a reply in time the next one up, to process 1. Read its
        id back: it is one of the agent's `asks`."""
        self._process.process  # noqa: B018  # ESTALE
        severity, _, text = as_text(request).lstrip().partition(" ")
        escalate = self._kernel.escalations.escalate
        ask = escalate(caller.principal, self._pid, severity.strip(), text)
        return f"{ask.key}\n"

    def message_limit(self) -> int:
        return self._kernel.settings.of(MessageSettings).max_size
