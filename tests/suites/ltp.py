"""Of the Linux Test Project: fsx, fsstress, and its file-system tests (runtest/fs)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.suites.outcome import Check, Outcome
from tests.suites.sources import CACHE, built_once, fetched

__all__ = ["URL", "built", "fsstress", "fsx", "shortened", "tests", "verdict"]

URL = "https://github.com/linux-test-project/ltp"

PARTS = (
    *("testcases/lib", "testcases/kernel/io/writetest"),
    *(
        f"testcases/kernel/fs/{part}"
        for part in (
            *("doio", "fs_di", "fs_inod", "fsstress", "fsx-linux", "ftest", "lftest"),
            *("linktest", "openfile", "racer", "read_all", "stream"),
        )
    ),
)

WANTED = re.compile(
    r"gf\d+|rwtest\d+|iogen\d+|fs_inod\d+|linker\d+|openfile\d+|stream\d+|ftest\d+"
    r"|lftest\d+|writetest\d+|fs_di|fs_racer"
)
"""What works in a directory; the rest of runtest/fs mounts others of its own, or reads /proc."""

SECONDS = 300
"""For one test, on a busy machine."""

SKIPPED = 32
"""The exit code for what cannot be tested here (TCONF)."""

FSX = {
    "fsx": ["-N", "5000"],
    "fsx -r512 -w512 -t4096": ["-N", "5000", "-r", "512", "-w", "512", "-t", "4096"],
    "fsx -l4M -o1M": ["-N", "500", "-l", "4194304", "-o", "1048576"],
}
"""Operations anywhere, at whole sectors, and long ones."""

SEED = "77"


def built(source: str) -> Path:
    """The directory with its programs."""
    folder = fetched("ltp", source)
    prefix = CACHE / "ltp-programs"
    jobs = f"-j{os.cpu_count() or 1}"
    steps = [["make", "autotools"], ["./configure", f"--prefix={prefix}"]]
    steps += [["make", jobs, "-C", "lib"]]
    for part in PARTS:  # in two steps: what installs does not wait for what builds
        steps += [["make", jobs, "-C", part], ["make", "-C", part, "install"]]
    built_once(folder, steps)
    return prefix / "testcases/bin"


def fsx(programs: Path) -> list[Check]:
    """Random reads, writes, maps and truncates of one file, compared with what it must be."""
    words = {name: ["fsx-linux", *more] for name, more in FSX.items()}
    return [Check(name, partial(_run, programs, each)) for name, each in words.items()]


def fsstress(programs: Path) -> list[Check]:
    """Four processes that do every kind of call in one directory; then all is read and removed.
    But for sync(2), which waits for every disk of the machine."""

    def run(where: Path) -> Outcome:
        folder = where / "fsstress"
        words = [
            "fsstress",
            "-c",
            "-f",
            "sync=0",
            "-p",
            "4",
            "-n",
            "1000",
            "-s",
            SEED,
            "-d",
            str(folder),
        ]
        folder.mkdir()
        outcome = _run(programs, words, where)
        try:
            for reader in (["tar", "-cf", "-", "."], ["find", ".", "-ls"]):
                subprocess.run(
                    reader, cwd=folder, stdout=subprocess.DEVNULL, check=True, timeout=SECONDS
                )
            shutil.rmtree(folder)
        except (OSError, subprocess.SubprocessError) as failed:
            return Outcome.failed(f"what it left: {failed}")
        return outcome

    return [Check("fsstress", run)]


def tests(programs: Path, source: Path, seconds: int) -> list[Check]:
    """Those of runtest/fs that are WANTED; each goes on for `seconds` where it says how long."""
    found = []
    for line in (source / "runtest/fs").read_text().splitlines():
        name, _, command = line.replace("\t", " ").partition(" ")
        if WANTED.fullmatch(name):
            words = ["sh", "-c", shortened(command.strip(), seconds)]
            found.append(Check(name, partial(_run, programs, words)))
    return found


def shortened(command: str, seconds: int) -> str:
    """A line of runtest/fs with at most `seconds` where it says more: `-L 20` and `-i 60s` are
    seconds, `-i 500` is a number of times."""
    return re.sub(r"(-L |-i (?=\d+s))(\d+)", lambda m: f"{m[1]}{min(int(m[2]), seconds)}", command)


def verdict(code: int, said: str) -> str:
    """Why a test failed, in its own words; empty if it did not."""
    if code in (0, SKIPPED):
        return ""
    lines = [line for line in said.splitlines() if re.search(r"\b(TFAIL|TBROK|FAIL)\b", line)]
    lines = lines or [line for line in said.splitlines() if line.strip()][-1:]
    return f"ended with {code}: {lines[0].strip() if lines else 'and said nothing'}"


def _run(programs: Path, words: list[str], where: Path) -> Outcome:
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "LTPROOT": str(programs.parents[1]),
        "TMPDIR": str(where),
    }
    began = time.monotonic()
    with subprocess.Popen(
        words,
        cwd=where,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",
        start_new_session=True,
    ) as program:
        try:
            said, _ = program.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            program.send_signal(signal.SIGINT)  # then it ends those that it made groups for
            time.sleep(1)
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.communicate()
            return Outcome.failed(f"did not end within {SECONDS} s")
    if program.returncode == SKIPPED:
        return Outcome.skipped(next(iter(re.findall(r"TCONF: (.*)", said)), "not supported here"))
    why = verdict(program.returncode, said)
    return Outcome.failed(why) if why else Outcome(f"{time.monotonic() - began:.2f} s")
