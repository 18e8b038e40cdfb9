"""What is counted beside the times."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from bench.counts import children, cpu_seconds, read_perf, resident


def test_the_instructions_are_read_from_what_perf_prints() -> None:
    assert read_perf("\n123456;;instructions:u;1000;100.00;;\n") == 123456
    assert read_perf("<not supported>;;instructions:u;0;100.00;;\n") is None
    assert read_perf("5;;cycles:u;1000;100.00;;\n") is None


def test_processor_time_grows_with_work() -> None:
    before = cpu_seconds(os.getpid())
    spent = os.times().user
    while os.times().user - spent < 0.02:
        sum(range(1000))
    assert cpu_seconds(os.getpid()) - before > 0.01


def test_the_time_of_a_thread_that_has_ended_still_counts() -> None:
    def work() -> None:
        spent = os.times().user
        while os.times().user - spent < 0.05:
            sum(range(1000))

    before = cpu_seconds(os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert cpu_seconds(os.getpid()) - before > 0.03


def test_memory_and_children_of_a_process_are_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in children(os.getpid())
        assert 0 < resident(child.pid) < 1 << 30
