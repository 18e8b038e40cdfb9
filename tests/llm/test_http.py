"""The gateway as an HTTP server: what it answers where, and callers that do not behave."""

from __future__ import annotations

import http.client
import json
import os
import resource
import socket
import time

from tests.llm.conftest import KEY, http_provider, model
from tests.llm.desk import Desk
from tests.llm.server import TEXT, Provider
from tests.llm.wire import PATHS, Answer, asked, body_of, post, send


def talk(address: tuple[str, int], data: bytes) -> bytes:
    """Everything that comes back for these bytes, until the end."""
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(data)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    read = b""
    while piece := connection.recv(1 << 16):
        read += piece
    return read


def get(address: tuple[str, int], path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=sent)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def test_paths(desk: Desk, provider: Provider) -> None:
    address = desk.address
    assert get(address, "/", "HEAD").status == 200
    assert get(address, "/").status == 200
    for path in ("/v1/responses", "/v1/realtime"):
        answer = get(address, path, Upgrade="websocket", Connection="Upgrade")
        assert answer.status == 426
    for method, path in (
        ("GET", "/v1/responses"),
        ("GET", "/v1/files"),
        ("DELETE", "/v1/responses/r"),
        ("POST", "/v1/batches"),
        ("POST", "/v1/completions"),
        ("POST", "/agentfs/ask"),
        ("POST", "/agentfs/raw"),
        ("GET", "/v1/modelsx"),
        ("OPTIONS", "/v1/messages"),
    ):
        answer = get(address, path, method)
        assert answer.status == 404, path
        assert answer.json()["error"]["message"]
    assert provider.log() == []
    assert desk.begun == []


def test_models_in_both_forms(desk: Desk) -> None:
    assert get(desk.address, "/v1/models").json()["data"][0]["id"] == "m"
    told = get(desk.address, "/v1/models", anthropic_version="2023-06-01").json()
    assert (told["data"][0]["type"], told["has_more"]) == ("model", False)
    assert get(desk.address, "/v1/models/m").json()["id"] == "m"
    assert get(desk.address, "/v1/models/x").status == 404


def test_refusals_reach_the_caller_in_its_dialect(desk: Desk) -> None:
    for errno, rule, statuses in (
        ("EDQUOT", "budget", (400, 402)),
        ("EMSGSIZE", "context", (400, 400)),
        ("EACCES", "capability", (403, 403)),
        ("EPERM", "tier", (403, 403)),
        ("EAGAIN", "rate", (429, 429)),
    ):
        words = f"no: {errno}"
        desk.refuse["m"] = {"errno": errno, "rule": rule, "words": words, "retry_after": 12}
        for dialect in PATHS:
            for stream in (False, True):
                answer = post(desk.address, PATHS[dialect], body_of(dialect, stream=stream))
                assert answer.status == statuses[dialect == "messages"]
                assert words in answer.json()["error"]["message"]
                assert (answer.headers.get("retry-after") == "12") == (errno == "EAGAIN")
    assert post(desk.address, PATHS["chat"], asked("nobody")).status == 404


def test_strangers_are_told_so(desk: Desk, provider: Provider) -> None:
    desk.strangers = True
    for dialect, path in PATHS.items():
        answer = post(desk.address, path, body_of(dialect))
        assert answer.status == 403
        assert "stranger" in answer.json()["error"]["message"]
    assert desk.begun == []
    assert desk.who[0]["tcp"]["uid"] == os.getuid()


def test_bodies_that_are_no_requests(desk: Desk) -> None:
    for body in (
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model": "m"',
        b'{"model": 7}',
        b'{"model": "m", "model": "n"}',
        b'{"model": "m", "max_tokens": -1}',
        b'{"model": "m", "max_tokens": "many"}',
        b'{"model": "m", "stream": "yes"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"model": "\xff"}',
        b'{"model": "m", "background": true}',
    ):
        for path in PATHS.values():
            answer = post(desk.address, path, body)
            assert answer.status == 400, body[:40]
            assert answer.json()["error"]["message"]
    assert desk.begun == []
    assert desk.logged == []


def test_bytes_that_are_no_http(desk: Desk) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    for data, status in (
        (b"hello\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (head + b"X: " + b"x" * (1 << 17) + b"\r\n\r\n", b"431"),
        (head + b"Content-Length: 99999999999\r\n\r\n", b"413"),
        (head + b"Content-Length: -1\r\n\r\n", b"400"),
        (head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
    ):
        assert talk(desk.address, data).split(b" ")[1] == status, data[:60]
    big = b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + b" " * (1 << 20) + b"\r\n") * 33
    assert talk(desk.address, head + big + b"0\r\n\r\n").split(b" ")[1] == b"413"
    assert post(desk.address, PATHS["chat"], body_of("chat")).status == 200


def test_requests_on_one_connection(desk: Desk) -> None:
    connection = http.client.HTTPConnection(*desk.address, timeout=60)
    for stream in (False, True, False, True):
        connection.request("POST", PATHS["chat"], json.dumps(body_of("chat", stream=stream)))
        assert TEXT.split()[0].encode() in connection.getresponse().read()
    connection.close()
    assert len(desk.who) == 1


def test_requests_that_are_sent_ahead(desk: Desk) -> None:
    body = json.dumps(body_of("chat")).encode()
    head = f"POST {PATHS['chat']} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    one = head.encode() + b"\r\n" + body
    last = head.encode() + b"Connection: close\r\n\r\n" + body
    assert talk(desk.address, one * 4 + last).count(b"HTTP/1.1 200") == 5
    # More than is read ahead: the connection takes what it needs, and no more.
    large = json.dumps(body_of("chat", note="x" * 100_000)).encode()
    head = f"POST {PATHS['chat']} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(large)}\r\n\r\n"
    with socket.create_connection(desk.address, timeout=60) as connection:
        connection.sendall((head.encode() + large) * 8)
        read = b""
        while read.count(b"HTTP/1.1 200") < 8 or not read.endswith(b"}"):
            read += connection.recv(1 << 16)


def test_bodies_in_chunks_and_after_100_continue(desk: Desk) -> None:
    body = json.dumps(body_of("chat")).encode()
    head = f"POST {PATHS['chat']} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
    data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    assert talk(desk.address, data).startswith(b"HTTP/1.1 200")
    with socket.create_connection(desk.address, timeout=60) as connection:
        expect = b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body)
        connection.sendall(head + expect)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert read_all(connection).startswith(b"HTTP/1.1 200")


