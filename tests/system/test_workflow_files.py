"""Pipelines and their runs by hand: with a shell, editors, jq, find, grep, getfattr, inotifywait,
and the commands of `agentfs`, on one mounted tree."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.providers.test_documents import HELLO, TWELVE
from tests.providers.test_runs import HOLD
from tests.system.test_inotify import Watcher
from tests.tree import AGENTFS, PATIENCE, Tree, until

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def tree(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    """One for all, with the pipelines hello and hold."""
    made = QuickTree(tmp_path_factory.mktemp("workflows") / "tree", hatchery=hatchery)
    try:
        made.mount()
        for name, text in (("hello", HELLO), ("hold", HOLD)):
            (made / f"etc/pipelines/{name}.yaml").write_text(text)
        yield made
    finally:
        made.clean_up()


def bash(tree: Tree, script: str, check: bool = True) -> str:
    """What a script says on both of its outputs. `ask FILE REQUEST` writes and reads one file."""
    ask = 'ask() { exec 3<>"$1"; printf "$2" >&3 && cat <&3; exec 3>&-; }\n'
    done = subprocess.run(
        ["bash", "-c", f"cd {tree.path}\n{ask}{script}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"AGENTFS": str(tree.path)},
        text=True,
        timeout=PATIENCE,
    )
    assert not check or done.returncode == 0, done.stdout
    return done.stdout


def poll_one(descriptor: int) -> bool:
    """Wait until something can be read, or the end."""
    return bool(select.select([descriptor], [], [], PATIENCE)[0])


def next_line(program: subprocess.Popen[bytes]) -> bytes:
    """The next line that a program says; it is ended if none comes."""
    assert program.stdout is not None
    patience = threading.Timer(PATIENCE, program.kill)
    patience.start()
    try:
        return program.stdout.readline()
    finally:
        patience.cancel()


def held(tree: Tree, request: str = '{"n": 3}') -> str:
    """The id of a run that waits for the signal `go`."""
    run = tree.ask("etc/pipelines/hold/run", request).strip()
    until(tree / f"proc/runs/{run}/state", "suspended")
    return run


def test_written_and_run_by_a_shell(tree: Tree) -> None:
    (tree / "etc/pipelines/mine.yaml").write_text(HELLO)
    assert bash(tree, "cat etc/pipelines/mine/version") == "1\n"
    assert (
        bash(
            tree,
            "sed -i 's/hello /good day /' etc/pipelines/mine.yaml; cat etc/pipelines/mine/version",
        )
        == "2\n"
    )
    said = bash(
        tree,
        """
        id=$(ask etc/pipelines/mine/run '{"name": "ann"}')
        cat proc/runs/$id/wait | jq -r .output.text
        jq -c . < etc/pipelines/mine/plan | jq -r '.waves | length'
        ls etc/pipelines/mine/runs | grep -c .
        readlink -e etc/pipelines/mine/runs/$id | grep -o 'proc/runs/[0-9]*$' | cut -d/ -f1-2
        cat etc/pipelines/mine/runs/$id/state
    """,
    )
    assert said == "good day ann\n2\n1\nproc/runs\ncompleted\n"
    bash(tree, "rm etc/pipelines/mine.yaml")
    assert not (tree / "etc/pipelines/mine").exists()


def test_twelve_faults_are_told_at_once(tree: Tree, tmp_path: Path) -> None:
    file = tmp_path / "twelve.yaml"
    file.write_text(TWELVE)
    said = bash(tree, f"cp {file} etc/pipelines/; cat proc/self/error; ls etc/pipelines")
    assert "Invalid argument" in said
    located = [line for line in said.splitlines() if line.startswith("twelve.yaml:")]
    assert len(located) >= 12
    assert said.splitlines()[-1] != "twelve.yaml"
    assert not (tree / "etc/pipelines/twelve.yaml").exists()
    done = tree.run("pipeline", "check", str(file), check=False)
    assert done.returncode == 1
    assert len([line for line in done.stdout.splitlines() if ": error " in line]) >= 12
    done = tree.run("pipeline", "put", str(file), check=False)
    assert done.returncode == 1
    assert "twelve.yaml:" in done.stderr


def test_what_others_cannot_do(tree: Tree) -> None:
    script = (
        'cd "$AGENTFS/etc/pipelines"; echo x 2>&1 > hello.yaml || echo refused;'
        " rm hello.yaml 2>&1 || echo refused; sed -i s/a/b/ hello.yaml 2>&1 || echo refused;"
        ' echo x 2>&1 > "$AGENTFS/etc/policies/x.yaml" || echo refused;'
        " sed s/hello/mine/ hello.yaml > ann.yaml && cat ann/version"
    )
    tree.spawn("ann", exec=["sh", "-c", script], restart="never")
    log = tree / "agents/ann/log"
    until(tree / "agents/ann/exit", "0")
    assert log.read_text().count("refused\n") == 4
    assert log.read_text().endswith("1\n")


def test_a_run_as_it_happens(tree: Tree) -> None:
    run = held(tree)
    folder = tree / f"proc/runs/{run}"
    watched = ("state", "status", "nodes/hold/state")
    by_state = tree / "proc/runs/by-state/completed"
    watcher = Watcher(tree, *(folder / path for path in watched), by_state)
    events = os.open(folder / "events", os.O_RDONLY)
    wait = os.open(folder / "wait", os.O_RDONLY)
    poll = select.poll()
    poll.register(events, select.POLLIN)
    poll.register(wait, select.POLLIN)
    assert {fd for fd, _ in poll.poll(PATIENCE * 1000)} == {events}
    seen = os.read(events, 1 << 20)
    assert poll.poll(0) == []
    reader = os.open(folder / "events", os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 1 << 20) == seen
    with pytest.raises(BlockingIOError):
        os.read(reader, 100)
    (folder / "signals/go").write_text('{"yes": 1}\n')
    assert poll_one(wait)
    assert json.loads(os.read(wait, 1 << 16))["state"] == "completed"
    while poll_one(events) and (piece := os.read(events, 1 << 16)):
        seen += piece
    numbers = [json.loads(line)["seq"] for line in seen.splitlines()]
    assert numbers == [*range(1, len(numbers) + 1)]
    assert bash(tree, f"tail -n 1 proc/runs/{run}/events | jq -r .status") == "completed\n"
    told = watcher.until("CREATE", f"proc/runs/by-state/completed/{run}")
    for path in watched:
        assert ("MODIFY", f"proc/runs/{run}/{path}") in told
    for descriptor in (events, wait, reader):
        os.close(descriptor)


def test_tail_follows_a_run(tree: Tree) -> None:
    run = held(tree, '{"n": 200}')
    name = f"proc/runs/{run}/events"
    assert (tree / name).stat().st_size > 10_000
    size = int(bash(tree, f"timeout 20 dd if={name} bs=64K count=1 status=none | wc -c"))
    assert size > 10_000
    follow = tree.start("tail", "-f", str(tree / name), stdout=subprocess.PIPE)
    (tree / f"proc/runs/{run}/signals/go").write_text("yes")
    seen = [json.loads(next_line(follow))]
    while seen[-1]["type"] != "PipelineCompleted":
        seen.append(json.loads(next_line(follow)))
    assert len(seen) >= 10
    assert [each["seq"] for each in seen] == [*range(seen[0]["seq"], seen[-1]["seq"] + 1)]
    whole = bash(tree, f"cat {name}")
    last = tree.start("tail", "-n", "3", "-f", str(tree / name), stdout=subprocess.PIPE)
    assert [next_line(last).decode() for _ in range(3)] == whole.splitlines(keepends=True)[-3:]
    assert bash(tree, f"tail -c +101 {name} | head -c 50; head -c 0 {name}") == whole[100:150]
    assert len(whole) == (tree / name).stat().st_size


PROGRAMS = """\
kind: Pipeline
metadata: {name: programs}
spec:
  nodes:
    - name: make
      program:
        - sh
        - -c
        - |
          echo began >&2; echo art > "$STEP/artifacts/a.txt"
          until [ -e "$AGENTFS/shared/go" ]; do sleep 0.1; done
          echo goes on >&2; echo '{"n": 3}'
    - {name: fail, program: [sh, -c, "cat >/dev/null; echo oh no >&2; exit 3"]}
