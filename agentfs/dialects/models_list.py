"""GET /v1/models, in both forms."""

from __future__ import annotations

import json
from collections.abc import Sequence

__all__ = ["model_entry", "models_list"]

EPOCH = "1970-01-01T00:00:00Z"  # when a model was made is not known here


def _entry(name: str, messages: bool) -> dict[str, object]:
    if messages:
        return {"type": "model", "id": name, "display_name": name, "created_at": EPOCH}
    return {"id": name, "object": "model", "created": 0, "owned_by": "agentfs"}


def model_entry(name: str, messages: bool) -> bytes:
    """GET /v1/models/NAME. `messages`: as Anthropic says it (the request has an anthropic-version
    header)."""
    return json.dumps(_entry(name, messages)).encode()


def models_list(names: Sequence[str], messages: bool) -> bytes:
    """GET /v1/models: all at once, on one page."""
    entries = [_entry(name, messages) for name in names]
    if not messages:
        return json.dumps({"object": "list", "data": entries}).encode()
    ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
    return json.dumps({"data": entries, "has_more": False, **ends}).encode()
