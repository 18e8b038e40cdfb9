"""The cost of many processes: a table that grows, many programs, starts with a full store, waiting.

The growing tree is measured in turns with another one that keeps about 1,000 processes, so that
their ratio holds on a busy machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from bench.counts import children, cpu_seconds, resident
from bench.population import Population
from bench.setting import Setting, Tree
from bench.table import Row, percentile

__all__ = ["measure"]

SIZES = (100, 1_000, 10_000, 100_000)
REFERENCE = 1_000

SPAWN_BESIDE_A_PLAIN_ONE = 9.0
"""Half of what it was when the daemon forked each program itself: 13 ms beside 0.75 on a machine
that did little else."""

WAITING = """
import os, sys, threading
threading.stack_size(65536)
def read(path):
    descriptor = os.open(path, os.O_RDONLY)
    arrived.release()
    os.read(descriptor, 65536)
arrived = threading.Semaphore(0)
paths = sys.stdin.read().split()
for path in paths:
    threading.Thread(target=read, args=(path,), daemon=True).start()
for path in paths:
    arrived.acquire()
print("waiting", flush=True)
threading.Event().wait()
"""


def measure(setting: Setting) -> Iterator[Row]:
    """The table, the restarts with it full, programs, and readers that wait."""
    yield from _table(setting)
    yield from _programs(setting)
    yield from _spawns(setting)
    yield from _waiting(setting)


# -- the table -------------------------------------------------------------------------------------


def _table(setting: Setting) -> Iterator[Row]:
    sizes = [20] if setting.quick else [size for size in SIZES if size <= setting.most]
    rounds = setting.size(40, 1)
    with setting.tree("many") as many_tree:
        many = Population(many_tree)
        with setting.tree("few") as few_tree:
            few = Population(few_tree)
            few.grow_to(setting.size(REFERENCE, 20))
            for size in sizes:
                times = max(1, min(5, size // 3 // (rounds + 1)))
                new = (rounds + 1) * times
                many.grow_to(size - new)
                many.unseen = many.last + 1
                for what, call in OPERATIONS.items():
                    yield _side_by_side(few, many, what, call, rounds, times)
                few.close()
                many.close()
                yield from _listing(many)
        yield from _restarts(setting, many)


def _listing(many: Population) -> Iterator[Row]:
    """The memory of each process, before and after a listing has shown it to Linux."""
    size = f"{len(many):,}"
    each = many.bytes_each() / 1024
    started = time.perf_counter()
    names = os.listdir(many.tree / "proc")
    listing = (time.perf_counter() - started) / len(names) * 1e6
    listed = {"KB once listed": many.bytes_each() / 1024}
    yield Row("scale", f"memory a process, {size}", each, "KB", target=5.0, counts=listed)
    yield Row("scale", f"ls /proc, {size}, an entry", listing, "µs")


OPERATIONS: dict[str, Callable[[Population], None]] = {
    "spawn": Population.spawn,
    "look-up": Population.look_up,
    "two state changes": Population.change_state,
}

WITHIN = {"look-up": 1.5, "two state changes": 1.5}


def _side_by_side(
    few: Population,
    many: Population,
    what: str,
    call: Callable[[Population], None],
    rounds: int,
    times: int,
) -> Row:
    """Both in turns, the best round of each; the first round is to warm up."""
    best = {few: float("inf"), many: float("inf")}
    spent = float("inf")
    for turn in range(rounds + 1):
        for population in best:
            before, started = cpu_seconds(population.tree.daemon), time.perf_counter()
            for _ in range(times):
                call(population)
            passed = (time.perf_counter() - started) / times
            if turn:
                best[population] = min(best[population], passed)
        if turn:  # `many` was the last
            spent = min(spent, (cpu_seconds(many.tree.daemon) - before) / times)
    return Row(
        "scale",
        f"{what}, {len(many):,} processes",
        best[many] * 1e6,
        "µs",
        f"{len(few):,} processes",
        best[few] * 1e6,
        WITHIN.get(what) if len(many) > REFERENCE else None,
        counts={"µs of the daemon": spent * 1e6},
    )


# -- starts ----------------------------------------------------------------------------------------


def _restarts(setting: Setting, many: Population) -> Iterator[Row]:
    """A message for every process, then kill -9 and start, and a clean stop and start."""
    tree, size = many.tree, len(many)
    before = resident(tree.daemon)
    send = os.open(tree / "agents/init/send", os.O_WRONLY)
    try:
        started = time.perf_counter()
        for pid in range(2, size + 1):
            os.write(send, b"To: bench-%d\n\nhello" % pid)
        passed = time.perf_counter() - started
    finally:
        os.close(send)
    sent = size - 1
    counts = {"KB of memory each": (resident(tree.daemon) - before) / 1024 / sent}
    yield Row("scale", f"send, {sent:,} waiting", passed / sent * 1e6, "µs", counts=counts)
    with setting.tree("empty") as empty:
        nothing = min(_start(empty) for _ in range(2))
    yield _started(many, "start after kill -9", _start(tree), nothing)
    tree.unmount()
    yield _started(many, "start after a clean stop", _start(tree, running=False), nothing)


def _start(tree: Tree, *, running: bool = True) -> tuple[float, float]:
    """Seconds from the command `agentfs mount` until its tree can be used, and the processor time
    that the daemon has used by then."""
    if running:
        tree.kill()
    started = time.perf_counter()
    tree.mount()
    return time.perf_counter() - started, cpu_seconds(tree.daemon)


def _started(
    many: Population, what: str, took: tuple[float, float], nothing: tuple[float, float]
) -> Row:
    """Checks that everything is there, too."""
    size = len(many)
    there = sum(name.isdigit() for name in os.listdir(many.tree / "proc"))
    newest = len(os.listdir(many.tree / f"agents/bench-{size}/inbox/new"))
    if there != size or newest != 1:
        raise SystemExit(f"{what}: {there} processes of {size}, {newest} messages for the newest")
    return Row(
        "scale",
        f"{what}, {size:,} processes and messages",
        took[0],
        "s",
        target=5.0 if size >= SIZES[-1] else None,
        counts={
            "s of the daemon's processor time": took[1],
            "s with an empty store": nothing[0],
            "s of processor time then": nothing[1],
        },
    )


# -- programs --------------------------------------------------------------------------------------


def _programs(setting: Setting) -> Iterator[Row]:
    """Processes with a program that really runs, as many as the machine can hold."""
    with setting.tree("programs") as tree:
        many = Population(tree)
        running = 0
        for count in (1, 2) if setting.quick else (1, 10, 100, 1_000):
            new = count - running
            if new > _room():
                print(f"    the machine has no room for {count:,} programs", flush=True)
                break
            spent, started = cpu_seconds(tree.daemon), time.perf_counter()
            for number in range(running + 1, count + 1):
                tree.spawn(f"program-{number}", exec=["sleep", "infinity"], restart="never")
            passed = (time.perf_counter() - started) / new
            counts = {
                "ms of the daemon": (cpu_seconds(tree.daemon) - spent) / new * 1e3,
                "KB of the daemon each": (resident(tree.daemon) - many.bare) / count / 1024,
            }
            running = count
            what = f"spawn with a program, {count:,} run"
            yield Row("scale", what, passed * 1e3, "ms", counts=counts)
            idle = _busy([tree.daemon], 0.01 if setting.quick else 5)
            yield Row("scale", f"daemon idle, {count:,} programs run", idle, "% of a core")
        started = time.perf_counter()
        tree.unmount()
        passed = time.perf_counter() - started
        yield Row("scale", f"end of all {running:,} programs", passed, "s")


def _spawns(setting: Setting) -> Iterator[Row]:
    """Spawns of `true` with the wait for its end, beside those of a plain program's."""
    count = setting.size(100, 3)
    with setting.tree("spawns") as tree:
        _spawn_and_wait(tree)  # which starts the fork server
        servers = [tree.daemon, *children(tree.daemon)]
        ours, theirs, spent = list[float](), list[float](), list[float]()
        for _ in range(setting.size(5, 1)):
            before = sum(map(cpu_seconds, servers))
            ours += [_seconds(lambda: _spawn_and_wait(tree)) for _ in range(count)]
            theirs += [_seconds(_spawn_plainly) for _ in range(count)]
            spent.append((sum(map(cpu_seconds, servers)) - before) / count * 1e3)
        yield Row(
            "scale",
            "spawn of `true` and its end, p50",
            percentile(ours, 0.5) * 1e3,
            "ms",
            "posix_spawn and wait",
            percentile(theirs, 0.5) * 1e3,
            SPAWN_BESIDE_A_PLAIN_ONE,
            counts={"ms of the daemon and its helpers": percentile(spent, 0.5)},
        )


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _spawn_and_wait(tree: Tree) -> None:
    pid = tree.spawn("spawned", exec=["/bin/true"], restart="never")
    (tree / f"proc/{pid}/wait").read_text()


