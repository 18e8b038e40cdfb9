"""Waiting in the midst of code that is not asynchronous.

A node asks a disk, and goes on with what that said. As a rule it is told at once; but a disk may
be slow, or hang, and then everybody else is to be served meanwhile. So each request runs in a
fiber, which has a stack of its own (a greenlet): `wait` leaves it as it stands, and whoever drives
it (`driven`) goes back there with the answer. Two switches cost 1 µs; to make all nodes and all of
their methods asynchronous for the few that may have to wait would have cost every call more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar, cast

from greenlet import getcurrent, greenlet

__all__ = ["driven", "in_fiber", "wait"]

T = TypeVar("T")


class _Wait:
    """A fiber that waits for `work()` says this."""

    __slots__ = ("work",)

    def __init__(self, work: Callable[[], Awaitable[object]]) -> None:
        self.work = work


class _Ended(tuple[BaseException]):
    """What a fiber says when its step raised: StopIteration at the end. A tuple, because making one
    calls nothing of Python."""

    __slots__ = ()


def in_fiber() -> bool:
    """Whether the caller may `wait`."""
    return getcurrent().parent is not None


def wait(work: Callable[[], Awaitable[T]]) -> T:
    """Give, or raise, what `await work()` does, while others are served. In a fiber only."""
    home = getcurrent().parent
    if home is None:
        raise RuntimeError("nobody drives this: it cannot wait")
    return cast("T", home.switch(_Wait(work)))


def _serve() -> None:
    """Take one step after another, and say what each gave."""
    home = getcurrent().parent
    assert home is not None
    step = home.switch()
    while True:
        step = home.switch(_taken(step))


def _taken(step: Any) -> object:
    """Take a step and give its result: the first of a coroutine, or a list of what to call and with
    what. The list is emptied: between two requests a fiber holds nothing of either, but a coroutine
    that has ended."""
    try:
        if type(step) is not list:
            return step.send(None)
        call, given = step
        step.clear()
        return call(given)
    except BaseException as failure:  # noqa: BLE001  # it is raised where the fiber is driven
        return _Ended((failure,))


_idle: list[greenlet] = []
"""Fibers without work: making one takes 15 µs."""


def _fiber() -> greenlet:
    made = greenlet(_serve)
    made.switch()
    return made


@coroutine
def driven(
    work: Coroutine[Any, Any, T],
    waits: Callable[[], object],
    resumed: Callable[[], object] = lambda: None,
    paused: Callable[[], object] = lambda: None,
) -> Generator[Any, Any, T]:
    """Await `work` in a fiber. `waits()` is called when it has to wait for the first time;
    `resumed()` and `paused()` before and after each piece of it that does not wait."""
    fiber = _idle.pop() if _idle else _fiber()
    resumed()
    said = fiber.switch(work)
    paused()
    if type(said) is not _Ended:
        waits()
    while type(said) is not _Ended:
        try:
            if type(said) is _Wait:
                answer = yield from _awaited(said.work)
            else:
                answer = yield said
        except BaseException as thrown:  # noqa: BLE001  # Cancelled, for one: it is the work's
            resumed()
            if type(said) is _Wait:
                said = fiber.throw(thrown)
            else:
                said = fiber.switch([work.throw, thrown])
        else:
            resumed()
            said = fiber.switch(answer if type(said) is _Wait else [work.send, answer])
        paused()
    _idle.append(fiber)
    failure = said[0]
    try:
        if type(failure) is StopIteration:
            value: T = failure.value
            return value
        raise failure
    finally:
        del said, failure  # a circle otherwise


@coroutine
def _awaited(work: Callable[[], Awaitable[object]]) -> Generator[Any, Any, object]:
    return (yield from work().__await__())
