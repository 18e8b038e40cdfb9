"""`agentfs run --serve -- COMMAND`: mail wakes a program, turn by turn."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.llm.server import TEXT, Provider
from tests.runner.conftest import Program
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

CLAUDE = """
import json, sys, time
text = sys.stdin.read()
if "slow" in text:
    print("working", file=sys.stderr, flush=True)
    time.sleep(1)
if "fail" in text:
    sys.exit("cannot do that")
print(json.dumps({"type": "system", "session_id": "s-0"}) if "--stream" in sys.argv else "", end="")
print(json.dumps({"result": " ".join(sys.argv[1:]) + "|" + text, "session_id": "s-1",
                  "is_error": "error" in text}))
"""


def serve(tree: Tree, name: str, *words: str) -> int:
    return int(tree.run("run", "--serve", "--name", name, *words).stdout)


def ask(tree: Tree, name: str, text: str, sender: str = "init", patience: str = "1m") -> str:
    """The id of a question to an agent."""
    question = f"To: {name}\nReply-By: {patience}\n\n{text}"
    return tree.ask(f"agents/{sender}/asks/new", question).strip()


def answer(tree: Tree, number: str, sender: str = "init") -> str:
    return tree.read(f"agents/{sender}/asks/{number}/answer").partition("\n\n")[2]


def turns(tree: Tree, pid: int) -> list[dict[str, Any]]:
    """In one read(2): a file that changes between two of them, as this one does when a turn ends,
    has the end of the new text behind the old one."""
    descriptor = os.open(tree / f"proc/{pid}/turns", os.O_RDONLY)
    try:
        content = os.read(descriptor, 65536)
    finally:
        os.close(descriptor)
    return [json.loads(line) for line in content.splitlines()]


def test_a_message_wakes_it_and_its_answer_is_the_reply(tree: Tree, program: Program) -> None:
    pid = serve(tree, "coder", "--", program("claude", CLAUDE), "-p", "--model", "opus")
    first = answer(tree, ask(tree, "coder", "hello"))
    assert first.startswith("-p --output-format json --model opus|From: init\n")
    assert first.endswith("\n\nhello\n")
    second = answer(tree, ask(tree, "coder", "go on"))
    assert second.startswith("-p --output-format json --resume s-1 --model opus|From: init\n")
    eventually(lambda: [turn["state"] for turn in turns(tree, pid)] == ["ok", "ok"])
    assert "Turns:\t2\n" in tree.read("sys/stats/agents/coder")
    assert tree.read(f"proc/{pid}/state") == "idle\n"


def test_what_waits_is_one_turn_with_its_number(tree: Tree, program: Program) -> None:
    pid = serve(tree, "coder", "--", program("claude", CLAUDE))
    tree.spawn("alice")
    number = ask(tree, "coder", "slow")
    eventually(lambda: "working" in tree.read("agents/coder/log"))
    for text in ("one", "two", "three"):
        tree.write("agents/init/outbox/coder", text)
    tree.write("agents/alice/outbox/coder", "mine")
    tree.write("agents/alice/outbox/coder", "mine, too")
    answer(tree, number)
    eventually(lambda: len(os.listdir(tree / "agents/alice/inbox/new")) == 1)
    eventually(lambda: len(os.listdir(tree / "agents/init/inbox/new")) == 1)
    [reply] = [file.read_text() for file in (tree / "agents/init/inbox/new").iterdir()]
    assert "Messages-Waiting: 3\n\nFrom: init\n" in reply
    texts = ("\none\n", "\ntwo\n", "\nthree\n", "mine")
    assert [reply.count(text) for text in texts] == [1, 1, 1, 0]
    [reply] = [file.read_text() for file in (tree / "agents/alice/inbox/new").iterdir()]
    assert "Messages-Waiting: 2\n\nFrom: alice\n" in reply
    eventually(lambda: [len(turn["messages"]) for turn in turns(tree, pid)] == [1, 3, 2])
    assert os.listdir(tree / "agents/coder/inbox/cur") == []


def test_a_turn_that_fails_is_the_failure_of_its_message(tree: Tree, program: Program) -> None:
    pid = serve(tree, "coder", "--", program("claude", CLAUDE))
    tree.write("agents/init/outbox/coder", "fail\n")
    eventually(lambda: len(os.listdir(tree / "agents/coder/dead")) == 1)
    [dead] = [file.read_text() for file in (tree / "agents/coder/dead").iterdir()]
    assert "claude ended with code 1: cannot do that" in dead.partition("\n\n")[0]
    assert {turn["reason"] for turn in turns(tree, pid)} == {
        "claude ended with code 1: cannot do that"
    }
    assert answer(tree, ask(tree, "coder", "still there?")).endswith("still there?\n")


def test_an_error_that_says_0_is_a_failure(tree: Tree, program: Program) -> None:
    pid = serve(tree, "coder", "--", program("claude", CLAUDE))
    tree.write("agents/init/outbox/coder", "error")
    eventually(lambda: any(turn["state"] == "failed" for turn in turns(tree, pid)))
    quiet = serve(tree, "quiet", "--", "true")
    tree.write("agents/init/outbox/quiet", "say something")
    eventually(lambda: any(turn["state"] == "failed" for turn in turns(tree, quiet)))
    assert turns(tree, quiet)[0]["reason"] == "true ended with code 0 and gave no answer"


LEAVES = """
import os, subprocess, sys, time
text = sys.stdin.read()
child = subprocess.Popen(
    [sys.executable, "-c", "import os, time; os.fork() and os._exit(0); os.setsid(); "
     f"open({NOTES!r} + str(os.getpid()), 'w'); time.sleep(1000)"])
