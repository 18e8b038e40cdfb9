"""Mail programs keep these in a Maildir beside the mail: files and folders whose names begin with a
full stop (mbsync's `.uidvalidity` and `.isyncuidmap.db`, notmuch's `.notmuch/`).

They are real files below the state directory, private to the agent, and nothing here reads them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from agentfs.base.errors import KernelError
from agentfs.providers import disk
from agentfs.providers.host import HostTree
from agentfs.quota.file_bytes import Bytes
from agentfs.vfs.caller import Caller

__all__ = ["MOST_BYTES", "MOST_FILES", "DotFiles"]

MOST_FILES = 64
"""Of one inbox, folders and what is in them counted: notmuch has about twenty."""

MOST_BYTES = 8 * 1024 * 1024
"""Of one of them: mbsync needs 50 bytes for each message, notmuch's index some kilobytes."""


class DotFiles(HostTree):
    """Those of one inbox. `guard` raises for everybody but the agent."""

    most_bytes = MOST_BYTES

    def __init__(self, root: Path, guard: Callable[[Caller], None], counted: Bytes) -> None:
        super().__init__(root, guard, counted=counted)

    def may_make(self) -> None:
        if self.root.device.call(disk.count_below, self.path) >= MOST_FILES:
            raise KernelError(errno.ENOSPC, f"at most {MOST_FILES} files beside the mail")
