"""Why a program could not be started, in words that say which file is meant."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence

from agentfs.machine.own_program import first_line

__all__ = ["why_not"]


def why_not(
    number: int,
    command: Sequence[str],
    folder: str,
    path: str,
    place: Callable[[str], str] = str,
    *,
    ours: bool = True,
) -> str:
    """What the errno of an execve of `command`, run in `folder` and looked up in `path`, is about;
    `place` says where a file is to be looked at.

    `ours`: it was to run as our own user, so that what we can see of a file it may see too.
    """
    name = command[0]
    file = os.path.join(folder, name) if "/" in name else shutil.which(name, path=path)
    if file is None:
        if number == errno.ENOENT:
            return f"there is no program {name!r} in PATH, which is {path}"
        return f"{name!r} in PATH, which is {path}"
    if number == errno.ENOENT:
        return _not_there(file, name, place(file))
    if number == errno.ENOEXEC:
        return f"{file} is neither a program nor a script that begins with #!"
    if number == errno.EACCES and ours:
        if os.path.isdir(place(file)):
            return f"{file} is a directory"
        if os.path.isfile(place(file)) and not os.access(place(file), os.X_OK):
            return f"{file} is not executable; `chmod +x` makes it so"
    return file


def _not_there(file: str, name: str, place: str) -> str:
    try:
        line = first_line(place)
    except OSError:
        where = "" if os.path.isabs(name) else ": paths begin in its working directory"
        return f"there is no {file}{where}"
    interpreter = os.fsdecode(line[2:].split()[0]) if line[:2] == b"#!" and line[2:].split() else ""
    if interpreter:
        return f"{file} asks for {interpreter}, which there is not"
    return f"{file} asks for a loader or library that there is not"
