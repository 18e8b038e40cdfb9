"""Requests to the gateway: for the text of an answer, or in a dialect of the provider."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ModelRequest", "Said", "of_dialect", "of_text"]


@dataclass(frozen=True, slots=True)
class Said:
    """Words of somebody: of the `user`, or of the model, which is the `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A request to the gateway over a connection that it was given."""

    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def of_text(
    model: str, system: str, said: Sequence[Said], max_output: int | None = None
) -> ModelRequest:
    """Asks for the answer to the last that was said, of at most so many tokens. The reply is
    text."""
    body = {
        "model": model,
        "system": system,
        "messages": [{"role": each.role, "content": each.content} for each in said],
        "max_output": max_output,
    }
    return ModelRequest(
        "/agentfs/ask",
        (("content-type", "application/json"),),
        json.dumps(body, ensure_ascii=False).encode(),
    )


def of_dialect(model: str, body: bytes) -> ModelRequest:
    """A request in one of the dialects of the model's provider, and the reply in the same."""
    headers = (("content-type", "application/json"), ("x-agentfs-model", model))
    return ModelRequest("/agentfs/raw", headers, body)
