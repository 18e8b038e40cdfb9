"""Written answers as each dialect says them: as a stream, and whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentfs.dialects.chat import DONE
from agentfs.dialects.sse import event

__all__ = ["WRITERS", "Words"]

CREATED = 0  # a script has no clock


@dataclass(frozen=True, slots=True)
class Words:
    """What is given of a written answer: its words, as far as the maximum reaches."""

    think: list[str]
    say: list[str]
    calls: list[tuple[str, str]]  # tool, arguments
    over: bool
    """All of it."""

    input: int

    @property
    def output(self) -> int:
        return len(self.think) + len(self.say) + len(self.calls)


# Chat completions


def _chat_usage(words: Words) -> dict[str, int]:
    return {
        "prompt_tokens": words.input,
        "completion_tokens": words.output,
        "total_tokens": words.input + words.output,
    }


def _chat_finish(words: Words) -> str:
    if not words.over:
        return "length"
    return "tool_calls" if words.calls else "stop"


def _chat_calls(words: Words, number: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{number}_{at}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for at, (name, arguments) in enumerate(words.calls)
    ]


def _chat_stream(words: Words, model: str, number: int) -> Iterator[bytes]:
    head = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": model,
    }

    def chunk(finish: str | None = None, **delta: object) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return event({**head, "choices": [choice]})

    yield chunk(role="assistant", content="")
    for piece in words.think:
        yield chunk(reasoning_content=piece)
    for piece in words.say:
        yield chunk(content=piece)
    for at, call in enumerate(_chat_calls(words, number)):
        yield chunk(tool_calls=[{"index": at, **call}])
    yield chunk(_chat_finish(words))
    yield event({**head, "choices": [], "usage": _chat_usage(words)})
    yield DONE


def _chat_plain(words: Words, model: str, number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(words.say) or None}
    if words.think:
        message["reasoning_content"] = "".join(words.think)
    if words.calls:
        message["tool_calls"] = _chat_calls(words, number)
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": _chat_finish(words)}],
        "usage": _chat_usage(words),
    }


# Messages


def _blocks(words: Words, number: int) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if words.think:
        blocks.append({"type": "thinking", "thinking": "".join(words.think), "signature": ""})
    if words.say:
        blocks.append({"type": "text", "text": "".join(words.say)})
    for at, (name, arguments) in enumerate(words.calls):
        use = {"id": f"toolu_{number}_{at}", "name": name, "input": json.loads(arguments)}
        blocks.append({"type": "tool_use", **use})
    return blocks


def _message(words: Words, model: str, number: int) -> dict[str, Any]:
    end = "max_tokens" if not words.over else "tool_use" if words.calls else "end_turn"
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": _blocks(words, number),
        "stop_reason": end,
        "stop_sequence": None,
        "usage": {"input_tokens": words.input, "output_tokens": words.output},
    }


def _messages_stream(words: Words, model: str, number: int) -> Iterator[bytes]:
    whole = _message(words, model, number)

    def said(kind: str, **more: object) -> bytes:
        return event({"type": kind, **more}, kind)

    begun: dict[str, Any] = {"content": [], "stop_reason": None}
    usage = {**whole["usage"], "output_tokens": 0}
    yield said("message_start", message={**whole, **begun, "usage": usage})
    for index, block in enumerate(whole["content"]):
        empty: dict[str, Any]
        if block["type"] == "tool_use":
            name, kind, empty = "partial_json", "input_json_delta", {"input": {}}
            pieces = [json.dumps(block["input"])]
        else:
            name = block["type"]
            kind, empty = f"{name}_delta", {name: ""}
            pieces = words.think if name == "thinking" else words.say
        yield said("content_block_start", index=index, content_block={**block, **empty})
        for piece in pieces:
            yield said("content_block_delta", index=index, delta={"type": kind, name: piece})
        yield said("content_block_stop", index=index)
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield said("message_delta", delta=delta, usage=whole["usage"])
    yield said("message_stop")


# Responses


FILLED = {"reasoning": "summary", "message": "content", "function_call": "arguments"}
"""What of an item comes bit by bit."""


def _items(words: Words, number: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if words.think:
        summary = [{"type": "summary_text", "text": "".join(words.think)}]
        items.append({"id": f"rs_{number}", "type": "reasoning", "summary": summary})
    if words.say:
        text = {"type": "output_text", "text": "".join(words.say), "annotations": []}
        head = {"id": f"msg_{number}", "type": "message", "role": "assistant"}
        items.append({**head, "status": "completed", "content": [text]})
    for at, (name, arguments) in enumerate(words.calls):
        ids = {"id": f"fc_{number}_{at}", "call_id": f"call_{number}_{at}"}
        call = {"type": "function_call", "name": name, "arguments": arguments}
        items.append({**ids, **call, "status": "completed"})
    return items


def _response(words: Words, model: str, number: int) -> dict[str, Any]:
    cut = None if words.over else {"reason": "max_output_tokens"}
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": CREATED,
        "status": "completed" if words.over else "incomplete",
        "error": None,
        "incomplete_details": cut,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": _items(words, number),
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": {
            "input_tokens": words.input,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": words.output,
            "output_tokens_details": {"reasoning_tokens": len(words.think)},
            "total_tokens": words.input + words.output,
        },
    }


def _responses_stream(words: Words, model: str, number: int) -> Iterator[bytes]:
    whole = _response(words, model, number)
    for at, (kind, more) in enumerate(_response_events(whole, words)):
        yield event({"type": f"response.{kind}", "sequence_number": at, **more}, f"response.{kind}")


def _response_events(
    whole: Mapping[str, Any], words: Words
) -> Iterator[tuple[str, dict[str, Any]]]:
    begun: dict[str, Any] = {"status": "in_progress", "output": [], "usage": None}
    yield "created", {"response": {**whole, **begun, "incomplete_details": None}}
    for index, item in enumerate(whole["output"]):
        at = {"output_index": index, "item_id": item["id"]}
        name = FILLED[item["type"]]
        empty: object = "" if name == "arguments" else []
        yield "output_item.added", {"output_index": index, "item": {**item, name: empty}}
        if item["type"] == "function_call":
            yield "function_call_arguments.delta", {**at, "delta": item["arguments"]}
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield "function_call_arguments.done", {**at, **done}
        else:
            yield from _part_events(item[name][0], at, words)
        yield "output_item.done", {"output_index": index, "item": item}
    yield ("completed" if words.over else "incomplete"), {"response": whole}


def _part_events(
    part: Mapping[str, Any], at: Mapping[str, Any], words: Words
) -> Iterator[tuple[str, dict[str, Any]]]:
    if part["type"] == "summary_text":
        kind, text, number = "reasoning_summary_part", "reasoning_summary_text", "summary_index"
        pieces, more = words.think, {}
    else:
        kind, text, number = "content_part", "output_text", "content_index"
        pieces, more = words.say, {"logprobs": list[str]()}
    place = {**at, number: 0}
    yield f"{kind}.added", {**place, "part": {**part, "text": ""}}
    for piece in pieces:
        yield f"{text}.delta", {**place, "delta": piece, **more}
    yield f"{text}.done", {**place, "text": part["text"], **more}
    yield f"{kind}.done", {**place, "part": part}


Writer = tuple[
    Callable[[Words, str, int], Iterator[bytes]], Callable[[Words, str, int], dict[str, Any]]
]

WRITERS: dict[str, Writer] = {
    "chat": (_chat_stream, _chat_plain),
    "messages": (_messages_stream, _message),
    "responses": (_responses_stream, _response),
}
"""By dialect: a stream, and a whole answer."""
