"""OpenAI's embeddings: vectors for texts; nothing is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentfs.dialects.chat import openai_usage
from agentfs.dialects.dialect import Dialect

__all__ = ["EMBEDDINGS"]


def _ask(
    system: str,
    messages: Sequence[Mapping[str, Any]],
    model: str,
    maximum: int | None,
    stream: bool,
) -> bytes:
    texts = [message.get("content") for message in messages]
    return json.dumps({"model": model, "input": texts}).encode()


EMBEDDINGS = Dialect(
    name="embeddings",
    path="/v1/embeddings",
    maximum="",
    usage=lambda reply: openai_usage(reply.get("usage")),
    text=lambda reply: "",
    finish=lambda reply: "stop",
    ask=_ask,
    reader=None,
)
