"""Shared memory on a real mount: programs of agents, ordinary tools, crashes."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.puppet import Puppet
from tests.system.test_identity import ROOT_ONLY, _open_to_all, as_nobody
from tests.system.test_inotify import Watcher
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

MIB = 1 << 20
VISIBILITIES = ("private", "user", "subtree", "global")


def put(agent: Puppet, path: str, text: str, mode: str = "w") -> None:
    agent.do(
        f"[f := open(tree + '/dev/shm/{path}', {mode!r}), f.write({text!r}), f.close()] and None"
    )


def get(agent: Puppet, path: str) -> str:
    return agent.read(f"dev/shm/{path}")


def refusal(call: Callable[[], object]) -> str:
    """The name of the errno that the call is refused with."""
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno is not None
    return errno.errorcode[caught.value.errno]


class Family:
    """lead over (alice over kid) and bob: real programs, one user."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.lead = Puppet(tree, "lead", role="lead")
        self.alice = Puppet(tree, "alice", self.lead.pid)
        self.bob = Puppet(tree, "bob", self.lead.pid)
        self.kid = Puppet(tree, "kid", self.alice.pid)

    def close(self) -> None:
        for agent in self:
            agent.close()

    def __iter__(self) -> Iterator[Puppet]:
        yield from (self.lead, self.alice, self.bob, self.kid)


@pytest.fixture
def family(tree: Tree) -> Iterator[Family]:
    with closing(Family(tree)) as made:
        yield made


@pytest.fixture
def shm(tree: Tree) -> Path:
    return tree / "dev/shm"


@pytest.fixture(name="tree")
def _tree(trees: Callable[..., Tree]) -> Iterator[Tree]:
    """Every test ends with the consistency check, and without a fault of ours in the log."""
    made = trees()
    made.mount()
    yield made
    report = made.doctor()
    assert "the store is consistent" in report.stdout, report.stdout
    assert "Traceback" not in made.log()


# -- who sees what ---------------------------------------------------------------------------------


def test_the_four_visibilities_each_way(family: Family, shm: Path) -> None:
    for visibility in VISIBILITIES:
        put(family.alice, f"{visibility}/k.txt", visibility)
        assert get(family.alice, f"{visibility}/k.txt") == visibility
    seen = {
        agent.name: {v for v in VISIBILITIES if agent.ls(f"dev/shm/{v}/") == ["k.txt"]}
        for agent in family
    }
    assert seen == {
        "alice": set(VISIBILITIES),
        "kid": {"user", "subtree", "global"},
        "bob": {"user", "global"},
        "lead": {"user", "global"},
    }
    for agent in family:
        for visibility in VISIBILITIES:
            path = f"{visibility}/k.txt"
            if visibility in seen[agent.name]:
                assert get(agent, path) == visibility
            else:
                assert refusal(lambda a=agent, p=path: get(a, p)) == "ENOENT"
    # The operator has init's own, and of the others what is for the user or for all.
    assert {v for v in VISIBILITIES if os.listdir(shm / v) == ["k.txt"]} == {"user", "global"}
    (shm / "private/k.txt").write_text("init's")
    assert get(family.alice, "private/k.txt") == "private"


def test_fault_existence_leaks(family: Family, tree: Tree) -> None:
    family.alice.do("open(tree + '/dev/shm/private/secret', 'w').write('s')")
    family.alice.do("open(tree + '/dev/shm/subtree/secret', 'w').write('s')")
    events = os.open(tree / "dev/events.all", os.O_RDONLY | os.O_NONBLOCK)
    for visibility in ("private", "subtree"):
        folder = f"agents/alice/shm/{visibility}"
        for agent in (family.lead, family.bob):
            assert agent.ls(folder) == []
            for name in ("secret", "nothing"):
                path = f"tree + '/{folder}/{name}'"
                for call in (
                    f"open({path})",
                    f"os.stat({path})",
                    f"os.getxattr({path}, 'user.mime_type')",
                    f"os.unlink({path})",
                    f"os.rename({path}, {path} + '2')",
                    f"os.truncate({path}, 0)",
                    f"os.setxattr({path}, 'user.mime_type', b'a/b')",
                ):
                    assert refusal(lambda a=agent, c=call: a.do(c)) == "ENOENT", call
                assert refusal(lambda a=agent, p=path: a.do(f"open({p}, 'w')")) == "EACCES"
        # The operator neither.
        assert os.listdir(tree / folder) == []
        assert not (tree / folder / "secret").exists()
    assert family.kid.ls("agents/alice/shm/subtree") == []  # each has a view of its own
    # And nothing that everybody reads names it.
    said = b""
    while chunk := os.read(events, 65536) if _ready(events) else b"":
        said += chunk
    os.close(events)
    assert b"artifact_stored" in said
    assert b"secret" not in said
    assert "secret" not in tree.log()


