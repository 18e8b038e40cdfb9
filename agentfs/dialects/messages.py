"""Anthropic's messages: blocks, each begun and ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentfs.dialects.dialect import Dialect, Request
from agentfs.dialects.progress import FINISH, Progress
from agentfs.dialects.sse import event
from agentfs.dialects.usage import TokenUsage, count

__all__ = ["COUNT_TOKENS", "MESSAGES", "counted"]

ANSWER = 4_096
"""Tokens of an answer for which nobody named a maximum: Anthropic wants one."""


def messages_usage(usage: object) -> TokenUsage | None:
    if not isinstance(usage, dict):
        return None
    return TokenUsage(
        count(usage, "input_tokens"),
        count(usage, "output_tokens"),
        count(usage, "cache_read_input_tokens"),
        count(usage, "cache_creation_input_tokens"),
    ).told


def _said(usage: TokenUsage) -> dict[str, int]:
    return {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
    }


class _Reader:
    """A stream of blocks: which are open."""

    single = False

    def __init__(self, request: Request) -> None:
        self._request = request
        self._begun = False
        self._open: set[int] = set()

    def see(self, name: str, data: Any, progress: Progress) -> bool:
        if not isinstance(data, dict):
            progress.failed("the provider sent an event that is no object")
            return False
        kind = data.get("type") or name
        if kind == "content_block_delta":
            _delta(data.get("delta"), progress)
        elif kind == "content_block_start":
            self._open.add(_index(data))
            _block(data.get("content_block"), progress)
        elif kind == "content_block_stop":
            self._open.discard(_index(data))
        elif kind == "message_start":
            self._begun = True
            message = data.get("message")
            said = message.get("usage") if isinstance(message, dict) else None
            progress.counted(messages_usage(said), final=False)
        elif kind == "message_delta":
            progress.counted(messages_usage(data.get("usage")))
            delta = data.get("delta")
            progress.ended(delta.get("stop_reason") if isinstance(delta, dict) else None)
        elif kind == "message_stop":
            progress.finished = self._begun
        elif kind == "error" or data.get("error"):
            progress.failed(data.get("error") or data.get("message"))
            return False
        return True

    def done(self, progress: Progress) -> bool:
        return False  # this dialect says message_stop instead

    def complete(self, progress: Progress) -> bytes | None:
        return _stop() if progress.finish else None

    def cut(self, usage: TokenUsage, progress: Progress) -> bytes:
        events = []
        if not self._begun:
            message: dict[str, Any] = {
                "id": "msg_cut",
                "type": "message",
                "role": "assistant",
                "model": self._request.model,
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": _said(usage.with_output(0)),
            }
            events.append(event({"type": "message_start", "message": message}, "message_start"))
        for index in sorted(self._open):
            stop = {"type": "content_block_stop", "index": index}
            events.append(event(stop, "content_block_stop"))
        if not progress.finish:
            delta = {"stop_reason": "max_tokens", "stop_sequence": None}
            end = {"type": "message_delta", "delta": delta, "usage": _said(usage)}
            events.append(event(end, "message_delta"))
        return b"".join([*events, _stop()])

    def fail(self, words: str, progress: Progress) -> bytes:
        error = {"type": progress.error_type or "api_error", "message": words}
        return event({"type": "error", "error": error}, "error")


def _stop() -> bytes:
    return event({"type": "message_stop"}, "message_stop")


def _index(data: Mapping[str, Any]) -> int:
    index = data.get("index")
    return index if isinstance(index, int) else 0


def _delta(delta: object, progress: Progress) -> None:
    if not isinstance(delta, dict):
        return
    kind = delta.get("type")
    if kind == "text_delta":
        progress.wrote(delta.get("text"), shown=True)
    elif kind == "input_json_delta":
        progress.wrote(delta.get("partial_json"))
    elif kind == "thinking_delta":
        progress.wrote(delta.get("thinking"))


def _block(block: object, progress: Progress) -> None:
    """A block that begins with some of its content, as those of servers' tools."""
    if isinstance(block, dict):
        progress.wrote(block.get("name"))
        progress.wrote(block.get("text"), shown=True)


def _text(reply: Mapping[str, Any]) -> str:
    content = reply.get("content")
    blocks = content if isinstance(content, list) else []
    texts = [block.get("text") for block in blocks if isinstance(block, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _finish(reply: Mapping[str, Any]) -> str:
    reason = str(reply.get("stop_reason") or "")
    return FINISH.get(reason, reason)


def _question(
    system: str, messages: Sequence[Mapping[str, Any]], model: str, maximum: int | None
) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model": model,
        "max_tokens": maximum or ANSWER,
        "messages": [*messages],
    }
    if system:
        request["system"] = system
    return request


MESSAGES = Dialect(
    name="messages",
    path="/v1/messages",
    maximum="max_tokens",
    usage=lambda reply: messages_usage(reply.get("usage")),
    text=_text,
    finish=_finish,
    question=_question,
    reader=_Reader,
)

COUNT_TOKENS = Dialect(
    name="messages",
    path="/v1/messages/count_tokens",
    maximum="",
    usage=lambda reply: None,
    text=lambda reply: "",
    finish=lambda reply: "",
    question=_question,
    reader=None,
)
"""How many tokens a request would have: it costs nothing."""


def counted(tokens: int) -> bytes:
    """The answer to COUNT_TOKENS."""
    return json.dumps({"input_tokens": tokens}).encode()
