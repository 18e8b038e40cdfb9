"""/proc: processes as directories, their control files and streams."""

from __future__ import annotations

import json
import os
from pathlib import Path

import trio

from agentfs.model.principal import Kind, Principal
from agentfs.model.process import State
from agentfs.providers.streams import SignalLines
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Created, Modified, Removed
from tests.providers.world import OPERATOR, STRANGER, World, refused

KEYS = [
    *("Name", "State", "Role", "Tier", "Model", "Pid", "PPid", "User", "Groups"),
    *(
        "Node",
        "OSPid",
        "Started",
        "Restarts",
        "Children",
        "Messages",
        "Stalled",
        "Tokens",
        "Confined",
    ),
]


async def test_status_has_its_keys_in_order(world: World) -> None:
    pid = world.pid("alice")
    await world.mail("bob", "alice")
    lines = (await world.text(f"/proc/{pid}/status")).splitlines()
    assert [line.split(":\t")[0] for line in lines] == KEYS
    values = dict(line.split(":\t", 1) for line in lines)
    assert (values["Name"], values["Pid"], values["PPid"]) == ("alice", str(pid), "1")
    assert (values["OSPid"], values["Messages"]) == ("", "1")
    info = json.loads(await world.text(f"/proc/{pid}/info"))
    assert (info["name"], info["messages"], info["limits"]["max_children"]) == ("alice", 1, 10)


async def test_single_values_and_links(world: World) -> None:
    pid = world.pid("alice")
    child = await world.spawn("dora", parent=pid, role="worker")
    for name, text in (
        ("state", "idle\n"),
        ("role", "worker\n"),
        ("name", "dora\n"),
        ("ppid", f"{pid}\n"),
        ("exit", ""),
        ("ospid", ""),
        ("cmdline", ""),
        ("environ", ""),
        ("error", ""),
    ):
        assert await world.text(f"/proc/{child.pid}/{name}") == text, name
    assert world.target(f"/proc/{child.pid}/agent") == "../../agents/dora"
    assert world.target(f"/proc/{child.pid}/parent") == f"../{pid}"
    assert "parent" not in world.list(f"/proc/{child.pid}")  # what follows links would never end
    assert world.target(f"/proc/{child.pid}/cwd") == "../../agents/dora/memory"
    assert world.list(f"/proc/{pid}/children") == [str(child.pid)]
    assert world.target(f"/proc/{pid}/children/{child.pid}") == f"../../{child.pid}"
    with refused("ENOENT"):
        world.find(f"/proc/1/children/{child.pid}")


async def test_process_1_is_the_daemon(world: World) -> None:
    assert await world.text("/proc/1/ospid") == f"{os.getpid()}\n"
    own = Path("/proc/self/cmdline").read_bytes()
    assert await world.read("/proc/1/cmdline") == own
    assert world.target("/proc/1/cwd") == os.getcwd()
    assert "parent" not in world.list("/proc/1")
    with refused("ENOENT"):
        world.find("/proc/1/parent")
    with refused("EACCES"):
        world.open("/proc/1/environ", caller=world.as_agent("alice"))


async def test_self_is_the_callers_own(world: World) -> None:
    assert world.target("/proc/self", world.as_agent("alice")) == str(world.pid("alice"))
    assert world.target("/proc/self", OPERATOR) == "1"
    assert world.target("/agents/self", world.as_agent("alice")) == "alice"
    assert world.target("/agents/self", OPERATOR) == "init"
    for path in ("/proc/self", "/agents/self"):
        with refused("ENOENT"):
            world.target(path, STRANGER)
    assert "self" in world.list("/proc")
    assert "self" in world.list("/agents")


async def test_only_canonical_pids_are_names(world: World) -> None:
    for name in ("0", "01", "+1", "1 ", "x", "²", "9" * 30, "-1"):
        with refused("ENOENT"):
            world.find(f"/proc/{name}")


async def test_spawn_answers_with_the_pid_and_a_refusal_leaves_nothing(world: World) -> None:
    alice = world.as_agent("alice")
    path = f"/proc/{world.pid('alice')}/spawn"
    handle = world.open(path, os.O_RDWR, alice)
    await handle.write(0, b"{name: dora, role: worker}")
    pid = int(await handle.read(26, 100))
    assert await handle.read(30, 100) == b""
    assert await world.text(f"/proc/{pid}/name") == "dora\n"
    before = world.list("/proc"), world.list("/agents")
    for request, code in (
        ("name: [", "EINVAL"),
        ("{name: x, colour: blue}", "EINVAL"),
        ("{name: dora}", "EEXIST"),
        ("{name: x, tier: strategic, role: task}", "EPERM"),
        (b"\xff", "EINVAL"),
    ):
        with refused(code):
            data = request if isinstance(request, bytes) else request.encode()
            await handle.write(0, data)
    with refused("EACCES"):
        await world.write(path, "{name: x}", world.as_agent("bob"))
    assert (world.list("/proc"), world.list("/agents")) == before


