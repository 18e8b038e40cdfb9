"""What a model can do: five tools over files, and the tools of /lib/tools that it was given.

A path that begins with `/` is one of the tree; any other is one of the working directory, as is
the absolute path of something in it. Nothing is decided here of what is allowed: a refusal of the
kernel is the result of the call, in its words.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import os
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from agentfs.runner.talk import OfferedTool, WantedCall

__all__ = ["Hands"]

MOST_NAMES = 200
"""Entries of a folder that are shown."""

PIECE = 64 * 1024
MOST_READ = 32 * 1024
"""Bytes of a result, at most: a longer one is cut, and says so."""

MOST_LOOKS = 3
"""Files that are looked at for a model which cannot ask for them."""

PATIENCE = 120.0
"""Seconds that a program may take which `exec_path` runs."""

PATH = {"type": "string", "description": "Begins with / for a file of the tree."}

OWN = (
    OfferedTool("read_path", "Read a file.", {"path": PATH}),
    OfferedTool("list_directory", "List the names in a folder.", {"path": PATH}),
    OfferedTool("stat_path", "Say what a file is, and how large.", {"path": PATH}),
    OfferedTool(
        "write_path",
        "Write a file; of the tree also a command or a message.",
        {"path": PATH, "content": {"type": "string"}},
    ),
    OfferedTool(
        "exec_path",
        "Run a program, or use a file of the tree that takes a request and gives a reply.",
        {"path": PATH, "input": {"type": "string", "description": "Its input, or its request."}},
    ),
)


class ToolFailedError(Exception):
    """The text is for the model."""


class Hands:
    """The tools of one agent. `globs`: those of /lib/tools that it was given; `room`: bytes of a
    result at most; `why`: the kernel's words for the last refusal."""

    def __init__(
        self, tree: str, globs: Sequence[str], why: Callable[[], str], room: int = MOST_READ
    ) -> None:
        self._tree = tree
        self._globs = globs
        self._why = why
        self._room = min(room, MOST_READ)
        self._own = {
            "read_path": self._read,
            "list_directory": self._list,
            "stat_path": self._stat,
            "write_path": self._write,
            "exec_path": self._exec,
        }

    def tools(self) -> list[OfferedTool]:
        """All of them, as the model is told of them."""
        own = [
            OfferedTool(
                tool.name,
                tool.description,
                {
                    "type": "object",
                    "properties": tool.parameters,
                    "required": list(tool.parameters),
                    "additionalProperties": False,
                },
            )
            for tool in OWN
        ]
        return own + self.given()

    def given(self) -> list[OfferedTool]:
        """Those of /lib/tools, as their schemas say."""
        found = []
        folder = f"{self._tree}/lib/tools"
        names = os.listdir(folder) if self._globs else []
        for name in sorted(names):
            if not any(fnmatch.fnmatchcase(name, glob) for glob in self._globs):
                continue
            with contextlib.suppress(OSError, ValueError, LookupError):  # it says nothing of itself
                with open(f"{folder}/{name}/schema", encoding="utf-8") as file:
                    schema = json.load(file)
                found.append(OfferedTool(name, schema.get("description", ""), schema["parameters"]))
        return found

    def looks(self, text: str) -> list[WantedCall]:
        """The calls that look at the files and folders which `text` names, at most three."""
        words = dict.fromkeys(word.strip("\"'`.,;:!?()[]<>") for word in text.split())
        paths = [
            word
            for word in words
            if ("." in word or "/" in word)
            and len(word) < 1024
            and os.path.exists(self.place(word))
        ]
        return [
            WantedCall(
                f"look-{number}",
                "list_directory" if os.path.isdir(self.place(path)) else "read_path",
                {"path": path},
            )
            for number, path in enumerate(paths[:MOST_LOOKS], start=1)
        ]

    def use(self, call: WantedCall) -> str:
        """The result of a call, or why there is none."""
        try:
            if call.name in self._own:
                return self._cut(self._own[call.name](_Arguments(call)))
            return self._cut(self._call_tool(call))
        except ToolFailedError as failed:
            return f"error: {failed}"
        except OSError as failed:
            return f"error: {self._words(failed)}"

    # -- paths -------------------------------------------------------------------------------------

    def place(self, path: str) -> str:
        """Where a path of the model is on this machine."""
        if not path.startswith("/"):
            return os.path.join(os.getcwd(), path)
        here = os.getcwd()
        for whole in (here, self._tree):
            if path == whole or path.startswith(f"{whole}/"):
                return path
        return f"{self._tree}{os.path.normpath(path)}"

    def _words(self, failed: OSError) -> str:
        """Of a refusal in the tree the kernel's words, else Linux's."""
        path = os.fsdecode(failed.filename or "")
        if failed.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, None):
            with contextlib.suppress(OSError):
                words = self._why().strip()
                if os.path.basename(path) and os.path.basename(path) in words:
                    return words
        shown = path.removeprefix(self._tree) or "it"
        return f"{shown}: {failed.strerror or failed}"

    def _cut(self, text: str) -> str:
        data = text.encode("utf-8", "replace")
        if len(data) <= self._room:
            return text
        kept = data[: self._room].decode("utf-8", "ignore")
        return f"{kept}\n[cut: {len(data)} bytes in all]"

    # -- our own -----------------------------------------------------------------------------------

    def _read(self, given: _Arguments) -> str:
        path = self.place(given.text("path"))
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _until(file, self._room + 1, path)
        finally:
            os.close(file)

    def _list(self, given: _Arguments) -> str:
        path = self.place(given.text("path"))
        with os.scandir(path) as found:
            names = sorted(f"{each.name}/" if each.is_dir() else each.name for each in found)
        more = [f"[{len(names) - MOST_NAMES} more]"] if len(names) > MOST_NAMES else []
        return "\n".join(names[:MOST_NAMES] + more) or "[it is empty]"

    def _stat(self, given: _Arguments) -> str:
        path = self.place(given.text("path"))
        found = os.stat(path)
        kind = "directory" if stat.S_ISDIR(found.st_mode) else "file"
        with contextlib.suppress(OSError):
            kind = os.getxattr(path, "user.agentfs.kind").decode()
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.st_mtime))
        return f"kind {kind}, {found.st_size} bytes, mode {stat.filemode(found.st_mode)}, {when}"

    def _write(self, given: _Arguments) -> str:
        path, content = self.place(given.text("path")), given.text("content").encode()
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            size = len(content)
            while content:
                content = content[os.write(file, content) :]
        except OSError as failed:
            failed.filename = path
            raise
        finally:
            os.close(file)
        return f"{size} bytes are written"

    def _exec(self, given: _Arguments) -> str:
        path, text = self.place(given.text("path")), given.text("input", "")
        if os.path.isfile(f"{path}/call"):
            path = f"{path}/call"
        if path.startswith(f"{self._tree}/") and not os.stat(path).st_mode & 0o111:
            return self._ask(path, text)
        try:
            done = subprocess.run(
                [path], input=text.encode(), capture_output=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            raise ToolFailedError(f"{path} was not done after {PATIENCE:.0f} s") from None
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        return said if done.returncode == 0 else f"{said}\n[it ended with code {done.returncode}]"

    def _ask(self, path: str, text: str) -> str:
        """Write a request and read the reply on one handle; of a file that gives none, `done`."""
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except PermissionError:
            file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            data = text.encode()
            while data:
                data = data[os.write(file, data) :]
            try:
                return _until(file, self._room + 1, path) or "done"
            except OSError as failed:
                if failed.errno == errno.EBADF:  # it is open for writing only
                    return "done"
                raise
        except OSError as failed:
            failed.filename = path
            raise
        finally:
            os.close(file)

    # -- tools of /lib/tools -----------------------------------------------------------------------

    def _call_tool(self, call: WantedCall) -> str:
        if not any(fnmatch.fnmatchcase(call.name, glob) for glob in self._globs):
            raise ToolFailedError(f"there is no tool {call.name!r}")
        return self._ask(f"{self._tree}/lib/tools/{call.name}/call", json.dumps(call.arguments))


class _Arguments:
    """What a model gave with its call."""

    def __init__(self, call: WantedCall) -> None:
        self._call = call

    def text(self, name: str, default: str | None = None) -> str:
        """An argument. Raises ToolFailedError."""
        value: Any = self._call.arguments.get(name, default)
        if value is None:
            raise ToolFailedError(f"{self._call.name} needs the argument {name!r}")
        if not isinstance(value, str):
            raise ToolFailedError(f"{self._call.name}: {name!r} is text, not {value!r}")
        return value


def _until(file: int, most: int, path: str) -> str:
    """What can be read now, at most so many bytes."""
    content = b""
    try:
        while len(content) < most and (piece := os.read(file, PIECE)):
            content += piece
    except BlockingIOError:
        return content.decode("utf-8", "replace") or "[nothing is there at the moment]"
    except OSError as failed:
        failed.filename = path
        raise
    if b"\0" in content[:1024]:
        return f"[{len(content)} bytes that are no text]"
    return content.decode("utf-8", "replace")
