"""What Linux says of the other end of a connection: the trials that the design stands on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.gateway.peers import peer_of
from agentfs.machine.proc import PIDFD_GET_INFO, PIDFD_INFO_EXIT

LINGER_NONE = struct.pack("ii", 1, 0)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@contextlib.contextmanager
def connected(
    listener: socket.socket, family: int = socket.AF_INET, host: str = "127.0.0.1"
) -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.socket(family) as client:
        client.connect((host, listener.getsockname()[1]))
        ours, _ = listener.accept()
        with ours:
            yield client, ours


def test_a_connection_is_told_by_the_inode_and_the_user_of_its_socket(listener):
    with connected(listener) as (client, ours):
        said = peer_of(ours)
        assert said.packet["tcp"]["inode"] == os.fstat(client.fileno()).st_ino
        assert said.packet["tcp"]["uid"] == os.geteuid()
        assert said.pidfd == -1


def test_a_client_that_speaks_ipv6_to_the_mapped_address_is_told_too(listener):
    with connected(listener, socket.AF_INET6, "::ffff:127.0.0.1") as (client, ours):
        assert peer_of(ours).packet["tcp"]["inode"] == os.fstat(client.fileno()).st_ino


def test_a_client_that_has_sent_its_end_is_told_and_one_that_has_closed_is_not(listener):
    with connected(listener) as (client, ours):
        client.shutdown(socket.SHUT_WR)
        assert peer_of(ours).packet["tcp"]["inode"] == os.fstat(client.fileno()).st_ino
    with connected(listener) as (client, ours):
        client.send(b"POST")
        client.close()
        assert peer_of(ours) is None


def test_what_a_client_has_sent_before_it_reset_is_never_told_as_that_of_the_next_at_its_port(
    listener,
):
    # From an address of its own: at 127.0.0.1 the port may be a closed connection's of another test
    # as well, and could not be taken then.
    client = socket.create_connection(listener.getsockname(), source_address=("127.0.77.1", 0))
    client.send(b"evil")
    place = client.getsockname()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    client.close()
    with socket.socket() as victim:
        victim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        victim.bind(place)
        victim.connect(listener.getsockname())
        dead, _ = listener.accept()
        alive, _ = listener.accept()
        with dead, alive:
            assert peer_of(dead) is None
            assert dead.recv(100) == b"evil"  # Linux gives it to whoever asks
            assert peer_of(alive).packet["tcp"]["inode"] == os.fstat(victim.fileno()).st_ino


@pytest.mark.parametrize("failure", [OSError("no such sockets"), None])
def test_where_linux_has_no_sock_diag_its_list_of_connections_says_the_same(
    listener, monkeypatch, failure
):
    """Of a client that speaks IPv6 too, and of a closed connection nothing."""
    monkeypatch.setattr("agentfs.gateway.peers.SOCK_DIAG_BY_FAMILY", 99)
    if failure is not None:
        monkeypatch.setattr("agentfs.gateway.peers.NETLINK_SOCK_DIAG", 31)
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::ffff:127.0.0.1")):
        with connected(listener, family, host) as (client, ours):
            inode = os.fstat(client.fileno()).st_ino
            tcp = {"cgroup": None, "uid": os.geteuid(), "inode": inode}
            assert peer_of(ours).packet == {"tcp": tcp}
            client.close()
            assert peer_of(ours) is None


def test_a_unix_socket_tells_of_the_process_that_connected_even_if_that_is_gone(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(tmp_path / "gateway")
        listener.bind(path)
        listener.listen()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                socket.socket(socket.AF_UNIX).connect(path)
            os._exit(3)
        os.waitpid(child, 0)
        ours, _ = listener.accept()
    with ours:
        said = peer_of(ours)
    assert said.packet == {"unix": {"pid": child, "uid": os.geteuid()}}
    if said.pidfd < 0:
        pytest.skip("this Linux gives no pidfd of a peer that is gone")
    try:
        assert not os.get_inheritable(said.pidfd)
        assert "Pid:\t-1" in Path(f"/proc/self/fdinfo/{said.pidfd}").read_text()
        answer = bytearray(64)
        struct.pack_into("=Q", answer, 0, PIDFD_INFO_EXIT | 4)
        fcntl.ioctl(said.pidfd, PIDFD_GET_INFO, answer)
        mask, group = struct.unpack_from("=QQ", answer)
        assert mask & PIDFD_INFO_EXIT
        assert group  # its control group at its end
    finally:
        os.close(said.pidfd)
