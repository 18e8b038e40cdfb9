"""The boundary: whatever a handler raises becomes an errno, and never leaves it.

An exception that leaves a pyfuse3 handler ends the daemon and with it the mount; and so does an
answer that pyfuse3 cannot send, of which a node's own handlers give some.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import pyfuse3

from agentfs.base.errors import KernelError
from agentfs.mount.asked import Asked
from agentfs.vfs.waiting import driven

if TYPE_CHECKING:
    from agentfs.mount.base import Base

__all__ = ["handler"]

log = logging.getLogger(__name__)


def _is_data(answer: object) -> bool:
    return isinstance(answer, bytes | bytearray | memoryview)


def _is_number(answer: object) -> bool:
    return isinstance(answer, int) and 0 <= answer < 1 << 31


# What comes from a node as it is; all else is made of it inside the handlers.
_SENDABLE: dict[str, Callable[[object], bool]] = {
    "read": _is_data,
    "write": _is_number,
    "poll": _is_number,
    "getxattr": lambda answer: isinstance(answer, bytes),
}

# What Linux asks when nobody waits for it: the next call of a program would seem to be one of many.
UNAWAITED = frozenset({"release", "releasedir"})

P = ParamSpec("P")
T = TypeVar("T")
B = TypeVar("B", bound="Base")


def handler(
    method: Callable[Concatenate[B, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[B, P], Coroutine[Any, Any, T]]:
    """Wrap a FUSE handler: KernelError and OSError give their errno, everything else is a fault of
    ours: EIO, with the traceback in the log. So is an answer of the wrong type."""
    name = method.__name__
    sendable = _SENDABLE.get(name)

    @functools.wraps(method)
    async def guarded(operations: B, /, *args: P.args, **kwargs: P.kwargs) -> T:
        operations.wakeups.handled()
        operations.requests += 1
        try:
            pass_on = operations.wakeups.turns.pass_on
            fairness, key = operations.fairness, None
            if fairness.asks():
                key = operations.whose(name, args)
                if key is not None and name not in UNAWAITED and fairness.must_wait(key):
                    await fairness.wait(key)
            asked = Asked(operations, name, args, key)
            work = method(operations, *args, **kwargs)
            result = await driven(work, pass_on, asked.resumed, asked.paused)
            if operations.announcer.contested:
                pass_on()
                await operations.announcer.settled()
            if sendable is not None and not sendable(result):
                raise TypeError(f"{method.__name__} gave {result!r:.80}")
            return result
        except pyfuse3.FUSEError:
            raise
        except KernelError as refusal:
            raise pyfuse3.FUSEError(refusal.errno) from None
        except OSError as failure:
            number = failure.errno or errno.EIO
            if number == errno.EIO:
                log.exception("%s failed", method.__name__)
                operations.faults += 1
            raise pyfuse3.FUSEError(number) from None
        except Exception:
            log.exception("%s failed", method.__name__)
            operations.faults += 1
            raise pyfuse3.FUSEError(errno.EIO) from None

    return guarded
