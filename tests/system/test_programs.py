"""Programs that nobody here wrote work on the tree as it is."""

from __future__ import annotations

import mailbox
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tree import Tree

pytestmark = pytest.mark.mount

CONFIG = "etc/agentfs.yaml"
VIM = shutil.which("vim") or "vim.tiny"


def needs(*programs: str) -> pytest.MarkDecorator:
    """`./run test` installs what is needed here."""
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {' '.join(missing)}")


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """A command that must succeed; what it printed, errors included."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"{command} did not end; it printed {hung.stdout!r:.4000}")
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


# -- mail ----------------------------------------------------------------------------------------


def test_pythons_maildir_delivers_lists_reads_flags_and_removes(tree: Tree) -> None:
    tree.spawn("alice")
    box = mailbox.Maildir(str(tree / "agents/alice/inbox"), create=False)
    key = box.add(mailbox.MaildirMessage("Subject: hello\nTo: alice\n\nthe body\n"))
    assert list(box.keys()) == [key]
    message = box[key]
    assert message["From"] == "init"
    assert message["Subject"] == "hello"
    assert message.get_payload() == "the body\n"
    message.set_subdir("cur")
    message.add_flag("SF")
    box[key] = message
    assert [path.name for path in (tree / "agents/alice/inbox/cur").iterdir()] == [f"{key}:2,FS"]
    assert mailbox.Maildir(str(tree / "agents/alice/inbox"))[key].get_flags() == "FS"
    box.remove(key)
    assert len(box) == 0
    box.close()


def test_pythons_maildir_works_for_an_agent_that_writes_to_another(tree: Tree) -> None:
    tree.spawn("bob")
    script = (
        "import mailbox, os;"
        " box = mailbox.Maildir(os.environ['AGENTFS'] + '/agents/bob/inbox', create=False);"
        " box.add(mailbox.MaildirMessage('To: bob\\n\\nfrom a maildir client'))"
    )
    pid = tree.spawn("alice", exec=[sys.executable, "-c", script], restart="never")
    (tree / f"proc/{pid}/wait").read_text()
    text = tree.read("agents/bob/recv")
    assert "\nFrom: alice\n" in text, tree.read("agents/alice/log")
    assert text.endswith("\n\nfrom a maildir client")


@needs("mlist", "mshow", "mflag", "mscan")
def test_mblaze_reads_an_inbox(tree: Tree, tmp_path: Path) -> None:
    tree.spawn("alice")
    tree.write("agents/init/outbox/alice", "Subject: for mblaze\n\nthe body of it\n")
    inbox = tree / "agents/alice/inbox"
    env = {"HOME": str(tmp_path)}
    moved = run("minc", inbox, env=env).split()
    assert len(moved) == 1
    assert "cur" in moved[0]
    assert "for mblaze" in run("mscan", *moved, env=env)
    assert "the body of it" in run("mshow", *moved, env=env)
    (flagged,) = run("mflag", "-S", *moved, env=env).split()
    assert flagged.endswith(":2,S")
    assert run("mlist", inbox, env=env).split() == [flagged]


@needs("mutt")
def test_mutt_reads_an_inbox(tree: Tree, tmp_path: Path) -> None:
    tree.spawn("alice")
    tree.write("agents/init/outbox/alice", "Subject: for mutt\n\nthe body of it\n")
    saved = tmp_path / "saved"
    config = tmp_path / "muttrc"
    config.write_text(
        "set folder=/nonexistent\nset mbox_type=mbox\nset confirmappend=no\n"
        "set confirmcreate=no\nset delete=yes\n"
        "set quit=yes\nset copy=no\nset resolve=no\nset wait_key=no\nset save_empty=no\n"
        f'push "<copy-message>{saved}<enter><delete-message><quit>"\n'
    )
    run(
        "script",
        "-qec",
        f"mutt -n -F {config} -f '{tree / 'agents/alice/inbox'}'",
        "/dev/null",
        env={"TERM": "vt100", "HOME": str(tmp_path)},
    )
    assert "the body of it" in saved.read_text()
    assert list((tree / "agents/alice/inbox/new").iterdir()) == []
    assert list((tree / "agents/alice/inbox/cur").iterdir()) == []


# -- real files ----------------------------------------------------------------------------------


@needs("git")
@pytest.mark.parametrize("place", ["shared", "agents/init/memory"])
def test_git_works_in_shared_and_in_memory(tree: Tree, place: str, tmp_path: Path) -> None:
    folder = tree / place
    env = {
        "HOME": str(tmp_path),
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    repository = folder / "repository"
    run("git", "init", "-q", repository, env=env)
    (repository / "file").write_text("one\n")
    run("git", "add", "file", cwd=repository, env=env)
    run("git", "commit", "-qm", "first", cwd=repository, env=env)
    run("git", "clone", "-q", repository, folder / "clone", env=env)
    (folder / "clone/file").write_text("two\n")
    run("git", "commit", "-qam", "second", cwd=folder / "clone", env=env)
    run("git", "gc", "-q", cwd=folder / "clone", env=env)
    assert "two" in run("git", "show", "HEAD:file", cwd=folder / "clone", env=env)
    run("git", "fsck", "--strict", cwd=folder / "clone", env=env)
    assert run("git", "status", "--porcelain", cwd=folder / "clone", env=env) == ""


@needs("sqlite3")
def test_sqlite_works_in_shared(tree: Tree) -> None:
    database = tree / "shared/data.db"
    for mode in ("delete", "wal"):
        run("sqlite3", database, f"PRAGMA journal_mode={mode}; CREATE TABLE {mode}_t (n);")
        run("sqlite3", database, f"INSERT INTO {mode}_t VALUES (1), (2);")
        assert run("sqlite3", database, f"SELECT sum(n) FROM {mode}_t;") == "3\n"
    assert run("sqlite3", database, "PRAGMA integrity_check;") == "ok\n"


# -- editors -------------------------------------------------------------------------------------


DOCUMENTS = {"agentfs.yaml", "roles.yaml", "acl.yaml", "models.yaml"}


def test_sed_i_changes_the_configuration(tree: Tree) -> None:
    run("sed", "-i", "s/max_waiting: 10000/max_waiting: 77/", tree / CONFIG)
    assert "max_waiting: 77" in tree.read(CONFIG)
    assert {path.name for path in (tree / "etc").iterdir()} == DOCUMENTS
    run("sed", "-i", "s/max_waiting: 77/max_waiting: 78/", tree / CONFIG)
    assert "max_waiting: 78" in tree.read(CONFIG)


def test_sed_i_with_a_bad_result_is_refused_and_changes_nothing(tree: Tree) -> None:
    before = tree.read(CONFIG)
    done = subprocess.run(
        ["sed", "-i", "s/max_waiting: 10000/max_waiting: many/", str(tree / CONFIG)],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "Invalid argument" in done.stderr
    assert tree.read(CONFIG) == before
    assert "max_waiting" in tree.read("proc/self/error")


@needs(VIM)
@pytest.mark.parametrize("backup", ["yes", "no", "auto"])
def test_vim_changes_the_configuration(tree: Tree, backup: str, tmp_path: Path) -> None:
    run(
        "script",
        "-qec",
        f"{VIM} -u NONE -c 'set backupcopy={backup}' -c '%s/max_waiting: 10000/max_waiting: 55/'"
        f" -c wq '{tree / CONFIG}'",
        "/dev/null",
        env={"TERM": "vt100", "HOME": str(tmp_path)},
    )
    assert "max_waiting: 55" in tree.read(CONFIG)
    assert {path.name for path in (tree / "etc").iterdir()} == DOCUMENTS


# -- crawlers ------------------------------------------------------------------------------------


def test_find_tar_grep_and_du_over_the_whole_tree_end_without_an_error_of_ours(
    tree: Tree, tmp_path: Path
) -> None:
    for number in range(5):
        tree.spawn(f"agent-{number}")
    tree.spawn("program", exec=["sleep", "600"])
    tree.write("agents/init/outbox/program", "a message\n")
    (tree / "shared/file").write_text("needle\n")
    found = run("find", tree.path, "-ls")
    assert "agent-3" in found
    run("du", "-a", tree.path)
    run("tar", "-C", tree.path, "-cf", tmp_path / "tree.tar", ".")
    listing = run("tar", "-tf", tmp_path / "tree.tar")
    assert "./shared/file" in listing
    grep = subprocess.run(
        ["grep", "-r", "--devices=skip", "needle", str(tree.path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "shared/file:needle" in grep.stdout
    assert "Input/output error" not in grep.stderr
    for line in grep.stderr.splitlines():
        assert "Resource temporarily unavailable" in line, line
    assert "Traceback" not in tree.log()
