"""A disk that is mounted below /shared, or is /shared itself, or a memory, and does not answer: who
asks it is told so in time, and nobody else notices."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agentfs.base.within import mounts
from agentfs.providers.devices import THREADS
from tests.conftest import Hatchery
from tests.hatchery import QuickTree
from tests.puppet import Puppet
from tests.slowdisk import SlowDisk, detach
from tests.tree import PATIENCE, Tree, eventually

pytestmark = pytest.mark.mount

TIMEOUT = 0.3
"""Seconds, what the trees here are set to while a disk hangs: long enough for a call to begin."""


def set_timeout(tree: Tree, seconds: float) -> None:
    tree.write("etc/agentfs.yaml", f"mount: {{disk_timeout: {seconds}}}\n")


def hang(tree: Tree, disk: SlowDisk) -> None:
    set_timeout(tree, TIMEOUT)
    disk.hang()


def answer(tree: Tree, disk: SlowDisk) -> None:
    disk.answer()
    set_timeout(tree, PATIENCE)


@contextmanager
def mounted(tree: Tree, before: Callable[[], object] = lambda: None) -> Iterator[Tree]:
    try:
        before()
        tree.mount()
        set_timeout(tree, PATIENCE)
        yield tree
    finally:
        tree.clean_up()


@pytest.fixture(scope="module")
def kept_tree(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    folder = tmp_path_factory.mktemp("hung") / "tree"
    with mounted(QuickTree(folder, hatchery=hatchery)) as tree:
        yield tree
        assert "Traceback" not in tree.log()


@pytest.fixture(scope="module")
def alice(kept_tree: Tree) -> Iterator[Puppet]:
    with closing(Puppet(kept_tree, "alice")) as puppet:
        yield puppet


@pytest.fixture(scope="module")
def kept_disk(kept_tree: Tree) -> Iterator[SlowDisk]:
    with closing(SlowDisk(kept_tree.state / "shared/remote")) as disk:
        yield disk


@pytest.fixture
def disk(kept_tree: Tree, kept_disk: SlowDisk) -> Iterator[SlowDisk]:
    try:
        yield kept_disk
    finally:
        answer(kept_tree, kept_disk)


@pytest.fixture
def remote(kept_tree: Tree, disk: SlowDisk) -> Path:
    """The disk as the tree shows it, once it answers."""
    eventually(lambda: _answers(kept_tree / "shared/remote"))
    return kept_tree / "shared/remote"


def goes_on(tree: Tree, alice: Puppet) -> None:
    """What has nothing to do with that disk."""
    alice.send("init", "still here")
    assert tree.read("proc/self/status")
    assert "shared" in os.listdir(tree.path)
    assert os.statvfs(tree.path).f_blocks
    (tree / "dev/shm/global/note").write_text("still here")


# -- what works ------------------------------------------------------------------------------------


def test_a_disk_below_shared_works_as_any_other(kept_tree: Tree, remote: Path) -> None:
    folder = remote / "works"
    folder.mkdir()
    (folder / "file").write_text("content")
    assert (folder / "file").read_text() == "content"
    with open(folder / "file", "a") as file:
        file.write(" and more")
        os.fsync(file.fileno())
    assert (folder / "file").stat().st_size == len("content and more")
    os.truncate(folder / "file", 7)
    os.chmod(folder / "file", 0o640)
    assert (folder / "file").stat().st_mode & 0o777 == 0o640
    os.rename(folder / "file", folder / "moved")
    os.link(folder / "moved", folder / "second")
    os.symlink("moved", folder / "link")
    assert (folder / "link").read_text() == "content"
    os.mkfifo(folder / "fifo")
    os.setxattr(folder / "moved", "user.color", b"red")
    assert os.getxattr(folder / "moved", "user.color") == b"red"
    assert "user.color" in os.listxattr(folder / "moved")
    os.removexattr(folder / "moved", "user.color")
    assert sorted(os.listdir(folder)) == ["fifo", "link", "moved", "second"]
    with pytest.raises(OSError, match="empty"):
        folder.rmdir()
    with pytest.raises(FileExistsError):
        os.close(os.open(folder / "moved", os.O_CREAT | os.O_EXCL))
    with pytest.raises(FileNotFoundError):
        (folder / "nothing").read_text()
    with pytest.raises(OSError) as other:
        os.rename(folder / "moved", kept_tree / "shared/moved")
    assert other.value.errno == errno.EXDEV
    with pytest.raises(OSError) as busy:
        remote.rmdir()
    assert busy.value.errno == errno.EBUSY
    for name in os.listdir(folder):
        (folder / name).unlink()
    folder.rmdir()
    assert not folder.exists()


def test_a_file_that_was_removed_works_on(remote: Path) -> None:
    with open(remote / "removed", "w+") as file:
        file.write("content")
        file.flush()
        (remote / "removed").unlink()
        file.seek(0)
        assert file.read() == "content"
        assert os.fstat(file.fileno()).st_size == len("content")


# -- every call ------------------------------------------------------------------------------------


def _opened(flags: int, then: Callable[[int], object]) -> Callable[[Path], object]:
    """A call on a file that was open before."""

    def begin(folder: Path) -> Callable[[], object]:
        descriptor = os.open(folder / "file", flags)

        def go_on() -> object:
            try:
                return then(descriptor)
            finally:
                os.close(descriptor)

        return go_on

    begin.opens = True  # type: ignore[attr-defined]
    return begin


CALLS: dict[str, Callable[[Path], object]] = {
    "stat": lambda folder: os.stat(folder / "unseen"),
    "look-up of what is not there": lambda folder: os.stat(folder / "nothing"),
    "list": os.listdir,
    "open to read": lambda folder: os.open(folder / "file", os.O_RDONLY),
    "open to write": lambda folder: os.open(folder / "file", os.O_WRONLY),
    "empty": lambda folder: os.open(folder / "file", os.O_WRONLY | os.O_TRUNC),
    "create": lambda folder: os.open(folder / "new", os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "mkdir": lambda folder: os.mkdir(folder / "new"),
    "mkfifo": lambda folder: os.mkfifo(folder / "new"),
    "symlink": lambda folder: os.symlink("file", folder / "new"),
    "link": lambda folder: os.link(folder / "file", folder / "new"),
    "readlink": lambda folder: os.readlink(folder / "link"),
    "rename": lambda folder: os.rename(folder / "file", folder / "new"),
    "unlink": lambda folder: os.unlink(folder / "file"),
    "rmdir": lambda folder: os.rmdir(folder / "folder"),
    "chmod": lambda folder: os.chmod(folder / "file", 0o600),
    "utime": lambda folder: os.utime(folder / "file"),
    "truncate": lambda folder: os.truncate(folder / "file", 1),
    "getxattr": lambda folder: os.getxattr(folder / "file", "user.color"),
    "listxattr": lambda folder: os.listxattr(folder / "file"),
    "setxattr": lambda folder: os.setxattr(folder / "file", "user.color", b"blue"),
    "removexattr": lambda folder: os.removexattr(folder / "file", "user.color"),
    "read": _opened(os.O_RDONLY, lambda file: os.pread(file, 10, 0)),
    "write": _opened(os.O_WRONLY, lambda file: os.pwrite(file, b"more", 0)),
    "ftruncate": _opened(os.O_RDWR, lambda file: os.ftruncate(file, 1)),
    "fsync": _opened(os.O_WRONLY, os.fsync),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_on_a_disk_that_hangs_is_etimedout_and_nobody_else_waits(
    kept_tree: Tree, alice: Puppet, disk: SlowDisk, remote: Path, name: str
) -> None:
    folder = remote / name.replace(" ", "-")
    (folder / "folder").mkdir(parents=True)
    (folder / "file").write_text("content")
    (folder / "link").symlink_to("file")
    (disk.path / folder.name / "unseen").touch()  # Linux has kept nothing of it for the tree
    os.setxattr(folder / "file", "user.color", b"red")
    call = CALLS[name]
    begun = call(folder) if hasattr(call, "opens") else lambda: call(folder)
    assert callable(begun)
    hang(kept_tree, disk)
    with ThreadPoolExecutor() as threads:
        asked: Future[object] = threads.submit(begun)
        goes_on(kept_tree, alice)
        with pytest.raises(OSError) as refused:
            asked.result(PATIENCE)
    assert refused.value.errno == errno.ETIMEDOUT
    goes_on(kept_tree, alice)
    answer(kept_tree, disk)
    eventually(lambda: _answers(folder))


def _answers(folder: Path) -> bool:
    try:
        return os.listdir(folder) is not None
    except TimeoutError:
        return False


# -- what goes on ----------------------------------------------------------------------------------


def test_a_listing_names_a_disk_that_hangs_and_does_not_ask_it(
    kept_tree: Tree, disk: SlowDisk, remote: Path
) -> None:
    hang(kept_tree, disk)
    began = time.monotonic()
    for _ in range(20):
        assert "remote" in os.listdir(kept_tree / "shared")
    assert time.monotonic() - began < 20 * TIMEOUT
    (kept_tree / "shared/beside").write_text("as ever")
    assert (kept_tree / "shared/beside").read_text() == "as ever"


def test_a_disk_whose_threads_are_all_stuck_is_not_asked_again_until_one_comes_back(
    kept_tree: Tree, alice: Puppet, disk: SlowDisk, remote: Path
) -> None:
    hang(kept_tree, disk)
    with ThreadPoolExecutor(3 * THREADS) as threads:
        asked = [
            threads.submit(os.stat, remote / f"nothing-{number}") for number in range(3 * THREADS)
        ]
        goes_on(kept_tree, alice)
        for each in asked:
            with pytest.raises(TimeoutError):
                each.result(PATIENCE)

    def given_up() -> bool:
        """Some calls may not have begun on a busy machine."""
        with pytest.raises(TimeoutError):
            os.mkdir(remote / "new")
        return f"{disk.path} does not answer" in kept_tree.read("proc/self/error")

    eventually(given_up)
    daemon = kept_tree.daemon
    assert daemon is not None
    count = len(os.listdir(f"/proc/{daemon}/task"))
    for number in range(100):
        with pytest.raises(TimeoutError):
            os.stat(remote / f"still-nothing-{number}")
    assert len(os.listdir(f"/proc/{daemon}/task")) <= count
    goes_on(kept_tree, alice)
    answer(kept_tree, disk)
    eventually(lambda: _answers(remote))
    eventually(lambda: "answers again" in kept_tree.log())


def test_a_disk_whose_server_is_stopped_hangs_as_well(
    kept_tree: Tree, alice: Puppet, disk: SlowDisk, remote: Path
) -> None:
    """Its requests are not even taken."""
    set_timeout(kept_tree, TIMEOUT)
    os.kill(disk.pid, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            os.stat(remote / "nothing")
        goes_on(kept_tree, alice)
    finally:
        os.kill(disk.pid, signal.SIGCONT)
    eventually(lambda: _answers(remote))


def test_what_comes_too_late_is_closed_again(kept_tree: Tree, disk: SlowDisk, remote: Path) -> None:
    daemon = kept_tree.daemon
    (remote / "late").mkdir()
    (remote / "late/file").write_text("content")
    assert not (remote / "late/new").exists()  # so Linux need not look again

    def of_the_disk() -> int:
        links = []
        for name in os.listdir(f"/proc/{daemon}/fd"):
            try:
                links.append(os.readlink(f"/proc/{daemon}/fd/{name}"))
            except FileNotFoundError:
                continue
        return sum(link.endswith(("late/file", "late/new")) for link in links)

    eventually(lambda: of_the_disk() == 0)
    hang(kept_tree, disk)
    with pytest.raises(TimeoutError):
        os.open(remote / "late/new", os.O_WRONLY | os.O_CREAT, 0o640)
    for flags in (os.O_RDONLY, os.O_WRONLY):
        with pytest.raises(TimeoutError):
            os.open(remote / "late/file", flags)
    answer(kept_tree, disk)
    eventually(lambda: of_the_disk() == 0)
    # As it would have been in time, if the call had begun before it was given up.
    made = disk.path / "late/new"
    eventually(lambda: not made.exists() or made.stat().st_mode & 0o777 == 0o640)


def test_a_disk_that_is_mounted_anew_is_asked(
    kept_tree: Tree, alice: Puppet, tmp_path: Path
) -> None:
    place = kept_tree.state / "shared/again"
    with closing(SlowDisk(place)) as old:
        assert os.listdir(kept_tree / "shared/again") == []
        hang(kept_tree, old)
        for number in range(2 * THREADS):
            with pytest.raises(TimeoutError):
                os.stat(kept_tree / f"shared/again/{number}")
        new = None
        try:
            detach(place)
            new = SlowDisk(place)
            set_timeout(kept_tree, PATIENCE)
            (place / "new").touch()
            assert os.listdir(kept_tree / "shared/again") == ["new"]
            assert (kept_tree / "shared/again/new").stat().st_size == 0
        finally:
            if new is not None:
                new.close()


def test_a_memory_that_hangs_hangs_nobody(kept_tree: Tree, alice: Puppet) -> None:
    memory = kept_tree.state / "agents/bob/memory"
    memory.mkdir(parents=True)
    with closing(SlowDisk(memory)) as disk:
        bob = kept_tree.spawn("bob", exec=["sleep", "1000"], restart="never")
        (kept_tree / "agents/bob/memory/note").write_text("content")
        hang(kept_tree, disk)
        with pytest.raises(TimeoutError):
            os.stat(kept_tree / "agents/bob/memory/nothing")
        assert "memory" in os.listdir(kept_tree / "agents/bob")
        goes_on(kept_tree, alice)
        set_timeout(kept_tree, PATIENCE)
        kept_tree.write(f"proc/{bob}/ctl", "KILL\n")
        assert kept_tree.read(f"proc/{bob}/wait") == "137\n"


def test_the_disk_that_was_mounted_as_a_memory_outlives_the_agent(
    kept_tree: Tree, alice: Puppet
) -> None:
    memory = kept_tree.state / "agents/carl/memory"
    memory.mkdir(parents=True)
    with closing(SlowDisk(memory)) as disk:
        (kept_tree / "agents/carl").mkdir()
        (kept_tree / "agents/carl/memory/note").write_text("content")
        hang(kept_tree, disk)
        (kept_tree / "agents/carl").rmdir()
        assert "carl" not in os.listdir(kept_tree / "agents")
        kept_tree.write("etc/agentfs.yaml", "processes: {maid_interval: 0.05}\n")
        goes_on(kept_tree, alice)
        trash = os.path.join(os.path.realpath(kept_tree.state), "trash", "")
        (place,) = [path for _, path in mounts() if path.startswith(trash)]
        time.sleep(0.3)  # the maid comes several times, which is no event
        disk.answer()
        assert Path(place, "note").read_text() == "content"
        detach(Path(place))
    eventually(lambda: not os.path.lexists(Path(place).parent))


def _threads(pid: int | None) -> int:
    """How many there are; the first is a zombie until somebody asks for its end."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("server", ["takes requests", "is stopped"])
