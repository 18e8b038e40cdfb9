"""Which file one execve has to start, for a program that may execute nothing after it."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Sequence

__all__ = ["first_line", "own_program"]

FIRST_LINE = 256
"""How much of a script's first line Linux looks at (BINPRM_BUF_SIZE)."""


def own_program(
    command: Sequence[str], folder: str, path: str, place: Callable[[str], str] = str
) -> tuple[str, list[str]]:
    """(file to execute, its arguments) for `command`, run in `folder` and looked up in `path`;
    `place` says where a file is to be looked at.

    A script that begins with `#!/usr/bin/env PROGRAM` is given to PROGRAM at once: `env` could not
    execute it any more. Raises FileNotFoundError.
    """
    file = _find(command[0], path)
    words = _words_for_env(place(os.path.join(folder, file)))
    if not words:
        return file, list(command)
    return _find(words[0], path), [*words, file, *command[1:]]


def _find(name: str, path: str) -> str:
    found = name if "/" in name else shutil.which(name, path=path)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return found


def first_line(file: str) -> bytes:
    """The first line of a script. Raises OSError. Nothing of what is no plain file: a FIFO would be
    waited for, and it is an agent that names it."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return os.read(descriptor, FIRST_LINE).partition(b"\n")[0]
    finally:
        os.close(descriptor)


def _words_for_env(file: str) -> list[str]:
    """What a script asks `env` to run; nothing if it is no such script."""
    try:
        line = first_line(file)
    except OSError:
        return []  # the exec says what is wrong with it
    if not line.startswith(b"#!"):
        return []
    interpreter, _, argument = os.fsdecode(line[2:].strip()).partition(" ")
    if os.path.basename(interpreter) != "env":
        return []
    argument = argument.strip()
    words = shlex.split(argument[2:]) if argument.startswith("-S") else [argument]
    plain = words and words[0] and not words[0].startswith("-") and "=" not in words[0]
    return words if plain else []
