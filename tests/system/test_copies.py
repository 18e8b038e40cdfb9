"""Copies of live files: programs that copy within Linux get all of it, as of its own /proc."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tree import Tree

pytestmark = pytest.mark.mount


def by_copyfile(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def by_sendfile(source: Path, target: Path) -> None:
    with open(source, "rb") as given, open(target, "wb") as taken:
        while os.sendfile(taken.fileno(), given.fileno(), None, 1 << 20):
            pass


def by_splice(source: Path, target: Path) -> None:
    reader, writer = os.pipe()
    with open(source, "rb") as given, open(target, "wb") as taken:
        while count := os.splice(given.fileno(), writer, 1 << 15):
            taken.write(os.read(reader, count))
    os.close(reader)
    os.close(writer)


def by_program(*command: str) -> Callable[[Path, Path], None]:
    def copy(source: Path, target: Path) -> None:
        subprocess.run([*command, source, target], check=True, capture_output=True)

    return copy


def by_tar(source: Path, target: Path) -> None:
    command = ["tar", "cf", "-", "-C", source.parent, source.name]
    for _ in range(20):
        packed = subprocess.run(command, capture_output=True)
        if b"as we read it" not in packed.stderr and b"shrank" not in packed.stderr:
            break  # else the figures grew a digit between its look and its read: tar says so
    assert (packed.returncode, packed.stderr) == (0, b"")
    unpacked = subprocess.run(["tar", "xOf", "-"], input=packed.stdout, capture_output=True)
    target.write_bytes(unpacked.stdout)


WAYS = {
    "copyfile": by_copyfile,
    "sendfile": by_sendfile,
    "splice": by_splice,
    "cp": by_program("cp"),
    "busybox cp": by_program("busybox", "cp"),
    "tar": by_tar,
    "dd": lambda source, target: by_program("dd", "bs=7")(
        Path(f"if={source}"), Path(f"of={target}")
    ),
}


def live_files(tree: Tree) -> Iterator[Path]:
    for place in ("proc", "proc/1", "proc/1/limits", "sys", "sys/audit", "dev/queues/jobs"):
        for path in sorted((tree / place).iterdir()):
            if path.is_file() and os.getxattr(path, "user.agentfs.kind") == b"live":
                yield path


def test_every_way_to_copy_gives_all_of_every_live_file(tree: Tree, tmp_path: Path) -> None:
    (tree / "dev/queues/jobs").mkdir()
    paths = list(live_files(tree))
    assert {"uptime", "metrics", "status", "cmdline", "verify"} <= {path.name for path in paths}
    for (how, copy), path in itertools.product(WAYS.items(), paths):
        content = path.read_bytes()
        copy(path, tmp_path / "copy")
        copied = (tmp_path / "copy").read_bytes()
        lines = content.count(b"\n"), content.count(b"\0")
        assert (copied.count(b"\n"), copied.count(b"\0")) == lines, (how, path)
        if content:
            assert copied[-1:] == content[-1:], (how, path)


def test_a_live_file_that_is_open_stays_what_it_was(tree: Tree) -> None:
    with open(tree / "proc/uptime") as first:
        size = os.fstat(first.fileno()).st_size
        before = first.read()
        assert len(before) == size
        while (tree / "proc/uptime").read_text() == before:
            pass
        first.seek(0)
        assert first.read() == before
        assert (tree / "proc/uptime").read_text() != before


def test_a_program_that_asks_for_sendfile_first_reads_what_has_no_size_all_the_same(
    tree: Tree, tmp_path: Path
) -> None:
    tree.spawn("alice")
    log = tree / "sys/audit/log"
    before = log.read_bytes()
    shutil.copyfile(log, tmp_path / "copy")
    assert before
    assert (tmp_path / "copy").read_bytes().startswith(before)
