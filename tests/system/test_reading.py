"""Who may read what, on a real mount: asked at every open, whatever Linux has in its cache."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.puppet import Puppet
from tests.system.test_inotify import Watcher
from tests.tree import AGENTFS, Tree

pytestmark = pytest.mark.mount

DENIED = """
rules:
- {effect: deny, agent: ann, action: read_process, path: /agents/bob/*}
"""


@pytest.fixture
def two(tree: Tree) -> Iterator[tuple[Puppet, Puppet]]:
    here = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}  # for `agentfs`
    ann, bob = Puppet(tree, "ann", role="worker", env=here), Puppet(tree, "bob", role="worker")
    yield ann, bob
    ann.close()
    bob.close()


STILL_REFUSED = ("EACCES", "ESTALE", "ENOENT", "EEXIST")


def refused(call: Callable[[], object]) -> str:
    """The errno that it gets."""
    with pytest.raises(OSError) as caught:
        call()
    return errno.errorcode[caught.value.errno or 0]


def test_a_rule_holds_from_the_next_open_on_whatever_is_cached(
    tree: Tree, two: tuple[Puppet, Puppet]
) -> None:
    ann, bob = two
    info = f"proc/{bob.pid}/info"
    for _ in range(2):  # the second is served from Linux's cache
        assert json.loads(ann.read(info))["name"] == "bob"
    bob.do("print('one', flush=True, file=__import__('sys').stdout)")
    log = ann.do("os.open(tree + '/agents/bob/log', os.O_RDONLY)")
    follow = [*AGENTFS, "log", "bob"]
    program = f"__import__('subprocess').run({follow!r}, capture_output=True, text=True)"
    assert ann.do(f"{program}.stdout") == "one\n"
    tree.write("etc/acl.yaml", DENIED)
    assert refused(lambda: ann.read(info)) == "EPERM"
    assert refused(lambda: ann.read("agents/bob/log")) == "EPERM"
    assert "acl.yaml: rule 1" in ann.read("proc/self/error")
    assert ann.do(f"{program}.returncode") != 0
    assert "may not read process" in ann.do(f"{program}.stderr")
    bob.do("print('two', flush=True, file=__import__('sys').stdout)")
    assert ann.do(f"os.read({log}, 99).decode()") == "one\ntwo\n", "what was open stays open"
    assert ann.read(f"proc/{bob.pid}/state") == "idle\n"
    assert json.loads(bob.read(info))["name"] == "bob"
    assert "one" in tree.read("agents/bob/log")
    tree.write("etc/acl.yaml", "rules: []\n")
    assert json.loads(ann.read(info))["name"] == "bob"


def test_a_watch_tells_that_something_changed_and_not_what(
    tree: Tree, two: tuple[Puppet, Puppet]
) -> None:
    ann, bob = two
    tree.write("etc/acl.yaml", DENIED)
    info = f"proc/{bob.pid}/info"
    assert refused(lambda: ann.read(info)) == "EPERM"
    watcher = Watcher(tree, tree / info)
    bob.write("proc/self/ctl", "running")
    assert watcher.until("MODIFY", info)[-1] == ("MODIFY", info)
    assert refused(lambda: ann.read(info)) == "EPERM"


def test_a_rule_shares_what_an_agent_sent(tree: Tree, two: tuple[Puppet, Puppet]) -> None:
    ann, bob = two
    bob.send("init", "the report")
    assert refused(lambda: ann.ls("agents/bob/sent")) == "EACCES"
    rule = "{effect: allow, agent: ann, action: read_process, path: /agents/bob/sent}"
    tree.write("etc/acl.yaml", f"rules:\n- {rule}\n")
    [number] = ann.ls("agents/bob/sent")
    assert ann.read(f"agents/bob/sent/{number}").endswith("the report")
    assert refused(lambda: ann.rm(f"agents/bob/sent/{number}")) == "EACCES"
    assert refused(lambda: ann.ls("agents/bob/inbox/new")) == "EACCES"
    assert tree.run("can", "ann", "read_process", "/agents/bob/sent").stdout.startswith(
        "Allowed:\tyes\nRule:\tacl.yaml: rule 1\n"
    )
    other = tree.run("can", "bob", "read_process", "/agents/ann/sent", check=False).stdout
    assert other.startswith("Allowed:\tno\nRule:\tprivate\n")
    own = tree.run("can", "bob", "read_process", "/agents/bob/sent").stdout
    assert own.startswith("Allowed:\tyes\n")


def test_what_was_open_of_a_removed_agent_is_not_the_new_one_of_its_name(tree: Tree) -> None:
    """Nor does the new one find anything of the old one's."""
    ann = Puppet(tree, "ann", role="lead")
    ann.do("os.mkdir(tree + '/agents/pet')")
    folder = ann.do("os.open(tree + '/agents/pet', os.O_RDONLY | os.O_DIRECTORY)")
    spec = ann.do("os.open(tree + '/agents/pet/spec.yaml', os.O_RDWR)")
    tree.write("agents/init/outbox/pet", "for the old one")
    (tree / "agents/pet/memory/notes").write_text("the old one's")
    (tree / "agents/pet").rmdir()
    (tree / "agents/pet").mkdir()
    tree.write("agents/pet/spec.yaml", "role: worker\n")
    for call in (
        f"os.open('spec.yaml', os.O_RDWR, dir_fd={folder})",
        f"os.open('ctl', os.O_WRONLY, dir_fd={folder})",
        f"(os.write({spec}, b'role: lead\\n'), os.close({spec}))",
        "write('agents/pet/spec.yaml', 'role: lead\\n')",
        "write('agents/pet/ctl', 'start')",
        "os.rmdir(tree + '/agents/pet')",
    ):
        assert refused(lambda: ann.do(call)) in STILL_REFUSED, call  # noqa: B023
    assert tree.read("agents/pet/spec.yaml") == "role: worker\n"
    assert os.listdir(tree / "agents/pet/inbox/new") == []
    assert os.listdir(tree / "agents/pet/memory") == []
    (tree / "agents/pet").rmdir()
    tree.write("agents/init/outbox/ann", "hello")
    pet = Puppet(tree, "pet", ann.pid)
    for path in ("inbox/new", "inbox/cur", "memory", "sent", "dead", "shm/private"):
        assert pet.ls(f"agents/self/{path}") == [], path
    assert tree.read("agents/pet/log") == ""
    pet.close()
    ann.close()
