"""The command line on a folder that looks like a tree: every command is only file operations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agentfs.tools import cli
from agentfs.tools.mounting import state_dir
from agentfs.tools.mounts import mounts
from agentfs.tools.tree import Tree, TreeError, shell_root
from agentfs.tools.tree_commands import followed

STATUS = (
    "Name:\t{name}\nState:\t{state}\nRole:\t{role}\nTier:\ttactical\nModel:\tsonnet\nPid:\t{pid}\n"
    "PPid:\t{ppid}\nUser:\troot\nNode:\there\nOSPid:\t{ospid}\nStarted:\tnow\nRestarts:\t0\n"
    "Children:\t0\nMessages:\t3\nTokens:\t0\n"
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three processes, as files: init, its child alice, and her child bob."""
    root = tmp_path / "tree"
    for pid, ppid, name in ((1, 0, "init"), (2, 1, "alice"), (10, 2, "bob")):
        folder = root / "proc" / str(pid)
        (folder / "children").mkdir(parents=True)
        status = STATUS.format(
            name=name, state="idle", role="agent", pid=pid, ppid=ppid, ospid=pid + 100
        )
        (folder / "status").write_text(status)
        (folder / "name").write_text(f"{name}\n")
        (folder / "state").write_text("idle\n")
        (folder / "ctl").write_text("")
        agent = root / "agents" / name
        (agent / "outbox").mkdir(parents=True)
        (agent / "pid").write_text(f"{pid}\n")
        (agent / "log").write_text("one\ntwo\nthree\n")
        (agent / "recv").write_text("From: alice\n\nhello\n")
        if ppid:
            (root / "proc" / str(ppid) / "children" / str(pid)).symlink_to(f"../../{pid}")
    (root / "agents/init/outbox/bob").write_text("")
    (root / "agents/self").symlink_to("init")
    (root / "proc/self").symlink_to("1")
    (root / "agents/carol").mkdir()
    (root / "agents/carol/pid").write_text("")
    (root / "dev").mkdir()
    (root / "dev/events").write_text('{"seq": 1}\n')
    (root / "dev/events.all").write_text('{"seq": 0}\n{"seq": 1}\n')
    monkeypatch.setenv("AGENTFS", str(root))
    return root


def run(*words: str, code: int = 0, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command as a program of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "agentfs.tools.cli", *words],
        capture_output=True,
        text=True,
        input=stdin,
        check=False,
        timeout=30,
    )
    assert done.returncode == code, done.stderr
    return done


def shell(line: str, stdin: str = "") -> str:
    """What the line that `--how` printed does."""
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, input=stdin, check=True, timeout=30
    )
    assert done.stderr == ""
    return done.stdout


def how(*words: str) -> str:
    return run(*words[:1], "--how", *words[1:]).stdout


def test_a_command_that_reads_a_file_imports_nothing_heavy() -> None:
    heavy = ("pydantic", "trio", "pyfuse3", "yaml", "prometheus_client", "inotify_simple")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, agentfs.tools.cli;"
            f"print([name for name in {heavy!r} if name in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_every_command_on_files_says_so_and_how(tree: Path) -> None:
    context = click.Context(cli.commands)
    for name in cli.commands.list_commands(context):
        command = cli.commands.get_command(context, name)
        assert command is not None
        if name in ("mount", "up", "run", "doctor", "state"):
            continue
        inner = list(command.commands) if isinstance(command, click.Group) else []
        for words in [[name, each] for each in inner] or [[name]]:
            if words == ["model", "fetch"]:
                continue
            assert "only reads and writes files of the tree" in run(*words, "--help").stdout
            assert run(*words, "--how").stdout.count("\n") == 1


def test_ps_shows_every_process_and_its_shell_line_shows_the_same(tree: Path) -> None:
    lines = run("ps").stdout.splitlines()
    assert lines[0].split() == [
        "PID", "PPID", "NAME", "ROLE", "TIER", "STATE", "RESTARTS", "MESSAGES", "OSPID", "WHY"
    ]  # fmt: skip
    assert lines[3].split() == ["10", "2", "bob", "agent", "tactical", "idle", "0", "3", "110", "-"]
    assert [line.split() for line in lines[1:]] == [
        line.split() for line in shell(how("ps")).splitlines()
    ]