def _ready(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def test_fault_any_writer_may_replace_any_key(family: Family) -> None:
    for visibility in ("user", "global"):
        put(family.alice, f"{visibility}/plan", "alice's")
        path = f"tree + '/dev/shm/{visibility}/plan'"
        for call in (
            f"open({path}, 'w')",
            f"open({path}, 'a')",
            f"os.truncate({path}, 0)",
            f"os.unlink({path})",
            f"os.rename({path}, {path} + '2')",
            f"os.setxattr({path}, 'user.mime_type', b'a/b')",
        ):
            assert refusal(lambda c=call: family.bob.do(c)) == "EACCES", call
        put(family.bob, f"{visibility}/mine", "bob's")
        move = f"os.rename(tree + '/dev/shm/{visibility}/mine', {path})"
        assert refusal(lambda m=move: family.bob.do(m)) == "EACCES"
        assert get(family.bob, f"{visibility}/plan") == "alice's"
    family.tree.write("dev/shm/global/plan", "the operator's")
    assert get(family.alice, "global/plan") == "the operator's"
    (family.tree / "dev/shm/user/plan").unlink()
    assert family.alice.ls("dev/shm/user/") == ["mine"]


def test_fault_old_versions_remain_readable_for_ever(tree: Tree, shm: Path) -> None:
    for text in ("one", "two", "three"):
        (shm / "global/plan").write_text(text)
    assert [path.read_text() for path in (tree.state / "artifacts").iterdir()] == ["three"]
    (shm / "global/plan").unlink()
    assert list((tree.state / "artifacts").iterdir()) == []


def test_a_task_reads_and_does_not_write(tree: Tree) -> None:
    with (
        closing(Puppet(tree, "lead", role="lead")) as lead,
        closing(Puppet(tree, "errand", lead.pid, role="task", tier="operational")) as task,
    ):
        put(lead, "subtree/todo", "do")
        assert get(task, "subtree/todo") == "do"
        for visibility in VISIBILITIES:
            assert refusal(lambda v=visibility: put(task, f"{v}/x", "x")) == "EACCES"
        assert "may not write artifact" in task.read("proc/self/error")


def test_a_key_of_ones_own_hides_the_one_from_above(family: Family) -> None:
    put(family.lead, "subtree/plan", "lead's")
    assert get(family.kid, "subtree/plan") == "lead's"
    assert refusal(lambda: family.kid.rm("dev/shm/subtree/plan")) == "EACCES"
    put(family.alice, "subtree/plan", "alice's")
    assert [get(agent, "subtree/plan") for agent in family] == [
        "lead's",
        "alice's",
        "lead's",
        "alice's",
    ]
    assert family.kid.do("os.getxattr(tree + '/dev/shm/subtree/plan', 'user.owner').decode()") == (
        "alice"
    )
    put(family.alice, "subtree/more", "1")
    put(family.kid, "subtree/more", "2", "a")
    assert [get(agent, "subtree/more") for agent in (family.alice, family.kid)] == ["1", "12"]
    family.alice.rm("dev/shm/subtree/plan")
    assert get(family.kid, "subtree/plan") == "lead's"


def test_artifacts_outlive_their_storer(family: Family, tree: Tree) -> None:
    for visibility in VISIBILITIES:
        put(family.alice, f"{visibility}/k", "alice's")
    put(family.lead, "private/k", "lead's")
    family.alice.close()
    tree.read(f"proc/{family.alice.pid}/wait")
    assert get(family.kid, "subtree/k") == "alice's"  # its parent is lead now, who has it
    assert get(family.lead, "subtree/k") == "alice's"
    assert get(family.bob, "user/k") == get(family.bob, "global/k") == "alice's"
    (tree / "agents/alice").rmdir()
    assert get(family.bob, "user/k") == "alice's"
    assert family.lead.ls("dev/shm/private/") == ["k", "k.alice"]
    assert get(family.lead, "private/k.alice") == "alice's"
    owner = "os.getxattr(tree + '/dev/shm/global/k', 'user.owner').decode()"
    assert family.bob.do(owner) == "lead"
    family.lead.rm("dev/shm/global/k")
    family.lead.read(f"proc/{family.alice.pid}/wait")  # reaps it


@ROOT_ONLY
def test_another_user_has_what_the_modes_give(tree: Tree, shm: Path) -> None:
    _open_to_all(tree.path)
    for visibility in VISIBILITIES:
        (shm / visibility / "k").write_text("x")
    assert as_nobody(f"cat {shm}/global/k; ls {shm}/global").stdout == "xk\n"
    for path in ("private/k", "user/k", "subtree/k", "users/0/k"):
        assert as_nobody(f"cat {shm}/{path}").returncode != 0
    assert as_nobody(f"echo y > {shm}/global/k").returncode != 0
    assert as_nobody(f"echo y > {shm}/global/new").returncode != 0
    assert as_nobody(f"ls {shm}/user/ {shm}/users").stdout.split()[-1] != "0"


@ROOT_ONLY
def test_agents_of_two_users_share_what_is_for_both(tree: Tree) -> None:
    _open_to_all(tree.path)
    script = (
        'cd "$AGENTFS/dev/shm"; cat user/plan; cat global/plan; echo mine > user/plan; '
        "cat user/plan; echo x > global/plan; echo mine > global/other; ls -l global/other"
    )
    with closing(Puppet(tree, "lead", role="lead")) as lead:
        put(lead, "user/plan", "root's")
        put(lead, "global/plan", "all's")
        pid = tree.spawn("nobodys", exec=["sh", "-c", script], user="nobody", restart="never")
        tree.read(f"proc/{pid}/wait")
        said = tree.read("agents/nobodys/log")
        assert "root's" not in said
        assert "all's" in said
        assert "nobody" in said.splitlines()[-1]
        assert get(lead, "user/plan") == "root's"
        assert get(lead, "global/plan") == "all's"
        assert get(lead, "global/other") == "mine\n"


# -- contents --------------------------------------------------------------------------------------


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resident(pid: int) -> int:
    """The resident memory of a process in bytes."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


@pytest.mark.parametrize("size", [64 * MIB, 100_000_000])
def test_large_contents_round_trip_outside_of_the_daemons_memory(
    tree: Tree, shm: Path, tmp_path: Path, size: int
) -> None:
    assert tree.daemon is not None
    source = tmp_path / "source"
    with open(source, "wb") as file:
        block = os.urandom(MIB)
        for number in range(0, size, MIB):
            file.write((number.to_bytes(8, "big") + block[8:])[: size - number])
    (shm / "global/warm").write_bytes(block)
    (shm / "global/warm").read_bytes()
    before = resident(tree.daemon)
    most = [before]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            most.append(resident(tree.daemon or 0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        shutil.copyfile(source, shm / "global/large")
        assert digest(shm / "global/large") == digest(source)
        with open(shm / "global/large", "ab") as file:
            file.write(b"more")
        assert (shm / "global/large").stat().st_size == size + 4
        with open(shm / "global/large", "rb") as file:
            file.seek(size - 4)
            assert len(file.read()) == 8
    finally:
        stop.set()
        watcher.join()
    assert max(most) - before < 16 * MIB


def test_readers_never_see_a_mixture(tree: Tree, shm: Path) -> None:
    """Readers of every kind while the content is replaced again and again, in different sizes."""
    path = shm / "global/value"

    def content(number: int) -> bytes:
        return bytes([number % 251]) * (1 + (number * 7919) % (3 * MIB // 2))

    path.write_bytes(content(0))
    stop = threading.Event()
    faults: list[str] = []
    count = [0]

    def check(found: bytes, how: str) -> None:
        count[0] += 1
        if not found or found != found[:1] * len(found):
            faults.append(f"{how}: {len(found)} bytes of {sorted(set(found))}")
        elif len(found) not in sizes[found[0]]:
            faults.append(f"{how}: {len(found)} bytes of {found[0]}")

    sizes: dict[int, set[int]] = {}
    for number in range(3000):
        data = (number % 251, 1 + (number * 7919) % (3 * MIB // 2))
        sizes.setdefault(data[0], set()).add(data[1])

    def whole() -> None:
        while not stop.is_set():
            check(path.read_bytes(), "read")

    def mapped() -> None:
        while not stop.is_set():
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as seen:
                half = len(seen) // 2
                first = seen[:half]
                os.sched_yield()
                check(first + seen[half:], "mmap")

    def slowly() -> None:
        while not stop.is_set():
            with open(path, "rb", buffering=0) as file:
                pieces = []
                while piece := file.read(100_000):
                    pieces.append(piece)
                check(b"".join(pieces), "slow read")

    readers = [threading.Thread(target=kind) for kind in (whole, mapped, slowly, mapped)]
    for reader in readers:
        reader.start()
    try:
        for number in range(1, 250):
            if number % 3:
                path.write_bytes(content(number))
            else:
                (shm / "global/tmp").write_bytes(content(number))
                (shm / "global/tmp").rename(path)
            check(path.read_bytes(), "after")
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert faults == []
    assert count[0] > 300


def test_who_has_it_mapped_keeps_it_whatever_becomes_of_the_key(shm: Path) -> None:
    path = shm / "global/value"
    path.write_bytes(b"a" * 100_000)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as seen:
        assert seen[0] == ord("a")  # one page is there, the others come when they are asked for
        with open(path, "wb") as writer:
            assert seen[50_000] == ord("a")
            writer.write(b"b" * 10)
            writer.flush()
            assert path.read_bytes() == b"a" * 100_000
        assert path.read_bytes() == b"b" * 10
        os.truncate(path, 5)
        path.unlink()
        assert seen[:] == b"a" * 100_000
        assert file.read() == b"a" * 100_000
        assert os.fstat(file.fileno()).st_size == 100_000
    assert not path.exists()


def test_a_content_is_read_again_from_the_page_cache(tree: Tree, shm: Path) -> None:
    path = shm / "global/value"
    path.write_bytes(os.urandom(8 * MIB))
    first = path.read_bytes()
    before = figure(tree, "requests")
    assert path.read_bytes() == first
    assert figure(tree, "requests") - before < 30  # 64 reads of 128 KiB would be asked for


def figure(tree: Tree, wanted: str) -> int:
    """One of the mount's figures."""
    for line in tree.read("sys/metrics").splitlines():
        name, _, value = line.partition(" ")
        if wanted in name and not line.startswith("#"):
            return int(float(value))
    raise AssertionError("no such figure")


def test_inodes_of_old_versions_go(tree: Tree, shm: Path) -> None:
    path = shm / "global/value"
    for number in range(200):
        path.write_text(f"{number}")
        assert path.read_text() == f"{number}"
    assert figure(tree, "inodes") < 100
    assert figure(tree, "handles") < 10


def test_calls_on_files_are_as_everywhere(shm: Path) -> None:
    path = shm / "private/k"
    with open(path, "x") as file:
        file.write("hello")
        file.flush()
        assert path.read_text() == "hello"  # a name of one's own that is not stored yet
        assert (os.fstat(file.fileno()).st_size, path.stat().st_size) == (5, 5)
        os.ftruncate(file.fileno(), 2)
        assert file.seek(0, os.SEEK_END) == 2
    assert path.read_text() == "he"
    assert refusal(lambda: path.touch(exist_ok=False)) == "EEXIST"
    with open(path, "r+") as file:
        assert file.read() == "he"
        file.seek(0)
        file.write("H")
    assert path.read_text() == "He"
    os.truncate(path, 1)
    assert path.read_text() == "H"
    path.chmod(0o600)
    assert refusal(lambda: path.chmod(0o644)) == "EPERM"
    os.utime(path)
    path.touch()
    assert refusal(lambda: os.link(path, shm / "private/l")) == "EPERM"
    assert refusal(lambda: os.mkdir(shm / "private/d")) == "EPERM"
    assert refusal(lambda: os.symlink("x", shm / "private/s")) == "EPERM"
    assert refusal(lambda: path.rename(shm / "global/k")) == "EXDEV"
    assert refusal(lambda: (shm / "private" / ("x" * 256)).write_text("")) == "ENAMETOOLONG"
    assert refusal(lambda: (shm / "private" / "a\nb").write_text("")) == "EINVAL"
    with open(path, "w") as file:
        file.write("gone")
        path.unlink()
    assert not path.exists()
    with open(shm / "private/tmp", "w") as file:
        file.write("renamed while it is written")
        os.rename(shm / "private/tmp", path)
    assert path.read_text() == "renamed while it is written"
    assert os.listdir(shm / "private") == ["k"]
    with open(path, "rb") as file:
        os.unlink(path)
        assert file.read() == b"renamed while it is written"


TOOLS = """
set -e
cd "$1"
echo one > a.txt; [ "$(cat a.txt)" = one ]
echo two >> a.txt; [ "$(cat a.txt)" = "one
two" ]
sed -i s/one/1/ a.txt; [ "$(head -1 a.txt)" = 1 ]
cp a.txt b.txt; cmp a.txt b.txt
cp -p a.txt c.txt
mv b.txt d.txt; [ ! -e b.txt ]; cmp a.txt d.txt
mv -f d.txt c.txt; cmp a.txt c.txt
echo from outside > "$2/outside"; mv "$2/outside" .; [ "$(cat outside)" = "from outside" ]
dd if=/dev/zero of=z bs=64k count=50 status=none; [ "$(stat -c %s z)" = 3276800 ]
dd if=/dev/zero of=z bs=1 seek=10 count=1 conv=notrunc status=none; [ "$(stat -c %s z)" = 3276800 ]
truncate -s 10 z; [ "$(stat -c %s z)" = 10 ]
: > z; [ ! -s z ]
install -m $3 a.txt i.txt; cmp a.txt i.txt
tar cf "$2/t.tar" . && mkdir "$2/x" && tar xf "$2/t.tar" -C "$2/x" && diff -r . "$2/x"
tee t.txt < a.txt > /dev/null; cmp a.txt t.txt
sort -o s.txt a.txt
find . -type f | wc -l
rm -f ./*
[ -z "$(ls -A)" ]
echo all well
"""


@pytest.mark.parametrize("visibility", VISIBILITIES)
def test_ordinary_tools_work(shm: Path, tmp_path: Path, visibility: str) -> None:
    done = subprocess.run(
        ["sh", "-c", TOOLS,
         "sh", shm / visibility, tmp_path, "644" if visibility == "global" else "600"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("all well\n"), done.stderr + done.stdout
    assert done.stderr == ""


def test_the_content_type_is_an_attribute(family: Family, tree: Tree, shm: Path) -> None:
    path = shm / "global/data.json"
    path.write_text("{}")
    assert os.getxattr(path, "user.mime_type") == b"application/json"
    assert os.getxattr(path, "user.owner") == b"init"
    assert os.getxattr(path, "user.visibility") == b"global"
    assert sorted(os.listxattr(path)) == [
        "user.agentfs.kind", "user.mime_type", "user.owner", "user.visibility",
    ]  # fmt: skip
    os.setxattr(path, "user.mime_type", b"application/x-mine")
    path.write_text("[]")
    assert os.getxattr(path, "user.mime_type") == b"application/x-mine"
    os.removexattr(path, "user.mime_type")
    assert os.getxattr(path, "user.mime_type") == b"application/json"
    with open(shm / "global/early", "w") as file:
        os.setxattr(file.fileno(), "user.mime_type", b"text/x-early")
        os.setxattr(shm / "global/early", "user.mime_type", b"text/x-earlier")
        file.write("content after type")
    assert os.getxattr(shm / "global/early", "user.mime_type") == b"text/x-earlier"
    assert refusal(lambda: os.setxattr(path, "user.other", b"x")) == "ENOTSUP"
    assert refusal(lambda: os.setxattr(path, "user.owner", b"x")) == "ENOTSUP"
    assert "is user.mime_type" in tree.read("proc/self/error")
    assert refusal(lambda: os.setxattr(path, "user.mime_type", b"nonsense")) == "EINVAL"
    assert refusal(lambda: os.getxattr(path, "user.other")) == "ENODATA"


def test_a_file_that_is_too_large_leaves_the_old(tree: Tree, shm: Path) -> None:
    tree.write("etc/agentfs.yaml", "artifacts: {max_size: 2000000, max_artifacts: 2}\n")
    path = shm / "private/k"
    path.write_bytes(b"old")

    def too_much() -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
        try:
            for _ in range(3):
                os.write(descriptor, bytes(MIB))
        finally:
            with pytest.raises(OSError, match="too large"):
                os.close(descriptor)

    assert refusal(too_much) == "EFBIG"
    assert path.read_bytes() == b"old"
    assert "at most 2000000 bytes" in tree.read("proc/self/error")
    (shm / "global/2").write_text("")
    assert refusal(lambda: (shm / "global/3").write_text("")) == "ENOSPC"
    assert len(list((tree.state / "artifacts").iterdir())) == 2


@ROOT_ONLY
def test_a_full_disk_is_enospc_and_leaves_the_old(trees: Callable[..., Tree]) -> None:
    tree = trees("small")
    folder = tree.state / "artifacts"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "shm", str(folder)], check=True)
    try:
        tree.mount()
        path = tree / "dev/shm/global/k"
        path.write_bytes(b"x" * 2 * MIB)
        assert refusal(lambda: path.write_bytes(b"y" * 3 * MIB)) == "ENOSPC"
        assert path.read_bytes() == b"x" * 2 * MIB
        assert len(list(folder.iterdir())) == 1
        path.unlink()
        path.write_bytes(b"y" * 3 * MIB)
        tree.unmount()
    finally:
        tree.clean_up()
        subprocess.run(["umount", "-l", str(folder)], check=False)


# -- crashes ---------------------------------------------------------------------------------------

# Writes the number of each round, a hundred thousand times, and says so once it is closed.
WRITER = """
import sys
path, number = sys.argv[1], 0
while True:
    number += 1
    try:
        with open(path, "wb") as file:
            for _ in range(10):
                file.write(b"%06d" % number * 100_000)
    except OSError:
        break
    print(number, flush=True)
"""


def test_kill_9_of_the_daemon_leaves_the_old_or_the_new_whole(tree: Tree) -> None:
    path = tree / "dev/shm/global/value"
    for turn in range(5):
        writer = tree.start(sys.executable, "-c", WRITER, str(path), stdout=subprocess.PIPE)
        assert writer.stdout is not None
        for _ in range(turn + 1):
            accepted = int(writer.stdout.readline())
        threading.Event().wait(0.002 * turn)  # somewhere in the next one
        tree.crash()
        accepted = max([accepted, *map(int, writer.stdout.read().split())])
        writer.wait()
        tree.mount()
        found = path.read_bytes()
        assert len(found) == 6_000_000
        assert found == found[:6] * 1_000_000
        assert int(found[:6]) in (accepted, accepted + 1)
        assert len(list((tree.state / "artifacts").iterdir())) == 1


def test_kill_9_during_a_write_keeps_the_old_and_after_close_the_new(tree: Tree, shm: Path) -> None:
    (shm / "private/a").write_text("old")
    (shm / "private/b").write_text("new")
    (shm / "private/b").write_text("newest")
    descriptor = os.open(shm / "private/a", os.O_WRONLY | os.O_TRUNC)
    fresh = os.open(shm / "private/c", os.O_WRONLY | os.O_CREAT)
    synced = os.open(shm / "private/d", os.O_WRONLY | os.O_CREAT)
    for opened in (descriptor, fresh, synced):
        os.write(opened, b"half")
    os.fsync(synced)
    os.write(synced, b" and lost")
    tree.crash()
    for opened in (descriptor, fresh, synced):
        with pytest.raises(OSError, match=r"connected|aborted"):
            os.close(opened)
    tree.mount()
    contents = {path.name: path.read_text() for path in (shm / "private").iterdir()}
    # What is not whole is nothing to keep, synced or not.
    assert contents == {"a": "old", "b": "newest"}
    assert len(list((tree.state / "artifacts").iterdir())) == 2


def test_a_writer_that_is_killed_changes_nothing(tree: Tree, shm: Path) -> None:
    path = shm / "global/value"
    path.write_text("old")
    for number in (signal.SIGKILL, signal.SIGTERM):
        writer = tree.start("sh", "-c", f"(echo half; exec sleep 600) > '{path}'")
        eventually(lambda: any(p.suffix == ".new" and p.stat().st_size
                               for p in (tree.state / "artifacts").iterdir()))  # fmt: skip
        children = Path(f"/proc/{writer.pid}/task/{writer.pid}/children").read_text().split()
        for pid in (*map(int, children), writer.pid):
            os.kill(pid, number)
        writer.wait()
        eventually(lambda: len(list((tree.state / "artifacts").iterdir())) == 1)
        assert path.read_text() == "old"


def test_a_childs_end_does_not_end_the_writing(shm: Path) -> None:
    path = shm / "global/value"
    path.write_text("old")
    script = f"{{ echo one; sleep 0.05; cat '{path}' >&2; echo two; }} > '{path}'"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "old"
    assert path.read_text() == "one\ntwo\n"


# -- inotify ---------------------------------------------------------------------------------------


def test_a_watcher_sees_what_an_ordinary_file_system_shows(tree: Tree, shm: Path) -> None:
    watcher = Watcher(tree, tree / "dev/shm/global")
    where = "dev/shm/global/k"
    (shm / "global/k").write_text("1")
    assert watcher.until("CLOSE_WRITE", where) == [
        ("CREATE", where),
        ("MODIFY", where),
        ("CLOSE_WRITE", where),
    ]
    descriptor = os.open(shm / "global/k", os.O_WRONLY | os.O_TRUNC)
    os.write(descriptor, b"2")
    os.close(descriptor)
    seen = watcher.until("CLOSE_WRITE", where)
    assert set(seen) == {("MODIFY", where), ("CLOSE_WRITE", where)}
    os.truncate(shm / "global/k", 0)
    assert watcher.until("MODIFY", where) == [("MODIFY", where)]
    (shm / "global/k").rename(shm / "global/l")
    assert watcher.until("MOVED_TO", "dev/shm/global/l") == [
        ("MOVED_FROM", where),
        ("MOVED_TO", "dev/shm/global/l"),
    ]
    (shm / "global/l").unlink()
    assert watcher.until("DELETE", "dev/shm/global/l") == [("DELETE", "dev/shm/global/l")]


def test_watchers_of_other_views_see_what_they_may_see(family: Family, tree: Tree) -> None:
    views = [f"agents/{name}/shm/subtree" for name in ("lead", "alice", "bob", "kid")]
    watcher = Watcher(tree, *(tree / view for view in views), tree / "agents/kid/shm/private")
    put(family.alice, "subtree/plan", "1")
    put(family.alice, "private/plan", "1")
    seen = watcher.until("CLOSE_WRITE", f"{views[3]}/plan")
    assert [event for event, path in seen if path == f"{views[3]}/plan"] == [
        "CREATE",
        "CLOSE_WRITE",
    ]
    assert get(family.kid, "subtree/plan") == "1"
    put(family.alice, "subtree/plan", "22")
    watcher.until("CLOSE_WRITE", f"{views[3]}/plan")
    assert get(family.kid, "subtree/plan") == "22"
    put(family.kid, "subtree/plan", "kid's")
    seen = watcher.until("CLOSE_WRITE", f"{views[3]}/plan")
    assert seen[-1] == ("CLOSE_WRITE", f"{views[3]}/plan")
    family.alice.rm("dev/shm/subtree/plan")  # the kid sees its own: no event there
    family.kid.rm("dev/shm/subtree/plan")
    seen = watcher.until("DELETE", f"{views[3]}/plan")
    put(family.lead, "subtree/last", "x")
    seen += watcher.until("CLOSE_WRITE", f"{views[3]}/last")
    told = {(event, path) for event, path in seen if event in ("DELETE", "CREATE")}
    assert {path for _, path in told if "/last" in path} == {f"{view}/last" for view in views}
    assert [path for event, path in seen if event == "DELETE"] == [
        f"{views[1]}/plan",
        f"{views[3]}/plan",
    ]
    assert not [path for _, path in seen if "private" in path or f"{views[2]}/plan" in path]
