"""Nodes that talk, through a real mount: written by a shell user, over kill -9 of the daemon."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.tree import Tree, eventually, until

ANSWERS = """
answers:
  - when: what is in it
    times: 1
    call: {read_path: {path: /etc/models.yaml}}
  - say: meow
"""

MODELS = {
    "providers": {"script": {"scripted": "hello.yaml", "speaks": ["chat"]}},
    "models": {"test": {"tier": "operational", "provider": "script", "max_output": 100}},
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    tree = Tree(tmp_path_factory.mktemp("talking") / "tree")
    try:
        (tree.state / "tapes").mkdir(parents=True)
        (tree.state / "tapes/hello.yaml").write_text(ANSWERS)
        tree.mount()
        tree.write("etc/models.yaml", json.dumps(MODELS))
        yield tree
    finally:
        tree.clean_up()


def pipeline(tree: Tree, name: str, nodes: str, **spec: Any) -> None:
    """Write the pipeline NAME with these nodes, in the short form, one a line."""
    lines = "".join(f"    - {{{line.strip()}}}\n" for line in nodes.strip().splitlines())
    more = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in spec.items())
    text = f"kind: Pipeline\nmetadata: {{name: {name}}}\nspec:\n{more}  nodes:\n{lines}"
    (tree / f"etc/pipelines/{name}.yaml").write_text(text)


def start(tree: Tree, name: str, given: Any = None) -> Path:
    """Start a run; its directory."""
    number = tree.ask(f"etc/pipelines/{name}/run", json.dumps(given or {})).strip()
    return tree / f"proc/runs/{number}"


def ended(run: Path) -> str:
    """How a run ended, once it has."""
    states = ("completed", "failed", "cancelled", "timed_out")
    eventually(lambda: (run / "state").read_text().strip() in states)
    return (run / "state").read_text().strip()


def output(run: Path, name: str) -> Any:
    return json.loads((run / f"nodes/{name}/output").read_text())


def test_a_conversation_of_all_kinds_goes_on_over_kill_9(tree: Tree) -> None:
    pipeline(
        tree,
        "talk",
        """
        name: ask, llm: "Say something about {{ input.what }}", dependencies: []
        name: paid, wait: paid, timeout: 1h, dependencies: [ask]
        name: ship, approval: "Ship {{ paid.n }}?", dependencies: [paid]
        name: tell, message: init, subject: "done {{ paid.n }}", body: "{{ ask }}", wait_for: [ship]
        """,
    )
    run = start(tree, "talk", {"what": "cats"})
    until(run / "nodes/paid/state", "waiting")
    assert output(run, "ask") == "meow"
    assert (run / "nodes/ask/log").read_text() == "meow"
    assert os.listdir(tree / "dev/waits") == ["paid"]
    tree.crash()
    tree.mount()
    tree.write("dev/waits/paid", '{"n": 7}')
    until(run / "nodes/ship/state", "waiting")
    tree.crash()
    tree.mount()
    assert os.listdir(tree / "dev/waits") == []
    [request] = os.listdir(tree / "dev/approvals")
    assert tree.read(f"dev/approvals/{request}/body") == "Ship 7?\n"
    tree.write(f"dev/approvals/{request}/decision", "approve")
    assert ended(run) == "completed"
    letters = [file.read_text() for file in (tree / "agents/init/inbox/new").iterdir()]
    [letter] = [each for each in letters if "Subject: done 7" in each]
    assert f"\nRun: {run.name}\nNode: tell\n" in letter
    assert letter.endswith("\n\nmeow\n")
    attempts = {each: (run / f"nodes/{each}/attempt").read_text() for each in ("ask", "ship")}
    assert set(attempts.values()) == {"1\n"}, "nothing was done twice"


def test_a_write_where_nobody_waits_says_so(tree: Tree) -> None:
    done = subprocess.run(
        ["sh", "-c", "echo x > nobody"], cwd=tree / "dev/waits", capture_output=True, text=True
    )
    assert "No such file" in done.stderr or "Directory nonexistent" in done.stderr
    with pytest.raises(FileNotFoundError):
        (tree / "dev/waits/nobody").write_text("x")


def test_an_agent_answers_by_mail_from_a_shell(tree: Tree) -> None:
    script = 'IFS= read -r line < recv && echo "$line" >/dev/null; sleep 1000'
    tree.spawn("carl", exec=["/bin/sh", "-c", script], restart="never")
    pipeline(
        tree,
        "work",
        'name: add, agent: carl, prompt: "1 + 2?", patience: 1h, output_schema: {type: integer}',
    )
    run = start(tree, "work")
    until(run / "nodes/add/state", "waiting")
    eventually(lambda: bool(os.listdir(tree / "agents/init/asks")))
    [letter] = [
        text
        for text in (file.read_text() for file in (tree / "agents/carl/inbox/new").iterdir())
        if "Type: step" in text
    ]
    assert "fits this JSON Schema" in letter
    number = letter.partition("Message-ID: <")[2].partition("@")[0]
    tree.write("agents/carl/outbox/init", f"In-Reply-To: {number}\n\n3\n")
    assert ended(run) == "completed"
    assert output(run, "add") == 3


def test_a_loop_of_tools_is_a_program_of_the_run(tree: Tree) -> None:
    text = (
        "kind: Pipeline\nmetadata: {name: loop}\nspec:\n  nodes:\n"
        "    - {kind: agent, metadata: {name: look}, spec: {prompt: 'what is in it?'}}\n"
    )
    (tree / "etc/pipelines/loop.yaml").write_text(text)
    run = start(tree, "loop")
    assert ended(run) == "completed", (run / "nodes/look/error").read_text()
    assert output(run, "look") == "meow"
    assert 'read_path {"path": "/etc/models.yaml"}' in (run / "nodes/look/log").read_text()


def _calls(tree: Tree) -> int:
    return int(tree.read("sys/accounting/total/calls"))


@pytest.mark.parametrize(("most", "state"), [(7, "failed"), (0, "failed"), (20, "completed")])
def test_a_limit_of_calls_is_that_of_the_run_and_all_below_it(
    tree: Tree, most: int, state: str
) -> None:
    pipeline(tree, "below", "\n".join(f"name: m{n}, llm: hello" for n in range(10)))
    nodes = [f"name: n{n}, llm: hello" for n in range(10)]
    nodes.insert(5, "name: sub, pipeline: below")
    pipeline(tree, "above", "\n".join(nodes), limits={"max_llm_calls": most})
    before = _calls(tree)
    run = start(tree, "above")
    assert ended(run) == state
    assert _calls(tree) - before == min(most, 20)
    if state == "failed":
        assert "max_llm_calls" in (run / "reason").read_text()


def test_beyond_a_limit_nodes_are_skipped_where_the_manifest_says_so(tree: Tree) -> None:
    nodes = "\n".join(f"name: n{n}, llm: hello, dependencies: []" for n in range(4))
    pipeline(tree, "some", nodes, limits={"max_llm_calls": 2}, on_limit="skip")
    before = _calls(tree)
    run = start(tree, "some")
    assert ended(run) == "completed"
    assert _calls(tree) - before == 2
    states = sorted((run / f"nodes/n{n}/state").read_text() for n in range(4))
    assert states == ["completed\n", "completed\n", "skipped\n", "skipped\n"]


def test_a_lock_is_the_run_s_until_it_ends(tree: Tree) -> None:
    pipeline(
        tree,
        "locked",
        """
        name: take, program: "set -C; : > $AGENTFS/dev/locks/shared"
        name: other, program: "cd $AGENTFS/dev/locks; cat shared; ! (set -C; : > shared)"
        name: hold, wait: let-go
        """,
    )
    run = start(tree, "locked")
    until(run / "nodes/hold/state", "waiting")
    assert f"Holder:\tlocked@{run.name}\nPid:\t{run.name}\n" in tree.read("dev/locks/shared")
    tree.crash()
    tree.mount()
    assert (tree / "dev/locks/shared").exists()
    (run / "ctl").write_text("cancel enough\n")
    assert ended(run) == "cancelled"
    eventually(lambda: not (tree / "dev/locks/shared").exists())


def test_a_tool_that_was_at_work_when_the_daemon_died_is_ended_and_called_again(
    tree: Tree, tmp_path: Path
) -> None:
    said, go = tmp_path / "said", tmp_path / "go"
    wait = f"echo begin >> {said}; until [ -e {go} ]; do sleep 0.02; done; echo end >> {said}"
    tree.write("etc/tools.yaml", json.dumps({"tools": {"slow": {"exec": ["/bin/sh", "-c", wait]}}}))
    nodes = (
        "name: a, tool: slow, dependencies: []\nname: b, tool: slow, once: true, dependencies: []"
    )
    pipeline(tree, "slow", nodes)
    run = start(tree, "slow")
    eventually(lambda: said.exists() and said.read_text().count("begin") == 2)
    tree.crash()
    tree.mount()
    until(run / "nodes/b/state", "failed")
    assert (run / "nodes/b/error").read_text().startswith("lost: the daemon ended")
    eventually(lambda: said.read_text().count("begin") == 3)
    go.touch()
    until(run / "nodes/a/state", "completed")
    assert (run / "nodes/a/attempt").read_text() == "2\n"
    assert said.read_text().count("end") == 1, "the first two were ended"


class _Hello(BaseHTTPRequestHandler):
    """Says where it was asked."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode() + (self.headers["x-key"] or "").encode())

    def log_message(self, *_: object) -> None:
        """Nothing is told."""


