"""The one exception that a system call of the kernel raises, and nothing else."""

from __future__ import annotations

import errno as _errno
import os

from agentfs.base.content import Content

__all__ = ["ApprovalError", "KernelError", "ShareError"]


FILE_WORK = frozenset(
    {
        _errno.ENOENT,
        _errno.EEXIST,
        _errno.ENOTEMPTY,
        _errno.ENOTDIR,
        _errno.EISDIR,
        _errno.EXDEV,
        _errno.ELOOP,
        _errno.EMLINK,
        _errno.ENAMETOOLONG,
        _errno.ESTALE,
        _errno.ETXTBSY,
        _errno.EBADF,
        _errno.ESPIPE,
        _errno.ERANGE,
        _errno.ENODATA,
        _errno.ENOTSUP,
        _errno.EREMOTEIO,
    }
)
"""What any disk says of a path or a file to anybody. `mv`, `cp`, `git` and `rm -r` live with these
all day: each is an answer, and no decision about the caller. EREMOTEIO is that of a tool, or of a
provider of models, that failed."""


class KernelError(Exception):
    """A system call that was refused, or that failed; nothing was changed.

    `errno` is what the caller's system call returns. `reason` is a sentence that a person can act
    on ("bob may only write to its parent alice"); it is what `/proc/self/error` shows. `rule`
    names the rule that decided, where there is one ("routing", "max_children"). `retry_after`: the
    same call may succeed in so many seconds; None: nobody knows when. `discreet`: path and reason
    have a name in them that is the caller's own business; nobody else is told.
    """

    def __init__(
        self, errno: int, reason: str, *, rule: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.errno = errno
        self.reason = reason
        self.rule = rule
        self.retry_after = retry_after
        self.discreet = False

    @property
    def is_refusal(self) -> bool:
        """Whether the caller was kept from something, which the audit records: a rule decided, or
        the errno is none of `FILE_WORK`."""
        return bool(self.rule) or self.errno not in FILE_WORK

    @property
    def code(self) -> str:
        """The errno's name, as in errno(3): `EACCES`."""
        return _errno.errorcode.get(self.errno, str(self.errno))

    def __str__(self) -> str:
        rule = f" [{self.rule}]" if self.rule else ""
        return f"{self.code}: {self.reason}{rule}"

    @classmethod
    def from_os(cls, error: OSError, doing: str) -> KernelError:
        """The failure of one of our own calls to Linux; `doing` says what it was for."""
        number = error.errno or _errno.EIO
        return cls(number, f"{doing}: {os.strerror(number)}")


class ShareError(KernelError):
    """The caller would have more of `pot` than its share: it holds `held`, and `left` are kept for
    others."""

    def __init__(
        self, errno: int, reason: str, *, rule: str, pot: str, held: int, left: int
    ) -> None:
        super().__init__(errno, reason, rule=rule)
        self.pot = pot
        self.held = held
        self.left = left


class ApprovalError(KernelError):
    """The call may be made, but only once `by` agrees. The caller can ask for that, wait, and make
    it again; a caller that does not wait sees EAGAIN. `timeout` is in seconds, `content` is what
    `by` agrees to."""

    def __init__(
        self,
        reason: str,
        *,
        rule: str,
        pid: int,
        agent: str,
        user: str,
        action: str,
        path: str,
        by: str,
        timeout: float,
        content: Content,
    ) -> None:
        super().__init__(_errno.EAGAIN, reason, rule=rule)
        self.pid = pid
        self.agent = agent
        self.user = user
        self.action = action
        self.path = path
        self.by = by
        self.timeout = timeout
        self.content = content
