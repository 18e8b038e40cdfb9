"""The gateway's life and its channel, with a process that speaks the channel and nothing else."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from agentfs.base.errors import KernelError
from agentfs.machine.proc import read_file
from agentfs.model.process import Process
from agentfs.models import gateway as life
from agentfs.models.callers import Callers
from agentfs.models.events import GatewayEnded, GatewayStarted
from agentfs.models.gateway import Gateway
from agentfs.models.worker import own_user
from agentfs.quota.events import CallEnded
from tests.models.world import Wire, served
from tests.process.world import OPERATOR, System, eventually, gone

MODELS = """\
providers:
  here: {url: http://127.0.0.1:9, speaks: [chat, messages], key: {secret: here}}
models:
  sonnet: {tier: tactical, provider: here, match: ["claude-*"], input: 3, output: 15,
    context: 200000}
  opus: {tier: strategic, provider: here}
"""

KEY = "sk-a-key-that-nobody-may-see"


@pytest.fixture
async def both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[System, Wire]]:
    async with served(tmp_path, monkeypatch) as made:
        await made[0].kernel.catalog.secrets.set(OPERATOR, "here", KEY.encode())
        made[0].kernel.catalog.replace(MODELS)
        yield made


async def started(system: System, wire: Wire, number: int = 1) -> Gateway:
    """Have a gateway, the `number`th, that is ready."""
    gateway = system.kernel.gateway
    if wire.gateways < number:
        gateway.connect(1).close()
    await wire.until(lambda: wire.gateways >= number)
    await system.until(lambda: gateway.state == "running" or system.of(GatewayStarted))
    await eventually(lambda: gateway.state == "running")
    return gateway


async def lead(system: System, **spec: object) -> Process:
    return await system.shell("lead", "sleep 1000", role="lead", tier="tactical", **spec)


def asking(process: Process, **more: object) -> dict[str, object]:
    return {
        "do": "begin", "pid": process.pid, "model": "claude-x", "dialect": "messages",
        "input": 100, "output": 64_000, "stream": True, "via": "tcp", "instead_of": None, **more,
    }  # fmt: skip


# -- its life --------------------------------------------------------------------------------------


async def test_it_sleeps_until_somebody_knocks_and_is_told_everything_first(both):
    system, wire = both
    gateway = system.kernel.gateway
    assert (gateway.state, gateway.ospid, gateway.restarts, wire.gateways) == ("asleep", None, 0, 0)
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    await stream.send_all(b"GET")
    await wire.until(lambda: len(wire.of("serve")) == 2)
    assert [packet["do"] for packet in wire.told[:3]] == ["configure", "serve", "serve"]
    configured = wire.told[0]
    assert configured["tapes"] == "."
    assert configured["providers"]["here"]["key"] == KEY
    assert list(configured["models"]) == ["sonnet", "opus"]
    assert [packet["what"] for packet in wire.of("serve")] == ["tcp", "unix"]
    await stream.aclose()


async def test_each_door_and_each_connection_of_the_kernel_starts_it(both):
    system, wire = both
    with system.kernel.gateway.connect(7) as ours:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        said = await stream.receive_some()
        assert b'"pid": 7' in said or b'"pid":7' in said
        assert b'"via":"dev"' in said
        await stream.aclose()
    await wire.do(exit=0)
    await system.until(lambda: system.of(GatewayEnded))
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(system.kernel.gateway.socket_path)
        await wire.until(lambda: wire.gateways == 2)


async def test_it_is_told_of_every_change_of_models_and_keys_and_of_nothing_else(both):
    system, wire = both
    await started(system, wire)
    system.kernel.acl.replace("rules: []")
    system.kernel.catalog.replace(MODELS.replace("claude-*", "other-*"))
    await wire.until(lambda: len(wire.of("configure")) == 2)
    assert wire.of("configure")[-1]["models"]["sonnet"]["match"] == ["other-*"]
    await system.kernel.catalog.secrets.set(OPERATOR, "here", b"sk-another")
    await wire.until(lambda: len(wire.of("configure")) == 3)
    assert wire.of("configure")[-1]["providers"]["here"]["key"] == "sk-another"
    system.kernel.catalog.secrets.remove(OPERATOR, "here")
    await wire.until(lambda: len(wire.of("configure")) == 4)
    assert wire.of("configure")[-1]["providers"]["here"]["key"] is None


async def test_what_is_longer_than_a_packet_goes_in_a_file(both):
    system, wire = both
    await started(system, wire)
    many = "".join(
        f"  m{n}: {{tier: tactical, provider: here, id: {'x' * 100}}}\n" for n in range(400)
    )
    system.kernel.catalog.replace(MODELS + many)
    await wire.until(lambda: len(wire.of("configure")) == 2)
    told = wire.of("configure")[-1]
    assert set(told) == {"do", "fds", "size"}
    assert (told["fds"], told["size"] > 65_536) == (1, True)


async def test_it_has_nothing_of_the_daemons_and_nobody_may_look_into_it(both):
    system, wire = both
    gateway = await started(system, wire)
    ospid = gateway.ospid
    status = read_file(f"/proc/{ospid}/status").decode()
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert os.stat(f"/proc/{ospid}/mem").st_uid == 0  # not dumpable
    assert facts["NoNewPrivs"] == "1"
    uids = {int(uid) for uid in facts["Uid"].split()}
    if os.geteuid() != 0:
        for name in ("fd", "map_files"):
            with pytest.raises(PermissionError):
                os.listdir(f"/proc/{ospid}/{name}")
    else:
        folder = f"/proc/{ospid}/fd"
        links = {os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}
        files = {link for link in links if link.startswith("/") and link != "/dev/null"}
        assert files == set()  # neither the store nor /dev/fuse
        assert KEY.encode() not in read_file(f"/proc/{ospid}/environ")
    assert KEY.encode() not in read_file(f"/proc/{ospid}/cmdline")
    assert os.getsid(ospid) == os.getsid(0)
    assert os.getpgid(ospid) == ospid
    if os.geteuid() == 0:
        assert uids.isdisjoint({0}) == (gateway_user(system) >= 0)
        assert os.stat(system.state_dir / "tapes").st_uid in uids
    if system.programs.groups.available:
        assert read_file(f"/proc/{ospid}/cgroup").decode().rstrip().endswith("/gateway")


def gateway_user(system: System) -> int:
    return own_user(system.kernel.instance.name)


async def test_it_is_no_program_of_an_agent_and_no_stray_of_one(both):
    system, wire = both
    gateway = await started(system, wire)
    assert gateway.ospid not in [program.ospid for program in system.programs]
    assert not system.kernel.identity.resolve(gateway.ospid, 0, 0).is_agent
    assert not system.kernel.identity.resolve(gateway.ospid, 0, 0).is_operator
    process = await system.shell("short", "exit 0", restart="never")
    await system.until(lambda: (process.pid, 0) in system.ends)
    system.programs.reap_orphans()
    system.maid.scan()
    assert (await wire.ask({"do": "models", "pid": 1}))["models"]
    assert gateway.restarts == 0


async def test_one_that_dies_is_told_of_and_the_next_need_starts_another(both, monkeypatch, caplog):
    system, wire = both
    monkeypatch.setattr(life, "BACKOFF_SECONDS", 0.01)
    gateway = await started(system, wire)
    first = gateway.ospid
    os.kill(first, signal.SIGKILL)
    await system.until(lambda: system.of(GatewayEnded))
    assert system.of(GatewayEnded) == [GatewayEnded(first, "signal 9")]
    assert (gateway.state, gateway.ospid, gateway.trouble) == ("ended", None, "signal 9")
    await gone(first)
    await started(system, wire, 2)
    assert (gateway.restarts, gateway.state, gateway.ospid != first) == (1, "running", True)
    await wire.do(send={"do": "log", "level": "error", "words": f"Bearer {KEY} is refused"})
    await wire.do(print=f"a last word of {KEY}")
    await wire.do(exit=3)
    await system.until(lambda: len(system.of(GatewayEnded)) == 2)
    assert gateway.trouble == "exit code 3: a last word of [key]"
    assert "Bearer [key] is refused" in caplog.text
    assert KEY not in caplog.text


async def test_it_is_not_started_again_and_again_and_health_says_so(both, monkeypatch):
    system, wire = both
    monkeypatch.setattr(life, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(life, "BACKOFF_MOST_SECONDS", 1000.0)
    for number in range(1, 4):
        await started(system, wire, number)
        await wire.do(exit=1)
        await system.until(lambda: len(system.of(GatewayEnded)) == number)  # noqa: B023
    assert "3 times in a row: exit code 1" in system.kernel.gateway.complaint()
    monkeypatch.setattr(life, "BACKOFF_SECONDS", 100.0)
    await started(system, wire, 4)
    await wire.do(exit=1)
    await system.until(lambda: len(system.of(GatewayEnded)) == 4)
    with pytest.raises(KernelError, match="exit code 1") as caught:
        system.kernel.gateway.connect(1)
    assert caught.value.errno == errno.ENODEV
    stream = await trio.open_tcp_stream("127.0.0.1", system.kernel.gateway.port)
    await stream.send_all(b"POST /v1/messages HTTP/1.1\r\n\r\n")
    async with stream:
        answer = b"".join([data async for data in stream])
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 800" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


async def test_only_so_many_connections_wait_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(life, "HANDED_MOST", 3)
    async with served(tmp_path, monkeypatch) as (system, wire):
        gateway = system.kernel.gateway
        waiting = [gateway.connect(1) for _ in range(3)]
        with pytest.raises(KernelError) as caught:
            gateway.connect(1)
        assert caught.value.errno == errno.EAGAIN
        await wire.until(lambda: len(wire.of("connection")) == 3)
        waiting.append(gateway.connect(1))
        for each in waiting:
            each.close()


async def test_where_it_cannot_be_started_connections_are_at_their_end_and_trouble_says_why(
    tmp_path, monkeypatch
):
    async with served(tmp_path, monkeypatch) as (system, _):
        monkeypatch.setattr("agentfs.models.worker.COMMAND", ("/nowhere/python",))
        with system.kernel.gateway.connect(1) as ours:
            await trio.lowlevel.wait_readable(ours)
            assert ours.recv(10) == b""
        assert "cannot be started" in system.kernel.gateway.trouble


@pytest.mark.parametrize("packet", [[], "x", 7])
async def test_one_that_sends_no_packet_is_ended(both, packet):
    system, wire = both
    gateway = await started(system, wire)
    ospid = gateway.ospid
    await wire.do(send=packet)
    await system.until(lambda: system.of(GatewayEnded))
    assert "no packet" in gateway.trouble
    await gone(ospid)


async def test_one_that_is_never_ready_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(life, "READY_SECONDS", 0.05)
    async with served(tmp_path, monkeypatch) as (system, _):
        monkeypatch.setattr("agentfs.models.worker.COMMAND", ("/bin/sh", "-c", "sleep 1000"))
        system.kernel.gateway.connect(1).close()
        await system.until(lambda: system.of(GatewayEnded))
        assert "not ready" in system.kernel.gateway.trouble


async def test_it_ends_with_the_daemon_and_leaves_no_door(tmp_path, monkeypatch):
    async with served(tmp_path, monkeypatch) as (system, wire):
        gateway = await started(system, wire)
        ospid, path = gateway.ospid, gateway.socket_path
    await gone(ospid)
    assert not os.path.exists(path)
    assert system.of(GatewayEnded) == []


async def test_what_it_has_started_is_ended_with_it(both, monkeypatch):
    """A model that runs on this machine is such a process; it may have become an orphan of ours."""
    system, wire = both
    gateway = await started(system, wire)
    await wire.do(fork=True)
    await wire.until(lambda: wire.of("forked"))
    child = wire.of("forked")[0]["child"]
    os.kill(gateway.ospid, signal.SIGKILL)
    await system.until(lambda: system.of(GatewayEnded))
    await gone(child)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)  # and was waited for


# -- what it asks ----------------------------------------------------------------------------------


async def test_a_call_from_its_beginning_to_its_end(both):
    system, wire = both
    gateway = await started(system, wire)
    process = await lead(system, budget={"tactical": 5000})
    begun = await wire.ask(asking(process))
    assert (begun["model"], begun["provider"]) == ("sonnet", "here")
    assert 1 <= begun["output"] <= 2048
    assert begun["room"] == 4900
    call = begun["call"]
    assert gateway.facts()["Calls"] == 1
    assert (await wire.ask({"do": "grow", "call": call, "output": 3000}))["output"] > begun[
        "output"
    ]
    usage = {"input": 90, "output": 30, "cache_read": 5, "cache_write": 0}
    settle = {"do": "settle", "call": call, "usage": usage, "estimated": False, "error": None,
              "provider": "here"}  # fmt: skip
    assert "refused" not in await wire.ask(settle)
    assert process.tokens == 125
    assert gateway.facts()["Calls"] == 0
    assert (await wire.ask(settle))["refused"]["errno"] == "ENOENT"
    dropped = (await wire.ask(asking(process)))["call"]
    assert "refused" not in await wire.ask({"do": "drop", "call": dropped})
    assert process.tokens == 125


async def test_refusals_say_what_to_do_and_the_daemon_goes_on(both):
    system, wire = both
    await started(system, wire)
    process = await lead(system, budget={"tactical": 120}, on_limit="stop")
    over = (await wire.ask(asking(process, model="opus")))["refused"]
    assert (over["errno"], over["rule"], over["stop"]) == ("EPERM", "tier", False)
    assert (await wire.ask(asking(process, model="none")))["refused"]["errno"] == "ENOENT"
    assert (await wire.ask(asking(process, pid=99)))["refused"]["errno"] == "ESRCH"
    for wrong in ({"do": "begin"}, {"do": "nonsense"}, {"do": "grow", "call": "x", "output": []}):
        assert (await wire.ask(wrong))["refused"]["errno"] == "EINVAL"
    full = (await wire.ask(asking(process, input=500)))["refused"]
    assert (full["errno"], full["stop"]) == ("EDQUOT", True)
    assert full["words"]


async def test_models_are_those_that_the_process_may_call_now(both):
    system, wire = both
    await started(system, wire)
    process = await lead(system)
    answer = await wire.ask({"do": "models", "pid": process.pid})
    (model,) = answer["models"]
    assert (model["name"], model["speaks"], model["context"]) == (
        "sonnet", ["chat", "messages"], 200_000,
    )  # fmt: skip
    both_models = (await wire.ask({"do": "models", "pid": 1}))["models"]
    assert [each["name"] for each in both_models] == ["sonnet", "opus"]
    system.kernel.catalog.secrets.remove(OPERATOR, "here")
    assert (await wire.ask({"do": "models", "pid": 1}))["models"] == []


async def test_the_end_of_a_program_settles_its_calls_and_the_gateway_is_told(both):
    system, wire = both
    await started(system, wire)
    process = await lead(system, budget={"tactical": 5000}, restart="never")
    call = (await wire.ask(asking(process)))["call"]
    await wire.do(send={"do": "progress", "call": call, "output": 40, "first_byte": True})
    await wire.ask({"do": "models", "pid": 1})  # it was dealt with
    system.processes.signal(OPERATOR, process.pid, "KILL")
    await wire.until(lambda: wire.of("end"))
    assert wire.of("end")[0]["pid"] == process.pid
    assert process.tokens == 140
    assert system.kernel.gateway.facts()["Calls"] == 0


async def test_a_cancelled_call_is_told_and_settled_by_the_gateway(both):
    system, wire = both
    await started(system, wire)
    process = await lead(system)
    call = (await wire.ask(asking(process)))["call"]
    system.kernel.calls.end(OPERATOR, process.pid, call)
    await wire.until(lambda: wire.of("cancel"))
    assert wire.of("cancel")[0]["call"] == call


async def test_a_kill_9_of_the_gateway_settles_what_it_had_at_its_last_progress(both):
    system, wire = both
    gateway = await started(system, wire)
    process = await lead(system, budget={"tactical": 5000})
    calls = [(await wire.ask(asking(process, input=10)))["call"] for _ in range(3)]
    await wire.do(send={"do": "progress", "call": calls[0], "output": 70, "first_byte": True})
    await wire.do(send={"do": "progress", "call": calls[0], "output": 75, "first_byte": True})
    await wire.ask({"do": "models", "pid": 1})
    os.kill(gateway.ospid, signal.SIGKILL)
    await system.until(lambda: system.of(GatewayEnded))
    assert process.tokens == 3 * 10 + 75
    ended = [event for event in system.of(CallEnded) if event.agent == "lead"]
    assert [event.call for event in ended] == calls
    assert {event.error for event in ended} == {"the gateway has ended"}


async def test_without_room_on_the_disk_what_it_had_is_settled_when_the_next_one_starts(
    both, monkeypatch
):
    system, wire = both
    monkeypatch.setattr(life, "BACKOFF_SECONDS", 0.01)
    gateway = await started(system, wire)
    process = await lead(system, budget={"tactical": 5000})
    await wire.ask(asking(process))
    relayed = system.kernel.calls.relayed

    def full() -> int:
        raise KernelError(errno.ENOSPC, "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(relayed, "charge_lost", full)
        os.kill(gateway.ospid, signal.SIGKILL)
        await system.until(lambda: system.of(GatewayEnded))
        assert gateway.facts()["Calls"] == 1
    await started(system, wire, 2)
    assert (gateway.facts()["Calls"], process.tokens) == (0, 100)


async def test_without_descriptors_it_waits_for_some(tmp_path, monkeypatch):
    async with served(tmp_path, monkeypatch) as (system, wire):
        with monkeypatch.context() as patch:
            patch.setattr(life, "BACKOFF_SECONDS", 0.01)
            patch.setattr(life, "SOON_SECONDS", 0.01)
            patch.setattr(
                "agentfs.models.worker.socket.socketpair", lambda *kinds: _raise(errno.EMFILE)
            )
            patch.setattr("agentfs.models.gateway.select.epoll", lambda: _raise(errno.EMFILE))
            with socket.create_connection(("127.0.0.1", system.kernel.gateway.port)):
                await eventually(lambda: "cannot be started" in system.kernel.gateway.trouble)
        await started(system, wire)
        assert system.kernel.gateway.state == "running"


async def test_of_a_linux_without_pidfds_of_peers_the_number_is_taken(both):
    system, _ = both
    process = await lead(system)
    callers = Callers(system.table, system.kernel.identity, system.programs)
    told = await callers.who({"unix": {"pid": process.ospid, "uid": os.geteuid()}})
    assert told is process
    with pytest.raises(KernelError) as caught:  # nobody has that number: a stranger
        await callers.who({"unix": {"pid": 2**22, "uid": os.geteuid()}})
    assert caught.value.errno == errno.EACCES


async def test_a_socket_of_nobody_that_can_be_seen_is_refused(both):
    """Its control group says whose it is only where nobody else may enter that."""
    system, _ = both
    callers = Callers(system.table, system.kernel.identity, system.programs)
    with socket.socket() as made:
        inode = os.fstat(made.fileno()).st_ino
    tcp = {"cgroup": 1, "uid": os.geteuid(), "inode": inode}
    with pytest.raises(KernelError, match="gone"):
        await callers.who({"tcp": tcp})
    if not system.programs.groups.available:
        return
    process = await lead(system)
    group = os.stat(system.programs.groups.path(process.pid)).st_ino
    with pytest.raises(KernelError, match="gone"):
        await callers.who({"tcp": tcp | {"cgroup": group}})
    assert await callers.who({"tcp": tcp | {"cgroup": group, "uid": 12345}}) is process


def _raise(number: int) -> None:
    raise OSError(number, os.strerror(number))


async def test_a_flood_of_requests_does_not_keep_the_loop(both):
    system, wire = both
    await started(system, wire)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await wire.do(flood=2000)
        await wire.until(lambda: len([told for told in wire.told if "n" in told]) >= 2000)
        nursery.cancel_scope.cancel()
    assert turns >= 2000 // 32


async def test_a_group_that_an_earlier_daemon_has_left_is_removed_at_the_end(tmp_path, monkeypatch):
    async with served(tmp_path, monkeypatch) as (system, _):
        groups = system.programs.groups
        if not groups.available:
            pytest.skip("no control groups can be made here")
        base = os.path.dirname(groups.path(1))
        os.mkdir(f"{base}/gateway")
    system.programs.close()
    await eventually(lambda: not os.path.exists(base))
