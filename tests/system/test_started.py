"""What a program begins with: nothing of the daemon's own, and nothing of whoever started that."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.tools.priority import AHEAD
from tests.hatchery import Hatchery, QuickTree
from tests.tree import AGENTFS, Tree, eventually, until

pytestmark = pytest.mark.mount

SAY = """
import json, os, resource, signal
ignored = [int(s) for s in signal.valid_signals() if signal.getsignal(s) is signal.SIG_IGN]
with open("/proc/self/status") as status:
    lines = dict(line.rstrip("\\n").split(":\\t", 1) for line in status)
print(json.dumps({
    "ignored": lines["SigIgn"],
    "blocked": lines["SigBlk"],
    "limits": {str(n): resource.getrlimit(n) for n in range(16)},
    "nice": os.nice(0),
    "umask": lines["Umask"],
    "descriptors": sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1],
    "environment": sorted(os.environ),
    "oom": open("/proc/self/oom_score_adj").read().strip(),
}))
"""


class NohupTree(Tree):
    """One whose daemon was started as `nohup agentfs mount -f` by a shell with limits of its own,
    in the background of a script: HUP, INT and QUIT are ignored, PIPE too."""

    files = (200, 4000)

    def mount(self) -> None:
        soft, hard = self.files

        def prepare() -> None:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGALRM})
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            os.umask(0o077)

        words = [*AGENTFS, "mount", "-f", str(self.path), "--state", str(self.state)]
        log = self.state.parent / "daemon.log"
        with open(log, "wb") as file:
            program = self.start(
                *words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                preexec_fn=prepare,
                restore_signals=False,
                env=os.environ | {"STRAY": "1"},
            )
        ospid = self.path / "proc/1/ospid"
        eventually(ospid.exists, "it was not mounted")
        self.daemon = program.pid


@pytest.fixture(scope="module")
def nohup(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    tree = NohupTree(tmp_path_factory.mktemp("nohup") / "tree")
    try:
        tree.mount()
        yield tree
    finally:
        tree.clean_up()


@pytest.fixture(scope="module")
def said(nohup: Tree) -> dict[str, object]:
    """What a program finds."""
    pid = nohup.spawn("say", exec=[sys.executable, "-S", "-c", SAY], restart="never")
    assert nohup.read(f"proc/{pid}/wait").strip() == "0", nohup.read("agents/say/log")
    found = json.loads(nohup.read("agents/say/log"))
    assert isinstance(found, dict)
    return found


def test_no_signal_is_ignored_or_blocked(said: dict[str, object]) -> None:
    # Python itself ignores PIPE and XFSZ.
    python = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert int(str(said["ignored"]), 16) & ~python == 0
    assert int(str(said["blocked"]), 16) == 0


def test_the_limits_are_those_that_the_daemon_was_started_with(said: dict[str, object]) -> None:
    limits = said["limits"]
    assert isinstance(limits, dict)
    expected = {str(number): list(resource.getrlimit(number)) for number in range(16)}
    assert limits == expected | {str(resource.RLIMIT_NOFILE): list(NohupTree.files)}


def test_nothing_else_is_handed_down(said: dict[str, object]) -> None:
    assert said["descriptors"] == [0, 1, 2]
    assert said["umask"] == "0022"
    assert said["nice"] == os.nice(0)
    assert said["oom"] == Path("/proc/self/oom_score_adj").read_text().strip()
    environment = said["environment"]
    assert isinstance(environment, list)
    assert "STRAY" not in environment
    assert {"AGENTFS", "AGENT_NAME", "AGENT_PID", "PATH"} <= set(environment)


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "PIPE"])
def test_a_shell_can_trap_what_nohup_ignored(nohup: Tree, name: str) -> None:
    script = f"trap 'echo caught; exit 3' {name}; echo up; while :; do sleep 0.05; done"
    pid = nohup.spawn(f"trap-{name}", exec=script, restart="never")
    until(nohup / f"agents/trap-{name}/log", "up")
    if name == "HUP":
        nohup.write(f"proc/{pid}/ctl", "HUP\n")
    else:
        os.kill(int(nohup.read(f"proc/{pid}/ospid")), getattr(signal, f"SIG{name}"))
    assert nohup.read(f"proc/{pid}/wait").strip() == "3"


def test_hup_through_ctl_ends_who_does_not_catch_it(nohup: Tree) -> None:
    pid = nohup.spawn("plain", exec="exec sleep 1000", restart="never")
    nohup.write(f"proc/{pid}/ctl", "HUP\n")
    assert nohup.read(f"proc/{pid}/wait").strip() == str(128 + signal.SIGHUP)


def longer_than(file: Path, size: int) -> None:
    eventually(lambda: file.stat().st_size > size, f"{file} does not grow")


def test_a_pause_of_the_daemon_kills_no_healthy_agent(tree: Tree) -> None:
    beat = 'while echo 1 > "$AGENTFS/proc/self/heartbeat"; do echo beat; sleep 0.05; done'
    pid = tree.spawn("steady", exec=beat, heartbeat="600ms")
    hung = tree.spawn("hung", exec="sleep 1000", heartbeat="300ms", restart="never")
    until(tree / f"proc/{hung}/state", "zombie")
    assert "it missed its heartbeats" in json.loads(tree.read(f"proc/{hung}/info"))["output"]
    assert tree.daemon is not None
    tree.may_hold = True  # that is what it looks like when it is stopped
    log = tree / "agents/steady/log"
    for _ in range(2):
        os.kill(tree.daemon, signal.SIGSTOP)
        subprocess.run(["sleep", "2"], check=True)  # three intervals in which nothing is taken
        os.kill(tree.daemon, signal.SIGCONT)
        longer_than(log, log.stat().st_size + 100)
    assert "Restarts:\t0\n" in tree.read(f"proc/{pid}/status")
    events = tree.run("events", "--no-follow").stdout
    assert events.count("  heartbeat_missed  ") == 1, "that of the one that hung"


def test_the_parent_hears_of_a_missed_heartbeat(tree: Tree) -> None:
    pid = tree.spawn("hung", exec="sleep 1000", heartbeat="100ms", restart="never")
    with open(tree / "proc/1/signals") as signals:
        line = next(line for line in signals if line.startswith("HUNG "))
    assert line.startswith(f"HUNG {pid} hung it missed its heartbeats: none for ")


# -- where it works ------------------------------------------------------------------------------


def out(tree: Tree, name: str, script: str, **spec: object) -> str:
    """What a shell script says as the program of agent `name`, which must end well."""
    pid = tree.spawn(name, exec=["sh", "-c", script], restart="never", **spec)
    until(tree / f"proc/{pid}/state", "zombie")
    said = tree.read(f"agents/{name}/log")
    assert tree.read(f"proc/{pid}/exit").strip() == "0", said
    return said


def test_the_working_directory_is_the_place_in_the_tree(nohup: Tree) -> None:
    memory = f"{nohup.path}/agents/bob/memory"
    said = out(
        nohup, "bob", "pwd; /bin/pwd; readlink /proc/$$/cwd; readlink $AGENTFS/proc/self/cwd"
    )
    assert said == 4 * f"{memory}\n"
    said = out(
        nohup, "bob", "echo 1 > one; mkdir deep; cd deep; pwd; cd ../../..; pwd; ls bob/memory"
    )
    assert said.endswith(f"{memory}/deep\n{nohup.path}/agents\ndeep\none\n")
    assert (nohup / "agents/bob/memory/one").read_text() == "1\n"
    assert str(nohup.state) not in said


def test_cwd_is_relative_to_the_memory_or_absolute(nohup: Tree) -> None:
    (nohup / "agents/init/memory/deep").mkdir()
    assert out(nohup, "here", "pwd", cwd=".") == f"{nohup.path}/agents/here/memory\n"
    assert out(nohup, "there", "pwd", cwd="/usr") == "/usr\n"
    assert out(nohup, "up", "pwd", cwd="..") == f"{nohup.path}/agents/up\n"
    with pytest.raises(FileNotFoundError):
        nohup.spawn("nowhere", exec="pwd", cwd="deep")
    assert "nowhere cannot enter deep: No such file or directory" in nohup.read("proc/self/error")


def test_git_works_where_a_program_begins(nohup: Tree) -> None:
    script = (
        "git init -q . && echo x > file && git add file && git -c user.name=a -c user.email=a@b"
        " commit -qm first && git status --porcelain && git rev-parse --show-toplevel"
    )
    said = out(nohup, "coder", script, env={"GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"})
    assert said.splitlines()[-1] == f"{nohup.path}/agents/coder/memory"


def test_a_script_of_its_memory_is_executed_from_there(nohup: Tree) -> None:
    nohup.spawn("scripted")
    script = nohup / "agents/scripted/memory/go.sh"
    script.write_text("#!/bin/sh\necho from $0 in $(pwd)\n")
    script.chmod(0o755)
    nohup.write(f"proc/{nohup.read('agents/scripted/pid').strip()}/ctl", "KILL")
    pid = nohup.spawn("scripted", exec=["./go.sh"], restart="never")
    until(nohup / f"proc/{pid}/state", "zombie")
    memory = f"{nohup.path}/agents/scripted/memory"
    assert nohup.read("agents/scripted/log") == f"from ./go.sh in {memory}\n"


def test_fifty_programs_start_at_once_in_the_tree(nohup: Tree) -> None:
    """A child enters the tree while the daemon waits for its exec."""
    wanted = {f"many-{number}" for number in range(50)}
    starters = [
        nohup.start(*AGENTFS[:1], "-c", STARTER, str(nohup.path), ",".join(sorted(part)))
        for part in (set(sorted(wanted)[::2]), set(sorted(wanted)[1::2]))
    ]
    for starter in starters:
        assert starter.wait(60) == 0
    for name in wanted:
        until(nohup / f"agents/{name}/log", f"{nohup.path}/agents/{name}/memory")


STARTER = """
import json, os, sys
tree, names = sys.argv[1:]
for name in names.split(","):
    file = os.open(f"{tree}/proc/1/spawn", os.O_RDWR)
    spec = {"name": name, "exec": "pwd", "restart": "never"}
    os.write(file, json.dumps(spec).encode())
    os.read(file, 100)
    os.close(file)
