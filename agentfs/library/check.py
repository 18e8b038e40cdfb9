"""Faults of the documents in a store: what is known of each, and its texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from agentfs.library.library import KIND, KINDS, read_head
from agentfs.store.rows import UNREADABLE, StoreRows

__all__ = ["faults"]


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    texts: defaultdict[str, set[int]] = defaultdict(set)
    for kind, name, version in rows.read("SELECT kind, name, version FROM manifests"):
        texts[f"{kind}/{name}"].add(version)
    for key, record in rows.records(KIND):
        there = texts.pop(key, set())
        try:
            place, head = read_head(key, record)
            kept = [number for number, _ in head.versions]
            if place != (head.kind, head.name) or head.kind not in KINDS:
                yield f"document {key}: its record is that of {head.kind}/{head.name}"
            if kept != sorted(set(kept)) or set(kept) != there:
                yield f"document {key}: versions {kept} are known, the texts are {sorted(there)}"
            if kept and kept[-1] != head.version:
                yield f"document {key}: version {head.version} is the last, and {kept[-1]} is kept"
            if bool(kept) == bool(head.removed):
                yield f"document {key}: it is removed and there, or neither"
        except UNREADABLE as bad:
            yield f"document {key}: its record cannot be read: {bad!r}"
    for key, versions in texts.items():
        yield f"document {key}: nobody knows of its texts {sorted(versions)}"
