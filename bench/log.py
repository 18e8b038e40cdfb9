"""The store's log: what a message costs in calls of the system, what its folds do to those who send
meanwhile, and how long a start takes that finds 100,000 messages in it and not in the database."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from agentfs.kernel import Kernel
from agentfs.mail.message import Draft
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.store import store as stores
from agentfs.store.store import Store
from bench.setting import Setting, Tree
from bench.table import Row, percentile
from bench.targets import CALLS_BEFORE

__all__ = ["measure"]

MESSAGES, SENT, LOGGED = 2000, 10_000, 100_000
"""Messages whose calls are counted, that are timed one by one, and that are replayed."""

COUNTED = ("pwrite64", "fcntl", "fdatasync", "fsync")
TEXT = b"To: init\n\n" + b"x" * 245 + b"\n"
OPERATOR = Principal(Kind.OPERATOR, INIT, "init", 0, 0)


def measure(setting: Setting) -> Iterator[Row]:
    """Calls, folds, replay."""
    with setting.tree() as tree:
        yield from _folds(setting, tree)
        yield from _calls(setting, tree)
    yield from _replay(setting)


class _Mail:
    """The operator writes to itself, and reads."""

    def __init__(self, tree: Tree) -> None:
        self._send = os.open(tree / "agents/init/send", os.O_WRONLY)
        self._recv = os.open(tree / "agents/init/recv", os.O_RDWR | os.O_DIRECT)

    def send(self) -> float:
        """Seconds that it took."""
        started = time.perf_counter()
        os.write(self._send, TEXT)
        return time.perf_counter() - started

    def receive(self) -> None:
        os.read(self._recv, 65536)

    def close(self) -> None:
        os.close(self._send)
        os.close(self._recv)


def _folds(setting: Setting, tree: Tree) -> Iterator[Row]:
    """Sends one after the other: every hundredth, or the one after 50 ms, meets a fold."""
    mail = _Mail(tree)
    try:
        took = [mail.send() * 1e6 for _ in range(setting.size(SENT, 50))]
        for _ in took:
            mail.receive()
    finally:
        mail.close()
    p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
    yield Row(
        "log",
        "a send while folds are made, p99",
        p99,
        "µs",
        target=2 * p50 + 1000,
        counts={"µs p50": p50, "µs at most": max(took)},
        note="the target is twice the median and 1 ms",
    )


def _calls(setting: Setting, tree: Tree) -> Iterator[Row]:
    if shutil.which("strace") is None:
        print("    strace is not installed: no calls are counted", flush=True)
        return
    mail, messages = _Mail(tree), setting.size(MESSAGES, 20)
    written = setting.folder / "strace"
    options = ["-f", "-c", "-e", f"trace={','.join(COUNTED)}", "-o", str(written)]
    tracer = subprocess.Popen(
        ["strace", *options, "-p", str(tree.daemon)], stderr=subprocess.PIPE, text=True
    )
    try:
        assert tracer.stderr is not None
        if "attached" not in (said := tracer.stderr.readline()):
            print(f"    no calls are counted: {said.strip()}", flush=True)
            return
        for _ in range(messages):
            mail.send()
            mail.receive()
        time.sleep(0.2)  # the last fold
    finally:
        tracer.terminate()
        tracer.communicate()
        mail.close()
    counted = {name: calls / messages for name, calls in _counted(written.read_text()).items()}
    yield Row(
        "log",
        "pwrite and fcntl a message",
        counted["pwrite64"] + counted["fcntl"],
        "calls",
        "before the log",
        CALLS_BEFORE,
        0.1,
        counts={f"{name} a message": calls for name, calls in counted.items()},
    )


def _counted(summary: str) -> dict[str, int]:
    """The calls of each kind, of the table that `strace -c` writes."""
    found = dict.fromkeys(COUNTED, 0)
    for line in summary.splitlines():
        words = line.split()
        if words and words[-1] in found:
            found[words[-1]] = int(words[3])
    return found


def _replay(setting: Setting) -> Iterator[Row]:
    """Nothing of the log is folded, as if the daemon was killed at once: so much never is."""
    state, messages = setting.folder / "state", setting.size(LOGGED, 100)
    kernel = Kernel(state, str(state / "mnt"))
    kernel.load()
    kernel.supervisor.boot()
    kernel.settings.replace(
        f"messages: {{max_waiting: {messages}}}\naudit: {{checkpoint_every: {10 * messages}}}"
    )
    kernel.store.fold()
    limits = stores.FOLD_TRANSACTIONS, stores.FOLD_BYTES
    stores.FOLD_TRANSACTIONS = stores.FOLD_BYTES = 1 << 60
    try:
        for _ in range(messages):
            kernel.mail.send(OPERATOR, "init", Draft.parse(TEXT, now=kernel.clock.now()))
    finally:
        stores.FOLD_TRANSACTIONS, stores.FOLD_BYTES = limits
    killed = setting.folder / "killed"
    shutil.copytree(state, killed)
    kernel.store.close()
    behind, beside = (_open_seconds(folder) for folder in (killed, state))
    yield Row(
        "log",
        f"replay of {messages:,} messages, later than without",
        behind - beside,
        "s",
        counts={"s of processor to open it": behind, "s with all in the database": beside},
        note="a daemon that dies has 100 transactions to replay at most: no start takes that long",
    )


def _open_seconds(state: Path) -> float:
    """Processor time to open the store."""
    started = time.process_time()
    Store(state / "store.db").close()
    return time.process_time() - started
