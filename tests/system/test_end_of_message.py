"""Programs that read on after the end of a message: they get one, whole, and then the end."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree

pytestmark = pytest.mark.mount

TEXTS = ["first line\nsecond line", "another", "the last"]
"""None of them ends in a newline."""

PLACES = ["agents/alice/recv", "agents/alice/recv.batch", "dev/queues/jobs/recv"]


@pytest.fixture(scope="module")
def shared(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    tree = QuickTree(tmp_path_factory.mktemp("ends") / "tree", hatchery=hatchery)
    try:
        tree.mount()
        tree.spawn("alice")
        (tree / "dev/queues/jobs").mkdir()
        yield tree
    finally:
        tree.clean_up()


@pytest.fixture
def fill(shared: Tree) -> Iterator[Callable[[str], Path]]:
    """Puts the messages into the box of a `recv`, and empties it afterwards."""
    boxes: list[Path] = []

    def put(place: str) -> Path:
        recv = shared / place
        box = recv.parent if "queues" in place else recv.parent / "inbox"
        boxes.append(box)
        for text in TEXTS:
            where = "dev/queues/jobs/send" if "queues" in place else "agents/init/outbox/alice"
            shared.write(where, text)
        return recv

    yield put
    for box in boxes:
        for folder in ("new", "cur"):
            for file in (box / folder).iterdir():
                file.unlink()


def left(recv: Path) -> tuple[int, int]:
    """How many messages wait, and how many are claimed."""
    box = recv.parent if "queues" in str(recv) else recv.parent / "inbox"
    return len(os.listdir(box / "new")), len(os.listdir(box / "cur"))


READERS = {
    "python: for": "import sys\nfor line in open(sys.argv[1]): print(line.rstrip())",
    "python: readlines": "import sys\nprint(''.join(open(sys.argv[1]).readlines()))",
    "python: readline": (
        "import sys\nfile = open(sys.argv[1])\nfor _ in range(40): print(file.readline().rstrip())"
    ),
    "python: unbuffered": (
        "import sys\nfile = open(sys.argv[1], 'rb', buffering=0)\n"
        "for _ in range(9): print(file.read(100000).decode())"
    ),
    "bash: mapfile": 'mapfile -t lines < "$1"; printf "%s\\n" "${lines[@]}"',
    "bash: read": 'while read -r x || [ -n "$x" ]; do echo "$x"; x=; done < "$1"',
    "bash: read, once more": (
        'exec 3< "$1"; while read -r x <&3 || [ -n "$x" ]; do echo "$x"; done; read -r x <&3;'
        ' read -r x <&3; echo "$x"'
    ),
    "bash: read -t": 'while read -t 9 -r x || [ -n "$x" ]; do echo "$x"; x=; done < "$1"',
    "bash: $(<)": 'echo "$(< "$1")"',
    "dash: read": 'while read -r x || [ -n "$x" ]; do echo "$x"; x=; done < "$1"',
    "busybox: read": 'while read -r x || [ -n "$x" ]; do echo "$x"; x=; done < "$1"',
    "busybox: cat": 'cat "$1"',
    "zsh: read": 'while read -r x || [ -n "$x" ]; do echo "$x"; x=; done < "$1"',
    "zsh: $(<)": 'echo "$(< $1)"',
    "fish: read": "while read -l x; echo $x; end < $argv[1]",
    "fish: read, to the end": "cat $argv[1] | while read -l x; echo $x; end",
    "perl: <>": "while (<>) { print; }",
    "awk": "{ print }",
    "cat": "",
    "dd": "",
    "sed": "",
    "head -c": "",
}


def command(reader: str, recv: Path) -> list[str]:
    program, _, _ = reader.partition(":")
    script = READERS[reader]
    return {
        "python": [sys.executable, "-c", script, str(recv)],
        "bash": ["bash", "-c", script, "bash", str(recv)],
        "dash": ["dash", "-c", script, "dash", str(recv)],
        "busybox": ["busybox", "sh", "-c", script, "sh", str(recv)],
        "zsh": ["zsh", "-fc", script, "zsh", str(recv)],
        "fish": ["fish", "--no-config", "-c", script, str(recv)],
        "perl": ["perl", "-e", script, str(recv)],
        "awk": ["awk", script, str(recv)],
        "cat": ["cat", str(recv)],
        "dd": ["dd", f"if={recv}", "bs=7", "status=none"],
        "sed": ["sed", "p;d", str(recv)],
        "head -c": ["head", "-c", "100000", str(recv)],
    }[program]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reader", READERS)
def test_one_open_file_is_one_message(fill: Callable[[str], Path], reader: str, place: str) -> None:
    recv = fill(place)
    if "batch" in place:  # all of them in one
        wanted, remain = [*TEXTS], (0, 3)
    else:
        wanted, remain = TEXTS[:1], (2, 1)
    done = subprocess.run(command(reader, recv), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for text in TEXTS:
        assert all((line in done.stdout) is (text in wanted) for line in text.split("\n")), (
            done.stdout
        )
    assert left(recv) == remain


# -- asking for more on purpose --------------------------------------------------------------------


@pytest.fixture
def recv(fill: Callable[[str], Path]) -> Iterator[int]:
    file = os.open(fill("agents/alice/recv"), os.O_RDWR)
    yield file
    os.close(file)


def to_the_end(file: int, size: int = 100_000) -> str:
    content = b""
    while piece := os.read(file, size):
        content += piece
    return content.decode().partition("\n\n")[2]


def test_the_end_holds_however_often_one_reads(recv: int, shared: Tree) -> None:
    assert to_the_end(recv, 10) == TEXTS[0]
    assert [os.read(recv, size) for size in (1, 10, 100_000)] == [b"", b"", b""]
    assert left(shared / PLACES[0]) == (2, 1)


def test_rewinding_asks_for_the_next(recv: int, shared: Tree) -> None:
    for text in TEXTS:
        assert to_the_end(recv) == text
        os.lseek(recv, 0, os.SEEK_SET)
    assert left(shared / PLACES[0]) == (0, 1)


def test_so_does_who_reads_each_as_one_piece_at_the_beginning(recv: int, shared: Tree) -> None:
    for text in TEXTS:
        assert os.pread(recv, 100_000, 0).decode().endswith(f"\n\n{text}")
    assert left(shared / PLACES[0]) == (0, 1)


def test_before_the_end_one_may_go_back_and_read_again(recv: int, shared: Tree) -> None:
    begun = os.read(recv, 20)
    assert os.pread(recv, 20, 0) == begun
    rest = os.read(recv, 100_000)
    assert rest.decode().endswith(TEXTS[0])
    os.lseek(recv, 3, os.SEEK_SET)
    assert os.read(recv, 100_000) == (begun + rest)[3:]
    assert left(shared / PLACES[0]) == (2, 1)


def test_saying_what_became_of_it_asks_for_the_next(recv: int, shared: Tree) -> None:
    for text in TEXTS:
        assert to_the_end(recv) == text
        os.write(recv, b"done\n")
    assert left(shared / PLACES[0]) == (0, 0)


def test_a_word_in_the_middle_of_a_message_loses_none_of_its_bytes(recv: int) -> None:
    begun = os.read(recv, 30)
    os.write(recv, b"done\n")
    assert (begun.decode() + os.read(recv, 100_000).decode()).endswith(TEXTS[0])


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK])
def test_a_loop_that_polls_gets_them_all_and_does_not_spin(
    fill: Callable[[str], Path], shared: Tree, flags: int
) -> None:
    file = os.open(fill("agents/alice/recv"), os.O_RDONLY | flags)
    got, empty = "", 0
    try:
        poll = select.poll()
        poll.register(file, select.POLLIN)
        while len([text for text in TEXTS if text in got]) < len(TEXTS):
            assert poll.poll(20_000)
            piece = os.read(file, 100_000)
            got, empty = got + piece.decode(), empty + (not piece)
        while poll.poll(0):
            empty += not os.read(file, 100_000)
            assert empty < 10
    finally:
        os.close(file)


def test_a_read_without_waiting_says_that_nothing_waits(
    fill: Callable[[str], Path], shared: Tree
) -> None:
    path = fill("agents/alice/recv")
    for _ in TEXTS:
        path.read_text()
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            os.read(file, 100)
    finally:
        os.close(file)
    assert left(path) == (0, 0)  # who asks for more has finished what it had


SHARED_DESCRIPTORS = {
    "cats": 'exec 3< "$1"; for i in 1 2 3; do m=$(cat <&3); echo "${m##*\n}"; done',
    "the shell and a cat": (
        'exec 3< "$1"; cat <&3 > /dev/null; while read -r x <&3 || [ -n "$x" ]; do m=$x; x=; done;'
        ' echo "$m"; m=$(cat <&3); echo "${m##*\n}"'
    ),
    "sub-shells": (
        'exec 3< "$1"; for i in 1 2 3; do'
        ' (while read -r x || [ -n "$x" ]; do m=$x; x=; done; echo "$m") <&3; done'
    ),
    "a head and a cat": (
        'exec 3< "$1"; head -n 1 <&3 > /dev/null; m=$(cat <&3); echo "${m##*\n}"; cat <&3; echo'
    ),
}


@pytest.mark.parametrize("shell", ["bash", "dash"])
@pytest.mark.parametrize("script", SHARED_DESCRIPTORS)
def test_another_process_that_shares_the_descriptor_gets_the_next(
    fill: Callable[[str], Path], shell: str, script: str
) -> None:
    path = fill("agents/alice/recv")
    done = subprocess.run(
        [shell, "-c", SHARED_DESCRIPTORS[script].replace("\\n", "\n"), shell, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    lasts = [text.split("\n")[-1] for text in TEXTS]
    got = [line for line in done.stdout.splitlines() if line in lasts]
    assert got == [last for last in lasts if last in got], done.stdout
    assert len(got) == {"the shell and a cat": 2, "a head and a cat": 2}.get(script, 3), done.stdout
