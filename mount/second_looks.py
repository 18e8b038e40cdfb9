"""Opens that Linux makes a second time, because it came to the file by a name that was outdated.

Until a move or a removal is announced, Linux finds the file by its old name. So an open of such a
file is answered with ESTALE. Linux then looks the name up again by itself, once a call, and finds
nothing, or what has that name now.
"""

from __future__ import annotations

from agentfs.mount.announcer import Announcer
from agentfs.mount.inodes import Inode
from agentfs.vfs.node import LookUpAgain

__all__ = ["SecondLooks"]


class SecondLooks:
    """The threads that were sent back to look up a name again."""

    def __init__(self, announcer: Announcer) -> None:
        self._announcer = announcer
        self._sent_back: dict[int, Inode] = {}  # by thread

    def is_outdated(self, inode: Inode) -> bool:
        """Whether Linux may come to `inode` by a name that it has no more, and was not told yet."""
        if inode.outdated:
            self._announcer.catch_up()
        return inode.outdated > 0

    def found(self, inode: Inode, tid: int) -> None:
        """A thread is about to open `inode`. Raises LookUpAgain if Linux may have come to it by an
        outdated name, or if somebody else was faster to write it.

        A thread that comes back has looked again, and found it by a name that holds.
        """
        before = self._sent_back.pop(tid, None) if self._sent_back else None
        taken = before is None and inode.followed and inode.taken
        if taken or (inode.outdated and self.is_outdated(inode) and before is not inode):
            self._sent_back[tid] = inode
            raise LookUpAgain(inode.name)

    def missing(self, tid: int) -> None:
        """A thread found nothing: it does not come back."""
        if self._sent_back:
            self._sent_back.pop(tid, None)
