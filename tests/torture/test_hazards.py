"""Single harms: a full disk, ten thousand open files, an unmount in the middle of work."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.torture.aftermath import faults_of
from tests.torture.hazards import HANDLES
from tests.tree import Tree, eventually

pytestmark = [pytest.mark.mount]


@pytest.fixture
def small(trees: Callable[..., Tree], request: pytest.FixtureRequest) -> Iterator[Tree]:
    """A tree whose state has 24 MiB of disk; only root can have that."""
    if os.geteuid() != 0:
        pytest.skip("a small disk has to be mounted, and only root can do that")
    tree: Tree = trees("small")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "small", tree.state], check=True)
    try:
        tree.mount()
        yield tree
    finally:
        tree.clean_up()
        subprocess.run(["umount", tree.state], check=True)


def test_a_full_disk_refuses_and_forgets_nothing(small: Tree) -> None:
    accepted: list[str] = []
    small.spawn("bob")

    def send() -> None:
        for number in range(100):
            body = f"{len(accepted)}-{number}-" + "x" * 2000
            small.write("agents/init/send", f"To: bob\n\n{body}")
            accepted.append(body)

    def waiting() -> set[str]:
        return {
            path.read_text().partition("\n\n")[2]
            for path in (small / "agents/bob/inbox/new").iterdir()
        }

    send()
    ballast = small.state / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(65536)):
            pass
    with pytest.raises(OSError) as refusal:
        for _ in range(50):  # what is kept for the operator has an end, too
            send()
    assert refusal.value.errno == errno.ENOSPC
    assert waiting() == set(accepted)  # reading goes on
    assert small.read("sys/health")
    small.crash()
    ballast.unlink()
    assert faults_of(small.state, after_crash=True) == []
    small.mount()
    assert waiting() == set(accepted)
    send()
    assert waiting() == set(accepted)
    assert faults_of(small.state) == []


@pytest.mark.parametrize("end", ["crash", "unmount"])
def test_a_tree_is_mounted_on_a_full_disk_and_room_can_be_made_in_it(small: Tree, end: str) -> None:
    small.spawn("bob")
    small.write("agents/init/send", "To: bob\n\nhello")
    (small / "shared/kept").write_text("kept")
    reserve = small.state / "reserve"
    eventually(reserve.exists)
    with contextlib.suppress(OSError), (small / "shared/ballast").open("wb") as file:
        while file.write(bytes(1 << 20)):
            pass
    getattr(small, end)()
    with contextlib.suppress(OSError), (small.state / "ballast").open("wb", 0) as file:
        while file.write(bytes(4096)):
            pass
    assert os.statvfs(small.state).f_bfree == 0
    small.mount()
    assert (small / "shared/kept").read_text() == "kept"
    (message,) = (small / "agents/bob/inbox/new").iterdir()
    assert message.read_text().endswith("hello")
    (small / "shared/ballast").unlink()
    (small.state / "ballast").unlink()
    small.write("agents/init/send", "To: init\n\nthere is room")
    if end == "crash":
        eventually(reserve.exists, "the room is held again")


def test_ten_thousand_files_can_be_open_at_once(tree: Tree) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(HANDLES, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    handles: list[int] = []
    try:
        while len(handles) < wanted:
            handles.append(os.open(tree / "proc/1/status", os.O_RDONLY))
        metrics = tree.read("sys/metrics").splitlines()
        (count,) = (line.split()[1] for line in metrics if line.startswith("agentfs_mount_handles"))
        assert float(count) >= wanted
        assert {os.pread(handle, 4096, 0) for handle in handles[::500]} != {b""}
        tree.write("agents/init/outbox/init", "hello")  # others are served all the while
        assert len(list((tree / "agents/init/inbox/new").iterdir())) == 1
    finally:
        for handle in handles:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("how", ["asked to end", "lazily"])
def test_unmounting_in_the_middle_of_work_keeps_what_was_accepted(how: str, tree: Tree) -> None:
    tree.spawn("bob")
    accepted: list[str] = []
    enough = threading.Event()

    def send(name: str) -> None:
        with contextlib.suppress(OSError):
            for number in range(100_000):
                body = f"{name}-{number}"
                tree.write("agents/init/send", f"To: bob\n\n{body}")
                accepted.append(body)
                if len(accepted) > 100:
                    enough.set()

    senders = [threading.Thread(target=send, args=(name,)) for name in "abc"]
    for sender in senders:
        sender.start()
    assert enough.wait(20)
    assert tree.daemon is not None
    with tree._watching(tree.daemon) as ended:
        if how == "lazily":
            subprocess.run(["umount", "-l", tree.path], check=True)
        else:
            os.kill(tree.daemon, signal.SIGTERM)
        assert ended() != ([], [], []), "the daemon does not end"
    tree.daemon = None
    for sender in senders:
        sender.join(20)
        assert not sender.is_alive()
    assert faults_of(tree.state) == []
    tree.mount()
    box: Path = tree / "agents/bob/inbox/new"
    assert set(accepted) <= {path.read_text().partition("\n\n")[2] for path in box.iterdir()}
