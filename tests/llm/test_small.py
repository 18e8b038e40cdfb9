"""/dev/llm/smollm2 in a real tree: the real small model where it is installed, and its tape, which
is shipped for everybody else."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from agentfs.dialects.tape import read_tape
from agentfs.machine.proc import read_stat
from tests.llm.small import NEEDS_MODEL, PLACES, QUESTIONS, TAPE, ask_file, asked, serve
from tests.tree import PATIENCE, Tree, eventually

pytestmark = pytest.mark.mount

STORY = "Write a long story about a fox."


@pytest.mark.parametrize("place", PLACES)
def test_a_question_is_answered_and_the_next_goes_on_with_it(tree: Tree, place: str) -> None:
    serve(tree, place)
    assert os.listdir(tree / "dev/llm") == ["smollm2"]
    first, second = ask_file(tree, "Capital of France?", "And of Italy?")
    assert "Paris" in first
    assert "Rome" in second


@pytest.mark.parametrize("place", PLACES)
def test_the_first_word_comes_before_the_last_is_made(tree: Tree, place: str) -> None:
    serve(tree, place)
    with open(tree / "dev/llm/smollm2", "r+b", buffering=0) as file:
        file.write(QUESTIONS[-1].encode())
        pieces = []
        while piece := file.read(1 << 16):
            pieces.append((time.monotonic(), piece))
    assert len(pieces) > 5
    assert pieces[-1][0] - pieces[0][0] > 0.1, "seconds; they come as they are made"


@pytest.mark.parametrize("place", PLACES)
def test_the_real_sdks_ask_it_in_three_dialects_plainly_and_as_a_stream(
    tree: Tree, place: str
) -> None:
    serve(tree, place)
    next(ask_file(tree, "Capital of France?"))
    for way, ask in asked(tree).items():
        assert "Paris" in ask("Capital of France?"), way


@pytest.mark.parametrize("place", PLACES)
def test_an_agent_in_one_command(tree: Tree, place: str) -> None:
    serve(tree, place)
    assert "Paris" in tree.run("run", "-m", "smollm2", "Capital of France?").stdout


@pytest.mark.parametrize("place", PLACES)
def test_the_command_lists_models_and_tries_one(tree: Tree, place: str) -> None:
    serve(tree, place)
    assert tree.run("model", "ls").stdout == "smollm2\n"
    tried = tree.run("model", "test", "smollm2")
    assert "Paris" in tried.stdout
    assert "the first word after" in tried.stderr
    line = tree.run("model", "test", "smollm2", "--how").stdout
    shell = tree.start("sh", "-c", line, env={"AGENTFS": str(tree.path)}, stdout=subprocess.PIPE)
    assert b"Paris" in shell.communicate(timeout=PATIENCE)[0]
    refused = tree.run("model", "test", "gpt", check=False)
    assert (refused.returncode, "gpt" in refused.stderr) == (1, True)


def test_of_another_question_the_tape_says_which_it_has(tree: Tree) -> None:
    serve(tree, "tape")
    with pytest.raises(OSError, match="Remote I/O error"):
        next(ask_file(tree, "What is the capital of Portugal?"))
    said = tree.read("proc/self/error")
    assert "the tape has no answer to" in said
    assert "What is the capital of France?" in said


def test_the_tape_has_every_question_in_every_way_and_is_small() -> None:
    records = read_tape(TAPE.read_bytes())
    said = [str(record.request) for record in records]
    for question in QUESTIONS:
        assert sum(question in one for one in said) >= 7, question
    assert {record.status for record in records} == {200}
    assert TAPE.stat().st_size < 300_000


# -- the model alone -------------------------------------------------------------------------------


@NEEDS_MODEL
@pytest.mark.parametrize("how", ["its reader is killed", "the call is cancelled"])
def test_the_model_stops_at_once_when(tree: Tree, how: str) -> None:
    serve(tree, "model")
    script = f"exec 3<>{tree.path}/dev/llm/smollm2; echo '{STORY}' >&3; exec cat <&3 >/dev/null"
    reader = tree.start("bash", "-c", script)
    eventually(lambda: _local_model(tree) is not None)
    model = _local_model(tree)
    assert model is not None
    idle = _ticks(model)
    eventually(lambda: _ticks(model) > idle + 50, "it does not write")
    before = _ticks(model)
    if how == "its reader is killed":
        reader.kill()
    else:
        (call,) = os.listdir(tree / "proc/1/calls")
        tree.write(f"proc/1/calls/{call}/ctl", "cancel")
    reader.wait(PATIENCE)
    eventually(lambda: not _works(model))
    used = (_ticks(model) - before) / os.sysconf("SC_CLK_TCK")
    assert used < 1, "seconds; the whole story takes more than ten"
    eventually(lambda: os.listdir(tree / "proc/1/calls") == [])


@NEEDS_MODEL
def test_it_ends_with_the_gateway_and_comes_again(tree: Tree) -> None:
    serve(tree, "model")
    next(ask_file(tree, "Say hello."))
    model = _local_model(tree)
    assert model is not None
    os.kill(int(_gateway(tree)), signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{model}"))
    assert "hello" in next(ask_file(tree, "Say hello.")).lower()


def _gateway(tree: Tree) -> str:
    facts = dict(line.split(":\t", 1) for line in tree.read("sys/gateway").splitlines())
    return facts["Ospid"]


def _local_model(tree: Tree) -> int | None:
    """Its OS pid: it is the gateway's child."""
    gateway = _gateway(tree)
    for entry in filter(str.isdigit, os.listdir("/proc") if gateway.isdigit() else ()):
        stat = read_stat(int(entry))
        if stat is not None and stat.ppid == int(gateway):
            return int(entry)
    return None


def _ticks(ospid: int) -> int:
    said = Path(f"/proc/{ospid}/stat").read_text().rpartition(")")[2].split()
    return int(said[11]) + int(said[12])


def _works(ospid: int) -> bool:
    before = _ticks(ospid)
    time.sleep(0.3)
    return _ticks(ospid) - before > 2
