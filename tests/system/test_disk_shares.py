"""Shares of the disk on a real mount: one agent fills its share of memory/, of /shared and of the
artifacts, and another one, and the operator, go on writing."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.puppet import Puppet
from tests.system.test_shares import in_use, pot, refused, room
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

MIB = 1 << 20
SIZE = 20 * MIB
HALF = 9 * MIB
"""What one may have that is alone: half of what is not the operator's."""

CONFIG = f"shares: {{memory: {SIZE}, artifacts: {SIZE}, shared: {SIZE}}}\n"

NUMBERS = itertools.count()

APPEND = """
def append(path, size):
    fd = os.open(os.path.join(tree, path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        return os.write(fd, bytes(size))
    finally:
        os.close(fd)
"""


@pytest.fixture(scope="module")
def tree(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    """One for all tests: each leaves the pots as they were."""
    made = QuickTree(tmp_path_factory.mktemp("disk") / "tree", hatchery=hatchery)
    made.mount()
    made.write("etc/agentfs.yaml", CONFIG)
    try:
        yield made
    finally:
        made.clean_up()


@pytest.fixture
def start(tree: Tree) -> Iterator[Callable[..., Puppet]]:
    """Starts agents; nothing of them stays."""
    made: list[Puppet] = []

    def begin(name: str, **spec: object) -> Puppet:
        agent = Puppet(tree, f"{name}{next(NUMBERS)}", **spec)
        agent.do(f"exec({APPEND!r}, globals())")
        made.append(agent)
        return agent

    yield begin
    places = [tree / "shared", tree / "dev/shm/global"]
    for agent in made:
        places.append(tree / f"agents/{agent.name}/memory")
        agent.close()  # which ends it
    for place in places:
        for path in place.iterdir():
            if path.name == "folder":
                shutil.rmtree(path)
            elif path.name != "docs":
                path.unlink()


def fill(agent: Puppet, path: str) -> int:
    """Append to a file until that is refused; how many bytes got in."""
    written = 0
    with refused(errno.EDQUOT):
        for _ in range(SIZE // (MIB // 4)):
            written += agent.do(f"append({path!r}, {MIB // 4})")
    return written


PLACES = {
    "memory": "agents/self/memory/big",
    "shared": "shared/big",
    "artifacts": "dev/shm/global/big",
}


@pytest.mark.parametrize("place", ["memory", "shared"])
def test_one_fills_its_share_and_others_go_on(
    tree: Tree, start: Callable[..., Puppet], place: str
) -> None:
    greedy, modest = start("greedy"), start("modest")
    path, other = PLACES[place], PLACES[place].replace("big", "other")
    written = fill(greedy, path)
    assert HALF - MIB // 2 <= written <= HALF
    words = greedy.read("proc/self/error")
    assert f"{greedy.name} holds" in words
    assert f"shares.{place}" in words
    held, left = room(greedy, place)
    assert (held >= written, left < MIB // 4) == (True, True)
    assert greedy.do(f"append({path!r}, 0)") == 0

    assert modest.do(f"append({other!r}, {MIB})") == MIB
    real = tree / path.replace("self", greedy.name)
    with open(real, "ab", buffering=0) as file:  # the operator, in the agent's own place
        assert file.write(bytes(2 * MIB)) == 2 * MIB
    (tree / "shared/operators").write_bytes(bytes(12 * MIB))
    with refused(errno.EDQUOT if place == "memory" else errno.ENOSPC):
        greedy.do(f"append({path!r}, {MIB // 4})")

    (tree / "shared/operators").unlink()
    greedy.do(f"os.truncate(os.path.join(tree, {path!r}), 0)")
    assert greedy.do(f"append({path!r}, {MIB})") == MIB, "what was given back can be had at once"
    greedy.rm(path)
    assert greedy.do(f"append({path!r}, {MIB})") == MIB
    greedy.rm(path)
    assert room(greedy, place)[0] < MIB


def test_what_is_kept_beside_the_mail_counts_as_memory(
    tree: Tree, start: Callable[..., Puppet]
) -> None:
    agent = start("mailer")
    agent.do(f"append('agents/self/inbox/.state', {MIB})")
    assert room(agent, "memory")[0] == MIB
    agent.rm("agents/self/inbox/.state")
    assert room(agent, "memory")[0] == 0


def test_attributes_count_too(tree: Tree, start: Callable[..., Puppet]) -> None:
    agent = start("modest")
    agent.do("append('agents/self/memory/some', 0)")
    before = room(agent, "memory")[0]
    assert before == 4096
    agent.do("os.setxattr(me + '/memory/some', 'user.a', b'x' * 3000)")
    real = tree.state / f"agents/{agent.name}/memory/some"
    assert room(agent, "memory")[0] == max(4096, real.stat().st_blocks * 512)
    tree.write("etc/agentfs.yaml", CONFIG.replace(f"memory: {SIZE}", "memory: 1000"))
    try:
        with refused(errno.ENOSPC):
            agent.do("os.setxattr(me + '/memory/some', 'user.b', b'x' * 500)")
    finally:
        tree.write("etc/agentfs.yaml", CONFIG)
    agent.do("os.removexattr(me + '/memory/some', 'user.a')")
    assert room(agent, "memory")[0] == max(4096, real.stat().st_blocks * 512)


def test_who_has_the_name_of_an_agent_that_was_removed_holds_nothing_of_it(tree: Tree) -> None:
    before = in_use(tree, "memory")
    agent = tree / "agents/again"
    for _ in range(2):
        agent.mkdir()
        (agent / "memory/big").write_bytes(bytes(MIB))
        (agent / "memory/folder").mkdir()
        assert in_use(tree, "memory") == before + MIB + 4096
        agent.rmdir()
        assert in_use(tree, "memory") == before


def test_df_says_what_one_may_still_write(tree: Tree, start: Callable[..., Puppet]) -> None:
    agent = start("modest")
    free = "(lambda s: s.f_bavail * s.f_frsize)(os.statvfs(tree + '/{}'))"
    assert HALF - MIB <= agent.do(free.format("shared")) <= HALF
    agent.do(f"append('shared/some', {4 * MIB})")
    agent.do(f"append('agents/self/memory/some', {4 * MIB})")
    assert HALF - 5 * MIB <= agent.do(free.format("agents")) <= HALF - 4 * MIB
    disk, here = os.statvfs(tree.state), os.statvfs(tree.path)
    assert here.f_bavail * here.f_frsize > disk.f_bavail * disk.f_frsize // 2, "to the operator"


def test_all_agents_of_one_user_have_a_share_together(
    tree: Tree, start: Callable[..., Puppet]
) -> None:
    tree.write("etc/agentfs.yaml", CONFIG.replace("{", "{agent: 1, user: 0.5, "))
    try:
        first, second = start("first"), start("second")
        first.do(f"append('shared/first', {6 * MIB})")
        assert fill(second, "shared/second") <= HALF - 6 * MIB
        assert "all programs of user" in second.read("proc/self/error")
    finally:
        tree.write("etc/agentfs.yaml", CONFIG)


def test_of_the_artifacts_too(tree: Tree, start: Callable[..., Puppet]) -> None:
    greedy, modest = start("greedy"), start("modest")
    for number in range(4):
        greedy.do(f"append('dev/shm/global/{number}', {2 * MIB})")
    with refused(errno.EDQUOT):
        greedy.do(f"append('dev/shm/global/4', {2 * MIB})")
    assert "4" not in tree.read("dev/shm/global/0")[:1]
    assert "4" not in os.listdir(tree / "dev/shm/global")
    assert "bytes of artifacts" in greedy.read("proc/self/error")
    assert room(greedy, "artifacts")[0] == 8 * MIB
    modest.do(f"append('dev/shm/global/mine', {MIB})")
    (tree / "dev/shm/global/operators").write_bytes(bytes(9 * MIB))
    greedy.rm("dev/shm/global/0")
    (tree / "dev/shm/global/operators").unlink()
    greedy.do(f"append('dev/shm/global/4', {MIB})")
    assert room(greedy, "artifacts")[0] == 7 * MIB


def test_what_has_no_name_counts_as_long_as_it_is_open(
    tree: Tree, start: Callable[..., Puppet]
) -> None:
    greedy = start("greedy")
    open_ = "globals().__setitem__('fd', os.open(tree + '/agents/self/memory/big', {}))"
    greedy.do(open_.format("os.O_RDWR | os.O_CREAT"))
    greedy.do(f"os.write(fd, bytes({4 * MIB}))")
    greedy.rm(PLACES["memory"])
    greedy.do(f"os.write(fd, bytes({4 * MIB}))")
    # ext4 says too little while it writes to the disk: not exactly so much.
    assert 6 * MIB < room(greedy, "memory")[0] <= 8 * MIB
    with refused(errno.EDQUOT):
        greedy.do(f"os.write(fd, bytes({2 * MIB})) and os.write(fd, bytes({2 * MIB}))")
    greedy.do("os.close(fd)")
    eventually(lambda: room(greedy, "memory")[0] == 0)


def test_who_lets_others_write_to_its_file_does_not_pay_for_it(
    tree: Tree, start: Callable[..., Puppet]
) -> None:
    host, guest = start("host"), start("guest")
    host.do(f"append('shared/book', {MIB})")
    guest.do(f"append('shared/book', {2 * MIB})")
    assert (room(host, "shared")[0], room(guest, "shared")[0]) == (MIB, 2 * MIB)
    host.do("os.truncate(tree + '/shared/book', 1572864)")  # what came last goes first
    assert (room(host, "shared")[0], room(guest, "shared")[0]) == (MIB, MIB // 2)
    guest.do(f"append('shared/book', {MIB})")

    attributes = os.listxattr(tree / "shared/book")
    assert attributes == [], "whose the bytes are is no matter of the file's readers"
    with refused(errno.ENODATA):
        os.getxattr(tree / "shared/book", "user.agentfs.held")
    os.setxattr(tree / "shared/book", "user.agentfs.held", b"o")  # a copy with its attributes

    tree.crash()  # the marks are on the disk
    tree.mount()
    assert (tree.state / "shared/book").stat().st_size == MIB * 5 // 2
    host_pid, guest_pid = (
        tree.read(f"agents/{name}/pid").strip() for name in (host.name, guest.name)
    )

    def held(pid: str) -> int:
        rows = [row.split() for row in tree.read(f"proc/{pid}/limits/shares").splitlines()]
        return next(int(row[1]) for row in rows if row[0] == "shared")

    eventually(lambda: (held(host_pid), held(guest_pid)) == (MIB, MIB * 3 // 2))
    (tree / "shared/book").unlink()
    assert (held(host_pid), held(guest_pid)) == (0, 0)


def test_what_is_written_by_the_path_on_the_disk_is_found_by_the_next_look(
    tree: Tree, start: Callable[..., Puppet]
) -> None:
    greedy = start("greedy")
    memory = tree.state / f"agents/{greedy.name}/memory"
    (memory / "folder").mkdir()
    (memory / "folder/big").write_bytes(bytes(12 * MIB))
    os.link(memory / "folder/big", memory / "again")
    before = in_use(tree, "memory")
    tree.unmount()
    tree.mount()  # the first look comes with the start
    eventually(lambda: in_use(tree, "memory") == before + 12 * MIB + 4096)


def test_directories_and_empty_files_count_too(tree: Tree, start: Callable[..., Puppet]) -> None:
    tree.write("etc/agentfs.yaml", CONFIG.replace(f"memory: {SIZE}", f"memory: {4 * MIB}"))
    try:
        greedy = start("greedy")
        make = "[os.mkdir(f'{me}/memory/{number}') for number in range(1024)]"
        with refused(errno.EDQUOT):
            greedy.do(make)
        made = len(os.listdir(tree / f"agents/{greedy.name}/memory"))
        assert room(greedy, "memory")[0] == made * 4096 < 2 * MIB
        with refused(errno.EDQUOT):
            greedy.do("os.symlink('x', me + '/memory/link')")
        assert len(os.listdir(tree / f"agents/{greedy.name}/memory")) == made, (
            "half of it is undone"
        )
        greedy.do("[os.rmdir(f'{me}/memory/{name}') for name in os.listdir(me + '/memory')]")
        assert room(greedy, "memory")[0] == 0
    finally:
        tree.write("etc/agentfs.yaml", CONFIG)


def test_agents_leave_the_end_of_the_disk_to_the_operator(
    hatchery: Hatchery, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")
    tree = QuickTree(tmp_path / "tree", hatchery=hatchery)
    agents: list[Puppet] = []
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tree.state], check=True)
    try:
        tree.mount()
        agents += [Puppet(tree, name) for name in ("one", "two", "three", "four")]
        refusals = 0
        for agent in agents:
            agent.do(f"exec({APPEND!r}, globals())")
            for place in ("agents/self/memory/big", "shared/" + agent.name):
                for _ in range(64):
                    try:
                        agent.do(f"append({place!r}, {MIB})")
                    except OSError as failure:
                        assert failure.errno in (errno.EDQUOT, errno.ENOSPC)
                        refusals += 1
                        break
        assert refusals == 8
        assert int(pot(tree, "memory")[1]) < 64 * MIB, "of the disk, where no number is set"
        disk = os.statvfs(tree.state)
        left = disk.f_bavail * disk.f_frsize
        assert left > 8 * MIB
        (tree / "shared/operators").write_bytes(bytes(6 * MIB))
        tree.write("agents/init/outbox/one", "hello\n")
        with refused(errno.ENOSPC):
            agents[0].do(f"append('agents/self/memory/big', {4 * MIB})")
    finally:
        for agent in agents:
            agent.close()
        tree.clean_up()
        subprocess.run(["umount", "-l", tree.state], check=True)
