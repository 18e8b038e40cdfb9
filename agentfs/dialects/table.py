"""All dialects, by name."""

from __future__ import annotations

from agentfs.dialects.chat import CHAT
from agentfs.dialects.dialect import Dialect
from agentfs.dialects.embeddings import EMBEDDINGS
from agentfs.dialects.messages import MESSAGES
from agentfs.dialects.responses import RESPONSES

__all__ = ["DIALECTS"]

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect for dialect in (CHAT, RESPONSES, MESSAGES, EMBEDDINGS)
}
