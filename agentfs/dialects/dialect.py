"""What a dialect is, and a request in one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentfs.dialects.body import BadRequest, Body
from agentfs.dialects.media import weigh
from agentfs.dialects.progress import StreamReader
from agentfs.dialects.usage import TokenUsage, tokens

__all__ = ["Dialect", "Request"]

MAXIMA = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "n_predict",
)
"""Names under which servers take the maximum of an answer: OpenAI's, Anthropic's, and those that
llama.cpp and others take beside them. Each that a request has is lowered."""

COUNTS = ("n", "best_of", "n_cmpl")
"""Names under which servers take the number of answers."""

MOST_ANSWERS = 128  # OpenAI's own maximum of `n`
ENDLESS = 10**9
"""Tokens. A larger maximum means the same."""

UNCOUNTED = {
    "background": "nobody would count its tokens",
    "previous_response_id": "its tokens are not known; send the conversation as input",
    "conversation": "its tokens are not known; send the conversation as input",
}
"""Fields of the responses with which tokens are used that no request shows, and why not."""

METERED = (*MAXIMA, *COUNTS, *UNCOUNTED, "model", "stream", "stream_options", "thinking")

REASONING = re.compile(r"(?:.*/)?(?:o\d|gpt-(?:[5-9]|\d\d)|codex|computer-use)", re.IGNORECASE)
"""OpenAI's models that reason in hidden tokens, and take `max_completion_tokens` only."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of the providers' interfaces."""

    name: str
    path: str
    maximum: str
    """The name of the field with the most tokens of an answer; "" where nothing is written."""

    usage: Callable[[Mapping[str, Any]], TokenUsage | None]
    """What a whole reply says that it cost; None if it does not."""

    text: Callable[[Mapping[str, Any]], str]
    """The text of a whole reply."""

    finish: Callable[[Mapping[str, Any]], str]
    """How a whole reply ended: "stop", "length", or the provider's own word."""

    question: Callable[[str, Sequence[Mapping[str, Any]], str, int | None], dict[str, Any]]
    """A request: system, messages, model, maximum."""

    reader: Callable[[Request], StreamReader] | None
    """What reads and ends a stream; None where there are none."""

    def ask(
        self,
        system: str,
        messages: Sequence[Mapping[str, Any]],
        model: str,
        maximum: int | None,
        stream: bool,
    ) -> bytes:
        """The body of a request of our own. There is no stream where nothing could read one."""
        asked = self.question(system, messages, model, maximum)
        if stream and self.reader is not None:
            asked["stream"] = True
        return json.dumps(asked).encode()

    def parse(self, body: bytes) -> Request:
        """A client's request. Raises BadRequest for what cannot be metered."""
        return _parse(self, body)


@dataclass(slots=True)
class Request:
    """A request as its client wrote it, and what of it is metered."""

    dialect: Dialect
    model: str
    stream: bool
    output: int | None
    """The most tokens that all its answers may have together; None: it does not say."""

    n: int
    """How many answers it asks for."""

    input_bytes: int
    """Bytes without those of images and files."""

    images: int
    """Images and files in it."""

    flat: int
    """Tokens for images and files, whatever their bytes."""

    wants_usage: bool
    """Whether its client asked for the usage of a stream (the others always say it)."""

    body: Body = field(repr=False)

    def estimate(self, bytes_per_token: float) -> int:
        """The tokens of its input, rather too many than too few."""
        return tokens(self.input_bytes, bytes_per_token) + self.flat

    def hides(self, model_id: str) -> bool:
        """Whether tokens of the answer are charged that a stream does not show, so that all of them
        have to be held before."""
        thinking = self.body.members.get("thinking")
        if isinstance(thinking, dict) and thinking.get("type") != "disabled":
            return True
        return self.dialect.name != "messages" and REASONING.match(model_id) is not None

    def outgoing(self, model_id: str, maximum: int | None) -> bytes:
        """The request for the provider: with its name of the model, and with `maximum` tokens at
        most in all answers together. Everything else stays as it is, byte for byte.

        Raises BadRequest if there are fewer tokens than answers.
        """
        members = self.body.members
        values: dict[str, Any] = {"model": model_id}
        if maximum is not None and self.dialect.maximum:
            each = maximum // self.n
            if each < 1 and self.output != 0:
                raise BadRequest(
                    f"{self.n} answers need at least as many tokens, and {maximum} are left"
                )
            given = [name for name in MAXIMA if members.get(name) is not None]
            lowered = {name: each for name in given if members[name] > each}
            values |= lowered | (_thinking(members, each) if lowered else {})
            if not given:
                values[self._maximum(model_id)] = each
        if self.stream and self.dialect.name == "chat" and not self.wants_usage:
            values["stream_options"] = {
                **(members.get("stream_options") or {}),
                "include_usage": True,
            }
        return self.body.replaced(values)

    def _maximum(self, model_id: str) -> str:
        if self.dialect.name == "chat" and REASONING.match(model_id):
            return "max_completion_tokens"
        return self.dialect.maximum


def _thinking(members: Mapping[str, Any], maximum: int) -> dict[str, Any]:
    """Below a maximum that was lowered: Anthropic refuses a budget for thinking that is not
    smaller. The least is 1,024. A quarter is kept for the answer."""
    thinking = members.get("thinking")
    if not isinstance(thinking, dict) or not isinstance(thinking.get("budget_tokens"), int):
        return {}
    if thinking["budget_tokens"] < maximum:
        return {}
    room = maximum * 3 // 4
    if room < 1024:
        return {"thinking": {"type": "disabled"}}
    return {"thinking": {**thinking, "budget_tokens": room}}


def _parse(dialect: Dialect, raw: bytes) -> Request:
    body = Body(raw)
    members = body.members
    body.refuse_other_case(METERED)
    model = members.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= 256:
        raise BadRequest('"model" has to be the name of a model')
    for name, instead in UNCOUNTED.items():
        if members.get(name):
            raise BadRequest(f'"{name}" is not possible here: {instead}')
    stream = _flag(members, "stream")
    options = members.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise BadRequest('"stream_options" has to be an object')
    wants = options.get("include_usage") if options else None
    if wants is not None and not isinstance(wants, bool):
        raise BadRequest('"stream_options.include_usage" has to be true or false')
    n = max(_number(members, name, 1, MOST_ANSWERS) or 1 for name in COUNTS)
    least = 0 if dialect.name == "messages" else 1  # a 0 of Anthropic's fills a cache
    asked = [number for name in MAXIMA if (number := _number(members, name, least)) is not None]
    output = min(max(asked) * n, ENDLESS) if asked else None
    media = weigh(members)
    return Request(
        dialect=dialect,
        model=model,
        stream=stream and dialect.reader is not None,
        output=output if dialect.maximum else 0,
        n=n if dialect.maximum else 1,
        input_bytes=len(raw) - media.size,
        images=media.found,
        flat=media.tokens,
        wants_usage=bool(wants) or dialect.name != "chat",
        body=body,
    )


def _flag(members: Mapping[str, Any], name: str) -> bool:
    value = members.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f'"{name}" has to be true or false')
    return bool(value)


def _number(
    members: Mapping[str, Any], name: str, least: int, most: int | None = None
) -> int | None:
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f'"{name}" has to be a whole number')
    if value < least or (most is not None and value > most):
        above = f" and at most {most}" if most is not None else ""
        raise BadRequest(f'"{name}" has to be at least {least}{above}')
    return value
