"""An agent whose program does what a test says: real identity, real system calls, one at a time."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from tests.tree import PATIENCE, Tree

__all__ = ["Puppet"]

PROGRAM = """
import errno, json, os, socket, sys
tree = os.environ["AGENTFS"]
me = tree + "/agents/" + os.environ["AGENT_NAME"]

def read(path, size=1 << 20, flags=0):
    fd = os.open(os.path.join(tree, path), os.O_RDONLY | flags)
    try:
        return os.read(fd, size).decode()
    finally:
        os.close(fd)

def write(path, text, flags=0):
    fd = os.open(os.path.join(tree, path), os.O_WRONLY | flags)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)

def ask(path, request):
    fd = os.open(os.path.join(tree, path), os.O_RDWR)
    try:
        os.write(fd, request.encode())
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)

def call(tool, arguments):
    fd = os.open(os.path.join(tree, "dev/tools", tool, "call"), os.O_RDWR)
    try:
        os.write(fd, arguments.encode())
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part.decode())
        return "".join(parts)
    finally:
        os.close(fd)

def ls(path):
    return sorted(os.listdir(os.path.join(tree, path)))

def rm(path):
    os.unlink(os.path.join(tree, path))

def mv(old, new):
    os.rename(os.path.join(tree, old), os.path.join(tree, new))

line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[1])
with line.makefile("rw") as wire:
    for request in wire:
        try:
            answer = {"result": eval(json.loads(request))}
        except OSError as failure:
            answer = {"errno": failure.errno or errno.EIO}  # urllib's have none
        print(json.dumps(answer), file=wire, flush=True)
"""


class Puppet:
    """Agent `name`, spawned as a child of process `parent`.

    The calls raise OSError with the errno that the agent got.
    """

    def __init__(
        self,
        tree: Tree,
        name: str,
        parent: int = 1,
        *,
        python: str = sys.executable,
        **spec: object,
    ) -> None:
        self.name = name
        path = tree.state.parent / f"{name}.sock"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            path.chmod(0o666)  # it may be of another user
            listening.listen(1)
            listening.settimeout(PATIENCE)
            program = [python, "-c", PROGRAM, str(path)]
            self.pid = tree.spawn(name, parent, exec=program, **{"restart": "never", **spec})
            self._line = listening.accept()[0]
        path.unlink()
        self._line.settimeout(PATIENCE)
        self._wire = self._line.makefile("rw")

    def do(self, expression: str) -> Any:
        """What a Python expression gives in the agent's program: `read`, `write`, `ask`, `ls`,
        `rm`, `mv` on paths of the tree, `os` and everything else."""
        print(json.dumps(expression), file=self._wire, flush=True)
        answer = json.loads(self._wire.readline())
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        return answer["result"]

    def read(self, path: str | Path) -> str:
        return str(self.do(f"read({str(path)!r})"))

    def poll(self, path: str | Path) -> str:
        """What is there to read now; EAGAIN if nothing is."""
        return str(self.do(f"read({str(path)!r}, flags=os.O_NONBLOCK)"))

    def write(self, path: str | Path, text: str) -> None:
        self.do(f"write({str(path)!r}, {text!r})")

    def ask(self, path: str | Path, request: str) -> str:
        return str(self.do(f"ask({str(path)!r}, {request!r})"))

    def call(self, tool: str, **arguments: object) -> str:
        """The whole result of a call of a tool."""
        return str(self.do(f"call({tool!r}, {json.dumps(arguments)!r})"))

    def ls(self, path: str | Path) -> list[str]:
        found = self.do(f"ls({str(path)!r})")
        assert isinstance(found, list)
        return found

    def rm(self, path: str | Path) -> None:
        self.do(f"rm({str(path)!r})")

    def mv(self, old: str | Path, new: str | Path) -> None:
        self.do(f"mv({str(old)!r}, {str(new)!r})")

    def send(self, receiver: str, text: str) -> None:
        """Through its `outbox`: a body, or headers, a blank line and a body."""
        self.write(f"agents/self/outbox/{receiver}", text)

    def recv(self) -> str:
        """The next message of its own, whole. EAGAIN if none waits."""
        return self.poll("agents/self/recv")

    def close(self) -> None:
        """Let its program end, with code 0."""
        self._wire.close()
        self._line.close()
