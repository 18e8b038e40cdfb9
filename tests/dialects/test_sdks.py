"""What we write into streams, and our refusals, as the real SDKs read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from agentfs.dialects.dialect import Request
from agentfs.dialects.models_list import models_list
from agentfs.dialects.refusal import refusal
from agentfs.dialects.stream import TokenStream
from agentfs.dialects.table import DIALECTS
from tests.dialects.samples import SAMPLES, Served, request, serve
from tests.later import Later

if TYPE_CHECKING:
    import anthropic
    import openai
else:
    anthropic, openai = Later("anthropic"), Later("openai")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve() as served:
        yield served


@pytest.fixture(scope="module")
def gpt(served):
    with openai.OpenAI(base_url=served.url + "/v1", api_key="agentfs", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(served):
    with anthropic.Anthropic(base_url=served.url, auth_token="agentfs", max_retries=0) as client:
        yield client


@pytest.fixture(autouse=True)
def _answers(served: Served) -> None:
    served.status = 200
    served.headers = [("content-type", "text/event-stream")]
    served.body = b""
    served.asked.clear()


HELLO = [{"role": "user", "content": "weather?"}]


def cut_at(asked: Request, count: int) -> bytes:
    """The stream of a provider, cut after so many events."""
    stream = TokenStream(asked)
    relayed = stream.feed(b"".join(SAMPLES[asked.dialect.name][:count]))
    return b"".join(relayed) + stream.cut("no tokens are left") + b"".join(stream.end())


def every_cut(dialect: str) -> range:
    return range(len(SAMPLES[dialect]) + 1)


@pytest.mark.parametrize("count", every_cut("chat"))
def test_a_cut_chat_is_read_by_the_sdk(served, gpt, count: int) -> None:
    usage = {"include_usage": True}
    served.body = cut_at(request("chat", stream_options=usage), count)
    chunks = list(
        gpt.chat.completions.create(
            model="m", messages=HELLO, n=2, stream=True, stream_options=usage
        )
    )
    finishes = {
        choice.index: choice.finish_reason
        for chunk in chunks
        for choice in chunk.choices
        if choice.finish_reason
    }
    assert finishes == {
        0: "tool_calls" if count > 10 else "length",
        1: "stop" if count > 11 else "length",
    }
    assert [chunk.usage is not None for chunk in chunks if not chunk.choices] == [True]
    assert chunks[-1].usage.total_tokens > 0
    with gpt.chat.completions.stream(model="m", messages=HELLO, n=2) as stream:
        for event in stream:
            assert event.type
        if "length" in finishes.values():  # this call says it so, and has the answer
            with pytest.raises(openai.LengthFinishReasonError) as raised:
                stream.get_final_completion()
            final = raised.value.completion
        else:
            final = stream.get_final_completion()
    assert {choice.index: choice.finish_reason for choice in final.choices} == finishes


def test_a_cut_chat_says_no_usage_to_a_client_that_did_not_ask(served, gpt) -> None:
    for count in every_cut("chat"):
        served.body = cut_at(request("chat"), count)
        chunks = list(gpt.chat.completions.create(model="m", messages=HELLO, n=2, stream=True))
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("count", every_cut("messages"))
def test_cut_messages_are_read_by_the_sdk(served, claude, count: int) -> None:
    served.body = cut_at(request("messages"), count)
    asked = {"model": "m", "max_tokens": 64_000, "messages": HELLO}
    events = list(claude.messages.create(**asked, stream=True))
    assert [event.type for event in events][-1] == "message_stop"
    begun = [event.index for event in events if event.type == "content_block_start"]
    ended = [event.index for event in events if event.type == "content_block_stop"]
    assert begun == ended
    with claude.messages.stream(**asked) as stream:
        for event in stream:
            assert event.type
        final = stream.get_final_message()
    assert final.stop_reason == ("tool_use" if count > 18 else "max_tokens")
    assert final.usage.output_tokens == 89 if count > 18 else final.usage.output_tokens < 60
    assert final.usage.cache_creation_input_tokens == (4425 if count else 0)
    assert final.usage.input_tokens > 0


@pytest.mark.parametrize("count", every_cut("responses"))
def test_cut_responses_are_read_by_the_sdk(served, gpt, count: int) -> None:
    served.body = cut_at(request("responses"), count)
    events = list(gpt.responses.create(model="m", input="weather?", stream=True))
    last = events[-1]
    if count == len(SAMPLES["responses"]):
        assert last.type == "response.completed"
        return
    assert last.type == "response.incomplete"
    assert last.response.status == "incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.usage.total_tokens > 0
    assert [event.sequence_number for event in events] == list(range(len(events)))
    added = [e.output_index for e in events if e.type == "response.output_item.added"]
    done = [e.output_index for e in events if e.type == "response.output_item.done"]
    assert added == done == list(range(len(last.response.output)))
    # All that was shown is in the end, too.
    texts = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert last.response.output_text == "".join(texts)
    with gpt.responses.stream(model="m", input="weather?") as stream:
        assert [event.type for event in stream][-1] == "response.incomplete"


@pytest.mark.parametrize("count", every_cut("responses"))
def test_a_failure_in_mid_stream_is_raised_by_the_openai_sdk(served, gpt, count: int) -> None:
    """For each dialect, after every event: before the end it is the SDK's exception."""
    for dialect, call in (
        ("chat", lambda: gpt.chat.completions.create(model="m", messages=HELLO, stream=True)),
        ("responses", lambda: gpt.responses.create(model="m", input="x", stream=True)),
    ):
        if count >= len(SAMPLES[dialect]):
            continue
        served.body = failed_at(dialect, count)
        with pytest.raises(openai.APIError, match="the line is gone"):
            list(call())


