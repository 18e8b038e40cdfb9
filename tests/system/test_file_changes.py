"""Who changes what in /shared is in the audit, through a real mount."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest

from agentfs.audit.query import Query
from agentfs.audit.verify import verify
from tests.puppet import Puppet
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

Change = dict[str, Any]


def changes(lines: str, name: str) -> list[Change]:
    """What `name` did to files, in a log of the audit."""
    return [
        change
        for record in map(json.loads, lines.splitlines())
        for change in record["changes"]
        if change["type"] == "files_changed" and record["actor"]["name"] == name
    ]


def did(lines: str, name: str) -> list[tuple[str, ...]]:
    """(path, what, to where) of each, in order."""
    return [
        (file["path"], what, *([file["to"]] if "to" in file else []))
        for change in changes(lines, name)
        for file in change["files"]
        for what in file["did"]
    ]


DEEDS = (
    ("open(tree + '/shared/f', 'w').close()", ("/shared/f", "created")),
    ("open(tree + '/shared/f', 'a').close()", ("/shared/f", "written")),
    ("os.truncate(tree + '/shared/f', 0)", ("/shared/f", "written")),
    ("os.chmod(tree + '/shared/f', 0o640)", ("/shared/f", "mode 0640")),
    (
        "os.chown(tree + '/shared/f', os.getuid(), os.getgid())",
        ("/shared/f", f"owner {os.getuid()}:{os.getgid()}"),
    ),
    ("os.setxattr(tree + '/shared/f', 'user.x', b'y')", ("/shared/f", "attributes")),
    ("os.removexattr(tree + '/shared/f', 'user.x')", ("/shared/f", "attributes")),
    ("os.mkdir(tree + '/shared/d')", ("/shared/d", "created")),
    ("os.symlink('f', tree + '/shared/l')", ("/shared/l", "created")),
    ("os.mkfifo(tree + '/shared/p')", ("/shared/p", "created")),
    (
        "os.link(tree + '/shared/f', tree + '/shared/d/g')",
        ("/shared/f", "linked", "/shared/d/g"),
    ),
    ("mv('shared/f', 'shared/h')", ("/shared/f", "renamed", "/shared/h")),
    ("mv('shared/d', 'shared/e')", ("/shared/d", "renamed", "/shared/e")),
    ("mv('shared/l', 'shared/p')", ("/shared/p", "replaced")),
    ("rm('shared/e/g')", ("/shared/e/g", "removed")),
    ("os.rmdir(tree + '/shared/e')", ("/shared/e", "removed")),
)


def test_every_change_in_shared_is_in_it_and_nothing_else(tree: Tree) -> None:
    tree.write("etc/acl.yaml", "rules: [{effect: deny, agent: bob, path: /shared/no/**}]\n")
    (tree / "shared/no").mkdir(mode=0o777)
    with closing(Puppet(tree, "bob")) as bob:
        for deed, _ in DEEDS:
            bob.do(deed)
            assert bob.do("read('shared/docs/x') if 0 else os.listdir(tree + '/shared')")
        bob.do("read('shared/h')")
        bob.send("init", "done")
        bob.do("os.utime(tree + '/shared/h')")
        for refused in (
            "open(tree + '/shared/no/x', 'w')",
            "os.mkdir(tree + '/shared/docs/x')",
            "os.rmdir(tree + '/shared/none')",
        ):
            with pytest.raises(OSError, match=r"."):
                bob.do(refused)
        bob.do("open(tree + '/agents/bob/memory/f', 'w').close()")
        bob.do("open(tree + '/shared/last', 'w').close()")

        def told() -> list[tuple[str, ...]]:
            return did(tree.read("sys/audit/log"), "bob")

        eventually(lambda: ("/shared/last", "created") in told())
        expected = {each for _, each in DEEDS}
        expected |= {("/shared/last", "created"), ("/shared/l", "renamed", "/shared/p")}
        assert set(told()) == expected
    assert ("/shared/no", "created") in did(tree.read("sys/audit/log"), "init")
    said = tree.run("audit", "--agent", "bob").stdout
    assert "renamed /shared/f to /shared/h" in said
    found = tree.ask("sys/audit/query", "type=files_changed agent=bob")
    assert set(did(found, "bob")) == expected
    events = os.open(tree / "dev/events.all", os.O_RDONLY | os.O_NONBLOCK)
    seen = b""
    try:
        with suppress(BlockingIOError):  # a read gives what is at hand
            while True:
                seen += os.read(events, 1 << 20)
    finally:
        os.close(events)
    assert b"message_arrived" in seen
    assert b"files_changed" not in seen, "nobody else is told the names"
    assert tree.read("sys/audit/verify").startswith("ok ")


def test_thousands_of_changes_are_a_few_records_that_count_each(tree: Tree) -> None:
    with closing(Puppet(tree, "bob")) as bob:
        bob.do("os.mkdir(tree + '/shared/many')")
        before = tree.read("sys/stats/system")
        bob.do("[open(tree + '/shared/many/%d' % each, 'w').close() for each in range(2000)] and 0")

        def counted() -> int:
            return sum(
                sum("created" in file["did"] for file in change["files"])
                + sum(more["did"].get("created", 0) for more in change["more"])
                for change in changes(tree.read("sys/audit/log"), "bob")
            )

        eventually(lambda: counted() >= 2001)
        assert counted() == 2001
        took = json.loads(tree.read("sys/stats/system"))["commits"] - json.loads(before)["commits"]
        assert len(changes(tree.read("sys/audit/log"), "bob")) <= took < 500


def test_what_was_done_right_before_the_end_is_in_it(trees: Callable[..., Tree]) -> None:
    tree = trees()
    tree.mount()
    (tree / "shared/last").touch()
    tree.unmount()
    store = tree.state / "store.db"
    found = Query(type="files_changed").answer(store).decode()
    assert ("/shared/last", "created") in did(found, "init")
    assert not verify(store, tree.state / "audit.key").fault