child.wait()
while not os.listdir(NOTES):
    time.sleep(0.01)
if "hang" in text:
    time.sleep(1000)
print("answered")
"""


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_turn_that_hangs_ends_with_all_that_it_started(
    tree: Tree, program: Program, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    text = LEAVES.replace("{NOTES!r}", repr(f"{notes}/")).replace("NOTES", repr(f"{notes}/"))
    pid = serve(tree, "coder", "--timeout", "1.5s", "--", program("agent", text))
    tree.write("agents/init/outbox/coder", "hang")
    eventually(lambda: any(turn["state"] == "failed" for turn in turns(tree, pid)))
    assert turns(tree, pid)[0]["reason"] == "agent was not done after 1.5 s"
    first = sorted(os.listdir(notes))[0]
    assert not alive(first)


def test_nothing_of_a_turn_runs_on_into_the_next(
    tree: Tree, program: Program, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    text = LEAVES.replace("{NOTES!r}", repr(f"{notes}/")).replace("NOTES", repr(f"{notes}/"))
    serve(tree, "coder", "--", program("agent", text))
    assert answer(tree, ask(tree, "coder", "be quick")) == "answered\n"
    assert [alive(name) for name in os.listdir(notes)] == [False]


OVERLAP = """
import os, sys, time
text = sys.stdin.read()
with open(NOTES, "a") as notes:
    print("begin", os.getpid(), file=notes, flush=True)
    time.sleep(1.0)
    print("end", os.getpid(), file=notes, flush=True)
print("attempt", os.environ["AGENTFS_ATTEMPT"], "Delivery-Attempt: 2" in text)
"""


def test_kill_9_of_it_loses_no_message_and_repeats_none_unmarked(
    tree: Tree, program: Program, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    pid = serve(tree, "coder", "--", program("agent", OVERLAP.replace("NOTES", repr(str(notes)))))
    number = ask(tree, "coder", "work")
    eventually(notes.exists)
    harness = int(tree.read(f"proc/{pid}/ospid"))
    os.kill(harness, signal.SIGKILL)
    assert answer(tree, number) == "attempt 2 True\n"
    lines = [line.split() for line in notes.read_text().splitlines()]
    assert [word for word, _ in lines] == ["begin", "begin", "end"], "the first was ended, too"
    eventually(lambda: [turn["state"] for turn in turns(tree, pid)] == ["failed", "ok"])
    assert turns(tree, pid)[0]["reason"] == "its program ended with code 137"


def journal(tree: Tree, name: str, answers: dict[str, str]) -> None:
    """What a harness has in its memory that was killed after its turn."""
    folder = tree / f"agents/{name}/memory/.agentfs"
    folder.mkdir(parents=True)
    (folder / "turns.json").write_text(json.dumps({"answers": answers, "session": "s-1"}))


def test_an_answer_that_was_not_sent_is_sent_and_not_worked_out_again(
    tree: Tree, program: Program
) -> None:
    os.mkdir(tree / "agents/coder")
    number = ask(tree, "coder", "fail")
    journal(tree, "coder", {number: "what was found\n"})
    serve(tree, "coder", "--", program("claude", CLAUDE))
    assert answer(tree, number) == "what was found\n"


def test_an_answer_that_was_sent_is_not_sent_again(tree: Tree, program: Program) -> None:
    pid = tree.spawn("coder")
    tree.write("agents/init/outbox/coder", "fail")
    [waiting] = os.listdir(tree / "agents/coder/inbox/new")
    head = (tree / "agents/coder/inbox/new" / waiting).read_text()
    number = head.partition("Message-ID: <")[2].partition("@")[0]
    journal(tree, "coder", {number: "what was found\n"})
    tree.write("agents/coder/outbox/init", f"In-Reply-To: {number}\n\nwhat was found\n")
    tree.write(f"proc/{pid}/ctl", "done 0")
    tree.read(f"proc/{pid}/wait")
    serve(tree, "coder", "--", program("claude", CLAUDE))
    eventually(
        lambda: (
            os.listdir(tree / "agents/coder/inbox/cur") == []
            and os.listdir(tree / "agents/coder/inbox/new") == []
        )
    )
    assert answer(tree, ask(tree, "coder", "and now?")).endswith("and now?\n")
    assert len(os.listdir(tree / "agents/init/inbox/new")) == 1


def test_a_crash_of_the_daemon_in_a_turn_costs_nothing(tree: Tree, program: Program) -> None:
    serve(tree, "coder", "--", program("claude", CLAUDE))
    number = ask(tree, "coder", "slow")
    eventually(lambda: "working" in tree.read("agents/coder/log"))
    tree.crash()
    time.sleep(1.5)  # the turn ends while nobody is there
    tree.mount()
    assert "slow" in answer(tree, number)
    assert tree.read("agents/coder/log").count("working") == 1


def test_a_reply_of_another_program_is_not_answered(tree: Tree, program: Program) -> None:
    """Two that answer whatever comes would never end."""
    first = serve(tree, "first", "--", program("claude", CLAUDE))
    second = serve(tree, "second", "--", program("claude", CLAUDE))
    tree.write("agents/first/outbox/second", "hello")
    eventually(lambda: [turn["state"] for turn in turns(tree, first)] == ["ok"])
    eventually(lambda: [turn["state"] for turn in turns(tree, second)] == ["ok"])
    assert answer(tree, ask(tree, "second", "done?")).endswith("done?\n")
    assert len(turns(tree, first)) == 1


def test_a_template_says_where_text_answer_and_session_are(tree: Tree, program: Program) -> None:
    path = program(
        "odd",
        """
