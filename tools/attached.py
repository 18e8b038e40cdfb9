"""A program of an agent on our own terminal: it is handed our input and output
(`agentfs.runner.door`), and we wait for its end.

Where they are a terminal, it gets one of its own, and bytes go to and fro: only so can Ctrl-C, the
size of the window and job control be its own, in a session that is not ours. Files and pipes it
gets as they are.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

from agentfs.tools.tree import ToolError, Tree

__all__ = ["attach"]

DOOR = [sys.executable, "-P", "-m", "agentfs.runner.door"]

HAS_TERMINAL, NO_TERMINAL = b"t", b"p"
"""The byte that comes with the descriptors: whether one is a terminal to be controlled by."""

PIECE = 64 * 1024
LAST_OUTPUT = 0.2
"""Seconds for which the terminal is read on after the end of the program."""

CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


def attach(
    tree: Tree, command: list[str], spawn: Callable[[list[str]], int], options: int = 0
) -> int:
    """Have `spawn(command)` start an agent, whose pid it returns, and be its terminal until it
    ends; the exit code. In so many `options` after its program {url} is the address of the models.
    Ctrl-C, TERM and HUP end it. Raises ToolError."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="agentfs-run-"))
        path = os.path.join(folder, "door")
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(4)
        # An agent of another user comes in, too; we ask Linux for the pid of each that connects.
        os.chmod(folder, 0o711)  # noqa: S103
        os.chmod(path, 0o666)  # noqa: S103
        wake = stack.enter_context(_signals())
        pid = spawn([*DOOR, path, str(options), *command])
        try:
            end = tree.open(f"proc/{pid}/wait", os.O_RDONLY | os.O_NONBLOCK)
            stack.callback(os.close, end)
            return _Attached(tree, pid, end, wake).run(listener, stack)
        except BaseException:
            with suppress(ToolError):
                tree.write(f"proc/{pid}/ctl", b"kill-branch\n")
            raise


@contextmanager
def _signals() -> Iterator[int]:
    """A descriptor that can be read when a signal has come, whose number that gives."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {}

    def caught(number: int, frame: FrameType | None) -> None:
        pass

    old = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH):
            before[each] = signal.signal(each, caught)
        yield reader
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(old)
        os.close(reader)
        os.close(writer)


class _Attached:
    """One agent on our terminal. `end` is its open `wait`."""

    def __init__(self, tree: Tree, pid: int, end: int, wake: int) -> None:
        self._tree = tree
        self._pid = pid
        self._end = end
        self._wake = wake
        self._terminal = -1  # our side of the one that it gets
        self._signal = 0  # the first that was to end us

    def run(self, listener: socket.socket, stack: ExitStack) -> int:
        terminal, given = self._given(stack)
        self._hand_over(listener, given, has_terminal=terminal >= 0)
        if terminal >= 0:
            os.close(terminal)
        return self._relay()

    def _given(self, stack: ExitStack) -> tuple[int, list[int]]:
        """Its side of a terminal (-1: none), and its three descriptors."""
        ours = [number for number in (0, 1, 2) if os.isatty(number)]
        if not ours or not _in_foreground(ours[0]):
            return -1, [0, 1, 2]
        self._terminal, theirs = os.openpty()
        stack.callback(os.close, self._terminal)
        os.set_blocking(self._terminal, False)
        self._resize()
        if 0 in ours:
            before = termios.tcgetattr(0)
            stack.callback(termios.tcsetattr, 0, termios.TCSADRAIN, before)
            termios.tcsetattr(theirs, termios.TCSANOW, before)
            tty.setraw(0, termios.TCSADRAIN)  # and what is typed already is not lost
        return theirs, [theirs if number in ours else number for number in (0, 1, 2)]

    def _resize(self) -> None:
        for number in (0, 1, 2):
            with suppress(OSError):
                size = fcntl.ioctl(number, termios.TIOCGWINSZ, b"\0" * 8)
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)
                return

    def _hand_over(self, listener: socket.socket, given: list[int], *, has_terminal: bool) -> None:
        """Give the descriptors to the program of the agent, and to nobody else."""
        while True:
            ready = select.select([listener.fileno(), self._end, self._wake], [], [])[0]
            if self._wake in ready:
                self._signalled()
            if self._end in ready:
                raise ToolError(self._last_words())
            if listener.fileno() not in ready:
                continue
            door = listener.accept()[0]
            with door:
                packed = door.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
                if str(CREDENTIALS.unpack(packed)[0]) != self._tree.read(f"proc/{self._pid}/ospid"):
                    continue
                kind = HAS_TERMINAL if has_terminal else NO_TERMINAL
                socket.send_fds(door, [kind], given)
                return

    def _last_words(self) -> str:
        name = self._tree.read(f"proc/{self._pid}/name")
        log = self._tree.read(f"agents/{name}/log").splitlines()
        return f"{name} ended before it began: {log[-1] if log else 'it said nothing'}"

    def _relay(self) -> int:
        """Bytes to and fro until the program ends; its exit code."""
        reading = {self._end, self._wake}
        if self._terminal >= 0:
            reading.add(self._terminal)
            if os.isatty(0):
                reading.add(0)
        typed = b""
        while True:
            writing = [self._terminal] if typed else []
            ready, writable, _ = select.select(reading, writing, [])
            if self._wake in ready:
                self._signalled()
            if self._terminal in ready and not self._show():
                reading.discard(self._terminal)  # nobody has it open any more
            if 0 in ready and len(typed) < PIECE:
                piece = os.read(0, PIECE)
                typed += piece
                if not piece:
                    reading.discard(0)
            if writable:
                with suppress(OSError):
                    typed = typed[os.write(self._terminal, typed) :]
            if self._end in ready:
                break
        while self._terminal in reading and select.select([self._terminal], [], [], LAST_OUTPUT)[0]:
            if not self._show():
                break
        code = int(os.read(self._end, PIECE))
        return 128 + self._signal if self._signal else code

    def _show(self) -> bool:
        """The program has written to its terminal; False if it has closed it."""
        try:
            piece = os.read(self._terminal, PIECE)
        except BlockingIOError:
            return True
        except OSError:
            return False
        number = next(number for number in (1, 2, 0) if os.isatty(number))
        while piece:
            piece = piece[os.write(number, piece) :]
        return True

    def _signalled(self) -> None:
        """The window has another size, or we are to end: then it is asked to, and at the second
        time killed."""
        numbers = os.read(self._wake, PIECE)
        if signal.SIGWINCH in numbers and self._terminal >= 0:
            self._resize()
        for number in numbers:
            if number == signal.SIGWINCH:
                continue
            command = "kill-branch" if self._signal else "TERM"
            self._signal = self._signal or number
            with suppress(ToolError):
                self._tree.write(f"proc/{self._pid}/ctl", f"{command}\n".encode())


def _in_foreground(terminal: int) -> bool:
    """Whether we may use it: a job in the background would be stopped."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
