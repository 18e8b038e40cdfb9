"""Requests as odd as programs write them: what is metered is understood, or refused with words;
everything else keeps its bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfs.dialects.body import MAX_BODY, BadRequest, Body
from agentfs.dialects.dialect import MAXIMA
from agentfs.dialects.messages import COUNT_TOKENS
from agentfs.dialects.table import DIALECTS
from tests.dialects.samples import request

PIXELS = "data:image/png;base64," + "iVBORw0KGgo" * 10_000


def parse(raw: bytes | dict, dialect: str = "chat"):
    return DIALECTS[dialect].parse(raw if isinstance(raw, bytes) else json.dumps(raw).encode())


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "JSON object"),
        (b"[]", "JSON object"),
        (b'"x"', "JSON object"),
        (b"{", "name in quotes"),
        (b'{"model"', "colon"),
        (b'{"model":', "no JSON"),
        (b'{"model":"m"', "comma or }"),
        (b'{"model":"m",}', "name in quotes"),
        (b'{"model":"m"} x', "more text"),
        (b'{"model":"m"}{"model":"n"}', "more text"),
        (b'{"model":"\xff"}', "UTF-8, at byte 10"),
        ('{"model":"m"}'.encode("utf-16"), "UTF-8"),
        (b'{"model":"m","x":NaN}', "NaN is no JSON"),
        (b'{"model":"m","x":-Infinity}', "Infinity is no JSON"),
        (b'{"model":"m\n"}', "control character"),
        (b'{"model":"m","x":' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"x":' + b"[" * 600, ""),
        (b'{"x":' + b"[" * 600 + b"]" * 600 + b"}", ""),
        (b'{"x":' + b'{"a":' * 100_000, "nested too deeply"),
        (b'{"x":' + b"[" * 1_000_000, "nested too deeply"),
        (b'{"model":"m","model":"n"}', '"model" is there twice'),
        (b'{"model":"m","x":1,"x":1}', '"x" is there twice'),
        (b'{"model":"m","max_tokens":1,"Max_Tokens":64000}', "there twice"),
        (b'{"model":"m","MAX_TOKENS":64000}', 'has to be written "max_tokens"'),
        (b'{"model":"m","\\u006dax_to\\u212aens":64000}', 'has to be written "max_tokens"'),
        (b'{"model":"m","max_tokens":1,"\\u006dax_tokens":64000}', "there twice"),
        (b"{}", '"model" has to be'),
        (b'{"model":7}', '"model" has to be'),
        (b'{"model":""}', '"model" has to be'),
        (b'{"model":"' + b"m" * 300 + b'"}', '"model" has to be'),
        (b'{"model":"m","stream":"true"}', '"stream" has to be true or false'),
        (b'{"model":"m","stream":1}', '"stream" has to be true or false'),
        (b'{"model":"m","stream_options":true}', '"stream_options" has to be an object'),
        (b'{"model":"m","stream_options":{"include_usage":1}}', "include_usage"),
        (b'{"model":"m","n":0}', '"n" has to be at least 1 and at most 128'),
        (b'{"model":"m","n":1000000}', '"n" has to be at least 1 and at most 128'),
        (b'{"model":"m","n":"2"}', '"n" has to be a whole number'),
        (b'{"model":"m","best_of":2.5}', '"best_of" has to be a whole number'),
        (b'{"model":"m",' + b",".join(b'"%d":0' % i for i in range(1001)) + b"}", "1000 fields"),
        (b'{"model":"m","x":"' + b"x" * MAX_BODY + b'"}', "bytes"),
    ],
)
def test_a_request_that_cannot_be_metered_is_refused_with_words(raw: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as raised:
        parse(raw)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    "field", ['"background":true', '"previous_response_id":"resp_1"', '"conversation":{"id":"c"}']
)
def test_a_response_that_nobody_could_count_is_refused(field: str) -> None:
    raw = f'{{"model":"m",{field}}}'.encode()
    with pytest.raises(BadRequest, match="is not possible here"):
        parse(raw, "responses")


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize("value", ["64", 1.5, 64.0, True, -1, [], {}, "64; DROP"])
def test_a_maximum_has_to_be_a_whole_number(dialect: str, value) -> None:
    for name in MAXIMA:
        with pytest.raises(BadRequest, match=f'"{name}" has to be'):
            parse({"model": "m", name: value}, dialect)


def test_null_is_as_nothing() -> None:
    asked = parse({"model": "m", "max_tokens": None, "n": None, "stream": None})
    assert (asked.output, asked.n, asked.stream) == (None, 1, False)
    assert json.loads(asked.outgoing("m", 7))["max_tokens"] == 7


def test_a_huge_maximum_becomes_what_there_is() -> None:
    asked = parse(b'{"model":"m","max_tokens":' + b"9" * 4000 + b"}")
    assert asked.output == 10**9
    assert asked.outgoing("m", 7) == b'{"model":"m","max_tokens":7}'


def test_a_maximum_is_never_raised() -> None:
    raw = b'{"model":"m","max_tokens": 5}'
    assert parse(raw).outgoing("m", 7) == raw


def test_every_name_of_a_maximum_is_lowered() -> None:
    """llama.cpp takes n_predict before max_tokens."""
    raw = b'{"model":"m","max_tokens":9, "n_predict":64000,"max_completion_tokens":8}'
    asked = parse(raw)
    assert asked.output == 64_000
    assert asked.outgoing("m", 8) == raw.replace(b"64000", b"8").replace(b":9", b":8")


def test_several_answers_share_what_there_is() -> None:
    asked = parse({"model": "m", "max_tokens": 100, "n": 3, "best_of": 4})
    assert (asked.n, asked.output) == (4, 400)
    assert json.loads(asked.outgoing("m", 99))["max_tokens"] == 24
    with pytest.raises(BadRequest, match="4 answers"):
        asked.outgoing("m", 3)


@pytest.mark.parametrize(
    ("dialect", "model", "name"),
    [
        ("chat", "gpt-4o", "max_tokens"),
        ("chat", "smollm2", "max_tokens"),
        ("chat", "o3-mini", "max_completion_tokens"),
        ("chat", "gpt-5.4-nano", "max_completion_tokens"),
        ("chat", "openai/gpt-5", "max_completion_tokens"),
        ("responses", "gpt-5", "max_output_tokens"),
        ("messages", "claude-opus-4-8", "max_tokens"),
    ],
)
def test_a_maximum_that_was_not_said_has_its_dialects_name(dialect, model, name) -> None:
    sent = json.loads(parse({"model": "m"}, dialect).outgoing(model, 7))
    assert sent == {"model": model, name: 7}


def test_embeddings_have_no_maximum() -> None:
    raw = b'{"input":["a"],"model":"m"}'
    asked = parse(raw, "embeddings")
    assert (asked.output, asked.stream) == (0, False)
    assert asked.outgoing("m", 7) == raw
    assert not parse({"model": "m", "stream": True}, "embeddings").stream


def test_counting_tokens_costs_nothing() -> None:
    raw = b'{"model":"m","messages":[]}'
    asked = COUNT_TOKENS.parse(raw)
    assert asked.output == 0
    assert asked.outgoing("m", None) == raw


def test_a_chat_that_streams_asks_for_its_usage() -> None:
    asked = parse({"model": "m", "stream": True, "stream_options": {"include_obfuscation": False}})
    assert json.loads(asked.outgoing("m", None))["stream_options"] == {
        "include_obfuscation": False,
        "include_usage": True,
    }
    asked = parse(b'{"model":"m","stream":true,"stream_options":{"include_usage" : true}}')
    assert asked.wants_usage
    assert asked.outgoing("m", None) == asked.outgoing("m", None)
    assert b'"include_usage" : true' in asked.outgoing("m", None)
    for dialect in ("messages", "responses"):
        assert b"include_usage" not in request(dialect).outgoing("m", 7)
    assert b"include_usage" not in parse({"model": "m"}).outgoing("m", 7)


@pytest.mark.parametrize(
    ("maximum", "thinking"),
    [
        (64_000, {"type": "enabled", "budget_tokens": 32_000}),
        (32_000, {"type": "enabled", "budget_tokens": 24_000}),
        (2_000, {"type": "enabled", "budget_tokens": 1_500}),
        (1_000, {"type": "disabled"}),
    ],
)
def test_thinking_fits_below_the_maximum(maximum: int, thinking: dict) -> None:
    """Anthropic refuses a budget of 32,000 for thinking with a maximum of 1,000."""
    asked = parse(
        {
            "model": "m",
            "max_tokens": 64_000,
            "thinking": {"type": "enabled", "budget_tokens": 32_000},
        },
        "messages",
    )
    assert json.loads(asked.outgoing("m", maximum))["thinking"] == thinking


@pytest.mark.parametrize(
    ("dialect", "fields", "model", "hides"),
    [
        ("chat", {}, "gpt-4o", False),
        ("chat", {}, "o3", True),
        ("responses", {}, "gpt-5-codex", True),
        ("messages", {}, "claude-opus-4-8", False),
        ("messages", {"thinking": {"type": "adaptive"}}, "claude-opus-4-8", True),
        ("messages", {"thinking": {"type": "disabled"}}, "claude-opus-4-8", False),
    ],
)
def test_hidden_tokens_are_known_before(dialect, fields, model, hides) -> None:
    assert parse({"model": "m", **fields}, dialect).hides(model) is hides


def test_thinking_beyond_a_maximum_that_was_not_lowered_stays() -> None:
    """Between calls of tools it may be more than the maximum of one answer."""
    raw = b'{"model":"m","max_tokens":9,"thinking":{"type":"enabled","budget_tokens":2000}}'
    assert parse(raw, "messages").outgoing("m", 64_000) == raw


IMAGES = [
    ("chat", {"type": "image_url", "image_url": {"url": PIXELS}}),
    ("responses", {"type": "input_image", "image_url": PIXELS}),
    (
        "messages",
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXELS}},
    ),
    (
        "messages",
        {
            "type": "tool_result",
            "tool_use_id": "t",
            "content": [{"type": "image", "source": {"type": "base64", "data": PIXELS}}],
        },
    ),
]


@pytest.mark.parametrize(("dialect", "block"), IMAGES)
def test_an_image_counts_flat(dialect: str, block: dict) -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": "hi"}, block]}]
    name = "input" if dialect == "responses" else "messages"
    asked = parse({"model": "m", name: turns}, dialect)
    assert (asked.images, asked.flat) == (1, 2_000)
    assert asked.input_bytes < 400
    assert 2_000 < asked.estimate(2.0) < 2_300


FILES = [
    ("chat", {"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBER" * 24_000}}),
    ("responses", {"type": "input_file", "filename": "a.pdf", "file_data": "JVBER" * 24_000}),
    (
        "messages",
        {
            "type": "document",
            "source": {
                "type": "base64",
                "media_type": "application/pdf",
                "data": "JVBER" * 24_000,
            },
        },
    ),
]


@pytest.mark.parametrize(("dialect", "block"), FILES)
def test_a_file_counts_by_its_pages(dialect: str, block: dict) -> None:
    name = "input" if dialect == "responses" else "messages"
    asked = parse({"model": "m", name: [{"role": "user", "content": [block]}]}, dialect)
    assert (asked.images, asked.flat) == (1, 9_000)
    assert asked.input_bytes < 400


def test_a_document_of_text_counts_as_text() -> None:
    block = {"type": "document", "source": {"type": "text", "data": "word " * 1_000}}
    asked = parse({"model": "m", "messages": [{"role": "user", "content": [block]}]}, "messages")
    assert asked.input_bytes > 5_000


def test_sound_counts_by_its_length() -> None:
    block = {"type": "input_audio", "input_audio": {"data": "U" * 100_000, "format": "mp3"}}
    asked = parse({"model": "m", "messages": [{"role": "user", "content": [block]}]})
    assert (asked.flat, asked.images) == (100, 1)
    assert asked.input_bytes < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(1.5) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
SPACE = st.sampled_from(["", " ", "\n\t", "\r\n  "])


@st.composite
def written(draw) -> tuple[str, str]:
    """An object as some client may write it: spaces, escapes, order; and space around it."""
    names = draw(st.lists(st.text(max_size=5), max_size=5, unique_by=str.casefold))
    names = [name for name in names if name.casefold() not in {"model", "max_tokens", "n"}]
    members = [(name, json.dumps(draw(JSON), ensure_ascii=draw(st.booleans()))) for name in names]
    members.insert(draw(st.integers(0, len(members))), ("model", '"m"'))
    if draw(st.booleans()):
        members.insert(draw(st.integers(0, len(members))), ("max_tokens", "64000"))
    pieces = []
    for name, value in members:
        a, b, c, d = (draw(SPACE) for _ in range(4))
        shown = json.dumps(name, ensure_ascii=draw(st.booleans()))
        pieces.append(f"{a}{shown}{b}:{c}{value}{d}")
    return "{" + ",".join(pieces) + "}", draw(SPACE)


@settings(max_examples=300, deadline=None)
@given(written())
def test_all_but_what_is_replaced_keeps_its_bytes(parts: tuple[str, str]) -> None:
    text = parts[1] + parts[0] + parts[1]
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return
    asked = parse(raw)
    assert asked.outgoing("m", None) == raw
    lowered = asked.outgoing("other", 7)
    was, now = json.loads(raw), json.loads(lowered)
    assert now == {**was, "model": "other", "max_tokens": 7}
    if was.get("max_tokens") == 64000 and raw.count(b"64000") == raw.count(b'"m"') == 1:
        assert lowered == raw.replace(b"64000", b"7").replace(b'"m"', b'"other"')


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0 aenult1e+-.', max_size=40))
def test_any_bytes_are_read_or_refused(raw) -> None:
    data = raw.encode() if isinstance(raw, str) else raw
    for dialect in DIALECTS.values():
        try:
            dialect.parse(data)
        except BadRequest as refused:
            assert str(refused)


def test_a_body_is_read_as_json_reads_it() -> None:
    raw = b'\xef\xbb\xbf{"a" : [1, {"b": 2.50}], "c":"\\ud83d\\ude00\\ud800"}\n'
    body = Body(raw)
    assert body.members == json.loads(raw.decode("utf-8-sig"))
    assert body.replaced({"a": 1}) == b'{"a" : 1, "c":"\\ud83d\\ude00\\ud800"}\n'
    assert Body(b"{}").replaced({"a": 1, "b": "x"}) == b'{"a": 1, "b": "x"}'
