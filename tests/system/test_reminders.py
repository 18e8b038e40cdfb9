"""Reminders on a real mount: from a shell, through crashes, under load."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from tests.puppet import Puppet
from tests.system.test_inotify import Watcher
from tests.tree import Tree, eventually, until

pytestmark = pytest.mark.mount


def remind(tree: Tree, agent: str, lines: str) -> list[str]:
    """The ids."""
    return tree.ask(f"agents/{agent}/reminders/new", lines).split()


def listed(tree: Tree, agent: str) -> list[str]:
    """`ls reminders`, the ids only."""
    return [
        name for name in sorted(os.listdir(tree / f"agents/{agent}/reminders")) if name[0] == "0"
    ]


def mail(tree: Tree, agent: str) -> list[str]:
    """The messages that wait, whole."""
    new = tree / f"agents/{agent}/inbox/new"
    return [path.read_text() for path in sorted(new.iterdir())]


def shell(tree: Tree, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script], cwd=tree.path, capture_output=True, text=True, timeout=30
    )


def test_a_shell_sets_lists_shows_and_cancels(tree: Tree) -> None:
    tree.spawn("alice")
    script = """
        set -e
        cd agents/alice/reminders
        exec 3<>new; echo 'cron "0 9 * * MON" plan the week' >&3; read -r id <&3; exec 3>&-
        echo 'in 2h tea' > new
        printf 'at 2999-12-01T09:00Z far\\nin 3h farther\\n' > new
        ls | grep -c '^0'
        cat "$id" | grep -E 'When|Text|Fired'
        grep Pending stat
        rm "$id"
        grep Pending stat
        rm "$id" 2>&1 || echo "twice: $?"
        ls | grep -c '^0'
    """
    done = shell(tree, script)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "4"
    assert lines[1:4] == ['When:\tcron "0 9 * * MON"', "Fired:\t0", "Text:\tplan the week"]
    assert lines[4] == "Pending:\t4"
    assert lines[5] == "Pending:\t3"
    assert "No such file" in lines[6]
    assert lines[7] == "twice: 1"
    assert lines[8] == "3"


def test_a_reminder_fires_and_wakes_the_reader_of_recv(tree: Tree) -> None:
    tree.spawn("alice")
    reader = tree.start("cat", str(tree / "agents/alice/recv"), stdout=subprocess.PIPE)
    (name,) = remind(tree, "alice", "in 300ms call bob")
    out, _ = reader.communicate(timeout=20)
    head, _, body = out.decode().partition("\n\n")
    headers = dict(line.split(": ", 1) for line in head.splitlines())
    assert body == "call bob\n"
    assert (headers["From"], headers["Type"], headers["Reminder"]) == ("alice", "reminder", name)
    assert "Missed" not in headers
    assert listed(tree, "alice") == []
    until(tree / "agents/alice/reminders/stat", FIRED_ONCE.strip())


FIRED_ONCE = "Pending:\t0\nDelivered-24h:\t1\nAttempts:\t1\nSuccesses:\t1\n"


def test_reminders_survive_kill_9_and_what_was_missed_fires_once(tree: Tree) -> None:
    tree.spawn("alice")
    ids = remind(tree, "alice", "in 1s one\nin 1h later\ncron 0 9 * * * daily")
    shown = tree.read(f"agents/alice/reminders/{ids[2]}")
    due = time.time() + 1
    tree.crash()
    eventually(lambda: time.time() > due)
    tree.mount()
    eventually(lambda: len(mail(tree, "alice")) == 1)
    assert mail(tree, "alice")[0].endswith("one\n")
    assert listed(tree, "alice") == ids[1:]
    assert tree.read(f"agents/alice/reminders/{ids[2]}") == shown
    tree.crash()
    tree.mount()
    assert len(mail(tree, "alice")) == 1
    assert tree.read("agents/alice/reminders/stat") == FIRED_ONCE.replace("0", "2", 1)
    tree.unmount()
    assert tree.doctor().returncode == 0


def test_a_cron_reminder_that_was_missed_fires_once_and_stays(tree: Tree) -> None:
    tree.spawn("alice")
    folder = "agents/alice/reminders"
    (name,) = remind(tree, "alice", "cron * * * * * tick")
    shown = tree.read(f"{folder}/{name}")
    assert "Fired:\t0\n" in shown
    tree.crash()
    with closing(sqlite3.connect(tree.state / "store.db")) as store, store:
        # As if it had been set before: it was due half a minute ago.
        store.execute(
            "UPDATE records SET record = json_set(record, '$.next', ?, '$.set', ?) WHERE kind = ?",
            (time.time() - 30, time.time() - 60, "reminder"),
        )
    tree.mount()
    eventually(lambda: "Fired:\t1\n" in tree.read(f"{folder}/{name}"))
    assert tree.read(f"{folder}/{name}").splitlines()[0] == shown.splitlines()[0]
    assert len(mail(tree, "alice")) == 1


def test_h8_limits_are_refused_in_words(tree: Tree) -> None:
    tree.write("etc/agentfs.yaml", "reminders: {burst: 2, per_minute: 6, max_pending: 3}\n")
    alice = Puppet(tree, "alice")
    try:
        alice.write("agents/self/reminders/new", "in 1h a\nin 1h b")
        for line, number, words in (
            ("in 1h c", errno.EAGAIN, "too many reminders just now: try again in "),
            ("cron 0 0 30 2 * never", errno.EINVAL, "bad day-of-month"),
            ("in 1h x\nin 1h y", errno.EDQUOT, "2 reminders pending, 3 are allowed"),
            ("at 2001-01-01T00:00Z x", errno.EINVAL, "not in the future"),
            ("in 1h " + "x" * 5000, errno.EMSGSIZE, "4096 are allowed"),
        ):
            with pytest.raises(OSError) as caught:
                alice.write("agents/self/reminders/new", line)
            assert caught.value.errno == number
            assert words in alice.read("proc/self/error")
        limits = alice.read("agents/self/reminders/limits")
        assert "Burst:\t2\nPer-Minute:\t6\nMax-Pending:\t3\n" in limits
        assert len(listed(tree, "alice")) == 2
    finally:
        alice.close()


def test_h15_another_agent_is_kept_out_and_the_owner_removes_once(tree: Tree) -> None:
    alice, bob = Puppet(tree, "alice"), Puppet(tree, "bob")
    try:
        name = alice.ask("agents/self/reminders/new", "in 1h mine").strip()
        folder = "agents/alice/reminders"
        for attempt in (
            lambda: bob.ls(folder),
            lambda: bob.read(f"{folder}/{name}"),
            lambda: bob.read(f"{folder}/stat"),
            lambda: bob.rm(f"{folder}/{name}"),
            lambda: bob.write(f"{folder}/new", "in 1h yours"),
        ):
            with pytest.raises(PermissionError):
                attempt()
        assert name in alice.ls("agents/self/reminders")
        alice.rm(f"agents/self/reminders/{name}")
        with pytest.raises(FileNotFoundError):
            alice.rm(f"agents/self/reminders/{name}")
    finally:
        alice.close()
        bob.close()


def test_a_watcher_of_the_directory_sees_each_come_change_and_go(tree: Tree) -> None:
    tree.spawn("alice")
    folder = "agents/alice/reminders"
    os.listdir(tree / folder)
    watcher = Watcher(tree, tree / folder)
    (name,) = remind(tree, "alice", "in 1h x")
    assert ("CREATE", f"{folder}/{name}") in watcher.until("CREATE", f"{folder}/{name}")
    os.unlink(tree / f"{folder}/{name}")
    watcher.until("DELETE", f"{folder}/{name}")
    (soon,) = remind(tree, "alice", "in 200ms y")
    watcher.until("CREATE", f"{folder}/{soon}")
    watcher.until("DELETE", f"{folder}/{soon}")
    watcher.until("MODIFY", f"{folder}/stat")
    assert not (tree / f"{folder}/{soon}").exists()
    assert tree.read(f"{folder}/stat") == FIRED_ONCE


def kept(tree: Tree) -> tuple[set[str], set[str]]:
    """The ids of the reminders that wait and of those that were delivered, as the store has it."""
    with closing(sqlite3.connect(tree.state / "store.db")) as store:
        pending = {key for (key,) in store.execute("SELECT key FROM records WHERE kind='reminder'")}
        contents = [bytes(row[0]).decode() for row in store.execute("SELECT content FROM messages")]
    delivered = [line for text in contents for line in text.splitlines() if "Reminder: " in line]
    assert len(delivered) == len(set(delivered))
    return pending, {line.removeprefix("Reminder: ") for line in delivered}


def fall_due_at_once(tree: Tree) -> str:
    """3,000 that are due now, some of them delivered, and the id of one that is not due."""
    tree.write("etc/agentfs.yaml", "reminders: {burst: 1001, max_pending: 1001}\n")
    due = datetime.now(UTC) + timedelta(seconds=3)
    for name in ("a", "b", "c"):
        (tree / f"agents/{name}").mkdir()
        for _ in range(2):
            tree.write(f"agents/{name}/reminders/new", f"at {due.isoformat()} x\n" * 500)
    (far,) = remind(tree, "a", "in 1h far")
    eventually(lambda: os.listdir(tree / "agents/a/inbox/new"))
    return far


def check_that_all_fire_once(tree: Tree, far: str) -> None:
    """After the end of the daemon, and after its next start."""
    assert tree.doctor().returncode == 0
    pending, delivered = kept(tree)
    assert (len(pending | delivered), pending & delivered) == (3001, set())
    assert delivered
    tree.mount()
    eventually(lambda: listed(tree, "a") == [far] and not listed(tree, "b") + listed(tree, "c"))
    tree.unmount()
    assert kept(tree) == ({far}, (pending | delivered) - {far})


def test_h9_the_daemon_stops_under_load_and_what_is_pending_fires_after_the_restart(
    tree: Tree,
) -> None:
    far = fall_due_at_once(tree)
    assert tree.daemon is not None
    with tree._watching(tree.daemon) as ended:
        started = time.monotonic()
        os.kill(tree.daemon, signal.SIGTERM)
        ended()
        assert time.monotonic() - started < 2
    tree.daemon = None
    check_that_all_fire_once(tree, far)


def test_kill_9_amid_a_delivery_loses_none_and_repeats_none(tree: Tree) -> None:
    far = fall_due_at_once(tree)
    tree.crash()
    check_that_all_fire_once(tree, far)


def test_a_removed_agent_takes_its_reminders_along(tree: Tree) -> None:
    (tree / "agents/dora").mkdir()
    remind(tree, "dora", "in 1h x\ncron * * * * * y")
    (tree / "agents/dora").rmdir()
    (tree / "agents/dora").mkdir()
    assert listed(tree, "dora") == []
    tree.unmount()
    assert tree.doctor().returncode == 0
