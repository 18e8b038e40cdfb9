"""OpenAI's responses: items, each made of parts, of which every event says its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentfs.dialects.dialect import Dialect, Request
from agentfs.dialects.progress import Progress
from agentfs.dialects.sse import event
from agentfs.dialects.usage import TokenUsage, count

__all__ = ["RESPONSES"]

Item = dict[str, Any]

LIFE = {"response.created", "response.queued", "response.in_progress"}
ENDS = {"response.completed", "response.incomplete"}

DELTAS = {
    "response.output_text.delta": ("content", "text"),
    "response.refusal.delta": ("content", "refusal"),
    "response.reasoning_text.delta": ("content", "text"),
    "response.reasoning_summary_text.delta": ("summary", "text"),
    "response.function_call_arguments.delta": ("", "arguments"),
    "response.custom_tool_call_input.delta": ("", "input"),
    "response.mcp_call_arguments.delta": ("", "arguments"),
    "response.code_interpreter_call_code.delta": ("", "code"),
}
"""Where an item keeps what a delta brings: a part of this list, or itself; and under which name."""

MAX_PARTS = 1_000
"""Of an item. A number beyond is no provider's."""


def responses_usage(usage: object) -> TokenUsage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("input_tokens_details")
    total = count(usage, "input_tokens")
    cached = min(count(details, "cached_tokens"), total) if isinstance(details, dict) else 0
    return TokenUsage(total - cached, count(usage, "output_tokens"), cached).told