@pytest.mark.parametrize("count", every_cut("messages"))
def test_a_failure_in_mid_stream_is_raised_by_the_anthropic_sdk(served, claude, count: int) -> None:
    if count == len(SAMPLES["messages"]):
        return
    served.body = failed_at("messages", count)
    with pytest.raises(anthropic.APIStatusError, match="the line is gone"):
        list(claude.messages.create(model="m", max_tokens=9, messages=HELLO, stream=True))


def failed_at(dialect: str, count: int) -> bytes:
    stream = TokenStream(request(dialect))
    relayed = stream.feed(b"".join(SAMPLES[dialect][:count]))
    return b"".join(relayed) + stream.fail("the line is gone")


REFUSED = [
    ("EDQUOT", 400, "BadRequestError", 402, "PaymentRequiredError"),
    ("EMSGSIZE", 400, "BadRequestError", 400, "BadRequestError"),
    ("EAGAIN", 429, "RateLimitError", 429, "RateLimitError"),
    ("EACCES", 403, "PermissionDeniedError", 403, "PermissionDeniedError"),
    ("EPERM", 403, "PermissionDeniedError", 403, "PermissionDeniedError"),
    ("ENOENT", 404, "NotFoundError", 404, "NotFoundError"),
    ("EINVAL", 400, "BadRequestError", 400, "BadRequestError"),
    ("EREMOTEIO", 502, "InternalServerError", 502, "InternalServerError"),
    ("ETIMEDOUT", 504, "InternalServerError", 504, "GatewayTimeoutError"),
    ("EBUSY", 503, "InternalServerError", 529, "OverloadedError"),
    ("EWHATEVER", 500, "InternalServerError", 500, "InternalServerError"),
]


@pytest.mark.parametrize(("errno", "status", "error", "status_m", "error_m"), REFUSED)
def test_a_refusal_is_the_right_exception_with_the_words(
    served, gpt, claude, errno, status, error, status_m, error_m
) -> None:
    def refuse(dialect: str) -> None:
        said = refusal(dialect, errno, "agents/scout", "no more: 7 of 7 are used é", 12)
        served.status, served.headers, served.body = said.status, said.headers, said.body

    calls = {
        "chat": lambda: gpt.chat.completions.create(model="m", messages=HELLO),
        "responses": lambda: gpt.responses.create(model="m", input="x"),
        "embeddings": lambda: gpt.embeddings.create(model="m", input="x"),
        "messages": lambda: claude.messages.create(model="m", max_tokens=9, messages=HELLO),
    }
    for dialect, call in calls.items():
        refuse(dialect)
        module, expected = (anthropic, error_m) if dialect == "messages" else (openai, error)
        with pytest.raises(module.APIStatusError, match="7 of 7 are used é") as raised:
            call()
        assert type(raised.value).__name__ == expected
        assert raised.value.status_code == (status_m if dialect == "messages" else status)
        if errno == "EAGAIN":
            assert raised.value.response.headers["retry-after"] == "12"
    if errno == "EDQUOT":
        refuse("chat")
        with pytest.raises(openai.BadRequestError) as raised:
            calls["chat"]()
        assert raised.value.code == "budget_exceeded"


def test_a_futile_request_is_sent_once_by_the_sdks(served) -> None:
    """Their own retries are on: our header stops them."""
    said = refusal("messages", "EDQUOT", "", "no more", None)
    served.status, served.headers, served.body = said.status, said.headers, said.body
    with (
        anthropic.Anthropic(base_url=served.url, auth_token="x", max_retries=5) as claude,
        pytest.raises(anthropic.APIStatusError),
    ):
        claude.messages.create(model="m", max_tokens=9, messages=HELLO)
    assert len(served.asked) == 1


def test_the_list_of_models_in_both_forms(served, gpt, claude) -> None:
    served.headers = [("content-type", "application/json")]
    served.body = models_list(["a", "b"], messages=False)
    assert [model.id for model in gpt.models.list()] == ["a", "b"]
    served.body = models_list(["a", "b"], messages=True)
    assert [model.id for model in claude.models.list()] == ["a", "b"]


def test_requests_of_the_sdks_are_read(served, gpt, claude) -> None:
    """As each SDK writes them; nothing but the model and the maximum is changed."""
    served.headers = [("content-type", "application/json")]
    served.body = b"{}"
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    gpt.chat.completions.create(model="m", messages=HELLO, tools=[tool], max_completion_tokens=9)
    gpt.responses.create(model="m", input=HELLO, max_output_tokens=9)
    claude.messages.create(model="m", max_tokens=9, messages=HELLO, system="é")
    gpt.embeddings.create(model="m", input=["a", "b"], encoding_format="float")
    names = ["chat", "responses", "messages", "embeddings"]
    for (_, _, body), name in zip(served.asked, names, strict=True):
        asked = DIALECTS[name].parse(body)
        written = name != "embeddings"
        assert (asked.model, asked.output, asked.stream) == ("m", 9 if written else 0, False)
        was, now = json.loads(body), json.loads(asked.outgoing("real", 5))
        changed = {field for field in now if now[field] != was.get(field)}
        maxima = {field for field in was if field.startswith("max")}
        assert changed == {"model"} | maxima
        assert bool(maxima) is written
        assert asked.outgoing("m", None) == body
