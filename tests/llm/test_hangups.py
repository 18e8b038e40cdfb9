"""A caller that goes, a call that is cancelled, a process that ends: the provider is stopped at
once, and the books are closed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.llm.conftest import http_provider
from tests.llm.desk import Desk
from tests.llm.server import Provider
from tests.llm.wire import PATHS, body_of, post, reset, send


@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize("end", [socket.socket.close, reset])
def test_a_plain_call_whose_caller_goes_stops_the_provider(
    desk: Desk, provider: Provider, dialect: str, end
) -> None:
    provider.script("m", hang=True)
    connection = send(desk.address, PATHS[dialect], body_of(dialect))
    provider.wait(lambda log: log)
    end(connection)
    (call,) = provider.wait(lambda log: log and log[0].over)
    assert call.hung_up
    (books,) = desk.over()
    assert books.estimated
    assert books.output == 0
    assert books.usage["input"] == desk.begun[0]["input"] > 0


@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize("end", [socket.socket.close, reset])
def test_a_stream_whose_caller_goes_before_the_first_byte(
    desk: Desk, provider: Provider, dialect: str, end
) -> None:
    provider.script("m", hang=True)
    connection = send(desk.address, PATHS[dialect], body_of(dialect, stream=True))
    provider.wait(lambda log: log)
    end(connection)
    (call,) = provider.wait(lambda log: log and log[0].over)
    assert call.hung_up
    (books,) = desk.over()
    assert books.estimated
    assert books.output == 0


@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize("end", [socket.socket.close, reset])
def test_a_stream_whose_caller_goes_in_the_middle(
    desk: Desk, provider: Provider, dialect: str, end
) -> None:
    provider.script("m", text="ab", tokens=10_000, delay=0.02)
    connection = send(desk.address, PATHS[dialect], body_of(dialect, stream=True))
    read = b""
    while read.count(b"ab ") < 8:
        read += connection.recv(1 << 16)
    end(connection)
    (call,) = provider.wait(lambda log: log and log[0].over)
    assert call.hung_up
    assert call.chunks < 5_000
    (books,) = desk.over()
    assert books.estimated
    assert 8 <= books.output <= call.chunks


def test_a_caller_that_goes_while_it_waits_for_its_turn_costs_nothing(desks, provider) -> None:
    provider.script("m", hang=True)
    desk = desks({"test": http_provider(provider.url, max_in_flight=1)})
    first = send(desk.address, PATHS["chat"], body_of("chat"))
    provider.wait(lambda log: log)
    second = send(desk.address, PATHS["chat"], body_of("chat"))
    desk.wait(lambda desk: len(desk.begun) == 2)
    second.close()
    desk.wait(lambda desk: desk.settled)
    assert desk.settled[0].usage is None
    first.close()
    desk.over(2)
    assert len(provider.log()) == 1


def test_a_cancelled_call_says_so(desk: Desk, provider: Provider) -> None:
    provider.script("m", hang=True)
    connection = send(desk.address, PATHS["chat"], body_of("chat"))
    provider.wait(lambda log: log)
    desk.cancel(desk.last)
    (call,) = provider.wait(lambda log: log and log[0].over)
    assert call.hung_up
    said = connection.recv(1 << 16)
    connection.close()
    assert said.startswith(b"HTTP/1.1 500")
    assert b"the call was cancelled" in said
    (books,) = desk.over()
    assert books.error == "the call was cancelled"


@pytest.mark.parametrize("dialect", PATHS)
def test_a_stream_that_is_cancelled_ends_with_an_error(
    desk: Desk, provider: Provider, dialect: str
) -> None:
    provider.script("m", text="ab", tokens=10_000, stall_after=3)
    connection = send(desk.address, PATHS[dialect], body_of(dialect, stream=True))
    read = b""
    while read.count(b"ab ") < 3:
        read += connection.recv(1 << 16)
    desk.cancel(desk.last)
    while b"the call was cancelled" not in read:
        more = connection.recv(1 << 16)
        assert more
        read += more
    connection.close()
    (books,) = desk.over()
    assert books.output == 3
    provider.wait(lambda log: log[0].hung_up)


def test_a_caller_that_goes_between_two_tries_costs_nothing(desks, provider: Provider) -> None:
    desk = desks({"test": http_provider(provider.url, retries=2)})
    provider.script("m", status=429, headers={"retry-after": "50"})
    connection = send(desk.address, PATHS["chat"], body_of("chat"))
    provider.wait(lambda log: log and log[0].over)
    connection.close()
    (books,) = desk.over()
    assert books.usage is None


def test_a_cancelled_stream_whose_caller_reads_nothing(desk: Desk, provider: Provider) -> None:
    provider.script("m", text="x" * 10_000, tokens=10_000)
    connection = send(desk.address, PATHS["chat"], body_of("chat", stream=True))
    chunks = -1
    while chunks != (chunks := provider.wait(lambda log: log)[0].chunks):
        time.sleep(0.2)  # until all buffers are full
    desk.cancel(desk.last)
    desk.over()
    while piece := connection.recv(1 << 20):
        assert not piece.endswith(b"0\r\n\r\n")  # it is no whole answer
    connection.close()
    assert desk.logged == []


def test_the_end_of_a_process_ends_its_connections_and_its_listener(
    desk: Desk, provider: Provider
) -> None:
    provider.script("m", hang=True)
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    desk.listen(listener, 7)
    listener.close()
    through_it = send(address, PATHS["chat"], body_of("chat"))
    handed = desk.connect(7)
    beside = send(desk.address, PATHS["chat"], body_of("chat"))
    provider.wait(lambda log: len(log) == 2)
    assert [b["via"] for b in desk.begun] == ["listener", "tcp"]
    desk.end(7)
    for connection in (through_it, handed, beside):
        assert connection.recv(1) == b""
        connection.close()
    provider.wait(lambda log: all(call.hung_up for call in log))
    desk.over(2)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_the_end_of_the_daemon_stops_everything(desk: Desk, provider: Provider) -> None:
    provider.script("m", tokens=10_000, delay=0.02)
    connection = send(desk.address, PATHS["chat"], body_of("chat", stream=True))
    provider.wait(lambda log: log and log[0].chunks)
    desk._channel.shutdown(socket.SHUT_RDWR)
    assert desk.process.wait(60) == 0
    provider.wait(lambda log: log[0].hung_up)
    connection.close()


def test_a_daemon_that_is_killed_leaves_no_gateway(provider: Provider) -> None:
    program = f"""
import time
from tests.llm.conftest import http_provider, model
from tests.llm.desk import Desk
with Desk() as desk:
    desk.begin({{"test": http_provider({provider.url!r})}}, {{"m": model()}})
    print(desk.process.pid, flush=True)
    time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as daemon:
        gateway = int(daemon.stdout.readline())
        watched = os.pidfd_open(gateway)
        daemon.kill()
    try:
        import select

        assert select.select([watched], [], [], 60)[0]
    finally:
        os.close(watched)


def test_a_gateway_that_was_stopped_for_a_while_goes_on(desk: Desk, provider: Provider) -> None:
    provider.script("m", tokens=5)
    os.kill(desk.process.pid, signal.SIGSTOP)
    connection = send(desk.address, PATHS["chat"], body_of("chat"))
    os.kill(desk.process.pid, signal.SIGCONT)
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    connection.close()
    assert post(desk.address, PATHS["chat"], body_of("chat")).status == 200
