"""The settings of what is asked of models through files."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from agentfs.store.settings import Count, Section

__all__ = ["ChatSettings"]

Bytes = Annotated[int, Field(ge=1024, le=32 * 1024 * 1024)]


class ChatSettings(Section):
    """`max_request`: bytes of one request to /dev/llm. `max_conversation`: bytes of all prompts and
    answers of one conversation, also of one that is kept. `max_chats`: conversations that are kept
    of one agent, each of at most `max_turns` turns."""

    NAME: ClassVar = "chats"

    max_request: Bytes = 32 * 1024 * 1024
    max_conversation: Bytes = 1024 * 1024
    max_chats: Count = 100
    max_turns: Count = 500
