"""The mount table of Linux, /proc/PID/mountinfo."""

from __future__ import annotations

import io
import os

__all__ = ["device_of", "device_of_mount"]


def device_of(mountpoint: str, table: io.FileIO) -> str | None:
    """`major:minor` of what is mounted at a path, from the mount table; None if nothing is. The
    table stays open: for a look at it the daemon must not need a descriptor."""
    escaped = (
        os.fsencode(mountpoint)
        .replace(b"\\", b"\\134")
        .replace(b" ", b"\\040")
        .replace(b"\t", b"\\011")
        .replace(b"\n", b"\\012")
    )
    found = None
    table.seek(0)
    for line in table.readall().splitlines():
        fields = line.split(b" ")
        if fields[4] == escaped:
            found = fields[2].decode()  # the last one is on top
    return found


def device_of_mount(process: int, mount: bytes) -> str:
    """`major:minor` of the mount with that number, as the process sees it whose directory in /proc
    is open as `process`; empty if it is not in its table."""
    with open(os.open("mountinfo", os.O_RDONLY, dir_fd=process), "rb") as table:
        for line in table:
            fields = line.split(b" ", 3)
            if fields[0] == mount:
                return fields[2].decode()
    return ""
