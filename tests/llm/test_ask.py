"""Connections that the daemon hands over: the text of an answer alone, and requests whose model is
said beside them."""

from __future__ import annotations

import json
from typing import Any

import h11
import pytest

from tests.llm.conftest import http_provider
from tests.llm.desk import Desk
from tests.llm.server import TEXT, Provider

QUESTION = {"model": "m", "system": "short", "messages": [{"role": "user", "content": "x"}]}


def ask(desk: Desk, path: str, body: Any, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and trailers, body."""
    sock = desk.connect()
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Content-Length: {len(data)}\r\n"
    head += "".join(f"{n.replace('_', '-')}: {v}\r\n" for n, v in headers.items())
    sock.sendall(head.encode() + b"\r\n" + data)
    read = b""
    while piece := sock.recv(1 << 16):
        read += piece
    sock.close()
    wire = h11.Connection(h11.CLIENT)
    wire.send(h11.Request(method="POST", target=path, headers=[("host", "x")]))
    wire.send(h11.EndOfMessage())
    wire.receive_data(read)
    wire.receive_data(b"")
    response = wire.next_event()
    text = b""
    while isinstance(event := wire.next_event(), h11.Data):
        text += event.data
    said = [*response.headers, *event.headers]
    return response.status_code, {n.decode(): v.decode() for n, v in said}, text


@pytest.mark.parametrize("speaks", ["chat", "messages", "responses"])
def test_the_text_as_it_comes(desks, provider: Provider, speaks: str) -> None:
    desk = desks({"test": http_provider(provider.url, speaks=[speaks])})
    provider.script("m", text="Paris, é.", delay=0.01)
    status, said, text = ask(desk, "/agentfs/ask", QUESTION)
    assert (status, text.decode()) == (200, "Paris, é.")
    assert said["content-type"].startswith("text/plain")
    assert said["x-agentfs-finish"] == "stop"
    assert said["x-agentfs-served-by"] == "m"
    (call,) = provider.log()
    assert call.dialect == speaks
    assert "short" in json.dumps(call.body)
    (books,) = desk.over()
    assert (books.pid, books.output) == (7, 2)
    assert desk.begun[0]["via"] == "dev"


@pytest.mark.parametrize("speaks", ["chat", "messages", "responses"])
def test_how_an_answer_ended(desks, provider: Provider, speaks: str) -> None:
    desk = desks({"test": http_provider(provider.url, speaks=[speaks])})
    provider.script("m", text="ab", tokens=50)
    _, said, text = ask(desk, "/agentfs/ask", QUESTION | {"max_output": 20})
    assert (said["x-agentfs-finish"], text.count(b"ab")) == ("length", 20)
    provider.script("m", text="ab", tokens=50, error_after=9, error="spent\nnow")
    status, said, text = ask(desk, "/agentfs/ask", QUESTION)
    assert (status, text.count(b"ab")) == (200, 9)
    assert (said["x-agentfs-errno"], said["x-agentfs-error"]) == ("EREMOTEIO", "spent now")
    for obey in (False, True):
        provider.script("m", text="ab", tokens=5000, obey=obey)
        poor = desks({"test": http_provider(provider.url, speaks=[speaks])}, budget=100)
        _, said, text = ask(poor, "/agentfs/ask", QUESTION)
        assert said["x-agentfs-finish"] == "budget"
        assert text.count(b"ab") <= 101


def test_refusals_are_said_by_their_errno(desk: Desk, provider: Provider) -> None:
    desk.refuse["m"] = {"errno": "EDQUOT", "rule": "b", "words": "used up", "retry_after": None}
    status, _, body = ask(desk, "/agentfs/ask", QUESTION)
    assert status == 400
    assert json.loads(body)["errno"] == "EDQUOT"
    assert json.loads(body)["words"] == "used up"
    desk.refuse.clear()
    provider.script("m", status=500, error="broken")
    status, _, body = ask(desk, "/agentfs/ask", QUESTION)
    assert json.loads(body)["errno"] == "EREMOTEIO"
    assert "broken" in json.loads(body)["words"]
    status, _, body = ask(desk, "/agentfs/ask", {"model": 1})
    assert (status, json.loads(body)["errno"]) == (400, "EINVAL")
    status, _, body = ask(desk, "/agentfs/ask", QUESTION | {"model": "none"})
    assert (status, json.loads(body)["errno"]) == (404, "ENOENT")


def test_closing_cancels(desk: Desk, provider: Provider) -> None:
    provider.script("m", hang=True)
    connection = desk.connect()
    data = json.dumps(QUESTION).encode()
    head = f"POST /agentfs/ask HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    provider.wait(lambda log: log)
    connection.close()
    provider.wait(lambda log: log[0].hung_up)


def test_a_request_of_a_dialect_is_answered_in_the_providers_bytes(
    desk: Desk, provider: Provider
) -> None:
    messages = QUESTION["messages"]
    for body, dialect in (
        ({"messages": messages}, "chat"),
        ({"input": "x"}, "responses"),
        ({"messages": messages, "model": "not this one"}, "chat"),
    ):
        provider.forget()
        status, _, said = ask(desk, "/agentfs/raw", body, x_agentfs_model="m")
        assert status == 200
        assert TEXT in said.decode()
        (call,) = provider.log()
        assert (call.dialect, call.model) == (dialect, "m")
    provider.script("m", text="ab", tokens=50, error_after=9, error="spent")
    streamed = {"messages": messages, "stream": True}
    status, headers, text = ask(desk, "/agentfs/raw", streamed, x_agentfs_model="m")
    assert (status, text.count(b"ab"), b"spent" in text) == (200, 9, True)
    assert (headers["x-agentfs-errno"], headers["x-agentfs-error"]) == ("EREMOTEIO", "spent")
    provider.script("m", status=429, headers={"retry-after": "7"}, error="later")
    status, headers, text = ask(desk, "/agentfs/raw", streamed, x_agentfs_model="m")
    assert (status, headers["x-agentfs-errno"], headers["retry-after"]) == (429, "EAGAIN", "7")
    provider.script("m")
    desk.configure({"test": http_provider(provider.url, speaks=["messages", "embeddings"])})
    for body, dialect in (
        ({"messages": messages, "max_tokens": 9}, "messages"),
        ({"input": "x"}, "embeddings"),
    ):
        provider.forget()
        assert ask(desk, "/agentfs/raw", body, x_agentfs_model="m")[0] == 200
        assert provider.log()[0].dialect == dialect
