"""What an agent's program does with the SDKs as they come, and with nothing that tells them where
the models are but the environment. It runs in the agent: its functions give what they were told."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import anthropic
import httpx2
import openai
import trio

TURNS = [{"role": "user", "content": "What is the capital of France?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
RESPONSES_TOOL = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
MESSAGES_TOOL = {"name": "weather", "input_schema": PARAMETERS}

Said = dict[str, Any]


def of_chat(reply: Any) -> Said:
    message, usage = reply.choices[0].message, reply.usage
    calls = [(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or []]
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    return {
        "text": message.content or "",
        "calls": calls,
        "usage": [usage.prompt_tokens - cached, usage.completion_tokens, cached, 0],
        "finish": reply.choices[0].finish_reason,
    }


def of_responses(reply: Any) -> Said:
    items = [item for item in reply.output if item.type == "function_call"]
    cached = reply.usage.input_tokens_details.cached_tokens
    return {
        "text": reply.output_text,
        "calls": [(item.name, json.loads(item.arguments)) for item in items],
        "usage": [reply.usage.input_tokens - cached, reply.usage.output_tokens, cached, 0],
        "finish": reply.status,
    }


def of_message(reply: Any) -> Said:
    usage = reply.usage
    return {
        "text": "".join(block.text for block in reply.content if block.type == "text"),
        "calls": [(block.name, block.input) for block in reply.content if block.type == "tool_use"],
        "usage": [
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_input_tokens or 0,
            usage.cache_creation_input_tokens or 0,
        ],
        "finish": reply.stop_reason,
    }


def everything(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> dict[str, Said]:
    """Each interface: a whole answer, a stream, and the call of a tool both ways."""
    said = {}
    for kind, model in (("text", "plain"), ("tool", "tool")):
        chat: Any = {"model": model, "messages": TURNS, "max_tokens": 64}
        chat |= {"tools": [CHAT_TOOL]} if kind == "tool" else {}
        said[f"chat {kind}"] = of_chat(gpt.chat.completions.create(**chat))
        options = {"include_usage": True}
        with gpt.chat.completions.stream(**chat, stream_options=options) as stream:
            stream.until_done()
            said[f"chat {kind} stream"] = of_chat(stream.get_final_completion())
        responses: Any = {"model": model, "input": TURNS, "max_output_tokens": 64}
        responses |= {"tools": [RESPONSES_TOOL]} if kind == "tool" else {}
        said[f"responses {kind}"] = of_responses(gpt.responses.create(**responses))
        with gpt.responses.stream(**responses) as stream:
            stream.until_done()
            said[f"responses {kind} stream"] = of_responses(stream.get_final_response())
        message: Any = {"model": model, "messages": TURNS, "max_tokens": 64}
        message |= {"tools": [MESSAGES_TOOL]} if kind == "tool" else {}
        said[f"messages {kind}"] = of_message(claude.messages.create(**message))
        with claude.messages.stream(**message) as stream:
            said[f"messages {kind} stream"] = of_message(stream.get_final_message())
    vectors = gpt.embeddings.create(model="plain", input=["a", "b"])
    said["embeddings"] = {"vectors": len(vectors.data), "usage": vectors.usage.prompt_tokens}
    counted = claude.messages.count_tokens(model="plain", messages=TURNS)
    said["count_tokens"] = {"usage": counted.input_tokens}
    said["models"] = {"names": sorted(model.id for model in gpt.models.list())}
    return said


async def everything_at_once(
    gpt: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> dict[str, Said]:
    """The same, for both event loops."""
    said = {}
    for kind, model in (("text", "plain"), ("tool", "tool")):
        chat: Any = {"model": model, "messages": TURNS, "max_tokens": 64}
        chat |= {"tools": [CHAT_TOOL]} if kind == "tool" else {}
        said[f"chat {kind}"] = of_chat(await gpt.chat.completions.create(**chat))
        options = {"include_usage": True}
        async with gpt.chat.completions.stream(**chat, stream_options=options) as stream:
            await stream.until_done()
            said[f"chat {kind} stream"] = of_chat(await stream.get_final_completion())
        responses: Any = {"model": model, "input": TURNS, "max_output_tokens": 64}
        responses |= {"tools": [RESPONSES_TOOL]} if kind == "tool" else {}
        said[f"responses {kind}"] = of_responses(await gpt.responses.create(**responses))
        async with gpt.responses.stream(**responses) as stream:
            await stream.until_done()
            said[f"responses {kind} stream"] = of_responses(await stream.get_final_response())
        message: Any = {"model": model, "messages": TURNS, "max_tokens": 64}
        message |= {"tools": [MESSAGES_TOOL]} if kind == "tool" else {}
        said[f"messages {kind}"] = of_message(await claude.messages.create(**message))
        async with claude.messages.stream(**message) as stream:
            said[f"messages {kind} stream"] = of_message(await stream.get_final_message())
    vectors = await gpt.embeddings.create(model="plain", input=["a", "b"])
    said["embeddings"] = {"vectors": len(vectors.data), "usage": vectors.usage.prompt_tokens}
    counted = await claude.messages.count_tokens(model="plain", messages=TURNS)
    said["count_tokens"] = {"usage": counted.input_tokens}
    found = await gpt.models.list()
    said["models"] = {"names": sorted(model.id for model in found.data)}
    return said


def in_threads(count: int) -> list[dict[str, Said]]:
    """Clients that all threads share."""
    said: list[dict[str, Said]] = []
    with openai.OpenAI() as gpt, anthropic.Anthropic() as claude:
        threads = [
            threading.Thread(target=lambda: said.append(everything(gpt, claude)))
            for _ in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return said


def under_asyncio(count: int) -> list[dict[str, Said]]:
    async def main() -> list[dict[str, Said]]:
        async with openai.AsyncOpenAI() as gpt, anthropic.AsyncAnthropic() as claude:
            return await asyncio.gather(*(everything_at_once(gpt, claude) for _ in range(count)))

    return asyncio.run(main())


def under_trio(count: int) -> list[dict[str, Said]]:
    said: list[dict[str, Said]] = []

    async def one(gpt: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic) -> None:
        said.append(await everything_at_once(gpt, claude))

    async def main() -> None:
        async with (
            openai.AsyncOpenAI() as gpt,
            anthropic.AsyncAnthropic() as claude,
            trio.open_nursery() as nursery,
        ):
            for _ in range(count):
                nursery.start_soon(one, gpt, claude)

    trio.run(main)
    return said


def at_the_socket(path: str) -> dict[str, Said]:
    """Everything, by a socket of Unix instead of an address."""
    ways = [httpx2.HTTPTransport(uds=path) for _ in range(2)]
    with (
        openai.OpenAI(http_client=openai.DefaultHttpxClient(transport=ways[0])) as gpt,
        anthropic.Anthropic(http_client=anthropic.DefaultHttpxClient(transport=ways[1])) as claude,
    ):
        return everything(gpt, claude)


def chunks_without_asking(model: str) -> list[list[Any]]:
    """Of a stream that did not ask for its usage: each chunk's choices, and its usage."""
    with openai.OpenAI() as gpt:
        stream = gpt.chat.completions.create(model=model, messages=TURNS, stream=True)
        return [[len(chunk.choices), chunk.usage] for chunk in stream]


