"""Files of /shared behave as on the disk below: numbers, links, listings, what was removed."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Hatchery
from tests.hatchery import QuickTree
from tests.puppet import Puppet
from tests.system.test_identity import ROOT_ONLY
from tests.tree import Tree

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def kept_tree(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    tree = QuickTree(tmp_path_factory.mktemp("real") / "tree", hatchery=hatchery)
    try:
        tree.mount()
        yield tree
    finally:
        tree.clean_up()


@pytest.fixture
def here(kept_tree: Tree, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory of /shared for one test."""
    folder = kept_tree / f"shared/{request.node.name[:60]}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def forget() -> None:
    """Let Linux drop what it knows of names and inodes."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


def numbers(root: Path) -> dict[str, int]:
    """The inode number of everything below `root` that has one of its own."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            try:
                found[os.path.relpath(path, root)] = os.lstat(path).st_ino
            except FileNotFoundError:
                continue
    return found


def run(*command: str | Path, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


# -- inode numbers ---------------------------------------------------------------------------------


def test_numbers_are_the_same_after_a_restart_and_no_two_nodes_share_one(
    kept_tree: Tree, here: Path
) -> None:
    for number in range(300):
        (here / f"{number}").write_text("x")
    files = numbers(here)
    assert len(set(files.values())) == 300
    for name in ("alice", "bob", "carol"):
        kept_tree.spawn(name)
    before = numbers(kept_tree.path)
    # A letter-box that writers wait in has a new one each time; /proc/self is a link.
    shared = [path for path in before if list(before.values()).count(before[path]) > 1]
    assert shared == []
    kept_tree.unmount()
    kept_tree.mount()
    assert numbers(here) == files
    for path in ("agents/alice", "etc/agentfs.yaml", "shared", "agents/bob/memory"):
        assert os.lstat(kept_tree / path).st_ino == before[path], path


@ROOT_ONLY
def test_numbers_are_the_same_after_linux_forgot_them(kept_tree: Tree, here: Path) -> None:
    (here / "d").mkdir()
    (here / "d/a").write_text("a")
    os.link(here / "d/a", here / "d/b")
    paths = [here / "d", here / "d/a", here / "d/b", kept_tree / "etc/agentfs.yaml"]
    paths += [kept_tree / "proc/1/status", kept_tree / "agents", kept_tree / "sys/metrics"]
    before = [os.lstat(path).st_ino for path in paths]
    assert before[1] == before[2]
    for order in (1, -1):
        forget()
        assert [os.lstat(path).st_ino for path in paths[::order]] == before[::order]
    forget()
    listed = {entry.name: entry.inode() for entry in os.scandir(here / "d")}
    assert listed == {"a": before[1], "b": before[1]}


@ROOT_ONLY
def test_incremental_backups_and_git_see_no_change_after_linux_forgot_the_files(here: Path) -> None:
    tree = here / "work"
    tree.mkdir()
    run("git", "init", "-q", cwd=tree)
    for number in range(20):
        (tree / f"f{number}").write_text(f"{number}\n")
    os.link(tree / "f0", tree / "g0")
    run("git", "add", ".", cwd=tree)
    run("tar", "-c", "-f", "../0.tar", "-g", "../list", ".", cwd=tree)
    forget()
    run("tar", "-c", "-f", "../1.tar", "-g", "../list", ".", cwd=tree)
    saved = run("tar", "-t", "-f", "../1.tar", cwd=tree).split()
    assert [name for name in saved if not name.endswith("/")] == []
    forget()
    assert run("git", "diff-files", cwd=tree) == ""  # prints what it would have to read again


@ROOT_ONLY
@pytest.mark.parametrize("copy", ["cp -a src dst", "rsync -aH src/ dst", "tar"])
def test_hard_links_are_copied_as_such_and_counted_once(here: Path, copy: str) -> None:
    source = here / "src"
    (source / "d").mkdir(parents=True)
    for number in range(30):
        (source / f"a{number}").write_bytes(b"x" * 8192)
        os.link(source / f"a{number}", source / f"d/b{number}")
    forget()
    if copy == "tar":
        (here / "dst").mkdir()
        archive = subprocess.run(["tar", "-c", "."], cwd=source, check=True, capture_output=True)
        subprocess.run(["tar", "-x"], cwd=here / "dst", check=True, input=archive.stdout)
    else:
        run(*copy.split(), cwd=here)
    for number in range(30):
        a, b = os.stat(here / f"dst/a{number}"), os.stat(here / f"dst/d/b{number}")
        assert (a.st_ino, a.st_nlink) == (b.st_ino, 2)
    used = run("du", "-s", "--block-size=1", "dst", cwd=here).split()[0]
    assert int(used) < 30 * 8192 * 1.5


def test_one_file_under_two_names_goes_on_under_the_other(here: Path) -> None:
    a, b, c = here / "a", here / "b", here / "c"
    a.write_text("one")
    os.link(a, b)
    number = a.stat().st_ino
    a.unlink()
    assert (b.read_text(), b.stat().st_ino, b.stat().st_nlink) == ("one", number, 1)
    b.rename(c)
    a.write_text("two")
    assert (c.read_text(), c.stat().st_ino) == ("one", number)
    os.link(c, b)
    a.replace(b)
    assert (b.read_text(), c.read_text(), c.stat().st_nlink) == ("two", "one", 1)
    with open(c, "a") as kept:
        os.link(c, a)
        c.unlink()
        kept.write("!")
    assert a.read_text() == "one!"


def test_a_file_that_takes_a_number_over_is_another_file(here: Path) -> None:
    """File systems use the number of a removed file again at once, also while it is open."""
    kept = []
    for number in range(20):
        (here / f"{number}").write_text(f"{number}")
        kept.append(os.open(here / f"{number}", os.O_RDONLY))
        (here / f"{number}").unlink()
    try:
        assert len({os.fstat(file).st_ino for file in kept}) == 20
        assert [os.pread(file, 9, 0).decode() for file in kept] == [str(n) for n in range(20)]
    finally:
        for file in kept:
            os.close(file)


# -- what was replaced or removed ------------------------------------------------------------------


def test_what_was_looked_up_before_it_was_replaced_can_be_opened(here: Path) -> None:
    """What a reader meets that was about to open a file while another took its place."""
    (here / "f").write_text("old")
    found = os.open(here / "f", os.O_PATH)
    (here / "g").write_text("new")
    (here / "g").replace(here / "f")
    try:
        assert Path(f"/proc/self/fd/{found}").read_text() == "old"
        assert os.fstat(found).st_nlink == 0
    finally:
        os.close(found)
    assert (here / "f").read_text() == "new"


def test_what_is_below_a_renamed_directory_can_be_opened(here: Path) -> None:
    for name in ("a", "b"):
        (here / name / "deep").mkdir(parents=True)
        (here / name / "deep/f").write_text(name)
    found = os.open(here / "a/deep/f", os.O_PATH)
    folder = os.open(here / "a/deep", os.O_PATH)
    try:
        (here / "a").rename(here / "c")
        (here / "b").rename(here / "a")
        assert Path(f"/proc/self/fd/{found}").read_text() == "a"
        shutil.rmtree(here / "c")
        assert Path(f"/proc/self/fd/{found}").read_text() == "a"
        with pytest.raises(FileNotFoundError):
            os.stat("f", dir_fd=folder)
    finally:
        os.close(found)
        os.close(folder)
    assert (here / "a/deep/f").read_text() == "b"


REPLACER = """
import os, sys
for number in range(500):
    with open(sys.argv[1] + ".new", "w") as file:
        file.write(str(number))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
"""


def test_a_reader_of_a_file_that_is_replaced_all_the_time_always_finds_one(here: Path) -> None:
    (here / "f").write_text("0")
    with subprocess.Popen([sys.executable, "-c", REPLACER, here / "f"]) as replacer:
        seen = 0
        while replacer.poll() is None:
            now = int((here / "f").read_text())
            assert now >= seen
            seen = now
    assert replacer.returncode == 0


def test_a_removed_working_directory_is_empty_and_takes_nothing(here: Path) -> None:
    folder = here / "d"
    folder.mkdir()
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        folder.rmdir()
        folder.mkdir()
        (folder / "new").touch()
        assert os.listdir(opened) == []
        assert os.fstat(opened).st_nlink == 0
        for attempt in (
            lambda: os.open("x", os.O_WRONLY | os.O_CREAT, dir_fd=opened),
            lambda: os.mkdir("x", dir_fd=opened),
            lambda: os.stat("new", dir_fd=opened),
        ):
            with pytest.raises(FileNotFoundError):
                attempt()
    finally:
        os.close(opened)


def test_ls_of_a_removed_directory_of_the_tree_itself_is_empty(kept_tree: Tree) -> None:
    (kept_tree / "agents/leaving").mkdir()
    opened = os.open(kept_tree / "agents/leaving", os.O_RDONLY)
    try:
        (kept_tree / "agents/leaving").rmdir()
        done = run("ls", f"/proc/{os.getpid()}/fd/{opened}/", cwd=Path("/"))
        assert (done, os.fstat(opened).st_nlink) == ("", 0)
    finally:
        os.close(opened)


LEAVING = """
cd "$1" && rmdir "$1" || exit
ls || exit; ls -la | tail -n +4
pwd
(cd .. 2>/dev/null && pwd)
touch x 2>/dev/null && echo made a file
mkdir x 2>/dev/null && echo made a directory
/bin/pwd 2>/dev/null || echo nowhere
cd /
"""


@pytest.mark.parametrize("parent", ["agents", "dev/queues", "sys/cgroup"])
def test_a_shell_whose_directory_was_removed_is_told_what_ext4_says(
    kept_tree: Tree, tmp_path: Path, parent: str
) -> None:
    told = []
    for place in (tmp_path, kept_tree / parent):
        folder = place / "leaving"
        folder.mkdir()
        done = subprocess.run(
            ["bash", "-c", LEAVING, "bash", folder],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        told.append((done.stdout.replace(str(place), "PLACE"), done.stderr))
    assert told[1] == told[0]
    assert told[0][1] == ""
    assert "made" not in told[0][0]


# -- listings --------------------------------------------------------------------------------------


def test_listings_begin_with_the_directory_and_its_parent(kept_tree: Tree, here: Path) -> None:
    for folder in (here, kept_tree / "agents", kept_tree / "proc/1"):
        first, second, *_ = run("ls", "-fai", folder, cwd=here).splitlines()
        assert first.split() == [str(folder.stat().st_ino), "."]
        assert second.split() == [str(folder.parent.stat().st_ino), ".."]


def test_a_rewound_directory_shows_what_is_there_now(here: Path) -> None:
    (here / "a").touch()
    opened = os.open(here, os.O_RDONLY)
    try:
        assert os.listdir(opened) == ["a"]
        (here / "b").touch()
        (here / "a").unlink()
        os.lseek(opened, 0, os.SEEK_SET)
        assert os.listdir(opened) == ["b"]
    finally:
        os.close(opened)


def test_a_long_listing_has_every_name_once_while_others_come_and_go(here: Path) -> None:
    stay = {f"stay-{number}" for number in range(1500)}
    for name in stay:
        (here / name).touch()
    for number in range(300):
        (here / f"go-{number}").touch()
    seen = []
    with os.scandir(here) as entries:
        for count, entry in enumerate(entries):
            seen.append(entry.name)
            if count % 10 == 0 and count < 1500:
                (here / f"go-{count // 10}").unlink()
                (here / f"come-{count // 10}").touch()
    assert len(seen) == len(set(seen))
    assert {name for name in seen if name.startswith("stay")} == stay


# -- limits ----------------------------------------------------------------------------------------


def test_a_limit_of_the_size_of_files_is_told_by_signal_and_errno(here: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    write = "import os; f = os.open('f', os.O_WRONLY | os.O_CREAT); os.{}"
    for call in ("write(f, b'x' * 1000) == os.write(f, b'x')", "ftruncate(f, 1001)"):
        for handled, wanted in ((True, 1), (False, -signal.SIGXFSZ)):
            program = write.format(call)
            if not handled:
                program = f"import signal; signal.signal(25, signal.SIG_DFL); {program}"
            done = subprocess.run(
                [sys.executable, "-c", program],
                cwd=here,
                preexec_fn=limited,
                capture_output=True,
                text=True,
            )
            assert done.returncode == wanted
            assert not handled or os.strerror(errno.EFBIG) in done.stderr
    assert (here / "f").stat().st_size == 1000


@ROOT_ONLY
def test_an_agent_that_opens_all_it_can_leaves_files_to_others_and_the_daemon_alive(
    trees: Callable[..., Tree],
) -> None:
    tree = trees()
    tree.mount()
    assert tree.daemon is not None
    here = tree / "shared/here"
    here.mkdir(mode=0o777)
    (here / "f").write_text("x")
    hoarder, other = Puppet(tree, "hoarder"), Puppet(tree, "other")
    resource.prlimit(tree.daemon, resource.RLIMIT_NOFILE, (256, 256))
    hoarder.do("(held := []) == []")
    with pytest.raises(OSError) as refusal:
        hoarder.do(f"[held.append(os.open({str(here / 'f')!r}, 0)) for _ in range(1000)]")
    assert refusal.value.errno == errno.EMFILE
    assert 50 < hoarder.do("len(held)") <= 96  # half of three quarters
    for path, flags in ((here / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY), (here, os.O_RDONLY)):
        with pytest.raises(OSError) as refusal:
            hoarder.do(f"os.listdir(os.open({str(path)!r}, {flags}))")
        assert refusal.value.errno == errno.EMFILE
    assert os.listdir(here) == ["f"]  # what was refused left nothing
    assert " to all others (rule: open files)" in hoarder.read("proc/self/error")
    assert other.read(here / "f") == "x"
    # A change of the mount table is looked at without a new descriptor.
    run("mount", "-t", "tmpfs", "none", tree.state / "logs", cwd=here)
    run("umount", tree.state / "logs", cwd=here)
    hoarder.close()
    other.close()
    tree.spawn("later")


# -- caches ----------------------------------------------------------------------------------------

WRITER = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY)
for number in range(int(sys.argv[2])):
    os.pwrite(file, b"%08d" % number * 1024, 0)
    print(number, flush=True)
    sys.stdin.readline()
"""


def test_who_reads_or_has_mapped_a_file_sees_what_another_wrote_alone(here: Path) -> None:
    """What is opened for writing alone goes round the page cache, readers and maps do not."""
    (here / "f").write_bytes(b"x" * 8192)
    kept = os.open(here / "f", os.O_RDWR)
    rounds = 500
    command = [sys.executable, "-c", WRITER, here / "f", str(rounds)]
    with (
        mmap.mmap(kept, 8192) as shared,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer,
    ):
        assert writer.stdin is not None
        assert writer.stdout is not None
        for number in range(rounds):
            assert int(writer.stdout.readline()) == number
            wanted = b"%08d" % number * 1024
            assert os.pread(kept, 8192, 0) == wanted
            assert shared[:] == wanted
            assert (here / "f").read_bytes() == wanted
            shared[4096:4104] = b"by a map"  # dirty while the next write comes
            assert (here / "f").read_bytes()[4096:4104] == b"by a map"
            writer.stdin.write(b"\n")
            writer.stdin.flush()
    os.close(kept)


def test_appending_and_sparse_writing_by_who_only_writes(here: Path) -> None:
    programs = [
        subprocess.Popen(["sh", "-c", f"for i in $(seq 99); do echo {name}; done >> all"], cwd=here)
        for name in ("aaaa", "bbbb", "cccc")
    ]
    for program in programs:
        assert program.wait(60) == 0
    assert sorted((here / "all").read_text().split()) == sorted(["aaaa", "bbbb", "cccc"] * 99)
    with open(here / "hole", "wb") as file:
        file.seek(1 << 20)
        file.write(b"x")
        file.flush()
        assert (here / "hole").stat().st_size == (1 << 20) + 1
        file.truncate(10)
        assert (here / "hole").read_bytes() == bytes(10)


def test_a_name_that_was_looked_for_in_vain_is_found_once_it_is_there(here: Path) -> None:
    for make in (
        lambda path: path.touch(),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("x"),
        lambda path: os.mkfifo(path),
        lambda path: (here / "f").rename(path),
        lambda path: os.link(here / "f", path),
    ):
        (here / "f").touch()
        path = here / "missing"
        assert not os.path.lexists(path)
        subprocess.run(["stat", path], check=False, capture_output=True)
        make(path)
        assert os.path.lexists(path)
        assert "missing" in os.listdir(here)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
        assert not os.path.lexists(path)


@ROOT_ONLY
@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR])
def test_a_write_by_another_than_root_takes_the_set_id_bits_off(here: Path, flags: int) -> None:
    for mode, left in ((0o6777, 0o777), (0o2767, 0o2767), (0o4666, 0o666)):
        (here / "f").touch()
        (here / "f").chmod(0o666)
        program = f"import os, sys; f = os.open('f', {flags}); print(flush=True); input()"
        program += "; os.write(f, b'x')"
        with subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=here,
            user=65534,
            group=65534,
            extra_groups=[],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as writer:
            assert writer.stdin is not None
            assert writer.stdout is not None
            writer.stdout.readline()
            (here / "f").chmod(mode)
            writer.stdin.write(b"\n")
        assert writer.returncode == 0
        assert (here / "f").stat().st_mode & 0o7777 == left
        with open(here / "f", "ab") as file:  # root may
            (here / "f").chmod(0o4755)
            file.write(b"x")
        assert (here / "f").stat().st_mode & 0o7777 == 0o4755
        (here / "f").unlink()


# -- what else may lie there -----------------------------------------------------------------------


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        folder = os.open(path.parent, os.O_PATH)  # a socket's path is at most 107 bytes
        try:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)


def _device(path: Path) -> None:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
@pytest.mark.parametrize("make", [_fifo, _socket, pytest.param(_device, marks=ROOT_ONLY)])
def test_what_took_the_place_of_a_file_on_the_disk_makes_nobody_wait(
    kept_tree: Tree, here: Path, make: Callable[[Path], None], flags: int
) -> None:
    """Linux still holds it for a file, and asks the daemon to open it."""
    (here / "file").write_text("content")
    assert (here / "file").stat().st_size == len("content")
    on_disk = kept_tree.state / "shared" / here.name / "file"
    on_disk.unlink()
    make(on_disk)
    try:
        os.close(os.open(here / "file", flags | os.O_NONBLOCK))
        assert make is _fifo
    except OSError as refused:
        # What Linux itself says, as on any disk: nobody reads it, a socket, no devices here.
        wanted = errno.EACCES if make is _device else errno.ENXIO
        assert refused.errno == wanted, os.strerror(refused.errno or 0)
    assert kept_tree.read("proc/self/status")
