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

    def unmasked(self, mode: int) -> int:
        """The mode that was meant for a new object which others are to use, too.

        Linux has taken the umask off before we see it. If `mode` is what a plain `touch` or `mkdir`
        has then, whoever may read may write as well: 0644 is 0666, and 0600 stays private.
        """
        if mode & 0o666 == 0o666 & ~self.umask:
            return mode | (mode & 0o444) >> 1
        return mode
