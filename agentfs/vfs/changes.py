"""How a provider says which nodes an event changed. The mount makes caches and watchers see it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from agentfs.vfs.node import Node

__all__ = ["Change", "Created", "HungUp", "Known", "Modified", "Moved", "Removed"]


@dataclass(frozen=True, slots=True)
class Modified:
    """The content or the attributes of `key` are not what they were."""

    key: Hashable


@dataclass(frozen=True, slots=True)
class Created:
    """`directory` has a new entry. `node` describes it even if it is gone again by now."""

    directory: Hashable
    name: str
    node: Node


@dataclass(frozen=True, slots=True)
class Removed:
    """`directory` lost an entry, `key` is no more."""

    directory: Hashable
    name: str
    key: Hashable
    is_directory: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """The entry (directory, name) is now (target, new_name); the node is the same."""

    directory: Hashable
    name: str
    target: Hashable
    new_name: str
    node: Node


@dataclass(frozen=True, slots=True)
class HungUp:
    """Nobody will come to the other end of the FIFO `key`: who waits in open(2) waits no more."""

    key: Hashable


Change = Modified | Created | Removed | Moved | HungUp

Known = Callable[[Hashable], object]
"""Something true for the key of a node that anybody knows: what changes in another concerns
nobody."""
