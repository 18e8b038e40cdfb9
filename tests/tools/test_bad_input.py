"""Whatever a command line is given: words, an exit code of the table, and never a traceback."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from agentfs.tools import cli
from agentfs.tools.exits import GONE, INTERRUPTED, NO_TREE, USAGE
from tests.tree import AGENTFS, Tree, eventually

pytestmark = pytest.mark.mount

TABLE = {0, 1, USAGE, NO_TREE, INTERRUPTED, GONE}
PATIENCE = 60.0

FILES = {
    "date.yaml": b"name: a\nenv: {A: 2026-02-30}\n",
    "day.yaml": b"name: 2026-13-01\nheartbeat: 2026-02-30\n",
    "bool.yaml": b"name: !!bool maybe\n",
    "int.yaml": b"name: a\nheartbeat: !!int many\n",
    "binary.yaml": b'name: !!binary xyz\nexec: !!binary "@@@"\n',
    "digits.yaml": b"name: a\nheartbeat: " + b"9" * 5000 + b"\n",
    "latin.yaml": b"name: \377\376\n",
    "object.yaml": b"name: a\nx: !!python/object:os.system {}\n",
    "nul.yaml": b"name: a\0b\n",
    "list.yaml": b"- name: a\n",
    "empty.yaml": b"",
    "open.yaml": b"[\n",
    "deep.yaml": b"[" * 20_000,
    "alias.yaml": b"a: &a [*a]\nname: *b\n",
    "keys.yaml": b"{[a]: b, ? {x: y} : z}\n",
    "twice.yaml": b"name: a\nname: b\n",
    "surrogate.yaml": b'name: "\\ud800"\n',
}
SYSTEM = b"kind: System\nmetadata: {name: s}\nspec:\n  processes:\n    a:\n      "


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
        (folder / f"up-{name}").write_bytes(SYSTEM + content.replace(b"\n", b"\n      "))
    (folder / "missing.yaml").unlink(missing_ok=True)
    return folder


def called(words: list[str], tree: Path | None, output: str = "") -> tuple[int, str]:
    """The exit code of a command, and what it said on standard error. It runs in a fork, which is a
    hundredth of what a new interpreter takes. `output`: what is standard output, if not a pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            os.dup2(writing, 2)
            os.dup2(os.open(output or os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
            os.environ["AGENTFS"] = "" if tree is None else str(tree)
            sys.argv = ["agentfs", *words]
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 71
        except BaseException:  # what the test is about
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    said = b""
    try:
        while select.select([reading], [], [], PATIENCE)[0]:
            data = os.read(reading, 65536)
            said += data
            if not data:
                break
        else:
            os.kill(child, signal.SIGKILL)
            said += b"\nit did not end"
    finally:
        os.close(reading)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode(errors="replace")


def sound(words: list[str], code: int, said: str) -> None:
    assert code in TABLE, f"{words}: {code}: {said}"
    assert "Traceback" not in said, f"{words}: {said}"
    assert "internal fault" not in said, f"{words}: {said}"
    assert "it did not end" not in said, f"{words}: {said}"


def test_no_file_makes_spawn_or_up_fail_without_words(tree: Tree, here: Path) -> None:
    for name in [*FILES, "missing.yaml", "."]:
        for words in (["spawn"], ["spawn", "-n", "x", "--role", "daemon"], ["up"]):
            told = [*words, str(here / name)]
            code, said = called(told, tree.path)
            sound(told, code, said)
            if code:
                assert said, told
            if name in ("missing.yaml", "."):
                assert code == 1
                assert name.rstrip(".") in said
        if name in FILES and name not in ("date.yaml", "keys.yaml", "empty.yaml"):
            told = ["up", str(here / f"up-{name}")]
            code, said = called(told, tree.path)
            sound(told, code, said)
            assert code == 1, f"{told}: {said}"


WORDS = (
    "", "-", "--", "-x", "--json", "--how", "--help", "self", "init", "bob", "nobody", "0", "1",
    "-1", "9" * 30, "9" * 5000, "..", "/", "a/b", "a\nb", "\udcff", "ü", "\u202e", "%s", "{0}",
    "--since", "yesterday", "-n", "-s", "TERM", "KILL", "--reject", "x" * 300, "\x1b[31m", "query",
    "since=x", "agent=", "limit=-1", "2026-02-30", "--type", "--agent", "-p", "high", "--env", "A",
    "--lines",
)  # fmt: skip
WAITS = {"mount", "umount", "up", "recv", "doctor"}
"""What waits, or is about no tree."""


def lines() -> Iterator[list[str]]:
    """Command lines, the same ones each time."""
    dice = random.Random(20261130)
    names = sorted(set(cli.commands.list_commands(click.Context(cli.commands))) - WAITS)
    for number in range(220):
        name = names[number % len(names)]
        given = dice.choices(WORDS, k=dice.randrange(4))
        if name == "events":
            given.insert(0, "--no-follow")  # at the end it could be the value of an option
        if name == "run":  # a model would work on a long prompt for minutes
            given = ["--model", "nobody", *given]
        if name == "log":
            given = [word for word in given if not word.startswith("-f")]
        yield [name, *given]


def test_two_hundred_bad_command_lines_end_in_words(tree: Tree) -> None:
    tree.spawn("bob")
    for words in lines():
        code, said = called(words, tree.path)
        sound(words, code, said)


def test_what_reads_a_tree_says_so_where_there_is_none(tmp_path: Path) -> None:
    for words in (["ps"], ["tree"], ["send", "bob", "x"], ["log", "bob"], ["audit"], ["approve"]):
        code, said = called(words, tmp_path)
        assert (code, said.count("\n")) == (NO_TREE, 1), said
        assert f"no tree is mounted there; type `agentfs mount {tmp_path}`" in said


@pytest.mark.parametrize("words", [["ps"], ["events", "--no-follow"], ["--help"], ["audit"]])
def test_an_output_that_is_full_is_told_in_words(tree: Tree, words: list[str]) -> None:
    tree.spawn("bob")
    code, said = called(words, tree.path, output="/dev/full")
    assert (code, said) == (1, "agentfs: standard output: No space left on device\n")


def shell(line: str, tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line.replace("agentfs", " ".join(AGENTFS))],
        env=os.environ | {"AGENTFS": str(tree)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def test_a_closed_output_and_a_closed_pipe(tree: Tree) -> None:
    tree.spawn("bob")
    done = shell("agentfs ps >&-; echo $? >&2", tree.path)
    assert done.stderr == "agentfs: standard output: Bad file descriptor\n1\n"
    done = shell("(sleep 0.5; agentfs events --no-follow) | true; echo ${PIPESTATUS[0]}", tree.path)
    assert (done.stdout, done.stderr) == (f"{GONE}\n", "")


@pytest.mark.parametrize("words", [["recv"], ["events"]])
def test_ctrl_c_is_130(tree: Tree, words: list[str]) -> None:
    program = tree.start(
        *AGENTFS,
        *words,
        env=os.environ | {"AGENTFS": str(tree.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    eventually(lambda: waits(program.pid, tree))
    program.send_signal(signal.SIGINT)
    assert program.communicate(timeout=PATIENCE) == (b"", b"")
    assert program.returncode == INTERRUPTED


def waits(pid: int, tree: Tree) -> bool:
    """Whether the child of a command, which is what asks the tree, has a file of it open."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        folder = f"/proc/{child}/fd"
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # closed while we looked
                if os.readlink(f"{folder}/{name}").startswith(str(tree.path)):
                    return True
    return False
