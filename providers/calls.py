"""/proc/PID/calls: the calls of models and tools that a process has open."""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterator

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.providers.children import pid_of
from agentfs.providers.process import ProcessDirectory
from agentfs.quota.call import Call
from agentfs.quota.events import CallBegun, CallEnded
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.declare import control, live
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.node import Node
from agentfs.vfs.on import on
from agentfs.vfs.table import Table

__all__ = ["CallsDirectory"]


class CallDirectory(Table):
    """/proc/PID/calls/ID: one call that is open."""

    PATH = "/proc/PID/calls/ID"
    mode = 0o700

    def __init__(self, calls: CallsDirectory, number: int) -> None:
        self._calls = calls
        self._process = calls.process
        self._number = number
        self.key = self.at(calls.key, number)

    @staticmethod
    def at(calls: Hashable, number: int) -> Hashable:
        """The key of one call in the directory with that key."""
        return (calls, number)

    @property
    def _call(self) -> Call:
        """The call itself, asked for at every operation. ENOENT once it has ended."""
        found = self._calls.call(self._number)
        if found is None:
            raise KernelError(errno.ENOENT, f"call {self._number} has ended")
        return found

    def owner(self) -> Owner:
        owner, call = self._process.owner(), self._call
        owner.mtime = int(call.started * 1e9)
        return owner

    def guard(self, caller: Caller) -> None:
        self._process.private_guard(caller)

    @live("status", 0o400, example="Kind:\tllm\nName:\tsonnet\nProvider:\tanthropic\n…\n")
    def status(self) -> str:
        """One `Key:\\tvalue` a line: Kind (llm or tool), Name, Provider, Via (how the request came:
        tcp, unix, listener, dev; call: the process asked for it in `call`), Dialect, Instead-Of
        (the name that was asked for, if it is not the model's), Held (tokens that are set aside
        now), Input (its estimate), Output (tokens that have come), First-Byte (RFC 3339; empty
        before), Started (RFC 3339), Age (seconds)."""
        call = self._call
        held, relay = call.held, call.relay
        asked = "" if relay is None or relay.instead_of == held.name else relay.instead_of
        first = None if relay is None else relay.first_byte_at
        return fields(
            ("Kind", held.kind),
            ("Name", held.name),
            ("Provider", "" if relay is None else relay.provider),
            ("Via", "call" if relay is None else relay.via),
            ("Dialect", "" if relay is None else relay.dialect),
            ("Instead-Of", asked),
            ("Held", held.tokens),
            ("Input", held.input),
            ("Output", 0 if relay is None else relay.output),
            ("First-Byte", "" if first is None else rfc3339(first)),
            ("Started", rfc3339(call.started)),
            ("Age", f"{max(0.0, self._process.kernel.clock.now() - call.started):.1f}"),
        )

    @control(
        "ctl",
        0o200,
        example="cancel",
        errors={
            "EINVAL": "not `cancel`",
            "ENOENT": "it has ended",
            "ESRCH": "the process has ended",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Command: `cancel`. A call of the gateway is stopped at the provider, and what has come by
        then counts; one that the process asked for in `call` counts for nothing."""
        if command != "cancel":
            raise KernelError(errno.EINVAL, f"`cancel` was expected, not {command[:40]!r}")
        calls = self._process.kernel.calls
        calls.end(caller.principal, self._process.pid, self._number)


class CallsDirectory(Table):
    """/proc/PID/calls: a directory for each call of a model or a tool that is open, by its id."""

    PATH = "/proc/PID/calls"
    WHAT = "The calls of models and tools that it has open."
    PRIVATE = True
    EACH = CallDirectory
    KEPT = True  # a call is asked for far more often than somebody looks here
    mode = 0o700

    def __init__(self, process: ProcessDirectory) -> None:
        self.process = process
        self.key = process.key_of("calls")

    def owner(self) -> Owner:
        return self.process.owner()

    def guard(self, caller: Caller) -> None:
        self.process.private_guard(caller)

    def call(self, number: int) -> Call | None:
        """The open call with this id."""
        return self.process.kernel.calls.find(self.process.pid, number)

    def find(self, name: str) -> Node | None:
        number = pid_of(name)
        return None if self.call(number) is None else CallDirectory(self, number)

    def more(self) -> Iterator[tuple[str, Node]]:
        for call in self.process.kernel.calls.of(self.process.pid):
            yield str(call.id), CallDirectory(self, call.id)

    @on(CallBegun)
    def _begun(self, event: CallBegun) -> Iterator[Change]:
        made = CallDirectory(self, event.call)
        made.remember()
        yield Created(self.key, str(event.call), made)

    @on(CallEnded)
    def _ended(self, event: CallEnded) -> Iterator[Change]:
        key = CallDirectory.at(self.key, event.call)
        yield Removed(self.key, str(event.call), key, is_directory=True)
