"""The needs of the alternatives: an ext4 file system, Redis servers, an interpreter with their
libraries."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.setting import PATIENCE, file_system

__all__ = ["ROOT", "Redis", "interpreter", "on_ext4", "redis_server"]

ROOT = Path(__file__).parents[2]
IMAGE_BYTES = 2 << 30
"""Of the file system that is made where there is no ext4; sparse."""


def interpreter() -> str:
    """A Python that can import the libraries of bench/requirements.txt."""
    own = ROOT / ".venv-bench/bin/python"
    for python in (str(own), sys.executable):
        if (
            os.path.exists(python)
            and not subprocess.run(
                [python, "-c", "import litequeue, redis"], capture_output=True, check=False
            ).returncode
        ):
            return python
    raise SystemExit("redis-py and litequeue are not installed: ./run bench installs them")


@contextlib.contextmanager
def on_ext4(folder: Path) -> Iterator[Path]:
    """A folder on ext4: `folder` if it is, else one in an image that is mounted below it."""
    if file_system(folder) == "ext4":
        yield folder
        return
    image, place = folder / "ext4.img", folder / "ext4"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    place.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=False)
    if mounted.returncode:
        raise SystemExit(f"{folder} is not on ext4, and only root can mount one: set TMPDIR")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@dataclass(frozen=True, slots=True)
class Redis:
    """A server of our own: its port on the loopback, and its pid."""

    port: int
    pid: int


@contextlib.contextmanager
def redis_server(folder: Path, appendfsync: str) -> Iterator[Redis]:
    """A Redis that appends every command to a file before it answers."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("redis-server is not installed: ./run bench installs it")
    data = folder / f"redis-{appendfsync}"
    data.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "--bind": "127.0.0.1",
        "--port": str(port),
        "--dir": str(data),
        "--save": "",
        "--appendonly": "yes",
        "--appendfsync": appendfsync,
        "--logfile": str(data / "log"),
    }
    server = subprocess.Popen([program, *(word for pair in options.items() for word in pair)])
    try:
        _wait_for(port, server)
        yield Redis(port, server.pid)
    finally:
        server.terminate()
        server.wait(PATIENCE)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("redis-server does not start")
        time.sleep(0.02)
