"""Starting what a schedule, an entity or a system is to start, for whoever has made that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from agentfs.triggers.maker import Maker

__all__ = ["Launcher", "Order"]


@dataclass(frozen=True, slots=True)
class Order:
    """What to start. `kind` is the folder of /etc that has the document `name`; the rest as in
    `workflow.model.Start`."""

    kind: str
    name: str
    input: Any = None
    key: str = ""
    ref: tuple[str, str] = ("", "")
    environment: str = ""
    deadline: float | None = None
    limits: dict[str, float | None] | None = None
    caps: tuple[str, ...] | None = None


class Launcher(Protocol):
    """It starts pipelines and systems."""

    def check(self, maker: Maker, order: Order) -> None:
        """Raise what a start would be refused with, as far as that is known before: ENOENT,
        EACCES, EPERM, EINVAL."""

    def start(self, maker: Maker, order: Order) -> int:
        """Start it, as part of the transaction under way; its number, a pid. Raises KernelError."""

    def cancel(self, number: int, why: str) -> None:
        """End it; its end is told by `Part.run_ended`."""

    def is_open(self, number: int) -> bool:
        """Whether it has been started, and has not ended."""
