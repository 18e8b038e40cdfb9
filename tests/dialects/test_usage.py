"""Counting: ratios that are learned, guesses at tokens, numbers of providers; and keys cut out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfs.dialects.clean import clean
from agentfs.dialects.refusal import refusal
from agentfs.dialects.table import DIALECTS
from agentfs.dialects.usage import (
    FIRST,
    MOST_KNOWN,
    WINDOW,
    Ratios,
    TokenUsage,
    output_tokens,
)

KEY = 'sk-proj-"é\\/ab+c='


def test_the_fewest_bytes_a_token_that_were_lately_seen_count() -> None:
    ratios = Ratios()
    assert ratios.of(7, "m") == FIRST == 2.0
    ratios.learn(7, "m", 100, 90)  # too small: the provider's own words weigh too much
    ratios.learn(7, "m", 10_000, 0)
    assert ratios.of(7, "m") == FIRST
    ratios.learn(7, "m", 10_000, 3_000)
    assert ratios.of(7, "m") == pytest.approx(3.33, abs=0.01)
    ratios.learn(7, "m", 10_000, 4_000)
    ratios.learn(7, "m", 10_000, 3_000)
    assert ratios.of(7, "m") == 2.5
    for _ in range(WINDOW - 1):
        ratios.learn(7, "m", 10_000, 3_000)
    assert ratios.of(7, "m") > 3  # that one was long ago
    ratios.learn(7, "n", 10_000, 1)
    ratios.learn(7, "o", 10_000, 1_000_000)
    assert (ratios.of(7, "n"), ratios.of(7, "o")) == (4.0, 1.0)


def test_the_digits_of_one_process_are_nothing_to_another() -> None:
    ratios = Ratios()
    ratios.learn(7, "m", 10_000, 3_000)
    for number in range(MOST_KNOWN):
        ratios.learn(100 + number, "m", 10_000, 10_000)
        ratios.learn(7, "m", 10_000, 3_000)
    assert ratios.of(7, "m") > 3
    assert ratios.of(100, "m") == FIRST  # forgotten: others have been here since


@pytest.mark.parametrize(
    ("text", "single", "tokens"),
    [
        ("a", True, 1),
        ("weather ", True, 1),  # llama.cpp sends one token a chunk
        ("x" * 400, True, 100),
        ("漢字漢字", True, 3),
        ("a", False, 1),
        ("The capital of", False, 5),
        ("\ud83d", False, 1),
    ],
)
def test_a_guess_at_tokens(text: str, single: bool, tokens: int) -> None:
    assert output_tokens(text, single) == tokens


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2)


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(data=st.data())
def test_no_usage_of_a_provider_is_below_zero_or_raises(name: str, data) -> None:
    fields = ["prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"]
    fields += ["cache_read_input_tokens", "cache_creation_input_tokens"]
    details = st.dictionaries(st.just("cached_tokens"), NUMBERS) | NUMBERS
    usage = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(fields, NUMBERS)))
    usage |= {f"{kind}_tokens_details": data.draw(details) for kind in ("prompt", "input")}
    found = DIALECTS[name].usage({"usage": usage})
    assert found is None or min(found.input, found.output, found.cache_read, found.cache_write) >= 0
    zeros = dict.fromkeys(fields, 0)
    for reply in (
        {},
        {"usage": None},
        {"usage": zeros},
        {"usage": 5},
        {"choices": 5, "content": 5, "output": [5]},
    ):
        assert DIALECTS[name].usage(reply) is None
        assert DIALECTS[name].text(reply) == ""
        DIALECTS[name].finish(reply)


def test_a_whole_answer_of_each_dialect() -> None:
    chat = {
        "choices": [{"message": {"content": "hi"}, "finish_reason": "length"}],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
    messages = {
        "content": [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "hi"}],
        "stop_reason": "max_tokens",
        "usage": {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 4},
    }
    responses = {
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}],
        "usage": {
            "input_tokens": 9,
            "output_tokens": 2,
            "input_tokens_details": {"cached_tokens": 4},
        },
    }
    for name, reply in (("chat", chat), ("messages", messages), ("responses", responses)):
        dialect = DIALECTS[name]
        assert dialect.usage(reply) == TokenUsage(5, 2, 4)
        assert (dialect.text(reply), dialect.finish(reply)) == ("hi", "length")
    assert TokenUsage(5, 2, 4, 3).prompt == 12


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_a_question_of_our_own_is_a_request_of_the_dialect(name: str) -> None:
    dialect = DIALECTS[name]
    turns = [{"role": "user", "content": "hi é"}]
    for maximum, stream in ((None, True), (7, False)):
        asked = dialect.parse(dialect.ask("be brief", turns, "m", maximum, stream))
        assert asked.model == "m"
        if dialect.reader is not None:
            assert asked.stream is stream
            assert asked.output == (4_096 if name == "messages" and maximum is None else maximum)
            assert "be brief" in json.dumps(asked.body.members)


@pytest.mark.parametrize("text", [f"Bearer {KEY}!", json.dumps({"e": KEY}), f"?key={KEY}"])
def test_a_key_is_cut_out_of_a_text(text: str) -> None:
    keys = [None, "", "a", KEY]
    for shown in (clean(text, keys), clean(text.encode(), keys).decode()):
        assert "sk-proj" not in shown
        assert "[key]" in shown


def test_a_key_in_a_url_is_cut_out() -> None:
    assert clean("x?k=sk-proj-%22%C3%A9%5C%2Fab%2Bc%3D", [KEY]) == "x?k=[key]"


def test_short_keys_are_parts_of_words() -> None:
    assert clean("a key", ["key"]) == "a key"


@pytest.mark.parametrize("dialect", [*DIALECTS, "unknown"])
def test_a_refusal_is_one_header_a_line(dialect: str) -> None:
    said = refusal(dialect, "EAGAIN", "a\r\nb: é", "x\udc80\n", 0.2)
    headers = dict(said.headers)
    assert headers["retry-after"] == "1"
    assert headers["x-agentfs-rule"] == "a??b: ?"
    assert "x-should-retry" not in headers
    json.loads(said.body)
    said = refusal(dialect, "EDQUOT", "", "x", 3600)
    assert dict(said.headers)["x-should-retry"] == "false"
    assert "retry-after" not in dict(said.headers)


def test_words_that_make_clients_compact() -> None:
    """Each program looks for its provider's own words."""
    assert b"prompt is too long: 9 tokens" in refusal("messages", "EMSGSIZE", "", "9 tokens").body
    for dialect in ("chat", "responses", "embeddings"):
        error = json.loads(refusal(dialect, "EMSGSIZE", "", "9 tokens").body)["error"]
        assert error["code"] == "context_length_exceeded"
