"""Real directories in the tree, compared with the directory itself."""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.principal import Kind, Principal
from agentfs.providers import kept
from agentfs.providers.host import HostDirectory, HostFile, HostHandle, HostLink, HostNode, HostTree
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import Attributes

ME = Caller(
    Principal(Kind.OPERATOR, 1, "init", os.geteuid(), os.getegid()),
    os.geteuid(),
    os.getegid(),
    os.getpid(),
    umask=0o022,
)


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    root = tmp_path / "root"
    root.mkdir()
    return HostTree(root)


def at(tree: HostTree, path: str) -> HostNode:
    node: HostNode = tree.root
    for name in path.split("/"):
        assert isinstance(node, HostDirectory)
        node = node.lookup(name)
    return node


def folder(tree: HostTree, path: str) -> HostDirectory:
    found = at(tree, path)
    assert isinstance(found, HostDirectory)
    return found


def opened(node: HostNode, flags: int) -> HostHandle:
    assert isinstance(node, HostFile)
    return node.open(flags, ME)


async def put(directory: HostDirectory, name: str, content: bytes) -> HostNode:
    node, handle = directory.create(name, 0o644, os.O_RDWR, ME)
    assert isinstance(handle, HostHandle)
    assert isinstance(node, HostNode)
    await handle.write(0, content)
    handle.release()
    return node


async def content(node: HostNode) -> bytes:
    handle = opened(node, os.O_RDONLY)
    try:
        return await handle.read(0, 1 << 20)
    finally:
        handle.release()


@contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(KernelError) as caught:
        yield
    assert caught.value.errno == number, str(caught.value)


async def test_the_whole_life_of_a_file(tree: HostTree) -> None:
    real = Path(tree.path) / "a"
    node = await put(tree.root, "a", b"hello")
    assert real.read_bytes() == b"hello"
    assert st.S_IMODE(real.stat().st_mode) == 0o644
    same = at(tree, "a")
    assert same is node
    found, truth = node.stat(), real.stat()
    assert (found.size, found.mtime, found.mode, found.nlink, found.blocks) == (
        truth.st_size,
        truth.st_mtime_ns,
        truth.st_mode,
        truth.st_nlink,
        truth.st_blocks,
    )
    node.chattr(ME, Attributes(mode=0o600, size=2, times=(1_000_000_001, 2_000_000_002)))
    truth = real.stat()
    assert (st.S_IMODE(truth.st_mode), truth.st_size) == (0o600, 2)
    assert (truth.st_atime_ns, truth.st_mtime_ns) == (1_000_000_001, 2_000_000_002)
    assert (node.stat().atime, node.stat().mtime) == (1_000_000_001, 2_000_000_002)
    tree.root.unlink("a", ME)
    assert not real.exists()
    with refused(errno.ENOENT):
        at(tree, "a")
    assert node.stat().nlink == 0  # whoever has it still may ask, as on any disk


async def test_a_removed_file_works_on_while_it_is_open(tree: HostTree) -> None:
    node = await put(tree.root, "a", b"hello")
    handle = opened(node, os.O_RDWR)
    tree.root.unlink("a", ME)
    assert await handle.read(0, 10) == b"hello"
    assert await handle.write(5, b"!") == 1
    assert (node.stat().size, node.stat().nlink) == (6, 0)
    node.chattr(ME, Attributes(size=1))
    handle.truncate(3)
    assert node.stat().size == 3
    handle.release()
    assert (node.stat().size, node.stat().nlink) == (3, 0)
    assert await content(node) == b"h\0\0"  # opened by who looked it up before
    node.kept = None
    with refused(errno.ESTALE):
        node.stat()


async def test_a_number_that_is_used_again_is_another_file(tree: HostTree) -> None:
    first = await put(tree.root, "a", b"1")
    tree.root.unlink("a", ME)
    seen = {first.key}
    kept = [first]
    for number in range(20):
        node = await put(tree.root, f"b{number}", b"2")
        assert node.key not in seen
        seen.add(node.key)
        kept.append(node)
        tree.root.unlink(f"b{number}", ME)


