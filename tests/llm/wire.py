"""Bytes to and from the gateway, for what no client library does."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from typing import Any

__all__ = ["Answer", "asked", "post", "reset", "send"]


class Answer:
    """An HTTP answer that was read to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The data of a stream, [DONE] left out."""
        found = []
        for event in self.body.replace(b"\r\n", b"\n").split(b"\n\n"):
            for line in event.split(b"\n"):
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    found.append(json.loads(line[6:]))
        return found


def asked(model: str = "m", **more: Any) -> dict[str, Any]:
    """A request of each dialect that has messages."""
    return {"model": model, "messages": [{"role": "user", "content": "x"}]} | more


PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}


def body_of(dialect: str, model: str = "m", **more: Any) -> dict[str, Any]:
    if dialect == "responses":
        return {"model": model, "input": "x"} | more
    return asked(model, **({"max_tokens": 10_000} if dialect == "messages" else {}), **more)


def post(
    address: tuple[str, int], path: str, body: Any, headers: dict[str, str] | None = None
) -> Answer:
    """One request on a connection of its own, with its answer."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = {"content-type": "application/json"}
        connection.request("POST", path, data, kind | (headers or {}))
        return Answer(connection.getresponse())
    finally:
        connection.close()


def send(address: tuple[str, int], path: str, body: Any) -> socket.socket:
    """A request whose answer is not read; the connection."""
    connection = socket.create_connection(address, timeout=60)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def reset(connection: socket.socket) -> None:
    """Close it with a reset instead of an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
