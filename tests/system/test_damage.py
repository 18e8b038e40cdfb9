"""State directories that are damaged: a sentence says so, nothing is made worse, and what can be
saved is saved."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentfs.store.log import log_files
from agentfs.store.store import Store
from agentfs.tools.doctor import _store
from agentfs.tools.repair import repair
from tests.hatchery import Hatchery, QuickTree
from tests.storage import STORE_FILES
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

MAIL = 60
ADVICE = "agentfs doctor --state"


def use(tree: Tree) -> None:
    """Two agents, mail between them and the operator, and something in each of the other places."""
    tree.write("etc/agentfs.yaml", "messages: {max_waiting: 500}\n")
    for name in ("alice", "bob"):
        os.mkdir(tree / f"agents/{name}")
        (tree / f"agents/{name}/spec.yaml").write_text(f"name: {name}\nenv: {{WHO: {name}}}\n")
    for number in range(MAIL):
        text = f"message {number}\n" + ("long " * 2000 if number % 10 == 0 else "")
        (tree / f"agents/init/outbox/{('alice', 'bob')[number % 2]}").write_text(text)
    (tree / "agents/bob/memory/notes").write_text("remember\n")
    (tree / "shared/file").write_text("shared\n")


@pytest.fixture(scope="module")
def killed(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A state directory whose daemon was killed before any checkpoint: all is in the log."""
    tree = QuickTree(tmp_path_factory.mktemp("killed") / "tree", hatchery=hatchery)
    try:
        tree.mount()
        use(tree)
        tree.crash()
        yield tree.state
    finally:
        tree.clean_up()


