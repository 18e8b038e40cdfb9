"""Providers that fail: again and elsewhere before the first byte, in the caller's own words after
it, and never more bytes, seconds or tokens than are allowed."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from tests.llm.conftest import KEY, http_provider, model
from tests.llm.desk import Desk
from tests.llm.server import TEXT, Provider
from tests.llm.wire import PATHS, body_of, post, send

DIALECTS = pytest.mark.parametrize("dialect", PATHS)


def errors_in(dialect: str, events: list) -> list[str]:
    """The words of error events."""
    if dialect == "responses":
        return [
            event["message"] if event["type"] == "error" else event["response"]["error"]["message"]
            for event in events
            if event["type"] in ("error", "response.failed")
        ]
    return [event["error"]["message"] for event in events if "error" in event]


# -- after the first byte ------------------------------------------------------------------------


@DIALECTS
def test_an_error_event_in_a_stream_reaches_caller_and_books(
    desk: Desk, provider: Provider, dialect: str
) -> None:
    provider.script("m", text="ab", tokens=50, error_after=5, error="quota exceeded")
    answer = post(desk.address, PATHS[dialect], body_of(dialect, stream=True))
    assert answer.status == 200
    assert errors_in(dialect, answer.events())[:1] == ["quota exceeded"]
    (books,) = desk.over()
    assert books.error == "quota exceeded"
    assert (books.output, books.estimated) == (5, True)


@DIALECTS
@pytest.mark.parametrize("way", ["reset_after", "close_after"])
def test_a_provider_that_breaks_off_is_an_error_event(
    desk: Desk, provider: Provider, dialect: str, way: str
) -> None:
    provider.script("m", text="ab", tokens=50, **{way: 20})
    answer = post(desk.address, PATHS[dialect], body_of(dialect, stream=True))
    assert answer.body.count(b"ab ") == 20
    words = errors_in(dialect, answer.events())[0]
    assert "test" in words
    (books,) = desk.over()
    assert books.error == words
    assert (books.output, books.estimated) == (20, True)


@DIALECTS
def test_a_stream_that_is_no_stream_is_named(desk: Desk, provider: Provider, dialect: str) -> None:
    for raw in ("data: {nonsense\n\n", "hello\n", "", "data: [DONE]\n\n", "data: 7\n\n"):
        provider.script("m", raw=raw)
        answer = post(desk.address, PATHS[dialect], body_of(dialect, stream=True))
        if raw.startswith("hello"):  # it might be a comment
            words = errors_in(dialect, answer.events())[0]
        else:
            assert answer.status == 502, raw
            words = answer.json()["error"]["message"]
        assert "the provider" in words
    assert all(books.usage is None or books.output == 0 for books in desk.over(5))


@DIALECTS
def test_a_line_of_100_megabytes_is_not_kept(desk: Desk, provider: Provider, dialect: str) -> None:
    provider.script("m", line=100 << 20)
    answer = post(desk.address, PATHS[dialect], body_of(dialect, stream=True))
    assert answer.status == 502
    assert "bytes" in answer.json()["error"]["message"]
    with open(f"/proc/{desk.process.pid}/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak < 80_000
    provider.wait(lambda log: log[0].over)


@DIALECTS
def test_a_stream_that_comes_byte_by_byte_is_the_same(
    desk: Desk, provider: Provider, dialect: str
) -> None:
    provider.script("m", text="é 漢字 ok")
    whole = post(desk.address, PATHS[dialect], body_of(dialect, stream=True)).events()
    provider.script("m", text="é 漢字 ok", bytes_at_once=1)
    drops = post(desk.address, PATHS[dialect], body_of(dialect, stream=True)).events()
    assert len(whole) == len(drops)
    assert [list(event) for event in whole] == [list(event) for event in drops]
    first, second = desk.over(2)
    assert first.usage == second.usage


def test_a_provider_that_stops_in_the_middle_is_given_up(desks, provider: Provider) -> None:
    desk = desks(models={"m": model(timeouts={"idle": 0.3})})
    provider.script("m", text="ab", tokens=50, stall_after=4)
    answer = post(desk.address, PATHS["chat"], body_of("chat", stream=True))
    (words,) = errors_in("chat", answer.events())
    assert "nothing more for 0.3 seconds" in words
    provider.wait(lambda log: log[0].hung_up)
    (books,) = desk.over()
    assert books.output == 4


# -- before the first byte -----------------------------------------------------------------------


def test_an_error_is_passed_on_in_the_providers_words(desk: Desk, provider: Provider) -> None:
    provider.script("m", status=400, error="no such field", headers={"x-why": "because"})
    answer = post(desk.address, PATHS["chat"], body_of("chat"))
    assert answer.status == 400
    assert answer.json()["error"]["message"] == "no such field"
    assert answer.headers["x-why"] == "because"
    (books,) = desk.over()
    assert books.usage is None  # nothing is charged


def test_a_failure_is_tried_again(desks, provider: Provider) -> None:
    desk = desks({"test": http_provider(provider.url, retries=2)})
    for behaviour in ({"status": 500}, {"status": 529}, {"reset_after": 0}, {"close_after": 0}):
        provider.forget()
        provider.script("m", times=2, **behaviour)
        answer = post(desk.address, PATHS["messages"], body_of("messages", stream=True))
        assert answer.status == 200, behaviour
        assert len(provider.log()) == 3
    assert all(books.output == 6 for books in desk.over(4))  # once each


def test_no_more_than_its_retries(desks, provider: Provider) -> None:
    desk = desks({"test": http_provider(provider.url, retries=1)})
    provider.script("m", status=503)
    answer = post(desk.address, PATHS["chat"], body_of("chat"))
    assert answer.status == 503
    assert answer.headers["x-should-retry"] == "false"  # it was tried again already
    assert len(provider.log()) == 2


def test_a_request_that_is_wrong_is_not_tried_again(desks, provider: Provider) -> None:
    desk = desks({"test": http_provider(provider.url, retries=2)})
    provider.script("m", status=422)
    assert post(desk.address, PATHS["chat"], body_of("chat")).status == 422
    assert len(provider.log()) == 1


def test_a_provider_that_wants_an_hour_is_not_waited_for(desks, provider: Provider) -> None:
    desk = desks({"test": http_provider(provider.url, retries=2)})
    for wanted in ("3600", "1382400", "Fri, 31 Dec 2999 23:59:59 GMT"):
        provider.forget()
        provider.script("m", status=429, headers={"retry-after": wanted})
        answer = post(desk.address, PATHS["messages"], body_of("messages"))
        assert answer.status == 429
        assert answer.headers["retry-after"] == wanted
        assert answer.headers["x-should-retry"] == "false"
        assert len(provider.log()) == 1


def test_a_provider_that_wants_a_second_gets_it(desks, provider: Provider) -> None:
    desk = desks({"test": http_provider(provider.url, retries=2)})
    provider.script("m", status=429, headers={"retry-after": "1"}, times=1)
    began = time.monotonic()
    assert post(desk.address, PATHS["chat"], body_of("chat")).status == 200
    assert time.monotonic() - began >= 1
    assert len(provider.log()) == 2


def test_timeouts_before_the_first_byte(desks, provider: Provider) -> None:
    desk = desks(
        {"test": http_provider(provider.url), "far": http_provider("http://127.0.0.1:1")},
        {
            "m": model(timeouts={"first_byte": 0.2}),
            "far": model("far"),
        },
    )
    provider.script("m", hang=True)
    for stream in (False, True):
        answer = post(desk.address, PATHS["chat"], body_of("chat", stream=stream))
        assert answer.status == 504
        assert "no byte of an answer in 0.2 seconds" in answer.json()["error"]["message"]
    counting = post(desk.address, PATHS["messages"] + "/count_tokens", body_of("messages"))
    assert counting.status == 504
    answer = post(desk.address, PATHS["chat"], body_of("chat", "far"))
    assert answer.status == 502
    assert "far cannot be reached" in answer.json()["error"]["message"]
    late, late_too, unreached = desk.over(3)
    assert late.estimated  # the provider had it, and may be at work
    assert late_too.estimated
    assert unreached.usage is None


def test_a_provider_that_takes_no_connection(desks) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        filling = []
        for _ in range(4):  # Linux answers nobody any more
            filling.append(socket.socket())
            filling[-1].setblocking(False)
            filling[-1].connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        desk = desks({"test": http_provider(url)}, {"m": model(timeouts={"connect": 0.3})})
        answer = post(desk.address, PATHS["chat"], body_of("chat"))
        for connection in filling:
            connection.close()
    assert answer.status == 504
    assert "could not be connected to in 0.3 seconds" in answer.json()["error"]["message"]
    (books,) = desk.over()
    assert books.usage is None


# -- fallbacks -----------------------------------------------------------------------------------


@pytest.fixture
def pair(desks, provider: Provider) -> Desk:
    """Two models, of which the second is asked where the first fails."""
    provider.script("second")
    return desks(models={"m": model(fallbacks=["other"]), "other": model(id="second")})


@DIALECTS
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "behaviour",
    [{"status": 400}, {"status": 503}, {"reset_after": 0}, {"error_after": 0}],
    ids=lambda behaviour: next(iter(behaviour)),
)
def test_a_fallback_is_asked_and_shown(
    pair: Desk, provider: Provider, dialect: str, stream: bool, behaviour
) -> None:
    if not stream and "error_after" in behaviour:
        pytest.skip("there are no events")
    provider.script("m", **behaviour)
    answer = post(pair.address, PATHS[dialect], body_of(dialect, stream=stream))
    assert answer.status == 200
    assert answer.headers["x-agentfs-served-by"] == "other"
    assert b"capital" in answer.body
    first, second = pair.over(2)
    assert (first.model, first.usage) == ("m", None)
    assert (second.model, second.output) == ("other", 6)
    assert [b["instead_of"] for b in pair.begun] == [None, "m"]


def test_no_fallback_after_the_first_byte(pair: Desk, provider: Provider) -> None:
    provider.script("m", text="ab", tokens=50, reset_after=1)
    answer = post(pair.address, PATHS["chat"], body_of("chat", stream=True))
    assert answer.headers["x-agentfs-served-by"] == "m"
    assert errors_in("chat", answer.events())
    assert len(pair.over()) == 1


def test_the_failure_of_the_first_is_told_where_all_fail(pair: Desk, provider: Provider) -> None:
    provider.script("m", status=418, error="short and stout")
    provider.script("second", status=500)
    answer = post(pair.address, PATHS["chat"], body_of("chat"))
    assert (answer.status, answer.json()["error"]["message"]) == (418, "short and stout")
    pair.over(2)
    pair.refuse["other"] = {"errno": "EPERM", "rule": "tier", "words": "no", "retry_after": None}
    assert post(pair.address, PATHS["chat"], body_of("chat")).status == 418


def test_a_fallback_is_asked_where_the_first_takes_no_more(desks, provider: Provider) -> None:
    desk = desks(
        {
            "test": http_provider(provider.url, requests_per_minute=1),
            "free": http_provider(provider.url),
        },
        {"m": model(fallbacks=["other"]), "other": model("free")},
    )
    assert post(desk.address, PATHS["chat"], body_of("chat")).headers["x-agentfs-served-by"] == "m"
    waiting = send(desk.address, PATHS["chat"], body_of("chat"))
    desk.wait(lambda desk: len(desk.begun) == 2)
    answer = post(desk.address, PATHS["chat"], body_of("chat"))
    assert (answer.status, answer.headers["x-agentfs-served-by"]) == (200, "other")
    waiting.close()


# -- connections ---------------------------------------------------------------------------------


def test_a_connection_that_died_idle_fails_no_call(desk: Desk, provider: Provider) -> None:
    for _ in range(5):
        provider.script("m", close_idle=0.0)
        assert post(desk.address, PATHS["chat"], body_of("chat")).status == 200
    provider.script("m")
    provider.forget()
    for _ in range(3):
        assert post(desk.address, PATHS["chat"], body_of("chat")).status == 200
        assert post(desk.address, PATHS["chat"], body_of("chat", stream=True)).status == 200
    assert len({call.connection for call in provider.log()}) == 1  # else they are used again


def test_requests_wait_for_their_turn(desks, provider: Provider) -> None:
    desk = desks({"test": http_provider(provider.url, max_in_flight=2)})
    provider.script("m", first_byte=0.05)
    done = []

    def ask() -> None:
        done.append(post(desk.address, PATHS["chat"], body_of("chat")).status)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [200] * 8
    log = provider.log()
    for call in log:
        assert sum(o.started <= call.started < o.ended for o in log) <= 2


def test_more_requests_than_a_minute_takes_are_refused(desks, provider: Provider) -> None:
    desk = desks({"test": http_provider(provider.url, requests_per_minute=2)})
    waiting = [send(desk.address, PATHS["chat"], body_of("chat")) for _ in range(4)]
    desk.wait(lambda desk: len(desk.begun) == 4)
    answer = post(desk.address, PATHS["chat"], body_of("chat"))
    assert answer.status == 429
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert len(provider.log()) == 2
    for connection in waiting:
        connection.close()
    desk.over(5)


# -- keys ----------------------------------------------------------------------------------------


@DIALECTS
def test_no_key_passes(desk: Desk, provider: Provider, dialect: str) -> None:
    mine = {"authorization": "Bearer mine", "x-api-key": "mine", "cookie": "mine=1"}
    mine |= {"anthropic-beta": "x", "anthropic-version": "2023-06-01", "user-agent": "me"}
    provider.script("m", status=401, error="bad key", quote_key=True, headers={"x-k": KEY})
    answer = post(desk.address, PATHS[dialect], body_of(dialect), mine)
    assert answer.status == 401
    assert KEY not in repr(answer.headers) + answer.body.decode()
    (call,) = provider.log()
    assert "mine" not in repr(call.headers)
    name = "x-api-key" if dialect == "messages" else "authorization"
    assert call.headers[name].removeprefix("Bearer ") == KEY
    assert call.headers["anthropic-beta"] == "x"
    assert call.headers["user-agent"] == "me"
    provider.script("m", text=f"the key is {KEY}")
    for stream in (False, True):
        answer = post(desk.address, PATHS[dialect], body_of(dialect, stream=stream), mine)
        assert answer.status == 200
        assert KEY.encode() not in answer.body
    provider.script("m", error_after=1, error=f"the key {KEY} is spent")
    answer = post(desk.address, PATHS[dialect], body_of(dialect, stream=True), mine)
    assert KEY.encode() not in answer.body
    assert all(KEY not in books.error for books in desk.over(4))
    assert all(KEY not in line for line in desk.logged)


def test_bodies_pass_untouched(desk: Desk, provider: Provider) -> None:
    body = body_of("messages") | {"metadata": {"user_id": "é"}, "top_k": 1.0, "unknown": [None]}
    answer = post(desk.address, PATHS["messages"] + "?beta=true", body)
    assert answer.json()["content"][0]["text"] == TEXT
    (call,) = provider.log()
    assert call.body == body
    assert call.path == PATHS["messages"] + "?beta=true"
