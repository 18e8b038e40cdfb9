"""A mounted tree seen from outside: where it is, and file operations that say why they failed.

Nothing here knows more than paths. Standard library only: a command that reads a file starts fast.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress

from agentfs.tools.exits import NO_TREE, USAGE, ToolError
from agentfs.tools.mounts import GONE, condition, mounts

__all__ = [
    "CHUNK",
    "ToolError",
    "Tree",
    "TreeError",
    "encoded",
    "find",
    "shell_question",
    "shell_root",
]

QUIET = frozenset({errno.ENOENT, errno.EAGAIN, errno.EINTR, errno.ENOTCONN})
"""Errors for which the tree writes no reason."""

MOST_DIGITS = 18
"""Of a number that is meant as one."""

CHUNK = 1 << 20
"""Bytes to ask for at once: the largest message and a little more come in two reads."""


class TreeError(ToolError):
    """A file operation that failed. The text is `PATH: words`; `errno` as the call returned it."""

    def __init__(self, path: str, words: str, number: int = 0, code: int = 1) -> None:
        super().__init__(f"{path}: {words}" if path else words)
        self.errno = number
        self.code = code


def encoded(text: str) -> bytes:
    """`text` as bytes: those of the command line as they were. Raises ToolError for half a
    surrogate pair, which is no character."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as bad:
        half = ascii(text[bad.start : bad.end])
        raise ToolError(f"half a surrogate pair cannot be sent: {half}") from None


def _around(found: list[str]) -> list[str]:
    """Those of the trees `found` that the working directory is in, the innermost first."""
    try:
        here = os.getcwd() + "/"
    except OSError:  # it was removed
        return []
    return sorted((path for path in found if here.startswith(path + "/")), key=len, reverse=True)


def find() -> str:
    """The tree to work on: $AGENTFS, else the one that the working directory is in, else the only
    one that is mounted. Raises TreeError."""
    named = os.environ.get("AGENTFS")
    if named:
        return named
    found = list(dict.fromkeys(mounts()))
    if len(found) > 1:
        found = _around(found)[:1] or [path for path in found if condition(path) == "live"]
    if len(found) == 1:
        return found[0]
    if not found:
        words = "no tree is mounted here; mount one with `agentfs mount DIR`"
        raise TreeError("", words, code=NO_TREE)
    several = f"several trees are mounted; set AGENTFS to one of {', '.join(found)}"
    raise TreeError("", several, code=USAGE)


def shell_root() -> str:
    """How a shell line names the tree: `$AGENTFS`, or where it is if that is not set."""
    found = [] if os.environ.get("AGENTFS") else mounts()
    found = _around(found)[:1] or found
    return shlex.quote(found[0]) if len(found) == 1 else "$AGENTFS"


def shell_question(name: str, text: str) -> str:
    """The shell line that writes `text` to the file `name` of the tree and reads the reply."""
    said = shlex.quote(text)
    return f"exec 3<>{shell_root()}/{name}; printf %s {said} >&3; cat <&3; exec 3>&-"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


