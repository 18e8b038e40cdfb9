"""OpenAI's embeddings: vectors for texts; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentfs.dialects.chat import openai_usage
from agentfs.dialects.dialect import Dialect

__all__ = ["EMBEDDINGS"]


def _question(
    system: str, messages: Sequence[Mapping[str, Any]], model: str, maximum: int | None
) -> dict[str, Any]:
    texts = [message.get("content") for message in messages]
    return {"model": model, "input": texts}


EMBEDDINGS = Dialect(
    name="embeddings",
    path="/v1/embeddings",
    maximum="",
    usage=lambda reply: openai_usage(reply.get("usage")),
    text=lambda reply: "",
    finish=lambda reply: "stop",
    question=_question,
    reader=None,
)