@pytest.fixture(scope="module")
def folded(killed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with everything in the database, and an empty log."""
    state = tmp_path_factory.mktemp("folded") / "state"
    shutil.copytree(killed, state)
    Store(state / "store.db").close()
    assert os.path.getsize(state / "store.db") > 30 * 4096
    return state


@pytest.fixture
def damaged(trees: Callable[..., Tree]) -> Callable[[Path], Tree]:
    """A tree that is not mounted, with a copy of a state directory as its own."""

    def copy(state: Path) -> Tree:
        tree = trees()
        shutil.copytree(state, tree.state, dirs_exist_ok=True)
        return tree

    return copy


def refusal(tree: Tree) -> str:
    """Why it cannot be mounted; the files that count are as before then."""
    before = digests(tree.state)
    with pytest.raises(AssertionError) as caught:
        tree.mount()
    assert digests(tree.state) == before
    log = tree.log() if (tree.state / "kernel.log").is_file() else ""
    assert "Traceback" not in log, log
    said = re.search(r"failed error: (.*)", str(caught.value))
    assert said is not None, caught.value
    return said[1]


def digests(state: Path) -> dict[str, str]:
    """Of all files but the log, the lock, SQLite's index of the log, and the notes of reapers,
    which go when those have ended; empty files are none."""
    return {
        str(path.relative_to(state)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in state.rglob("*")
        if path.is_file()
        and path.stat().st_size
        and path.name not in ("kernel.log", "lock", "store.db-shm")
        and path.parent.name != "reapers"
    }


def overwrite(path: Path, start: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(data)


def mail(tree: Tree) -> set[int]:
    """The numbers of the messages that wait."""
    found = set()
    for name in sorted({"alice", "bob"} & set(os.listdir(tree / "agents"))):
        for file in os.listdir(tree / f"agents/{name}/inbox/new"):
            text = (tree / f"agents/{name}/inbox/new/{file}").read_bytes()
            found.add(int(text.partition(b"\n\n")[2].split()[1]))
    return found


# -- the logs of the store -----------------------------------------------------------------------


def without_ours(state: Path) -> None:
    """Our log, which makes up for what SQLite's lacks, is empty."""
    for path in log_files(state / "store.db"):
        os.truncate(path, 0)


def wal_cut(state: Path) -> None:
    os.truncate(state / "store.db-wal", os.path.getsize(state / "store.db-wal") // 2)


def wal_page_of_garbage(state: Path) -> None:
    size = os.path.getsize(state / "store.db-wal")
    overwrite(state / "store.db-wal", size // 2, os.urandom(4096))


def wal_head_of_garbage(state: Path) -> None:
    overwrite(state / "store.db-wal", 0, os.urandom(32))


def wal_empty(state: Path) -> None:
    os.truncate(state / "store.db-wal", 0)


def wal_gone(state: Path) -> None:
    os.unlink(state / "store.db-wal")


@pytest.mark.parametrize(
    "damage", [wal_cut, wal_page_of_garbage, wal_head_of_garbage, wal_empty, wal_gone]
)
def test_a_log_of_the_store_that_was_cut_is_noticed(
    killed: Path, damaged: Callable[[Path], Tree], damage: Callable[[Path], None]
) -> None:
    tree = damaged(killed)
    damage(tree.state)
    without_ours(tree.state)
    words = refusal(tree)
    assert "a log of the store" in words
    assert "store.db-wal, -log0 or -log1, was cut or damaged: it ends with event" in words
    assert f"{ADVICE} {tree.state} --repair" in words


@pytest.mark.parametrize("damage", [wal_cut, wal_page_of_garbage, wal_head_of_garbage, wal_gone])
def test_with_our_log_it_is_made_up_for_or_noticed(
    killed: Path, damaged: Callable[[Path], Tree], damage: Callable[[Path], None]
) -> None:
    tree = damaged(killed)
    damage(tree.state)
    try:
        tree.mount()
    except AssertionError as refused:
        assert "was cut or damaged: it ends with event" in str(refused)
    else:
        assert mail(tree) == set(range(MAIL))


def test_what_a_power_cut_took_is_told_and_no_hindrance(
    killed: Path, damaged: Callable[[Path], Tree]
) -> None:
    tree = damaged(killed)
    wal_cut(tree.state)
    without_ours(tree.state)
    number = (tree.state / "store.mark").read_text().split()[0]
    (tree.state / "store.mark").write_text(f"{number:>20} 12345678-1234-1234-1234-123456789012\n")
    tree.mount()
    assert "what was not synced is lost" in tree.log()
    assert len(mail(tree)) < MAIL


def test_a_killed_daemon_leaves_nothing_to_complain_about(
    killed: Path, damaged: Callable[[Path], Tree]
) -> None:
    tree = damaged(killed)
    tree.mount()
    assert mail(tree) == set(range(MAIL))
    assert "the log of the store" not in tree.log()


# -- the store and the directory -----------------------------------------------------------------


def gone(state: Path) -> None:
    os.unlink(state / "store.db")


def gone_with_its_log(state: Path) -> None:
    os.unlink(state / "store.db")
    (state / "store.db-wal").unlink(missing_ok=True)


def all_gone_but_the_files(state: Path) -> None:
    for path in state.glob("store.*"):
        path.unlink()


def empty(state: Path) -> None:
    os.truncate(state / "store.db", 0)


def first_page(state: Path) -> None:
    overwrite(state / "store.db", 0, os.urandom(4096))


def no_database(state: Path) -> None:
    (state / "store.db").write_text("hello\n" * 1000)


def newer(state: Path) -> None:
    with closing(sqlite3.connect(state / "store.db")) as database:
        database.execute("PRAGMA user_version = 99")


def half(state: Path) -> None:
    os.truncate(state / "store.db", os.path.getsize(state / "store.db") // 2 // 4096 * 4096)


def tail_cut(state: Path) -> None:
    """Of what came last: the roots of the tables are in front."""
    os.truncate(state / "store.db", os.path.getsize(state / "store.db") // 4096 * 8 // 10 * 4096)


def broken_record(state: Path) -> None:
    with closing(sqlite3.connect(state / "store.db")) as database, database:
        database.execute("UPDATE agents SET record = '{' WHERE name = 'bob'")


def replaced_by_directory(name: str) -> Callable[[Path], None]:
    def damage(state: Path) -> None:
        (state / name).unlink(missing_ok=True)
        (state / name).mkdir()

    damage.__name__ = f"a directory for {name}"
    return damage


def shared_is_a_link(state: Path) -> None:
    (state / "shared").rename(state / "elsewhere")
    (state / "shared").symlink_to(state / "elsewhere")


def agents_is_a_file(state: Path) -> None:
    shutil.rmtree(state / "agents")
    (state / "agents").write_text("")


def key_gone(state: Path) -> None:
    (state / "audit.key").unlink()


def key_cut(state: Path) -> None:
    os.truncate(state / "audit.key", 5)


DAMAGES = [
    (gone, "store.db: it is gone, and there was one"),
    (gone_with_its_log, "store.db: it is gone, and there was one"),
    (all_gone_but_the_files, "store.db: it is gone, and there was one"),
    (empty, "store.db: it is empty, and there was one"),
    (first_page, "store.db: it is no database, or its first page was overwritten"),
    (no_database, "store.db: it is no database, or its first page was overwritten"),
    (newer, "store.db: it is of a newer release, with schema 99, and this one knows up to"),
    (half, "store.db: "),
    (broken_record, "agentfs doctor --state"),
    (replaced_by_directory("store.db"), "store.db: a directory, and a file was expected"),
    (replaced_by_directory("store.db-wal"), "store.db-wal: a directory, and a file was expected"),
    (replaced_by_directory("store.mark"), "store.mark: a directory, and a file was expected"),
    (replaced_by_directory("audit.key"), "audit.key: a directory, and a file was expected"),
    (replaced_by_directory("lock"), "lock: a directory, and a file was expected"),
    (shared_is_a_link, "shared: a link to"),
    (agents_is_a_file, "agents: a file, and a directory was expected"),
    (key_gone, "its key is not at"),
    (key_cut, "has 5 bytes, not 32"),
]


@pytest.mark.parametrize(
    ("damage", "words"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES]
)
def test_what_is_wrong_with_the_state_is_said_and_nothing_made_worse(
    folded: Path,
    damaged: Callable[[Path], Tree],
    damage: Callable[[Path], None],
    words: str,
) -> None:
    tree = damaged(folded)
    damage(tree.state)
    said = refusal(tree)
    assert words in said
    assert str(tree.state) in said


def test_every_page_that_is_overwritten_is_noticed(folded: Path, tmp_path: Path) -> None:
    """Without a mount: those that hold a table, an index or the length of a text."""
    from agentfs.store.opening import look_through

    store = tmp_path / "store.db"
    for page in range(1, os.path.getsize(folded / "store.db") // 4096):
        shutil.copy(folded / "store.db", store)
        overwrite(store, page * 4096, os.urandom(4096))
        with contextlib.suppress(sqlite3.DatabaseError):
            assert isinstance(look_through(store), str), page


def test_a_command_says_it_in_one_line(folded: Path, damaged: Callable[[Path], Tree]) -> None:
    tree = damaged(folded)
    overwrite(tree.state / "store.db", 4096, os.urandom(8 * 4096))
    done = tree.run("mount", str(tree.path), "--state", str(tree.state), check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"agentfs: {tree.state}/store.db: ")
    assert done.stderr.count("\n") == 1
    assert f"{ADVICE} {tree.state} --repair" in done.stderr
    foreground = ["mount", "-f", str(tree.path), "--state", str(tree.state)]
    done = tree.run(*foreground, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"agentfs: {tree.state}/store.db: ")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to somebody else")
def test_a_state_directory_of_somebody_else(folded: Path, damaged: Callable[[Path], Tree]) -> None:
    tree = damaged(folded)
    os.chown(tree.state, 65534, 65534)
    words = f"{tree.state}: it belongs to user 65534, and you are 0: mount it as that user"
    assert words in refusal(tree)
    done = tree.run("mount", str(tree.path), "--state", str(tree.state), check=False)
    assert (done.returncode, words in done.stderr) == (1, True)
    assert tree.state.stat().st_uid == 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk")
def test_a_state_directory_that_can_only_be_read(
    folded: Path, damaged: Callable[[Path], Tree]
) -> None:
    tree = damaged(folded)
    subprocess.run(["mount", "--bind", tree.state, tree.state], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tree.state], check=True)
        done = tree.run("mount", str(tree.path), "--state", str(tree.state), check=False)
    finally:
        subprocess.run(["umount", tree.state], check=True)
    assert done.returncode == 1
    assert "on a disk that is mounted read-only" in done.stderr


def test_a_copy_does_not_touch_the_programs_of_the_original(
    trees: Callable[..., Tree],
) -> None:
    tree, copy = trees("original"), trees("copy")
    tree.mount()
    pid = tree.spawn("bob", exec=["sleep", "1000"], restart="never")
    ospid = int(tree.read(f"proc/{pid}/ospid"))
    shutil.copytree(tree.state, copy.state, dirs_exist_ok=True)
    copy.mount()
    assert copy.read(f"proc/{pid}/ospid").strip() in ("", "0")
    copy.unmount()
    os.kill(ospid, 0)
    assert tree.read(f"proc/{pid}/state").strip() != "dead"
    assert int(tree.read(f"proc/{pid}/ospid")) == ospid
    tree.crash()
    tree.mount()  # and the original takes it up again
    assert int(tree.read(f"proc/{pid}/ospid")) == ospid


def test_a_state_directory_that_was_moved_is_the_same(trees: Callable[..., Tree]) -> None:
    tree = trees()
    tree.mount()
    pid = tree.spawn("bob", exec=["sleep", "1000"])
    ospid = int(tree.read(f"proc/{pid}/ospid"))
    tree.crash()
    moved = tree.state.with_name("moved")
    tree.state.rename(moved)
    tree.state = moved
    tree.mount()
    eventually(lambda: int(tree.read(f"proc/{pid}/ospid") or 0) == ospid)


# -- agentfs doctor ------------------------------------------------------------------------------


def doctor(tree: Tree, *words: str) -> subprocess.CompletedProcess[str]:
    command = ("doctor", "--state", str(tree.state), *words)
    done = tree.run(*command, check=False) if words else tree.doctor()
    assert "Traceback" not in done.stderr + done.stdout
    return done


def faults(tree: Tree) -> str:
    """What doctor says of the state that is not well."""
    found = _store(tree.state, None)
    return "\n".join(finding.words for finding in found if finding.level != "ok")


def repaired(tree: Tree) -> str:
    """Repair and mount it; what was said."""
    before = digests(tree.state)
    said: list[str] = []
    repair(tree.state, tree.state / "audit.key", said.append)
    aside = Path(said[0].removeprefix("a copy of the store as it was: "))
    for name in STORE_FILES:
        assert digests(aside).get(name) == before.get(name)
    tree.mount()
    assert faults(tree) == ""
    return "\n".join(said)


def some_pages(state: Path) -> None:
    """Every fifth, but not those that say which tables there are: without them nothing is saved."""
    with closing(sqlite3.connect(state / "store.db")) as database:
        query = "SELECT pageno FROM dbstat WHERE name = 'sqlite_schema'"
        spared = {number - 1 for (number,) in database.execute(query)}
    for page in range(3, os.path.getsize(state / "store.db") // 4096, 5):
        if page not in spared:
            overwrite(state / "store.db", page * 4096, os.urandom(4096))


@pytest.mark.parametrize(
    ("damage", "least"),
    [
        (wal_cut, 0),  # the messages were folded last
        (wal_page_of_garbage, 0),
        (gone, MAIL),
        (first_page, MAIL),
        (some_pages, 25),
        (tail_cut, 10),
        (broken_record, MAIL),
    ],
)
def test_repair_saves_what_can_be_saved_and_copies_first(
    killed: Path,
    folded: Path,
    damaged: Callable[[Path], Tree],
    damage: Callable[[Path], None],
    least: int,
) -> None:
    of_the_log = damage.__name__.startswith("wal") or damage is gone
    tree = damaged(killed if of_the_log else folded)
    damage(tree.state)
    if damage.__name__.startswith("wal"):
        without_ours(tree.state)
    assert f"{ADVICE} {tree.state} --repair" in faults(tree)
    assert "messages: " in repaired(tree)
    saved = mail(tree)
    assert len(saved) >= least
    assert saved <= set(range(MAIL))
    assert (tree / "agents/bob/memory/notes").read_text() == "remember\n"
    assert (tree / "shared/file").read_text() == "shared\n"
    (tree / "agents/init/outbox/alice").write_text("and it goes on 1000\n")
    eventually(lambda: len(os.listdir(tree / "agents/alice/inbox/new")))


def test_a_sound_state_is_left_alone(folded: Path, damaged: Callable[[Path], Tree]) -> None:
    tree = damaged(folded)
    before = digests(tree.state)
    assert "nothing to repair" in doctor(tree, "--repair").stdout
    assert digests(tree.state) == before
    assert faults(tree) == ""


def test_what_a_daemon_uses_is_not_repaired(trees: Callable[..., Tree]) -> None:
    tree = trees()
    tree.mount()
    done = doctor(tree, "--repair")
    assert done.returncode == 1
    assert f"in use by another daemon, process {tree.daemon}" in done.stderr


def changed(sql: str) -> Callable[[Path], None]:
    def damage(state: Path) -> None:
        with closing(sqlite3.connect(state / "store.db")) as database, database:
            database.execute(sql)

    return damage


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO meta VALUES ('last_call', 'many')",
        "INSERT OR REPLACE INTO meta VALUES ('event_seq', 'x')",
        "INSERT INTO records VALUES ('approval', '000001', '{\"id\": 1}')",
        "INSERT INTO records VALUES ('call', '1', '{}')",
        "INSERT INTO records VALUES ('reminder', 'x', '[]')",
        "UPDATE processes SET record = '{}'",
        "UPDATE messages SET record = '{}' WHERE seq = (SELECT min(seq) FROM messages)",
    ],
)
def test_doctor_sees_whatever_keeps_a_daemon_from_starting_and_mends_it(
    folded: Path, damaged: Callable[[Path], Tree], sql: str
) -> None:
    tree = damaged(folded)
    changed(sql)(tree.state)
    assert f"{ADVICE} {tree.state} --repair" in refusal(tree)
    assert "no daemon starts with it: " in faults(tree)
    repaired(tree)
    assert len(mail(tree)) >= MAIL - 1


DOCUMENTS = {
    "config": ("agentfs.yaml", "messages: {gone_option: 5}\n"),
    "models.yaml": ("models.yaml", "models: [\n"),
    "roles.yaml": ("roles.yaml", "roles: {baker: {}}\n"),
    "acl.yaml": ("acl.yaml", "rules: [{effect: perhaps}]\n"),
}


def test_a_document_that_this_release_refuses_is_kept_beside_its_default(
    folded: Path, damaged: Callable[[Path], Tree]
) -> None:
    tree = damaged(folded)
    for key, (_, text) in DOCUMENTS.items():
        changed(f"INSERT OR REPLACE INTO meta VALUES ('{key}', '{text}')")(tree.state)
    for name, _ in DOCUMENTS.values():
        assert name.replace("agentfs.yaml", "the configuration") in faults(tree)
    tree.mount()
    for name, text in DOCUMENTS.values():
        assert f"/etc/{name} is refused, its default is in effect" in tree.log()
        assert tree.read(f"etc/{name}") != text
        assert tree.read(f"etc/{name}.refused") == text
    assert "max_waiting: 10000" in tree.read("etc/agentfs.yaml")
    assert "document_refused" in tree.run("events", "--no-follow").stdout
    tree.unmount()
    tree.mount()
    assert tree.read("etc/acl.yaml.refused") == DOCUMENTS["acl.yaml"][1]
    os.unlink(tree / "etc/acl.yaml.refused")
    assert "acl.yaml.refused" not in os.listdir(tree / "etc")
    tree.crash()
    tree.mount()
    assert "acl.yaml.refused" not in os.listdir(tree / "etc")
    assert "roles.yaml.refused" in os.listdir(tree / "etc")