def test_runs_of_pipelines_are_listed_with_all_and_ended_by_their_names(tree: Path) -> None:
    folder = tree / "proc/11"
    folder.mkdir()
    status = STATUS.format(name="sum@11", state="running", role="worker", pid=11, ppid=2, ospid="")
    (folder / "status").write_text(f"{status}Kind:\trun\nAgent:\talice\n")
    (folder / "ctl").write_text("")
    (tree / "proc/ended").write_text("")
    for words, listed in ((("ps",), False), (("ps", "-a"), True), (("tree",), False)):
        assert ("sum@11" in run(*words).stdout) is listed, words
    assert "sum@11" not in shell(how("ps"))
    assert "sum@11" in shell(how("ps", "-a"))
    run("kill", "sum@11")
    assert (folder / "ctl").read_text() == "TERM\n"


def test_tree_draws_who_started_whom(tree: Path) -> None:
    assert run("tree").stdout == (
        "init (1) agent idle\n└─ alice (2) agent idle\n   └─ bob (10) agent idle\n"
    )
    assert shell(how("tree")) == "init idle\n  alice idle\n    bob idle\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "TERM\n"),
        (("-s", "kill"), "KILL\n"),
        (("-s", "SIGSTOP"), "STOP\n"),
        (("--grace", "2s"), "term 2s\n"),
        (("--branch",), "kill-branch\n"),
    ],
)
def test_kill_writes_one_line_into_ctl(tree: Path, words: tuple[str, ...], line: str) -> None:
    ctl = tree / "proc/10/ctl"
    for who in ("10", "bob"):
        run("kill", who, *words)
        assert ctl.read_text() == line
        ctl.write_text("")
        shell(how("kill", who, *words))
        assert ctl.read_text() == line


def test_send_writes_one_message_with_its_headers(tree: Path) -> None:
    outbox = tree / "agents/self/outbox/bob"
    cases = [
        (("bob", "hi"), "", "To: bob\n\nhi\n"),
        (("bob", "Not: a header"), "", "To: bob\n\nNot: a header\n"),
        (("bob", "it's 100%"), "", "To: bob\n\nit's 100%\n"),
        (("bob",), "from\nstdin", "To: bob\n\nfrom\nstdin"),
        (
            ("bob", "-p", "high", "--type", "ask", "--expires", "10m", "x"),
            "",
            "To: bob\nPriority: high\nType: ask\nExpires: 10m\n\nx\n",
        ),
    ]
    for words, stdin, wanted in cases:
        run("send", *words, stdin=stdin)
        assert outbox.read_text() == wanted
        outbox.write_text("")
        shell(how("send", *words), stdin)
        assert outbox.read_text() == wanted


def test_recv_prints_one_message(tree: Path) -> None:
    assert run("recv").stdout == "From: alice\n\nhello\n"
    assert run("recv", "bob").stdout == shell(how("recv", "bob")) == "From: alice\n\nhello\n"


def test_log_and_events_print_what_the_files_say(tree: Path) -> None:
    assert run("log", "bob").stdout == shell(how("log", "bob")) == "one\ntwo\nthree\n"
    assert run("log", "bob", "-n", "2").stdout == "two\nthree\n"
    assert run("log", "bob", "-n", "0").stdout == ""
    assert shell(how("log", "bob", "-n", "2")) == "two\nthree\n"
    assert run("events").stdout == shell(how("events")) == '{"seq": 1}\n'
    assert run("events", "--all").stdout == shell(how("events", "-a")) == '{"seq": 0}\n{"seq": 1}\n'
    assert run("events", "--no-follow").stdout == '{"seq": 0}\n{"seq": 1}\n'
    assert shell(how("events", "--no-follow")) == '{"seq": 0}\n{"seq": 1}\n'


def test_spawn_writes_a_spec_from_options_or_from_a_file(tree: Path, tmp_path: Path) -> None:
    line = how(
        "spawn", "-n", "eve", "--role", "worker", "--env", "A=b c", "--", "sh", "-c", "--how"
    )
    text = line.split("printf %s ")[1].split(" >&3")[0]
    assert json.loads(shell(f"printf %s {text}")) == {
        "name": "eve", "role": "worker", "env": {"A": "b c"}, "exec": ["sh", "-c", "--how"]
    }  # fmt: skip
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: eve\nexec: sleep 5\nenv: {A: a}\n")
    assert "name: eve\nexec: sleep 5" in how("spawn", str(spec))
    merged = how("spawn", str(spec), "-n", "adam", "--env", "B=b", "--parent", "bob")
    assert '"name": "adam", "exec": "sleep 5", "env": {"A": "a", "B": "b"}' in merged
    assert f"{tree}/proc" in merged.replace("$AGENTFS", str(tree))
    assert "$(cat $AGENTFS/agents/bob/pid)/spawn" in merged


