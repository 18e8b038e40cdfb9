"""`agentfs run PROMPT`: a model with hands, until it gives an answer."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfs.runner.agent import Assistant, KeptConversation
from agentfs.runner.hands import Hands
from agentfs.runner.talk import ModelError, ModelFile, OverflowedError
from tests.llm.server import TEXT, Provider
from tests.runner.test_harness import answer, ask, turns
from tests.tree import AGENTFS, Tree, eventually


class Written(ModelFile):
    """A model whose replies are written; `asked` are the requests."""

    def __init__(self, *replies: object, **more: Any) -> None:
        super().__init__("/dev/llm/written", lambda: "", **more)
        self.replies = list(replies)
        self.asked: list[dict[str, Any]] = []

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(json.loads(json.dumps(request)))
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, dict) else says(str(reply))


def says(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": {}}


def calls(name: str, **arguments: object) -> dict[str, Any]:
    call = {"id": "c1", "type": "function"}
    call["function"] = {"name": name, "arguments": json.dumps(arguments)}  # type: ignore[assignment]
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"choices": [{"message": message}]}


def wants(name: str, **arguments: object) -> dict[str, Any]:
    """The same in the dialect messages."""
    return {"content": [{"type": "tool_use", "id": "c1", "name": name, "input": arguments}]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a file in it."""
    (tmp_path / "notes.txt").write_text("The release is on Friday.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assistant(
    model: ModelFile, here: Path, *, again: bool = False, steps: int = 9, timeout: float = 60.0
) -> Assistant:
    hands = Hands("/no/tree", (), lambda: "", room=8192)
    conversation = KeptConversation(str(here / "conversation.jsonl"), again=again)
    task = {"steps": steps, "system": "Be short.", "timeout": timeout}
    return Assistant(model, hands, conversation, task)


def test_it_reads_a_file_and_answers(here: Path) -> None:
    model = Written(calls("read_path", path="notes.txt"), "On Friday.")
    assert assistant(model, here).work("When is the release?") == "On Friday."
    first, second = model.asked
    assert [tool["function"]["name"] for tool in first["tools"]][:2] == [
        "read_path",
        "list_directory",
    ]
    assert [message["role"] for message in second["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
    ]
    assert second["messages"][3] == {
        "role": "tool",
        "content": "The release is on Friday.\n",
        "tool_call_id": "c1",
    }
    call = second["messages"][2]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"path": "notes.txt"}


def test_in_the_dialect_of_messages_roles_take_turns(here: Path) -> None:
    both = wants("read_path", path="notes.txt")
    both["content"] += wants("list_directory", path="notes.txt")["content"]
    model = Written(both, {"content": [{"type": "text", "text": "Friday."}]}, dialect="messages")
    assert assistant(model, here).work("When?") == "Friday."
    request = model.asked[1]
    assert request["system"] == "Be short."
    assert [message["role"] for message in request["messages"]] == ["user", "assistant", "user"]
    results = request["messages"][2]["content"]
    assert [result["type"] for result in results] == ["tool_result", "tool_result"]
    assert results[0]["content"] == "The release is on Friday.\n"
    assert results[1]["content"] == f"error: {here}/notes.txt: Not a directory"
    assert request["tools"][0]["input_schema"]["required"] == ["path"]


def test_a_model_without_tools_answers_by_a_schema(here: Path) -> None:
    """The files that it is asked about are read for it."""
    model = Written("Friday", schema=True, context=8192)
    assert assistant(model, here).work("When is the release, by notes.txt?") == "Friday"
    [request] = model.asked
    assert "response_format" not in request
    assert [message["content"] for message in request["messages"]] == [
        "Be short.",
        "notes.txt:\nThe release is on Friday.\n\n\nWhen is the release, by notes.txt?",
    ]
    assert "tools" not in request
    cut = Written('{"answer": "Once upon a ti', schema=True)
    assert assistant(cut, here).work("Tell me a story") == "Once upon a ti"
    assert len(cut.asked[0]["messages"]) == 2


def test_by_a_schema_it_calls_the_tools_that_it_was_given(here: Path) -> None:
    weather = here / "lib/tools/weather"
    weather.mkdir(parents=True)
    schema = {"name": "weather", "description": "The weather.", "parameters": {"type": "object"}}
    (weather / "schema").write_text(json.dumps(schema))
    (weather / "call").write_text("")
    call = json.dumps({"tool": "weather", "arguments": {"city": "Paris"}})
    model = Written(call, call, json.dumps({"answer": "Sunny"}), schema=True)
    hands = Hands(str(here), ("wea*",), lambda: "")
    conversation = KeptConversation(str(here / "conversation.jsonl"), again=False)
    working = Assistant(model, hands, conversation, {"steps": 9, "system": "", "timeout": 60})
    assert working.work("What is the weather?") == "Sunny"
    first, second = (
        request["response_format"]["json_schema"]["schema"] for request in model.asked[:2]
    )
    assert first["oneOf"][1]["properties"]["tool"] == {"const": "weather"}
    assert first["oneOf"] == second["oneOf"]
    assert "response_format" not in model.asked[2]  # it asked for the same twice
    assert json.loads((weather / "call").read_text()[:17]) == {"city": "Paris"}


