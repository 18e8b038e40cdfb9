"""Written answers: a provider without a model, for tests and demonstrations. A script is

    answers:
      - when: capital of France      # a regular expression, in any case, for the last message
        say: The capital of France is Paris.
        pause: 0.05                  # seconds before each word; default 0
      - when: weather
        times: 1                     # it is used so often; default: always
        call: {weather: {city: Paris}}
      - when: too much
        fail: {status: 429, words: slow down, retry_after: 3}
      - say: I have no answer to that.

The first answer that fits is given; without `when` it fits everything. `think` is reasoning that
comes before. An answer may say and call. Each word is a token, of which no more are given than the
request wants.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentfs.dialects.chat import openai_error
from agentfs.dialects.dialect import MAXIMA, Request
from agentfs.dialects.tape import last_words
from agentfs.dialects.written import WRITERS, Words

__all__ = ["Reply", "Script"]

KEYS = {"when", "say", "think", "call", "fail", "pause", "times"}
JSON_TYPE = ("content-type", "application/json")
SSE_TYPE = ("content-type", "text/event-stream")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer over HTTP: each piece with the seconds before it."""

    status: int
    headers: Sequence[tuple[str, str]]
    chunks: Sequence[tuple[float, bytes]]


@dataclass(slots=True)
class _Answer:
    when: re.Pattern[str] | None
    say: str
    think: str
    calls: list[tuple[str, Any]]
    fail: Mapping[str, Any] | None
    pause: float
    times: int | None


class Script:
    """Answers in their order."""

    def __init__(self, document: object) -> None:
        """`document`: what the YAML file says. Raises ValueError, which names the answer."""
        answers = document.get("answers") if isinstance(document, dict) else None
        if not isinstance(answers, list) or not answers:
            raise ValueError("a script is a list of `answers`")
        self._answers = []
        for number, answer in enumerate(answers, start=1):
            try:
                self._answers.append(_read(answer))
            except ValueError as error:
                raise ValueError(f"answer {number}: {error}") from None
        self._count = 0

    def reply(self, request: Request) -> Reply:
        """The answer to a request, in its dialect."""
        if request.dialect.name not in WRITERS:
            return _error(request, 404, f"a script has no {request.dialect.name}", None)
        asked = last_words(request.body.members)
        for answer in self._answers:
            if answer.times != 0 and (answer.when is None or answer.when.search(asked)):
                if answer.times is not None:
                    answer.times -= 1
                return self._given(answer, request)
        return _error(request, 404, "no answer of the script fits", None)

    def _given(self, answer: _Answer, request: Request) -> Reply:
        if answer.fail is not None:
            said, after = str(answer.fail.get("words", "")), answer.fail.get("retry_after")
            return _error(request, answer.fail["status"], said, after)
        self._count += 1
        words = _words(answer, request)
        stream, plain = WRITERS[request.dialect.name]
        if request.stream:
            events = stream(words, request.model, self._count)
            return Reply(200, [SSE_TYPE], [(answer.pause, piece) for piece in events])
        body = json.dumps(plain(words, request.model, self._count)).encode()
        return Reply(200, [JSON_TYPE], [(answer.pause * words.output, body)])


def _read(answer: object) -> _Answer:
    if not isinstance(answer, dict) or not {str(key) for key in answer} <= KEYS:
        raise ValueError(f"it has other fields than {', '.join(sorted(KEYS))}")
    if not {"say", "call", "fail"} & set(answer):
        raise ValueError("it neither says nor calls anything, nor fails")
    texts = {name: answer.get(name, "") for name in ("say", "think", "when")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"`{name}` is no text")
    try:
        when = re.compile(texts["when"], re.IGNORECASE) if texts["when"] else None
    except re.error as error:
        raise ValueError(f"`when` is no regular expression: {error}") from None
    call = answer.get("call") or {}
    if not isinstance(call, dict) or not all(isinstance(name, str) for name in call):
        raise ValueError("`call` has tools with their arguments")
    fail = answer.get("fail")
    if fail is not None and (
        not isinstance(fail, dict)
        or not isinstance(fail.get("status"), int)
        or not 400 <= fail["status"] <= 599
    ):
        raise ValueError("`fail` has a `status` between 400 and 599")
    times = answer.get("times")
    if times is not None and (not isinstance(times, int) or times < 1):
        raise ValueError("`times` is a number from 1")
    pause = answer.get("pause", 0)
    if not isinstance(pause, int | float) or not 0 <= pause <= 60:
        raise ValueError("`pause` is a number of seconds, 60 at most")
    calls = [*call.items()]
    return _Answer(when, texts["say"], texts["think"], calls, fail, float(pause), times)


def _words(answer: _Answer, request: Request) -> Words:
    members = request.body.members
    maxima = [members[name] for name in MAXIMA if isinstance(members.get(name), int)]
    room = min(maxima, default=2**31)
    think = re.findall(r"\S+\s*|\s+", answer.think)[:room]
    say = re.findall(r"\S+\s*|\s+", answer.say)
    given = say[: room - len(think)]
    room -= len(think) + len(given)
    calls = [(name, json.dumps(arguments)) for name, arguments in answer.calls][:room]
    over = len(given) == len(say) and len(calls) == len(answer.calls)
    return Words(think, given, calls, over, request.estimate(4.0))


def _error(request: Request, status: int, words: str, after: object) -> Reply:
    if request.dialect.name == "messages":
        kind = "rate_limit_error" if status == 429 else "api_error"
        said: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": words}}
    else:
        said = openai_error(words, "script_error")
    headers = [JSON_TYPE]
    if isinstance(after, int | float):
        headers.append(("retry-after", str(after)))
    return Reply(status, headers, [(0.0, json.dumps(said).encode())])
