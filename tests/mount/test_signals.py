"""The signals of a thread, through a descriptor that is kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentfs.mount import proc
from agentfs.mount.proc import PendingSignals, deliverable

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
USR1 = 1 << (signal.SIGUSR1 - 1)


@pytest.fixture
def signals() -> Iterator[PendingSignals]:
    kept = PendingSignals()
    yield kept
    kept.close()


@pytest.fixture
def start() -> Iterator[Callable[[], int]]:
    """Makes processes that wait, and ends them."""
    made: list[int] = []

    def child() -> int:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            while True:
                signal.pause()
        made.append(pid)
        return pid

    yield child
    for pid in made:
        end(pid)


def end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def stop_with_a_signal(pid: int) -> None:
    """A stopped process does not take a signal: it stays pending."""
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    os.kill(pid, signal.SIGUSR1)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_signal_that_comes_later_is_seen(
    signals: PendingSignals, start: Callable[[], int]
) -> None:
    pid = start()
    assert signals.deliverable(pid) == 0
    stop_with_a_signal(pid)
    assert signals.deliverable(pid) == deliverable(pid) == USR1


def test_a_thread_that_is_gone_has_none(signals: PendingSignals, start: Callable[[], int]) -> None:
    pid = start()
    assert signals.deliverable(pid) == 0
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert signals.deliverable(pid) is None  # it has ended, and nobody has waited for it
    os.waitpid(pid, 0)
    before = descriptors()
    assert signals.deliverable(pid) is None
    assert descriptors() == before - 1


@pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="only root may choose a pid")
def test_a_number_that_another_process_has_by_now_is_that_process(
    signals: PendingSignals, start: Callable[[], int]
) -> None:
    for _ in range(200):  # another program may get the number
        pid = start()
        assert signals.deliverable(pid) == 0
        end(pid)
        LAST_PID.write_text(str(pid - 1))
        heir = start()
        if heir == pid:
            stop_with_a_signal(heir)
            assert signals.deliverable(heir) == USR1
            return
    pytest.skip("no process got the number of another")


def test_a_long_status_is_read_whole(
    signals: PendingSignals, start: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of groups, which may have 65,536, comes before the signals."""
    monkeypatch.setattr(proc, "STATUS", 64)
    pid = start()
    stop_with_a_signal(pid)
    assert signals.deliverable(pid) == USR1


def test_only_some_are_kept_open(
    signals: PendingSignals, start: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proc, "LOOKED_AT", 2)
    before = descriptors()
    pids = [start() for _ in range(4)]
    for pid in pids * 2:
        assert signals.deliverable(pid) == 0
    assert descriptors() == before + 2
    signals.close()
    assert descriptors() == before
