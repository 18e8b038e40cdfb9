"""Who is who: agents under one uid, their descendants, the operator, and everybody else."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.puppet import Puppet
from tests.system.test_events import after
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs another user of the machine")


def run_as(tree: Tree, name: str, script: str, **spec: object) -> str:
    """Let agent `name` run a shell script; what it printed."""
    pid = tree.spawn(name, exec=["sh", "-c", script], restart="never", **spec)
    (tree / f"proc/{pid}/wait").read_text()
    return tree.read(f"agents/{name}/log")


def test_every_program_of_an_agent_sees_its_own_self(tree: Tree) -> None:
    output = run_as(
        tree,
        "alice",
        'readlink "$AGENTFS/proc/self"; readlink "$AGENTFS/agents/self";'
        " sh -c 'readlink \"$AGENTFS/proc/self\"';"
        ' setsid sh -c \'setsid readlink "$AGENTFS/proc/self"\'; echo "$AGENT_PID"',
    )
    pid = output.split()[-1]
    assert output.split() == [pid, "alice", pid, pid, pid]


def test_a_grandchild_in_a_new_session_is_still_the_agent(tree: Tree) -> None:
    output = run_as(
        tree,
        "alice",
        'setsid sh -c \'(cat "$AGENTFS/agents/init/recv" 2>&1 || readlink $AGENTFS/proc/self) &'
        " wait'",
    )
    assert "Permission denied" in output


TWICE_FORKED = """
import os, sys, time
tree = os.environ["AGENTFS"]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.3)  # until both parents are gone
        try:
            who = os.readlink(tree + "/proc/self")
        except OSError as failure:
            who = failure.strerror
        try:
            os.write(os.open(tree + "/proc/1/spawn", os.O_RDWR), b"name: sneaked")
            what = "spawned"
        except OSError as failure:
            what = failure.strerror
        print("I am", who, "and", what, flush=True)
    os._exit(0)
os.wait()
time.sleep(1.0)
"""


def test_a_program_that_forks_twice_does_not_become_the_operator(tree: Tree) -> None:
    pid = tree.spawn(
        "alice", exec=[sys.executable, "-c", TWICE_FORKED], restart="never", role="worker"
    )
    (tree / f"proc/{pid}/wait").read_text()
    output = tree.read("agents/alice/log")
    assert output.startswith((f"I am {pid} and ", "I am No such file")), output
    assert "spawned" not in output
    assert not (tree / "agents/sneaked").exists()


def test_agents_under_one_uid_cannot_open_each_others_private_paths(tree: Tree) -> None:
    tree.spawn("bob")
    tree.write("agents/init/outbox/bob", "a secret\n")
    private = ["inbox/new", "inbox/cur", "recv", "outbox", "send", "memory"]
    attempts = "; ".join(
        f'ls -l "$AGENTFS/agents/bob/{path}/" 2>&1; cat "$AGENTFS/agents/bob/{path}" 2>&1;'
        f' echo x 2>&1 > "$AGENTFS/agents/bob/{path}"'
        for path in private
    )
    attempts += '; cat "$AGENTFS"/agents/bob/inbox/new/*'
    pid = tree.spawn("alice", exec=["sh", "-c", attempts], restart="never")
    (tree / f"proc/{pid}/wait").read_text()
    output = tree.read("agents/alice/log")
    assert "secret" not in output
    assert output.count("Permission denied") >= 2 * len(private)
    for path in ("environ", "signals", "error"):
        other = tree.spawn(f"carol-{path}", restart="never",
                           exec=["cat", str(tree / f"proc/{pid}/{path}")])  # fmt: skip
        assert (tree / f"proc/{other}/wait").read_text() != "0\n"


def test_from_cannot_be_forged(tree: Tree) -> None:
    tree.spawn("bob")
    headers = "To: bob\\nFrom: init\\nSender: init\\nRelation: system\\nMessage-ID: <x>\\n"
    run_as(
        tree,
        "alice",
        f'printf "{headers}\\nhello" > "$AGENTFS/agents/self/send";'
        ' printf "From: init\\n\\nhello again" > "$AGENTFS/agents/self/outbox/bob"',
    )
    for _ in range(2):
        text = tree.read("agents/bob/recv")
        heads = text.split("\n\n")[0].splitlines()
        assert [line for line in heads if line.startswith("From:")] == ["From: alice"]
        assert "Relation: sibling" in heads
        assert not [line for line in heads if line.startswith("Sender:")]


def test_an_agent_cannot_act_through_another_process(tree: Tree) -> None:
    bob = tree.spawn("bob")
    output = run_as(
        tree,
        "alice",
        f'cd "$AGENTFS/proc/{bob}"; echo running > ctl; echo "done 0 x" > ctl; echo x > heartbeat;'
        " echo $$ > attach; echo KILL > ctl; echo 'name: sneaked' > spawn;"
        ' cat "$AGENTFS/proc/self/error"',
        role="worker",
    )
    assert tree.read(f"proc/{bob}/state") == "idle\n"
    assert not (tree / "agents/sneaked").exists()
    assert "may" in output  # the reason, in words


def test_an_operator_is_the_owner_or_root_outside_of_every_agent(tree: Tree) -> None:
    assert os.readlink(tree / "proc/self") == "1"
    assert os.readlink(tree / "agents/self") == "init"


@ROOT_ONLY
def test_another_user_is_no_operator(tree: Tree) -> None:
    _open_to_all(tree.path)
    assert as_nobody(f"cat '{tree.path}/proc/1/state'").stdout == "running\n"
    assert as_nobody(f"readlink '{tree.path}/proc/self'").returncode != 0
    for path in ("proc/1/ctl", "proc/1/spawn", "agents/init/send", "etc/agentfs.yaml"):
        done = as_nobody(f"echo x > '{tree.path}/{path}'")
        assert "Permission denied" in done.stderr, path


def as_nobody(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script as another user of the machine."""
    nobody = pwd.getpwnam("nobody")
    return subprocess.run(
        ["/bin/sh", "-c", script],
        capture_output=True,
        text=True,
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        check=False,
    )


