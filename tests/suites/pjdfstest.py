"""pjdfstest: that the calls of POSIX do what it says, as root and as others.

Device files are refused in /shared on purpose, and what follows from that would hide the rest: they
are taken out of the suite's loops, unless they are asked for.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

from tests.suites.outcome import DEVICES, Check, Outcome
from tests.suites.sources import CACHE, built_once, fetched

__all__ = ["URL", "assertions", "built", "parts"]

URL = "https://github.com/pjd/pjdfstest"

SECONDS = 600
"""For one test file, on a busy machine."""

LINE = re.compile(
    r"(?P<failed>not )?ok \d+"
    r"(?: - tried '(?P<tried>.*)', expected (?P<wanted>.*), got (?P<got>.*))?"
)


def assertions(output: str) -> tuple[int, Counter[str]]:
    """How many assertions a test file made, in the Test Anything Protocol, and those that failed,
    by kind. What it calls a known fault of some systems (`# TODO`) is none."""
    count = 0
    failed: Counter[str] = Counter()
    for line in output.splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        count += 1
        if match["failed"] and "# TODO" not in line:
            failed[_kind(match)] += 1
    return count, failed


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


def built(source: str, *, devices: bool) -> Path:
    """A copy of the suite with its program."""
    folder = fetched("pjdfstest", source)
    built_once(folder, [["autoreconf", "-ifs"], ["./configure", "-q"], ["make", "-s", "pjdfstest"]])
    copy = CACHE / f"pjdfstest-{'all' if devices else 'no-devices'}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".git"))
    if not devices:
        for file in (copy / "tests").rglob("*.t"):
            file.write_text(file.read_text().replace(" block char", ""))
    return copy


def parts(copy: Path) -> list[Check]:
    """One check for each directory of tests (chmod, rename …)."""
    folders = sorted(path for path in (copy / "tests").iterdir() if any(path.glob("*.t")))
    return [Check(folder.name, partial(_run, folder), private=True) for folder in folders]


def _run(folder: Path, where: Path) -> Outcome:
    """The figure: how many assertions held."""
    count = 0
    failed: Counter[str] = Counter()
    for file in sorted(folder.glob("*.t")):
        try:
            done = subprocess.run(
                ["sh", str(file)],
                cwd=where,
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            return Outcome.failed(f"{file.name} did not end within {SECONDS} s")
        some, faults = assertions(done.stdout)
        count += some
        devices = any("device file" in kind for kind in faults)  # the others follow from that
        failed += Counter({DEVICES: faults.total()}) if devices else faults
    held = f"{count - failed.total():,}" + (f" of {count:,}" if failed else "")
    return Outcome(held, failed)
