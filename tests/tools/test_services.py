"""`agentfs doctor` names the services with which an agent of the operator's user becomes it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agentfs.tools import doctor, services
from agentfs.tools.services import starters
from tests.tree import Tree

UID = 12345  # nobody's


def listen(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def install(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o755)


def test_what_listens_for_a_user_or_is_installed_is_named(tmp_path: Path) -> None:
    assert starters(UID, tmp_path) == []
    listen(tmp_path / f"tmp/tmux-{UID + 1}/default")
    install(tmp_path / "usr/bin/crontab")  # but no cron
    install(tmp_path / f"run/user/{UID}/bus")  # no socket
    assert starters(UID, tmp_path) == []
    assert starters(UID + 1, tmp_path) == ["tmux"]
    listen(tmp_path / f"run/screen/S-{UID}/1.x")
    listen(tmp_path / f"run/user/{UID}/systemd/private")
    (tmp_path / "var/spool/cron/atjobs").mkdir(parents=True)
    install(tmp_path / "bin/at")
    assert starters(UID, tmp_path) == ["screen", "systemd-run --user", "cron", "at"]


@pytest.mark.mount
def test_doctor_warns_of_agents_that_run_as_the_operator_alone(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = os.geteuid()
    root = tmp_path / "root"
    listen(root / f"tmp/tmux-{uid}/default")
    monkeypatch.setattr(services, "ROOT", root)

    def words() -> list[str]:
        return [finding.words for finding in doctor._same_user(tree.state)]

    assert words() == []
    if uid == 0:
        tree.spawn("apart", user="nobody")
        assert words() == []
    tree.spawn("alice")
    [said] = words()
    assert said.startswith("alice run as the operator's user, and tmux can be asked")
