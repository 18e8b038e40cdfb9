"""All dialects, by name."""

from __future__ import annotations

from agentfs.dialects.chat import CHAT
from agentfs.dialects.dialect import Dialect

__all__ = ["DIALECTS"]

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (CHAT,)}
