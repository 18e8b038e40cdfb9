"""What executors tell the engine of an attempt, and how a failure of a system call is told."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agentfs.base.errors import ApprovalError, KernelError
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step, StepRef

__all__ = ["FOR_GOOD", "beginning", "end", "fail"]

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


def fail(engine: Engine, ref: StepRef, failure: KernelError) -> None:
    """The attempt has failed as a system call did."""
    again = failure.errno not in FOR_GOOD
    kind = KINDS.get(failure.errno, "error")
    end(lambda: engine.fail(ref, str(failure), again=again, kind=kind))


@contextmanager
def beginning(engine: Engine, step: Step) -> Iterator[None]:
    """Inside the commit that begins an attempt: a refusal is its failure. One for a while (EAGAIN)
    leaves the step pending."""
    try:
        yield
    except ApprovalError as needed:  # waited for, it would wait for ever: nobody is asked
        words = f"{needed.reason}: a node of a run cannot ask for that"
        fail(engine, step.ref, KernelError(errno.EACCES, words, rule=needed.rule))
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
