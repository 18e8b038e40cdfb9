"""Messages a minute: what counts, what is refused, and that no limit costs nothing."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.mail.message import Draft
from agentfs.mail.settings import MessageSettings
from agentfs.model.process import Process
from tests.process.world import OPERATOR, as_agent
from tests.quota.limits_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "state", None)
    yield world
    world.close()


def sender(world: World, limit: int | None, **spec: object) -> Process:
    return world.child("sender", role="daemon", limits={"messages_per_minute": limit}, **spec)


def is_refused(call: Callable[[], object]) -> bool:
    """Whether the rate refuses it, and nothing else."""
    try:
        call()
    except KernelError as refused:
        assert (refused.errno, refused.rule) == (errno.EAGAIN, "messages_per_minute")
        return True
    return False


# -- HiveKernel's tests, by name -------------------------------------------------------------------


def test_rate_limiter_allow(world: World) -> None:
    """TestRateLimiterAllow: three a minute, the fourth is refused."""
    process = sender(world, 3)
    assert [is_refused(lambda: world.send(process, "init")) for _ in range(4)] == [False] * 3 + [
        True
    ]


def test_rate_limiter_window_expiry(world: World) -> None:
    """TestRateLimiterWindowExpiry: allowed again after the window; exactly 60 s are enough."""
    process = sender(world, 1)
    world.send(process, "init")
    world.later(59.999)
    assert is_refused(lambda: world.send(process, "init"))
    world.later(0.001)
    assert not is_refused(lambda: world.send(process, "init"))
    world.later(61)
    assert not is_refused(lambda: world.send(process, "init"))


def test_rate_limiter_no_limit(world: World) -> None:
    """TestRateLimiterNoLimit: always allowed, and then nobody even asks."""
    process = sender(world, None)
    assert world.rates.sizes()["rate limits"] == 0
    for _ in range(200):
        world.send(process, "init")
    assert world.limits.used(process, "messages_per_minute") == 0
    assert world.rates.sizes() == {"rate windows": 0, "rate limits": 0}


def test_rate_limiter_remove(world: World) -> None:
    """TestRateLimiterRemove: without its limit it is always allowed again."""
    process = sender(world, 1)
    world.send(process, "init")
    assert is_refused(lambda: world.send(process, "init"))
    world.limit(process, "messages_per_minute", "max")
    for _ in range(5):
        world.send(process, "init")
    assert world.rates.sizes()["rate limits"] == 0


# -- what counts -----------------------------------------------------------------------------------


def test_everything_that_is_sent_counts_and_a_broadcast_as_one(world: World) -> None:
    process = sender(world, 5)
    world.child("other")
    queue = world.queues.create(OPERATOR, "work", 0o777)
    topic = world.topics.create(OPERATOR, "news", 0o777)
    who = as_agent(process)

    def draft(to: str, **more: object) -> Draft:
        made = Draft(to, b"hello")
        for name, value in more.items():
            setattr(made, name, value)
        return made

    ways: list[Callable[[], object]] = [
        lambda: world.mail.send(who, "sender", draft("init")),
        lambda: world.mail.send(who, "sender", draft("sender", filename="1.mine")),
        lambda: world.mail.send(who, "sender", draft("*")),
        lambda: world.queues.send(who, queue, draft("work")),
        lambda: world.topics.publish(who, topic, b"hello"),
    ]
    for number, way in enumerate(ways, start=1):
        way()
        assert world.limits.used(process, "messages_per_minute") == number
    checks: list[Callable[[], object]] = [
        lambda: world.mail.check(who, "sender", "init"),
        lambda: world.queues.check(who, queue),
        lambda: world.topics.check_publish(who, topic),
    ]
    assert all(is_refused(way) for way in ways + checks)
    world.later(60)
    assert not any(is_refused(check) for check in checks)
    assert world.limits.used(process, "messages_per_minute") == 0  # to ask counts nothing


def test_refused_calls_are_not_counted(world: World) -> None:
    process = sender(world, 2)
    for bad in ("nobody", "init"):
        size = world.settings.of(MessageSettings).max_size + 1
        with pytest.raises(KernelError):
            world.send(process, bad, "x" * size)
    with pytest.raises(KernelError), world.store.transaction():
        world.send(process, "init")
        raise KernelError(errno.EIO, "the store failed")
    assert world.limits.used(process, "messages_per_minute") == 0
    world.send(process, "init")
    world.send(process, "init")
    for _ in range(3):
        assert is_refused(lambda: world.send(process, "init"))
    world.later(60)
    assert not is_refused(lambda: world.send(process, "init"))


def test_a_change_of_the_limit_does_not_clear_the_window(world: World) -> None:
    process = sender(world, 5)
    for _ in range(4):
        world.send(process, "init")
    world.limit(process, "messages_per_minute", 3)
    assert is_refused(lambda: world.send(process, "init"))
    world.limit(process, "messages_per_minute", 5)
    assert not is_refused(lambda: world.send(process, "init"))
    assert is_refused(lambda: world.send(process, "init"))


def test_a_limit_of_0_lets_nothing_through(world: World) -> None:
    process = sender(world, 0)
    assert is_refused(lambda: world.send(process, "init"))


def test_of_fifty_senders_at_once_exactly_n_get_through(world: World) -> None:
    process = sender(world, 20)
    outcomes = [is_refused(lambda: world.send(process, "init")) for _ in range(50)]
    assert outcomes.count(False) == 20
    assert world.waiting("init") == 20


def test_each_process_has_its_own_window_and_the_operator_none(world: World) -> None:
    world.configure_limits(messages_per_minute=1)
    first, second = world.child("first"), world.child("second")
    for process in (first, second):
        world.send(process, "init")
        assert is_refused(lambda process=process: world.send(process, "init"))
    world.tell("first", 10)
    draft = Draft("init", b"in its name")
    world.mail.send(OPERATOR, "first", draft)
    world.configure_limits()
    assert world.rates.sizes()["rate limits"] == 0


def test_a_limit_above_it_holds_for_a_process(world: World) -> None:
    parent = world.child("parent", role="lead", limits={"messages_per_minute": 1})
    child = world.child("child", parent)
    world.send(child, "parent")
    assert is_refused(lambda: world.send(child, "parent"))


def test_limits_of_the_last_daemon_hold_in_the_next(world: World) -> None:
    process = sender(world, 1)
    again = world.restarted()
    same = again.table.get(process.pid)
    again.send(same, "init")
    assert is_refused(lambda: again.send(same, "init"))
    again.close()