def test_a_wrong_usage_is_exit_code_2(tree: Path) -> None:
    assert "PID|NAME" in run("kill", code=2).stderr
    assert "not one of TERM" in run("kill", "bob", "-s", "USR9", code=2).stderr
    assert "--grace goes with TERM" in run("kill", "1", "-s", "HUP", "--grace", "1s", code=2).stderr
    assert (
        "--branch does not go with" in run("kill", "1", "--branch", "--grace", "1s", code=2).stderr
    )
    assert "a name (-n NAME)" in run("spawn", "--", "true", code=2).stderr
    assert "NAME=VALUE" in run("spawn", "-n", "x", "--env", "A", code=2).stderr
    assert "one line" in run("send", "bob", "x", "--type", "a\nTo: c", code=2).stderr
    assert "'urgent' is not one of" in run("send", "bob", "x", "-p", "urgent", code=2).stderr
    run("nonsense", code=2)


def test_a_failure_says_which_path_and_why(tree: Path) -> None:
    gone = run("send", "nobody", "x", code=1).stderr
    assert gone == f"agentfs: {tree}/agents/self/outbox/nobody: No such file or directory\n"
    idle = run("kill", "carol", code=1).stderr
    assert idle == f"agentfs: {tree}/agents/carol/pid: carol has no process\n"
    bad = tree / "spec"
    bad.write_text("[\n")
    assert "not YAML" in run("spawn", str(bad), "-n", "x", code=1).stderr


def test_a_refusal_is_told_in_the_kernels_words_if_they_are_about_this_call(tree: Path) -> None:
    (tree / "proc/1/error").write_text(
        "/agents/init/outbox/bob: EACCES: a task may only write to its parent (rule: route)\n"
    )
    refused = Tree(str(tree)).failure("agents/self/outbox/bob", PermissionError(13, "no"))
    assert str(refused).endswith("/bob: a task may only write to its parent (rule: route)")
    error = tree / "proc/1/error"
    error.write_text("/agents/init/outbox/bob: EACCES: a rule of before (12 s ago)\n")
    older = Tree(str(tree)).failure("agents/self/outbox/bob", PermissionError(13, "no"))
    assert str(older).endswith("/bob: Permission denied")
    other_call = Tree(str(tree)).failure("agents/self/outbox/eve", PermissionError(13, "no"))
    assert str(other_call).endswith("/eve: Permission denied")
    other_errno = Tree(str(tree)).failure("agents/self/outbox/bob", OSError(28, "full"))
    assert str(other_errno).endswith("/bob: No space left on device")


def test_without_a_tree_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTFS", raising=False)
    monkeypatch.setattr("agentfs.tools.tree.mounts", list)
    with pytest.raises(Exception, match="no tree is mounted here; mount one with `agentfs mount"):
        Tree()
    monkeypatch.setattr("agentfs.tools.tree.mounts", lambda: ["/tmp"])
    assert Tree().root == "/tmp"
    monkeypatch.setattr("agentfs.tools.tree.mounts", lambda: ["/tmp", "/usr"])
    with pytest.raises(Exception, match="several trees are mounted; set AGENTFS to one of /tmp, /"):
        Tree()


def test_of_several_trees_it_takes_the_one_that_it_is_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trees = [tmp_path / "a", tmp_path / "ab", tmp_path / "a/inner"]
    for path in trees:
        (path / "agents").mkdir(parents=True)
    monkeypatch.delenv("AGENTFS", raising=False)
    monkeypatch.setattr("agentfs.tools.tree.mounts", lambda: [str(path) for path in trees])
    for path in trees:
        for here in (path, path / "agents"):
            monkeypatch.chdir(here)
            assert (Tree().root, shell_root()) == (str(path), str(path))
    monkeypatch.setenv("AGENTFS", str(trees[0]))
    assert Tree().root == str(trees[0])
    monkeypatch.delenv("AGENTFS")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="several trees are mounted"):
        Tree()


