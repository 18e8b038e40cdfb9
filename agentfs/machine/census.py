"""All processes of the machine at one moment: whose they are, and who is below whom."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterable
from dataclasses import dataclass

from agentfs.machine.proc import all_pids, descended, read_file
from agentfs.machine.rlimits import Limit

__all__ = ["Census", "forks_for", "tasks_of"]


_STATUS = re.compile(
    rb"\nPPid:\t(\d+)\n.*\nUid:\t(\d+)\t.*\nNSsid:\t(\d+)\b.*\nThreads:\t(\d+)\n", re.DOTALL
)
"""The lines of /proc/PID/status that count, in their order."""


@dataclass(slots=True)
class _Seen:
    """An OS process: its parent, its session, its real user, its threads."""

    ppid: int
    session: int
    uid: int
    threads: int


def _look_at(ospid: int) -> _Seen | None:
    """By /proc/PID/status, which waits for no execve; None if it is gone."""
    try:
        said = _STATUS.search(read_file(f"/proc/{ospid}/status"))
    except OSError:
        return None
    if said is None:
        return None
    ppid, uid, session, threads = map(int, said.groups())
    return _Seen(ppid, session, uid, threads)


class Census:
    """All processes of the machine at one moment: 20 µs each."""

    def __init__(self) -> None:
        looks = ((ospid, _look_at(ospid)) for ospid in all_pids())
        self._seen = {ospid: seen for ospid, seen in looks if seen is not None}
        self._children: dict[int, list[int]] = {}
        self._sessions: dict[int, list[int]] = {}
        self._users: dict[int, int] = {}
        for ospid, seen in self._seen.items():
            self._children.setdefault(seen.ppid, []).append(ospid)
            self._sessions.setdefault(seen.session, []).append(ospid)
            self._users[seen.uid] = self._users.get(seen.uid, 0) + seen.threads

    def below(self, ospid: int) -> list[int]:
        """A program, its session and all that descends from them, as `rlimits.below`."""
        return descended([ospid, *self._sessions.get(ospid, ())], self._children)

    def tasks(self, ospids: Iterable[int], uid: int | None = None) -> int:
        """The threads of these, of user `uid` only unless that is None."""
        found = (self._seen[ospid] for ospid in ospids if ospid in self._seen)
        return sum(seen.threads for seen in found if uid in (None, seen.uid))

    def of_user(self, uid: int) -> int:
        """The threads of a user: what RLIMIT_NPROC is compared with."""
        return self._users.get(uid, 0)


def tasks_of(ospids: Iterable[int]) -> int:
    """The processes and threads that these are."""
    looks = map(_look_at, ospids)
    return sum(seen.threads for seen in looks if seen is not None)


def forks_for(most: int | None, others: int) -> Limit:
    """The RLIMIT_NPROC for programs that may be `most` beside `others` of the same user. Only the
    soft limit: the hard one could not be raised again when there are more of the others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if most is not None:
        soft = most + others if hard < 0 else min(most + others, hard)
    return resource.RLIMIT_NPROC, soft, hard
