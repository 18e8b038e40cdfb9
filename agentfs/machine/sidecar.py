"""A sidecar: a program that works for a process beside that which makes it live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agentfs.model.process import Process

__all__ = ["Sidecar"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What to start: `exec`, found and read as that of a definition of the operator. `reads` are
    files and folders of the machine that it may read besides; `env` is added to what every program
    of the process gets; `stdio` as in `launch.Terms`."""

    exec: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    stdio: tuple[int | None, int | None, int | None] = (None, None, None)

    def of(self, process: Process) -> Process:
        """`process`, as the launch of this is to see it."""
        reads = (*process.reads, *self.reads)
        return replace(process, exec=self.exec, cwd="", reads=reads, own_files=None)
