"""What executors tell the engine of an attempt, and how a failure of a system call is told."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from agentfs.base.errors import KernelError
from agentfs.workflow.model import Step, StepRef

__all__ = ["FOR_GOOD", "Ends", "beginning", "end", "fail"]

FOR_GOOD = frozenset(
    {
        *(errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENOENT),
        *(errno.EMSGSIZE, errno.EFBIG, errno.EBADMSG, errno.EDQUOT),
    }
)
"""The same request would be refused again, or a limit is reached: no attempt follows."""

KINDS = {
    errno.EDQUOT: "limit",
    errno.ETIMEDOUT: "timeout",
    errno.EMSGSIZE: "size",
    errno.EFBIG: "size",
    errno.EBADMSG: "schema",
}


class Ends(Protocol):
    """How an attempt ends, or comes to wait: each call is a transaction, or part of the one under
    way. ESTALE if the attempt is not the newest, or is over."""

    def succeed(self, ref: StepRef, output: Any) -> None:
        """It is done, and this JSON value came of it."""

    def fail(self, ref: StepRef, error: str, *, again: bool = True, kind: str = "error") -> None:
        """It has failed. Not `again`: no other attempt can do better."""

    def wait(self, ref: StepRef, until: float | None = None, key: str = "") -> None:
        """It waits for somebody, and holds no slot: until a wall-clock time, or for a signal."""


def fail(engine: Ends, ref: StepRef, failure: KernelError) -> None:
    """The attempt has failed as a system call did."""
    again = failure.errno not in FOR_GOOD
    kind = KINDS.get(failure.errno, "error")
    end(lambda: engine.fail(ref, str(failure), again=again, kind=kind))


@contextmanager
def beginning(engine: Ends, step: Step) -> Iterator[None]:
    """Inside the commit that begins an attempt: a refusal is its failure. One for a while (EAGAIN)
    leaves the step pending."""
    try:
        yield
    except KernelError as refusal:
        if refusal.errno == errno.EAGAIN:
            raise
        fail(engine, step.ref, refusal)


def end(call: Callable[[], object]) -> None:
    """End an attempt, or let it wait, unless it is over: an answer that comes too late changes
    nothing."""
    try:
        call()
    except KernelError as refusal:
        if refusal.errno != errno.ESTALE:
            raise
