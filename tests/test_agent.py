"""The client module by itself; tests/system/test_agent_client.py has it on a real tree."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import agentfs.agent
from agentfs.agent import Agent, Message

SOURCE = Path(agentfs.agent.__file__)

CONTENT = (
    b"Delivery-Attempt: 3\n"
    b"Message-ID: <000000000042@node>\n"
    b"From: alice\n"
    b"To: bob\n"
    b"Type: task-review\n"
    b"Messages-Waiting: 7\n"
    b"Subject: caf\xc3\xa9\n"
    b"\n"
    b"one\n\ntwo \xff\n"
)


def test_a_message_is_its_headers_and_its_body() -> None:
    message = Message(CONTENT)
    assert (message.id, message.sender, message.type) == ("000000000042", "alice", "task-review")
    assert (message.attempt, message.waiting) == (3, 7)
    assert (message.get("subject"), message.get("Missing"), message.get("No", "x")) == (
        "café",
        "",
        "x",
    )
    assert message.body == b"one\n\ntwo \xff\n"
    assert message.text == "one\n\ntwo �\n"
    assert repr(message) == "<message 000000000042 from alice, attempt 3>"


def test_a_message_with_few_headers_was_delivered_once_and_has_nothing_behind_it() -> None:
    message = Message(b"From: alice\n\n")
    assert (message.attempt, message.waiting, message.id, message.body) == (1, 0, "", b"")


@pytest.mark.parametrize("header", [{"subject": "two\nlines"}, {"a\nFrom": "eve"}, {"x": "\r"}])
def test_a_header_of_several_lines_is_refused_before_it_is_sent(
    tmp_path: Path, header: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match="one line"):
        Agent(str(tmp_path), "alice").send("bob", "hello", **header)


@pytest.mark.parametrize(
    ("headers", "automatic"),
    [
        ("", False),
        ("Auto-Submitted: no\n", False),
        ("Auto-Submitted: auto-replied\n", True),
        ("Auto-Submitted: auto-generated; why=x\n", True),
        ("Reply-Expected: no\n", True),
        ("Auto-Submitted: auto-generated\nReply-By: Mon, 30 Nov 2026 09:00:00 +0000\n", False),
    ],
)
def test_a_message_says_whether_a_program_sent_it_by_itself(headers: str, automatic: bool) -> None:
    assert Message(f"From: alice\n{headers}\nx".encode()).automatic is automatic


def test_what_is_one_line_is_one_line_before_anything_is_opened(tmp_path: Path) -> None:
    agent = Agent(str(tmp_path), "alice", patience=0.01)
    for call in (
        lambda: agent.remind("in 1h\nin 2h", "x"),
        lambda: agent.escalate("error\x85", "x"),
        lambda: agent.report(7, "opus\nreport 1000000"),
        lambda: agent.call("opus\x0b"),
        lambda: agent.call_tool("search\u2028"),
        lambda: agent.publish("a\nb", "x"),
        lambda: agent.publish("../queues/jobs", "x"),
        lambda: agent.subscribe("..", 0),
        lambda: agent.enqueue("", "x"),
        lambda: agent.send("bob", "x", **{"a b": "c"}),
    ):
        with pytest.raises(ValueError, match=r"expected|one line"):
            call()


def test_the_tree_and_the_name_are_found_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTFS", str(tmp_path))
    monkeypatch.setenv("AGENT_NAME", "alice")
    assert Agent().home == f"{tmp_path}/agents/alice"
    monkeypatch.delenv("AGENT_NAME")
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/self").symlink_to("bob")
    assert Agent().name == "bob"


def test_a_tree_that_is_not_there_is_an_error_when_patience_is_over(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Agent(str(tmp_path), "alice", patience=0.01).send("bob", "hello")


def test_it_imports_the_standard_library_only() -> None:
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [str(node.module)]
        for name in names:
            assert name.partition(".")[0] in sys.stdlib_module_names - {"asyncio"}, name


def test_a_copy_of_the_file_works_without_anything_else(tmp_path: Path) -> None:
    shutil.copy(SOURCE, tmp_path / "client.py")
    program = (
        "import sys, client\n"
        "agent = client.Agent('/tree', 'alice')\n"
        "assert not {'asyncio', 'trio', 'agentfs'} & sys.modules.keys()\n"
        "print(agent.home)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("/tree/agents/alice\n", "")
