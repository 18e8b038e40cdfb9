"""`agentfs audit` on a folder that looks like a tree, and on stores without a daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentfs.store.store import Store
from agentfs.tools.audit_commands import audit
from agentfs.tools.tree import ToolError


def run(*words: str) -> Result:
    return CliRunner().invoke(audit, words)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sys/audit"
    folder.mkdir(parents=True)
    (folder / "log").write_text('{"seq":1}\n{"seq":2}\n')
    (folder / "ctl").touch()
    (folder / "head").write_text("Seq:\t2\n")
    (folder / "verify").write_text("ok 2 records, head 2 ab\n")
    monkeypatch.setenv("AGENTFS", str(tmp_path))
    return tmp_path


def test_it_prints_the_files_and_the_log_is_the_default(tree: Path) -> None:
    assert run().stdout == run("log").stdout == '{"seq":1}\n{"seq":2}\n'
    assert run("head").stdout == "Seq:\t2\n"
    assert run("verify").stdout == "ok 2 records, head 2 ab\n"


def test_what_was_exported_is_cut_off(tree: Path) -> None:
    assert run("cut", "1").exit_code == 0
    assert (tree / "sys/audit/ctl").read_text() == "cut 1\n"


def test_the_exit_code_says_whether_the_audit_is_sound(tree: Path) -> None:
    assert run("verify").exit_code == 0
    (tree / "sys/audit/verify").write_text("bad: record 1: it is missing\n")
    assert (run("verify").exit_code, run("verify").stdout) == (1, "bad: record 1: it is missing\n")


def test_a_state_directory_is_verified_without_a_tree(tmp_path: Path) -> None:
    assert isinstance(run("verify", str(tmp_path)).exception, ToolError)
    Store(tmp_path / "store.db").close()
    assert run("verify", str(tmp_path)).stdout == "ok 0 records\n"


@pytest.mark.parametrize(
    "words", [("log", "x"), ("verify", "a", "b"), ("cut",), ("cut", "1", "2"), ("nonsense",)]
)
def test_wrong_words_are_a_usage_error(tree: Path, words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


def test_how_is_one_shell_line(tree: Path) -> None:
    assert run("query", "agent=alice", "--how").stdout == (
        "exec 3<>$AGENTFS/sys/audit/query; echo agent=alice >&3; cat <&3; exec 3>&-\n"
    )
    assert run("cut", "7", "--how").stdout == "echo cut 7 > $AGENTFS/sys/audit/ctl\n"
    assert run("--how").stdout == "cat $AGENTFS/sys/audit/log\n"
