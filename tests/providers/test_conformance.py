"""Every entry that a provider declares is there, as it is declared."""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Iterator

import pytest

from agentfs.base.errors import KernelError
from agentfs.providers.replacing import Replacing
from agentfs.tools.reference import HEAD
from agentfs.vfs.files import Control, Document, Exchange, Live, Stream, Transaction, Value
from agentfs.vfs.node import Attributes, Directory, Fifo, File, Link, Node
from agentfs.vfs.table import DirectoryOf, Entry, Table
from tests.providers.world import OPERATOR, STRANGER, World, refused

KINDS: dict[str, type[Node]] = {
    "Value": Value,
    "Live": Live,
    "Document": Document,
    "Control": Control,
    "Transaction": Transaction,
    "Exchange": Exchange,
    "Stream": Stream,
    "Link": Link,
    "Directory": Directory,
    "File": File,
    "Fifo": Fifo,
}

OF_LINUX = {"directory", "link", "fifo"}

# Path and mode; `-` is a link.
NAMESPACE = """
/agents/alice/ 0755
/agents/alice/spec.yaml 0644
/agents/alice/ctl 0200
/agents/alice/pid 0444
/agents/alice/state 0444
/agents/alice/inbox/ 0700
/agents/alice/inbox/new/ 0700
/agents/alice/inbox/cur/ 0700
/agents/alice/inbox/tmp/ 0700
/agents/alice/outbox/bob 0200
/agents/alice/send 0200
/agents/alice/recv 0600
/agents/alice/overheard 0400
/agents/alice/reminders/ 0700
/agents/alice/reminders/new 0600
/agents/alice/reminders/stat 0400
/agents/alice/reminders/limits 0400
/agents/alice/chats/ 0700
/agents/alice/log 0640
/agents/alice/memory/ 0700
/agents/self -
/proc/2/status 0444
/proc/2/info 0444
/proc/2/why 0444
/proc/2/state 0444
/proc/2/role 0444
/proc/2/tier 0444
/proc/2/name 0444
/proc/2/ppid 0444
/proc/2/cgroup 0444
/proc/2/exit 0444
/proc/2/agent -
/proc/2/parent -
/proc/2/children/ 0755
/proc/2/pipes/ 0755
/proc/2/pipes/up 0666
/proc/2/pipes/down 0666
/proc/2/cmdline 0444
/proc/2/environ 0400
/proc/2/cwd -
/proc/2/ospid 0444
/proc/2/ctl 0200
/proc/2/spawn 0600
/proc/2/call 0600
/proc/2/budget/ 0755
/proc/2/budget/ctl 0200
/proc/2/budget/events 0444
/proc/2/budget/tactical/ 0755
/proc/2/budget/tactical/allocated 0444
/proc/2/budget/tactical/consumed 0444
/proc/2/budget/tactical/reserved 0444
/proc/2/budget/tactical/remaining 0444
/proc/2/budget/tactical/source 0444
/proc/2/wait 0400
/proc/2/heartbeat 0200
/proc/2/attach 0200
/proc/2/signals 0400
/proc/2/error 0400
/proc/self -
/proc/uptime 0444
/proc/version 0444
/proc/loadavg 0444
/proc/stat 0444
/proc/mounts 0444
/dev/events 0666
/dev/events.all 0666
/dev/kmsg 0444
/dev/topics/ 1777
/dev/llm/ 0755
/etc/agentfs.yaml 0644
/etc/pipelines/ 1777
/etc/pipelines/check 0666
/etc/systems/ 1777
/etc/macros/ 1777
/etc/adapters/ 0755
/etc/policies/ 0755
/etc/configs/ 0755
/lib/prompts/ 1777
/lib/nodes/program/ 0755
/lib/nodes/program/about 0444
/lib/nodes/program/schema 0444
/lib/nodes/program/example 0444
/proc/runs/ 0755
/proc/runs/query 0666
/proc/runs/by-state/ 0755
/proc/runs/by-state/failed/ 0755
/proc/runs/by-pipeline/ 0755
/proc/runs/by-ref/ 0755
/etc/roles.yaml 0644
/etc/acl.yaml 0644
/etc/models.yaml 0644
/etc/harnesses.yaml 0644
/etc/hooks.yaml 0644
/sys/version 0444
/sys/can 0666
/sys/boot_id 0444
/sys/health 0444
/sys/stats/ 0755
/sys/stats/system 0444
/sys/stats/agents/ 0755
/sys/metrics 0444
/sys/accounting/ 0755
/sys/accounting/agent/ 0755
/sys/accounting/user/ 0755
/sys/accounting/node/ 0755
/sys/accounting/tier/ 0755
/sys/accounting/total/cost 0444
/sys/cgroup/ 0777
/sys/cgroup/cgroup.procs 0666
/sys/audit/ 0755
/sys/audit/log 0400
/sys/audit/head 0400
/sys/audit/verify 0400
/sys/audit/query 0600
/shared/ 1777
/shared/docs/ 0755
"""


