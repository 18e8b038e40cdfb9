"""Names and paths with wildcards, as rules have them. `*`, `?` and `[…]` are those of file names,
and stay within a component of a path. `**` is any number of components."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

__all__ = [
    "Match",
    "Weight",
    "covers_below",
    "matcher",
    "parts",
    "path_matcher",
    "reaches_below",
    "weight",
]

Match = Callable[[str], object]
Weight = tuple[int, int]
"""How specific one condition is: 2 if it is exact, 1 with wildcards, 0 if there is none; then the
length of what stands before the first wildcard."""


def is_glob(text: str) -> bool:
    """Whether there is a wildcard in it."""
    return any(character in text for character in "*?[")


def weight(condition: str | None) -> Weight:
    """How specific a condition is; None matches anything."""
    if condition is None:
        return 0, 0
    if not is_glob(condition):
        return 2, len(condition)
    return 1, len(prefix(condition))


def prefix(glob: str) -> str:
    """The text before the first wildcard."""
    return re.split(r"[*?\[]", glob, maxsplit=1)[0]


def matcher(condition: str | None) -> Match | None:
    """A function that says whether a name, or a component of a path, matches; None if any does."""
    if condition is None:
        return None
    if not is_glob(condition):
        return condition.__eq__
    return re.compile(fnmatch.translate(condition)).match


def parts(path: str) -> list[str]:
    """The components of an absolute path."""
    return path.split("/")[1:]


def path_matcher(path: str) -> Match:
    """A function that says whether a path matches."""
    if not is_glob(path):
        return path.__eq__
    begin, wanted = prefix(path).rstrip("/"), [_part_matcher(part) for part in parts(path)]
    return lambda given: given.startswith(begin) and _match(wanted, parts(given))


def _part_matcher(part: str) -> Match | None:
    """None for `**`, which is any number of components, also none."""
    return None if part == "**" else matcher(part)


def _match(wanted: list[Match | None], given: list[str]) -> bool:
    """Whether the components match. Where one does not, the last `**` takes one more."""
    i = j = resume = 0
    across = -1
    while j < len(given):
        if i < len(wanted) and wanted[i] is None:
            across, resume = i, j
            i += 1
        elif i < len(wanted) and wanted[i](given[j]):  # type: ignore[misc]  # is not None
            i += 1
            j += 1
        elif across >= 0:
            resume += 1
            i, j = across + 1, resume
        else:
            return False
    return all(part is None for part in wanted[i:])


def covers_below(path: str, folder: str) -> bool:
    """Whether `path` matches everything below `folder`, whatever it is called."""
    literal = path.removesuffix("/**")
    return literal != path and not is_glob(literal) and f"{folder}/".startswith(f"{literal}/")


def reaches_below(path: str, folder: str) -> bool:
    """Whether `path` may match something below `folder`."""
    wanted = parts(path)
    for part, given in zip(wanted, parts(folder), strict=False):
        match = _part_matcher(part)
        if match is None:
            return True
        if not match(given):
            return False
    return len(wanted) > len(parts(folder))