async def test_spawn_is_announced(world: World) -> None:
    world.changes.clear()
    child = await world.spawn("dora", parent=world.pid("alice"))
    alice = world.pid("alice")
    created = [change for change in world.changes if isinstance(change, Created)]
    assert [(change.directory, change.name) for change in created if change.name.isdigit()].count(
        (("proc",), str(child.pid))
    ) == 1
    assert ((("proc", alice), "children"), str(child.pid)) in [
        (change.directory, change.name) for change in created
    ]
    modified = {change.key for change in world.changes if isinstance(change, Modified)}
    assert {(("proc", alice), "status"), (("proc", alice), "info")} <= modified
    assert {(("agents", "dora"), "pid"), (("agents", "dora"), "state")} <= modified


async def test_ctl_changes_the_state_and_says_so(world: World) -> None:
    pid = world.pid("alice")
    world.changes.clear()
    before = world.find(f"/proc/{pid}/status").stat().mtime
    await world.write(f"/proc/{pid}/ctl", "running\n", world.as_agent("alice"))
    assert await world.text(f"/proc/{pid}/state") == "running\n"
    assert await world.text("/agents/alice/state") == "running\n"
    modified = {change.key for change in world.changes if isinstance(change, Modified)}
    assert {(("proc", pid), name) for name in ("status", "state", "info")} <= modified
    assert (("agents", "alice"), "state") in modified
    assert world.find(f"/proc/{pid}/status").stat().mtime > before
    with refused("EINVAL"):
        await world.write(f"/proc/{pid}/ctl", "dance\n")
    with refused("EINVAL"):
        await world.write(f"/proc/{pid}/ctl", "\n")


async def test_wait_gives_the_code_and_signals_end_when_it_is_reaped(world: World) -> None:
    alice = world.as_agent("alice")
    child = await world.spawn("dora", parent=world.pid("alice"))
    path = f"/proc/{child.pid}"
    wait, another = world.stream(f"{path}/wait", alice), world.stream(f"{path}/wait")
    signals = world.stream(f"{path}/signals")
    old = world.open(f"{path}/status")
    for stream in (wait, another, signals):
        assert stream.try_read(100) is None
        assert not stream.ready()
    world.changes.clear()
    await world.write(f"{path}/ctl", "done 3 all well\n", world.as_agent("dora"))
    modified = {change.key for change in world.changes if isinstance(change, Modified)}
    assert {(("proc", child.pid), name) for name in ("state", "exit", "status")} <= modified
    assert await world.text(f"{path}/exit") == "3\n"
    assert another.ready()
    assert another.try_read(100) == b"3\n"  # not the parent: it stays
    assert another.try_read(100) == b""
    world.changes.clear()
    assert wait.try_read(1) == b"3"
    assert wait.try_read(1) == b"\n"
    assert wait.try_read(1) == b""
    with refused("ENOENT"):
        world.find(path)
    removed = [change for change in world.changes if isinstance(change, Removed)]
    assert Removed(("proc",), str(child.pid), ("proc", child.pid), True) in removed
    content = b""
    while chunk := signals.try_read(100):
        content += chunk
    assert signals.try_read(100) == b""
    with refused("ESTALE"):
        await old.read(0, 10)
    for stream in (wait, another, signals):
        stream.release()
    assert "CHLD" in await world.text(f"/proc/{world.pid('alice')}/signals")


async def test_signals_are_kept_from_the_start_on_and_bounded(world: World) -> None:
    pid = world.pid("alice")
    await world.write(f"/proc/{pid}/ctl", "HUP\n")
    stream = world.stream(f"/proc/{pid}/signals")
    assert stream.try_read(2) == b"HU"
    assert stream.try_read(100) == b"P\n"
    for _ in range(SignalLines.KEPT + 5):
        await world.write(f"/proc/{pid}/ctl", "HUP\n")
    content = b""
    while chunk := stream.try_read(4096):
        content += chunk
    assert content == b"LOST 5\n" + b"HUP\n" * SignalLines.KEPT
    stream.release()
    with refused("EACCES"):
        world.open(f"/proc/{pid}/signals", caller=world.as_agent("bob"))