import sys, pathlib
text, answer, *rest = sys.argv[1:]
print("noise")
pathlib.Path(answer).write_text(pathlib.Path(text).read_text() + " ".join(rest))
""",
    )
    tree.write(
        "etc/harnesses.yaml",
        """
harnesses:
  odd: {turn: ["{file}", "{answer}", first, "{arguments}"], prompt: text,
        resume: ["{file}", "{answer}", again, "{arguments}"]}
""",
    )
    serve(tree, "odd", "--", path, "--fast")
    assert answer(tree, ask(tree, "odd", "a ")) == "a first --fast\n"
    assert answer(tree, ask(tree, "odd", "b ")) == "b again --fast\n"
    refused = tree.run("run", "--serve", "--harness", "none", "--", path, check=False)
    assert refused.stderr == "agentfs: /etc/harnesses.yaml has no 'none'; it has odd\n"


def test_faults_of_a_template_are_told_with_their_lines(tree: Tree) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        tree.write("etc/harnesses.yaml", "harnesses:\n  x: {turn: 3}\n  y: {timeout: never}\n")
    words = tree.read("proc/self/error")
    assert "line 2: harnesses.x.turn" in words
    assert "line 3: harnesses.y.turn" in words
    assert "line 3: harnesses.y.timeout" in words


def test_without_a_tree_nothing_is_served(tree: Tree) -> None:
    tree.unmount()
    done = tree.run("run", "--serve", "--", "cat", check=False)
    assert done.returncode == 3
    assert "no tree is mounted there" in done.stderr


CLIS = (
    ("claude", ["claude"]),
    ("codex", ["codex"]),
    ("aider", ["-m", "plain", "--", "aider"]),
    ("opencode", ["-m", "plain", "--", "opencode"]),
)


@pytest.mark.parametrize(("name", "words"), CLIS, ids=[name for name, _ in CLIS])
def test_real_programs_take_mail_and_go_on_with_their_session(
    tree: Tree, name: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are installed; $AGENTFS_CLIS has folders to look in."""
    path = f"{os.environ.get('AGENTFS_CLIS', '')}:{os.environ['PATH']}"
    if shutil.which(name, path=path) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("PATH", path)
    with Provider() as provider:
        speaks = "[chat, responses, messages]"
        tree.write(
            "etc/models.yaml",
            f"""
providers: {{there: {{url: "{provider.url}", speaks: {speaks}}}}}
models: {{plain: {{tier: operational, provider: there, context: 200000, match: ["*"]}}}}
""",
        )
        given = words if "--" in words else ["--", *words]
        pid = serve(tree, "coder", *given)
        assert answer(tree, ask(tree, "coder", "A question that is asked first.")) == f"{TEXT}\n"
        assert answer(tree, ask(tree, "coder", "And another one.")) == f"{TEXT}\n"
        eventually(lambda: [turn["state"] for turn in turns(tree, pid)] == ["ok", "ok"])
        assert all(turn["output"] >= len(TEXT.split()) for turn in turns(tree, pid))
        assert any(
            "asked first" in text and "another one" in text
            for text in (json.dumps(call.body) for call in provider.log())
        )
