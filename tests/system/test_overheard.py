"""What siblings say to each other is for their parent to look at, and takes nothing from it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from agentfs.agent import Message
from agentfs.mail.overheard import KEPT
from tests.hatchery import Hatchery, QuickTree
from tests.puppet import Puppet
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

ROOM = 10  # messages that may wait in an inbox
JOBS, HOPS = 8, 5


@pytest.fixture(scope="module")
def tree(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    made = QuickTree(tmp_path_factory.mktemp("overheard") / "tree", hatchery=hatchery)
    try:
        made.mount()
        made.write("etc/agentfs.yaml", f"messages: {{max_waiting: {ROOM}}}\n")
        yield made
    finally:
        made.clean_up()


@pytest.fixture
def family(tree: Tree, request: pytest.FixtureRequest) -> Iterator[tuple[Puppet, Puppet, Puppet]]:
    """A lead with two children, of names of their own."""
    test = request.node.name[5:12]
    lead = Puppet(tree, f"lead-{test}", role="lead")
    ann, ben = (Puppet(tree, f"{name}-{test}", lead.pid) for name in ("ann", "ben"))
    yield lead, ann, ben
    for puppet in (ben, ann, lead):
        puppet.close()


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_jobs_that_go_to_and_fro_leave_the_parent_all_its_room_for_the_results(
    tree: Tree, family: tuple[Puppet, Puppet, Puppet]
) -> None:
    lead, ann, ben = family
    for job in range(JOBS):
        for hop in range(HOPS):
            source, target = (ann, ben) if hop % 2 == 0 else (ben, ann)
            source.send(target.name, f"job {job}, hop {hop}")
            target.recv()
        target.send(lead.name, f"result {job}")
    assert len(lead.ls("agents/self/inbox/new")) == JOBS
    assert f"Messages:\t{JOBS}\n" in tree.read(f"proc/{lead.pid}/status")
    said = records(lead.poll("agents/self/overheard"))
    assert [Message(record["data"].encode()).text for record in said] == [
        f"job {job}, hop {hop}" for job in range(JOBS) for hop in range(HOPS)
    ]
    assert [record["from"] for record in said[:2]] == [ann.name, ben.name]
    assert [record["to"] for record in said[:2]] == [ben.name, ann.name]
    assert [Message(lead.recv().encode()).text for _ in range(JOBS)] == [
        f"result {job}" for job in range(JOBS)
    ]
    # Looking takes nothing; the operator sees the same, and a full inbox hides nothing.
    for number in range(ROOM):
        ann.send(lead.name, str(number))
    with pytest.raises(OSError, match="No space") as full:
        ann.send(lead.name, "one too many")
    assert full.value.errno == errno.ENOSPC
    ann.send(ben.name, "still talking")
    descriptor = os.open(tree / f"agents/{lead.name}/overheard", os.O_RDONLY | os.O_NONBLOCK)
    try:
        seen = records(os.read(descriptor, 1 << 20).decode())
        while len(seen) <= JOBS * HOPS:
            seen += records(os.read(descriptor, 1 << 20).decode())
    finally:
        os.close(descriptor)
    assert len(seen) == JOBS * HOPS + 1
    assert seen[-1]["data"].endswith("\n\nstill talking")


def test_who_waits_for_it_is_woken_by_the_next_word_and_learns_what_was_lost(
    tree: Tree, family: tuple[Puppet, Puppet, Puppet]
) -> None:
    lead, ann, ben = family
    for puppet in (ann, ben):
        with pytest.raises(PermissionError):
            puppet.poll(f"agents/{lead.name}/overheard")
    lead.do("globals().update(stream=os.open(me + '/overheard', os.O_RDONLY))")
    reader = tree.start("head", "-n1", str(tree / f"agents/{lead.name}/overheard"), stdout=-1)
    eventually(lambda: "\nagentfs_mount_parked 1" in tree.read("sys/metrics"))
    ann.send(ben.name, "wake up")
    [first] = records(reader.communicate(timeout=30)[0].decode())
    assert first["data"].endswith("\n\nwake up")
    ben.recv()
    for number in range(KEPT + 1):
        ann.send(ben.name, str(number))
        ben.recv()
    lost, *kept = records(lead.do("os.read(stream, 1 << 20).decode()"))
    while len(kept) < KEPT:
        kept += records(lead.do("os.read(stream, 1 << 20).decode()"))
    assert (lost["type"], lost["count"]) == ("lost", 2)
    assert [Message(record["data"].encode()).text for record in kept] == [
        str(number) for number in range(1, KEPT + 1)
    ]


def test_it_ends_with_the_agent(tree: Tree, family: tuple[Puppet, Puppet, Puppet]) -> None:
    lead, ann, ben = family
    ann.send(ben.name, "last words")
    with open(tree / f"agents/{lead.name}/overheard", "rb", buffering=0) as stream:
        for puppet in (ben, ann, lead):
            puppet.close()
        assert tree.read(f"proc/{lead.pid}/wait") == "0\n"
        eventually(lambda: not (tree / f"proc/{lead.pid}").exists())
        (tree / f"agents/{lead.name}").rmdir()
        assert stream.read(1 << 20) == b""
