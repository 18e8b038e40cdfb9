"""/dev/ports: what adapters stand for, asked the same way whatever that is."""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from agentfs.base.errors import KernelError
from agentfs.library.events import ManifestChanged, ManifestRemoved
from agentfs.providers.system_table import SystemTable
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.declare import exchange, live
from agentfs.vfs.exchange import Answerer, PendingReply
from agentfs.vfs.files import fields
from agentfs.vfs.handles import MAX_DOCUMENT
from agentfs.vfs.node import Node
from agentfs.vfs.on import on
from agentfs.vfs.table import Table

if TYPE_CHECKING:
    from agentfs.kernel import Kernel
    from agentfs.vfs.files import Owner

__all__ = ["PortDirectory", "PortsDirectory"]

KEY = ("dev", "ports")
ADAPTERS = "adapters"
"""The folder of /etc whose documents these are."""


class _PortCaller(Answerer):
    """Somebody who has the `call` of a port open."""

    def __init__(self, kernel: Kernel, caller: Caller, name: str) -> None:
        self._kernel = kernel
        self._principal = caller.principal
        self._name = name

    def limit(self) -> int:
        return MAX_DOCUMENT

    def ask(self, request: bytes, reply: PendingReply) -> None:
        self._kernel.ports.call(self._principal, self._name, request, reply)


class PortDirectory(Table):
    """/dev/ports/NAME: what the adapter NAME of /etc/adapters stands for."""

    PATH = "/dev/ports/NAME"

    def __init__(self, ports: PortsDirectory, name: str) -> None:
        self._ports = ports
        self._name = name
        self.kernel = ports.kernel
        self.key = self.at(name)

    @staticmethod
    def at(name: str) -> Hashable:
        """The key of the directory of a port."""
        return (*KEY, name)

    def owner(self) -> Owner:
        return self._ports.owner()

    def guard(self, caller: Caller) -> None:
        if self.kernel.ports.find(self._name) is None:
            raise KernelError(errno.ESTALE, f"there is no adapter {self._name} any more")

    @exchange(
        "call",
        0o666,
        example="Say hello in French.",
        errors={
            "EACCES": "a capability that the adapter requires; not opened for both",
            "EREMOTEIO": "what is behind it has failed: the reason has its words",
            "ETIMEDOUT": "nobody answered in time",
            "EHOSTUNREACH": "the agent behind it is gone",
            "EDQUOT": "a limit, or a budget, has nothing left",
            "EFBIG": "an answer of more than 16 MiB",
            "ENODATA": "nothing was written",
        },
    )
    def call(self, caller: Caller) -> Answerer:
        """Write a request, read the answer up to the end of the file; then the next one. A program
        reads the request on its input, a tool takes it as arguments, a model as a prompt, a service
        on the network as the body of a POST; an agent, or whoever takes from a queue, gets it as a
        message of `Type: port-request` and replies. It is done in the caller's name."""
        return _PortCaller(self.kernel, caller, self._name)

    @live("status", example="Name:\tgreeter\nKind:\tmodel\nBehind:\tsmall\nCalls:\t12\n…")
    def status(self) -> str:
        """Name, Kind (program, tool, model, url, agent, queue), Behind (which one), Calls (since
        the daemon started), Open (under way), Failures, Failure (the last one)."""
        ports = self.kernel.ports
        adapter, tally = ports.find(self._name) or {}, ports.tally(self._name)
        kind = ports.kind_of(adapter)
        return fields(
            ("Name", self._name),
            ("Kind", kind),
            ("Behind", adapter.get(kind, "")),
            ("Calls", tally.calls),
            ("Open", tally.open),
            ("Failures", tally.failures),
            ("Failure", tally.failure),
        )


class PortsDirectory(SystemTable):
    """/dev/ports: a directory for each adapter of /etc/adapters."""

    PATH = "/dev/ports"
    WHAT = "What adapters stand for: a directory for each."
    EACH = PortDirectory
    key = KEY

    def find(self, name: str) -> Node | None:
        return None if self.kernel.ports.find(name) is None else PortDirectory(self, name)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.library.names(ADAPTERS):
            yield name, PortDirectory(self, name)

    def each(self, key: Any) -> PortDirectory:
        return PortDirectory(self, key[-1])

    def concerned(self, event: Any) -> Sequence[Hashable]:
        return (PortDirectory.at(event.name),)

    @on(ManifestChanged)
    def _changed(self, event: ManifestChanged) -> Iterator[Change]:
        if event.kind == ADAPTERS:
            yield Created(self.key, event.name, PortDirectory(self, event.name))

    @on(ManifestRemoved)
    def _removed(self, event: ManifestRemoved) -> Iterator[Change]:
        if event.kind == ADAPTERS:
            key = PortDirectory.at(event.name)
            yield Removed(self.key, event.name, key, is_directory=True)
