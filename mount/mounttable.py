"""The mount table of Linux, /proc/PID/mountinfo."""

from __future__ import annotations

import io
import os
import re

__all__ = ["Mounts", "device_of", "place_of"]

MOST = 1024
"""Mounts of a device that are kept in mind."""


def device_of(mountpoint: str, table: io.FileIO) -> str | None:
    """`major:minor` of the device mounted at a path, from the mount table; None if none is. The
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


def place_of(device: str, before: str, table: io.FileIO) -> str | None:
    """Where what has the number `device` is mounted and can be seen: at `before`, if it is there
    still, else at another path; empty if something else lies over it everywhere; None if it is
    mounted nowhere any more."""
    table.seek(0)
    ours = []
    on_top: dict[bytes, str] = {}
    for line in table.readall().splitlines():
        fields = line.split(b" ")
        on_top[fields[4]] = fields[2].decode()
        if fields[2].decode() == device and fields[3] == b"/":
            ours.append(fields[4])
    seen = [_unescaped(path) for path in ours if on_top[path] == device]
    if before in seen:
        return before
    return seen[0] if seen else "" if ours else None


def _unescaped(path: bytes) -> str:
    r"""A path as it is, which the table writes with `\040` for a space and so on."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), path))


class Mounts:
    """The mounts of one device, by the numbers that /proc/PID/fdinfo gives. A mount that was taken
    away lazily (umount -l) may have open files still, and is in no table any more. So its number
    is kept in mind, from the beginning or from the look at which it was seen.

    device: its `major:minor`; empty if nobody knows.
    """

    def __init__(self) -> None:
        self.device = ""
        self._known: dict[bytes, None] = {}

    def begin(self, mountpoint: str) -> None:
        """The tree was mounted there. Call it before anybody can move or unmount it."""
        with open("/proc/self/mountinfo", "rb", 0) as table:
            self.device = device_of(mountpoint, table) or ""
            table.seek(0)
            for line in table.readall().splitlines():
                fields = line.split(b" ", 3)
                if fields[2].decode() == self.device:
                    self._known[fields[0]] = None

    def has(self, process: int, mount: bytes) -> bool | None:
        """Whether the mount with that number, as the process sees it whose directory in /proc is
        open as `process`, is one of them; None if nobody knows."""
        with open(os.open("mountinfo", os.O_RDONLY, dir_fd=process), "rb") as table:
            for line in table:
                fields = line.split(b" ", 3)
                if fields[0] == mount:
                    found = fields[2].decode() == self.device
                    if found and mount not in self._known:
                        self._keep(mount)
                    return found
        return True if mount in self._known else None

    def _keep(self, mount: bytes) -> None:
        if len(self._known) >= MOST:  # each sandbox has one of its own
            del self._known[list(self._known)[1]]  # the first is our own
        self._known[mount] = None