async def test_renaming_a_directory_moves_what_is_below(tree: HostTree) -> None:
    tree.root.mkdir("d", 0o755, ME)
    folder(tree, "d").mkdir("e", 0o755, ME)
    node = await put(folder(tree, "d/e"), "f", b"deep")
    tree.root.mkdir("other", 0o755, ME)
    tree.root.rename("d", folder(tree, "other"), "moved", 0, ME)
    assert await content(node) == b"deep"
    assert at(tree, "other/moved/e/f") is node
    assert (Path(tree.path) / "other/moved/e/f").read_bytes() == b"deep"


async def test_rename_replaces_refuses_and_exchanges(tree: HostTree) -> None:
    a, b = await put(tree.root, "a", b"A"), await put(tree.root, "b", b"B")
    with refused(errno.EEXIST):
        tree.root.rename("a", tree.root, "b", 1, ME)
    tree.root.rename("a", tree.root, "b", 2, ME)
    assert (await content(at(tree, "a")), await content(at(tree, "b"))) == (b"B", b"A")
    assert at(tree, "a") is b
    assert at(tree, "b") is a
    tree.root.rename("a", tree.root, "b", 0, ME)
    assert os.listdir(tree.path) == ["b"]
    assert at(tree, "b") is b
    assert await content(b) == b"B"
    assert (await content(a), a.stat().nlink) == (b"A", 0)
    with refused(errno.EINVAL):
        tree.root.rename("b", tree.root, "c", 4, ME)


async def test_hard_links_are_one_file(tree: HostTree) -> None:
    a = await put(tree.root, "a", b"A")
    assert tree.root.link(a, "b", ME) is a
    assert a.stat().nlink == 2
    tree.root.unlink("a", ME)
    assert await content(a) == b"A"
    assert at(tree, "b") is a
    tree.root.link(a, "c", ME)
    tree.root.rename("b", tree.root, "c", 0, ME)  # two names of one file: nothing happens
    assert sorted(os.listdir(tree.path)) == ["b", "c"]


async def test_a_name_that_was_taken_over_behind_our_back_is_noticed(tree: HostTree) -> None:
    node = await put(tree.root, "a", b"mine")
    real = Path(tree.path)
    (real / "evil").write_bytes(b"not yours")
    (real / "evil").rename(real / "a")
    with refused(errno.ESTALE):
        opened(node, os.O_RDONLY)
    assert await content(at(tree, "a")) == b"not yours"


