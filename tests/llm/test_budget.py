"""The budget holds, whatever callers ask for and however many they are."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.llm.conftest import model
from tests.llm.desk import Desk
from tests.llm.server import Provider
from tests.llm.wire import PATHS, Answer, body_of, post


def at_once(count: int, ask: Callable[[], Answer]) -> list[Answer]:
    """The answers of so many callers that begin together."""
    answers: list[Answer] = []
    barrier = threading.Barrier(count)

    def call() -> None:
        barrier.wait()
        answers.append(ask())

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def refused(answer: Answer, dialect: str) -> bool:
    """Whether the budget did; else it is an answer."""
    if answer.status == 200:
        return False
    error = answer.json()["error"]
    if dialect == "messages":
        assert (answer.status, error["type"]) == (402, "billing_error")
    else:
        assert (answer.status, error["code"]) == (400, "budget_exceeded")
    assert answer.headers["x-should-retry"] == "false"
    assert "budget" in error["message"]
    return True


@pytest.mark.parametrize("dialect", PATHS)
def test_of_50_callers_with_room_for_7_seven_get_through(
    desks, provider: Provider, dialect: str
) -> None:
    asked = body_of(dialect)
    asked["max_output_tokens" if dialect == "responses" else "max_tokens"] = 100
    one = desks()
    post(one.address, PATHS[dialect], asked)
    each = one.begun[0]["input"] + 100
    provider.script("m", text="ab", tokens=100, input=one.begun[0]["input"], first_byte=0.2)
    desk = desks(budget=7 * each)
    answers = at_once(50, lambda: post(desk.address, PATHS[dialect], asked))
    assert sum(not refused(answer, dialect) for answer in answers) == 7
    assert len(desk.over(7)) == 7
    assert desk.most_held <= 7 * each
    assert desk.budget == 0


@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize("obey", [True, False])
def test_20_streams_that_want_64000_end_where_the_budget_does(
    desks, provider: Provider, dialect: str, obey: bool
) -> None:
    """A provider that minds the maximum ends by itself; another one is stopped."""
    provider.script("m", text="ab", tokens=64_000, input=10, obey=obey, delay=0.0005)
    asked = body_of(dialect, stream=True)
    asked["max_output_tokens" if dialect == "responses" else "max_tokens"] = 64_000
    one = desks(budget=0)
    post(one.address, PATHS[dialect], asked)
    size = one.begun[0]["input"]
    desk = desks(budget=1_000 + size)
    answers = at_once(20, lambda: post(desk.address, PATHS[dialect], asked))
    through = [answer for answer in answers if not refused(answer, dialect)]
    assert through
    tokens = sum(answer.body.count(b'"ab') for answer in through)
    assert 1_000 - 20 * size <= tokens <= 1_000 + size + 20
    desk.over(len(through))
    assert -20 <= desk.budget <= 20 * size
    provider.wait(lambda log: all(call.over for call in log))
    assert all(call.chunks < 20_000 for call in provider.log())


@pytest.mark.parametrize("dialect", PATHS)
def test_a_stream_holds_more_as_it_needs_it(desks, provider: Provider, dialect: str) -> None:
    provider.script("m", text="ab", tokens=10_000, burst=True)
    desk = desks(budget=20_000)
    asked = body_of(dialect, stream=True)
    answer = post(desk.address, PATHS[dialect], asked)
    assert answer.body.count(b'"delta": "ab' if dialect == "responses" else b'"ab') == 10_000
    (books,) = desk.over()
    assert (books.output, books.estimated) == (10_000, False)
    assert desk.most_held < 10_000 + 2 * 2_048 + books.usage["input"]


def test_hidden_reasoning_is_held_from_the_beginning(desk: Desk) -> None:
    thinking = {"type": "enabled", "budget_tokens": 2_000}
    post(desk.address, PATHS["messages"], body_of("messages", stream=True, thinking=thinking))
    post(desk.address, PATHS["messages"], body_of("messages", stream=True))
    assert [begun["stream"] for begun in desk.begun] == [False, True]


def test_what_the_provider_may_write_is_the_room(desks, provider: Provider) -> None:
    desk = desks(budget=500)
    post(desk.address, PATHS["chat"], body_of("chat", max_tokens=64_000))
    post(desk.address, PATHS["chat"], body_of("chat"))
    first, second = provider.log()
    assert first.body["max_tokens"] == 500 - desk.begun[0]["input"]
    assert second.body["max_tokens"] < 500
    # A maximum that nobody has asked for, and that may be too large for the model, is left out.
    rich = desks(budget=1_000_000)
    post(rich.address, PATHS["chat"], body_of("chat"))
    assert "max_tokens" not in provider.log()[2].body
    rich.configure(models={"m": model(max_output=9_000)})
    post(rich.address, PATHS["chat"], body_of("chat", max_tokens=20_000))
    assert provider.log()[3].body["max_tokens"] == 20_000  # the daemon lowers it