@ROOT_ONLY
def test_an_agent_of_another_user_runs_as_that_user(tree: Tree) -> None:
    _open_to_all(tree.path)
    output = run_as(
        tree,
        "alice",
        'id -un; touch "$AGENTFS/agents/self/memory/note"; ls -l "$AGENTFS/agents/self/memory";'
        ' echo hello > "$AGENTFS/agents/self/outbox/init"; cat /etc/shadow 2>&1',
        user="nobody",
    )
    assert output.splitlines()[0] == "nobody"
    assert "nobody" in output.splitlines()[2]
    assert "Permission denied" in output
    assert tree.read("agents/init/recv").endswith("\n\nhello\n")


def _open_to_all(mountpoint: Path) -> None:
    """pytest's temporary directories are 0700: let another user through to the mount."""
    for folder in mountpoint.parents:
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o055)


def test_a_private_path_stays_private_while_the_daemon_is_busy_launching(tree: Tree) -> None:
    tree.spawn("bob")
    pids = [
        tree.spawn(f"a{number}", restart="never", exec=["readlink", str(tree / "proc/self")])
        for number in range(20)
    ]
    for number, pid in enumerate(pids):
        (tree / f"proc/{pid}/wait").read_text()
        assert tree.read(f"agents/a{number}/log") == f"{pid}\n"


def test_attach_makes_a_program_the_agents(tree: Tree) -> None:
    pid = tree.spawn("alice")
    shell = tree.start(
        "sh", stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PATH": os.environ["PATH"]}
    )
    tree.write(f"proc/{pid}/attach", f"{shell.pid}\n")
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"readlink {tree.path}/proc/self; exit 5\n".encode())
    shell.stdin.flush()
    assert shell.stdout.readline() == f"{pid}\n".encode()
    shell.wait()
    eventually(lambda: tree.read(f"proc/{pid}/state") != "idle\n")


CGROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")

ENTERS = """
import os, sys
theirs = sys.argv[1]
if os.fork() == 0:
    with open(theirs, "w") as group:
        group.write("0")
    print(os.readlink(os.environ["AGENTFS"] + "/proc/self"), flush=True)
    os._exit(0)
os.wait()
"""


@ROOT_ONLY
def test_who_enters_anothers_control_group_is_who_it_was(tree: Tree) -> None:
    bob = tree.spawn("bob", exec=["sleep", "1000"])
    theirs = Path(f"/proc/{tree.read(f'proc/{bob}/ospid').strip()}/cgroup").read_text()
    group = next(line[3:] for line in theirs.splitlines() if line.startswith("0::"))
    places = [Path(f"{top}{group}/cgroup.procs") for top in CGROUPS]
    place = next((place for place in places if place.exists()), None)
    if f"/p{bob}" not in group or place is None:
        pytest.skip("no control groups here: `agentfs doctor` says why")
    pid = tree.spawn("mallory", exec=[sys.executable, "-c", ENTERS, str(place)], restart="never")
    assert (tree / f"proc/{pid}/wait").read_text() == "0\n"
    assert tree.read("agents/mallory/log") == f"{pid}\n"
    told = [event for event in after(tree, 0) if event["type"] == "group_refused"]
    assert [(event["agent"], event["group"]) for event in told] == [("mallory", "bob")]