def cut(dialect: str, model: str) -> Said:
    """A stream that wants 64,000 tokens: its text, the tokens that it says, and its end."""
    with openai.OpenAI(max_retries=0) as gpt, anthropic.Anthropic(max_retries=0) as claude:
        if dialect == "messages":
            asked: Any = {"model": model, "messages": TURNS, "max_tokens": 64_000}
            with claude.messages.stream(**asked) as stream:
                return of_message(stream.get_final_message())
        if dialect == "responses":
            asked = {"model": model, "input": TURNS, "max_output_tokens": 64_000}
            with gpt.responses.stream(**asked) as stream:
                return of_responses(list(stream)[-1].response)
        asked = {"model": model, "messages": TURNS, "max_tokens": 64_000}
        with gpt.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
            for _ in stream:
                pass
            return of_chat(stream.current_completion_snapshot)


def refused(dialect: str, model: str) -> list[Any]:
    """The SDK's exception: its class, status and words."""
    try:
        with openai.OpenAI() as gpt, anthropic.Anthropic() as claude:
            if dialect == "messages":
                claude.messages.create(model=model, messages=TURNS, max_tokens=9)
            elif dialect == "responses":
                gpt.responses.create(model=model, input=TURNS, max_output_tokens=9)
            else:
                gpt.chat.completions.create(model=model, messages=TURNS, max_tokens=9)
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        return [type(error).__name__, error.status_code, str(error)]
    return []


def streamed(dialect: str, model: str) -> Said:
    """A stream as far as it comes: its text, and the SDK's exception."""
    texts: list[str] = []
    said: Said = {"error": "", "words": ""}
    try:
        with openai.OpenAI(max_retries=0) as gpt, anthropic.Anthropic(max_retries=0) as claude:
            if dialect == "messages":
                asked: Any = {"model": model, "messages": TURNS, "max_tokens": 64}
                with claude.messages.stream(**asked) as stream:
                    texts += stream.text_stream
            elif dialect == "responses":
                events = gpt.responses.create(
                    model=model, input=TURNS, max_output_tokens=64, stream=True
                )
                for event in events:
                    if event.type == "response.output_text.delta":
                        texts.append(event.delta)
            else:
                chunks = gpt.chat.completions.create(
                    model=model, messages=TURNS, max_tokens=64, stream=True
                )
                for chunk in chunks:
                    if chunk.choices and chunk.choices[0].delta.content:
                        texts.append(chunk.choices[0].delta.content)
    except (openai.APIError, anthropic.APIError) as error:
        said = {"error": type(error).__name__, "words": str(error)}
    return said | {"text": "".join(texts)}