def test_a_service_is_reached_by_runs_that_may_use_the_network_alone(tree: Tree) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hello) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1/"
        spec = f"{{url: '{url}', headers: {{X-Key: k}}}}"
        (tree / "etc/adapters/hello.yaml").write_text(
            f"kind: Adapter\nmetadata: {{name: hello}}\nspec: {spec}\n"
        )
        nodes = f'name: plain, api_call: "{url}a"\nname: port, api_call: b, port: hello'
        pipeline(tree, "open", nodes, ports={"hello": "hello"})
        run = start(tree, "open")
        assert ended(run) == "completed"
        assert output(run, "plain")["body"] == "/v1/a"
        assert output(run, "port")["body"] == "/v1/bk"
        pipeline(tree, "shut", nodes, ports={"hello": "hello"}, deny=["network_access"])
        run = start(tree, "shut")
        assert ended(run) == "failed"
        assert "EREMOTEIO" in (run / "nodes/plain/error").read_text()
        server.shutdown()


# -- ports -----------------------------------------------------------------------------------------

ADAPTERS = {
    "shout": 'program: "tr a-z A-Z"',
    "broken": 'program: "echo out of order >&2; exit 3"',
    "small": "model: test",
    "person": "agent: paula",
    "jobs": "queue: jobs",
    "guarded": '{program: [cat], capabilities: {requires: ["tool:secret_thing"]}}',
}