FORK_AND_ASK = (
    "(lambda r, w: (lambda pid: [pid, (os.close(w), os.read(r, 16).decode())[1],"
    " os.waitpid(pid, 0), os.close(r)][:2] if pid else [os.write(w,"
    " os.readlink(tree + '/proc/self').encode()), os._exit(0)])(os.fork()))(*os.pipe())"
)


@ROOT_ONLY
def test_a_thread_id_that_is_used_again_is_not_who_had_it_before(tree: Tree) -> None:
    """Root says which id comes next; without that Linux gives the ids out in turn."""
    with closing(Puppet(tree, "mallory")) as puppet:
        hits = sum(_asks_with_an_id_of_the_operators(tree, puppet) for _ in range(10))
    assert hits, "the id was never given out again"


def _asks_with_an_id_of_the_operators(tree: Tree, puppet: Puppet) -> bool:
    reader, writer = os.pipe()
    operator = os.fork()
    if operator == 0:
        try:
            os.write(writer, os.readlink(tree / "proc/self").encode())
        finally:
            os._exit(0)
    os.waitpid(operator, 0)
    assert os.read(reader, 16) == b"1"
    os.close(reader)
    os.close(writer)
    last = f"(lambda f: (os.write(f, b'{operator - 1}'), os.close(f)))"
    last += "(os.open('/proc/sys/kernel/ns_last_pid', os.O_WRONLY))"
    pid, who = puppet.do(f"[{last}, {FORK_AND_ASK}][1]")
    assert who == str(puppet.pid)
    return bool(pid == operator)


def _handle_of(path: Path) -> bytes:
    """struct file_handle, of name_to_handle_at(2)."""
    room, mount = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 136), ctypes.c_int()
    if ctypes.CDLL(None, use_errno=True).name_to_handle_at(
        -100, os.fsencode(path), room, ctypes.byref(mount), 0
    ):
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    (size,) = struct.unpack_from("=I", room.raw)
    return room.raw[: 8 + size]


def _open_handle(mount: int, handle: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    found = int(libc.open_by_handle_at(mount, ctypes.create_string_buffer(handle), os.O_RDONLY))
    if found < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    return found


@ROOT_ONLY
def test_a_file_handle_cannot_be_guessed(tree: Tree) -> None:
    """It is an inode number, which follows from the name, and a generation, which is random."""
    mount = os.open(tree.path, os.O_RDONLY)
    generations = set()
    try:
        for path in (tree / "proc/1/status", tree / "agents/init/spec.yaml"):
            with path.open():
                handle = _handle_of(path)
                os.close(_open_handle(mount, handle))
                generations.add(struct.unpack_from("=I", handle, 16)[0])
                guessed = handle[:16] + bytes(4) + handle[20:]
                with pytest.raises(OSError) as refused:
                    _open_handle(mount, guessed)
                assert refused.value.errno == errno.ESTALE
    finally:
        os.close(mount)
    assert len(generations) == 2


def test_the_root_says_to_everybody_who_they_are(tree: Tree) -> None:
    assert "You are the operator" in tree.read("README")
    said = run_as(tree, "alice", 'cat "$AGENTFS/README"; echo "$AGENT_PID"')
    assert f"You are the agent alice, process {said.split()[-1]}" in said
    assert "operator" not in said


@ROOT_ONLY
def test_the_root_says_to_another_user_that_it_is_nobody_and_what_it_was_refused(
    tree: Tree,
) -> None:
    tree.spawn("alice")
    _open_to_all(tree.path)
    readme = f"cat '{tree.path}/README'"
    uid = pwd.getpwnam("nobody").pw_uid
    first = as_nobody(readme).stdout
    assert f"You are nobody in this tree: user {uid}" in first
    assert first.endswith("nothing so far\n")
    assert as_nobody(f"mkdir '{tree.path}/agents/me'").returncode, "Linux refuses this by the mode"
    assert as_nobody(f"cat '{tree.path}/agents/alice/spec.yaml'").returncode, "the tree does"
    then = as_nobody(readme).stdout.splitlines()[-1]
    assert then.startswith("/agents/alice/spec.yaml: EACCES: "), then
    assert "Permission denied" in as_nobody(f"echo x > '{tree.path}/README'").stderr
    assert "spec.yaml" not in tree.read("README"), "what is refused to one is nothing for others"
