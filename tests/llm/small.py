"""The real small model in a tree, or its tape; and how the tape is made anew:

    python -m tests.llm.small

asks the model every question of QUESTIONS through every interface, and those of the demo, and puts
the answers on the tape that is shipped, in place of those to the same requests. It takes ./run
model.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import agentfs.gateway
from agentfs.catalog.catalog import RUNNABLE
from agentfs.dialects.tape import TapeRecord, read_tape
from agentfs.tools.demo_team import show_team
from tests.later import Later
from tests.tree import Tree

if TYPE_CHECKING:
    import anthropic
    import openai
else:
    anthropic, openai = Later("anthropic"), Later("openai")


__all__ = ["IS_HERE", "NEEDS_MODEL", "PLACES", "QUESTIONS", "TAPE", "ask_file", "asked", "serve"]

IS_HERE = all(map(importlib.util.find_spec, RUNNABLE["smollm2"]))
NEEDS_MODEL = pytest.mark.skipif(not IS_HERE, reason="the small model is not here: ./run model")

PLACES = [pytest.param("model", marks=NEEDS_MODEL), "tape"]
"""What answers, as a test's parameter."""

TAPE = Path(agentfs.gateway.__file__).parent / "tapes" / "smollm2.jsonl"

QUESTIONS = [
    "Capital of France?",
    "What is the capital of France?",
    "Capital of Italy?",
    "What is 2+2?",
    "Say hello.",
    "Write a few sentences about the sea.",
]


def serve(tree: Tree, place: str, **more: Any) -> None:
    """Have `smollm2` answered for by the model itself, or by its tape."""
    provider = {"speaks": ["chat", "responses", "messages"], **more}
    provider["run" if place == "model" else "replay"] = "smollm2"
    model = {"tier": "operational", "provider": "local", "context": 8192}
    document = {"providers": {"local": provider}, "models": {"smollm2": model}}
    tree.write("etc/models.yaml", yaml.safe_dump(document))


def ask_file(tree: Tree, *prompts: str) -> Iterator[str]:
    """The answer to each prompt of one conversation, by /dev/llm."""
    with open(tree / "dev/llm/smollm2", "r+b", buffering=0) as file:
        for prompt in prompts:
            file.write(f"{prompt}\n".encode())
            yield b"".join(iter(lambda: file.read(1 << 16), b"")).decode()


def asked(tree: Tree) -> dict[str, Callable[[str], str]]:
    """How the real SDKs ask, by the interface and whether as a stream."""
    url = dict(line.split(":\t", 1) for line in tree.read("sys/gateway").splitlines())[
        "Address"
    ].strip()
    openai_ = openai.OpenAI(base_url=f"{url}/v1", api_key="agentfs", max_retries=0)
    anthropic_ = anthropic.Anthropic(base_url=url, api_key="agentfs", max_retries=0)

    def chat(question: str) -> str:
        made = openai_.chat.completions.create(model="smollm2", messages=_turn(question))
        return made.choices[0].message.content or ""

    def chat_stream(question: str) -> str:
        made = openai_.chat.completions.create(
            model="smollm2", messages=_turn(question), stream=True
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in made if chunk.choices)

    def responses(question: str) -> str:
        return openai_.responses.create(model="smollm2", input=question).output_text

    def responses_stream(question: str) -> str:
        made = openai_.responses.create(model="smollm2", input=question, stream=True)
        return "".join(one.delta for one in made if one.type == "response.output_text.delta")

    def messages(question: str) -> str:
        made = anthropic_.messages.create(
            model="smollm2", max_tokens=500, messages=[{"role": "user", "content": question}]
        )
        return "".join(block.text for block in made.content if block.type == "text")

    def messages_stream(question: str) -> str:
        with anthropic_.messages.stream(
            model="smollm2", max_tokens=500, messages=[{"role": "user", "content": question}]
        ) as made:
            return "".join(made.text_stream)

    ways = (chat, chat_stream, responses, responses_stream, messages, messages_stream)
    return {way.__name__: way for way in ways}


def _turn(question: str) -> list[Any]:
    return [{"role": "user", "content": question}]


def main() -> None:
    """Make the tape anew."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        tree = Tree(Path(folder, "tree"))
        stack.callback(tree.clean_up)
        tree.mount()
        serve(tree, "model", record="smollm2")
        for question in QUESTIONS:
            print(question, *ask_file(tree, question), flush=True)
            for way, ask in asked(tree).items():
                print(f"  {way}: {ask(question)}", flush=True)
            command = ["run", "-m", "smollm2", question]
            print("  run:", tree.run(*command).stdout.strip(), flush=True)
        print(*ask_file(tree, "Capital of France?", "And of Italy?"))
        failed = show_team(tree.path, lambda *words: tree.run(*words).stdout, print)
        assert not failed, failed
        tree.unmount()
        made = read_tape((tree.state / "tapes" / "smollm2.jsonl").read_bytes())
    _put(made)


def _put(made: list[TapeRecord]) -> None:
    kept = read_tape(TAPE.read_bytes()) if TAPE.exists() else []
    records = {record.digest: record for record in (*kept, *made)}
    TAPE.parent.mkdir(exist_ok=True)
    TAPE.write_bytes(b"".join(record.line() for record in records.values()))
    print(f"{TAPE}: {len(records)} answers, {TAPE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