async def test_links_are_shown_and_never_followed(tree: HostTree, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    link = tree.root.symlink("l", "../secret", ME)
    assert isinstance(link, HostLink)
    assert link.target(ME) == "../secret"
    link.chattr(ME, Attributes(times=(1, 2)))
    assert (Path(tree.path) / "l").lstat().st_mtime_ns == 2
    with refused(errno.EEXIST):
        tree.root.create("l", 0o644, os.O_WRONLY, ME)
    with refused(errno.EEXIST):
        tree.root.create("l", 0o644, os.O_WRONLY | os.O_EXCL, ME)
    # A directory that a link takes the place of leads nowhere.
    directory = tree.root.mkdir("d", 0o755, ME)
    (Path(tree.path) / "d").rmdir()
    (Path(tree.path) / "d").symlink_to(tmp_path)
    assert isinstance(directory, HostDirectory)
    with refused(errno.ENOTDIR):
        directory.lookup("secret")
    tree.root.unlink("l", ME)
    assert (tmp_path / "secret").exists()


async def test_special_files(tree: HostTree) -> None:
    fifo = tree.root.mknod("p", st.S_IFIFO | 0o640, 0, ME)
    assert st.S_ISFIFO(fifo.stat().mode)
    assert st.S_IMODE((Path(tree.path) / "p").stat().st_mode) == 0o640
    assert st.S_ISSOCK(tree.root.mknod("s", st.S_IFSOCK | 0o600, 0, ME).stat().mode)
    with refused(errno.EPERM):
        tree.root.mknod("null", st.S_IFCHR | 0o666, os.makedev(1, 3), ME)


async def test_open_flags(tree: HostTree) -> None:
    node = await put(tree.root, "a", b"hello")
    handle = opened(node, os.O_WRONLY | os.O_APPEND)
    await handle.write(5, b"!")  # Linux says where the end is
    handle.release()
    assert await content(node) == b"hello!"
    opened(node, os.O_WRONLY | os.O_TRUNC).release()
    assert node.stat().size == 0
    with refused(errno.EEXIST):
        tree.root.create("a", 0o644, os.O_WRONLY | os.O_EXCL, ME)
    again, handle2 = tree.root.create("a", 0o644, os.O_WRONLY, ME)
    assert again is node
    handle2.release()
    handle = opened(node, os.O_RDWR)
    await handle.write(1 << 20, b"x")  # a hole
    stat = node.stat()
    assert stat.size == (1 << 20) + 1
    assert stat.blocks is not None
    assert stat.blocks * 512 < stat.size
    assert await handle.read((1 << 20) - 1, 10) == b"\0x"
    await handle.fsync()
    handle.release()


async def test_directories(tree: HostTree) -> None:
    directory = tree.root.mkdir("d", 0o777, ME)
    assert isinstance(directory, HostDirectory)
    assert st.S_IMODE(directory.stat().mode) == 0o755  # umask
    for number in range(100):
        await put(directory, f"f{number}", b"")
    listed = {name: node.stat().size for name, node in directory.entries()}
    assert listed == {f"f{number}": 0 for number in range(100)}
    with refused(errno.ENOTEMPTY):
        tree.root.rmdir("d", ME)
    for name in listed:
        directory.unlink(name, ME)
    assert directory.stat().nlink == (Path(tree.path) / "d").stat().st_nlink
    tree.root.rmdir("d", ME)
    assert (list(directory.entries()), directory.stat().nlink) == ([], 0)
    for gone in (
        lambda: directory.lookup("f"),
        lambda: directory.mkdir("e", 0o755, ME),
        lambda: directory.create("f", 0o644, os.O_WRONLY, ME),
    ):
        with refused(errno.ENOENT):
            gone()
    with refused(errno.ENOENT):
        tree.root.rmdir("d", ME)


async def test_names_that_are_not_utf_8_and_deep_paths(tree: HostTree) -> None:
    name = os.fsdecode(b"caf\xe9")
    await put(tree.root, name, b"latin")
    assert os.listdir(os.fsencode(tree.path)) == [b"caf\xe9"]
    here = tree.root
    for _ in range(600):
        made = here.mkdir("d" * 20, 0o755, ME)
        assert isinstance(made, HostDirectory)
        here = made
    node = await put(here, "deep", b"down")
    assert await content(node) == b"down"


async def test_extended_attributes(tree: HostTree) -> None:
    node = await put(tree.root, "a", b"")
    with refused(errno.ENODATA):
        node.getxattr("security.capability")
    with refused(errno.ENODATA):
        node.getxattr("user.colour")
    with refused(errno.ENOTSUP):
        node.setxattr("security.evil", b"1", ME)
    node.setxattr("user.colour", b"blue", ME)
    assert node.getxattr("user.colour") == b"blue"
    assert node.listxattr() == ["user.colour"]
    node.removexattr("user.colour", ME)
    assert node.listxattr() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_new_files_are_the_callers(tree: HostTree) -> None:
    alice = Caller(Principal(Kind.AGENT, 2, "alice", 1234, 1235), 1234, 1235, 1, umask=0o027)
    tree.root.create("f", 0o666, os.O_WRONLY, alice)[1].release()
    tree.root.mkdir("d", 0o777, alice)
    tree.root.symlink("l", "f", alice)
    real = Path(tree.path)
    for name, mode in (("f", 0o640), ("d", 0o750), ("l", 0o777)):
        found = (real / name).lstat()
        assert (found.st_uid, found.st_gid, st.S_IMODE(found.st_mode)) == (1234, 1235, mode)
    # A directory with the set-group-id bit hands its group down.
    shared = tree.root.mkdir("g", 0o777, ME)
    assert isinstance(shared, HostDirectory)
    shared.chattr(ME, Attributes(gid=77))
    shared.chattr(ME, Attributes(mode=0o2775))
    shared.create("f", 0o666, os.O_WRONLY, alice)[1].release()
    shared.mkdir("d", 0o777, alice)
    assert (real / "g/f").stat().st_gid == 77
    assert (real / "g/d").stat().st_gid == 77
    assert (real / "g/d").stat().st_mode & st.S_ISGID
    node = at(tree, "l")
    node.chattr(ME, Attributes(uid=1))
    assert (real / "l").lstat().st_uid == 1
    assert (real / "f").stat().st_uid == 1234


async def test_guards_are_asked_at_every_operation(tmp_path: Path) -> None:
    allowed = True

    def guard(caller: Caller) -> None:
        if not allowed:
            raise KernelError(errno.EACCES, "no")

    tree = HostTree(tmp_path, guard)
    node = await put(tree.root, "a", b"x")
    allowed = False
    for attempt in (
        lambda: node.enter(ME),
        lambda: opened(node, os.O_RDONLY),
        lambda: node.chattr(ME, Attributes(size=0)),
        lambda: node.setxattr("user.a", b"", ME),
        lambda: tree.root.create("b", 0o644, os.O_WRONLY, ME),
        lambda: tree.root.mkdir("b", 0o644, ME),
        lambda: tree.root.mknod("b", st.S_IFIFO, 0, ME),
        lambda: tree.root.symlink("b", "x", ME),
        lambda: tree.root.link(node, "b", ME),
        lambda: tree.root.unlink("a", ME),
        lambda: tree.root.rename("a", tree.root, "b", 0, ME),
    ):
        with refused(errno.EACCES):
            attempt()
    assert os.listdir(tmp_path) == ["a"]


async def test_nothing_moves_between_two_trees(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    one, two = HostTree(tmp_path / "1"), HostTree(tmp_path / "2")
    node = await put(one.root, "a", b"x")
    with refused(errno.EXDEV):
        one.root.rename("a", two.root, "a", 0, ME)
    with refused(errno.EXDEV):
        two.root.link(node, "a", ME)


async def test_no_descriptor_is_left_open(tree: HostTree) -> None:
    list(tree.root.entries())  # the descriptor of a directory is kept for the next call
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        node = await put(tree.root, "a", b"x")
        await content(node)
        list(tree.root.entries())
        with refused(errno.ENOENT):
            tree.root.lookup("missing")
        tree.root.mkdir("d", 0o755, ME)
        tree.root.rmdir("d", ME)
        tree.root.unlink("a", ME)
        del node  # who knows a removed file keeps it
    assert len(os.listdir("/proc/self/fd")) == before
    for number in range(kept.MOST + 10):
        made = tree.root.mkdir(f"d{number}", 0o755, ME)
        assert isinstance(made, HostDirectory)
        made.mkdir("e", 0o755, ME)
    assert len(os.listdir("/proc/self/fd")) <= before + kept.MOST


async def test_what_has_no_name_and_had_none_is_asked_about_by_nobody(tree: HostTree) -> None:
    """No path to ask the rules about must not be a yes."""
    node = await put(tree.root, "f", b"x")
    below = tree.root.mkdir("d", 0o755, ME)
    assert isinstance(below, HostNode)
    assert (node.paths(), below.paths()) == (["f"], ["d"])
    node.names.clear()
    below.removed = True
    for lost in (node, below):
        with refused(errno.ESTALE):
            lost.inspect(ME)
        with refused(errno.ESTALE):
            lost.chattr(ME, Attributes(mode=0o777))
