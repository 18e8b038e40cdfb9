"""Programs that search, copy and pack a folder read what is there, take no message, and end."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.puppet import Puppet
from tests.tree import Tree
from tests.zoo.programs import needs, run, waiting

pytestmark = pytest.mark.mount

BODIES = ["the first\n", "the second\n", "the third\n"]
JOBS = ["job 1\n", "job 2\n"]


@pytest.fixture(scope="module")
def bob(zoo: Tree) -> Iterator[Puppet]:
    """An agent whose mail waits, with a queue, a topic and a question beside it."""
    made = Puppet(zoo, "bob")
    for body in BODIES:
        zoo.write("agents/init/outbox/bob", body)
    os.mkdir(zoo / "dev/queues/jobs")
    for job in JOBS:
        zoo.write("dev/queues/jobs/send", job)
    (zoo / "dev/topics/news").touch()
    zoo.ask("agents/bob/asks/new", "To: init\nReply-By: 1d\n\nMay I?\n")
    (zoo / "shared/haystack").write_text("one needle\n")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_is_taken(zoo: Tree, bob: Puppet) -> Iterator[None]:
    """What every program in this file must leave behind."""
    yield
    assert waiting(zoo / "agents/bob") == BODIES
    assert os.listdir(zoo / "agents/bob/inbox/cur") == []
    assert waiting_jobs(zoo) == JOBS
    assert "Traceback" not in zoo.log()


def waiting_jobs(zoo: Tree) -> list[str]:
    new = zoo / "dev/queues/jobs/new"
    return [(new / name).read_text().partition("\n\n")[2] for name in sorted(os.listdir(new))]


SEARCHES: dict[str, tuple[tuple[str, ...], str]] = {
    "grep -r": (("grep", "-rl", "second", "."), "inbox/new/"),
    "grep --include": (("grep", "-rl", "--include=*", "second", "."), "inbox/new/"),
    "rg": (("rg", "-l", "--no-ignore", "second"), "inbox/new/"),
    "rg -uuu": (("rg", "-uuul", "second"), "inbox/new/"),
    "find -type f -exec cat": (("find", ".", "-type", "f", "-exec", "cat", "{}", "+"), "second"),
    "find -type f | xargs md5sum": (
        ("sh", "-c", "find . -type f -print0 | xargs -0 md5sum"),
        "inbox/new/",
    ),
    "find -newer": (("find", ".", "-newer", "/etc/passwd", "-ls"), "recv"),
    "du": (("du", "-ab", "."), "recv"),
    "file": (("sh", "-c", "find . | file -f -"), "recv"),
    "getfattr": (("getfattr", "-R", "-d", "-m", "-", "."), ""),
    "ls -lR": (("ls", "-laR", "."), "recv"),
}


def may_fail(name: str) -> tuple[int, ...]:
    """grep -R follows links and says of some that they cannot be read, du and find of what went."""
    return (0, 1, 2) if name.startswith(("grep", "rg", "find", "getfattr")) else (0,)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_in_the_agents_own_folder_as_the_operator(
    zoo: Tree, bob: Puppet, name: str
) -> None:
    command, wanted = SEARCHES[name]
    if shutil.which(command[0]) is None:
        pytest.skip(f"not installed: {command[0]}")
    assert wanted in run(*command, cwd=zoo / "agents/bob", codes=may_fail(name))


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_in_the_agents_own_folder_by_the_agent(
    zoo: Tree, bob: Puppet, name: str, tmp_path: Path
) -> None:
    command, wanted = SEARCHES[name]
    if shutil.which(command[0]) is None:
        pytest.skip(f"not installed: {command[0]}")
    output = tmp_path / "output"
    words = f"timeout 60 {' '.join(map(quoted, command))}"
    code = bob.do(f"os.system({f'cd {zoo.path}/agents/bob; {words} > {output} 2>&1'!r}) >> 8")
    assert code in may_fail(name), output.read_text()
    assert wanted in output.read_text()


def quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


WALKS: dict[str, Callable[[Path], tuple[str | Path, ...]]] = {
    "grep -r": lambda to: ("grep", "-rs", "needle", "."),
    "rg": lambda to: ("rg", "-uuu", "--no-messages", "needle"),
    "find": lambda to: ("find", ".", "-ls"),
    "find -exec cat": lambda to: ("find", ".", "-type", "f", "-exec", "cat", "{}", "+"),
    "tar": lambda to: ("tar", "-cf", to / "tree.tar", "."),
    "rsync -a": lambda to: ("rsync", "-a", "./", f"{to}/copy"),
    "zip -r": lambda to: ("zip", "-qr", to / "tree.zip", "."),
    "zip -ry": lambda to: ("zip", "-qry", to / "tree.zip", "."),
    "cp -a": lambda to: ("cp", "-a", ".", to / "copy"),
    "cp -r": lambda to: ("cp", "-r", ".", to / "copy"),
    "du": lambda to: ("du", "-a", "."),
    "file": lambda to: ("sh", "-c", "find . | file -f - > /dev/null"),
    "getfattr -R": lambda to: ("getfattr", "-R", "-d", "-m", "-", "."),
    "busybox tar": lambda to: ("busybox", "tar", "-cf", to / "tree.tar", "."),
    "git add": lambda to: ("sh", "-c", f"git init -q {to}/r && git --git-dir={to}/r/.git"
                           " --work-tree=. add --ignore-errors ."),
}  # fmt: skip


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_over_the_whole_tree_ends(zoo: Tree, name: str, tmp_path: Path) -> None:
    command = WALKS[name](tmp_path)
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"not installed: {command[0]}")
    # They say so, and go on, where something may not be read or is gone when they come to it.
    run(*command, cwd=zoo.path, codes=(0, 1, 2, 12, 18, 23, 24, 123, 128))


def test_pythons_walkers_read_what_is_a_file(zoo: Tree, tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "for folder, _, names in os.walk(sys.argv[1]):\n"
        "    for name in names:\n"
        "        path = os.path.join(folder, name)\n"
        "        if os.path.isfile(path) and not os.path.islink(path):\n"
        "            try: open(path, 'rb').read()\n"
        "            except OSError: pass\n"
    )
    run(sys.executable, "-c", script, zoo.path)


@needs("zip")
def test_an_agents_folder_is_copied_without_its_mail_being_taken(zoo: Tree, tmp_path: Path) -> None:
    folder = zoo / "agents/bob"
    for command in (
        ("cp", "-r", folder, tmp_path / "cp"),
        ("rsync", "-a", f"{folder}/", tmp_path / "rsync"),
        ("zip", "-qr", tmp_path / "bob.zip", folder),
        ("tar", "-cf", tmp_path / "bob.tar", folder),
    ):
        run(*command, codes=(0, 1, 2, 18, 23, 24))
    assert len(list((tmp_path / "cp/inbox/new").iterdir())) == len(BODIES)
    assert len(list((tmp_path / "rsync/inbox/new").iterdir())) == len(BODIES)


def test_copytree_reports_the_streams_and_copies_the_rest(zoo: Tree, tmp_path: Path) -> None:
    with pytest.raises(shutil.Error) as failed:
        shutil.copytree(zoo / "agents/bob/inbox/..", tmp_path / "copy", symlinks=True)
    names = {os.path.basename(source) for source, *_ in failed.value.args[0]}
    assert "recv" in names
    assert len(os.listdir(tmp_path / "copy/inbox/new")) == len(BODIES)
