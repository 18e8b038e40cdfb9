"""Which build of AgentFS runs: its sources, or the same sources compiled."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

__all__ = ["build"]


def build() -> str:
    """`compiled`, if the store, which every message passes, is an extension module; else `pure`."""
    spec = find_spec("agentfs.store.store")
    compiled = spec is not None and (spec.origin or "").endswith(tuple(EXTENSION_SUFFIXES))
    return "compiled" if compiled else "pure"
