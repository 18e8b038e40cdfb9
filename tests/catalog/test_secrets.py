"""Secrets: they are set, and nobody reads them back."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agentfs.catalog.events import SecretRemoved, SecretSet
from agentfs.kernel import Kernel
from agentfs.vfs.changes import Created, Modified, Removed
from tests.providers.world import OPERATOR, World, refused
from tests.tree import Tree

KEY = "sk-do-not-tell-4711"
FINGERPRINT = hashlib.sha256(KEY.encode()).hexdigest()[:12]
PATH = "/etc/secrets/there"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    kernel = Kernel(tmp_path / "state", "/run/agents")
    async with kernel.running():
        yield World(kernel)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path / "tree")
    try:
        made.mount()
        yield made
    finally:
        made.clean_up()


async def test_the_whole_life_of_a_secret(world: World) -> None:
    secrets = world.kernel.catalog.secrets
    assert world.list("/etc/secrets") == []
    await world.write(PATH, f"{KEY}\n", create=True)
    assert secrets.get("there") == KEY
    assert world.list("/etc/secrets") == ["there"]
    (created,) = [each for each in world.changes if isinstance(each, Created)]
    assert (created.name, created.node.stat().size) == ("there", 0)
    await world.write(PATH, "another")
    assert secrets.get("there") == "another"
    assert any(isinstance(each, Modified) for each in world.changes)
    world.directory("/etc/secrets").unlink("there", OPERATOR)
    assert "there" not in secrets
    assert isinstance(world.changes[-1], Removed)
    with refused("ENOENT"):
        secrets.get("there")
    with refused("ENOENT"):
        world.directory("/etc/secrets").unlink("there", OPERATOR)


async def test_its_fingerprint_is_the_beginning_of_its_sha256(world: World) -> None:
    await world.write(PATH, KEY, create=True)
    node = world.find(PATH)
    assert (
        node.getxattr("user.fingerprint").decode() == hashlib.sha256(KEY.encode()).hexdigest()[:12]
    )
    assert "user.fingerprint" in node.listxattr()
    assert node.stat().mode & 0o777 == 0o200


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
async def test_nobody_reads_it_the_operator_neither(world: World, flags: int) -> None:
    await world.write(PATH, KEY, create=True)
    with refused("EACCES"):
        world.open(PATH, flags)
    handle = world.open(PATH, os.O_WRONLY)
    assert await handle.read(0, 100) == b""  # nor through a handle that writes
    handle.release()


async def test_agents_have_nothing_to_do_with_them(world: World) -> None:
    await world.spawn("alice")
    alice = world.as_agent("alice")
    with refused("EACCES"):
        world.list("/etc/secrets", alice)
    await world.write(PATH, KEY, create=True)
    with refused("EACCES"):
        await world.write(PATH, "x", alice)
    with refused("EACCES"):
        world.find(PATH).inspect(alice)
    with refused("EACCES"):
        await world.kernel.catalog.secrets.set(alice.principal, "more", b"x")
    with refused("EACCES"):
        world.directory("/etc/secrets").unlink("there", alice)
    assert world.kernel.catalog.secrets.get("there") == KEY


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("there", b"", "EINVAL"),
        ("there", b" \n\t", "EINVAL"),
        ("there", b"a\0b", "EINVAL"),
        ("there", b"\xff\xfe", "EINVAL"),
        ("there", b"x" * 16_385, "EFBIG"),
        (".there", b"x", "EINVAL"),
        ("a b", b"x", "EINVAL"),
        ("x" * 129, b"x", "EINVAL"),
    ],
)
async def test_a_bad_one_is_refused_and_not_quoted(
    world: World, name: str, content: bytes, code: str
) -> None:
    with refused(code):
        await world.write(f"/etc/secrets/{name}", content, create=True)
    assert list(world.kernel.catalog.secrets) == []


async def test_there_are_so_many_at_most(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentfs.catalog.secrets.MOST", 1)
    await world.write(PATH, KEY, create=True)
    with refused("ENOSPC"):
        await world.write("/etc/secrets/more", KEY, create=True)
    await world.write(PATH, "another")


async def test_they_are_in_files_of_their_own_and_survive_a_restart(world: World) -> None:
    kernel = world.kernel
    await world.write(PATH, KEY, create=True)
    folder = kernel.state_dir / "secrets"
    assert os.listdir(folder) == ["there"]
    assert stat.S_IMODE((folder / "there").stat().st_mode) == 0o600
    (folder / ".half").write_text("a daemon that was killed wrote it")
    again = type(kernel.catalog.secrets)(kernel.ground, kernel.gate)
    assert list(again) == ["there"]
    assert again.get("there") == KEY
    assert os.listdir(folder) == ["there"]


async def test_a_disk_that_fails_changes_nothing(world: World) -> None:
    kernel = world.kernel
    await world.write(PATH, KEY, create=True)
    folder = kernel.state_dir / "secrets"
    folder.rename(folder.with_name("elsewhere"))
    with refused("ENOENT"):
        await world.write("/etc/secrets/more", "x", create=True)
    with refused("ENOENT"):
        kernel.catalog.secrets.get("there")
    assert list(kernel.catalog.secrets) == ["there"]


async def test_events_and_the_audit_have_its_name_alone(world: World) -> None:
    kernel = world.kernel
    heard = []
    kernel.events.listen(lambda record: heard.append(record.event))
    await world.write(PATH, KEY, create=True)
    world.directory("/etc/secrets").unlink("there", OPERATOR)
    assert heard == [SecretSet("there", True), SecretRemoved("there")]
    for file in kernel.state_dir.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file


# -- through the mount -----------------------------------------------------------------------------


def test_a_shell_sets_lists_and_removes_it_and_no_command_shows_it(tree: Tree) -> None:
    secret = tree.path / "etc/secrets/anthropic"
    subprocess.run(["sh", "-c", f"echo {KEY} > {secret}"], check=True)
    info = secret.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_size) == (0o200, 0)
    for command in (["cat"], ["head", "-c1"], ["grep", "-r", "."], ["cp", "-t", "/tmp"], ["tail"]):
        done = subprocess.run([*command, secret], capture_output=True, text=True)
        assert done.returncode != 0
        assert KEY not in done.stdout + done.stderr
    with pytest.raises(PermissionError), open(secret, "r+b"):
        pass
    reason = (tree.path / "proc/self/error").read_text()
    assert "never read back" in reason
    assert os.getxattr(secret, "user.fingerprint").decode() == FINGERPRINT
    listed = tree.run("secret", "ls").stdout
    assert listed.split()[0] == "anthropic"
    assert listed.split()[-1] == FINGERPRINT
    tree.run("secret", "set", "anthropic", stdin="other-key\n")
    assert FINGERPRINT not in tree.run("secret", "ls", "--json").stdout
    assert (tree.state / "secrets/anthropic").read_text() == "other-key"
    tree.run("secret", "rm", "anthropic")
    assert tree.run("secret", "ls").stdout == ""
    assert list((tree.path / "etc/secrets").iterdir()) == []
    gone = tree.run("secret", "rm", "anthropic", check=False)
    assert (gone.returncode, KEY in gone.stderr) == (1, False)


def test_an_editor_that_writes_a_new_file_and_moves_it_is_told_why_not(tree: Tree) -> None:
    beside = tree.path / "etc/secrets/new"
    beside.write_text("x")
    with pytest.raises(PermissionError):
        beside.rename(tree.path / "etc/secrets/newer")
    with pytest.raises(OSError, match="Invalid argument"):
        (tree.path / "etc/secrets/.new.swp").write_text("x")