"""


def test_after_kill_9_survivors_go_on_by_absolute_paths(tree: Tree) -> None:
    """Their working directory is in the tree that is gone: `cd` by its path enters the new one."""
    loop = (
        "echo up; while [ ! -e $AGENTFS/shared/go ]; do sleep 0.05; done 2>/dev/null;"
        " cat note >/dev/null 2>&1 || echo lost;"
        ' cd "$AGENTFS/agents/$AGENT_NAME/memory" && cat note && pwd'
    )
    pid = tree.spawn("bob")
    (tree / "agents/bob/memory/note").write_text("kept\n")
    tree.write(f"proc/{pid}/ctl", "KILL")
    pid = tree.spawn("bob", exec=loop, restart="never")
    until(tree / "agents/bob/log", "up")
    ospid = tree.read(f"proc/{pid}/ospid").strip()
    memory = f"{tree.path}/agents/bob/memory"
    assert os.readlink(f"/proc/{ospid}/cwd") == memory
    tree.crash()
    tree.mount()
    assert tree.read(f"proc/{pid}/ospid").strip() == ospid, "it goes on"
    (tree / "shared/go").touch()
    until(tree / f"proc/{pid}/state", "zombie")
    assert tree.read("agents/bob/log") == f"up\nlost\nkept\n{memory}\n"
    tree.unmount()


def test_umount_ends_programs_that_work_in_the_tree(tree: Tree) -> None:
    pid = tree.spawn("bob", exec="trap '' TERM; cd ..; exec sleep 1000")
    assert tree.read(f"proc/{pid}/ospid").strip()
    tree.write("etc/agentfs.yaml", "processes: {grace_period: 200ms}")
    tree.unmount()
    assert not os.path.ismount(tree.path)
    assert not tree.is_stale()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts programs as other users")
def test_a_program_of_another_user_enters_its_working_directory_again(
    hatchery: Hatchery, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        made = QuickTree(Path(place, "tree"), hatchery=hatchery)
        try:
            made.mount()
            script = 'cd / && cd "$OLDPWD" && pwd && id -un && echo mine > file && cat file'
            said = out(made, "other", script, user="nobody")
            assert said == f"{made.path}/agents/other/memory\nnobody\nmine\n"
        finally:
            made.clean_up()


# -- what cannot be started ----------------------------------------------------------------------


def spawn(tree: Tree, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`agentfs spawn …`, typed in `folder`."""
    return subprocess.run(
        [*AGENTFS, "spawn", *words],
        cwd=folder,
        env=os.environ | {"AGENTFS": str(tree.path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_script_of_the_directory_where_it_was_typed_starts(nohup: Tree, tmp_path: Path) -> None:
    (tmp_path / "d.sh").write_text("echo $0 in $(pwd)\n")
    done = spawn(nohup, tmp_path, "-n", "typed", "--restart", "never", "--", "sh", "d.sh")
    assert done.returncode == 0, done.stderr
    until(nohup / f"proc/{done.stdout.strip()}/state", "zombie")
    memory = f"{nohup.path}/agents/typed/memory"
    assert nohup.read("agents/typed/log") == f"{tmp_path}/d.sh in {memory}\n"


def test_what_is_not_there_is_named(nohup: Tree, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("echo\n")
    (tmp_path / "odd").write_text("#!/no/such/shell\n")
    for name in ("odd", "text"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "text").write_text("echo\n")
    for words, said in {
        ("-n", "x", "--", "/no/such/program"): "there is no /no/such/program",
        ("bob", "--", "true"): "the name of an agent is an option: -n bob",
        ("-n", "x", "--", "nosuchprogram"): "there is no program 'nosuchprogram' in PATH",
        ("-n", "x", "--", "./nowhere"): f"there is no {nohup.path}/agents/x/memory/./nowhere",
        ("-n", "x", "--", "./plain"): f"{tmp_path}/plain is not executable",
        ("-n", "x", "--", "./odd"): f"{tmp_path}/odd asks for /no/such/shell, which there is not",
        ("-n", "x", "--", "./text"): f"{tmp_path}/text is neither a program nor a script",
        ("-n", "x", "--", "/etc"): "/etc is a directory",
        ("-n", "x", "--", "sh", "none.sh"): "there is no none.sh here",
        ("-n", "x", "--cwd", "/none", "--", "true"): "x cannot enter /none",
        ("-n", "x", "plain"): "agentfs spawn -n x -- sh plain",
        ("-n", "x", "odd"): "agentfs spawn -n x -- ./odd",
        ("none.yaml",): "none.yaml: No such file or directory",
    }.items():
        done = spawn(nohup, tmp_path, *words)
        assert done.returncode == 1, words
        assert said in done.stderr, words
        assert "Traceback" not in done.stderr
        assert not (nohup / "agents/x").exists()


def test_an_agent_whose_program_did_not_start_is_as_if_it_had_never_been(nohup: Tree) -> None:
    """Its program was to begin in its memory, so Linux has seen both."""
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            nohup.spawn("never", exec=["/no/such/program"])
        assert "never" not in os.listdir(nohup / "agents")
        assert not (nohup / "agents/never").exists()
        assert not (nohup / "agents/never/memory").exists()
    assert out(nohup, "never", "echo x > file; ls $AGENTFS/agents/never/memory") == "file\n"
    assert (nohup / "agents/never/memory/file").read_text() == "x\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may go before others")
def test_the_daemon_goes_before_programs(tree: Tree) -> None:
    """The session of its own, too, where Linux shares by session."""
    assert tree.daemon is not None
    pid = tree.spawn("bob", exec=["sleep", "1000"])
    program = int(tree.read(f"proc/{pid}/ospid"))
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, program) == mine
    threads = os.listdir(f"/proc/{tree.daemon}/task")
    assert {os.getpriority(os.PRIO_PROCESS, int(tid)) for tid in threads} == {mine - AHEAD}
    if os.path.exists(f"/proc/{program}/autogroup"):
        groups = [Path(f"/proc/{each}/autogroup").read_text() for each in (tree.daemon, program)]
        assert [int(text.split()[-1]) for text in groups if text.strip()] == [-AHEAD, 0]
