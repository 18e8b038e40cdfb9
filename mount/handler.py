"""Around each handler: whatever it raises becomes an errno, and never leaves it.

An exception that leaves a pyfuse3 handler ends the daemon and with it the mount; and so does an
answer that pyfuse3 cannot send, of which a node's own handlers give some.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import pyfuse3
import trio

from agentfs.base.errors import KernelError
from agentfs.mount.announcer import Announcer
from agentfs.mount.requests import Asked, Requests
from agentfs.mount.wakeups import Wakeups
from agentfs.vfs.waiting import driven

__all__ = ["handler"]

log = logging.getLogger(__name__)


_DATA = (bytes, bytearray, memoryview)


def _is_data(answer: object) -> bool:
    return isinstance(answer, _DATA)


def _is_number(answer: object) -> bool:
    return isinstance(answer, int) and 0 <= answer < 1 << 31


# Answers that come from a node as they are. All others are made inside the handlers.
_SENDABLE: dict[str, Callable[[object], bool]] = {
    "read": _is_data,
    "write": _is_number,
    "poll": _is_number,
    "getxattr": lambda answer: isinstance(answer, bytes),
}

# Requests for whose answer nobody waits: the next call of a program would seem to be one of many.
UNAWAITED = frozenset({"release", "releasedir"})


class HasHandlers(Protocol):
    """The object whose methods the handlers are."""

    requests: Requests
    wakeups: Wakeups
    announcer: Announcer


P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H", bound=HasHandlers)


def handler(
    method: Callable[Concatenate[H, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[H, P], Coroutine[Any, Any, T]]:
    """Wrap a FUSE handler. KernelError and OSError give their errno. Everything else is a fault of
    ours, and so is an answer of the wrong type: EIO, with the traceback in the log."""
    name = method.__name__
    sendable = _SENDABLE.get(name)

    @functools.wraps(method)
    async def guarded(operations: H, /, *args: P.args, **kwargs: P.kwargs) -> T:
        requests, wakeups = operations.requests, operations.wakeups
        wakeups.handled()
        try:
            if requests.host.standstill.on:
                await requests.stand_still(name, args)
            fairness, key = requests.fairness, None
            if fairness.busy and fairness.asks():
                key = requests.whose(name, args)
                if key is not None and name not in UNAWAITED and fairness.must_wait(key):
                    await fairness.wait(key)
            asked = Asked(requests, name, args, key)
            work = method(operations, *args, **kwargs)
            result = await driven(work, wakeups.turns.pass_on, asked.resumed, asked.paused)
            if operations.announcer.contested:
                wakeups.turns.pass_on()
                await operations.announcer.settled()
            if sendable is not None and not sendable(result):
                raise TypeError(f"{name} gave {result!r:.80}")
            return result
        except pyfuse3.FUSEError:
            raise
        except trio.Cancelled:
            if not requests.suspended:
                raise
            raise pyfuse3.FUSEError(errno.ESTALE) from None  # its tree is no more
        except KernelError as refusal:
            raise pyfuse3.FUSEError(refusal.errno) from None
        except OSError as failure:
            number = failure.errno or errno.EIO
            if number == errno.EIO:
                log.exception("%s failed", name)
                requests.fault()
            raise pyfuse3.FUSEError(number) from None
        except Exception:
            log.exception("%s failed", name)
            requests.fault()
            raise pyfuse3.FUSEError(errno.EIO) from None

    return guarded