async def test_attach_and_heartbeat_check_what_they_get(world: World) -> None:
    pid = world.pid("alice")
    for text in ("x", "-1", "0", "1 2", "9" * 40):
        with refused("EINVAL"):
            await world.write(f"/proc/{pid}/attach", text)
    with refused("EACCES"):
        await world.write(f"/proc/{pid}/heartbeat", "1", world.as_agent("bob"))
    await world.write(f"/proc/{pid}/heartbeat", b"\xff", world.as_agent("alice"))


async def test_a_program_shows_its_own_command_line(world: World) -> None:
    child = await world.spawn("dora", exec=["sleep", "1000"], env={"COLOUR": "blue"})
    path = f"/proc/{child.pid}"
    assert await world.read(f"{path}/cmdline") == b"sleep\x001000\0"
    environ = (await world.read(f"{path}/environ")).split(b"\0")
    assert b"COLOUR=blue" in environ
    assert b"AGENT_NAME=dora" in environ
    ospid = int(await world.text(f"{path}/ospid"))
    assert world.target(f"{path}/cwd") == os.readlink(f"/proc/{ospid}/cwd")
    wait = world.stream(f"{path}/wait")
    ended = trio.Event()
    wait.on_wake(ended.set)
    await world.write(f"{path}/ctl", "KILL\n")
    with trio.fail_after(10):
        while (code := wait.try_read(100)) is None:
            await ended.wait()
    assert code == b"137\n"
    wait.release()
    with refused("ENOENT"):  # its parent has read the code
        world.find(path)


async def test_the_figures_of_the_whole_system(world: World) -> None:
    float(await world.text("/proc/uptime"))
    assert (await world.text("/proc/version")).startswith("agentfs ")
    assert await world.text("/proc/mounts") == "agentfs /run/agents fuse.agentfs rw 0 0\n"
    stat = dict(line.split() for line in (await world.text("/proc/stat")).splitlines())
    assert int(stat["processes"]) == len(world.kernel.table)
    assert sum(int(stat[state.value]) for state in State) == len(world.kernel.table)
    *averages, running, newest = (await world.text("/proc/loadavg")).split()
    assert len(averages) == 3
    assert running == f"1/{len(world.kernel.table)}"  # process 1
    assert int(newest) == world.pid("carol")


async def test_nothing_is_kept_of_a_process_that_was_reaped(world: World) -> None:
    signals = world.directory("/proc").signals  # type: ignore[attr-defined]
    for number in range(20):
        child = await world.spawn(f"w{number}", parent=world.pid("alice"))
        await world.write(f"/proc/{child.pid}/ctl", "HUP\n")
        await world.write(f"/proc/{child.pid}/ctl", "done 0 well\n")
        await world.read(f"/proc/{child.pid}/wait", world.as_agent("alice"))
    assert len(signals) == 1  # alice's own notices


async def test_readme_says_to_a_stranger_that_it_is_nobody(world: World) -> None:
    said = (await world.read("/README", STRANGER)).decode()
    assert "You are nobody in this tree: your program" in said
    assert "You are the agent bob" not in said


async def test_the_entry_of_a_run_says_what_it_is_and_is_nobodys_child(world: World) -> None:
    pid, kernel = world.pid("alice"), world.kernel
    run = kernel.light.begin_run(kernel.table.get(pid), "review")
    place = f"/proc/{run.pid}"
    values = dict(
        line.split(":\t", 1) for line in (await world.text(f"{place}/status")).splitlines()
    )
    assert [*values] == [*KEYS, "Kind", "Agent"]
    assert (values["Kind"], values["Agent"], values["PPid"]) == ("run", "alice", str(pid))
    assert world.target(f"{place}/run") == f"../runs/{run.pid}"
    assert world.target(f"{place}/cwd") == f"../runs/{run.pid}/artifacts"
    listed = world.list(place)
    assert "run" in listed
    assert "agent" not in listed
    with refused("ENOENT"):
        world.find(f"{place}/agent")
    with refused("ENOENT"):
        world.find(f"/proc/{pid}/run")
    assert world.list(f"/proc/{pid}/children") == []
    with refused("ENOENT"):
        world.find(f"/proc/{pid}/children/{run.pid}")
    acting = Principal(Kind.AGENT, run.pid, run.name, run.uid, run.gid, run.behalf)
    step = Caller(acting, run.uid, run.gid, os.getpid())
    with refused("ENOENT"):
        world.target("/agents/self", step)
    with refused("EACCES"):
        world.list("/agents/alice/inbox/new", step)
    assert (await world.text(f"{place}/environ", step)) == ""  # and that is private
    assert (await world.text(f"{place}/environ", world.as_agent("alice"))) == ""
    with refused("EACCES"):
        await world.text(f"{place}/environ", world.as_agent("bob"))
    kernel.light.end_run(run, 0)
    with refused("ENOENT"):
        world.find(place)
