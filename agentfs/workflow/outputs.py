"""Values of runs: short ones are JSON in the journal, longer ones are files.

A file lies below `runs/ID/artifacts` of the state directory, which the tree shows as
/proc/runs/ID/artifacts. In its place a value has `{"$artifact": PATH, "size": …, "sha256": …}`, and
that is what is passed on.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.workflow.journal import decode, encode

__all__ = ["ARTIFACT", "FOLDER", "LONGEST_TEXT", "Outputs", "is_artifact", "shortened"]

FOLDER = "runs"
"""Below the state directory: a folder for each run, by its number."""

LONGEST_TEXT = 64 * 1024
"""Bytes of a value in the journal; a longer one is a file."""

LONGEST_READ = 1 << 20
"""Bytes of an artifact that a template may look into: reading 1 MiB of JSON takes 10 ms."""

ARTIFACT = "$artifact"

LONGEST_ERROR = 64 * 1024
"""Bytes of an error that are kept."""


def is_artifact(value: Any) -> bool:
    """Whether a value stands for a file."""
    return isinstance(value, dict) and isinstance(value.get(ARTIFACT), str) and "size" in value


def shortened(error: str) -> str:
    """An error as it is kept: its beginning, if it is very long."""
    data = error.encode("utf-8", "backslashreplace")
    if len(data) <= LONGEST_ERROR:
        return error if error.isascii() else data.decode()
    return f"{data[:LONGEST_ERROR].decode(errors='ignore')}… ({len(data)} bytes)"


class Outputs:
    """The files of all runs."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / FOLDER

    def folder(self, run: int) -> Path:
        """The files of a run; the folder is made when something is put into it."""
        return self._folder / str(run)

    def runs(self) -> list[int]:
        """The runs that have a folder."""
        if not self._folder.is_dir():
            return []
        return sorted(int(name) for name in os.listdir(self._folder) if name.isdigit())

    def kept(self, run: int, name: str, value: Any, most: int) -> tuple[str, Any]:
        """(text, value) as the journal is to have it: itself, or what stands for a file that is
        called `name` from now on. Raises EFBIG, and EINVAL for what is no JSON value."""
        try:
            text = encode(value)
        except (TypeError, ValueError, RecursionError) as bad:
            raise KernelError(errno.EINVAL, f"it is no JSON value: {bad}") from None
        if len(text) <= LONGEST_TEXT // 4:  # no character has more than four bytes
            return text, value
        data = text.encode()
        if len(data) <= LONGEST_TEXT:
            return text, value
        if len(data) > most:
            raise KernelError(errno.EFBIG, f"it has {len(data)} bytes, {most} are allowed")
        path = self._place(run, name)
        try:
            _write(path, data)
        except OSError as failure:
            raise KernelError.from_os(failure, f"the value of {name} cannot be kept") from None
        standing = self._standing(run, path.name, len(data), hashlib.sha256(data).hexdigest())
        return encode(standing), standing

    def adopted(self, run: int, name: str, value: Any) -> Any:
        """`value`, with the files of other runs that it stands for linked into `run`, which keeps
        them however long those are kept."""
        if is_artifact(value):
            source = self.path_of(value)
            if source is None or source.parent == self.folder(run) / "artifacts":
                return value
            target = self._place(run, name)
            if source.is_symlink() or not source.is_file():
                return value
            target.unlink(missing_ok=True)
            os.link(source, target, follow_symlinks=False)
            return value | {ARTIFACT: f"/proc/runs/{run}/artifacts/{target.name}"}
        if isinstance(value, dict):
            return {
                key: self.adopted(run, f"{name}.{at}", each)
                for at, (key, each) in enumerate(value.items())
            }
        if isinstance(value, list):
            return [self.adopted(run, f"{name}.{at}", each) for at, each in enumerate(value)]
        return value

    def read(self, value: dict[str, Any]) -> Any:
        """The value that stands for a file. Raises EFBIG if that is too long to be looked into
        here, ENOENT if it is gone."""
        path = self.path_of(value)
        if path is None:
            raise KernelError(errno.ENOENT, f"{value[ARTIFACT]} is no artifact of a run")
        try:
            data = _read(path, LONGEST_READ + 1)
        except OSError as failure:
            raise KernelError.from_os(failure, value[ARTIFACT]) from None
        if len(data) > LONGEST_READ:
            raise KernelError(
                errno.EFBIG,
                f"{value[ARTIFACT]} has more than {LONGEST_READ} bytes: it can be passed on, and a"
                " program or a function can look into it, a template cannot",
            )
        try:
            return decode(data.decode())
        except ValueError as bad:
            raise KernelError(errno.EINVAL, f"{value[ARTIFACT]} is no JSON: {bad}") from None

    def path_of(self, value: dict[str, Any]) -> Path | None:
        """The file that a value stands for; None if it is none of ours."""
        parts = str(value[ARTIFACT]).split("/")
        if len(parts) != 6 or parts[:3] != ["", "proc", "runs"] or parts[4] != "artifacts":
            return None
        if not parts[3].isdigit() or parts[5] in ("", ".", ".."):
            return None
        return self.folder(int(parts[3])) / "artifacts" / parts[5]

    def link_all(self, source: int, target: int) -> None:
        """Have the artifacts of one run in another, too."""
        folder = self.folder(source) / "artifacts"
        if not folder.is_dir():
            return
        for name in os.listdir(folder):
            found, place = folder / name, self._place(target, name)
            if found.is_file() and not found.is_symlink() and not place.exists():
                os.link(found, place, follow_symlinks=False)

    def remove(self, run: int) -> None:
        """Delete the files of a run. It belongs into a thread where there are many."""
        shutil.rmtree(self.folder(run), ignore_errors=True)

    def _place(self, run: int, name: str) -> Path:
        folder = self.folder(run) / "artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name.replace("/", "%")

    @staticmethod
    def _standing(run: int, name: str, size: int, digest: str) -> dict[str, Any]:
        return {ARTIFACT: f"/proc/runs/{run}/artifacts/{name}", "size": size, "sha256": digest}


def _write(path: Path, data: bytes) -> None:
    """Have `data` at `path`. Programs of the run may write in this folder, too: what they left
    there is replaced and never followed."""
    scratch = path.with_name(f".{secrets.token_hex(8)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(scratch, flags, 0o644)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _read(path: Path, most: int) -> bytes:
    """At most so many bytes of a regular file. Raises OSError, ELOOP for a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(most)
