"""Queries, and what keeps the index for them. All of it is for threads; whatever becomes of the
index, the files are there, and it is made anew of them."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from agentfs.base.errors import KernelError
from agentfs.recall.follower import Follower
from agentfs.recall.hits import Hit, answers, texts
from agentfs.recall.index import IndexRow, MemoryIndex
from agentfs.recall.query import MemoryQuery
from agentfs.recall.vectors import Vector

__all__ = ["CATCHING_UP", "Searcher"]

log = logging.getLogger(__name__)

T = TypeVar("T")

CATCHING_UP = 1.0
"""Seconds of processor time at most in which a query has what has just changed read."""

SPARE = 10
"""Files that are looked at beyond those asked for: the best line of each decides on their order."""

BEGINNING = 2000
"""Characters of a file that its vector is made of."""

TRIES = 3
"""Times that a query is asked while files change under it."""


class Searcher:
    """`trouble`: why the index is not up to date, in words; empty if nothing is in its way."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._index = follower.index
        self.trouble = ""
        self._damages = 0  # so often the index was made anew

    def close(self) -> None:
        with self._follower.lock:
            self._follower.close()

    def work(self) -> bool:
        """Have the index know a part of what has changed; whether something is left."""
        return self._up_to_date(self._follower.step)

    def agents(self) -> tuple[int, ...]:
        """Those of whom the index has something."""
        return self._safely(self._index.agents) or ()

    def knows(self, agent: int) -> bool:
        """Whether everything in a memory was read; some of it is read now."""
        left = self._up_to_date(lambda: self._follower.catch_up(agent, CATCHING_UP))
        return not left and self._follower.knows(agent)

    def search(self, agent: int, root: str, query: MemoryQuery, now: float) -> list[Hit]:
        """What one agent knows, some more than are asked for; its memory is at `root`. Raises
        KernelError: the index cannot be used, or made."""
        most = query.limit + SPARE
        rows: list[IndexRow] | None = None
        hits: list[Hit] = []
        for _ in range(TRIES):
            damages = self._damages
            self._up_to_date(lambda: self._follower.catch_up(agent, CATCHING_UP))
            rows = self._safely(lambda: self._index.search(agent, query, now, most))
            if rows is None or self._damages != damages:
                continue
            hits, stale = self._answers(root, query, rows)
            if not stale:
                break
            self._look_again(agent, stale)
        if rows is None:
            raise KernelError(errno.EIO, f"the index of memories: {self.trouble}")
        return hits

    # -- what is meant -----------------------------------------------------------------------------

    def without_vector(
        self, agent: int, root: str, model: str, most: int
    ) -> list[tuple[IndexRow, str]]:
        """Some files that have no vector of a model yet, and what their texts begin with."""
        rows = self._safely(lambda: self._index.without_vector(agent, model, most)) or []
        found, empty = [], []
        for row, text in self._texts(root, rows):
            if text.strip():
                found.append((row, text[:BEGINNING]))
            else:
                empty.append((row, None))
        self.put_vectors(model, empty)
        return found

    def _texts(self, root: str, rows: list[IndexRow]) -> list[tuple[IndexRow, str]]:
        try:
            return texts(root, rows)
        except OSError:
            return []

    def put_vectors(self, model: str, vectors: Sequence[tuple[IndexRow, Vector | None]]) -> None:
        """Keep the vectors of files."""

        def put() -> None:
            with self._index.writing():
                for row, vector in vectors:
                    self._index.put_vector(row, model, vector)

        self._safely(put)

    def meant(
        self, agent: int, root: str, query: MemoryQuery, now: float, model: str, vector: Vector
    ) -> list[Hit]:
        """The files of one agent whose vectors are like that of a query, the likest first."""
        rows = self._safely(lambda: self._index.meant(agent, query, now, model, vector)) or []
        rows = rows[: query.limit + SPARE]
        place = {row.path: number for number, row in enumerate(rows)}
        hits, _ = self._answers(root, query, rows)
        return sorted(hits, key=lambda hit: place[hit.file])

    def _answers(
        self, root: str, query: MemoryQuery, rows: list[IndexRow]
    ) -> tuple[list[Hit], list[IndexRow]]:
        try:
            return answers(root, query, rows)
        except OSError as failure:
            if isinstance(failure, FileNotFoundError):
                return [], []
            raise KernelError.from_os(failure, "the memory cannot be read") from None

    def _look_again(self, agent: int, stale: list[IndexRow]) -> None:
        with self._follower.lock:
            for row in stale:
                self._follower.look_again(agent, row.path)

    def expired(self, now: float, most: int) -> list[tuple[int, bytes, str]]:
        """Some of the notes whose time is over: (agent, path, stamp)."""
        return self._safely(lambda: self._index.expired(now, most)) or []

    def _up_to_date(self, work: Callable[[], bool]) -> bool:
        """Bring the index up to date, as far as `work` does that; what it says, False if it could
        not be done."""
        done = self._safely(work)
        if done is not None:
            self.trouble = ""
        return bool(done)

    def _safely(self, work: Callable[[], T]) -> T | None:
        """Do something with the index; None if it could not be done."""
        with self._follower.lock:
            try:
                self._follower.ready()
                return work()
            except (sqlite3.Error, OSError) as failure:
                self._failed(failure)
                return None

    def _failed(self, failure: sqlite3.Error | OSError) -> None:
        words = str(failure)
        if isinstance(failure, sqlite3.Error) and MemoryIndex.is_damage(failure):
            log.error("the index of memories is made anew: %s", words)
            self._index.discard()
            self._damages += 1
        elif words != self.trouble:
            log.error("the index of memories is not up to date: %s", words)
        self.trouble = words