def test_a_conversation_that_does_not_fit_is_compacted_once(here: Path) -> None:
    (here / "long.txt").write_text("word " * 1500)
    model = Written(calls("read_path", path="long.txt"), OverflowedError("too long"), "Words.")
    working = assistant(model, here)
    assert working.work("What is in it?") == "Words."
    before, after = (len(json.dumps(request["messages"])) for request in model.asked[1:])
    assert after < 0.6 * before
    model.replies = [OverflowedError("too long"), OverflowedError("too long, still")]
    with pytest.raises(ModelError, match="shortened, it does not fit either: too long, still"):
        working.work("And now?")
    assert len(model.asked) == 5  # no third one
    model.replies = ["Fine."]
    assert working.work("And now?") == "Fine."
    assert [line["text"] for line in kept(here)[-2:]] == ["And now?", "Fine."]


def kept(here: Path) -> list[dict[str, Any]]:
    lines = (here / "conversation.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_older_turns_go_first_and_whole(here: Path) -> None:
    model = Written(*(f"answer {number} " * 20 for number in range(8)))
    working = assistant(model, here)
    for number in range(8):
        working.work(f"question {number} " * 20)
    model.replies = [OverflowedError("too long"), "Done."]
    assert working.work("the last one") == "Done."
    messages = model.asked[-1]["messages"][1:]
    assert messages[0]["role"] == "user"
    assert messages[-1]["content"] == "the last one"
    assert 4 < len(messages) < 14
    assert [line["text"] for line in kept(here)][-2:] == ["the last one", "Done."]
    again = assistant(Written("Yes."), here, again=True)
    assert again.work("Still there?") == "Yes."
    assert len(kept(here)) == len(messages) + 3


def test_steps_have_an_end(here: Path) -> None:
    model = Written(*[calls("list_directory", path=".")] * 5)
    with pytest.raises(ModelError, match="gave no answer in 3 steps"):
        assistant(model, here, steps=3).work("Go on for ever")
    assert len(model.asked) == 3
    assert "tools" not in model.asked[2]  # the last one is for the answer
    assert not (here / "conversation.jsonl").exists()  # what failed is not gone on with


def test_a_turn_takes_no_longer_than_it_may(here: Path) -> None:
    model = Written("too late")
    with pytest.raises(ModelError, match="it was not done after -1 s"):
        assistant(model, here, timeout=-1.0).work("Hurry")
    assert model.asked == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (calls("read_path"), "error: read_path needs the argument 'path'"),
        (calls("read_path", path=3), "error: read_path: 'path' is text, not 3"),
        (calls("read_path", path="none.txt"), "error: {here}/none.txt: No such file or directory"),
        (calls("fly"), "error: there is no tool 'fly'"),
        (calls("list_directory", path="."), "notes.txt"),
    ],
)
def test_bad_calls_are_told_to_the_model(here: Path, call: dict[str, Any], words: str) -> None:
    model = Written(call, "So be it.")
    assert assistant(model, here).work("Try") == "So be it."
    assert model.asked[1]["messages"][3]["content"] == words.format(here=here)


def test_a_reply_that_is_none_is_an_error_in_words(here: Path) -> None:
    for reply, words in (
        ({"choices": []}, "gave a reply that is none"),
        ({"error": {"message": "out of order"}}, "out of order"),
        ("  ", "gave no answer"),
        ({"error": {"message": "prompt is too long: 9 tokens"}}, "does not fit either"),
    ):
        with pytest.raises(ModelError, match=words):
            assistant(Written(reply, reply), here).work("Hello")


# -- on a mount ------------------------------------------------------------------------------------


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as made:
        yield made


@pytest.fixture
def models(tree: Tree, provider: Provider) -> Tree:
    """The tree, with two models of the provider."""
    tree.write(
        "etc/models.yaml",
        f"""
providers:
  there: {{url: "{provider.url}", speaks: [chat, messages]}}
models:
  plain: {{tier: operational, provider: there, context: 8192, output: 10}}
  other: {{tier: operational, provider: there, context: 8192}}
""",
    )
    return tree