@pytest.fixture(scope="module")
def ports(tree: Tree) -> Tree:
    for name, spec in ADAPTERS.items():
        text = spec if spec.startswith("{") else f"{{{spec}}}"
        (tree / f"etc/adapters/{name}.yaml").write_text(
            f"kind: Adapter\nmetadata: {{name: {name}}}\nspec: {text}\n"
        )
    return tree


def exchange(tree: Tree, path: str, request: str) -> str:
    """Write a request, read its answer to the end."""
    descriptor = os.open(tree / path, os.O_RDWR)
    try:
        os.write(descriptor, request.encode())
        found = b""
        while piece := os.read(descriptor, 65536):
            found += piece
        return found.decode()
    finally:
        os.close(descriptor)


def ask_in_shell(tree: Tree, port: str) -> subprocess.Popen[bytes]:
    """The same as a shell does it, without waiting for the answer."""
    script = "exec 3<>call; echo how >&3; cat <&3"
    folder = tree / f"dev/ports/{port}"
    return tree.start("sh", "-c", script, cwd=folder, stdout=subprocess.PIPE)


def test_a_port_is_asked_the_same_way_whatever_is_behind_it(ports: Tree) -> None:
    assert set(ADAPTERS) <= set(os.listdir(ports / "dev/ports"))
    assert exchange(ports, "dev/ports/shout/call", "hello") == "HELLO"
    assert exchange(ports, "dev/ports/small/call", "hello") == "meow"
    status = ports.read("dev/ports/shout/status")
    assert status.startswith("Name:\tshout\nKind:\tprogram\nBehind:\t")
    assert "Calls:\t1\nOpen:\t0\nFailures:\t0\n" in status