class Tree:
    """The tree at `root`. Every method raises TreeError, with the kernel's own reason."""

    def __init__(self, root: str | None = None) -> None:
        self.root = root if root is not None else find()

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def failure(self, name: str, failed: OSError) -> TreeError:
        """The error of a call on `name`, with what /proc/self/error says of it."""
        number = failed.errno or errno.EIO
        absent = self._absent(number)
        if absent is not None:
            return TreeError(self.root, absent, number, NO_TREE)
        if number == errno.ENOENT and self._nobody(name):
            owner = _user(os.stat(self.root).st_uid)
            words = f"you are nobody in this tree: only its agents and {owner} can act in it"
            return TreeError(self.path(name), words, number)
        words = (None if number in QUIET else self._reason(name, number)) or os.strerror(number)
        return TreeError(self.path(name), words, number)

    def _absent(self, number: int) -> str | None:
        """Why there is no tree at all to work on, and what to type."""
        try:
            if number not in GONE:
                os.stat(self.path("proc"))
                return None
        except OSError as failed:
            number = failed.errno or errno.EIO
        mount = f"type `agentfs mount {shlex.quote(self.root)}`"
        if number in GONE:
            return f"the daemon of this tree is gone; {mount}"
        if number in (errno.ENOENT, errno.ENOTDIR):
            return f"no tree is mounted there; {mount}"
        if number == errno.EACCES:
            who = "you are nobody in this tree: it lets no other user in"
            return f"{who} (`agentfs mount --allow-other` would)"
        return None

    def _nobody(self, name: str) -> bool:
        """Whether the caller is no agent of this tree, nor its operator, and `name` wants one."""
        if name.split("/")[1:2] != ["self"]:
            return False
        try:
            os.readlink(self.path("proc/self"))
        except OSError as failed:
            return failed.errno == errno.ENOENT
        return False

    def _reason(self, name: str, number: int) -> str | None:
        """The reason in /proc/self/error (`PATH: ERRNO: reason`), if it is about this file."""
        try:
            with open(self.path("proc/self/error"), encoding="utf-8", errors="replace") as file:
                text = file.read().strip()
        except OSError:
            return None  # not a tree, or a caller that is nobody: the errno has to do
        match = re.fullmatch(r"(.*?): (E[A-Z0-9]+): (.*)", text, re.DOTALL)
        if re.search(r" \(\d+ s ago\)$", text):
            return None  # of an older call: this one was refused by the mode bits
        if match is None or match[2] != errno.errorcode.get(number):
            return None
        if os.path.basename(match[1]) != os.path.basename(name):
            return None
        return match[3]

    def names(self, name: str) -> list[str]:
        """The entries of a directory, as `ls` has them."""
        try:
            return os.listdir(self.path(name))
        except OSError as failed:
            raise self.failure(name, failed) from None

    def read(self, name: str) -> str:
        """The whole content of a file, without the newline at its end."""
        content = b"".join(self.stream(name))
        return content.decode("utf-8", "replace").removesuffix("\n")

    def open(self, name: str, flags: int) -> int:
        """A descriptor of `name`, the caller's to close."""
        try:
            return os.open(self.path(name), flags | os.O_CLOEXEC)
        except OSError as failed:
            raise self.failure(name, failed) from None

    def stream(self, name: str, flags: int = 0) -> Iterator[bytes]:
        """The content of `name`, piece by piece, until the end of file."""
        try:
            descriptor = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC | flags)
        except OSError as failed:
            raise self.failure(name, failed) from None
        try:
            while True:
                try:
                    data = os.read(descriptor, CHUNK)
                except BlockingIOError:
                    return
                except OSError as failed:
                    raise self.failure(name, failed) from None
                if not data:
                    return
                yield data
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """Remove a file, as `rm` does."""
        self._call(os.unlink, name)

    def make_directory(self, name: str) -> None:
        """Make a directory, as `mkdir` does."""
        self._call(os.mkdir, name)

    def remove_directory(self, name: str) -> None:
        """Remove a directory, as `rmdir` does."""
        self._call(os.rmdir, name)

    def _call(self, call: Callable[[str], object], name: str) -> None:
        try:
            call(self.path(name))
        except OSError as failed:
            raise self.failure(name, failed) from None

    def attribute(self, name: str, attribute: str) -> str:
        """An extended attribute of a file."""
        try:
            return os.getxattr(self.path(name), attribute).decode("utf-8", "replace")
        except OSError as failed:
            raise self.failure(name, failed) from None

    def changed(self, name: str) -> float:
        """When a file changed last, seconds since 1970."""
        try:
            return os.stat(self.path(name)).st_mtime
        except OSError as failed:
            raise self.failure(name, failed) from None

    def write(self, name: str, content: bytes, flags: int = 0) -> None:
        """Write between one open and one close, as `echo … > name` does; with O_CREAT also what is
        not there yet."""
        try:
            descriptor = os.open(self.path(name), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | flags)
            try:
                while content:
                    content = content[os.write(descriptor, content) :]
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)  # may refuse what was written
        except OSError as failed:
            raise self.failure(name, failed) from None

    def ask(self, name: str, request: bytes) -> str:
        """Write `request` and read the reply through one descriptor, as `exec 3<>name` does."""
        try:
            descriptor = os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC)
        except OSError as failed:
            raise self.failure(name, failed) from None
        try:
            os.write(descriptor, request)
            return os.read(descriptor, CHUNK).decode().removesuffix("\n")
        except OSError as failed:
            # The file is there, so what is not is something that the request names.
            words = self._reason(name, failed.errno) if failed.errno == errno.ENOENT else None
            if words is not None:
                raise TreeError(self.path(name), words, errno.ENOENT) from None
            raise self.failure(name, failed) from None
        finally:
            os.close(descriptor)

    def exchange(self, name: str, request: bytes) -> Iterator[bytes]:
        """Write `request`, and give the answer piece by piece, through one descriptor."""
        descriptor = self.open(name, os.O_RDWR)
        try:
            while request:
                request = request[os.write(descriptor, request) :]
            while data := os.read(descriptor, CHUNK):
                yield data
        except OSError as failed:
            raise self.failure(name, failed) from None
        finally:
            with suppress(OSError):  # it refuses again what it refused
                os.close(descriptor)

    # -- processes -------------------------------------------------------------------------------

    def fields(self, name: str) -> dict[str, str]:
        """The `Key:\tvalue` lines of a file as a map."""
        lines = self.read(name).splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    def status(self, pid: int) -> dict[str, str]:
        """`/proc/PID/status` as a map."""
        return self.fields(f"proc/{pid}/status")

    def processes(self) -> list[dict[str, str]]:
        """The status of every process, by pid; one that ends meanwhile is left out."""
        found = []
        for pid in sorted(int(name) for name in self.names("proc") if name.isdigit()):
            try:
                found.append(self.status(pid))
            except TreeError as gone:
                if gone.errno not in (errno.ENOENT, errno.ESRCH, errno.ESTALE):
                    raise
        return found

    def pid(self, who: str) -> int:
        """A pid, or the pid of the process of agent `who`, or of the run that is called so."""
        if who.isascii() and who.isdigit():
            if len(who) > MOST_DIGITS:
                raise TreeError(self.path("proc"), f"there is no process {who[:MOST_DIGITS]}…")
            return int(who)
        _, at, number = who.rpartition("@")
        if at:  # a run is called PIPELINE@PID
            return self.pid(number)
        pid = self.read(f"agents/{who}/pid")
        if not pid:
            raise TreeError(self.path(f"agents/{who}/pid"), f"{who} has no process")
        return int(pid)
