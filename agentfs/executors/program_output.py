"""The output of a program as the value of its node."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NoReturn

from agentfs.base.errors import KernelError

__all__ = ["LONGEST_VALUE", "last_words", "parsed", "read_output"]

LONGEST_VALUE = 1 << 20
"""Bytes of output that become a value; more stay a file. Reading 1 MiB of JSON takes 10 ms, in
which no other thread runs."""

BLOCK = 1 << 20


def parsed(data: bytes, form: str) -> Any:
    """What `data` means: `json`, `text` (without the newline at its end), or for `auto` JSON if it
    is that, else text. Raises EINVAL for `json` that is none."""
    if form != "text":
        try:
            return json.loads(data, parse_constant=_refused)
        except (ValueError, RecursionError) as bad:
            if form == "json":
                raise KernelError(errno.EINVAL, f"the output is no JSON: {bad}") from None
    return data.decode(errors="replace").removesuffix("\n")


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def read_output(output: Path, form: str, kept: Path, shown: str) -> Any:
    """The value of an output. One that is too long to be looked into becomes the file `kept`, and
    its value says where that is in the tree: `shown`; it may have become that before a daemon died.
    For a thread, if it is long. Raises EINVAL, and what the disk says."""
    try:
        if not output.exists() and os.path.lexists(kept):
            output = kept
        with open(output, "rb", opener=_no_link) as source:
            size = os.fstat(source.fileno()).st_size
            if size <= LONGEST_VALUE:
                return parsed(source.read(), form)
            digest = hashlib.sha256()
            while block := source.read(BLOCK):
                digest.update(block)
        os.replace(output, kept)
    except OSError as failure:
        raise KernelError.from_os(failure, "its output cannot be read") from failure
    return {"$artifact": shown, "size": size, "sha256": digest.hexdigest()}


def _no_link(path: str, flags: int) -> int:
    """open(2) that follows no link: the programs of a run write where its artifacts are."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def last_words(log: Path, most: int) -> str:
    """The end of what a program has written to stderr, from the beginning of a line."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            data = file.read(most)
    except OSError:
        return ""
    if size > most and b"\n" in data[:-1]:
        data = data.partition(b"\n")[2]
    return data.decode(errors="replace").rstrip("\n")
