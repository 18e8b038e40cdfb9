"""fdatasync(2) in which no thread waits: Linux does it beside us (io_submit(2)), and a descriptor
says when it is over.

A thread that waits is woken, takes the interpreter's lock, and gives it back, twice for each sync:
that is six switches, and more time than a quick disk takes.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import struct
from collections.abc import Sequence
from contextlib import suppress

import trio

__all__ = ["DataSync"]

log = logging.getLogger(__name__)

# asm/unistd.h: io_setup, io_destroy, io_submit, io_getevents.
_NUMBERS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4), "riscv64": (0, 1, 2, 4)}

# linux/aio_abi.h
FDSYNC, WITH_EVENT_DESCRIPTOR = 3, 1
_COMMAND = struct.Struct("=QIIHhIQQqQII")  # struct iocb
_EVENT = struct.Struct("=QQqq")  # struct io_event

MOST = 8
"""Files of one call at most."""

_libc = ctypes.PyDLL(None, use_errno=True)  # none of these calls waits
_libc.syscall.restype = ctypes.c_long


class _Calls:
    """The calls, on one context of Linux's."""

    def __init__(self) -> None:
        """Raises OSError where there is none to be had."""
        machine = os.uname().machine if struct.calcsize("P") == 8 else ""
        if machine not in _NUMBERS:
            raise OSError(errno.ENOSYS, f"its number is not known for {machine or '32 bits'}")
        setup, self._destroy, self._submit, self._getevents = _NUMBERS[machine]
        self._context = ctypes.c_ulong(0)
        _call(setup, ctypes.c_uint(MOST), ctypes.byref(self._context))
        self.over = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._commands = ctypes.create_string_buffer(MOST * _COMMAND.size)
        first = ctypes.addressof(self._commands)
        places = range(first, first + len(self._commands), _COMMAND.size)
        self._places = (ctypes.c_void_p * MOST)(*places)
        self._events = ctypes.create_string_buffer(MOST * _EVENT.size)

    def submit(self, files: Sequence[int]) -> int:
        """Begin to sync them, from the first on; how many were begun."""
        flag, descriptor = WITH_EVENT_DESCRIPTOR, self.over
        for place, file in enumerate(files):
            command = 0, 0, 0, FDSYNC, 0, file, 0, 0, 0, 0, flag, descriptor
            _COMMAND.pack_into(self._commands, place * _COMMAND.size, *command)
        try:
            return _call(self._submit, self._context, ctypes.c_long(len(files)), self._places)
        except OSError:  # such as for a file that cannot be synced: fdatasync(2) says it better
            return 0

    def ended(self) -> list[int]:
        """What the syncs came to that have ended since the last call: 0, or an errno."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.over)
        none, most = ctypes.c_long(0), ctypes.c_long(MOST)
        count = _call(self._getevents, self._context, none, most, self._events, None)
        found = _EVENT.iter_unpack(self._events.raw[: count * _EVENT.size])
        return [-result for _, _, result, _ in found]

    def close(self) -> None:
        _call(self._destroy, self._context)
        os.close(self.over)


class DataSync:
    """Syncs files, one call at a time; in a thread where Linux cannot do it beside us."""

    def __init__(self) -> None:
        self._calls: _Calls | None = None
        self._asked = False  # whether there are such calls

    async def __call__(self, files: Sequence[int]) -> None:
        """Wait until the disk has all that was written to `files`, descriptors, up to 8 of them.
        Raises the OSError of the disk. Cannot be cancelled."""
        if not self._asked:
            self._asked = True
            self._calls = _calls()
        calls = self._calls
        begun = calls.submit(files) if calls is not None and files else 0
        failures: list[int] = []
        with trio.CancelScope(shield=True):
            for file in files[begun:]:
                try:
                    await trio.to_thread.run_sync(os.fdatasync, file)
                except OSError as failure:
                    failures.append(failure.errno or errno.EIO)
            while calls is not None and begun:
                await trio.lowlevel.wait_readable(calls.over)
                results = calls.ended()
                begun -= len(results)
                failures += filter(None, results)
        if failures:
            raise OSError(failures[0], os.strerror(failures[0]))

    def close(self) -> None:
        if self._calls is not None:
            self._calls.close()
        self._calls = None


def _calls() -> _Calls | None:
    try:
        return _Calls()
    except OSError as failure:
        log.info("syncs wait in a thread, because there is no io_setup(2): %s", failure)
        return None


def _call(number: int, *arguments: object) -> int:
    """Raises OSError."""
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        failure = ctypes.get_errno()
        raise OSError(failure, os.strerror(failure))
    return result
