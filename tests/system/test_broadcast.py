"""Broadcasts on a real mount."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
import time
from collections import Counter

import pytest

from tests.puppet import Puppet
from tests.system.test_identity import run_as
from tests.system.test_inotify import WRITTEN, Watcher, written
from tests.tree import Tree

pytestmark = pytest.mark.mount

AGENTS = 40
CRASHES = 3


def headers(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.partition("\n\n")[0].splitlines())


def copies(tree: Tree, name: str) -> list[str]:
    return [path.read_text() for path in sorted((tree / f"agents/{name}/inbox/new").iterdir())]


def test_h5_everybody_sees_one_copy_with_the_same_id_and_late_born_agents_none(tree: Tree) -> None:
    """Hyperhive's H5, without the kill: see below."""
    names = [f"agent{number}" for number in range(5)]
    for name in names[:3]:
        tree.spawn(name)
    for name in names[3:]:
        (tree / f"agents/{name}").mkdir()
    tree.write("dev/broadcast", "the build is broken")
    tree.spawn("late-born")
    (number,) = os.listdir(tree / "agents/init/sent")
    seen = []
    for name in names:
        (text,) = copies(tree, name)
        said = headers(text)
        assert (said["To"], said["From"], said["Reply-Expected"]) == ("*", "init", "no")
        assert text.endswith("\n\nthe build is broken")
        seen.append((said["Broadcast"], said["Message-ID"]))
    assert len({broadcast for broadcast, _ in seen}) == 1
    assert len({message for _, message in seen}) == 5
    assert copies(tree, "late-born") == copies(tree, "init") == []
    sent = tree.read(f"agents/init/sent/{number}")
    assert sent.startswith("State: queued\nRecipients: 5\nDone: 0\n")
    assert headers(sent)["Message-ID"] == seen[0][0]


def test_an_agent_sends_one_with_to_star_and_the_sender_is_told_of_every_copy(tree: Tree) -> None:
    tree.spawn("bob")
    script = 'printf "To: *\\nSubject: hi\\n\\nall" > "$AGENTFS/agents/self/send"'
    run_as(tree, "alice", script, role="daemon")
    (number,) = os.listdir(tree / "agents/alice/sent")
    path = f"agents/alice/sent/{number}"
    watcher = Watcher(tree, tree / path)
    for name, waiting in (("bob", 1), ("init", 0)):
        (copy,) = (tree / f"agents/{name}/inbox/new").iterdir()
        copy.unlink()
        assert watcher.until(WRITTEN[-1], path) == written(path)
        assert headers(tree.read(path))["Waiting"] == str(waiting)
    assert headers(tree.read(path))["State"] == "done"


def test_who_may_not_is_refused(tree: Tree) -> None:
    tree.spawn("alice")
    for role in ("task", "agent"):
        puppet = Puppet(tree, f"a-{role}", role=role)
        with pytest.raises(OSError) as refused:
            puppet.write("dev/broadcast", "x")
        assert refused.value.errno == errno.EACCES
        puppet.close()
    assert copies(tree, "alice") == []
    tree.write("etc/agentfs.yaml", "messages: {max_waiting: 1}\n")
    tree.write("agents/init/outbox/alice", "full")
    with pytest.raises(OSError) as refused:
        tree.write("dev/broadcast", "x")
    assert refused.value.errno == errno.ENOSPC
    assert "inbox of alice is full" in tree.read("proc/1/error")
    assert not (tree / "agents/init/outbox/*").exists()


@pytest.mark.torture
def test_h5_a_kill_in_the_middle_leaves_every_agent_with_the_copy_or_none(tree: Tree) -> None:
    """The daemon is killed at random moments while it does little else than broadcasting."""
    names = [f"agent{number}" for number in range(AGENTS)]
    for name in names:
        (tree / f"agents/{name}").mkdir()
    chance = random.Random(5)
    number = 0
    for _ in range(CRASHES):
        accepted: list[str] = []
        offered: list[str] = []

        def shout(first: int, accepted: list[str] = accepted, offered: list[str] = offered) -> None:
            with contextlib.suppress(OSError):
                descriptor = os.open(tree / "dev/broadcast", os.O_WRONLY)
                try:
                    for count in range(first, first + 1000):
                        offered.append(f"{count}")
                        os.write(descriptor, f"{count}".encode())
                        accepted.append(f"{count}")
                finally:
                    os.close(descriptor)

        thread = threading.Thread(target=shout, args=(number,))
        thread.start()
        time.sleep(chance.uniform(0.05, 0.4))
        tree.crash()
        thread.join(20)
        tree.mount()
        got = Counter(text.partition("\n\n")[2] for name in names for text in copies(tree, name))
        assert set(got.values()) <= {AGENTS}
        assert accepted
        assert set(accepted) <= got.keys() <= set(offered)
        for name in names:
            for path in (tree / f"agents/{name}/inbox/new").iterdir():
                path.unlink()
        number += len(offered)
    report = tree.doctor()
    assert report.returncode == 0, report.stdout + report.stderr
