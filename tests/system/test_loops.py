"""The documented agents answer once, and loops end, on a real mount with real programs; and what a
handler returns arrives, or fails before the handler is called again."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.agent import Agent, Message
from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def shared(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuickTree]:
    """One tree for all of them; each test has agents of its own."""
    tree = QuickTree(tmp_path_factory.mktemp("loops") / "tree", hatchery=hatchery)
    try:
        tree.mount()
        (tree / "dev/queues/jobs").mkdir()
        (tree / "dev/topics/news").touch()
        yield tree
    finally:
        tree.clean_up()


def shown(kind: str, mark: str) -> str:
    """The program of the README that has `mark` in it."""
    blocks = re.findall(rf"^```{kind}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if mark in block]
    return found


SHOUT = [sys.executable, "-c", shown("python", "shout.py")]
UPPER = ["sh", "-c", shown("sh", "upper.sh")]
DUMB = [
    "sh",
    "-c",
    'while msg=$(cat "$AGENTFS/agents/self/recv"); do'
    ' from=$(echo "$msg" | sed -n "s/^From: //p" | head -n 1);'
    ' echo "$msg" | sed "1,/^$/d" | tr a-z A-Z > "$AGENTFS/agents/self/outbox/$from"; done',
]
COUNTERS = {
    ".sh": "sh",
    ".py": sys.executable,
    ".pl": "perl",
}


def idle(tree: Tree, *names: str) -> bool:
    """Whether nothing waits for them, and they wait."""
    return all(
        not os.listdir(tree / f"agents/{name}/inbox/new")
        and tree.read(f"agents/{name}/state") == "idle\n"
        for name in names
    )


def answer(tree: Tree) -> Message:
    """What the operator got next."""
    return Message((tree / "agents/init/recv").read_bytes())


def sent(tree: Tree, *names: str) -> list[str]:
    return [
        file.read_text()
        for name in names
        for file in sorted((tree / f"agents/{name}/sent").iterdir())
    ]


def reminded(tree: Tree, name: str) -> bool:
    return "Successes:\t1\n" in tree.read(f"agents/{name}/reminders/stat")


@pytest.mark.parametrize("program", [SHOUT, UPPER], ids=["python", "shell"])
def test_one_reminder_is_one_message_to_an_agent_of_the_readme(
    shared: QuickTree, program: list[str]
) -> None:
    name = f"mind-{program is SHOUT}".lower()
    shared.spawn(name, exec=program)
    shared.write(f"agents/{name}/reminders/new", "in 50ms tea\n")
    eventually(lambda: reminded(shared, name))
    eventually(lambda: idle(shared, name))
    # It has handled the reminder, and it answers what is mail.
    shared.write(f"agents/init/outbox/{name}", "hello")
    got = answer(shared)
    assert got.text.strip() == "HELLO"
    assert got.automatic
    eventually(lambda: idle(shared, name))
    assert len(sent(shared, name)) == 1, shared.read(f"agents/{name}/log")


PAIRS = {
    "python": [SHOUT, SHOUT],
    "shell": [UPPER, UPPER],
    "both": [SHOUT, UPPER],
} | {
    name: [[COUNTERS[name], str(ROOT / f"examples/agents/counter{name}")]] * 2 for name in COUNTERS
}


@pytest.mark.parametrize("kind", PAIRS)
def test_two_documented_agents_and_one_hello_end(shared: QuickTree, kind: str) -> None:
    names = [f"{kind.strip('.')}-{number}" for number in (1, 2)]
    for name, program in zip(names, PAIRS[kind], strict=True):
        shared.spawn(name, exec=program)
    shared.write(f"agents/{names[0]}/outbox/{names[1]}", "hello")
    eventually(lambda: len(sent(shared, names[1])) == 1)
    eventually(lambda: idle(shared, *names))
    assert [len(sent(shared, name)) for name in names] == [1, 1]


def test_two_that_know_nothing_of_it_end_with_a_dead_letter_and_an_event(
    shared: QuickTree,
) -> None:
    pids: list[int] = []
    with open(shared / "dev/events", "rb", buffering=0) as events:
        for name in ("dumb", "dumber"):
            pids.append(shared.spawn(name, exec=DUMB))
        shared.write("agents/dumb/outbox/dumber", "hello")
        found: dict[str, object] = {}
        while not found:
            assert select.select([events], [], [], 60)[0], shared.read("agents/dumb/log")
            for line in events.read(65536).splitlines():
                event = json.loads(line)
                if event["type"] == "message_looped":
                    found = event
    assert found["hops"] == 101
    eventually(lambda: idle(shared, "dumb", "dumber"))
    dead = [
        path for name in ("dumb", "dumber") for path in (shared / f"agents/{name}/dead").iterdir()
    ]
    assert [path.name for path in dead] == [found["id"]]
    text = dead[0].read_text()
    assert text.startswith("Reason: a loop")
    assert "\nHops: 101\n" in text
    assert len(sent(shared, "dumb", "dumber")) <= 105
    # They go on answering what is new.
    shared.write("agents/init/outbox/dumb", "again")
    assert answer(shared).text == "AGAIN\n"
    for pid in pids:
        shared.write(f"proc/{pid}/ctl", "KILL\n")


def test_a_lead_that_gives_out_piece_after_piece_is_not_hindered(shared: QuickTree) -> None:
    """As fast as it goes, and more often than a loop may go round."""
    lead = """
        import os
        me = os.environ["AGENTFS"] + "/agents/self"
        for number in range(55):
            with open(f"{me}/outbox/worker", "w") as outbox:
                outbox.write(f"To: worker\\nPiece: {number}\\n\\n{number}")
            with open(f"{me}/recv") as recv:
                assert recv.read().endswith("\\n\\ndone"), number
        with open(f"{me}/outbox/init", "w") as outbox:
            outbox.write("all done")
        with open(f"{me}/recv") as recv:
            recv.read()
    """
    worker = """
        import os
        me = os.environ["AGENTFS"] + "/agents/self"
        while True:
            with open(f"{me}/recv") as recv:
                recv.read()
            with open(f"{me}/outbox/lead", "w") as outbox:
                outbox.write("done")
    """
    for name, program in (("worker", worker), ("lead", lead)):
        shared.spawn(name, exec=[sys.executable, "-c", textwrap.dedent(program)])
    assert answer(shared).text == "all done", shared.read("agents/lead/log")
    assert not list((shared / "agents/lead/dead").iterdir())


# -- what a handler returns ----------------------------------------------------------------------

RETURNS = {
    '"half \\ud83d of a pair"': "half \ufffd of a pair".encode(),
    '"two \\ud83d\\ude00 halves"': "two \U0001f600 halves".encode(),
    '"\\udcff"': "\ufffd".encode(),
    '"a\\0b"': b"a\0b",
    '"To: do list\\n\\nx"': b"To: do list\n\nx",
    'b"\\xff\\0"': b"\xff\0",
    'bytearray(b"x")': b"x",
    '{"a": ["\\u00e4", 1, None, "\\ud83d"]}': '{"a": ["ä", 1, null, "\ufffd"]}'.encode(),
    "42": b"42",
    '(piece for piece in ("one", " ", b"two", 3))': b"one two3",
    "Thing()": b"a thing \xef\xbf\xbd",
    '""': b"",
}


def test_whatever_a_handler_returns_is_sent_and_the_handler_is_called_once(
    shared: QuickTree,
) -> None:
    program = f"""
        from agentfs.agent import Agent
        agent = Agent()
        class Thing:
            def __str__(self):
                return "a thing \\ud83d"
        @agent.on_message
        def handle(message):
            print("called", message.text, message.attempt, flush=True)
            return [{", ".join(RETURNS)}][int(message.text)]
        @agent.on_type("none")
        def none(message):
            return None
        agent.run()
    """
    shared.spawn("returns", exec=[sys.executable, "-c", textwrap.dedent(program)])
    init = Agent(str(shared.path), "init")
    for number, (source, wanted) in enumerate(RETURNS.items()):
        if number == 3:
            init.send("returns", "nothing", type="none")
        init.send(
            "returns", f"{number}", subject="half \ud83d and a family \U0001f468\u200d\U0001f469"
        )
        got = answer(shared)
        assert got.body == wanted, source
        assert got.get("Auto-Submitted") == "auto-replied"
    said = re.findall("called ([0-9]+) ([0-9]+)", shared.read("agents/returns/log"))
    assert said == [(str(number), "1") for number in range(len(RETURNS))]


def test_an_answer_that_is_refused_is_sent_again_without_the_handler(shared: QuickTree) -> None:
    program = """
        from agentfs.agent import Agent
        agent = Agent()
        @agent.on_message
        def handle(message):
            print("called", message.text.strip(), message.attempt, flush=True)
            if message.text == "fail":
                raise ValueError("half \\ud83d of a pair")
            return "x" * (2 * 1024 * 1024) if message.text == "large" else "for a full inbox"
        agent.run()
    """
    shared.spawn("refused", exec=[sys.executable, "-c", textwrap.dedent(program)])
    init = Agent(str(shared.path), "init")
    init.send("refused", "large")
    dead = shared / "agents/refused/dead"
    eventually(lambda: len(list(dead.iterdir())) == 1)
    (letter,) = dead.iterdir()
    assert "Reason: delivered 5 times" in letter.read_text()
    log = shared.read("agents/refused/log")
    assert log.count("called large") == 1
    init.send("refused", "fail")
    eventually(lambda: len(list(dead.iterdir())) == 2)
    assert shared.read("agents/refused/log").count("called fail") == 5
    # The sender's inbox is full, and then it is not.
    shared.write("etc/agentfs.yaml", "messages: {max_waiting: 1}\n")
    try:
        shared.spawn("asker", exec=["sleep", "1000"])
        shared.write("agents/init/outbox/asker", "in the way")
        shared.write("agents/asker/send", "To: refused\n\nask")
        eventually(lambda: "called ask 1" in shared.read("agents/refused/log"))
        eventually(lambda: shared.read("agents/refused/log").count("No space left") >= 2)
        shared.read("agents/asker/recv")
        assert shared.read("agents/asker/recv").endswith("\n\nfor a full inbox")
    finally:
        shared.write("etc/agentfs.yaml", "{}\n")
    assert shared.read("agents/refused/log").count("called ask") == 1


def test_what_is_automatic_is_handled_and_what_was_asked_is_answered(shared: QuickTree) -> None:
    program = """
        from agentfs.agent import Agent
        agent = Agent()
        @agent.on_message
        def handle(message):
            print("handled", message.text, message.automatic, flush=True)
            if message.text == "meant":
                agent.reply(message, "on purpose")
            return "by itself"
        agent.run()
    """
    shared.spawn("handler", exec=[sys.executable, "-c", textwrap.dedent(program)])
    init = Agent(str(shared.path), "init")
    mark = {"auto_submitted": "auto-generated"}
    init.send("handler", "one", **mark)
    init.broadcast("two")
    init.send("handler", "meant", **mark)
    got = answer(shared)
    assert (got.text, got.automatic) == ("on purpose", False)
    assert init.ask("handler", "three", timeout=30, **mark).text == "by itself"
    log = shared.read("agents/handler/log")
    assert re.findall("handled (.*)", log) == [
        "one True",
        "two True",
        "meant True",
        "three False",
    ]
    assert len(sent(shared, "handler")) == 2


def test_a_reminder_of_several_lines_is_one(shared: QuickTree) -> None:
    (shared / "agents/forgetful").mkdir()
    agent = Agent(str(shared.path), "forgetful")
    number = agent.remind("in 50ms", "milk\nin 1h bread\n\ud83d\0x")
    agent.remind("in 1h", "one line")
    folder = shared / "agents/forgetful/reminders"
    assert len([name for name in os.listdir(folder) if name.isdigit()]) in (1, 2)
    message = Message((shared / "agents/forgetful/recv").read_bytes())
    assert message.text == "milk\nin 1h bread\n\ufffd x\n"
    assert (message.get("Reminder"), message.automatic) == (number, True)
    (left,) = [name for name in os.listdir(folder) if name.isdigit()]
    assert "Text:\tone line\n" in (folder / left).read_text()
    for when in ("in 1h\nin 2h", "in 1h\r"):
        with pytest.raises(ValueError, match="one line"):
            agent.remind(when, "x")
    script = "printf 'in 1h two\\nlines\\0in 2h and\\none\\0' > new"
    subprocess.run(["sh", "-c", script], cwd=folder, check=True)
    assert len([name for name in os.listdir(folder) if name.isdigit()]) == 3
