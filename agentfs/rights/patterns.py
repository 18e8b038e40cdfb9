"""Names and paths with wildcards, as rules have them: those of file names (`*`, `?`, `[…]`), which
stay within a component of a path, and `**`, which is any number of components."""

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
"""How specific one condition is: exact 2, with wildcards 1, any 0; then the length of what is
before the first wildcard."""


def is_glob(text: str) -> bool:
    """Whether there is a wildcard in it."""
    return any(character in text for character in "*?[")


def weight(condition: str | None) -> Weight:
    """How specific a condition is; None is any."""
    if condition is None:
        return 0, 0
    if not is_glob(condition):
        return 2, len(condition)
    return 1, len(prefix(condition))


def prefix(glob: str) -> str:
    """What is before the first wildcard."""
    return re.split(r"[*?\[]", glob, maxsplit=1)[0]


def matcher(condition: str | None) -> Match | None:
    """What says whether a name, or one component of a path, is meant; None is any."""
    if condition is None:
        return None
    if not is_glob(condition):
        return condition.__eq__
    return re.compile(fnmatch.translate(condition)).match


def parts(path: str) -> list[str]:
    """The components of an absolute path."""
    return path.split("/")[1:]


def path_matcher(path: str) -> Match:
    """What says whether a path is meant."""
    if not is_glob(path):
        return path.__eq__
    begin, wanted = prefix(path).rstrip("/"), [_part_matcher(part) for part in parts(path)]
    return lambda given: given.startswith(begin) and _match(wanted, parts(given))


def _part_matcher(part: str) -> Match | None:
    """None for `**`: any number of components, none too."""
    return None if part == "**" else matcher(part)


def _match(wanted: list[Match | None], given: list[str]) -> bool:
    """Whether the components match; where one does not, the last `**` takes one more."""
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
    """Whether `path` means everything below `folder`, whatever its name."""
    literal = path.removesuffix("/**")
    return literal != path and not is_glob(literal) and f"{folder}/".startswith(f"{literal}/")


def reaches_below(path: str, folder: str) -> bool:
    """Whether `path` may mean something below `folder`."""
    wanted = parts(path)
    for part, given in zip(wanted, parts(folder), strict=False):
        match = _part_matcher(part)
        if match is None:
            return True
        if not match(given):
            return False
    return len(wanted) > len(parts(folder))
