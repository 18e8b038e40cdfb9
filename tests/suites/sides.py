"""Where the suites work: a tmpfs, an ext4 on a loop device, /shared and an agent's memory/."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.tree import Tree

__all__ = ["SIDES", "sides"]

SIDES = ("tmpfs", "ext4", "/shared", "memory/")

EXT4_BYTES = 4 << 30
"""Of the sparse file below ext4: what the largest file of LTP needs, twice."""


@contextmanager
def sides(folder: Path, wanted: tuple[str, ...]) -> Iterator[dict[str, Path]]:
    """Those of SIDES that are `wanted` and can be had. All are mounted nodev, as ours is."""
    with ExitStack() as end:
        found: dict[str, Path] = {}
        if "tmpfs" in wanted:
            options = ["-t", "tmpfs", "-o", "nodev", "none"]
            found["tmpfs"] = end.enter_context(_mounted(folder / "tmpfs", options))
        if "ext4" in wanted:
            try:
                found["ext4"] = end.enter_context(_ext4(folder))
            except (OSError, subprocess.CalledProcessError) as failed:
                print(f"ext4 is left out: {_words(failed)}")
        if any(side not in ("tmpfs", "ext4") for side in wanted):
            ours = end.enter_context(_ours(folder / "agentfs"))
            found |= {side: ours[side] for side in SIDES if side in ours and side in wanted}
        yield found


def _words(failed: Exception) -> str:
    said = failed.stderr if isinstance(failed, subprocess.CalledProcessError) else ""
    return said.strip() or str(failed)


@contextmanager
def _mounted(where: Path, options: list[str]) -> Iterator[Path]:
    where.mkdir()
    command = ["mount", *options, str(where)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    where.chmod(0o755)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


@contextmanager
def _ext4(folder: Path) -> Iterator[Path]:
    image = folder / "ext4.img"
    with open(image, "wb") as file:
        file.truncate(EXT4_BYTES)
    make = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin") or "mkfs.ext4"
    subprocess.run([make, "-q", "-F", str(image)], check=True, capture_output=True, text=True)
    with _mounted(folder / "ext4", ["-o", "loop,nodev", str(image)]) as where:
        yield where


@contextmanager
def _ours(folder: Path) -> Iterator[dict[str, Path]]:
    tree = Tree(folder)
    tree.may_hold = True  # the suites are there to find out what it is for them
    try:
        tree.mount()
        (tree / "agents/suite").mkdir()
        shared = tree / "shared/suites"
        shared.mkdir()
        yield {"/shared": shared, "memory/": tree / "agents/suite/memory"}
        told = [
            line for line in tree.log().splitlines() if "Traceback" in line or " ERROR " in line
        ]
        for line in told[:10]:
            print(f"kernel.log: {line}")
        tree.unmount()
    finally:
        tree.clean_up()