def test_mounts_are_read_with_their_odd_names(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text(
        "tmpfs /tmp tmpfs rw 0 0\n"
        "agentfs /mnt/a\\040b\\134c\\011 fuse.agentfs rw,nosuid 0 0\n"
        "other /mnt/o fuse.other rw 0 0\n"
        "agentfs /mnt/\xfc fuse.agentfs rw 0 0\n"
    )
    assert mounts(str(table)) == ["/mnt/a b\\c\t", "/mnt/\xfc"]


def test_every_mount_point_has_a_state_directory_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert state_dir("/mnt/a") == "/s/agentfs/mnt-a"
    assert state_dir("/mnt-a") == "/s/agentfs/mnt%2Da"
    assert state_dir("/mnt%2Da") == "/s/agentfs/mnt%252Da"
    assert len(os.path.basename(state_dir("/x" * 300))) == 64
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/u")
    assert state_dir("/m") == "/home/u/.local/state/agentfs/m"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_dir("/m") == "/var/lib/agentfs/m"


def test_a_followed_log_goes_on_after_it_was_truncated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    path.write_text("one\ntwo\n")
    steps = [lambda: path.write_text("one\ntwo\nthree\n"), lambda: path.write_text("new\n")]
    monkeypatch.setattr("agentfs.tools.tree_commands.time.sleep", lambda _: steps.pop(0)())
    with open(path, "rb", buffering=0) as file:
        lines = followed(file.fileno(), 1, follow=True)
        assert [next(lines), next(lines), next(lines)] == [b"two\n", b"three\n", b"new\n"]


def test_a_reader_that_goes_away_is_no_error(tree: Path) -> None:
    (tree / "agents/bob/log").write_text("x" * 1_000_000)
    line = f"{sys.executable} -m agentfs.tools.cli log bob | head -c 1"
    assert shell(line) == "x"


def test_mounting_refuses_what_cannot_be(tmp_path: Path) -> None:
    missing = run("mount", str(tmp_path / "none"), code=1).stderr
    assert missing == (
        f"agentfs: {tmp_path}/none: there is no such directory: mkdir -p {tmp_path}/none\n"
    )
    inside = run("mount", str(tmp_path), "--state", str(tmp_path / "state"), code=1).stderr
    assert "the state directory cannot lie inside the mount" in inside
    assert "no tree of AgentFS is mounted there" in run("umount", str(tmp_path), code=1).stderr


SHORT = """\
kind: Pipeline
metadata: {name: review}
spec:
  code: ./lib
  nodes:
  - {name: a, data: {v: 1}}
  - {name: m, macro: twice, inputs: {what: "{{ a.v }}"}}
  - {name: t, tool: x, retry: gentle}
---
# used above
kind: Policy
metadata: {name: gentle}
spec: {type: retry, config: {attempts: 2}}
---
kind: Macro
metadata: {name: twice}
parameters: [{name: what, type: Any}]
nodes: [{name: "{{ name }}-1", data: "{{ what }}"}]
"""


def test_up_prints_every_fault_of_a_manifest_and_starts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    for text, told in (
        ("kind: Sytem\nmetadata: {name: x}\nspec: {}\n", ["1:7: E101 there is no kind `Sytem`"]),
        (
            "kind: System\nmetadata: {nam: x}\nspec: {processes: {a: {rol: x}}}\n",
            ["2:11: E004 metadata", "2:12: E005 metadata", "3:24: E005 a: unknown key `rol`"],
        ),
        (
            SHORT.replace("attempts", "atempts").replace("what: ", "topic: "),
            ["7:45: E131 macro twice", "13:30: E005 spec.config: unknown key"],
        ),
    ):
        path.write_text(text)
        for words in (["up", str(path), str(tmp_path)], ["up", "--check", str(path)]):
            faults = run(*words, code=1).stderr.splitlines()
            starts = [f"{path}:{each}" for each in told]
            assert [
                fault[: len(each)] for fault, each in zip(faults, starts, strict=True)
            ] == starts
    path.write_text(SHORT)
    assert run("up", "--check", str(path)).stderr == ""
    path.write_text(SHORT.replace("twice, ", "twce, "))
    told = run("up", "--check", str(path), code=1).stderr
    assert told == f"{path}:7:22: E130 there is no macro `twce` (did you mean twice?)\n"
    none = tmp_path / "none.yaml"
    assert (
        run("up", str(none), str(tmp_path), code=1).stderr == f"{none}: No such file or directory\n"
    )


def test_doctor_reports_on_this_machine(tmp_path: Path) -> None:
    report = run("doctor").stdout
    needed = (
        "python",
        "pyfuse3",
        "libfuse",
        "/dev/fuse",
        "fusermount3",
        "identity",
        "memory limit",
    )
    for what in needed:
        assert f" {what} " in report
    for what in ("network", "write", "exec"):
        assert f" confined {what} " in report
    assert "missing" in run("doctor", "--state", str(tmp_path), code=1).stdout
    nowhere = run("doctor", "--state", str(tmp_path / "nowhere"), code=1).stdout
    assert "there is no such directory" in nowhere
    assert "--repair" not in nowhere


def test_a_tree_error_keeps_its_errno(tree: Path) -> None:
    with pytest.raises(TreeError) as caught:
        Tree(str(tree)).read("proc/99/status")
    assert caught.value.errno == 2
