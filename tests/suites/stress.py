"""File-system stressors of stress-ng, each with --verify."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

from tests.suites.outcome import FALLOCATE, Check, Outcome

__all__ = ["STRESSORS", "outcome", "stressors"]

STRESSORS = (
    *("access", "chattr", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep"),
    *("dup", "fallocate", "fcntl", "fiemap", "filename", "flock", "fpunch", "fsize", "fstat"),
    *("getdent", "handle", "hdd", "iomix", "link", "locka", "lockf", "lockmix", "lockofd"),
    *("mknod", "mmap", "msync", "open", "readahead", "rename", "revio", "seek", "symlink"),
    *("sync-file", "touch", "utime", "verity", "xattr"),
)

GRACE = 60
"""Seconds beyond its own that a stressor may need to end on a busy machine."""


EMULATED = "fsize: fallocate unexpectedly succeeded"


def outcome(stressor: str, code: int, said: str) -> Outcome:
    """Read the output of `stress-ng --verify --metrics-brief --STRESSOR 1`, which ended with
    `code`. The figure: operations a second of real time."""
    faults = re.findall(r"^stress-ng: (?:fail|error): +\[\d+\] (.*)", said, re.MULTILINE)
    skipped = re.search(r"^stress-ng: \w+ *: +\[\d+\] (.*skipp.*)", said, re.MULTILINE)
    if re.search(r"unrecognized option|unknown option", said):
        return Outcome.skipped("this release of stress-ng does not know it")
    if code in (3, 4) or (skipped and not faults):
        return Outcome.skipped(skipped[1] if skipped else "not supported here")
    if code or faults:
        if faults and faults[0].startswith(EMULATED):
            return Outcome("known", Counter([FALLOCATE]), faults[0])
        return Outcome.failed(faults[0] if faults else f"ended with {code}")
    figure = re.search(
        rf"^stress-ng: metrc: \[\d+\] {stressor} +\d+ +\S+ +\S+ +\S+ +(\S+)", said, re.MULTILINE
    )
    return Outcome(f"{float(figure[1]) if figure else 0.0:,.0f}/s")


def stressors(seconds: int, only: frozenset[str]) -> list[Check]:
    """One check for each of STRESSORS, or for any that are named."""
    names = [name for name in STRESSORS if name in only or not only]
    names += sorted(only - set(names))
    return [Check(name, partial(_run, name, seconds)) for name in names]


def _run(stressor: str, seconds: int, where: Path) -> Outcome:
    command = ["stress-ng", "--verify", "--metrics-brief", "--temp-path", str(where)]
    command += ["--timeout", str(seconds), f"--{stressor}", "1"]
    try:
        done = subprocess.run(
            command, cwd=where, capture_output=True, text=True, check=False, timeout=seconds + GRACE
        )
    except subprocess.TimeoutExpired:
        return Outcome.failed(f"did not end within {seconds + GRACE} s")
    return outcome(stressor, done.returncode, done.stdout + done.stderr)
