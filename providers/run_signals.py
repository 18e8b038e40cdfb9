"""/proc/runs/ID/signals: what is sent to a run by key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created
from agentfs.vfs.files import Basics, Control, Owner
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Handle, Node
from agentfs.vfs.table import DirectoryOf
from agentfs.workflow.events import RunSignalled

if TYPE_CHECKING:
    from agentfs.providers.runs import RunDirectory

__all__ = ["SignalsDirectory", "signal_data"]


def signal_data(content: bytes) -> Any:
    """What a signal carries: the JSON value that was written; what is none is a text. Raises
    EINVAL: not UTF-8."""
    text = as_text(content).removesuffix("\n")
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


class SignalsDirectory(DirectoryOf):
    """/proc/runs/ID/signals: each write to KEY is a signal: a JSON value, or a text. It is the
    output of the node that waits for KEY; if none does yet, it is kept for that. The keys that are
    kept or waited for are listed. **EPERM**: the run has ended, or it is another's."""

    PATH = "/proc/runs/ID/signals"
    mode = 0o777

    def __init__(self, run: RunDirectory) -> None:
        self.key = run.key_of("signals")
        self._run = run
        self._runs = run.kernel.runs

    def owner(self) -> Owner:
        return self._run.owner()

    def _file(self, name: str) -> Control:
        async def send(content: bytes, caller: Caller) -> None:
            self._runs.signal(caller.principal, self._run.id, name, signal_data(content))

        node = Control(Basics(self.key_of(name), 0o222, self.owner), whole=send)
        node.timeout = 0.0  # it is there as long as somebody waits for it, or it is kept
        return node

    def lookup(self, name: str) -> Node:
        if name not in self._runs.signals(self._run.id):
            raise self.missing(name)
        return self._file(name)

    def entries(self) -> Iterator[tuple[str, Node]]:
        for name in self._runs.signals(self._run.id):
            if "/" not in name:  # such a key is no file name
                yield name, self._file(name)

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        self._run.run  # noqa: B018  # ESTALE
        node = self._file(name)
        return node, node.open(flags, caller)

    def sent(self, event: RunSignalled) -> Iterator[Change]:
        """The changes in here that a signal means."""
        yield Created(self.key, event.key, self._file(event.key))
