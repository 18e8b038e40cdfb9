"""Starting what a schedule, an entity or a system is to start, for whoever has made that."""

from __future__ import annotations

from typing import Protocol

from agentfs.triggers.maker import Maker
from agentfs.workflow.model import Start

__all__ = ["Launcher"]


class Launcher(Protocol):
    """It starts pipelines and systems. `kind` is the folder of /etc that has the document."""

    def check(self, maker: Maker, kind: str, name: str) -> None:
        """Raise what a start would be refused with, as far as that is known before: ENOENT,
        EACCES, EPERM, EINVAL."""

    def start(self, maker: Maker, kind: str, start: Start) -> int:
        """Start it, as part of the transaction under way; its number, a pid. Raises KernelError."""

    def cancel(self, number: int, why: str) -> None:
        """End it; its end is told by `Part.run_ended`."""

    def is_open(self, number: int) -> bool:
        """Whether it has been started, and has not ended."""
