"""The gateway: calls of real clients through it, to a provider whose behaviour is written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.later import Later
from tests.llm.desk import Desk
from tests.llm.server import TEXT, Provider

if TYPE_CHECKING:
    import anthropic
    import openai
else:
    anthropic, openai = Later("anthropic"), Later("openai")


ASKED = [{"role": "user", "content": "What is the capital of France?"}]


def chat(desk: Desk) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{desk.url}/v1", api_key="mine", max_retries=0)


def messages(desk: Desk) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=desk.url, api_key="mine", max_retries=0)


def test_each_dialect_plain_and_in_a_stream(desk: Desk, provider: Provider) -> None:
    with chat(desk) as client, messages(desk) as other:
        said = client.chat.completions.create(model="m", messages=ASKED)
        assert said.choices[0].message.content == TEXT
        parts = client.chat.completions.create(model="m", messages=ASKED, stream=True)
        assert "".join(p.choices[0].delta.content or "" for p in parts) == TEXT
        answered = client.responses.create(model="m", input="?")
        assert answered.output_text == TEXT
        with client.responses.stream(model="m", input="?") as stream:
            assert stream.get_final_response().output_text == TEXT
        message = other.messages.create(model="m", messages=ASKED, max_tokens=100)
        assert message.content[0].text == TEXT
        with other.messages.stream(model="m", messages=ASKED, max_tokens=100) as stream:
            assert stream.get_final_message().usage.output_tokens == 6
        assert len(client.embeddings.create(model="m", input=["a", "b"]).data) == 2
        counted = other.messages.count_tokens(model="m", messages=ASKED)
    settled = desk.over(7)
    calls = provider.log()
    assert [c.dialect for c in calls[-2:]] == ["embeddings", "count_tokens"]
    assert calls[-1].size // 4 == counted.input_tokens
    for call, books in zip(calls, settled, strict=False):
        assert not books.estimated
        output = 0 if call.dialect == "embeddings" else 6
        assert books.usage == {
            "input": call.size // 4,
            "output": output,
            "cache_read": 0,
            "cache_write": 0,
        }
