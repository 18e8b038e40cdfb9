"""Who makes a system call on the tree."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.security.principal import Principal

__all__ = ["Caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """The process behind one request: its credentials, its thread, and whom it acts for."""

    principal: Principal
    uid: int
    gid: int
    tid: int
    umask: int = 0o022
