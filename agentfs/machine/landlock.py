"""Landlock: rulesets that take rights on files and on TCP away from a process, for good.

Our own few lines of ctypes. The package `landlock` on PyPI is an alpha version that knows neither
TCP nor rulesets prepared before a fork, and takes an errno that some earlier call left behind for
its own failure.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

__all__ = ["DEVICE", "FILE", "FOLDER", "LOOK", "READ_FILE", "REFER", "abi", "ruleset"]

# linux/landlock.h. The numbers of the system calls are the same on every architecture.
CREATE_RULESET, ADD_RULE = 444, 445
CREATE_RULESET_VERSION = 1
PATH_BENEATH = 1

WRITE_FILE, READ_FILE, READ_DIR, MAKE_CHAR, MAKE_BLOCK = 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 11
REMOVE_AND_MAKE = 0b1_1111_1111 << 4  # REMOVE_DIR, REMOVE_FILE, MAKE_CHAR … MAKE_SYM
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1

SCOPE_ABSTRACT_UNIX_SOCKET, SCOPE_SIGNAL = 1 << 0, 1 << 1

FILE = WRITE_FILE | TRUNCATE
"""What a file that may be changed is allowed."""
DEVICE = FILE | IOCTL_DEV
"""The same for a device."""
FOLDER = (FILE | REMOVE_AND_MAKE | REFER) & ~(MAKE_CHAR | MAKE_BLOCK)
"""What a folder in which everything may be changed is allowed. Devices are made nowhere."""

LOOK = READ_FILE | READ_DIR
"""What a folder that may be read is allowed, with all below it; a file of that only READ_FILE."""

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    """A system call; raises OSError."""
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        failure = ctypes.get_errno()
        raise OSError(failure, os.strerror(failure))
    return result


def abi() -> int:
    """The version of Landlock that we may use here; 0 for none: the machine lacks it, or the one
    that started us (a container) does not let us."""
    try:
        version = ctypes.c_uint(CREATE_RULESET_VERSION)
        return _call(CREATE_RULESET, None, ctypes.c_size_t(0), version)
    except OSError:
        return 0


def ruleset(
    writable: Iterable[tuple[int, int]] | None,
    readable: Iterable[tuple[int, int]] | None = None,
    *,
    tcp: bool,
) -> int:
    """A descriptor of a new ruleset; raises OSError.

    `writable`: (descriptor, rights) of what may be changed still, None if everything may;
    `readable`: the same of what may be read, and where files are moved between folders. `tcp`:
    whether TCP ports can be used. A program that enters it, whatever it allows, can no more trace
    or look into processes that have not entered it; nor (version 6) signal them, or connect to a
    socket without a path that they made.
    """
    version = abi()
    known = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    files = 0 if writable is None else DEVICE | REMOVE_AND_MAKE | REFER
    files |= 0 if readable is None else LOOK | REFER
    files = files & known or MAKE_BLOCK
    ports = BIND_TCP | CONNECT_TCP if not tcp and version >= 4 else 0
    scopes = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL
    known_bytes = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("=QQQ", files, ports, scopes)[:known_bytes]
    made = _call(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    try:
        for descriptor, rights in (*(writable or ()), *(readable or ())):
            rule = struct.pack("=Qi", rights & files, descriptor)
            _call(ADD_RULE, ctypes.c_int(made), ctypes.c_int(PATH_BENEATH), rule, ctypes.c_uint(0))
    except BaseException:
        os.close(made)
        raise
    return made
