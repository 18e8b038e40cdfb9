"""Memory: recalling among 100,000 notes, remembering one, and the time until files that were
written beside the tree are in the index; beside grep(1) over the same files."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.setting import PATIENCE, Setting
from bench.table import Row, percentile

__all__ = ["measure"]

NOTES, WORDS = 100_000, 60
"""Files, and the words of each."""

EACH, LAST = 1000, "zzyzx"
"""Files in a directory, and a word that one in each has."""

KNOWN = 20_000
"""Different words; the tenth is ten times as rare as the first, as in what people write."""

COMMON, RARE = 50, 5000
"""Words from here on are in one of a hundred files, and in one of ten thousand."""

ASKED = 300
"""Queries that are timed, of one to three words."""

TARGET = 3.0
"""Milliseconds."""


def measure(setting: Setting) -> Iterator[Row]:
    """What a query takes, and what a note."""
    count, asked = setting.size(NOTES, 300), setting.size(ASKED, 10)
    chance = random.Random(7)  # the same for every run
    words = [_word(chance) for _ in range(KNOWN)]
    with setting.tree() as tree:
        home = tree / "agents/init"
        memory, given = tree.state / "agents/init/memory", setting.folder / "given"
        given.mkdir()
        _write(given, count, words, chance)
        started = time.perf_counter()
        given.rename(memory / "given")
        with _Query(home / "recall") as query:
            deadline = time.monotonic() + PATIENCE * 10
            while len(query.ask(f"Limit: 1000\n\n{LAST}")) < len(range(0, count, EACH)):
                assert time.monotonic() < deadline, "the files never came into the index"
                time.sleep(0.05)
            ready = time.perf_counter() - started
            times = [query.seconds(_question(words, chance)) for _ in range(asked)]
        found = [_grep(memory, _question(words, chance)) for _ in range(3)]
        p50, p99 = (percentile(times, share) * 1e3 for share in (0.5, 0.99))
        what = f"recall among {count:,} notes"
        yield Row("recall", f"{what}, p50", p50, "ms", "", None, TARGET)
        yield Row("recall", f"{what}, p99", p99, "ms")
        grep = statistics.median(found) * 1e3
        yield Row("recall", what, p50, "ms", "grep -rilF", grep, 1.0)
        note = "files that were moved into the memory, beside the tree"
        yield Row("recall", "index a note", ready / count * 1e3, "ms", note=note)
        kept = [_remember(home / "remember", words, chance) for _ in range(asked)]
        yield Row("recall", "remember", percentile(kept, 0.5) * 1e3, "ms")


class _Query:
    """An open `recall`."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR)

    def __enter__(self) -> _Query:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def ask(self, query: str) -> list[bytes]:
        os.write(self._file, query.encode())
        answer = b""
        while piece := os.read(self._file, 1 << 20):
            answer += piece
        return answer.splitlines()

    def seconds(self, query: str) -> float:
        started = time.perf_counter()
        self.ask(query)
        return time.perf_counter() - started


def _word(chance: random.Random) -> str:
    return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 10)))


def _write(memory: Path, count: int, words: list[str], chance: random.Random) -> None:
    weights = [1 / (place + 1) for place in range(len(words))]
    for number in range(count):
        folder = memory / f"{number // EACH}"
        if number % EACH == 0:
            folder.mkdir()
            (folder / "last").write_text(LAST)
        text = " ".join(chance.choices(words, weights, k=WORDS))
        (folder / f"{number}.md").write_text(f"{text}\n")


def _question(words: list[str], chance: random.Random) -> str:
    """One to three words, as people ask: some common, some rare."""
    several = chance.randint(1, 3)
    return " ".join(
        words[chance.randrange(COMMON, RARE if chance.random() < 0.5 else len(words))]
        for _ in range(several)
    )


def _grep(memory: Path, query: str) -> float:
    command = ["grep", "-rilF", *(f"-e{word}" for word in query.split()), os.fspath(memory)]
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started


def _remember(path: Path, words: list[str], chance: random.Random) -> float:
    text = " ".join(chance.choices(words, k=WORDS))
    started = time.perf_counter()
    file = os.open(path, os.O_RDWR)
    os.write(file, text.encode())
    assert os.read(file, 4096).startswith(b"memory/notes/")
    os.close(file)
    return time.perf_counter() - started
