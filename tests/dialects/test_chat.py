"""OpenAI's chat completions: requests, streams, and how they are cut."""

from __future__ import annotations

import json

import pytest

from agentfs.dialects.body import BadRequest
from agentfs.dialects.stream import TokenStream
from agentfs.dialects.table import DIALECTS
from agentfs.dialects.usage import TokenUsage

CHAT = DIALECTS["chat"]


def request(**fields):
    return CHAT.parse(json.dumps({"model": "m", "messages": [], "stream": True, **fields}).encode())


def chunk(text: str, **more) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None, **more}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"


USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def test_a_stream_from_its_request_to_its_end() -> None:
    asked = request(temperature=1.0)
    assert (asked.model, asked.stream, asked.output, asked.wants_usage) == ("m", True, None, False)
    assert json.loads(asked.outgoing("gpt-4o", 64)) == {
        "model": "gpt-4o",
        "messages": [],
        "stream": True,
        "temperature": 1.0,
        "max_tokens": 64,
        "stream_options": {"include_usage": True},
    }
    stream = TokenStream(asked)
    assert stream.feed(chunk("The ")) == [chunk("The ")]
    assert stream.text == "The "
    end = chunk("end", finish_reason="stop")
    assert stream.feed(end + USAGE + DONE) == [end, DONE]  # nobody asked for the usage
    assert (stream.text, stream.finish, stream.finished) == ("end", "stop", True)
    assert stream.usage == TokenUsage(9, 2)
    assert stream.cut("too late") == b""


def test_who_asked_for_the_usage_gets_it() -> None:
    stream = TokenStream(request(stream_options={"include_usage": True}))
    assert stream.feed(chunk("x", finish_reason="stop") + USAGE + DONE)[1] == USAGE


def test_fields_that_are_not_metered_keep_their_bytes() -> None:
    raw = (
        b'{ "model" : "m","seed":1E+2, "messages":[{"role":"user","content":"\\u00e9"}],"x":1.50 }'
    )
    assert CHAT.parse(raw).outgoing("n", None) == raw.replace(b'"m"', b'"n"')


@pytest.mark.parametrize("value", ["64", 1.5, 64.0, True, -1, 0, [], {}])
def test_a_maximum_that_is_no_number_of_tokens_is_refused(value) -> None:
    with pytest.raises(BadRequest, match="max_tokens"):
        request(max_tokens=value)


def test_more_than_is_allowed_waits() -> None:
    stream = TokenStream(request())
    burst = b"".join(chunk(f"w{i} ") for i in range(100))
    assert len(stream.feed(burst, allowed=10)) == 11  # the budget, and a chunk
    assert stream.held_back
    assert len(stream.feed(b"", allowed=20)) == 10
    assert b'"finish_reason":"length"' in stream.cut("the budget is used up")
    assert not stream.held_back
    assert stream.estimated.output == 21
