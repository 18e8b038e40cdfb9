"""The side `checkpoints`: how long everybody stands still for one of a whole system, and how long
it takes; then the way back, from the write of `rollback` to the first read that answers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from bench.setting import PATIENCE, Setting, Tree
from bench.table import Row

__all__ = ["measure"]

FILES, PROGRAMS = 5_000, 50
"""Unchanged files of /shared, and programs that are frozen."""

MESSAGES, SIZE = 20_000, 3_800
"""Of a queue, and the bytes of each: a store of 76 MB."""

STILL = 1_000.0
"""Milliseconds."""


def measure(setting: Setting) -> Iterator[Row]:
    """A first checkpoint, three more of what has not changed, and a rollback."""
    files, messages = setting.size(FILES, 50), setting.size(MESSAGES, 20)
    with setting.tree() as tree:
        _fill(tree, files, messages, setting.size(PROGRAMS, 2))
        what = f"{files:,} files, {setting.size(PROGRAMS, 2)} programs"
        first, whole = _make(tree, "first")
        store = int(_said(tree, "first")["Store"]) / 1e6
        counts = {"MB of the store": store}
        yield Row("checkpoints", f"{what}: pause", first, "ms", target=STILL, counts=counts)
        yield Row("checkpoints", "all of it", whole, "ms")
        again = [_make(tree, f"again-{number}") for number in range(setting.size(3, 1))]
        pauses, wholes = zip(*again, strict=True)
        yield Row("checkpoints", "pause, with nothing changed", min(pauses), "ms", target=STILL)
        yield Row("checkpoints", "all of it, with nothing changed", min(wholes), "ms")
        yield Row("checkpoints", "rollback, with its programs", _back(tree, "first"), "ms")


def _fill(tree: Tree, files: int, messages: int, programs: int) -> None:
    tree.configure(queues={"max_waiting": messages + 1})
    for number in range(files):
        folder = tree / f"shared/{number // 500}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}").write_text("x" * 2_000)
    (tree / "dev/queues/full").mkdir()
    send = os.open(tree / "dev/queues/full/send", os.O_WRONLY)
    for _ in range(messages):
        os.write(send, b"x" * SIZE)
    os.close(send)
    for number in range(programs):
        tree.spawn(f"sleeper-{number}", exec=["sleep", "3600"])


def _make(tree: Tree, name: str) -> tuple[float, float]:
    """Its pause, and the time until it is there, in ms."""
    began = time.perf_counter()
    (tree / f"sys/checkpoints/{name}").mkdir()
    whole = time.perf_counter() - began
    return float(_said(tree, name)["Pause"]) * 1e3, whole * 1e3


def _said(tree: Tree, name: str) -> dict[str, str]:
    lines = (tree / f"sys/checkpoints/{name}/info").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _back(tree: Tree, name: str) -> float:
    """ms until a file that was made after the checkpoint is gone."""
    since = tree / "shared/since"
    since.write_text("later\n")
    began = time.perf_counter()
    (tree / f"sys/checkpoints/{name}/ctl").write_text("rollback\n")
    while time.perf_counter() < began + PATIENCE:
        try:
            if not since.exists():
                return (time.perf_counter() - began) * 1e3
        except OSError:  # of the moment in which one kernel takes the place of the other
            pass
        time.sleep(0.001)
    raise TimeoutError("the rollback did not end")
