"""What mail programs keep beside the mail of an agent: mbsync and notmuch work on an inbox."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

CONFIG = """\
MaildirStore tree
Inbox {inbox}
AltMap {alt}

MaildirStore local
Path {local}/
Inbox {local}/INBOX

Channel c
Far :tree:
Near :local:
Create Near
Sync Pull
SyncState *
"""


@pytest.fixture(scope="module")
def tree(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    """One for all: each test has an agent of its own."""
    made = QuickTree(tmp_path_factory.mktemp("beside") / "tree", hatchery=hatchery)
    try:
        made.mount()
        yield made
    finally:
        made.clean_up()


def inbox_of(tree: Tree, name: str) -> Path:
    os.mkdir(tree / f"agents/{name}")
    return tree / f"agents/{name}/inbox"


def send(tree: Tree, name: str, *bodies: str) -> None:
    for body in bodies:
        tree.write(f"agents/init/outbox/{name}", body)


def bodies(folder: Path) -> list[str]:
    return sorted(each.read_text().rpartition("\n\n")[2] for each in folder.iterdir())


@pytest.mark.skipif(shutil.which("mbsync") is None, reason="no mbsync")
@pytest.mark.parametrize("alt", ["yes", "no"])
def test_mbsync_pulls_an_inbox(tree: Tree, tmp_path: Path, alt: str) -> None:
    """With AltMap it keeps its numbers in .isyncuidmap.db, without in .uidvalidity and the names of
    the files. What is pulled twice is there once, and everything waits for bob as before."""
    inbox = inbox_of(tree, f"sync-{alt}")
    config = tmp_path / "mbsyncrc"
    config.write_text(CONFIG.format(inbox=inbox, local=tmp_path, alt=alt))

    def pull() -> None:
        command = ["mbsync", "-c", str(config), "c"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr

    send(tree, f"sync-{alt}", "one", "two")
    pull()
    assert bodies(tmp_path / "INBOX/new") == ["one", "two"]
    send(tree, f"sync-{alt}", "three")
    pull()
    assert bodies(tmp_path / "INBOX/new") == ["one", "three", "two"]
    assert os.listdir(tmp_path / "INBOX/cur") == []
    assert bodies(inbox / "new") == ["one", "three", "two"]
    kept = ".isyncuidmap.db" if alt == "yes" else ".uidvalidity"
    assert sorted(os.listdir(inbox)) == [kept, "cur", "new", "tmp"]
    order = [(inbox / "new" / name).read_text()[-3:] for name in sorted(os.listdir(inbox / "new"))]
    assert order == ["one", "two", "ree"]


@pytest.mark.skipif(shutil.which("notmuch") is None, reason="no notmuch")
def test_notmuch_indexes_an_inbox(tree: Tree, tmp_path: Path) -> None:
    inbox = inbox_of(tree, "indexed")
    send(tree, "indexed", "Subject: first\n\nabout apples", "Subject: second\n\nabout pears")
    config = tmp_path / "notmuchrc"
    config.write_text(
        f"[database]\npath={inbox}\n[user]\nname=x\nprimary_email=x@x\n"
        "[new]\ntags=new\n[maildir]\nsynchronize_flags=true\n"
    )

    def notmuch(*words: str) -> str:
        command = ["notmuch", f"--config={config}", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Added 2 new messages" in notmuch("new")
    (found,) = notmuch("search", "--output=files", "pears").split()
    assert Path(found).parent == inbox / "new"
    send(tree, "indexed", "Subject: third\n\nabout pears")
    assert "Added 1 new message" in notmuch("new")
    assert notmuch("count", "pears").strip() == "2"
    assert sorted(os.listdir(inbox)) == [".notmuch", "cur", "new", "tmp"]


def test_only_names_with_a_full_stop_are_for_this(tree: Tree) -> None:
    inbox = inbox_of(tree, "names")
    with pytest.raises(PermissionError):
        (inbox / "notes").write_text("x")
    with pytest.raises(PermissionError):
        (inbox / "folder").mkdir()
    (inbox / ".notes").write_text("x")
    with pytest.raises(PermissionError):
        (inbox / ".notes").rename(inbox / "notes")
    with pytest.raises(OSError, match="cross-device"):
        (inbox / ".notes").rename(inbox / "new/x")
    with pytest.raises(PermissionError):
        (inbox / "new").rename(inbox / ".new")
    (inbox / ".notes").rename(inbox / ".other")
    (inbox / ".other").replace(inbox / ".notes")
    os.link(inbox / ".notes", inbox / ".lock")
    (inbox / ".lock").unlink()
    (inbox / ".folder").mkdir()
    (inbox / ".folder/any").write_text("y")
    (inbox / ".notes").rename(inbox / ".folder/notes")
    assert sorted(os.listdir(inbox)) == [".folder", "cur", "new", "tmp"]
    assert sorted(os.listdir(inbox / ".folder")) == ["any", "notes"]
    assert os.listdir(inbox / "new") == []
    shutil.rmtree(inbox / ".folder")
    assert sorted(os.listdir(inbox)) == ["cur", "new", "tmp"]


def test_they_are_bounded_in_number_and_size(tree: Tree) -> None:
    inbox = inbox_of(tree, "bounded")
    (inbox / ".folder").mkdir()
    for number in range(63):
        (inbox / (f".{number}" if number % 2 else f".folder/{number}")).touch()
    for attempt in (
        lambda: (inbox / ".more").touch(),
        lambda: (inbox / ".folder/more").mkdir(),
        lambda: os.symlink("x", inbox / ".more"),
        lambda: os.link(inbox / ".1", inbox / ".more"),
        lambda: os.mkfifo(inbox / ".folder/more"),
    ):
        with pytest.raises(OSError, match="No space left"):
            attempt()
    (inbox / ".1").rename(inbox / ".renamed")  # that is none more
    (inbox / ".renamed").write_text("and it may be written")
    most = 8 * 1024 * 1024
    with (inbox / ".3").open("r+b", buffering=0) as file:
        file.truncate(most)
        for attempt in (
            lambda: os.pwrite(file.fileno(), b"x", most),
            lambda: file.truncate(most + 1),
            lambda: os.truncate(inbox / ".3", most + 1),
        ):
            with pytest.raises(OSError, match="File too large") as caught:
                attempt()
            assert caught.value.errno == errno.EFBIG
    assert (inbox / ".3").stat().st_size == most


def test_they_are_private_to_the_agent(tree: Tree) -> None:
    """Agents of one user pass the modes: what keeps them out is ours."""
    inbox = inbox_of(tree, "owner")
    (inbox / ".secret").write_text("mine")
    script = (
        'cd "$AGENTFS/agents/owner/inbox" && for try in "cat .secret" "touch .mine"'
        ' "mkdir .mine" "rm .secret" "mv .secret .mine" "ls -A"; do'
        ' $try >/dev/null 2>&1 && echo "could $try" || echo refused; done;'
        ' cd "$AGENTFS/agents/self/inbox" && echo own > .own && cat .own'
    )
    tree.spawn("other", exec=["sh", "-c", script], restart="never")
    log = tree / "agents/other/log"
    eventually(lambda: log.read_text() == "refused\n" * 6 + "own\n", log.read_text())
    assert sorted(os.listdir(inbox)) == [".secret", "cur", "new", "tmp"]


def test_they_survive_a_restart_and_go_with_the_agent(trees: Callable[..., Tree]) -> None:
    tree = trees()
    tree.mount()
    inbox = inbox_of(tree, "bob")
    (inbox / ".uidvalidity").write_text("1\n7\n")
    tree.crash()
    tree.mount()
    assert (inbox / ".uidvalidity").read_text() == "1\n7\n"
    os.rmdir(tree / "agents/bob")
    os.mkdir(tree / "agents/bob")
    assert sorted(os.listdir(inbox)) == ["cur", "new", "tmp"]
    (inbox / ".uidvalidity").write_text("2\n")
    assert (inbox / ".uidvalidity").read_text() == "2\n"
