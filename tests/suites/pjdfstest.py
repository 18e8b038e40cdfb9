"""`./run posix [SUITE] [PART…]`: pjdfstest, a suite that others wrote, on /shared beside tmpfs.

SUITE is a path with a slash, of a checkout of https://github.com/pjd/pjdfstest; without it, one is
fetched once with git. PART is a directory of its tests (chmod, rename …; default: all). Both sides
are mounted nodev, and each test file runs on one after the other. Prints what fails in /shared
alone, by kind, and how many of its assertions that is; docs/mount.md has the reasons. Device files
are refused there on purpose, and what follows from that would hide the rest: they are taken out of
the suite's loops, unless --devices is given. Needs root, as the suite does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.tree import Tree

__all__ = ["Outcome", "assertions", "main"]

URL = "https://github.com/pjd/pjdfstest"
FETCHED = Path(__file__).parents[1] / ".posix"
SECONDS = 600
"""For one test file, on a busy machine."""

LINE = re.compile(
    r"(?P<failed>not )?ok \d+"
    r"(?: - tried '(?P<tried>.*)', expected (?P<wanted>.*), got (?P<got>.*))?"
)


@dataclass(slots=True)
class Outcome:
    """How many assertions there were on one side, and the kinds of those that failed."""

    count: int = 0
    failed: Counter[str] = field(default_factory=Counter)


def assertions(output: str, part: str) -> Outcome:
    """What a test file said, in the Test Anything Protocol. What it calls a known fault of some
    systems (`# TODO`) is none."""
    found = Outcome()
    for line in output.splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        found.count += 1
        if match["failed"] and "# TODO" not in line:
            found.failed[f"{part}: {_kind(match)}"] += 1
    return found


def _kind(match: re.Match[str]) -> str:
    """What was tried, without names and numbers, and what came of it."""
    if match["tried"] is None:
        return "a check of the test's own"
    call = re.sub(r"^(-\S+ \S+ )+", "", match["tried"]).split(" ")[0]
    device = re.search(r"mknod \S+ ([bc]) ", match["tried"])
    what = f"{call} of a device file" if device else call
    got = match["got"] if match["got"].isupper() or len(match["got"]) < 8 else "another value"
    wanted = match["wanted"] if len(match["wanted"]) < 12 else "a value"
    return f"{what}: {got} for {wanted}"


def main(arguments: list[str] | None = None) -> int:
    """0 if nothing fails in /shared that does not fail on tmpfs."""
    parser = argparse.ArgumentParser(
        prog="./run posix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("given", nargs="*", metavar="SUITE or PART", help="see above")
    parser.add_argument("--devices", action="store_true", help="with block and character devices")
    given = parser.parse_args(arguments)
    parts = given.given
    suite = Path(parts.pop(0)) if parts and "/" in parts[0] else None
    if os.geteuid():
        parser.error("the suite needs root")
    with (
        tempfile.TemporaryDirectory(prefix="agentfs-posix-") as name,
        contextlib.ExitStack() as end,
    ):
        folder = Path(name)
        folder.chmod(0o755)
        copy = _built(suite or _fetched(), folder, devices=given.devices)
        sides = {
            "tmpfs": end.enter_context(_tmpfs(folder / "memory")),
            "/shared": end.enter_context(_shared(folder / "agentfs")),
        }
        outcomes = {side: Outcome() for side in sides}
        for file in sorted((copy / "tests").rglob("*.t")):
            part = file.parent.name
            if parts and part not in parts:
                continue
            each = {side: _run(file, part, where) for side, where in sides.items()}
            for side, outcome in each.items():
                outcomes[side].count += outcome.count
                outcomes[side].failed += outcome.failed
            alone = each["/shared"].failed - each["tmpfs"].failed
            if alone:
                print(f"{part}/{file.name}: {alone.total()} of {each['/shared'].count}", flush=True)
    return _report(outcomes)


def _report(outcomes: dict[str, Outcome]) -> int:
    for side, outcome in outcomes.items():
        failed = outcome.failed.total()
        share = failed / outcome.count if outcome.count else 0
        print(f"{side:<8} {outcome.count:>6,} assertions, {failed:,} failed ({share:.1%})")
    alone = outcomes["/shared"].failed - outcomes["tmpfs"].failed
    for kind, count in alone.most_common():
        print(f"{count:>6,}  {kind}")
    return 1 if alone else 0


def _fetched() -> Path:
    if not FETCHED.exists():
        try:
            subprocess.run(["git", "clone", "-q", "--depth", "1", URL, str(FETCHED)], check=True)
        except subprocess.CalledProcessError:
            raise SystemExit(
                f"posix: {URL} cannot be fetched; get a copy of it, then: ./run posix COPY"
            ) from None
    return FETCHED


def _built(suite: Path, folder: Path, *, devices: bool) -> Path:
    """A copy of the suite with its program built."""
    if not (suite / "pjdfstest.c").exists():
        raise SystemExit(f"posix: {suite} is no checkout of {URL}: it has no pjdfstest.c")
    copy = folder / "suite"
    shutil.copytree(suite, copy, ignore=shutil.ignore_patterns(".git"))
    for step in (["autoreconf", "-ifs"], ["./configure", "-q"], ["make", "-s", "pjdfstest"]):
        done = subprocess.run(step, cwd=copy, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"posix: {' '.join(step)}: {done.stderr or done.stdout}")
    if not devices:
        for file in (copy / "tests").rglob("*.t"):
            file.write_text(file.read_text().replace(" block char", ""))
    return copy


def _run(file: Path, part: str, where: Path) -> Outcome:
    done = subprocess.run(
        ["sh", str(file)], cwd=where, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    return assertions(done.stdout, part)


@contextlib.contextmanager
def _tmpfs(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nodev", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def _shared(folder: Path) -> Iterator[Path]:
    tree = Tree(folder)
    try:
        tree.mount()
        where = tree / "shared/posix"
        where.mkdir()
        yield where
        tree.unmount()
    finally:
        tree.clean_up()


if __name__ == "__main__":
    sys.exit(main())