def subclasses(cls: type[DirectoryOf]) -> Iterator[type[DirectoryOf]]:
    for below in cls.__subclasses__():
        yield below
        yield from subclasses(below)


def tables() -> list[type[Table]]:
    return [
        cls
        for cls in subclasses(DirectoryOf)
        if issubclass(cls, Table) and not cls.__module__.startswith("tests.")
    ]


ENTRIES = [
    pytest.param(entry, id=f"{getattr(table, 'PATH', table.__name__)}/{entry.name}")
    for table in tables()
    for entry in table.TABLE.values()
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_is_described(entry: Entry) -> None:
    assert entry.doc.endswith(".")
    assert entry.mode & ~0o1777 == 0
    if entry.kind in ("Value", "Live", "Document", "Control", "Transaction", "Link"):
        assert entry.example
    for name, when in entry.errors:
        assert hasattr(errno, name)
        assert when


def test_every_directory_says_its_path() -> None:
    public = [cls for cls in subclasses(DirectoryOf) if not cls.__name__.startswith("_")]
    missing = {
        cls.__name__
        for cls in public
        if cls.__module__.startswith("agentfs.providers") and not hasattr(cls, "PATH")
    }
    assert missing <= {
        "Table",
        "Described",
        "DocumentFolder",
        "MessagesDirectory",
        "NumberLinks",
        "Replacing",
        "SystemTable",
    }


async def test_the_namespace_is_as_designed(world: World) -> None:
    assert world.pid("alice") == 2
    for line in NAMESPACE.split("\n"):
        if not line:
            continue
        path, mode = line.split()
        node = world.find(path)
        found = node.stat().mode
        if mode == "-":
            assert st.S_ISLNK(found), path
            continue
        assert oct(st.S_IMODE(found)) == oct(int(mode, 8)), path
        assert st.S_ISDIR(found) == path.endswith("/"), path
        assert isinstance(node, Directory) == path.endswith("/"), path


def walk(directory: Directory, path: str = "") -> Iterator[tuple[str, Directory, str, Node]]:
    for name, node in directory.entries():
        yield f"{path}/{name}", directory, name, node
        if isinstance(node, Directory):
            yield from walk(node, f"{path}/{name}")


async def test_what_is_listed_is_found_and_is_what_it_says(world: World) -> None:
    await world.mail("alice", "bob")
    await world.write("/shared/file", "x", create=True)
    seen = 0
    keys: dict[object, str] = {}
    for path, directory, name, node in walk(world.tree.root):
        seen += 1
        assert directory.lookup(name).key == node.key, path
        assert keys.setdefault(node.key, path) == path, path
        stat = node.stat()
        assert stat.mtime > 0, path
        assert isinstance(node, Directory) == st.S_ISDIR(stat.mode), path
        assert isinstance(node, Link) == st.S_ISLNK(stat.mode), path
        assert f"| {node.kind.capitalize()} |" in HEAD or node.kind in OF_LINUX, path
        assert not isinstance(node, Stream) or node.fresh, path
        if isinstance(directory, Table) and name in directory.TABLE:
            entry = directory.TABLE[name]
            assert isinstance(node, KINDS[entry.kind]), path
            assert node.kind == entry.word, path
            if entry.kind != "Link":
                assert oct(st.S_IMODE(stat.mode)) == oct(entry.mode), path
        if isinstance(node, File) and stat.mode & 0o400 and not isinstance(node, Exchange):
            content = await world.read(path)
            if isinstance(node, Value | Document):
                assert len(content) == stat.size, path
                assert content == b"" or content.endswith(b"\n"), path
    assert seen > 150


async def test_nothing_declared_can_be_removed_renamed_or_chmodded(world: World) -> None:
    for path, directory, name, node in walk(world.tree.root):
        if isinstance(directory, Replacing) and name in directory.REPLACED:
            continue  # tests/system/test_replacing.py
        if isinstance(directory, Table) and name in directory.TABLE:
            for attempt in (directory.unlink, directory.rmdir):
                with pytest.raises(KernelError) as caught:
                    attempt(name, OPERATOR)
                assert caught.value.code in ("EPERM", "ENOENT"), path
            if not path.endswith(("shared", "memory")):  # real directories
                with refused("EPERM"):
                    node.chattr(OPERATOR, Attributes(mode=0o111))


async def test_private_entries_are_private(world: World) -> None:
    for table, path in ((2, "/proc/2"), (0, "/agents/alice")):
        directory = world.directory(path)
        assert isinstance(directory, Table), table
        for name, entry in directory.TABLE.items():
            if not entry.private:
                continue
            for caller in (world.as_agent("bob"), STRANGER):
                with refused("EACCES"):
                    if entry.kind == "Directory":
                        world.list(f"{path}/{name}", caller)
                    else:
                        flags = os.O_RDONLY if entry.mode & 0o400 else os.O_WRONLY
                        world.open(f"{path}/{name}", flags, caller)
