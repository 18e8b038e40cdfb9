"""Rules on files of /shared whose name somebody else took away: the last one they had decides."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.puppet import Puppet
from tests.tree import Tree

pytestmark = pytest.mark.mount

RULES = "rules: [{effect: deny, agent: bob, path: /shared/safe/**}]\n"

SETTING = """(
    os.makedirs(tree + '/shared/safe/deep'),
    [(open(tree + '/shared/safe/' + name, 'w').write('#!/bin/sh\\nexit 7\\n'),
      os.chmod(tree + '/shared/safe/' + name, 0o755)) for name in 'fg'],
    os.setxattr(tree + '/shared/safe/f', 'user.x', b'y'),
    os.symlink('f', tree + '/shared/safe/l'),
    os.mkfifo(tree + '/shared/fifo'),
) and None"""

CLEARING = """[
    (shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path))
    for shutil in [__import__('shutil')]
    for path in [entry.path for entry in os.scandir(tree + '/shared') if entry.name != 'docs']
] and None"""

LIBC = "__import__('ctypes').CDLL(None, use_errno=True)"
RAISE = "(_ for _ in ()).throw(OSError(__import__('ctypes').get_errno(), ''))"

WAYS = {
    "read": "os.close(os.open('/proc/self/fd/%d' % held, os.O_RDONLY))",
    "write": "os.close(os.open('/proc/self/fd/%d' % held, os.O_WRONLY))",
    "program": "__import__('subprocess').run(['/proc/self/fd/%d' % held], pass_fds=[held]) and 0",
    "truncate": "os.truncate('/proc/self/fd/%d' % held, 1)",
    "mode": "os.chmod('/proc/self/fd/%d' % held, 0o777)",
    "times": "os.utime('/proc/self/fd/%d' % held)",
    "xattrs": "os.listxattr('/proc/self/fd/%d' % held) and None",
    "xattr": "os.getxattr('/proc/self/fd/%d' % held, 'user.x') and None",
    "new xattr": "os.setxattr('/proc/self/fd/%d' % held, 'user.x', b'z')",
    "no xattr": "os.removexattr('/proc/self/fd/%d' % held, 'user.x')",
}
"""What one who holds a file with O_PATH may try."""

LINK = (
    f"[{RAISE} for _ in 'x' if {LIBC}"
    ".linkat(-100, b'/proc/self/fd/%d' % held, -100, (tree + '/shared/copy').encode(), 0x400)]"
    " and None"
)
"""Another name for it, which has to have one."""

LOSSES = {
    "has its name": "0",
    "was removed": "rm('shared/safe/f')",
    "was replaced": "mv('shared/safe/g', 'shared/safe/f')",
    "was exchanged": f"{LIBC}.renameat2(-100, (tree + '/shared/safe/f').encode(),"
    " -100, (tree + '/shared/safe/g').encode(), 2)",
    "has another name": "mv('shared/safe/f', 'shared/safe/deep/f')",
    "was removed with its directory": "__import__('shutil').rmtree(tree + '/shared/safe')",
    "was moved, and removed with its directory": "(mv('shared/safe/f', 'shared/safe/deep/f'),"
    " __import__('shutil').rmtree(tree + '/shared/safe/deep'))",
    "has a second name": "os.link(tree + '/shared/safe/f', tree + '/shared/second')",
    "was removed from under its second name": "(os.link(tree + '/shared/safe/f',"
    " tree + '/shared/safe/second'), rm('shared/safe/second'), rm('shared/safe/f'))",
}
"""What another agent, to whom the rule does not speak, does meanwhile."""


class Stage:
    """Ann, who may do everything in /shared/safe, and bob, whom a rule keeps out of it."""

    def __init__(self, tree: Tree, stack: ExitStack) -> None:
        self.tree = tree
        tree.write("etc/acl.yaml", RULES)
        self.ann, self.bob = (
            stack.enter_context(closing(Puppet(tree, name, role="worker")))
            for name in ("ann", "bob")
        )

    def begin(self, held: str, flags: str = "os.O_PATH | os.O_NOFOLLOW") -> None:
        """Everything anew; bob holds a file."""
        self.bob.do(
            "[os.close(globals().pop('held')) for _ in 'x' if 'held' in globals()] and None"
        )
        self.ann.do(CLEARING)
        self.ann.do(SETTING)
        self.bob.do(f"globals().update(held=os.open(tree + '/shared/{held}', {flags}))")

    def refused(self, way: str) -> str:
        """The errno that bob gets for it; empty if it is done."""
        try:
            self.bob.do(way)
        except OSError as failure:
            return errno.errorcode.get(failure.errno or 0, "?")
        return ""


@pytest.fixture(scope="module")
def stage(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tree = QuickTree(tmp_path_factory.mktemp("nameless") / "tree", hatchery=hatchery)
    try:
        tree.mount()
        with ExitStack() as stack:
            yield Stage(tree, stack)
    finally:
        tree.clean_up()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_file_that_a_rule_denies_stays_denied_whatever_becomes_of_its_name(
    stage: Stage, loss: str
) -> None:
    stage.begin("safe/f")
    stage.ann.do(f"{LOSSES[loss]} and None")
    assert {way: stage.refused(how) for way, how in WAYS.items()} == dict.fromkeys(WAYS, "EPERM")
    gone = stage.bob.do("os.fstat(held).st_nlink") == 0
    assert stage.refused(LINK) == ("ENOENT" if gone else "EPERM")


def test_what_no_rule_denies_can_be_used_without_a_name(stage: Stage) -> None:
    """All of it, so that the test above is one of the rule."""
    for loss in ("rm('shared/open')", "mv('shared/safe/g', 'shared/open')"):
        stage.begin("fifo")
        stage.ann.do("mv('shared/safe/f', 'shared/open')")
        stage.bob.do(
            "os.close(held) or globals().update(held=os.open(tree+'/shared/open', 0x200000))"
        )
        stage.ann.do(loss)
        assert {way: stage.refused(how) for way, how in WAYS.items()} == dict.fromkeys(WAYS, "")


def test_what_came_under_a_rule_while_it_was_held_is_denied(stage: Stage) -> None:
    for held, loss in (
        ("open", "mv('shared/open', 'shared/safe/now')"),
        ("open", "(mv('shared/open', 'shared/safe/now'), rm('shared/safe/now'))"),
        ("folder/open", "mv('shared/folder', 'shared/safe/folder')"),
        (
            "folder/open",
            "(mv('shared/folder', 'shared/safe/folder'),"
            " __import__('shutil').rmtree(tree + '/shared/safe/folder'))",
        ),
    ):
        stage.begin("fifo")
        stage.ann.do("os.mkdir(tree + '/shared/folder')")
        stage.ann.do(f"mv('shared/safe/f', 'shared/{held}')")
        stage.bob.do(
            f"os.close(held) or globals().update(held=os.open(tree + '/shared/{held}', 0x200000))"
        )
        assert stage.refused(WAYS["read"]) == ""
        stage.ann.do(f"{loss} and None")
        refused = {way: stage.refused(how) for way, how in WAYS.items()}
        assert refused == dict.fromkeys(WAYS, "EPERM"), loss


def test_a_link_and_a_directory_without_a_name_stay_denied(stage: Stage) -> None:
    for loss in ("rm('shared/safe/l')", "mv('shared/safe/g', 'shared/safe/l')"):
        stage.begin("safe/l")
        stage.ann.do(loss)
        assert stage.refused("os.readlink('', dir_fd=held)") == "EPERM"
    stage.begin("safe/deep", "os.O_PATH")
    stage.ann.do("os.rmdir(tree + '/shared/safe/deep')")
    assert stage.refused("os.listdir('/proc/self/fd/%d' % held) and None") == "EPERM"
    assert stage.refused("os.chmod('/proc/self/fd/%d' % held, 0o777)") == "EPERM"
    assert stage.refused("os.mkdir('x', dir_fd=held)") == "ENOENT"


def test_a_pipe_that_came_under_a_rule_while_it_was_held_is_denied(stage: Stage) -> None:
    """Linux opens it by itself; what it asks for first are the attributes."""
    for loss in (
        "mv('shared/fifo', 'shared/safe/fifo')",
        "(mv('shared/fifo', 'shared/safe/fifo'), rm('shared/safe/fifo'))",
    ):
        stage.begin("fifo")
        way = "os.close(os.open('/proc/self/fd/%d' % held, os.O_RDWR | os.O_NONBLOCK))"
        assert stage.refused(way) == ""
        stage.ann.do(f"{loss} and None")
        assert stage.refused(way) == "EPERM"


def test_a_file_handle_of_what_has_no_name_is_asked_about_too(stage: Stage) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may open a file by its handle")
    opened = f"{LIBC}.open_by_handle_at(mount, handle, 0)"
    for loss in ("0", "rm('shared/safe/f')", "mv('shared/safe/g', 'shared/safe/f')"):
        stage.begin("safe/f")
        stage.bob.do(
            "globals().update(handle=bytearray(136), mount=os.open(tree, os.O_RDONLY)) or"
            " handle.__setitem__(slice(0, 4), b'\\x80\\0\\0\\0')"
        )
        stage.bob.do(
            "globals().update(handle=(__import__('ctypes').c_char * 136).from_buffer(handle)) or"
            f" {LIBC}.name_to_handle_at(held, b'', handle,"
            " __import__('ctypes').byref(__import__('ctypes').c_int()), 0x1000)"
        )
        assert stage.bob.do(f"{opened} < 0 and __import__('ctypes').get_errno()") == errno.EPERM
        stage.ann.do(loss)
        assert stage.bob.do(f"{opened} < 0 and __import__('ctypes').get_errno()") == errno.EPERM


def test_of_two_names_that_are_known_the_stricter_decides(stage: Stage) -> None:
    stage.begin("safe/f")
    stage.ann.do("os.link(tree + '/shared/safe/f', tree + '/shared/second')")
    assert stage.refused("read('shared/second') and None") == "EPERM"
    stage.ann.do("rm('shared/safe/f')")
    assert stage.refused("read('shared/second') and None") == ""


def test_what_has_a_name_that_nobody_looked_up_goes_on_working(stage: Stage) -> None:
    """The daemon does not know it, and the last name that it knew is gone."""
    stage.begin("fifo")
    stage.ann.do("mv('shared/safe/f', 'shared/open')")
    os.link(stage.tree.state / "shared/open", stage.tree.state / "shared/unknown")
    stage.bob.do(
        "os.close(held) or globals().update(held=os.open(tree + '/shared/open', 0x200000))"
    )
    stage.ann.do("rm('shared/open')")
    assert {way: stage.refused(how) for way, how in WAYS.items()} == dict.fromkeys(WAYS, "")
    assert stage.bob.do("os.fstat(held).st_nlink") == 1
    assert stage.bob.do("os.path.samefile(tree + '/shared/unknown', '/proc/self/fd/%d' % held)")
