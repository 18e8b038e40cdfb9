"""Providers behind TLS, whose certificates are looked at."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.llm.conftest import http_provider, model
from tests.llm.desk import Desk
from tests.llm.server import Provider
from tests.llm.wire import PATHS, body_of, post, send


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A certificate of 127.0.0.1 that signs itself, with its key."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(file), "-out", str(file.with_suffix(".crt"))]
    subprocess.run(command, check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + file.with_suffix(".crt").read_bytes())
    return str(file)


@pytest.fixture(scope="module")
def secure(certificate: str) -> Iterator[Provider]:
    with Provider(certificate=certificate) as provider:
        yield provider


@pytest.fixture
def trusting(secure: Provider, certificate: str, monkeypatch) -> Iterator[Desk]:
    """A gateway that knows the certificate."""
    secure.reset()
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    with Desk() as desk:
        desk.begin({"test": http_provider(secure.url)}, {"m": model()})
        yield desk


def test_calls_go_through_and_connections_are_used_again(trusting: Desk, secure: Provider) -> None:
    for stream in (False, True, False, True):
        answer = post(trusting.address, PATHS["chat"], body_of("chat", stream=stream))
        assert answer.status == 200
    assert len({call.connection for call in secure.log()}) == 1
    assert all(books.output == 6 for books in trusting.over(4))


def test_hang_ups_and_ends(trusting: Desk, secure: Provider) -> None:
    secure.script("m", text="ab", tokens=10_000, delay=0.01)
    connection = send(trusting.address, PATHS["chat"], body_of("chat", stream=True))
    secure.wait(lambda log: log and log[0].chunks > 3)
    connection.close()
    secure.wait(lambda log: log[0].hung_up)
    for behaviour in ({"close_after": 5}, {"reset_after": 5}, {"reset_after": 0}):
        secure.script("m", text="ab", tokens=10, **behaviour)
        answer = post(trusting.address, PATHS["chat"], body_of("chat", stream=True))
        assert b"error" in answer.body
    secure.script("m", close_idle=0.0)
    for _ in range(4):
        assert post(trusting.address, PATHS["chat"], body_of("chat")).status == 200


def test_a_certificate_that_nobody_knows(desks, secure: Provider) -> None:
    secure.reset()
    desk = desks({"test": http_provider(secure.url)})
    answer = post(desk.address, PATHS["chat"], body_of("chat"))
    assert answer.status == 502
    assert "certificate" in answer.json()["error"]["message"]
    assert secure.log() == []