@pytest.mark.mount
def test_the_answer_is_the_output_and_the_rest_is_not(models: Tree) -> None:
    done = models.run("run", "What", "is", "the", "capital?")
    assert done.stdout == f"{TEXT}\n"
    assert done.stderr == "agentfs: no key is set: plain, which needs none, answers\n"
    assert set(os.listdir(models / "agents")) == {"init", "self"}
    assert int(models.read("sys/accounting/total/calls")) == 1
    done = models.run("run", "-m", "other", "--json", "-", stdin="And now?\n")
    told = json.loads(done.stdout)
    assert (told["answer"], told["model"], told["calls"], done.stderr) == (TEXT, "other", 1, "")
    assert told["output"] == len(TEXT.split())


@pytest.mark.mount
def test_a_long_prompt_comes_on_standard_input(models: Tree, provider: Provider) -> None:
    done = models.run("run", stdin="word " * 40_000, check=False)
    assert "more than one call can use" in done.stderr or done.returncode == 1, done
    assert models.run("run", stdin=" \n", check=False).returncode == 2
    models.run("run", "-m", "other", "-", stdin="word " * 20)
    [call] = provider.log()
    assert call.body["messages"][-1]["content"] == "word " * 19 + "word"


@pytest.mark.mount
def test_a_conversation_goes_on(models: Tree, provider: Provider) -> None:
    models.run("run", "--name", "helper", "One")
    models.run("run", "--continue", "helper", "Two")
    models.run("run", "--name", "helper", "Three")
    provider.wait(lambda log: len(log) == 3)
    lines = models.read("agents/helper/memory/conversation.jsonl").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["Three", TEXT]
    assert models.read("agents/helper/exit") == "0\n"


