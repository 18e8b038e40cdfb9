"""Tapes: what is recorded is played back byte for byte, and nothing else is answered."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfs.dialects.table import DIALECTS
from agentfs.dialects.tape import Tape, TapeRecord, last_words, read_tape
from tests.dialects.samples import SAMPLES, request

HEADERS = [
    ("Content-Type", "text/event-stream"),
    ("openai-organization", "org-secret"),
    ("set-cookie", "x"),
]


def asked(text: str, dialect: str = "chat", **more):
    name = "input" if dialect == "responses" else "messages"
    fields = {"model": "m", name: [{"role": "user", "content": text}], **more}
    return DIALECTS[dialect].parse(json.dumps(fields).encode())


@pytest.mark.parametrize("dialect", sorted(SAMPLES))
def test_a_recorded_stream_comes_back_byte_for_byte(dialect: str) -> None:
    body = b"".join(SAMPLES[dialect])
    middle = body.index("é".encode()) + 1 if "é".encode() in body else 7
    chunks = [(0.25, body[:middle]), (0.01, body[middle:])]
    line = TapeRecord.of(request(dialect), 200, HEADERS, chunks).line()
    assert line.count(b"\n") == 1
    assert b"secret" not in line
    tape = Tape(read_tape(line))
    found = tape.find(request(dialect))
    assert found is not None
    assert (found.status, found.headers) == (200, [("content-type", "text/event-stream")])
    assert found.chunks == chunks


@given(st.lists(st.tuples(st.floats(0, 100), st.binary(max_size=20)), max_size=5))
def test_any_bytes_can_be_recorded(chunks) -> None:
    record = TapeRecord.of(asked("x"), 200, [], chunks)
    again = read_tape(record.line())[0]
    assert [data for _, data in again.chunks] == [data for _, data in chunks]
    assert again.line() == record.line()


def test_budget_model_and_order_of_names_do_not_matter() -> None:
    record = TapeRecord.of(asked("hello", max_tokens=5, temperature=0), 200, [], [])
    tape = Tape([record])
    other = b'{"temperature":0,"messages":[{"content":"hello","role":"user"}],"model":"n","n":null}'
    found = tape.find(DIALECTS["chat"].parse(other))
    assert found is record


def test_what_differs_from_run_to_run_does_not_matter_but_in_the_question() -> None:
    """As Claude Code and Codex ask: by session, day, moment, and the home of their agent."""

    def run(number: int, question: str):
        context = (
            f"Today is 2026-11-0{number}. Session 01a22d33-8d54-7223-9370-fbb80812f5a{number}. Your"
            f" memory is at `/mnt/agents/run-{number}/memory/.claude`."
        )
        turn = {"role": "user", "content": question, "create_time": 1796054683.5 + number}
        return asked("", messages=[{"role": "system", "content": context}, turn])

    tape = Tape([TapeRecord.of(run(1, "What was on 2026-11-01?"), 200, [], [(0, b"x")])])
    assert tape.find(run(2, "What was on 2026-11-01?")) is not None
    assert tape.find(run(1, "What was on 2026-11-02?")) is None


def test_the_same_request_gets_its_answers_in_order() -> None:
    records = [TapeRecord.of(asked("x"), 200, [], [(0, text)]) for text in (b"1", b"2")]
    tape = Tape(read_tape(b"".join(record.line() for record in records)))
    played = [tape.find(asked("x")).chunks[0][1] for _ in range(4)]
    assert played == [b"1", b"2", b"2", b"2"]


def test_another_request_has_no_answer_and_is_told_the_nearest() -> None:
    tape = Tape(
        TapeRecord.of(asked(text), 200, [], [])
        for text in ("What is the capital of France?", "Who wrote Faust?")
    )
    wanted = asked("what is the capital of Spain?")
    assert tape.find(wanted) is None
    assert tape.missing(wanted) == (
        'the tape has no answer to "what is the capital of Spain?"; '
        'the nearest that it has is "What is the capital of France?"'
    )
    assert "another temperature" in tape.missing(asked("Who wrote Faust?", temperature=1))
    assert "another stream" in tape.missing(asked("Who wrote Faust?", stream=True))
    assert "none at all for /v1/messages" in tape.missing(asked("x", "messages"))


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({}, ""),
        ({"input": "hi"}, "hi"),
        ({"input": [{"type": "function_call_output", "output": "42"}]}, "42"),
        ({"input": ["a", "b"]}, "b"),
        ({"messages": [{"content": [{"type": "text", "text": "a"}, {"text": "b"}, 3]}]}, "a b"),
        ({"messages": [{"content": None}]}, ""),
        ({"messages": 5}, ""),
    ],
)
def test_the_last_words_of_a_conversation(members, text) -> None:
    assert last_words(members) == text


@pytest.mark.parametrize(
    "line",
    [b"x", b"[]", b"{}", b"null", b"[" * 100_000, b"\xff"]
    + [
        json.dumps(
            {"dialect": "chat", "path": "/", "request": {}, "status": 200, "headers": [], **bad}
        ).encode()
        for bad in (
            {"chunks": [[0, 5]]},
            {"chunks": [["x", ""]]},
            {"chunks": [[-1, ""]]},
            {"chunks": [[1e9, ""]]},
            {"chunks": [[0, {"base64": "!"}]]},
            {"chunks": 5},
            {"chunks": [], "status": 0},
            {"chunks": [], "headers": [[1]]},
        )
    ],
)
def test_a_line_that_is_no_record_is_named(line: bytes) -> None:
    with pytest.raises(ValueError, match="line 2 of the tape"):
        read_tape(TapeRecord.of(asked("x"), 200, [], []).line() + line)