def test_a_port_that_fails_says_why_and_counts_it(ports: Tree) -> None:
    with pytest.raises(OSError, match="Remote I/O"):
        exchange(ports, "dev/ports/broken/call", "x")
    status = ports.read("dev/ports/broken/status")
    assert "Failures:\t1\nFailure:\tEREMOTEIO: out of order" in status
    assert not (ports / "dev/ports/nothing").exists()


def test_an_agent_behind_a_port_replies_by_mail(ports: Tree) -> None:
    ports.spawn("paula", exec=["/bin/sh", "-c", "exec sleep 1000"], restart="never")
    asked = ask_in_shell(ports, "person")
    eventually(lambda: bool(os.listdir(ports / "agents/paula/inbox/new")))
    [file] = (ports / "agents/paula/inbox/new").iterdir()
    letter = file.read_text()
    assert "Type: port-request\nPort: person\n" in letter
    number = letter.partition("Message-ID: <")[2].partition("@")[0]
    ports.write("agents/paula/outbox/init", f"In-Reply-To: {number}\n\nfine\n")
    assert asked.communicate(timeout=60)[0] == b"fine\n"


def test_whoever_takes_from_a_queue_may_answer(ports: Tree) -> None:
    (ports / "dev/queues/jobs").mkdir()
    asked = ask_in_shell(ports, "jobs")
    eventually(lambda: ports.read("dev/queues/jobs/length").strip() == "1")
    [file] = (ports / "dev/queues/jobs/new").iterdir()
    number = file.read_text().partition("Message-ID: <")[2].partition("@")[0]
    os.rename(file, ports / "dev/queues/jobs/cur/mine:2,")
    ports.write("agents/init/outbox/init", f"In-Reply-To: {number}\n\ndone\n")
    assert asked.communicate(timeout=60)[0] == b"done\n"


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [("failover", ["HELLO"] * 3), ("round_robin", ["HELLO", "meow", "HELLO"])],
)
def test_a_pool_of_adapters(ports: Tree, strategy: str, wanted: list[str]) -> None:
    members = ["broken", "shout"] if strategy == "failover" else ["shout", "small"]
    pool = {"strategy": strategy, "adapters": members}
    pipeline(ports, strategy, "name: say, llm: hello", ports={"llm": pool})
    runs = [start(ports, strategy) for _ in range(3)]
    assert [ended(run) for run in runs] == ["completed"] * 3
    assert [output(run, "say") for run in runs] == wanted


def test_a_port_needs_what_its_adapter_requires(ports: Tree) -> None:
    pipeline(ports, "closed", "name: say, llm: hello", ports={"llm": "guarded"}, caps=["llm"])
    run = start(ports, "closed")
    assert ended(run) == "failed"
    assert "EACCES" in (run / "nodes/say/error").read_text()
