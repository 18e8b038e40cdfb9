"""How a refusal is said in each dialect. The codes are those after which real programs stop: after
402 and 429 aider sent its request 9 times, and Codex 6 times; after 400 each sent it once, and
showed the reason (measured). Claude Code shows the reason of a 402, and stops."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Response", "refusal"]


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer over HTTP."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _Form(NamedTuple):
    """Status, type and code in OpenAI's dialects; status and type in Anthropic's."""

    status: int
    kind: str
    code: str
    messages_status: int
    messages_kind: str
    futile: bool = True
    """The same request will be refused again."""


BUDGET = _Form(400, "invalid_request_error", "budget_exceeded", 402, "billing_error")
CONTEXT = _Form(
    400, "invalid_request_error", "context_length_exceeded", 400, "invalid_request_error"
)
RATE = _Form(429, "rate_limit_error", "rate_limit_exceeded", 429, "rate_limit_error", futile=False)
FORBIDDEN = _Form(403, "permission_error", "permission_denied", 403, "permission_error")
MISSING = _Form(404, "invalid_request_error", "model_not_found", 404, "not_found_error")
BAD = _Form(400, "invalid_request_error", "invalid_request", 400, "invalid_request_error")
UPSTREAM = _Form(502, "server_error", "upstream_error", 502, "api_error", futile=False)
SLOW = _Form(504, "server_error", "timeout", 504, "timeout_error", futile=False)
BUSY = _Form(503, "server_error", "overloaded", 529, "overloaded_error", futile=False)
OTHER = _Form(500, "server_error", "internal_error", 500, "api_error", futile=False)

FORMS = {
    "EDQUOT": BUDGET,
    "EMSGSIZE": CONTEXT,
    "EAGAIN": RATE,
    "EACCES": FORBIDDEN,
    "EPERM": FORBIDDEN,
    "ENOENT": MISSING,
    "EINVAL": BAD,
    "EREMOTEIO": UPSTREAM,
    "ETIMEDOUT": SLOW,
    "EBUSY": BUSY,
    "ECANCELED": OTHER,
}

COMPACT = {
    "messages": "prompt is too long: ",
    "chat": "This model's maximum context length is exceeded: ",
    "responses": "Your input exceeds the context window of this model: ",
    "embeddings": "This model's maximum context length is exceeded: ",
}
"""The providers' own words, by which programs know that they have to compact the conversation."""


def refusal(
    dialect: str,
    errno: str,
    rule: str,
    words: str,
    retry_after: float | None = None,
) -> Response:
    """The refusal of a call, by the name of its errno (EDQUOT …) and of the rule that refused it.
    `retry_after`: seconds. A budget that comes back (so many tokens an hour) is no rate: programs
    would sleep an hour."""
    form = FORMS.get(errno, OTHER)
    if form is CONTEXT:
        words = COMPACT.get(dialect, "") + words
    if dialect == "messages":
        status = form.messages_status
        error: dict[str, object] = {"type": form.messages_kind, "message": words}
        said: dict[str, object] = {"type": "error", "error": error, "request_id": None}
    else:
        status = form.status
        said = {"error": {"message": words, "type": form.kind, "param": None, "code": form.code}}
    headers = [("content-type", "application/json"), ("x-agentfs-errno", errno)]
    if rule:
        headers.append(("x-agentfs-rule", _header(rule)))
    if form.futile:
        headers.append(("x-should-retry", "false"))
    if retry_after is not None and not form.futile:
        headers.append(("retry-after", str(max(1, math.ceil(retry_after)))))
    return Response(status, headers, json.dumps(said).encode("utf-8", "backslashreplace"))


def _header(text: str) -> str:
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)[:200]
