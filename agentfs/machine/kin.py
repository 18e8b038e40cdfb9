"""Who descends from which program, remembered after the parents in between are gone: where there
are no control groups, a KILL reaches by it what forked twice, in a session of its own and without
its environment.

Linux tells of every fork (`agentfs.machine.forks`), so that nobody gets away. Where it does not,
what is remembered is what each look at the machine found (`saw`), and who forked twice between two
of them is nobody's.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress

import trio

from agentfs.machine.forks import Forks, LostForksError
from agentfs.machine.proc import UNTOLD, began_by, parent_of

__all__ = ["Kin"]

log = logging.getLogger(__name__)

PAUSE = 0.05
"""Seconds between two times that forks are taken note of, unless somebody asks before."""

AT_ONCE = 1000
"""How many, before others have their turn: 10 µs each at most."""

GONE = -2
"""The mark of nobody that there is."""


class Kin:
    """All that descends from our children, told by the *root* of each, the first of its line."""

    def __init__(self) -> None:
        self._forks: Forks | None = None
        # By OS pid: what tells it from a later one of its number (see `parent_of`), and its root.
        self._known: dict[int, tuple[int, int]] = {}
        # Those we heard of since all forks were taken note of, and when each was forked.
        self._fresh: dict[int, int] = {}
        self._due = 0  # how many are to be looked at: whether they are gone
        self._ended: dict[int, None] = {}  # the roots that have, the last of them
        self._doomed: list[int] = []  # what was forked after those
        self._lost = False  # whether forks were, since the last look
        self._doubtful = False  # whether they were, since all were taken note of

    def __len__(self) -> int:
        return len(self._known)

    @property
    def is_told(self) -> bool:
        """Whether Linux tells of every fork."""
        return self._forks is not None

    async def follow(
        self, look: Callable[[], object], *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Take note of forks until cancelled; return at once where Linux does not tell of them.
        `look` is called to find those that there are already, and again if forks were lost."""
        try:
            self._forks = Forks()
        except OSError as failure:
            log.info("who forks twice between two looks is not known: %s", failure.strerror)
            look()
            task_status.started()
            return
        try:
            look()
            task_status.started()
            while True:
                await trio.lowlevel.wait_readable(self._forks.fileno())
                while not self._take():
                    await trio.lowlevel.checkpoint()
                if self._lost:
                    self._lost = False
                    log.warning("there were more forks than could be taken note of")
                    look()
                await trio.sleep(PAUSE)
        except OSError:
            log.exception("forks are not told of any more")
        finally:
            forks, self._forks = self._forks, None
            trio.lowlevel.notify_closing(forks)
            forks.close()

    def begin(self, root: int) -> None:
        """`root` is the first of a line. An earlier line of that number is forgotten."""
        self.catch_up()
        known = self._known.get(root, (0, 0))[1] == root and not self._is_anothers(root)
        if not (known and self.is_told):
            self._begin(root)

    def saw(self, root: int, below: Iterable[int]) -> None:
        """A look found that these descend from `root`, or are in its session."""
        for ospid in below:
            if ospid not in self._known or not self._lives(ospid):
                self._add(ospid, root)
        if not self.is_told:
            self._forget()

    def end(self, root: int) -> None:
        """Its program has ended and all that is known to descend from it was killed: so is what one
        of those was just about to fork."""
        self._ended[root] = None
        while len(self._ended) > AT_ONCE:
            del self._ended[next(iter(self._ended))]

    def of(self, root: int) -> list[int]:
        """All that descends from `root` and lives, as far as is known at this moment."""
        self.catch_up()
        found = [ospid for ospid, (_, its) in self._known.items() if its == root]
        return [ospid for ospid in found if self._lives(ospid)]

    def root_of(self, ospid: int, mark: int) -> int | None:
        """The root that a process, told by its `mark` (see `parent_of`), descends from."""
        self.catch_up()
        known = self._known.get(ospid)
        return known[1] if known is not None and known[0] == mark else None

    def catch_up(self) -> None:
        """Take note of all forks up to this moment."""
        if self._forks is not None:
            with suppress(OSError):  # `follow` says so
                while not self._take():
                    pass

    def _take(self) -> bool:
        """Take note of some of the forks that wait; whether those were all. Raises OSError."""
        assert self._forks is not None
        taken = 0
        try:
            for parent, child, when in self._forks.take(AT_ONCE):
                taken += 1
                self._heard(parent, child, when)
        except LostForksError:
            self._lost = self._doubtful = True
            return False
        if taken == AT_ONCE:
            return False
        if self._doubtful:
            self._doubtful = False
            self._doubt()
        self._fresh = {}
        self._kill_doomed()
        self._forget()
        return True

    def _doubt(self) -> None:
        """Forks were lost. The number of a process that is gone may be another's by now, and that
        one's children were taken for the first one's. Those that live stay, and those that are
        gone are soon forgotten."""
        for ospid, when in self._fresh.items():
            if ospid in self._known and not began_by(ospid, when):
                self._known[ospid] = GONE, self._known[ospid][1]
        for ospid in list(self._known):
            if self._is_anothers(ospid):
                del self._known[ospid]
        self._due = 2 * len(self._known)

    def _kill_doomed(self) -> None:
        """When all is heard: the number of one may have come by another."""
        doomed, self._doomed = self._doomed, []
        for ospid in doomed:
            root = self._known.get(ospid, (GONE, 0))[1]
            if root in self._ended and self._lives(ospid):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(ospid, signal.SIGKILL)

    def _heard(self, parent: int, child: int, when: int) -> None:
        self._fresh[child] = when
        if parent == os.getpid():
            self._begin(child)
        elif parent in self._known:
            root = self._known[parent][1]
            self._add(child, root)
            if root in self._ended:
                self._doomed.append(child)
        else:
            self._known.pop(child, None)  # the one that had its number is gone

    def _begin(self, root: int) -> None:
        for ospid in [each for each, (_, its) in self._known.items() if its == root]:
            del self._known[ospid]
        self._ended.pop(root, None)
        self._add(root, root)

    def _add(self, ospid: int, root: int) -> None:
        """A process that is gone already counts too: Linux tells next what it forked."""
        self._known.pop(ospid, None)
        try:
            self._known[ospid] = parent_of(ospid)[1], root
        except OSError:
            self._known[ospid] = GONE, root
        self._due += 3

    def _lives(self, ospid: int) -> bool:
        """Whether it is there still. Before Linux 6.13 one in execve has no mark for a moment."""
        known, root = self._known[ospid]
        try:
            mark = parent_of(ospid)[1]
        except OSError:
            return False
        if known == UNTOLD:
            self._known[ospid] = mark, root
        return mark == known or UNTOLD in (mark, known)

    def _is_anothers(self, ospid: int) -> bool:
        """Whether it is gone and another has its number now."""
        if self._lives(ospid):
            return False
        with suppress(OSError):
            parent_of(ospid)
            return True
        return False

    def _forget(self) -> None:
        """Those that are gone: three are looked at for each that came, now or later, the longest
        known first. One that is found gone now may have forked since we last heard, and that is not
        to be missed: it is forgotten the next time."""
        most = min(self._due, AT_ONCE)
        for ospid in list(itertools.islice(self._known, most)):
            lives = self._lives(ospid)
            mark, root = self._known.pop(ospid)
            if mark != GONE:
                self._known[ospid] = mark if lives else GONE, root
        self._due = min(self._due - most, 2 * len(self._known))