"""


def test_programs_leave_logs_and_files(tree: Tree) -> None:
    (tree / "etc/pipelines/programs.yaml").write_text(PROGRAMS)
    run = tree.ask("etc/pipelines/programs/run", "{}").strip()
    folder = tree / f"proc/runs/{run}"
    until(folder / "nodes/make/log", "began")
    follow = tree.start("tail", "-f", str(folder / "nodes/make/log"), stdout=subprocess.PIPE)
    assert next_line(follow) == b"began\n"
    assert (folder / "artifacts/a.txt").read_text() == "art\n"
    refused = 'echo x > "$AGENTFS/proc/runs/$0/artifacts/b" || cat "$AGENTFS/proc/self/error"'
    pid = tree.spawn("cleo", exec=["sh", "-c", refused, run], restart="never")
    until(tree / f"proc/{pid}/exit", "0")
    assert "EACCES" in (tree / "agents/cleo/log").read_text()
    (tree / "shared/go").touch()
    assert next_line(follow) == b"goes on\n"
    done = tree.run("runs", "wait", run, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "oh no" in done.stderr
    assert "exit code 3" in (folder / "nodes/fail/error").read_text()
    assert json.loads((folder / "nodes/make/output").read_text()) == {"n": 3}
    assert tree.run("runs", "logs", run).stdout.splitlines() == [
        "make | began",
        "make | goes on",
        "fail | oh no",
    ]
    assert tree.run("runs", "logs", run, "fail").stdout == "oh no\n"
    again = tree.run("runs", "retry", run).stdout.strip()
    tree.run("runs", "wait", again, check=False)
    assert tree.read(f"proc/runs/{again}/nodes/make/attempt") == "1\n"
    assert tree.read(f"proc/runs/{again}/nodes/make/log") == ""
    assert f"Retry-Of:\t{run}\n" in tree.read(f"proc/runs/{again}/status")


def test_a_run_outlives_its_daemon_and_its_document(trees: Callable[..., Tree]) -> None:
    """Its key still means it, and its own version ends it."""
    tree = trees()
    tree.mount()
    document = tree / "etc/pipelines/hold.yaml"
    document.write_text(HOLD)
    request = 'Key: order-7\n\n{"n": 1}'
    run = held(tree, request)
    tree.crash()
    tree.mount()
    assert tree.ask("etc/pipelines/hold/run", request).strip() == run
    with pytest.raises(FileExistsError):
        tree.ask("etc/pipelines/hold/run", 'Key: order-7\n\n{"n": 2}')
    assert os.listdir(tree / "etc/pipelines/hold/runs") == [run]
    document.write_text(HELLO)
    assert tree.read("etc/pipelines/hold/version") == "2\n"
    document.unlink()
    folder = tree / f"proc/runs/{run}"
    (folder / "signals/go").write_text("yes")
    ended = json.loads((folder / "wait").read_text())
    assert (ended["state"], ended["output"]) == ("completed", "yes")
    assert "name: hold" in (folder / "manifest.yaml").read_text()
    assert "version 1" in tree.run("runs", run).stdout


def test_looked_through_by_every_tool(tree: Tree) -> None:
    run = held(tree, 'Ref: order/7\n\n{"n": 200}')
    said = bash(
        tree,
        f"""
        cd proc/runs
        find {run} -name state | wc -l
        grep -rl 39601 {run}/nodes/each/items | wc -l
        ls {run}/nodes/each/items | wc -l
        ls by-ref/order/7 by-pipeline/hold by-state/suspended | grep -cx {run}
        getfattr --only-values -n user.agentfs.status {run}; echo
        getfattr --only-values -n user.agentfs.tags {run} | jq -r .ref_id
        getfattr -d {run}/nodes/each | grep entity_type
        find -L by-ref -name state -path '*{run}*' | wc -l
        tar cf - {run} 2>/dev/null | tar tf - | wc -l
        cat {run}/nodes/each/items/*/square/output | jq -s 'length'
    """,
    ).splitlines()
    assert said[:7] == [
        "204", "1", "200", "3", "suspended", "7", 'user.agentfs.entity_type="node"',
    ]  # fmt: skip
    assert int(said[7]) == 204
    assert int(said[8]) > 1000
    assert said[9] == "200"
    assert tree.holds() == []


def test_commands(tree: Tree, tmp_path: Path) -> None:
    done = tree.run("pipeline", "run", "hello", "name=ann", "--wait", "--key", "once")
    assert json.loads(done.stdout) == {"text": "hello ann"}
    assert "completed greet" in done.stderr
    run = tree.run("pipeline", "run", "hello", "name=ann", "--key", "once").stdout.strip()
    assert tree.run("runs", "wait", run).stdout == '{"text": "hello ann"}\n'
    assert f"run {run} of hello version 1: completed" in tree.run("runs", run).stdout
    shown = json.loads(tree.run("runs", "show", run, "--json").stdout)
    assert [node["state"] for node in shown["nodes"]] == ["completed", "completed"]
    rows = tree.run("runs", "--pipeline", "hello", "--state", "completed").stdout.splitlines()
    assert rows[0].split()[:3] == ["ID", "PIPELINE", "STATE"]
    assert [run, "hello", "completed"] in [row.split()[:3] for row in rows]
    assert "hello" in tree.run("pipeline", "ls").stdout
    assert tree.run("pipeline", "plan", "hello").stdout.splitlines()[0] == "wave 1"
    last = tree.run("runs", "events", run).stdout.splitlines()[-1]
    assert json.loads(last)["type"] == "PipelineCompleted"
    again = tree.run("runs", "retry", run, "--from", "greet", "--wait")
    assert json.loads(again.stdout) == {"text": "hello ann"}
    file = tmp_path / "filed.yaml"
    file.write_text(HELLO)
    done = tree.run("pipeline", "run", str(file), "-i", '{"name": "bob"}', "-w")
    assert json.loads(done.stdout) == {"text": "hello bob"}


def test_commands_that_control(tree: Tree) -> None:
    run = tree.run("pipeline", "run", "hold", "n=1").stdout.strip()
    until(tree / f"proc/runs/{run}/state", "suspended")
    tree.run("runs", "pause", run)
    tree.run("runs", "resume", run)
    tree.run("runs", "signal", run, "other", "text")
    tree.run("runs", "cancel", run, "not", "needed")
    done = tree.run("runs", "wait", run, check=False)
    assert done.returncode == 130
    assert "not needed" in (tree / f"proc/runs/{run}/reason").read_text()
    for words, code in (
        (("runs", "cancel", run), 1),
        (("runs", "retry", "99999"), 1),
        (("runs", "show", "x"), 2),
        (("runs", "--state", "failled"), 1),
        (("pipeline", "run", "nothing"), 1),
        (("pipeline", "run", "hello"), 1),
        (("pipeline", "run", "hello", "name"), 2),
        (("pipeline", "run", "hello", "name=a", "-i", "{}"), 2),
        (("pipeline", "check", "/nothing.yaml"), 1),
    ):
        done = tree.run(*words, check=False)
        assert done.returncode == code, (words, done.stderr)
        assert done.stderr.strip(), words


def test_ctrl_c_asks_before_it_cancels(tree: Tree) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        environment = os.environ | {"AGENTFS": str(tree.path), "TERM": "xterm"}
        words = [*AGENTFS, "pipeline", "run", "hold", "n=1", "--wait"]
        os.execvpe(words[0], words, environment)
    screen = b""

    def shown(words: bytes) -> None:
        nonlocal screen
        while words not in screen:
            assert select.select([terminal], [], [], PATIENCE)[0], screen
            screen += os.read(terminal, 65536)

    try:
        shown(b"hold")
        shown(b"at work")
        run = _newest(tree)
        until(tree / f"proc/runs/{run}/state", "suspended")
        os.write(terminal, b"\x03")
        shown(b"Cancel run")
        os.write(terminal, b"n\r")
        shown(f"agentfs runs cancel {run}".encode())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    finally:
        os.close(terminal)
    assert tree.read(f"proc/runs/{run}/state") == "suspended\n"


def _newest(tree: Tree) -> str:
    return str(json.loads(tree.ask("proc/runs/query", "pipeline=hold limit=1"))["id"])