def test_an_old_client_gets_streams_to_the_end(desk: Desk) -> None:
    body = json.dumps(body_of("chat", stream=True)).encode()
    head = f"POST {PATHS['chat']} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    read = talk(desk.address, head + body)
    assert read.endswith(b"data: [DONE]\n\n")
    assert b"chunked" not in read


def test_a_caller_that_reads_nothing_holds_nobody_up(desk: Desk, provider: Provider) -> None:
    provider.script("m", text="x" * 1000, tokens=100_000)
    silent = send(desk.address, PATHS["chat"], body_of("chat", stream=True))
    provider.wait(lambda log: log and log[0].chunks > 100)
    provider.script("m")
    for _ in range(5):
        assert post(desk.address, PATHS["chat"], body_of("chat", stream=True)).status == 200
    silent.close()
    provider.wait(lambda log: log[0].hung_up)
    with open(f"/proc/{desk.process.pid}/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak < 80_000


def test_more_connections_than_a_process_may_have(desk: Desk) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1024)), hard))
    held = [desk.connect(pid=9) for _ in range(257)]
    for connection in held:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    said = [connection.recv(1 << 16).split(b" ")[1] for connection in held]
    for connection in held:
        connection.close()
    assert sorted(said) == [b"200"] * 256 + [b"429"]
    assert post(desk.address, PATHS["chat"], body_of("chat")).status == 200


def test_a_large_body_holds_nobody_up(desk: Desk, provider: Provider) -> None:
    provider.script("m", text="ab", tokens=200, delay=0.005)
    text = "word " * 15_000
    stream = send(desk.address, PATHS["chat"], body_of("chat", stream=True))
    stream.recv(1)
    for _ in range(20):
        body = asked(messages=[{"role": "user", "content": text}], max_tokens=3)
        assert post(desk.address, PATHS["chat"], body).status == 200
    assert desk.begun[1]["input"] >= 15_000
    stream.close()


def test_bodies_that_would_take_seconds_or_all_memory(desk: Desk, provider: Provider) -> None:
    numbers = b'{"model": "m", "messages": [' + b"0," * 3_000_000 + b"0]}"
    answer = post(desk.address, PATHS["chat"], numbers)
    assert answer.status == 400
    assert "commas" in answer.json()["error"]["message"]
    image = "data:image/png;base64," + "A" * 12_000_000
    picture = [{"type": "image_url", "image_url": {"url": image}}]
    messages = [{"role": "user", "content": picture}]
    assert post(desk.address, PATHS["chat"], asked(messages=messages)).status == 200
    assert desk.begun[-1]["input"] < 5_000  # bytes of images are no text
    provider.script("m", hang=True)
    held = [send(desk.address, PATHS["chat"], asked(messages=messages)) for _ in range(5)]
    provider.wait(lambda log: len(log) == 6)
    answer = post(desk.address, PATHS["chat"], asked(messages=messages))
    assert answer.status == 429
    assert post(desk.address, PATHS["chat"], body_of("chat", "none")).status == 404
    for connection in held:
        connection.close()
    desk.over(6)
    provider.script("m")
    assert post(desk.address, PATHS["chat"], asked(messages=messages)).status == 200


def test_the_unix_socket(desk: Desk, tmp_path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "gateway"))
    listener.listen()
    desk.serve(listener, "unix")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "gateway"))
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200")
    listener.close()
    assert desk.who[0]["unix"]["pid"] == os.getpid()


def test_nobody_else_reads_its_memory_and_environment(desk: Desk) -> None:
    with open(f"/proc/{desk.process.pid}/environ", "rb") as file:
        assert KEY.encode() not in file.read()
    # Not dumpable: its files in /proc belong to root, so that others of its user are refused.
    assert os.stat(f"/proc/{desk.process.pid}/environ").st_uid == 0
    with open(f"/proc/{desk.process.pid}/limits") as file:
        assert "Max core file size        0" in file.read()


def test_a_catalogue_that_changes_under_calls(desk: Desk, provider: Provider) -> None:
    provider.script("m", text="ab", tokens=40, delay=0.02)
    stream = send(desk.address, PATHS["chat"], body_of("chat", stream=True))
    provider.wait(lambda log: log and log[0].chunks)
    padding = {f"model-{i}": model() for i in range(1_000)}  # more than a packet takes
    desk.configure({"new": http_provider(provider.url)}, {"n": model("new"), **padding})
    deadline = time.monotonic() + 60
    while post(desk.address, PATHS["chat"], body_of("chat", "n")).status != 200:
        assert time.monotonic() < deadline
    read = b""
    while b"[DONE]" not in read:
        read += stream.recv(1 << 16)
    stream.close()
    assert read.count(b'"ab') == 40
