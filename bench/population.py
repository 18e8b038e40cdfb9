"""A tree, and the processes that were spawned in it, for `bench.scale`."""

from __future__ import annotations

import os

from bench.counts import resident
from bench.setting import Tree

__all__ = ["Population"]

MANY_CHILDREN = {"max_children_of_init": 1_000_000}


class Population:
    """A tree and the processes that were spawned in it."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        tree.configure(processes=MANY_CHILDREN, messages={"max_waiting": 1_000_000})
        self.bare = resident(tree.daemon)
        self.last = 1
        self.unseen = 2
        """No look-up was made of the pids from here on: Linux knows nothing of them yet."""
        self._opened: list[int] = []

    def __len__(self) -> int:
        return self.last

    def grow_to(self, count: int) -> None:
        while self.last < count:
            self.spawn()

    def spawn(self) -> None:
        self.last = self.tree.spawn(f"bench-{self.last + 1}")

    def look_up(self) -> None:
        """Of a process that nobody looked at before: nothing of it is cached."""
        os.stat(self.tree / f"proc/{self.unseen}/status")
        self.unseen += 1

    def change_state(self) -> None:
        """Of one of the newest processes to running and back: two changes, through an open file."""
        if not self._opened:
            newest = range(max(2, self.last - 19), self.last + 1)
            paths = [self.tree / f"proc/{pid}/ctl" for pid in newest]
            self._opened = [os.open(path, os.O_WRONLY) for path in paths]
        self._opened.append(self._opened.pop(0))
        os.write(self._opened[0], b"running\n")
        os.write(self._opened[0], b"idle\n")

    def close(self) -> None:
        for descriptor in self._opened:
            os.close(descriptor)
        self._opened = []

    def bytes_each(self) -> float:
        return (resident(self.tree.daemon) - self.bare) / len(self)
