"""What the speed of messages was before the log, the hand-over and the compiled build, and the
parts of it that are wanted now, by the build that runs.

The figures of before are those of commit 95a13ff, in thousands of instructions (Callgrind) or in
calls of the system (strace), for a message that is sent and that the next read acknowledges.
"""

from __future__ import annotations

from typing import TypeVar

from agentfs.base.build import build

__all__ = ["CALLS_BEFORE", "KERNEL_BEFORE", "MOUNT_BEFORE", "WAKE_BEFORE", "of_build"]

KERNEL_BEFORE = 985.0
"""Thousands of instructions of the kernel and of the tree's listeners, without the mount. Of these
the tree's listeners took 80. Today's `in_kernel` counts 997 of that commit, and 898 without a tree.
"""

MOUNT_BEFORE = 1220.0
"""The same of the daemon with its mount, for a message that is there when it is read. Today's
`instructions` counts 1,170 of that commit."""

WAKE_BEFORE = 1443.0
"""The same for a message that somebody waits for."""

CALLS_BEFORE = 26.7
"""pwrite64(2) and fcntl(2): what SQLite did for the two transactions of a message."""


T = TypeVar("T")


def of_build(*, pure: T, compiled: T) -> T:
    """The target of the build that runs."""
    return compiled if build() == "compiled" else pure
