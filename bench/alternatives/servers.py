"""The needs of the alternatives: an ext4 file system, Redis servers, an interpreter with their
libraries."""

from __future__ import annotations

import contextlib
import json
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

__all__ = [
    "ROOT",
    "Proxy",
    "Redis",
    "interpreter",
    "litellm_proxy",
    "on_ext4",
    "provider",
    "redis_server",
]

ROOT = Path(__file__).parents[2]
LITELLM_SECONDS = 120.0
"""It takes 20 seconds on a quiet machine."""
KEY = "sk-bench"
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
    port = _free_port()
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


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _wait_for(port: int, server: subprocess.Popen[bytes], patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{server.args!r} does not start")
        time.sleep(0.02)


@contextlib.contextmanager
def provider() -> Iterator[int]:
    """A provider of models that answers at once: its port."""
    program = subprocess.Popen(
        [sys.executable, "-m", "bench.alternatives.provider"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert program.stdout is not None
        yield int(program.stdout.readline())
    finally:
        program.terminate()
        program.communicate(timeout=PATIENCE)


@dataclass(frozen=True, slots=True)
class Proxy:
    """LiteLLM's proxy: its port, the key that it wants, and its pid."""

    port: int
    key: str
    pid: int


@contextlib.contextmanager
def litellm_proxy(folder: Path, behind: int) -> Iterator[Proxy | None]:
    """LiteLLM's proxy with one worker and no database, before the provider at port `behind`; None
    where it is not installed."""
    program = ROOT / ".venv-litellm/bin/litellm"
    if not program.exists():
        yield None
        return
    model = {"model": "openai/bench", "api_base": f"http://127.0.0.1:{behind}/v1", "api_key": "k"}
    document = {"model_list": [{"model_name": "bench", "litellm_params": model}]}
    file = folder / "litellm.json"
    file.write_text(json.dumps(document))  # JSON is YAML
    port = _free_port()
    words = [
        "--config",
        str(file),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--telemetry",
        "False",
    ]
    own = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": KEY,
    }
    with (folder / "litellm.log").open("wb") as log:
        server = subprocess.Popen(
            [program, *words, "--telemetry", "False"], stdout=log, stderr=log, env=os.environ | own
        )
        try:
            _wait_for(port, server, LITELLM_SECONDS)
            yield Proxy(port, KEY, server.pid)
        finally:
            server.terminate()
            server.wait(PATIENCE)