@pytest.mark.mount
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--budget", "10"), "max_tokens_total"),
        (("--cost", "0"), "max_cost_usd"),
        (("-m", "none"), "/etc/models.yaml has no model 'none'; it has plain, other"),
    ],
)
def test_refusals_are_said_plainly(models: Tree, options: tuple[str, ...], words: str) -> None:
    done = models.run("run", *options, "Hello", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.mount
def test_what_the_provider_says_is_said(models: Tree, provider: Provider) -> None:
    provider.script("plain", status=400, error="no such thing")
    done = models.run("run", "Hello", check=False)
    assert done.returncode == 1
    assert "no such thing" in done.stderr
    models.write("etc/models.yaml", "models:\n  priced: {tier: operational, input: 1}\n")
    done = models.run("run", "Hello", check=False)
    assert done.returncode == 1
    assert "no model can be used: `agentfs secret set anthropic` sets a key" in done.stderr


@pytest.mark.mount
def test_each_message_is_a_turn_of_one_conversation(models: Tree, provider: Provider) -> None:
    pid = int(models.run("run", "--serve", "--name", "clerk", "--system", "Be kind.").stdout)
    assert answer(models, ask(models, "clerk", "one")) == f"{TEXT}\n"
    os.kill(int(models.read(f"proc/{pid}/ospid")), signal.SIGKILL)
    assert answer(models, ask(models, "clerk", "two")) == f"{TEXT}\n"
    eventually(lambda: [turn["state"] for turn in turns(models, pid)] == ["ok", "ok"])
    assert turns(models, pid)[0]["output"] == len(TEXT.split())
    lines = models.read("agents/clerk/memory/conversation.jsonl").splitlines()
    assert len(lines) == 4  # it knows what was said before it was killed
    provider.script("plain", status=400, error="not today")
    models.write("agents/init/outbox/clerk", "three")
    eventually(lambda: len(os.listdir(models / "agents/clerk/dead")) == 1)
    [dead] = [file.read_text() for file in (models / "agents/clerk/dead").iterdir()]
    assert "not today" in dead.partition("\n\n")[0]


@pytest.mark.mount
def test_an_interrupt_ends_a_call_and_its_agent(models: Tree, provider: Provider) -> None:
    provider.script("plain", hang=True)
    with subprocess.Popen(
        [*AGENTFS, "run", "--name", "waiter", "Hello"],
        env=os.environ | {"AGENTFS": str(models.path)},
        stdout=subprocess.PIPE,
    ) as running:
        provider.wait(lambda log: len(log) == 1)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
    assert models.read("agents/waiter/pid") == ""
    provider.wait(lambda log: log[0].hung_up)


@pytest.mark.mount
def test_an_agent_that_is_ended_in_a_call_puts_its_message_back(
    models: Tree, provider: Provider
) -> None:
    provider.script("plain", hang=True)
    pid = int(models.run("run", "--serve", "--name", "clerk").stdout)
    models.write("agents/init/outbox/clerk", "one")
    provider.wait(lambda log: len(log) == 1)
    models.write("agents/clerk/ctl", "stop")
    eventually(lambda: models.read("agents/clerk/pid") == "")
    [file] = (models / "agents/clerk/inbox/new").iterdir()
    assert "Delivery-Attempt" not in file.read_text()  # that was no attempt
    provider.wait(lambda log: log[0].hung_up)
    assert not [turn for turn in turns(models, pid) if turn["state"] == "running"]


HANDS = """
import json, os, sys
from agentfs.agent import Agent
from agentfs.runner.hands import Hands
from agentfs.runner.talk import WantedCall
agent = Agent()
hands = Hands(agent.tree, ("*",), agent.why)
for name, arguments in json.loads(sys.argv[1]):
    print(hands.use(WantedCall("c", name, arguments)), end="\\x00")
"""


@pytest.mark.mount
def test_hands_are_held_by_the_kernel(models: Tree, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.txt").write_text("text")
    (tmp_path / "here" / "b.bin").write_bytes(b"\0\1\2")
    models.spawn("alice")
    wanted: list[tuple[str, dict[str, str]]] = [
        ("read_path", {"path": "/agents/alice/state"}),
        ("read_path", {"path": f"{models.path}/agents/alice/state"}),
        ("read_path", {"path": "a.txt"}),
        ("read_path", {"path": "b.bin"}),
        ("read_path", {"path": "/agents/hand/recv"}),
        ("read_path", {"path": "/agents/alice/recv"}),
        ("list_directory", {"path": "."}),
        ("stat_path", {"path": "/agents/alice/state"}),
        ("write_path", {"path": "c.txt", "content": "x"}),
        ("write_path", {"path": "/agents/hand/memory/c.txt", "content": "kept"}),
        ("read_path", {"path": "/agents/hand/memory/c.txt"}),
        ("write_path", {"path": "/agents/hand/outbox/alice", "content": "hello"}),
        ("exec_path", {"path": "/agents/hand/reminders/new", "input": "in 1h wake up"}),
        ("exec_path", {"path": "/bin/echo", "input": ""}),
        ("exec_path", {"path": "run.sh", "input": "in"}),
        ("write_path", {"path": "/etc/agentfs.yaml", "content": "x"}),
    ]
    script = tmp_path / "here" / "run.sh"
    script.write_text("#!/bin/sh\ncat; echo out; exit 3\n")
    script.chmod(0o755)
    code = tmp_path / "hands.py"
    code.write_text(HANDS)
    pid = models.spawn(
        "hand",
        exec=[AGENTFS[0], str(code), json.dumps(wanted)],
        cwd=str(tmp_path / "here"),
        deny=["file_write", "network_access"],
        restart="never",
    )
    assert models.read(f"proc/{pid}/wait") == "0\n", models.read("agents/hand/log")
    results = models.read("agents/hand/log").split("\x00")[:-1]
    told = dict(zip((f"{name} {a['path']}" for name, a in wanted), results, strict=True))
    assert told["read_path /agents/alice/state"] == "idle\n"
    assert told[f"read_path {models.path}/agents/alice/state"] == "idle\n"
    assert (told["read_path a.txt"], told["read_path b.bin"]) == (
        "text",
        "[3 bytes that are no text]",
    )
    assert told["read_path /agents/hand/recv"] == "[nothing is there at the moment]"
    assert "alice" in told["read_path /agents/alice/recv"]
    assert told["read_path /agents/alice/recv"].startswith("error: ")
    assert told["list_directory ."] == "a.txt\nb.bin\nrun.sh"
    assert told["stat_path /agents/alice/state"].startswith("kind value, 5 bytes")
    assert os.strerror(errno.EACCES) in told["write_path c.txt"]
    assert told["read_path /agents/hand/memory/c.txt"] == "kept"
    assert models.read("agents/alice/inbox/new/" + os.listdir(models / "agents/alice/inbox/new")[0])
    assert told["exec_path /agents/hand/reminders/new"].strip().isdigit()
    assert told["exec_path /bin/echo"].startswith("error: /bin/echo: No such file")  # of the tree
    assert told["exec_path run.sh"] == "inout\n\n[it ended with code 3]"
    assert "only the operator may change" in told["write_path /etc/agentfs.yaml"]


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="a mount table of its own takes root")
def test_without_a_tree_it_runs_in_a_private_one(fuse: None, tmp_path: Path) -> None:
    """In a name space in which no tree is mounted."""
    script = """
for path in $(awk '$3 == "fuse.agentfs" {print $2}' /proc/self/mounts); do umount -l "$path"; done
"$@"; echo "code $?"
awk '$3 == "fuse.agentfs"' /proc/self/mounts; ls "$TMPDIR"
"""
    env = {name: text for name, text in os.environ.items() if name != "AGENTFS"}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *AGENTFS, "run", "--", "sh", "-c",
         "readlink $AGENTFS/agents/self; exit 4"],
        env=env | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    name, code, *left = done.stdout.splitlines()
    assert name.startswith("run-")
    assert (code, left) == ("code 4", [])
    assert done.stderr == (
        "agentfs: no tree is mounted: this runs in a private one, which is gone afterwards\n"
    )