def test_shared_itself_hangs(fuse: None, hatchery: Hatchery, tmp_path: Path, server: str) -> None:
    made = QuickTree(tmp_path / "tree", hatchery=hatchery)
    (made.state / "shared").mkdir()
    with closing(SlowDisk(made.state / "shared")) as disk, mounted(made) as tree:
        with closing(Puppet(tree, "alice")) as alice:
            killed = tree.spawn("killed", exec=["sleep", "1000"], restart="never")
            file = os.open(tree / "shared/file", os.O_RDWR | os.O_CREAT)
            os.write(file, b"content")
            set_timeout(tree, TIMEOUT)
            if server == "is stopped":
                os.kill(disk.pid, signal.SIGSTOP)
            else:
                disk.hang()
            with ThreadPoolExecutor(2 * THREADS) as threads:
                asked = [
                    threads.submit(call)
                    for call in (
                        *(lambda n=n: os.stat(tree / f"shared/{n}") for n in range(THREADS)),
                        lambda: os.pread(file, 10, 0),
                        lambda: os.pwrite(file, b"more", 0),
                        lambda: os.listdir(tree / "shared"),
                    )
                ]
                goes_on(tree, alice)
                tree.write(f"proc/{killed}/ctl", "KILL\n")
                assert tree.read(f"proc/{killed}/wait") == "137\n"
                for each in asked:
                    with pytest.raises(TimeoutError):
                        each.result(PATIENCE)
            os.close(file)
            goes_on(tree, alice)
        # It ends, although some of its threads cannot.
        tree.run("umount", str(tree.path))
        assert not os.path.ismount(tree.path)
        disk.abort()
        eventually(lambda: _threads(tree.daemon) <= 1)  # and nobody waits
        tree.daemon = None
