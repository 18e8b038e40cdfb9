"""Streams as bad as providers and networks make them: split anywhere, broken, endless, lying."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfs.dialects.sse import MAX_EVENT, Events, read_event
from agentfs.dialects.stream import TokenStream
from agentfs.dialects.usage import TokenUsage
from tests.dialects.samples import SAMPLES, request

DIALECTS = sorted(SAMPLES)


def whole(dialect: str) -> bytes:
    return b"".join(SAMPLES[dialect])


def relay(stream: TokenStream, pieces: list[bytes]) -> bytes:
    relayed = [event for piece in pieces for event in stream.feed(piece)]
    return b"".join([*relayed, *stream.end()])


def split(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(at)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_relayed_is_what_was_sent(dialect: str) -> None:
    stream = TokenStream(request(dialect))
    sent = SAMPLES[dialect]
    without = [e for e in sent if dialect != "chat" or b'"choices": []' not in e]
    assert relay(stream, [whole(dialect)]) == b"".join(without)
    assert (stream.finished, stream.error) == (True, "")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=40, deadline=None)
@given(places=st.lists(st.integers(0, 10_000), max_size=30))
def test_any_split_relays_the_same_bytes(dialect: str, end: str, places: list[int]) -> None:
    """In the middle of a character, of a CRLF, of an event."""
    data = b"\xef\xbb\xbf: hello\n\n" + whole(dialect).replace(b"[DONE]", b"[DONE] \n: bye")
    data = data.replace(b"\n", end.encode())
    at_once, stream = TokenStream(request(dialect)), TokenStream(request(dialect))
    expected = relay(at_once, [data])
    assert relay(stream, split(data, places)) == expected
    for name in ("usage", "output_estimate", "finish", "finished", "error"):
        assert getattr(stream, name) == getattr(at_once, name)
    assert stream.finished
    assert at_once.usage is not None


@pytest.mark.parametrize("dialect", DIALECTS)
def test_one_byte_at_a_time_is_not_slower_than_a_line(dialect: str) -> None:
    stream = TokenStream(request(dialect))
    assert relay(stream, [bytes([byte]) for byte in whole(dialect)])
    assert stream.finished


def test_a_slow_drip_of_a_long_event_is_searched_once() -> None:
    """8 MB in pieces of 1 KB: each byte is looked at once, not 8,000 times."""
    events = Events()
    for _ in range(MAX_EVENT // 1024):
        assert events.feed(b"x" * 1024) == []
    assert not events.too_long
    assert len(events.feed(b"\n\n")) == 0
    assert events.too_long


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_line_of_100_mb_ends_the_stream_and_its_memory(dialect: str) -> None:
    stream = TokenStream(request(dialect))
    first = SAMPLES[dialect][0]
    assert stream.feed(first + b"data: ") == [first]
    for _ in range(100):
        assert stream.feed(b"x" * 1024 * 1024) == []
    assert f"more than {MAX_EVENT} bytes" in stream.error
    assert stream.feed(b"\n\n" + first) == []
    assert stream.end() == []


@pytest.mark.parametrize("count", range(20))
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_provider_that_goes_away_is_an_error_and_no_success(dialect: str, count: int) -> None:
    stream = TokenStream(request(dialect))
    relay(stream, SAMPLES[dialect][: min(count, 10)])
    assert "before it was over" in stream.error
    assert not stream.finished


def test_a_chat_without_done_is_completed() -> None:
    stream = TokenStream(request("chat"))
    assert relay(stream, SAMPLES["chat"][:-2]).endswith(b"data: [DONE]\n\n")
    assert (stream.finished, stream.error) == (True, "")


def test_messages_without_message_stop_are_completed() -> None:
    stream = TokenStream(request("messages"))
    end = relay(stream, SAMPLES["messages"][:-1])
    assert end.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_end_without_its_empty_line_counts(dialect: str) -> None:
    stream = TokenStream(request(dialect))
    assert relay(stream, [whole(dialect).rstrip(b"\n")]).endswith(b"\n\n")
    assert stream.finished


@pytest.mark.parametrize("dialect", DIALECTS)
def test_done_alone_is_no_answer(dialect: str) -> None:
    stream = TokenStream(request(dialect))
    assert relay(stream, [b"data: [DONE]\n\n"]) == b""
    assert stream.error


@pytest.mark.parametrize(
    ("dialect", "event", "words"),
    [
        ("chat", b'data: {"error":{"message":"quota exceeded"}}\n\n', "quota exceeded"),
        ("chat", b'data: {"error":"quota exceeded"}\n\n', "quota exceeded"),
        ("chat", b'event: error\ndata: {"message":"quota exceeded"}\n\n', "quota exceeded"),
        ("chat", b'error: {"message":"quota exceeded"}\n\n', "quota exceeded"),
        ("chat", b"error: quota exceeded\n\n", "quota exceeded"),
        ("chat", b"data: <html>\n\n", "not JSON: <html>"),
        ("chat", b"data: [1]\n\n", "no object"),
        ("chat", b"data: " + b"[" * 100_000 + b"\n\n", "not JSON"),
        ("messages", b'data: {"type":"error","error":{"message":"overloaded"}}\n\n', "overloaded"),
        ("messages", b"event: error\ndata: overloaded\n\n", "overloaded"),
        ("messages", b'data: {"error":{"message":"quota exceeded"}}\n\n', "quota exceeded"),
        ("responses", b'data: {"type":"error","message":"gone"}\n\n', "gone"),
        (
            "responses",
            b'data: {"type":"response.failed","response":{"error":{"message":"gone"}}}\n\n',
            "gone",
        ),
        ("responses", b'data: {"type":"response.failed","response":{}}\n\n', "failed"),
        ("responses", b'data: {"error":{"message":"quota exceeded"}}\n\n', "quota exceeded"),
    ],
)
def test_an_error_in_a_stream_is_one(dialect: str, event: bytes, words: str) -> None:
    """It is not relayed: it may have a key in it. [DONE] behind it makes no success of it."""
    stream = TokenStream(request(dialect))
    first = SAMPLES[dialect][0]
    relayed = relay(stream, [first + event + b"data: [DONE]\n\n"])
    assert relayed == first
    assert words in stream.error
    assert not stream.finished
    assert words.encode() in stream.fail(stream.error)


def test_totals_are_set_and_never_added() -> None:
    """The start says 317 and 4,425, and so does the delta; some providers say 0 in one of them."""
    stream = TokenStream(request("messages"))
    relay(stream, [whole("messages")])
    assert stream.usage == TokenUsage(317, 89, 0, 4425)
    start, delta = SAMPLES["messages"][0], SAMPLES["messages"][-2]
    for one, other in (
        (start.replace(b"317", b"0").replace(b"4425", b"0"), delta),
        (start, delta.replace(b"317", b"0").replace(b"4425", b"0")),
        (start, delta.replace(b'"input_tokens": 317, ', b"")),
    ):
        stream = TokenStream(request("messages"))
        relay(stream, [one, *SAMPLES["messages"][1:-2], other, SAMPLES["messages"][-1]])
        assert stream.usage == TokenUsage(317, 89, 0, 4425)


def test_an_answer_that_was_not_counted_to_its_end_is_estimated() -> None:
    """The start has said 317 of input and 1 of output; the end says nothing."""
    stream = TokenStream(request("messages"))
    *before, delta, stop = SAMPLES["messages"]
    relay(stream, [*before, delta.replace(b'"usage"', b'"x"'), stop])
    assert stream.finished
    assert stream.usage is None
    assert stream.estimated == TokenUsage(317, stream.output_estimate, 0, 4425)
    assert stream.output_estimate > 10


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_provider_that_says_zeros_has_not_counted(dialect: str) -> None:
    stream = TokenStream(request(dialect), input_tokens=50)
    relay(stream, [re.sub(rb'(_tokens": )\d+', rb"\g<1>0", whole(dialect))])
    assert stream.finished
    assert stream.usage is None
    assert stream.estimated == TokenUsage(50, stream.output_estimate)
    assert stream.output_estimate > 10


@pytest.mark.parametrize(
    ("dialect", "usage"), [("chat", TokenUsage(8, 21, 4)), ("responses", TokenUsage(32, 30, 8))]
)
def test_cached_tokens_are_no_input(dialect: str, usage: TokenUsage) -> None:
    stream = TokenStream(request(dialect))
    relay(stream, [whole(dialect)])
    assert stream.usage == usage


@pytest.mark.parametrize("dialect", DIALECTS)
def test_held_back_events_come_later_or_not_at_all(dialect: str) -> None:
    expected, stream = TokenStream(request(dialect)), TokenStream(request(dialect))
    once = relay(expected, [whole(dialect)])
    relayed = stream.feed(whole(dialect), allowed=0)
    allowed = 0
    while stream.held_back:
        allowed += 1
        more = stream.feed(b"", allowed)
        relayed += more
    assert b"".join([*relayed, *stream.end()]) == once
    cut = TokenStream(request(dialect))
    first = cut.feed(whole(dialect), allowed=0)
    assert cut.output_estimate >= 1
    assert cut.cut("no tokens").startswith(b": no tokens\n\n")
    assert not cut.held_back
    assert (cut.feed(b"x"), cut.end(), cut.cut("again")) == ([], [], b"")
    assert 0 < len(first) < len(SAMPLES[dialect])


def test_reasons_are_one_line() -> None:
    stream = TokenStream(request("chat"))
    assert stream.cut("a\n\ndata: {}\r\n\r\nb").startswith(b": a data: {} b\n\ndata: ")


def test_the_text_of_the_last_feed() -> None:
    for dialect, text in (
        ("chat", ""),  # the first answer only calls tools
        ("messages", "I look it up. é漢"),
        ("responses", "It is é漢."),
    ):
        stream = TokenStream(request(dialect))
        texts = []
        for event in SAMPLES[dialect]:
            stream.feed(event)
            texts.append(stream.text)
        assert "".join(texts) == text


def test_several_lines_of_data_are_one_value() -> None:
    assert read_event(b"data: {\ndata:  1\nid: 4\n\n") == ("", b"{\n 1")
    assert read_event(b": comment\n\n") == ("", None)
    assert read_event(b"event: a\r\ndata:b\r\n\r\n") == ("a", b"b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@st.composite
def spoiled(draw, dialect: str) -> list[bytes]:
    """A stream in which some values are others, and some events are elsewhere."""
    events = list(SAMPLES[dialect])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(events) - 1))
        name, data = read_event(events[at])
        if data is None or data.startswith(b"[DONE]"):
            continue
        value = json.loads(data)
        inner = value
        while isinstance(inner, dict | list) and inner:
            key = draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else [0]))
            if not isinstance(inner[key], dict | list) or draw(st.integers(0, 3)) == 0:
                inner[key] = draw(JSON)
                break
            inner = inner[key]
        head = f"event: {name}\n" if name else ""
        events[at] = f"{head}data: {json.dumps(value)}\n\n".encode()
        if draw(st.booleans()):
            events.insert(draw(st.integers(0, len(events))), events.pop(at))
    return events


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_nothing_that_a_provider_sends_raises(dialect: str, data) -> None:
    events = data.draw(spoiled(dialect))
    for count in {len(events), data.draw(st.integers(0, len(events)))}:
        for last in (lambda stream: stream.cut("x"), lambda stream: stream.fail("x")):
            stream = TokenStream(request(dialect))
            relayed = b"".join(stream.feed(b"".join(events[:count])))
            assert relayed + last(stream)
            assert stream.estimated.output >= 0