class _Reader:
    """A stream of items: what each has until now, for the end says everything again."""

    single = True

    def __init__(self, request: Request) -> None:
        self._request = request
        self._response: Item = {}
        self._items: dict[int, Item] = {}
        self._texts: dict[tuple[int, str, int, str], list[str]] = {}
        self._open: set[int] = set()
        self._number = -1  # of the last event

    def see(self, name: str, data: Any, progress: Progress) -> bool:
        if not isinstance(data, dict):
            progress.failed("the provider sent an event that is no object")
            return False
        kind = str(data.get("type") or name)
        number = data.get("sequence_number")
        self._number = number if isinstance(number, int) else self._number + 1
        if place := DELTAS.get(kind):
            self._delta(place, data)
            progress.wrote(data.get("delta"), shown=kind == "response.output_text.delta")
        elif kind == "error" or data.get("error"):
            progress.failed(data.get("error") or data)
            return False
        elif isinstance(response := data.get("response"), dict):
            return self._lifecycle(kind, response, progress)
        elif isinstance(data.get("output_index"), int):
            self._item(kind, data, progress)
        return True

    def _lifecycle(self, kind: str, response: Item, progress: Progress) -> bool:
        progress.counted(responses_usage(response.get("usage")))
        if kind in LIFE:
            self._response = response
        elif kind in ENDS:
            progress.finished = bool(self._response)
            progress.ended(_finish(response))
        elif kind == "response.failed":
            progress.failed(response.get("error"))
            return False
        return True

    def _item(self, kind: str, data: Item, progress: Progress) -> None:
        index = data["output_index"]
        if kind == "response.output_item.added" and isinstance(data.get("item"), dict):
            self._items[index] = data["item"]
            self._open.add(index)
            progress.wrote(data["item"].get("name"))
        elif kind == "response.output_item.done" and isinstance(data.get("item"), dict):
            self._items[index] = data["item"]
            self._open.discard(index)
            for key in [key for key in self._texts if key[0] == index]:
                del self._texts[key]

    def _delta(self, place: tuple[str, str], data: Item) -> None:
        where, key = place
        part = data.get("summary_index" if where == "summary" else "content_index")
        index = data.get("output_index")
        delta = data.get("delta")
        part = part if isinstance(part, int) and 0 <= part < MAX_PARTS else 0
        if isinstance(index, int) and isinstance(delta, str):
            at = (index, where, part, key)
            self._texts.setdefault(at, []).append(delta)

    def done(self, progress: Progress) -> bool:
        return False  # this dialect says response.completed before

    def complete(self, progress: Progress) -> bytes | None:
        return None

    def cut(self, usage: TokenUsage, progress: Progress) -> bytes:
        events = self._beginning()
        for index in sorted(self._open):
            events += self._closed(index)
        self._response = {
            **self._response,
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [self._items[index] for index in sorted(self._items)],
            "usage": {
                "input_tokens": usage.prompt,
                "input_tokens_details": {"cached_tokens": usage.cache_read},
                "output_tokens": usage.output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt + usage.output,
            },
        }
        events.append(self._event("response.incomplete", {"response": self._response}))
        return b"".join(events)

    def fail(self, words: str, progress: Progress) -> bytes:
        """Both that the response failed, by which Codex knows it, and an error, which the SDK
        raises."""
        code = progress.error_type or "server_error"
        events = self._beginning()
        failed = {
            **self._response,
            "status": "failed",
            "error": {"code": code, "message": words},
            "output": [self._items[index] for index in sorted(self._items.keys() - self._open)],
        }
        events.append(self._event("response.failed", {"response": failed}))
        error = {"type": "server_error", "code": code, "message": words, "param": None}
        both = {"code": code, "message": words, "param": None, "error": error}
        events.append(self._event("error", both))
        return b"".join(events)

    def _beginning(self) -> list[bytes]:
        """The event with which a stream begins, if there was none."""
        if self._response:
            return []
        self._response = {
            "id": "resp_cut",
            "object": "response",
            "created_at": 0,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": self._request.model,
            "output": [],
            "parallel_tool_calls": True,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
        }
        return [self._event("response.created", {"response": self._response})]

    def _closed(self, index: int) -> list[bytes]:
        """The end of an item that was begun: it has what came until now. There is none of
        `output_text.done`: the SDK would read its half as the JSON that was asked for."""
        item = {**self._items[index], "status": "incomplete"}
        for (at, where, part, key), pieces in sorted(self._texts.items()):
            if at != index:
                continue
            text = "".join(pieces)
            if not where:
                item[key] = text
                continue
            begun = item.get(where)
            parts = item[where] = [*begun] if isinstance(begun, list) else []
            while len(parts) <= part:
                parts.append(_part(item.get("type"), where, key))
            parts[part] = {**_part(item.get("type"), where, key), key: text}
        self._items[index] = item
        done = {"output_index": index, "item": item}
        return [self._event("response.output_item.done", done)]

    def _event(self, kind: str, more: Item) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number, **more}, kind)


def _part(kind: object, where: str, key: str) -> Item:
    """An empty part of an item."""
    if where == "summary":
        return {"type": "summary_text", "text": ""}
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": ""}
    if key == "refusal":
        return {"type": "refusal", "refusal": ""}
    return {"type": "output_text", "text": "", "annotations": []}


def _text(reply: Mapping[str, Any]) -> str:
    output = reply.get("output")
    texts = []
    for item in output if isinstance(output, list) else []:
        content = item.get("content") if isinstance(item, dict) else None
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict) and part.get("type") == "output_text":
                texts.append(part.get("text"))
    return "".join(text for text in texts if isinstance(text, str))


def _finish(reply: Mapping[str, Any]) -> str:
    details = reply.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    if reason == "max_output_tokens":
        return "length"
    return str(reason or ("stop" if reply.get("status") == "completed" else ""))


def _question(
    system: str, messages: Sequence[Mapping[str, Any]], model: str, maximum: int | None
) -> dict[str, Any]:
    request: dict[str, Any] = {"model": model, "input": [*messages], "store": False}
    if system:
        request["instructions"] = system
    if maximum is not None:
        request["max_output_tokens"] = maximum
    return request


RESPONSES = Dialect(
    name="responses",
    path="/v1/responses",
    maximum="max_output_tokens",
    usage=lambda reply: responses_usage(reply.get("usage")),
    text=_text,
    finish=_finish,
    question=_question,
    reader=_Reader,
)
