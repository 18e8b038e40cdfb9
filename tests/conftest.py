"""What tests share: real mounts, each with its own mount point and state directory."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from agentfs.machine.launch import PR_SET_CHILD_SUBREAPER
from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree

LONGEST = (
    *("torture/test_soak.py", "system/test_user.py", "tools/test_cli.py"),
    *("torture/test_torture.py", "system/test_crash.py", "tools/test_mounting.py"),
    *("tooling/test_servers.py", "runner/test_agent.py", "system/test_agent_client.py"),
    *("system/test_shm.py", "mail/test_mail_model.py", "system/test_reminders.py"),
    *("system/test_damage.py", "store/test_memory.py", "tools/test_bad_input.py"),
    *("system/test_reaper.py", "reminders/test_reminders.py", "asks/test_asks_model.py"),
    *("llm/test_sdks.py", "runner/test_harness.py", "system/test_hung_disks.py"),
    *("system/test_crawl.py", "tools/test_silent.py"),
)
"""Files that take half a minute and more. They come first: the last file to end keeps every other
core waiting."""

WITH_SDKS = (
    *("tests/dialects/test_scripted.py", "tests/dialects/test_sdks.py"),
    *("tests/llm/test_gateway.py", "tests/llm/test_played.py", "tests/llm/test_small.py"),
)
"""Files whose tests import the SDKs: one worker has them all, and the others never do."""


class Files(LoadFileScheduling):  # type: ignore[misc]
    """A file's tests stay together, as some share a tree; so do `WITH_SDKS`."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return WITH_SDKS[0] if file in WITH_SDKS else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Files:
    return Files(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    places = {str(tests / name): place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(str(item.path), len(places)))


def pytest_collection_finish() -> None:
    """The garbage collector leaves alone what is there before the first test: 7,000 tests and all
    modules, through which it would go again and again (a quarter of the time of tests without a
    mount)."""
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    """Programs of the tests have default signals also where the suite runs in the background of a
    script, or under nohup, which ignore some for all their children."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def why_no_fuse() -> str:
    """Why this machine cannot mount, in one sentence; empty if it can."""
    try:
        if not stat.S_ISCHR(os.stat("/dev/fuse").st_mode):
            return "/dev/fuse is no device: load the fuse module (modprobe fuse)."
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as failure:
        return (
            f"/dev/fuse cannot be used ({failure.strerror}): the tests mount real trees; load the"
            " fuse module, and give this user access to the device."
        )
    return ""


@pytest.fixture(autouse=True)
def no_subreaper() -> Iterator[None]:
    """A test that runs the parts of the kernel in this process makes it a sub-reaper: it would stay
    one, and all orphans of the tests after it zombies, which nobody waits for."""
    yield
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="session")
def fuse() -> None:
    """Fails, and does not skip, where nothing can be mounted."""
    reason = why_no_fuse()
    if reason:
        pytest.fail(reason, pytrace=False)


@pytest.fixture(scope="session")
def hatchery(fuse: None) -> Iterator[Hatchery]:
    """Where the trees' daemons come from."""
    made = Hatchery()
    yield made
    made.close()


@pytest.fixture
def trees(fuse: None, hatchery: Hatchery, tmp_path: Path) -> Iterator[Callable[..., Tree]]:
    """Makes trees; unmounts them all afterwards, lazily if need be. Those of a `command` are
    mounted with it, as people do; the daemons of the others come from the hatchery."""
    made: list[Tree] = []

    def make(name: str = "tree", **options: object) -> Tree:
        tree: Tree
        if "command" in options:
            tree = Tree(tmp_path / name, **options)  # type: ignore[arg-type]
        else:
            options = {"hatchery": hatchery, **options}
            tree = QuickTree(tmp_path / name, **options)  # type: ignore[arg-type]
        made.append(tree)
        return tree

    try:
        yield make
    finally:
        for tree in made:
            tree.clean_up()


@pytest.fixture
def tree(trees: Callable[..., Tree]) -> Tree:
    """One mounted tree."""
    made = trees()
    made.mount()
    return made
