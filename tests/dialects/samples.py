"""Streams as the providers send them, with every kind of content; and a server that sends them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from agentfs.dialects.dialect import Request
from agentfs.dialects.table import DIALECTS

__all__ = ["SAMPLES", "Served", "request", "serve"]

ASKED: dict[str, dict] = {
    "chat": {"messages": [{"role": "user", "content": "weather?"}], "n": 2},
    "messages": {"messages": [{"role": "user", "content": "weather?"}], "max_tokens": 64_000},
    "responses": {"input": "weather?"},
}


def request(dialect: str, **more) -> Request:
    fields = {"model": "m", "stream": True, **ASKED[dialect], **more}
    return DIALECTS[dialect].parse(json.dumps(fields).encode())


def _chunk(choices: list, **more) -> bytes:
    head = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": "gpt-4o-2024-08-06",
        "system_fingerprint": "fp_1",
    }
    return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"


def _choice(index: int, finish: str | None = None, **delta) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _chunk([choice], usage=None)


def _call(number: int, arguments: str, name: str = "", call_id: str = "") -> list[dict]:
    call: dict = {"index": number, "function": {"arguments": arguments}}
    if name:
        call |= {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
    return [call]


def chat() -> list[bytes]:
    """Two answers at a time; the first calls two tools, the other reasons and then speaks."""
    return [
        _choice(0, role="assistant", content=None, refusal=None),
        _choice(1, role="assistant", content=""),
        _choice(1, reasoning_content="hmm "),
        _choice(0, tool_calls=_call(0, "", "weather", "call_1")),
        _choice(0, tool_calls=_call(0, '{"city": "Pa')),
        _choice(1, content="It is "),
        _choice(0, tool_calls=_call(0, 'ris"}')),
        _choice(0, tool_calls=_call(1, "", "time", "call_2")),
        _choice(0, tool_calls=_call(1, "{}")),
        _choice(1, content="warm é 漢."),
        _choice(0, "tool_calls"),
        _choice(1, "stop"),
        _chunk(
            [],
            usage={
                "prompt_tokens": 12,
                "completion_tokens": 21,
                "total_tokens": 33,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
        ),
        b"data: [DONE]\n\n",
    ]


def _named(kind: str, **more) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()


def messages() -> list[bytes]:
    """Thinking with its signature, text, and the call of a tool."""
    head = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 317,
            "cache_creation_input_tokens": 4425,
            "cache_read_input_tokens": 0,
            "output_tokens": 1,
        },
    }

    def start(index: int, **block) -> bytes:
        return _named("content_block_start", index=index, content_block=block)

    def delta(index: int, **delta) -> bytes:
        return _named("content_block_delta", index=index, delta=delta)

    def stop(index: int) -> bytes:
        return _named("content_block_stop", index=index)

    return [
        _named("message_start", message=head),
        start(0, type="thinking", thinking="", signature=""),
        _named("ping"),
        delta(0, type="thinking_delta", thinking="The user wants"),
        delta(0, type="thinking_delta", thinking=" the weather."),
        delta(0, type="signature_delta", signature="EqQBCg=="),
        stop(0),
        start(1, type="redacted_thinking", data="EmwKAh=="),
        stop(1),
        start(2, type="text", text=""),
        delta(2, type="text_delta", text="I look "),
        delta(2, type="text_delta", text="it up. é漢"),
        stop(2),
        start(3, type="tool_use", id="toolu_1", name="weather", input={}),
        delta(3, type="input_json_delta", partial_json=""),
        delta(3, type="input_json_delta", partial_json='{"city": "Pa'),
        delta(3, type="input_json_delta", partial_json='ris"}'),
        stop(3),
        _named(
            "message_delta",
            delta={"stop_reason": "tool_use", "stop_sequence": None},
            usage={
                "input_tokens": 317,
                "cache_creation_input_tokens": 4425,
                "cache_read_input_tokens": 0,
                "output_tokens": 89,
            },
        ),
        _named("message_stop"),
    ]


def responses() -> list[bytes]:
    """A reasoning with its summary, a message with two parts, the call of a function, and that of a
    tool with free input."""
    response = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_760_000_000,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": "gpt-4o",
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
        "metadata": {},
    }
    reasoning = {"id": "rs_1", "type": "reasoning", "summary": []}
    summary = {"type": "summary_text", "text": "Looking it up"}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress"}
    text = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
    refusal = {"type": "refusal", "refusal": ""}
    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weather"}
    custom = {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_2", "name": "patch"}
    done = [
        {**reasoning, "summary": [summary]},
        {
            **message,
            "status": "completed",
            "content": [{**text, "text": "It is é漢."}, {**refusal, "refusal": "No."}],
        },
        {**call, "status": "completed", "arguments": '{"city": "Paris"}'},
        {**custom, "input": "*** Begin"},
    ]
    usage = {
        "input_tokens": 40,
        "input_tokens_details": {"cached_tokens": 8},
        "output_tokens": 30,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 70,
    }
    at = {"output_index": 0, "item_id": "rs_1", "summary_index": 0}
    part = {"output_index": 1, "item_id": "msg_1", "content_index": 0}
    other = {**part, "content_index": 1}
    function = {"output_index": 2, "item_id": "fc_1"}
    free = {"output_index": 3, "item_id": "ctc_1"}
    events: list[tuple[str, dict]] = [
        ("created", {"response": response}),
        ("in_progress", {"response": response}),
        ("output_item.added", {"output_index": 0, "item": reasoning}),
        ("reasoning_summary_part.added", {**at, "part": {**summary, "text": ""}}),
        ("reasoning_summary_text.delta", {**at, "delta": "Looking"}),
        ("reasoning_summary_text.delta", {**at, "delta": " it up"}),
        ("reasoning_summary_text.done", {**at, "text": "Looking it up"}),
        ("reasoning_summary_part.done", {**at, "part": summary}),
        ("output_item.done", {"output_index": 0, "item": done[0]}),
        ("output_item.added", {"output_index": 1, "item": {**message, "content": []}}),
        ("content_part.added", {**part, "part": text}),
        ("output_text.delta", {**part, "delta": "It is", "logprobs": []}),
        ("output_text.delta", {**part, "delta": " é漢.", "logprobs": []}),
        ("output_text.done", {**part, "text": "It is é漢.", "logprobs": []}),
        ("content_part.done", {**part, "part": {**text, "text": "It is é漢."}}),
        ("content_part.added", {**other, "part": refusal}),
        ("refusal.delta", {**other, "delta": "No."}),
        ("refusal.done", {**other, "refusal": "No."}),
        ("content_part.done", {**other, "part": {**refusal, "refusal": "No."}}),
        ("output_item.done", {"output_index": 1, "item": done[1]}),
        (
            "output_item.added",
            {"output_index": 2, "item": {**call, "status": "in_progress", "arguments": ""}},
        ),
        ("function_call_arguments.delta", {**function, "delta": '{"city": "Pa'}),
        ("function_call_arguments.delta", {**function, "delta": 'ris"}'}),
        (
            "function_call_arguments.done",
            {**function, "name": "weather", "arguments": '{"city": "Paris"}'},
        ),
        ("output_item.done", {"output_index": 2, "item": done[2]}),
        ("output_item.added", {"output_index": 3, "item": {**custom, "input": ""}}),
        ("custom_tool_call_input.delta", {**free, "delta": "*** Begin"}),
        ("custom_tool_call_input.done", {**free, "input": "*** Begin"}),
        ("output_item.done", {"output_index": 3, "item": done[3]}),
        (
            "completed",
            {"response": {**response, "status": "completed", "output": done, "usage": usage}},
        ),
    ]
    return [
        _named(f"response.{kind}", sequence_number=number, **more)
        for number, (kind, more) in enumerate(events)
    ]


SAMPLES = {"chat": chat(), "messages": messages(), "responses": responses()}


class Served:
    """What the server answers, and what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.headers = [("content-type", "text/event-stream")]
        self.body = b""
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""


@contextmanager
def serve() -> Iterator[Served]:
    """A server on loopback, to be asked by one client at a time."""
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            served.asked.append((self.path, dict(self.headers), body))
            self.send_response(served.status)
            for name, value in served.headers:
                self.send_header(name, value)
            self.send_header("content-length", str(len(served.body)))
            self.end_headers()
            self.wfile.write(served.body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
