"""Text for a terminal: colours where they are wanted, and no control characters of others."""

from __future__ import annotations

import os
import sys
import unicodedata

__all__ = ["beginning", "coloured", "paint", "shown"]

COLOURS = {"green": 32, "yellow": 33, "red": 31, "dim": 2, "bold": 1}
HIDDEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
"""Kinds of characters that move the cursor, turn text round, or are not seen."""


def coloured() -> bool:
    """Whether colours are wanted: on a terminal, and as NO_COLOR and CLICOLOR_FORCE say."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """`text` in a colour, if colours are wanted: the words say the same."""
    if not colour or not coloured():
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def shown(text: str) -> str:
    """`text` of somebody else, so that it can do nothing to a terminal."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in HIDDEN else "\ufffd"
        for char in text
    )


def beginning(text: str, most: int) -> str:
    """Its first `most` characters, in one line."""
    line = shown(" ".join(text.split()))
    return line if len(line) <= most else line[: most - 1] + "…"
