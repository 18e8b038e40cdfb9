"""The daemon under Callgrind: a Valgrind that does not know pidfd_open(2) answers ENOSYS, and the
daemon needs it. So somebody outside of Valgrind opens them.

Usage: slow_daemon.py SOCKET WORDS...: the words are those of `agentfs.tools.daemon`. It has no
reaper, which would be another process: callgrind_control finds none that was forked. The
times after which the log is folded, and a step of the loop is looked at, are longer by as much as
all is slower.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["SLOWER", "opening"]

SLOWER = 50
"""Times as long as everything takes under Callgrind."""

_LONGEST = 64


@contextmanager
def opening(path: str) -> Iterator[None]:
    """Open what is asked for at the socket `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(path)
        listening.listen()
        threading.Thread(target=_serve, args=(listening,), daemon=True).start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def _serve(listening: socket.socket) -> None:
    while True:
        try:
            client, _ = listening.accept()
        except OSError:  # it is over
            return
        with client:
            pid = int(client.recv(_LONGEST))
            try:
                opened = os.pidfd_open(pid)
            except OSError as failure:
                client.send(str(failure.errno).encode())
                continue
            socket.send_fds(client, [b"0"], [opened])
            os.close(opened)


def _main(path: str, *words: str) -> None:
    pids: dict[int, int] = {}

    def pidfd_open(pid: int, flags: int = 0) -> int:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
            line.connect(path)
            line.send(b"%d" % pid)
            said, descriptors, _, _ = socket.recv_fds(line, _LONGEST, 1)
        if not descriptors:
            raise OSError(int(said), os.strerror(int(said)))
        pids[descriptors[0]] = pid
        return descriptors[0]

    def send_signal(pidfd: int, number: int) -> None:
        os.kill(pids[pidfd], number)

    os.pidfd_open = pidfd_open
    signal.pidfd_send_signal = send_signal
    from agentfs.tools import daemon  # which may read what was put in its place

    with suppress(ModuleNotFoundError):  # a commit from before the log
        from agentfs.base import watchdog
        from agentfs.store import store

        store.FOLD_SECONDS *= SLOWER
        for bound in ("NOTICED", "_SHORT", "_LONG", "_LOOK_EVERY"):
            vars(watchdog)[bound] *= SLOWER
    sys.exit(daemon.main(list(words)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
