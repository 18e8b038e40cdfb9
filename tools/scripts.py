"""The command of `agentfs spawn`: a script of the caller's directory is started from there.

A program begins in its agent's memory, so `sh job.sh` would look for the script there, fail, and be
started again and again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence

__all__ = ["NoScriptError", "as_typed"]

INTERPRETER = re.compile(
    r"(ba|da|a|z|k|mk)?sh|fish|python[0-9.]*|pypy[0-9.]*|perl|ruby|node|lua[0-9.]*|php|Rscript"
)
"""Programs whose first argument that is no option is a script."""

NO_SCRIPT = re.compile(r"-[a-zA-Z]*[cme]|-|--(command|eval|print|help|version)(=.*)?")
"""Options after which there is none: code follows, a module, or standard input is read."""

WITH_ARGUMENT = re.compile(r"-[WXoOIrI]|--(require|import|loader|rcfile|init-file)")
"""Options whose argument is a word of its own."""


class NoScriptError(Exception):
    """The script that is named is nowhere; the text names it."""


def as_typed(command: Sequence[str], elsewhere: Callable[[], Iterable[str]]) -> list[str]:
    """`command`, with its program and script, if they are in the working directory, by their
    absolute paths. Raises NoScriptError for a script that is neither there nor in one of the
    folders that `elsewhere` gives."""
    words = list(command)
    if not words:
        return words
    if "/" in words[0] and os.path.exists(words[0]):
        words[0] = os.path.abspath(words[0])
    if not INTERPRETER.fullmatch(os.path.basename(words[0])):
        return words
    at = _script(words)
    if at is None:
        return words
    script = words[at]
    if os.path.isfile(script):
        words[at] = os.path.abspath(script)
    elif not any(os.path.lexists(os.path.join(folder, script)) for folder in elsewhere()):
        raise NoScriptError(script)
    return words


def _script(words: Sequence[str]) -> int | None:
    """Which word is the script; None if there is none."""
    skip = False
    for at, word in enumerate(words[1:], start=1):
        if skip:
            skip = False
        elif NO_SCRIPT.fullmatch(word):
            return None
        elif not word.startswith(("-", "+")):
            return at
        else:
            skip = WITH_ARGUMENT.fullmatch(word) is not None
    return None
