"""OpenAI's chat completions, which llama.cpp, vLLM and many others speak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentfs.dialects.dialect import Dialect, Request
from agentfs.dialects.progress import Progress
from agentfs.dialects.sse import event
from agentfs.dialects.usage import TokenUsage, count

__all__ = ["CHAT", "openai_error", "openai_usage"]

DONE = b"data: [DONE]\n\n"


def openai_error(words: str, kind: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": words, "type": kind, "param": None, "code": code}}


def openai_usage(usage: object) -> TokenUsage | None:
    """`usage` of a chunk, a completion or a list of embeddings."""
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = count(details, "cached_tokens") if isinstance(details, dict) else 0
    prompt = count(usage, "prompt_tokens")
    cached = min(cached, prompt)
    return TokenUsage(prompt - cached, count(usage, "completion_tokens"), cached).told


class _Reader:
    """A stream of chunks: which answers it has begun, and which are over."""

    single = True

    def __init__(self, request: Request) -> None:
        self._request = request
        self._head: dict[str, Any] = {}  # what every chunk says of itself
        self._over: dict[int, bool] = dict.fromkeys(range(request.n), False)
        self._begun: set[int] = set()
        self._said_usage = False

    def see(self, name: str, data: Any, progress: Progress) -> bool:
        if not isinstance(data, dict):
            progress.failed("the provider sent a chunk that is no object")
            return False
        if data.get("error") or name == "error":
            progress.failed(data.get("error") or data.get("message"))
            return False
        if not self._head:
            self._head = {
                key: data[key]
                for key in ("id", "object", "created", "model", "system_fingerprint")
                if key in data
            }
        choices = data.get("choices")
        progress.counted(openai_usage(data.get("usage")))
        if not isinstance(choices, list) or not choices:
            says = data.get("usage") is not None
            self._said_usage |= says
            return self._request.wants_usage or not says
        for choice in choices:
            if isinstance(choice, dict):
                self._choice(choice, progress)
        return True

    def _choice(self, choice: Mapping[str, Any], progress: Progress) -> None:
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        self._begun.add(index)
        delta = choice.get("delta")
        if isinstance(delta, dict):
            progress.wrote(delta.get("content"), shown=index == 0)
            for key in ("reasoning_content", "reasoning", "refusal"):
                progress.wrote(delta.get(key))
            calls = delta.get("tool_calls")
            for call in calls if isinstance(calls, list) else ():
                _called(call, progress)
            _called({"function": delta.get("function_call")}, progress)
        if finish := choice.get("finish_reason"):
            self._over[index] = True
            if index == 0:
                progress.ended(finish)

    def done(self, progress: Progress) -> bool:
        return bool(self._begun)

    def complete(self, progress: Progress) -> bytes | None:
        return DONE if all(self._over.values()) else None

    def cut(self, usage: TokenUsage, progress: Progress) -> bytes:
        head = self._head or {
            "id": "chatcmpl-cut",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": self._request.model,
        }
        rest = [
            {"index": index, "delta": self._delta(index), "finish_reason": "length"}
            for index, over in sorted(self._over.items())
            if not over
        ]
        # The SDK takes all answers that the first chunk has, and of later ones one at a time.
        chunks = [[choice] for choice in rest] if self._begun else [rest]
        events = [event({**head, "choices": chunk}) for chunk in chunks if chunk]
        if self._request.wants_usage and not self._said_usage:
            said = {
                "prompt_tokens": usage.prompt,
                "completion_tokens": usage.output,
                "total_tokens": usage.prompt + usage.output,
            }
            events.append(event({**head, "choices": [], "usage": said}))
        return b"".join([*events, DONE])

    def _delta(self, index: int) -> dict[str, Any]:
        return {} if index in self._begun else {"role": "assistant", "content": ""}

    def fail(self, words: str, progress: Progress) -> bytes:
        return event(openai_error(words, "server_error", progress.error_type or "upstream_error"))


def _called(call: object, progress: Progress) -> None:
    function = call.get("function") if isinstance(call, dict) else None
    if isinstance(function, dict):
        progress.wrote(function.get("name"))
        progress.wrote(function.get("arguments"))


def _choice(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = reply.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _text(reply: Mapping[str, Any]) -> str:
    message = _choice(reply).get("message")
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""


def _question(
    system: str, messages: Sequence[Mapping[str, Any]], model: str, maximum: int | None
) -> dict[str, Any]:
    request: dict[str, Any] = {"model": model, "messages": [*messages]}
    if system:
        request["messages"].insert(0, {"role": "system", "content": system})
    if maximum is not None:
        request["max_tokens"] = maximum
    return request


CHAT = Dialect(
    name="chat",
    path="/v1/chat/completions",
    maximum="max_tokens",
    usage=lambda reply: openai_usage(reply.get("usage")),
    text=_text,
    finish=lambda reply: str(_choice(reply).get("finish_reason") or ""),
    question=_question,
    reader=_Reader,
)
