"""The doors of the gateway: the listening sockets at which programs ask for models.

They are made by the daemon when it starts, so that whoever comes early waits in line, and belong to
it for good: the gateway, a process that comes and goes, is handed them. An address stays the same
across restarts as far as it can, because programs that outlive the daemon have it in their
environment.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress

from agentfs.machine.network import HOST, PORT

__all__ = ["Doors", "turn_away"]

log = logging.getLogger("agentfs.gateway")

PORTS = 64
"""Others that are tried in turn, below those that Linux gives to clients: the first system on a
machine has `PORT`."""

BACKLOG = 1024
LONGEST = 107  # bytes of a path in sockaddr_un


class Doors:
    """Both doors of the system `instance`, closed until `open`.

    instance: the name of this system, which no other has.
    url: where programs find the gateway, without /v1; empty while there is no such door.
    path: the unix socket; empty likewise.
    """

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self._open: dict[str, socket.socket] = {}
        self._folder = ""
        self.url = ""
        self.path = ""

    @property
    def port(self) -> int:
        """Of `url`; 0 while there is none."""
        tcp = self._open.get("tcp")
        return 0 if tcp is None else int(tcp.getsockname()[1])

    def __iter__(self) -> Iterator[tuple[str, socket.socket]]:
        """What each is ("tcp", "unix"), and its socket."""
        return iter(tuple(self._open.items()))

    def open(self, port: int = PORT) -> None:
        """Open both, that of TCP at `port` if that is free. A door that cannot be opened is left
        out, and the log says why."""
        try:
            self._open["tcp"] = tcp = _at_port(port)
            self.url = f"http://{HOST}:{tcp.getsockname()[1]}"
        except OSError as failure:
            log.error("the gateway has no address on %s: %s", HOST, failure.strerror)
        for folder in _folders(self.instance):
            path = f"{folder}/gateway"
            if len(os.fsencode(path)) > LONGEST:
                continue
            try:
                self._open["unix"] = _at_path(folder, path)
            except OSError as failure:
                log.info("no socket of the gateway at %s: %s", path, failure.strerror)
                continue
            self._folder, self.path = folder, path
            return
        log.error("the gateway has no unix socket: no folder for it can be made")

    def close(self) -> None:
        """Close both: who waits in line is refused."""
        for door in self._open.values():
            door.close()
        self._open.clear()
        self.url = ""
        if self.path:
            with suppress(OSError):
                os.unlink(self.path)
                os.rmdir(self._folder)
            self.path = ""


def turn_away(door: socket.socket, seconds: float) -> None:
    """Answer everybody who waits in line that there is no gateway for so many seconds."""
    words = "the gateway of models has ended, and is started again soon: /sys/gateway says why"
    body = json.dumps({"error": {"type": "api_error", "code": "no_gateway", "message": words}})
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: {math.ceil(seconds)}\r\n"
        "Connection: close\r\n\r\n"
    )
    with suppress(OSError):
        while True:
            with door.accept()[0] as connection, suppress(OSError):
                connection.setblocking(False)
                with suppress(BlockingIOError):
                    connection.recv(1 << 20)  # what is unread at the close would be a reset
                connection.send(f"{head}{body}".encode())


def _at_port(wanted: int) -> socket.socket:
    """Listen at the first of the ports that is free. Raises OSError."""
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in (wanted, *range(PORT, PORT + PORTS), 0):
            try:
                tcp.bind((HOST, port))
                tcp.listen(BACKLOG)
                break
            except OSError as failure:
                if failure.errno != errno.EADDRINUSE or port == 0:
                    raise
        tcp.setblocking(False)
    except BaseException:
        tcp.close()
        raise
    return tcp


def _at_path(folder: str, path: str) -> socket.socket:
    """Listen at a path, where nobody else can put anything. Raises OSError."""
    os.makedirs(folder, 0o755, exist_ok=True)
    found = os.lstat(folder)
    others = stat.S_IWGRP | stat.S_IWOTH
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & others:
        raise PermissionError(errno.EPERM, "the folder is not ours alone")
    with suppress(FileNotFoundError):
        os.unlink(path)  # of a daemon that was killed
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        unix.bind(path)
        os.chmod(path, 0o666)  # noqa: S103  # whoever connects is asked who that is
        unix.listen(BACKLOG)
        unix.setblocking(False)
    except BaseException:
        unix.close()
        raise
    return unix


def _folders(instance: str) -> Iterator[str]:
    """Where the unix socket may be: programs that run as other users have to get there, so it is
    not in the state directory."""
    if os.geteuid() == 0:
        yield f"/run/agentfs/{instance}"
    elif runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield f"{runtime}/agentfs/{instance}"
    yield f"{tempfile.gettempdir()}/agentfs-{os.geteuid()}-{instance}"
