"""`./run suites [STRESSOR…]`: file-system stressors of stress-ng, which others wrote, on each side.

The baseline is a tmpfs; /shared and an agent's memory/ stand beside it. STRESSOR is a name as
`stress-ng --help` has it (default: those of files, directories, locks and attributes). Each runs
with --verify on one side after the other, for --seconds, and prints the operations a second there,
or what came of it. 0 if nothing fails on ours that does not fail on tmpfs. A stressor that the
installed release does not know, or that a side has no calls for, is skipped in words. What else of
others is run: `./run posix` for pjdfstest.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.tree import Tree

__all__ = ["Outcome", "main", "outcome"]

BASELINE = "tmpfs"

STRESSORS = (
    *("access", "chattr", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep"),
    *("dup", "fallocate", "fcntl", "fiemap", "filename", "flock", "fpunch", "fsize", "fstat"),
    *("getdent", "handle", "hdd", "iomix", "link", "locka", "lockf", "lockmix", "lockofd"),
    *("mknod", "mmap", "msync", "open", "readahead", "rename", "revio", "seek", "symlink"),
    *("sync-file", "touch", "utime", "verity", "xattr"),
)

GRACE = 60
"""Seconds beyond its own that a stressor may need to end on a busy machine."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stressor came to: `kind` is ok, skipped or failed; `rate` is operations a second of
    real time, `words` why it is not ok."""

    kind: str
    rate: float = 0.0
    words: str = ""

    def __str__(self) -> str:
        return f"{self.rate:,.0f}" if self.kind == "ok" else self.kind


def outcome(stressor: str, code: int, said: str) -> Outcome:
    """Read the output of `stress-ng --verify --metrics-brief --STRESSOR 1`, which ended with
    `code`."""
    faults = re.findall(r"^stress-ng: (?:fail|error): +\[\d+\] (.*)", said, re.MULTILINE)
    skipped = re.search(r"^stress-ng: \w+ *: +\[\d+\] (.*skipp.*)", said, re.MULTILINE)
    if re.search(r"unrecognized option|unknown option", said):
        return Outcome("skipped", words="this release of stress-ng does not know it")
    if code in (3, 4) or (skipped and not faults):
        return Outcome("skipped", words=skipped[1] if skipped else "not supported here")
    if code or faults:
        return Outcome("failed", words=faults[0] if faults else f"ended with {code}")
    figure = re.search(
        rf"^stress-ng: metrc: \[\d+\] {stressor} +\d+ +\S+ +\S+ +\S+ +(\S+)", said, re.MULTILINE
    )
    return Outcome("ok", float(figure[1]) if figure else 0.0)


def main(arguments: list[str] | None = None) -> int:
    """0 if nothing fails on ours that does not fail on the baseline."""
    parser = argparse.ArgumentParser(
        prog="./run suites",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stressors", nargs="*", metavar="STRESSOR", help="see above")
    parser.add_argument("--seconds", type=int, default=2, help="of each on each side; default: 2")
    given = parser.parse_args(arguments)
    if not shutil.which("stress-ng"):
        raise SystemExit("suites: stress-ng is not installed")
    with (
        tempfile.TemporaryDirectory(prefix="agentfs-suites-") as name,
        contextlib.ExitStack() as end,
    ):
        sides = {
            BASELINE: end.enter_context(_tmpfs(Path(name) / "baseline")),
            **end.enter_context(_ours(Path(name) / "agentfs")),
        }
        print(f"{'operations a second':<20}" + "".join(f"{side:>12}" for side in sides))
        alone = 0
        for stressor in given.stressors or STRESSORS:
            found = {side: _run(stressor, where, given.seconds) for side, where in sides.items()}
            print(f"{stressor:<20}" + "".join(f"{found[side]!s:>12}" for side in sides), flush=True)
            for side, one in found.items():
                if one.words and (side == BASELINE or one != found[BASELINE]):
                    print(f"    {side}: {one.words}")
            failed = [side for side, one in found.items() if one.kind == "failed"]
            alone += bool(failed) and BASELINE not in failed
    print(f"{alone} failed on ours alone")
    return 1 if alone else 0


def _run(stressor: str, where: Path, seconds: int) -> Outcome:
    command = ["stress-ng", "--verify", "--metrics-brief", "--temp-path", str(where)]
    command += ["--timeout", str(seconds), f"--{stressor}", "1"]
    try:
        done = subprocess.run(
            command, cwd=where, capture_output=True, text=True, check=False, timeout=seconds + GRACE
        )
    except subprocess.TimeoutExpired:
        return Outcome("failed", words=f"did not end within {seconds + GRACE} s")
    return outcome(stressor, done.returncode, done.stdout + done.stderr)


@contextlib.contextmanager
def _tmpfs(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def _ours(folder: Path) -> Iterator[dict[str, Path]]:
    tree = Tree(folder)
    try:
        tree.mount()
        (tree / "agents/suite").mkdir()
        yield {"/shared": tree / "shared", "memory/": tree / "agents/suite/memory"}
        tree.unmount()
    finally:
        tree.clean_up()


if __name__ == "__main__":
    sys.exit(main())
