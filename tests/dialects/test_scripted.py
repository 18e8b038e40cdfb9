"""Written answers: the document, and each answer as the real SDKs read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import yaml

from agentfs.dialects import scripted
from agentfs.dialects.scripted import Reply, Script
from agentfs.dialects.stream import TokenStream
from agentfs.dialects.table import DIALECTS
from tests.dialects.samples import Served, serve
from tests.later import Later

if TYPE_CHECKING:
    import anthropic
    import openai
else:
    anthropic, openai = Later("anthropic"), Later("openai")


HELLO = [{"role": "user", "content": "What is the weather in Paris?"}]

EVERYTHING = {
    "answers": [
        {
            "when": "WEATHER",
            "think": "I look it up. ",
            "say": "One moment, please.",
            "call": {"weather": {"city": "Paris"}, "time": {}},
        }
    ]
}


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


def asked(dialect: str, **more):
    name = "input" if dialect == "responses" else "messages"
    return DIALECTS[dialect].parse(json.dumps({"model": "m", name: HELLO, **more}).encode())


def answer(served: Served, reply: Reply) -> None:
    served.status, served.headers = reply.status, [*reply.headers]
    served.body = b"".join(data for _, data in reply.chunks)


def test_the_document_of_the_page_is_a_script() -> None:
    assert scripted.__doc__ is not None
    script = Script(
        yaml.safe_load(scripted.__doc__.partition("is\n\n")[2].partition("\n\nThe ")[0])
    )
    first = json.loads(script.reply(asked("chat")).chunks[0][1])
    assert first["choices"][0]["message"]["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": '{"city": "Paris"}',
    }
    second = json.loads(script.reply(asked("chat")).chunks[0][1])  # the first was for one time
    assert second["choices"][0]["message"]["content"] == "I have no answer to that."


@pytest.mark.parametrize("room", [64, 9, 6, 3])
def test_a_script_is_read_by_the_sdks(served, gpt, claude, room: int) -> None:
    """4 words of thought, 3 of text, 2 calls, or fewer: streamed, and whole."""
    thought, text, calls = min(4, room), min(3, max(0, room - 4)), min(2, max(0, room - 7))
    said = "".join(["One ", "moment, ", "please."][:text])
    ended = room >= 9

    answer(served, Script(EVERYTHING).reply(asked("chat", stream=True, max_tokens=room)))
    with gpt.chat.completions.stream(model="m", messages=HELLO) as stream:
        chunks = [event.chunk for event in stream if event.type == "chunk"]
        chat = stream.current_completion_snapshot
    assert chat.choices[0].finish_reason == ("tool_calls" if ended else "length")
    assert chunks[-1].usage.completion_tokens == thought + text + calls
    assert chat.choices[0].message.content == said
    assert len(chat.choices[0].message.tool_calls or []) == calls
    answer(served, Script(EVERYTHING).reply(asked("chat", max_tokens=room)))
    whole = gpt.chat.completions.create(model="m", messages=HELLO)
    assert whole.choices[0].finish_reason == chat.choices[0].finish_reason
    assert whole.choices[0].message.content == (said or None)

    answer(served, Script(EVERYTHING).reply(asked("messages", stream=True, max_tokens=room)))
    with claude.messages.stream(model="m", max_tokens=room, messages=HELLO) as stream:
        streamed = stream.get_final_message()
    answer(served, Script(EVERYTHING).reply(asked("messages", max_tokens=room)))
    plain = claude.messages.create(model="m", max_tokens=room, messages=HELLO)
    assert streamed.stop_reason == plain.stop_reason == ("tool_use" if ended else "max_tokens")
    blocks = [block.to_dict() for block in streamed.content]
    assert blocks == [block.to_dict() for block in plain.content]
    assert [block["type"] for block in blocks].count("tool_use") == calls
    assert streamed.usage.output_tokens == plain.usage.output_tokens == thought + text + calls

    answer(
        served, Script(EVERYTHING).reply(asked("responses", stream=True, max_output_tokens=room))
    )
    with gpt.responses.stream(model="m", input=HELLO) as stream:
        last = list(stream)[-1]
    assert last.type == ("response.completed" if ended else "response.incomplete")
    assert last.response.output_text == said
    answer(served, Script(EVERYTHING).reply(asked("responses", max_output_tokens=room)))
    response = gpt.responses.create(model="m", input=HELLO)
    assert response.status == ("completed" if ended else "incomplete")
    assert [item.type for item in response.output] == [item.type for item in last.response.output]
    assert response.usage.output_tokens == thought + text + calls


@pytest.mark.parametrize("dialect", ["chat", "messages", "responses"])
def test_a_script_is_metered_as_a_provider(dialect: str) -> None:
    request = asked(dialect, stream=True)
    stream = TokenStream(request)
    reply = Script(EVERYTHING).reply(request)
    texts = []
    for _, data in reply.chunks:
        stream.feed(data)
        texts.append(stream.text)
    stream.end()
    assert (stream.finished, stream.error) == (True, "")
    assert "".join(texts) == "One moment, please."
    assert stream.usage is not None
    assert stream.usage.output == 9
    plain = json.loads(Script(EVERYTHING).reply(asked(dialect)).chunks[0][1])
    assert request.dialect.usage(plain).output == 9
    assert request.dialect.text(plain) == "One moment, please."


def test_pauses_are_before_each_word() -> None:
    script = Script({"answers": [{"say": "a b c", "pause": 0.5}]})
    reply = script.reply(asked("chat", stream=True))
    assert {delay for delay, _ in reply.chunks} == {0.5}
    assert script.reply(asked("chat")).chunks[0][0] == 1.5


def test_failures_and_what_fits_nothing(served, gpt, claude) -> None:
    fail = {"status": 429, "words": "slow down", "retry_after": 3}
    script = Script({"answers": [{"when": "weather", "fail": fail, "times": 2}]})
    answer(served, script.reply(asked("chat")))
    with pytest.raises(openai.RateLimitError, match="slow down") as raised:
        gpt.chat.completions.create(model="m", messages=HELLO)
    assert raised.value.response.headers["retry-after"] == "3"
    answer(served, script.reply(asked("messages")))
    with pytest.raises(anthropic.RateLimitError, match="slow down"):
        claude.messages.create(model="m", max_tokens=9, messages=HELLO)
    assert script.reply(asked("chat")).status == 404
    embeddings = DIALECTS["embeddings"].parse(b'{"model":"m","input":"x"}')
    assert script.reply(embeddings).status == 404


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, "a list of `answers`"),
        ({"answers": []}, "a list of `answers`"),
        ({"answers": ["hi"]}, "answer 1: "),
        ({"answers": [{"say": "x"}, {"says": "x"}]}, "answer 2: it has other fields than call"),
        ({"answers": [{"when": "x"}]}, "neither says nor calls"),
        ({"answers": [{"say": 5}]}, "`say` is no text"),
        ({"answers": [{"say": "x", "when": "("}]}, "no regular expression"),
        ({"answers": [{"call": ["x"]}]}, "`call`"),
        ({"answers": [{"fail": {"status": 200}}]}, "`fail`"),
        ({"answers": [{"fail": 500}]}, "`fail`"),
        ({"answers": [{"say": "x", "times": 0}]}, "`times`"),
        ({"answers": [{"say": "x", "pause": -1}]}, "`pause`"),
        ({"answers": [{"say": "x", "pause": "1s"}]}, "`pause`"),
    ],
)
def test_a_script_that_is_none_is_refused_with_the_place(document, words: str) -> None:
    with pytest.raises(ValueError) as raised:
        Script(document)
    assert words in str(raised.value)