def _spawn_plainly() -> None:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


def _room() -> int:
    """How many more programs the machine holds, at 8 MB each, and half of its memory left."""
    with open("/proc/meminfo") as file:
        figures = dict(line.split(":") for line in file)
    return int(figures["MemAvailable"].split()[0]) // 2 // 8192


# -- waiting ---------------------------------------------------------------------------------------


def _waiting(setting: Setting) -> Iterator[Row]:
    """Readers that are parked in the daemon, and nothing happens."""
    readers, seconds = setting.size(1_000, 5), 0.01 if setting.quick else 20
    with setting.tree("waiting") as tree:
        many = Population(tree)
        many.grow_to(readers + 1)
        servers = [tree.daemon, *children(tree.daemon)]
        alone = _busy(servers, seconds)
        before = resident(tree.daemon)
        client = subprocess.Popen(
            [sys.executable, "-c", WAITING], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert client.stdin is not None
            assert client.stdout is not None
            for number in range(2, readers + 2):
                client.stdin.write(os.fsencode(tree / f"agents/bench-{number}/recv\n"))
            client.stdin.close()
            client.stdout.readline()
            _settled(servers)
            busy = _busy(servers, seconds)
            counts = {
                "% with no reader": alone,
                "KB each": (resident(tree.daemon) - before) / readers / 1024,
            }
        finally:
            client.kill()
            client.wait()
            assert client.stdout is not None
            client.stdout.close()
        what = f"daemon idle, {readers:,} readers parked"
        yield Row("scale", what, busy, "% of a core", target=1.0, counts=counts)


def _settled(pids: list[int]) -> None:
    """Return when the processes have come to rest after what was asked of them."""
    for _ in range(50):
        if _busy(pids, 0.1) < 5:
            return


def _busy(pids: list[int], seconds: float) -> float:
    """Processor time that the processes use while nobody asks for anything, in % of a core."""
    started, spent = time.perf_counter(), sum(map(cpu_seconds, pids))
    time.sleep(seconds)
    spent = sum(map(cpu_seconds, pids)) - spent
    return spent / (time.perf_counter() - started) * 100
