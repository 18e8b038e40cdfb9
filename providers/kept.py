"""Directories whose descriptors are kept open for the next call on them.

Without one, every call on a file would walk from the root of its tree to its directory.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

if TYPE_CHECKING:
    from agentfs.providers.host import HostDirectory

__all__ = ["MOST", "keep", "let_go"]

MOST = 256
"""How many are kept, those that were used last."""

_kept: OrderedDict[int, ReferenceType[HostDirectory]] = OrderedDict()


def keep(directory: HostDirectory) -> None:
    """`directory` is used now; the one that was used longest ago may lose its descriptor."""
    number = id(directory)
    if number in _kept:
        _kept.move_to_end(number)
        return
    _kept[number] = ref(directory, lambda _: _kept.pop(number, None))
    while len(_kept) > MOST:
        _, oldest = _kept.popitem(last=False)
        found = oldest()
        if found is not None:
            found.kept = None


def let_go(directory: HostDirectory) -> None:
    """It keeps its descriptor for good: it has no name any more to be found by."""
    _kept.pop(id(directory), None)
