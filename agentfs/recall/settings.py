"""The settings of memory."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from agentfs.store.settings import Section

__all__ = ["MemorySettings"]

LARGEST = 1024 * 1024
"""Bytes of a file that is in the index; see `files`."""


class MemorySettings(Section):
    """`max_note`: bytes of one note. `embeddings`: the model of /etc/models.yaml by whose vectors
    `recall` finds what is meant, too, at its caller's cost; empty: it finds words alone."""

    NAME: ClassVar = "memory"

    max_note: Annotated[int, Field(ge=1, le=LARGEST)] = 256 * 1024
    embeddings: str = ""
